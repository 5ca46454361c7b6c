// One adapter in BF16, by far the most frequent merge, at twice the width: an estimate in binary32 with a bound on its error
// decides how nearly every element rounds; the few near the middle of two BF16 numbers are computed in binary64 as defined.
//
//     acc~ = fma chain over k ascending in binary32, from +0         d~ = float(s)·acc~         y~ = W + d~
//
// With u = 2^-24 and S = Σ |B[o,k]|·|A[k,i]|, which is at most ‖B[o]‖·‖A[,i]‖: the chain is off by at most γ_r·S (γ_r = r·u /
// (1 − r·u)), the scale and the product with it by 2u more, so d~ is off by less than e = (r + 4)·u·1.01·|s|·‖B[o]‖·‖A[,i]‖,
// and by 2^-100 where anything underflows. W is exact. Hence y, as it is defined in binary64, lies between |y~| − e and |y~| + e
// but for the roundings of that sum and of these two, together less than two steps of binary32. Where both ends, two steps
// further out, round to the same BF16 number (halves upward), so does y: it lies above the lower end, hence above the half
// below that number, and below the half above it. Where the ends have different signs, or more than one exponent lies between
// them, they round differently.
//
// d~ is the same on every path, and the sums of a block are made from it.
#pragma once

#include "merge_tiles.h"

#include <math.h>

enum {
    // Rows that are computed at once, and that the B of a run is laid out for.
    run_rows = 12,
    // Panels of them that are computed before any is rounded, row by row: rows whose distance is a power of two would drive each
    // other out of the cache.
    run_panels = 16,
};

// Beyond this rank the bound is of little use, and B would need much of the stack.
enum { estimate_rank = 256 };

// Sums of a row over some panels: lane j takes the columns i ≡ j mod 16.
struct float_lanes {
    float update[panel];
    float change[panel];
};

// B [rank, run_rows] of up to `run_rows` rows from `row` on, in binary32; rows that there are not are zero.
static void pack_rows(const oplora_merge_factors *factors, size_t rows, size_t row, float *packed) {
    const size_t rank = factors->rank;
    const double *b = factors->b + row * rank;
    for (size_t r = 0; r < run_rows; r++)
#pragma clang loop vectorize(disable)
        for (size_t k = 0; k < rank; k++) packed[k * run_rows + r] = r < rows ? (float)b[r * rank + k] : 0;
}

// At most `run_panels` panels first..<end of up to `run_rows` rows. `weights` and `merged` point at row `row` and at column 0 of
// panel `first`; `b` is what `pack_rows` made of these rows.
#define RUN_PARAMETERS                                                                                    \
    const char *weights, char *merged, size_t rows, size_t columns, size_t row, size_t first, size_t end, \
        const oplora_merge_factors *factors, const float *b, struct float_lanes *lanes, int *not_finite

static void portable_run(RUN_PARAMETERS) {
    const size_t rank = factors->rank;
    const float scale = (float)factors->scale;
    for (size_t r = 0; r < rows; r++)
        for (size_t p = first; p < end; p++) {
            const float *a = factors->a_floats + p * rank * panel;
            const size_t start = r * columns + (p - first) * panel;
            struct lanes unused;
            memset(&unused, 0, sizeof unused);
            portable_panel(weights + 2 * start, oplora_element_bf16, merged + 2 * start, oplora_element_bf16, row + r, p, factors, 1, &unused,
                           not_finite);
            for (int i = 0; i < panel; i++) {
                float acc = 0;
                for (size_t k = 0; k < rank; k++) acc = fmaf(b[k * run_rows + r], a[k * panel + (size_t)i], acc);
                const float d = scale * acc;
                const float before = (float)widen_one(weights, oplora_element_bf16, start + (size_t)i);
                const float stored = (float)widen_one(merged, oplora_element_bf16, start + (size_t)i);
                lanes[r].update[i] = fmaf(d, d, lanes[r].update[i]);
                lanes[r].change[i] = fmaf(d, stored - before, lanes[r].change[i]);
            }
        }
}

#if defined(__x86_64__)

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)

// One row of one panel as it is defined.
__attribute__((noinline)) static void exact_panel(const char *weights, char *merged, size_t row, size_t p, const oplora_merge_factors *factors,
                                                  int *not_finite) {
    struct lanes unused;
    memset(&unused, 0, sizeof unused);
    tile_avx2_typed(weights, oplora_element_bf16, merged, oplora_element_bf16, 1, panel, row, p, factors, 1, &unused, not_finite);
}

