// One panel of a few rows of W' = round(W + s·B·A), in binary64 as it is defined, for each instruction set. The paths differ in
// how many elements they compute side by side; nothing may be contracted except where the product is known to be exact.
#pragma once

#include "merge_elements.h"
#include "oplora_merge.h"

#include <stddef.h>
#include <string.h>

#pragma STDC FP_CONTRACT OFF

enum { panel = oplora_merge_panel };

// The sums of a row run in eight lanes (lane j takes the columns i ≡ j mod 8), so that wide and narrow code agree.
struct lanes {
    double update[8];
    double change[8];
};

// MARK: The portable path: one row of one panel at a time

static void portable_products(const oplora_merge_factors *factors, size_t row, size_t p, double acc[panel]) {
    const double *a = factors->a + p * factors->rank * panel, *b = factors->b + row * factors->rank;
    for (int i = 0; i < panel; i++) acc[i] = 0;
    for (size_t k = 0; k < factors->rank; k++)
        for (int i = 0; i < panel; i++) {
            double product = b[k] * a[k * panel + i];
            acc[i] = acc[i] + product;
        }
}

static void portable_panel(const void *weights, enum oplora_element weight_type, void *merged, enum oplora_element merged_type, size_t row, size_t p,
                           const oplora_merge_factors *factors, size_t factor_count, struct lanes *lanes, int *not_finite) {
    double y[panel], d[panel], acc[panel];
    for (int i = 0; i < panel; i++) {
        y[i] = widen_one(weights, weight_type, (size_t)i);
        d[i] = 0;
    }
    for (size_t f = 0; f < factor_count; f++) {
        portable_products(&factors[f], row, p, acc);
        for (int i = 0; i < panel; i++) {
            double update = factors[f].scale * acc[i];
            y[i] = y[i] + update;
            d[i] = d[i] + update;
        }
    }
    for (int i = 0; i < panel; i++) {
        narrow_one(y[i], merged, merged_type, (size_t)i);
        double stored = widen_one(merged, merged_type, (size_t)i);
        *not_finite |= !is_finite(stored);
        if (!factor_count) continue;
        double square = d[i] * d[i];
        double change = d[i] * (stored - widen_one(weights, weight_type, (size_t)i));
        lanes->update[i & 7] = lanes->update[i & 7] + square;
        lanes->change[i & 7] = lanes->change[i & 7] + change;
    }
}

static void portable_tile(const char *weights, enum oplora_element weight_type, char *merged,
                          enum oplora_element merged_type, size_t rows, size_t columns, size_t row,
                          size_t p, const oplora_merge_factors *factors, size_t factor_count, struct lanes *lanes, int *not_finite) {
    for (size_t r = 0; r < rows; r++)
        portable_panel(weights + r * columns * element_size(weight_type), weight_type, merged + r * columns * element_size(merged_type),
                       merged_type, row + r, p, factors, factor_count, &lanes[r], not_finite);
}

// MARK: The wide paths

#if defined(__x86_64__)
#include <immintrin.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)

ALWAYS_INLINE void widen_floats(__m256 low, __m256 high, __m256d wide[4]) {
    wide[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(low));
    wide[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(low, 1));
    wide[2] = _mm256_cvtps_pd(_mm256_castps256_ps128(high));
    wide[3] = _mm256_cvtps_pd(_mm256_extractf128_ps(high, 1));
}

// Sixteen elements, widened to binary64.
ALWAYS_INLINE void widen_16(const void *source, enum oplora_element type, __m256d wide[4]) {
    switch (type) {
    case oplora_element_f32: widen_floats(_mm256_loadu_ps(source), _mm256_loadu_ps((const float *)source + 8), wide); break;
    case oplora_element_bf16: {
        __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(source));
        __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)source + 1));
        widen_floats(_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16)), wide);
        break;
    }
    case oplora_element_f16:
        widen_floats(_mm256_cvtph_ps(_mm_loadu_si128(source)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)source + 1)), wide);
        break;
    default:
        for (int q = 0; q < 4; q++) wide[q] = _mm256_loadu_pd((const double *)source + 4 * q);
    }
}

