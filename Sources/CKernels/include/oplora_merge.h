// The merge of low-rank updates into stored weights, as the merge arithmetic defines it: the same bytes from every path.
// Weights and factors are F32, BF16, F16 or F64.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oplora_element.h"

/// Instruction sets, from the plainest on.
enum { oplora_merge_portable = 0, oplora_merge_avx2 = 1, oplora_merge_avx512 = 2 };

/// Columns that a panel of the packed A holds.
enum { oplora_merge_panel = 16 };

/// One adapter's part in the merge of one matrix W [out, in].
typedef struct {
    /// A [rank, in] in binary64, as oplora_merge_pack lays it out: panels of 16 columns, each [rank, 16], zero-padded.
    const double *a;
    /// B [out, rank] in binary64.
    const double *b;
    size_t rank;
    double scale;
    /// Not zero when every product of two factors is exact in binary64 (at most 24 significant bits on both sides), so
    /// that a fused multiply-add gives the same sum as a product and a sum.
    int products_are_exact;
    /// What oplora_merge_estimate made, if it could; `row_errors` begins at the same row as `b`.
    int is_estimated;
    const float *a_floats;
    const float *column_norms;
    const float *row_errors;
} oplora_merge_factors;

/// What a block of rows says of itself. d = Σ s·acc is the update of an element, in binary64 or, for one adapter between BF16 and
/// BF16 that can be estimated, in binary32; the same on every path.
typedef struct {
    /// Sum of d².
    double update_squared;
    /// Sum of d·(W' − W), where W' is the stored element.
    double update_times_change;
    /// Not zero when an element of the result is infinite or NaN.
    int not_finite;
} oplora_merge_sums;

/// Whether this machine can run `path`.
int oplora_merge_supports(int path);

/// Widens `count` elements of `type` to binary64. Returns the index of the first one that is not finite, or -1.
ptrdiff_t oplora_merge_widen(const void *source, enum oplora_element type, size_t count, double *wide);

/// Returns the index of the first of `count` elements of `type` that is not finite, or -1; says whether all are zero.
ptrdiff_t oplora_merge_scan(const void *source, enum oplora_element type, size_t count, int *is_zero);

/// Lays A [rank, columns], in binary64, out in panels: `packed` takes ceil(columns / 16) · 16 · rank numbers.
void oplora_merge_pack(const double *a, size_t rank, size_t columns, double *packed);

/// What an estimate of the merge in binary32 needs beside the factors: A [rank, columns] as it is packed, in binary32; the norms of
/// its columns, padded to whole panels; and for each row of B what multiplies them to bound the error. Returns zero where the
/// factors are too large, too small or too many for an estimate; the products of the factors must be exact.
int oplora_merge_estimate(const double *packed, const double *b, size_t rank, size_t columns, size_t rows, double scale, float *a_floats,
                          float *column_norms, float *row_errors);

/// Merges `rows` rows of `columns` elements: `weights`, `merged` and the B of each factor point at the first of them. With no
/// factors it converts from one type to the other.
oplora_merge_sums oplora_merge_rows(int path, const void *weights, enum oplora_element weight_type, void *merged, enum oplora_element merged_type, size_t rows,
                                    size_t columns, const oplora_merge_factors *factors, size_t factor_count);

// MARK: Magnitudes (DoRA): W' = round((m / ‖u‖)·u) with u = W + s·acc in binary64. The squares of a norm are added in eight
// lanes, lane j taking the elements i ≡ j mod 8 of the row or column in ascending order; then the lanes in pairs,
// ((0+1)+(2+3)) + ((4+5)+(6+7)).

/// Scales rows of u [rows, columns] to the norms `magnitudes` [rows] and stores them.
oplora_merge_sums oplora_merge_scale_rows(const double *u, const double *magnitudes, const void *weights, enum oplora_element weight_type, void *merged,
                                          enum oplora_element merged_type, size_t rows, size_t columns);

/// Adds the squares of rows of u to the lanes [8, columns] of its columns; the first of the rows has the number `first_row`.
void oplora_merge_add_squares(const double *u, size_t rows, size_t columns, size_t first_row, double *lanes);

/// m / ‖u‖ for each column, from its lanes [8, columns].
void oplora_merge_column_ratios(const double *lanes, const double *magnitudes, size_t columns, double *ratios);

/// Scales the columns of rows of u by `ratios` [columns] and stores them.
oplora_merge_sums oplora_merge_scale_columns(const double *u, const double *ratios, const void *weights, enum oplora_element weight_type, void *merged,
                                             enum oplora_element merged_type, size_t rows, size_t columns);
