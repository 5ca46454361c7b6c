// Panel products, compiled from one source for each instruction set; oplora_panels.h says what they are. No variant may fuse a
// multiplication with an addition, so none is compiled for a processor that could.
#include "oplora_panels.h"

#include "instruction_sets.h"

#pragma STDC FP_CONTRACT OFF

typedef double lanes __attribute__((vector_size(8 * oplora_panel_lanes), aligned(8), may_alias));

#define VARIANT portable
#include "panels_variant.h"
#undef VARIANT

#if defined(__x86_64__)
#define VARIANT avx2
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#include "panels_variant.h"
#pragma clang attribute pop
#undef VARIANT

#define VARIANT avx512
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl"))), apply_to = function)
#include "panels_variant.h"
#pragma clang attribute pop
#undef VARIANT
#endif

int oplora_panels_supports(int variant) { return variant >= 0 && variant < instruction_sets && has_instruction_set(variant); }

void oplora_panel_product(int variant, const double *left, size_t rows, size_t columns, const double *right, size_t width, double *result) {
#if defined(__x86_64__)
    if (variant == 2) return product_avx512(left, rows, columns, right, width, result);
    if (variant == 1) return product_avx2(left, rows, columns, right, width, result);
#endif
    (void)variant;
    product_portable(left, rows, columns, right, width, result);
}

void oplora_panel_product_transposed(int variant, const double *left, size_t rows, size_t columns, const double *right, size_t width,
                                     double *result) {
#if defined(__x86_64__)
    if (variant == 2) return product_transposed_avx512(left, rows, columns, right, width, result);
    if (variant == 1) return product_transposed_avx2(left, rows, columns, right, width, result);
#endif
    (void)variant;
    product_transposed_portable(left, rows, columns, right, width, result);
}