// Four numbers rounded to binary32 so that a second rounding, to fewer bits, gives what one rounding from binary64 would
// ("round to odd"): an inexact result takes the neighbour whose last bit is one. binary32 has more than two bits beyond
// either 16-bit type, at every magnitude that such a type can tell from zero.
ALWAYS_INLINE __m128i round_to_odd(__m256d y) {
    __m128 nearest = _mm256_cvtpd_ps(y);
    __m128i bits = _mm_castps_si128(nearest);
    __m256d back = _mm256_cvtps_pd(nearest);
    const __m256d magnitude = _mm256_castsi256_pd(_mm256_set1_epi64x(0x7fffffffffffffff));
    __m256d size = _mm256_and_pd(y, magnitude), back_size = _mm256_and_pd(back, magnitude);
    // All ones, that is -1, where the nearest number lies below, above.
    __m256 below = _mm256_castpd_ps(_mm256_cmp_pd(back_size, size, _CMP_LT_OQ));
    __m256 above = _mm256_castpd_ps(_mm256_cmp_pd(back_size, size, _CMP_GT_OQ));
    __m128i low = _mm_castps_si128(_mm_shuffle_ps(_mm256_castps256_ps128(below), _mm256_extractf128_ps(below, 1), 0x88));
    __m128i high = _mm_castps_si128(_mm_shuffle_ps(_mm256_castps256_ps128(above), _mm256_extractf128_ps(above, 1), 0x88));
    // One step up where it lies below, one down where it lies above; none where its last bit is one already.
    __m128i step = _mm_sub_epi32(high, low);
    __m128i even = _mm_cmpeq_epi32(_mm_and_si128(bits, _mm_set1_epi32(1)), _mm_setzero_si128());
    return _mm_add_epi32(bits, _mm_and_si128(step, even));
}

ALWAYS_INLINE __m256i pack_words(__m256i first, __m256i second) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xd8);
}

// Sixteen numbers rounded to BF16, whatever they are, in order.
ALWAYS_INLINE __m256i round_bf16_any(const __m256d y[4]) {
    __m256i words[2];
    for (int half = 0; half < 2; half++) {
        __m256i odd = _mm256_set_m128i(round_to_odd(y[2 * half + 1]), round_to_odd(y[2 * half]));
        __m256i last = _mm256_and_si256(_mm256_srli_epi32(odd, 16), _mm256_set1_epi32(1));
        __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(odd, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff))), 16);
        // A NaN stays one, whatever its bits were.
        __m256i size = _mm256_and_si256(odd, _mm256_set1_epi32(0x7fffffff));
        __m256i nan = _mm256_cmpgt_epi32(size, _mm256_set1_epi32(0x7f800000));
        words[half] = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    }
    return pack_words(words[0], words[1]);
}

// The same for numbers whose result is a normal BF16, from their upper halves: sign, eleven bits of exponent, twenty of
// fraction, and the lower half folded into the last bit. `fits` is cleared when one of them is of another kind.
ALWAYS_INLINE __m256i round_bf16_normal(__m256d first, __m256d second, __m256i *fits) {
    __m256 a = _mm256_castpd_ps(first), b = _mm256_castpd_ps(second);
    __m256i upper = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)), lower = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    __m256i size = _mm256_and_si256(upper, _mm256_set1_epi32(0x7fffffff));
    // Adding one where the lower half is not zero marks what was dropped: thirteen bits go, and this is the last of them.
    __m256i exact = _mm256_cmpeq_epi32(lower, _mm256_setzero_si256());
    size = _mm256_or_si256(size, _mm256_andnot_si256(exact, _mm256_set1_epi32(1)));
    __m256i last = _mm256_and_si256(_mm256_srli_epi32(size, 13), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(size, _mm256_add_epi32(last, _mm256_set1_epi32(0xfff))), 13);
    rounded = _mm256_sub_epi32(rounded, _mm256_set1_epi32(896 << 7));
    __m256i inside = _mm256_and_si256(_mm256_cmpgt_epi32(rounded, _mm256_set1_epi32(0x7f)),
                                      _mm256_cmpgt_epi32(_mm256_set1_epi32(0x7f80), rounded));
    *fits = _mm256_and_si256(*fits, inside);
    __m256i sign = _mm256_and_si256(_mm256_srli_epi32(upper, 16), _mm256_set1_epi32(0x8000));
    return _mm256_or_si256(rounded, sign);
}

