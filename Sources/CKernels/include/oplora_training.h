// Element-wise and row-wise kernels of training. Arrays are contiguous F32 unless a parameter says otherwise; matrices
// are row-major; `rows` and `dim` are counts of elements. Each function works on one range and one thread.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oplora_element.h"

/// What one step of AdamW needs besides the arrays. Decay is decoupled (Loshchilov & Hutter 2019).
typedef struct {
    float learning_rate;
    float beta1, beta2, epsilon;
    float weight_decay;
    /// 1 − beta1^step and √(1 − beta2^step).
    float correction1, root_correction2;
    /// Every gradient is multiplied by this first: gradient clipping and the mean over accumulated batches.
    float gradient_scale;
} oplora_adamw;

typedef struct {
    const char *name;

    /// destination[rows, columns] (contiguous) = source[rows, columns] of the given element type, whose rows begin
    /// `stride` elements apart.
    void (*widen)(float *destination, const void *source, enum oplora_element element, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t stride);
    /// BF16 from F32, to nearest even. NaN stays NaN.
    void (*narrow_bf16)(uint16_t *destination, const float *source, ptrdiff_t count);

    /// The index of the first element that is NaN or infinite, or −1.
    ptrdiff_t (*first_non_finite)(const void *source, enum oplora_element element, ptrdiff_t count);

    /// y = x · rsqrt(mean(x²) + epsilon) · weight for each row; the rsqrt is kept in `scale`.
    void (*rms_norm)(float *y, float *scale, const float *x, const float *weight, ptrdiff_t rows, ptrdiff_t dim, float epsilon);
    /// y = x · scale[row] · weight: the forward result again, from what was kept of it.
    void (*rms_norm_again)(float *y, const float *scale, const float *x, const float *weight, ptrdiff_t rows, ptrdiff_t dim);
    /// dx += the gradient that reaches x when dy reaches y.
    void (*rms_norm_backward)(float *dx, const float *dy, const float *x, const float *scale, const float *weight, ptrdiff_t rows, ptrdiff_t dim);

    /// Rotates the heads of x[rows, heads·head_dim] in place; row i is at position `first_position + i`; the tables are
    /// [positions, head_dim/2]. `direction` is 1, or −1 for the backward pass (the transpose of a rotation).
    void (*rotate)(float *x, ptrdiff_t rows, ptrdiff_t heads, ptrdiff_t head_dim, const float *cosines, const float *sines, ptrdiff_t first_position, float direction);

    /// scores[rows, columns] → probabilities in place, where row i sees columns 0...first_row+i; the rest become zero.
    /// log_sums[i] = log Σ exp(scale·score).
    void (*causal_softmax)(float *scores, float *log_sums, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t first_row, float scale);
    /// The same probabilities from kept log_sums.
    void (*causal_softmax_again)(float *scores, const float *log_sums, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t first_row, float scale);
    /// dp[rows, columns] → gradient of the unscaled scores, in place: p·(dp − means[i])·scale.
    void (*softmax_backward)(float *dp, const float *p, const float *means, ptrdiff_t rows, ptrdiff_t columns, float scale);

    /// a = silu(gate) · up.
    void (*swiglu)(float *a, const float *gate, const float *up, ptrdiff_t count);
    /// With da at hand: dgate and dup, and a again.
    void (*swiglu_backward)(float *dgate, float *dup, float *a, const float *da, const float *gate, const float *up, ptrdiff_t count);

    /// losses[i] = log Σ exp(logits[i]) − logits[i][target]; with `gradient_scale` not zero, the logits become their
    /// gradients, (softmax − one-hot) · gradient_scale.
    void (*cross_entropy)(float *logits, float *losses, const int32_t *targets, ptrdiff_t rows, ptrdiff_t vocabulary, float gradient_scale);

    /// y += a · x.
    void (*axpy)(float *y, float a, const float *x, ptrdiff_t count);
    /// y[i, j] += bias[j].
    void (*add_bias)(float *y, const float *bias, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t stride);
    /// y[i, j] = x[i, j] · factors[j] + bias[j]; without a bias where it is NULL.
    void (*scale_columns)(float *y, const float *x, const float *factors, const float *bias, ptrdiff_t rows, ptrdiff_t columns);
    /// sums[j] += a[i, j] · b[i, j], rows in their order.
    void (*add_column_products)(float *sums, const float *a, const float *b, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t stride);
    float (*dot)(const float *x, const float *y, ptrdiff_t count);
    /// Σ x², added up in binary64.
    double (*sum_of_squares)(const float *x, ptrdiff_t count);

    /// y[rows] = matrix[rows, columns] · x + bias.
    void (*affine)(float *y, const float *matrix, const float *x, const float *bias, ptrdiff_t rows, ptrdiff_t columns);
    /// y[columns] += matrixᵀ[columns, rows] · x.
    void (*add_transposed_product)(float *y, const float *matrix, const float *x, ptrdiff_t rows, ptrdiff_t columns);

    void (*adamw)(float *parameters, float *first, float *second, const float *gradient, ptrdiff_t count, const oplora_adamw *step);
    /// AdamW on matrix[rows, columns] whose gradient is the outer product left · rightᵀ, which is never stored.
    void (*adamw_outer)(float *matrix, float *first, float *second, const float *left, const float *right, ptrdiff_t rows, ptrdiff_t columns, const oplora_adamw *step);

    /// y = x with each element dropped with probability `rate` and the others divided by 1 − rate. Which elements fall
    /// depends on `seed` and on first_index + i alone.
    void (*dropout)(float *y, const float *x, ptrdiff_t count, uint64_t seed, uint64_t first_index, float rate);
} oplora_training_kernels;

/// Whether the processor multiplies BF16 numbers in hardware.
bool oplora_has_bf16_products(void);

/// The fastest kernels that this processor can run.
const oplora_training_kernels *oplora_training_kernels_best(void);
/// All variants that this processor can run, the portable one first; NULL past the last.
const oplora_training_kernels *oplora_training_kernels_variant(int index);
