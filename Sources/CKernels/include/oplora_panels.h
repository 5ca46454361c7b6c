// Products of a tall or wide matrix with a narrow one, in binary64: what truncated singular value decompositions consist of.
//
// Every element of a result is one sum, its terms multiplied and added one after the other in the order of their index and never
// contracted, so that all variants give the same bits.
#pragma once

#include <stddef.h>

/// The width of the narrow matrix is a multiple of this.
enum { oplora_panel_lanes = 8 };

/// Whether the processor has the variant: 0 portable, 1 AVX2, 2 AVX-512.
int oplora_panels_supports(int variant);

/// result [rows, width] += left [rows, columns] · right [columns, width].
void oplora_panel_product(int variant, const double *left, size_t rows, size_t columns, const double *right, size_t width, double *result);

/// result [columns, width] += leftᵀ · right, with left [rows, columns] and right [rows, width].
void oplora_panel_product_transposed(int variant, const double *left, size_t rows, size_t columns, const double *right, size_t width,
                                     double *result);