ALWAYS_INLINE __m256i round_bf16(const __m256d y[4]) {
    __m256i fits = _mm256_set1_epi32(-1);
    __m256i first = round_bf16_normal(y[0], y[1], &fits), second = round_bf16_normal(y[2], y[3], &fits);
    if (__builtin_expect(_mm256_movemask_epi8(fits) != -1, 0)) return round_bf16_any(y);
    // The shuffles left pairs of elements in the order 0 2 4 6 | 1 3 5 7.
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi32(first, second), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

ALWAYS_INLINE int any_top_exponent(__m256i words, short top) {
    __m256i exponents = _mm256_and_si256(words, _mm256_set1_epi16(top));
    return _mm256_movemask_epi8(_mm256_cmpeq_epi16(exponents, _mm256_set1_epi16(top)));
}

// Rounds and stores sixteen elements and leaves in `y` what was stored. Not zero when one of them is not finite.
ALWAYS_INLINE int narrow_16_wide(__m256d y[4], void *target, enum oplora_element type) {
    switch (type) {
    case oplora_element_f32: {
        __m256 low = _mm256_set_m128(_mm256_cvtpd_ps(y[1]), _mm256_cvtpd_ps(y[0]));
        __m256 high = _mm256_set_m128(_mm256_cvtpd_ps(y[3]), _mm256_cvtpd_ps(y[2]));
        _mm256_storeu_ps(target, low);
        _mm256_storeu_ps((float *)target + 8, high);
        const __m256i top = _mm256_set1_epi32(0x7f800000);
        __m256i a = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(low), top), top);
        __m256i b = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(high), top), top);
        widen_floats(low, high, y);
        return _mm256_movemask_epi8(_mm256_or_si256(a, b));
    }
    case oplora_element_bf16: {
        __m256i words = round_bf16(y);
        _mm256_storeu_si256(target, words);
        __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words));
        __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1));
        widen_floats(_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16)), y);
        return any_top_exponent(words, 0x7f80);
    }
    case oplora_element_f16: {
        __m256 low = _mm256_castsi256_ps(_mm256_set_m128i(round_to_odd(y[1]), round_to_odd(y[0])));
        __m256 high = _mm256_castsi256_ps(_mm256_set_m128i(round_to_odd(y[3]), round_to_odd(y[2])));
        __m128i first = _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT), second = _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(target, first);
        _mm_storeu_si128((__m128i *)target + 1, second);
        widen_floats(_mm256_cvtph_ps(first), _mm256_cvtph_ps(second), y);
        return any_top_exponent(_mm256_set_m128i(second, first), 0x7c00);
    }
    default: {
        const __m256i top = _mm256_set1_epi64x(0x7ff0000000000000);
        __m256i found = _mm256_setzero_si256();
        for (int q = 0; q < 4; q++) {
            _mm256_storeu_pd((double *)target + 4 * q, y[q]);
            found = _mm256_or_si256(found, _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_castpd_si256(y[q]), top), top));
        }
        return _mm256_movemask_epi8(found);
    }
    }
}

// acc [ROWS,8] for one half of a panel; the rows of B are `rank` apart. Six rows by eight columns take twelve of the sixteen
// registers, which leaves room for a line of A and a factor of B.
#define PRODUCTS_AVX2(ROWS, STEP)                                                                                                      \
    do {                                                                                                                               \
        __m256d sum[ROWS][2];                                                                                                          \
        for (int r = 0; r < ROWS; r++) sum[r][0] = sum[r][1] = _mm256_setzero_pd();                                                    \
        for (size_t k = 0; k < rank; k++) {                                                                                            \
            const __m256d low = _mm256_loadu_pd(a + k * panel + column), high = _mm256_loadu_pd(a + k * panel + column + 4);           \
            for (int r = 0; r < ROWS; r++) {                                                                                           \
                const __m256d factor = _mm256_broadcast_sd(b + (row + (size_t)r) * rank + k);                                          \
                sum[r][0] = STEP(factor, low, sum[r][0]);                                                                              \
                sum[r][1] = STEP(factor, high, sum[r][1]);                                                                             \
            }                                                                                                                          \
        }                                                                                                                              \
        for (int r = 0; r < ROWS; r++) {                                                                                               \
            _mm256_storeu_pd(acc[r] + column, sum[r][0]);                                                                              \
            _mm256_storeu_pd(acc[r] + column + 4, sum[r][1]);                                                                          \
        }                                                                                                                              \
    } while (0)

