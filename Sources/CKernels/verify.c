// The verifier's arithmetic, compiled from one source for each instruction set; oplora_verify.h says what it computes.
#include "oplora_verify.h"

#include "float_bits.h"
#include "instruction_sets.h"

#include <math.h>
#include <string.h>

// Wide vectors are passed only to functions that are always inlined, so how a call would pass them is of no matter.
#pragma clang diagnostic ignored "-Wpsabi"
#pragma STDC FP_CONTRACT OFF

typedef double wide __attribute__((vector_size(64), aligned(8), may_alias));
typedef int64_t whole __attribute__((vector_size(64), aligned(8), may_alias));
typedef float narrow __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(16), aligned(2), may_alias));
// What a first look takes: twice as many numbers of binary32.
typedef float singles __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t signs __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t shorts __attribute__((vector_size(32), aligned(2), may_alias));

enum {
    lanes = 8,
    // Rows that are computed at once, and columns of them that stay in the first-level cache with what is made of them.
    row_tile = 6,
    tile_columns = 128,
    // Rows that are walked for one tile of columns before the next, and the largest rank for which their B is laid out anew.
    row_block = 48,
    packed_rank = 128,
    // Rows of a tile that a first look may leave open before the next tiles go without one.
    patience = 96,
};

// A stored type: its significant bits, the hidden one included, and the exponents of its smallest normal number and of the power
// of two at which it ends.
struct format {
    int precision;
    int least;
    int limit;
};

static inline struct format format_of(enum oplora_element type) {
    switch (type) {
    case oplora_element_f32: return (struct format){24, -126, 128};
    case oplora_element_bf16: return (struct format){8, -126, 128};
    case oplora_element_f16: return (struct format){11, -14, 16};
    default: return (struct format){53, -1022, 1024};
    }
}

static size_t size_of(enum oplora_element type) { return type == oplora_element_f64 ? 8 : type == oplora_element_f32 ? 4 : 2; }

static double power_of_two(int exponent) {
    return exponent < -1022 ? double_of_bits(1ull << (exponent + 1074)) : double_of_bits((uint64_t)(exponent + 1023) << 52);
}

static void take_least(int64_t *least, int64_t other) {
    if (other < *least) *least = other;
}

#define VARIANT portable
#define WHOLE_PANELS 0
#include "verify_variant.h"
#undef WHOLE_PANELS
#undef VARIANT

#if defined(__x86_64__)
#define FUSED 1
#define VARIANT avx2
#define WHOLE_PANELS 0
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#include "verify_variant.h"
#pragma clang attribute pop
#undef WHOLE_PANELS
#undef VARIANT

#define VARIANT avx512
#define WHOLE_PANELS 1
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), apply_to = function)
#include "verify_variant.h"
#pragma clang attribute pop
#undef WHOLE_PANELS
#undef VARIANT
#undef FUSED
#endif

void oplora_verify_clear(oplora_verify_tally *tally) {
    memset(tally, 0, sizeof *tally);
    tally->first_differing = tally->first_not_finite = tally->first_beyond = INT64_MAX;
    for (int k = 0; k < oplora_verify_recipes; k++) tally->first_unexplained[k] = INT64_MAX;
}

void oplora_verify_add(oplora_verify_tally *tally, const oplora_verify_tally *other) {
    tally->update_squared += other->update_squared;
    tally->update_times_change += other->update_times_change;
    tally->update_times_expected += other->update_times_expected;
    tally->change_squared += other->change_squared;
    tally->residual_squared += other->residual_squared;
    tally->rounding_squared += other->rounding_squared;
    tally->noise_squared += other->noise_squared;
    tally->changed += other->changed;
    tally->expected_changed += other->expected_changed;
    tally->differing += other->differing;
    tally->not_finite += other->not_finite;
    tally->looked_at += other->looked_at;
    tally->ambiguous += other->ambiguous;
    tally->beyond += other->beyond;
    take_least(&tally->first_differing, other->first_differing);
    take_least(&tally->first_not_finite, other->first_not_finite);
    take_least(&tally->first_beyond, other->first_beyond);
    for (int k = 0; k < oplora_verify_recipes; k++) {
        tally->unexplained[k] += other->unexplained[k];
        take_least(&tally->first_unexplained[k], other->first_unexplained[k]);
    }
    if (other->largest_steps > tally->largest_steps) tally->largest_steps = other->largest_steps;
    for (int k = 0; k < oplora_verify_histogram; k++) tally->steps[k] += other->steps[k];
}

void oplora_verify_pack(const double *right, size_t rank, size_t columns, double *packed) {
    for (size_t first = 0; first < columns; first += oplora_verify_panel)
        for (size_t k = 0; k < rank; k++)
            for (size_t i = 0; i < oplora_verify_panel; i++)
                *packed++ = first + i < columns ? right[k * columns + first + i] : 0;
}

#if defined(__x86_64__)
#define CALL(name, ...)                                                                     \
    do {                                                                                    \
        if (variant == 2) return name##_avx512(__VA_ARGS__);                                \
        if (variant == 1) return name##_avx2(__VA_ARGS__);                                  \
        name##_portable(__VA_ARGS__);                                                       \
    } while (0)
#else
#define CALL(name, ...)                                                                     \
    do {                                                                                    \
        (void)variant;                                                                      \
        name##_portable(__VA_ARGS__);                                                       \
    } while (0)
#endif

void oplora_verify_widen(int variant, const void *source, enum oplora_element type, size_t rows, size_t source_stride, size_t count, size_t stride,
                         double *wide) {
    CALL(widen, source, type, rows, source_stride, count, stride, wide);
}

void oplora_verify_sums(int variant, const oplora_verify_update *update, int is_first, size_t rows, size_t first, size_t count,
                        size_t stride, const double *weights, double *total, double *result) {
    CALL(sums, update, is_first, rows, first, count, stride, weights, total, result);
}

void oplora_verify_judge(int variant, enum oplora_element type, size_t rows, size_t count, size_t stride, const double *weights, const double *merged,
                         const double *total, const double *result, const oplora_verify_bounds *bounds, int64_t index, size_t columns,
                         oplora_verify_tally *tally) {
    CALL(judge, type, rows, count, stride, weights, merged, total, result, bounds, index, columns, tally);
}

void oplora_verify_rows(int variant, const void *base, enum oplora_element base_type, const void *merged, enum oplora_element merged_type, size_t rows, size_t columns,
                        const oplora_verify_update *update, const oplora_verify_bounds *bounds, int64_t index, oplora_verify_tally *tally) {
    CALL(rows, base, base_type, merged, merged_type, rows, columns, update, bounds, index, tally);
}