ALWAYS_INLINE __m256 widen_bf16_8(__m128i words) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16)); }

// Eight elements: what they are rounded to goes into `stored`; returns zero where the ends of one round differently.
ALWAYS_INLINE int estimate_8(__m256 weight, __m256 d, __m256 error, __m256 *stored) {
    const __m256 sign = _mm256_castsi256_ps(_mm256_set1_epi32((int)0x80000000));
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    const __m256 y = _mm256_add_ps(weight, d), magnitude = _mm256_andnot_ps(sign, y);
    const __m256i low = _mm256_and_si256(_mm256_add_epi32(_mm256_castps_si256(_mm256_sub_ps(magnitude, error)), _mm256_set1_epi32(0x7ffe)), upper);
    const __m256i high = _mm256_and_si256(_mm256_add_epi32(_mm256_castps_si256(_mm256_add_ps(magnitude, error)), _mm256_set1_epi32(0x8002)), upper);
    *stored = _mm256_or_ps(_mm256_castsi256_ps(high), _mm256_and_ps(y, sign));
    // Infinite or NaN: as a signed integer not below infinity's, or negative.
    const __m256i fits = _mm256_and_si256(_mm256_cmpeq_epi32(low, high), _mm256_cmpgt_epi32(_mm256_set1_epi32(0x7f800000), high));
    return _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_andnot_si256(high, fits))) == 0xff;
}

// acc~ [COUNT, 16] of one panel of the rows from `from` on.
#define CHAINS_AVX2(from, COUNT)                                                                            \
    {                                                                                                       \
        __m256 acc[COUNT][2];                                                                               \
        for (int r = 0; r < COUNT; r++) acc[r][0] = acc[r][1] = _mm256_setzero_ps();                        \
        for (size_t k = 0; k < rank; k++) {                                                                 \
            const __m256 left = _mm256_loadu_ps(a + k * panel), right = _mm256_loadu_ps(a + k * panel + 8); \
            for (int r = 0; r < COUNT; r++) {                                                               \
                const __m256 factor = _mm256_broadcast_ss(b + k * run_rows + from + r);                     \
                acc[r][0] = _mm256_fmadd_ps(factor, left, acc[r][0]);                                       \
                acc[r][1] = _mm256_fmadd_ps(factor, right, acc[r][1]);                                      \
            }                                                                                               \
        }                                                                                                   \
        for (int r = 0; r < COUNT; r++) {                                                                   \
            _mm256_store_ps(chains[from + r][p - first], acc[r][0]);                                        \
            _mm256_store_ps(chains[from + r][p - first] + 8, acc[r][1]);                                    \
        }                                                                                                   \
    }

static void run_avx2(RUN_PARAMETERS) {
    const size_t rank = factors->rank;
    _Alignas(64) float chains[run_rows][run_panels][panel];
    for (size_t p = first; p < end; p++) {
        const float *a = factors->a_floats + p * rank * panel;
        for (int from = 0; from < run_rows; from += run_rows / 2) CHAINS_AVX2(from, run_rows / 2)
    }
    const __m256 scale = _mm256_set1_ps((float)factors->scale), least = _mm256_set1_ps(0x1p-100f);
    for (size_t r = 0; r < rows; r++) {
        const __m256 row_error = _mm256_set1_ps(factors->row_errors[row + r]);
        __m256 update[2], change[2];
        for (int q = 0; q < 2; q++) {
            update[q] = _mm256_loadu_ps(lanes[r].update + 8 * q);
            change[q] = _mm256_loadu_ps(lanes[r].change + 8 * q);
        }
        for (size_t p = first; p < end; p++) {
            const char *source = weights + 2 * (r * columns + (p - first) * panel);
            char *target = merged + 2 * (r * columns + (p - first) * panel);
            __m256 weight[2], d[2], stored[2];
            int fits = 1;
            for (int q = 0; q < 2; q++) {
                weight[q] = widen_bf16_8(_mm_loadu_si128((const __m128i *)source + q));
                d[q] = _mm256_mul_ps(scale, _mm256_load_ps(chains[r][p - first] + 8 * q));
                const __m256 norms = _mm256_loadu_ps(factors->column_norms + p * panel + 8 * q);
                fits &= estimate_8(weight[q], d[q], _mm256_fmadd_ps(row_error, norms, least), &stored[q]);
            }
            const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(stored[0]), 16), high = _mm256_srli_epi32(_mm256_castps_si256(stored[1]), 16);
            _mm256_storeu_si256((__m256i *)target, pack_words(low, high));
            if (__builtin_expect(!fits, 0)) {
                exact_panel(source, target, row + r, p, factors, not_finite);
                for (int q = 0; q < 2; q++) stored[q] = widen_bf16_8(_mm_loadu_si128((const __m128i *)target + q));
            }
            for (int q = 0; q < 2; q++) {
                update[q] = _mm256_fmadd_ps(d[q], d[q], update[q]);
                change[q] = _mm256_fmadd_ps(d[q], _mm256_sub_ps(stored[q], weight[q]), change[q]);
            }
        }
        for (int q = 0; q < 2; q++) {
            _mm256_storeu_ps(lanes[r].update + 8 * q, update[q]);
            _mm256_storeu_ps(lanes[r].change + 8 * q, change[q]);
        }
    }
}
#pragma clang attribute pop

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), apply_to = function)