#define SEPARATE_AVX2(x, y, z) _mm256_add_pd(_mm256_mul_pd(x, y), z)

#define TILE_ROWS 6

ALWAYS_INLINE void products_avx2(const oplora_merge_factors *factors, size_t rows, size_t row, size_t p, double acc[][panel]) {
    const size_t rank = factors->rank;
    const double *a = factors->a + p * rank * panel, *b = factors->b;
    if (factors->products_are_exact && rows == TILE_ROWS) {
        for (int column = 0; column < panel; column += 8) PRODUCTS_AVX2(TILE_ROWS, _mm256_fmadd_pd);
        return;
    }
    for (; rows > 0; rows--, row++, acc++)
        for (int column = 0; column < panel; column += 8)
            if (factors->products_are_exact)
                PRODUCTS_AVX2(1, _mm256_fmadd_pd);
            else
                PRODUCTS_AVX2(1, SEPARATE_AVX2);
}

// One row of one panel: `y` is rounded and stored, `d` (the whole update) goes into the sums, if there are any to keep.
ALWAYS_INLINE void finish_row(const void *weights, enum oplora_element weight_type, void *merged,
                              enum oplora_element merged_type, __m256d y[4], const __m256d d[4],
                              struct lanes *lanes, int *not_finite) {
    __m256d weight[4];
    *not_finite |= narrow_16_wide(y, merged, merged_type);
    if (!lanes) return;
    widen_16(weights, weight_type, weight);
    for (int half = 0; half < 2; half++) {
        __m256d update = _mm256_loadu_pd(lanes->update + 4 * half), change = _mm256_loadu_pd(lanes->change + 4 * half);
        for (int q = half; q < 4; q += 2) {
            update = _mm256_add_pd(update, _mm256_mul_pd(d[q], d[q]));
            change = _mm256_add_pd(change, _mm256_mul_pd(d[q], _mm256_sub_pd(y[q], weight[q])));
        }
        _mm256_storeu_pd(lanes->update + 4 * half, update);
        _mm256_storeu_pd(lanes->change + 4 * half, change);
    }
}

// One panel of up to six rows. The types are constants where it is inlined.
#define WIDE_TILE(PRODUCTS)                                                                                                            \
    double acc[TILE_ROWS][panel];                                                                                                      \
    const size_t weight_stride = columns * element_size(weight_type), merged_stride = columns * element_size(merged_type);             \
    if (factor_count == 1) {                                                                                                           \
        const __m256d scale = _mm256_set1_pd(factors->scale);                                                                          \
        PRODUCTS(factors, rows, row, p, acc);                                                                                          \
        for (size_t r = 0; r < rows; r++) {                                                                                            \
            __m256d y[4], d[4];                                                                                                        \
            widen_16(weights + r * weight_stride, weight_type, y);                                                                     \
            for (int q = 0; q < 4; q++) {                                                                                              \
                d[q] = _mm256_mul_pd(scale, _mm256_loadu_pd(acc[r] + 4 * q));                                                          \
                y[q] = _mm256_add_pd(y[q], d[q]);                                                                                      \
            }                                                                                                                          \
            finish_row(weights + r * weight_stride, weight_type, merged + r * merged_stride, merged_type, y, d, &lanes[r], not_finite);\
        }                                                                                                                              \
        return;                                                                                                                        \
    }                                                                                                                                  \
    __m256d y[TILE_ROWS][4], d[TILE_ROWS][4];                                                                                          \
    for (size_t r = 0; r < rows; r++) {                                                                                                \
        widen_16(weights + r * weight_stride, weight_type, y[r]);                                                                      \
        for (int q = 0; q < 4; q++) d[r][q] = _mm256_setzero_pd();                                                                     \
    }                                                                                                                                  \
    for (size_t f = 0; f < factor_count; f++) {                                                                                        \
        const __m256d scale = _mm256_set1_pd(factors[f].scale);                                                                        \
        PRODUCTS(&factors[f], rows, row, p, acc);                                                                                      \
        for (size_t r = 0; r < rows; r++)                                                                                              \
            for (int q = 0; q < 4; q++) {                                                                                              \
                __m256d update = _mm256_mul_pd(scale, _mm256_loadu_pd(acc[r] + 4 * q));                                                \
                y[r][q] = _mm256_add_pd(y[r][q], update);                                                                              \
                d[r][q] = _mm256_add_pd(d[r][q], update);                                                                              \
            }                                                                                                                          \
    }                                                                                                                                  \
    for (size_t r = 0; r < rows; r++)                                                                                                  \
        finish_row(weights + r * weight_stride, weight_type, merged + r * merged_stride, merged_type, y[r], d[r],                      \
                   factor_count ? &lanes[r] : NULL, not_finite)

