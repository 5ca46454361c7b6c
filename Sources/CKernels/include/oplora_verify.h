// How a merged weight W' compares with its definition y = W + Σ s·acc, element by element, in binary64; between 16-bit types what a first
// look in binary32, with a bound, finds right is not computed again. Shares nothing with the merge: that one rounds, this one measures
// distances.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oplora_element.h"

/// The ways in which tools are known to merge. In each the product B·A is summed in binary32, in an order that is not known, and
/// the sum W + d is rounded to binary32 before it is rounded to the type of W'; they differ in what d is rounded to before.
enum {
    /// d in binary32.
    oplora_verify_plain = 0,
    /// d rounded to BF16, to F16.
    oplora_verify_update_bf16 = 1,
    oplora_verify_update_f16 = 2,
    /// The product rounded to BF16 (F16), multiplied by the scale, and rounded again.
    oplora_verify_product_bf16 = 3,
    oplora_verify_product_f16 = 4,
    oplora_verify_recipes = 5,
};

enum { oplora_verify_panel = 16, oplora_verify_histogram = 12 };

/// One adapter's update of some rows: d = scale·(left·right).
typedef struct {
    /// [rows, rank], the first of the rows in question first.
    const double *left;
    /// [rank, columns] in panels of 16 columns, each [rank, 16], zero-padded.
    const double *right;
    size_t rank;
    double scale;
    /// Whether products of two factors are exact in binary64, so that they may be fused with the sums.
    int products_are_exact;
    /// `right` in binary32, laid out alike, and the norms of its columns in binary32, rounded up; null where factors are not finite in
    /// binary32.
    const float *right_narrow;
    const float *norms_narrow;
    /// The largest of the norms.
    float largest_norm;
} oplora_verify_update;

/// How far other ways of summing may lie from d and y.
typedef struct {
    /// What d of row r and column i in binary32 is off by at most: `errors`[r]·`norms`[i].
    const double *errors;
    const double *norms;
    /// What y is off by at most, as a share of it, and for each row per unit of what d is off by.
    double relative;
    /// Null where all are 1.
    const double *factors;
    /// The scale, for the recipes that round the product.
    double scale;
    /// The recipes that are looked at beside the plain one, as bits; those that round d or the product apply to one adapter without a
    /// magnitude.
    int recipes;
    /// How many times the sum may have been rounded to the type: once for each adapter.
    double roundings;
    /// Whether every element is held against the recipes; otherwise only rows, or parts of rows, with some that are not the correctly
    /// rounded ones.
    int is_thorough;
    /// What a 16-bit type's roundings of a magnitude's factor may add, as a share of y.
    double coarse;
} oplora_verify_bounds;

/// What elements are like. c = W' − W is the change, d the update, e the change that the correctly rounded weight would have.
typedef struct {
    double update_squared;
    double update_times_change;
    double update_times_expected;
    double change_squared;
    /// Σ (c − d)², Σ (e − d)², Σ (d·b)² with b the bound on |W' − y|.
    double residual_squared;
    double rounding_squared;
    double noise_squared;
    /// Not zero when an element is not the base's, when one should not be.
    int64_t changed;
    int64_t expected_changed;
    /// Elements that are not the correctly rounded ones, and the first of them.
    int64_t differing;
    int64_t first_differing;
    /// Elements that are infinite or NaN, and the first of them; they are not in the sums.
    int64_t not_finite;
    int64_t first_not_finite;
    /// Elements that a recipe does not give, of those held against it, and the first of them.
    int64_t unexplained[oplora_verify_recipes];
    int64_t first_unexplained[oplora_verify_recipes];
    /// Elements of the rows, or parts of rows, that have others than correctly rounded ones, and those of them for which a sum in
    /// binary32 may give more than one number.
    int64_t looked_at;
    int64_t ambiguous;
    /// Elements that are further from y than any rounding takes them, and the first of them.
    int64_t beyond;
    int64_t first_beyond;
    /// The largest distance from the correctly rounded element in steps of the type, and how many elements are 0, 1, 2, 3–4, 5–8 …
    /// steps off.
    int64_t largest_steps;
    int64_t steps[oplora_verify_histogram];
} oplora_verify_tally;

void oplora_verify_clear(oplora_verify_tally *tally);

/// Adds what `other` found, after or before.
void oplora_verify_add(oplora_verify_tally *tally, const oplora_verify_tally *other);

/// Widens `count` elements of each of some rows, which are `source_stride` elements apart, to binary64 [rows, stride].
void oplora_verify_widen(int variant, const void *source, enum oplora_element type, size_t rows, size_t source_stride, size_t count, size_t stride,
                         double *wide);

/// Lays [rank, columns] out in panels.
void oplora_verify_pack(const double *right, size_t rank, size_t columns, double *packed);

/// Computes `count` columns from `first` on, a multiple of 16, of some rows, all [rows, stride]: total = s·acc and result = W + s·acc
/// for the first update, W being `weights`; others are added to both. The stride has room for whole panels. Without a `result` only the
/// total is computed.
void oplora_verify_sums(int variant, const oplora_verify_update *update, int is_first, size_t rows, size_t first, size_t count,
                        size_t stride, const double *weights, double *total, double *result);

/// Judges `count` elements of each of some rows in a stored type: W, W', d and y, all [rows, stride]. The numbers of the first row's
/// elements in the tensor begin with `index`, those of each following row `columns` later.
void oplora_verify_judge(int variant, enum oplora_element type, size_t rows, size_t count, size_t stride, const double *weights, const double *merged,
                         const double *total, const double *result, const oplora_verify_bounds *bounds, int64_t index, size_t columns,
                         oplora_verify_tally *tally);

/// All of it for one update without a magnitude: rows of W and W' [rows, columns] in their types. The update, the bounds and `index`
/// begin with the first of them.
void oplora_verify_rows(int variant, const void *base, enum oplora_element base_type, const void *merged, enum oplora_element merged_type, size_t rows, size_t columns,
                        const oplora_verify_update *update, const oplora_verify_bounds *bounds, int64_t index, oplora_verify_tally *tally);