ALWAYS_INLINE __m512 widen_bf16_16(__m256i words) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16)); }

static void run_avx512(RUN_PARAMETERS) {
    const size_t rank = factors->rank;
    _Alignas(64) float chains[run_rows][run_panels][panel];
    for (size_t p = first; p < end; p++) {
        const float *a = factors->a_floats + p * rank * panel;
        __m512 acc[run_rows];
        for (int r = 0; r < run_rows; r++) acc[r] = _mm512_setzero_ps();
        for (size_t k = 0; k < rank; k++) {
            const __m512 line = _mm512_loadu_ps(a + k * panel);
            for (int r = 0; r < run_rows; r++) acc[r] = _mm512_fmadd_ps(_mm512_set1_ps(b[k * run_rows + (size_t)r]), line, acc[r]);
        }
        for (int r = 0; r < run_rows; r++) _mm512_store_ps(chains[r][p - first], acc[r]);
    }
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000), magnitudes = _mm512_set1_epi32(0x7fffffff);
    const __m512 scale = _mm512_set1_ps((float)factors->scale), least = _mm512_set1_ps(0x1p-100f);
    for (size_t r = 0; r < rows; r++) {
        const __m512 row_error = _mm512_set1_ps(factors->row_errors[row + r]);
        __m512 update = _mm512_loadu_ps(lanes[r].update), change = _mm512_loadu_ps(lanes[r].change);
        for (size_t p = first; p < end; p++) {
            const __m256i *source = (const __m256i *)(weights + 2 * (r * columns + (p - first) * panel));
            __m256i *target = (__m256i *)(merged + 2 * (r * columns + (p - first) * panel));
            const __m512 weight = widen_bf16_16(_mm256_loadu_si256(source)), d = _mm512_mul_ps(scale, _mm512_load_ps(chains[r][p - first]));
            const __m512 error = _mm512_fmadd_ps(row_error, _mm512_loadu_ps(factors->column_norms + p * panel), least);
            const __m512i y = _mm512_castps_si512(_mm512_add_ps(weight, d));
            const __m512 magnitude = _mm512_castsi512_ps(_mm512_and_si512(y, magnitudes));
            const __m512i low = _mm512_add_epi32(_mm512_castps_si512(_mm512_sub_ps(magnitude, error)), _mm512_set1_epi32(0x7ffe));
            const __m512i high = _mm512_add_epi32(_mm512_castps_si512(_mm512_add_ps(magnitude, error)), _mm512_set1_epi32(0x8002));
            const __mmask16 apart = _mm512_test_epi32_mask(_mm512_xor_si512(low, high), upper);
            const __mmask16 beyond = _mm512_cmpge_epu32_mask(high, _mm512_set1_epi32(0x7f800000));
            // The magnitude of `high` with the sign of y: for each bit, y where `magnitudes` has none.
            __m512i stored = _mm512_and_si512(_mm512_ternarylogic_epi32(magnitudes, high, y, 0xca), upper);
            _mm256_storeu_si256(target, _mm512_cvtepi32_epi16(_mm512_srli_epi32(stored, 16)));
            if (__builtin_expect(apart | beyond, 0)) {
                exact_panel((const char *)source, (char *)target, row + r, p, factors, not_finite);
                stored = _mm512_castps_si512(widen_bf16_16(_mm256_loadu_si256(target)));
            }
            update = _mm512_fmadd_ps(d, d, update);
            change = _mm512_fmadd_ps(d, _mm512_sub_ps(_mm512_castsi512_ps(stored), weight), change);
        }
        _mm512_storeu_ps(lanes[r].update, update);
        _mm512_storeu_ps(lanes[r].change, change);
    }
}
#pragma clang attribute pop
#endif