#define TILE_PARAMETERS                                                                                                                \
    const char *weights, enum oplora_element weight_type, char *merged, enum oplora_element merged_type,                                   \
        size_t rows, size_t columns, size_t row, size_t p,                                                                                 \
        const oplora_merge_factors *factors, size_t factor_count, struct lanes *lanes, int *not_finite

#define TILE_ARGUMENTS(WEIGHT, MERGED)                                                                                                 \
    weights, WEIGHT, merged, MERGED, rows, columns, row, p, factors, factor_count, lanes, not_finite

ALWAYS_INLINE void tile_avx2_typed(TILE_PARAMETERS) { WIDE_TILE(products_avx2); }

// The stored types in use are nearly always the same on both sides; those get code of their own.
static void tile_avx2(TILE_PARAMETERS) {
    if (weight_type == oplora_element_bf16 && merged_type == oplora_element_bf16)
        tile_avx2_typed(TILE_ARGUMENTS(oplora_element_bf16, oplora_element_bf16));
    else if (weight_type == oplora_element_f16 && merged_type == oplora_element_f16)
        tile_avx2_typed(TILE_ARGUMENTS(oplora_element_f16, oplora_element_f16));
    else if (weight_type == oplora_element_f32 && merged_type == oplora_element_f32)
        tile_avx2_typed(TILE_ARGUMENTS(oplora_element_f32, oplora_element_f32));
    else
        tile_avx2_typed(TILE_ARGUMENTS(weight_type, merged_type));
}
#pragma clang attribute pop

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), apply_to = function)

#define PRODUCTS_AVX512(ROWS)                                                                                                          \
    do {                                                                                                                               \
        __m512d sum[ROWS][2];                                                                                                          \
        for (int r = 0; r < ROWS; r++) sum[r][0] = sum[r][1] = _mm512_setzero_pd();                                                    \
        for (size_t k = 0; k < rank; k++) {                                                                                            \
            const __m512d low = _mm512_loadu_pd(a + k * panel), high = _mm512_loadu_pd(a + k * panel + 8);                             \
            for (int r = 0; r < ROWS; r++) {                                                                                           \
                const __m512d factor = _mm512_set1_pd(b[(size_t)r * rank + k]);                                                        \
                sum[r][0] = _mm512_fmadd_pd(factor, low, sum[r][0]);                                                                   \
                sum[r][1] = _mm512_fmadd_pd(factor, high, sum[r][1]);                                                                  \
            }                                                                                                                          \
        }                                                                                                                              \
        for (int r = 0; r < ROWS; r++) {                                                                                               \
            _mm512_storeu_pd(acc[r], sum[r][0]);                                                                                       \
            _mm512_storeu_pd(acc[r] + 8, sum[r][1]);                                                                                   \
        }                                                                                                                              \
    } while (0)

ALWAYS_INLINE void products_avx512(const oplora_merge_factors *factors, size_t rows, size_t row, size_t p, double acc[][panel]) {
    const size_t rank = factors->rank;
    const double *a = factors->a + p * rank * panel, *b = factors->b + row * rank;
    if (factors->products_are_exact && rows == TILE_ROWS)
        PRODUCTS_AVX512(TILE_ROWS);
    else
        products_avx2(factors, rows, row, p, acc);
}

ALWAYS_INLINE void tile_avx512_typed(TILE_PARAMETERS) { WIDE_TILE(products_avx512); }

static void tile_avx512(TILE_PARAMETERS) {
    if (weight_type == oplora_element_bf16 && merged_type == oplora_element_bf16)
        tile_avx512_typed(TILE_ARGUMENTS(oplora_element_bf16, oplora_element_bf16));
    else
        tile_avx512_typed(TILE_ARGUMENTS(weight_type, merged_type));
}
#pragma clang attribute pop
#else
#define TILE_ROWS 6
#endif
