// The bodies of the training kernels. Included once for each instruction set, with VARIANT naming it.
//
// The loops are plain C that the compiler turns into vector code. Sums may be taken in any order within one function
// (`reassociate`), which fixes the order for each variant at compile time: results are the same on every run and for
// every number of threads, and differ between variants within rounding.

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(f) JOIN(f, VARIANT)
#define FAST_SUMS _Pragma("clang fp reassociate(on) contract(fast)")

// exp(x) to about one unit in the last place for x in [−87, 88], flat outside. (Cephes' polynomial on [−ln2/2, ln2/2].)
static inline float NAME(exponential)(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    // Adding and taking away 1.5·2²³ rounds to the nearest integer.
    float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static inline float NAME(sigmoid)(float x) { return 1.0f / (1.0f + NAME(exponential)(-x)); }

static inline float NAME(from_f16)(uint16_t half) {
    // Shift exponent and fraction into place and let a multiplication by 2¹¹² correct the bias, subnormals included.
    uint32_t magnitude = (uint32_t)(half & 0x7FFF) << 13;
    float value, correction = 0x1p112f;
    memcpy(&value, &magnitude, sizeof value);
    value *= correction;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((half & 0x7C00) == 0x7C00) bits = 0x7F800000u | magnitude;
    bits |= (uint32_t)(half & 0x8000) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// The largest of count > 0 numbers. A maximum is not a sum, so the lanes have to be written out.
static inline float NAME(largest)(const float *x, ptrdiff_t count) {
    float lanes[16];
    for (int lane = 0; lane < 16; lane++) lanes[lane] = x[0];
    ptrdiff_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (int lane = 0; lane < 16; lane++) lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    for (; i < count; i++) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    for (int lane = 1; lane < 16; lane++) lanes[0] = lanes[lane] > lanes[0] ? lanes[lane] : lanes[0];
    return lanes[0];
}

static void NAME(widen)(float *destination, const void *source, enum oplora_element element, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t stride) {
    for (ptrdiff_t row = 0; row < rows; row++) {
        float *restrict out = destination + row * columns;
        // memcpy: tensors in a file need not be aligned to their elements.
        if (element == oplora_element_bf16) {
            const char *in = (const char *)source + row * stride * 2;
            for (ptrdiff_t i = 0; i < columns; i++) {
                uint16_t value;
                memcpy(&value, in + 2 * i, sizeof value);
                uint32_t bits = (uint32_t)value << 16;
                memcpy(out + i, &bits, sizeof bits);
            }
        } else if (element == oplora_element_f16) {
            const char *in = (const char *)source + row * stride * 2;
            for (ptrdiff_t i = 0; i < columns; i++) {
                uint16_t value;
                memcpy(&value, in + 2 * i, sizeof value);
                out[i] = NAME(from_f16)(value);
            }
        } else {
            memcpy(out, (const char *)source + row * stride * 4, (size_t)columns * 4);
        }
    }
}

static void NAME(narrow_bf16)(uint16_t *restrict destination, const float *restrict source, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, source + i, sizeof bits);
        uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
        uint32_t quiet = (bits >> 16) | 0x40;
        destination[i] = (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
    }
}

// Whether source[start..<end] holds a number whose exponent bits are all set.
static inline int NAME(has_non_finite)(const char *source, enum oplora_element element, ptrdiff_t start, ptrdiff_t end) {
    uint32_t found = 0;
    if (element == oplora_element_f32) {
        for (ptrdiff_t i = start; i < end; i++) {
            uint32_t bits;
            memcpy(&bits, source + 4 * i, sizeof bits);
            found |= (bits & 0x7F800000) == 0x7F800000;
        }
    } else {
        const uint16_t exponent = element == oplora_element_bf16 ? 0x7F80 : 0x7C00;
        for (ptrdiff_t i = start; i < end; i++) {
            uint16_t bits;
            memcpy(&bits, source + 2 * i, sizeof bits);
            found |= (bits & exponent) == exponent;
        }
    }
    return found != 0;
}

static ptrdiff_t NAME(first_non_finite)(const void *source, enum oplora_element element, ptrdiff_t count) {
    for (ptrdiff_t start = 0; start < count; start += 4096) {
        ptrdiff_t end = start + 4096 < count ? start + 4096 : count;
        if (!NAME(has_non_finite)(source, element, start, end)) continue;
        while (!NAME(has_non_finite)(source, element, start, start + 1)) start++;
        return start;
    }
    return -1;
}

static void NAME(rms_norm_again)(float *y, const float *scale, const float *x, const float *restrict weight, ptrdiff_t rows, ptrdiff_t dim) {
    for (ptrdiff_t row = 0; row < rows; row++) {
        const float *restrict in = x + row * dim;
        float *restrict out = y + row * dim;
        float factor = scale[row];
        for (ptrdiff_t i = 0; i < dim; i++) out[i] = in[i] * factor * weight[i];
    }
}

static void NAME(rms_norm)(float *y, float *scale, const float *x, const float *weight, ptrdiff_t rows, ptrdiff_t dim, float epsilon) {
    FAST_SUMS
    for (ptrdiff_t row = 0; row < rows; row++) {
        const float *restrict in = x + row * dim;
        float sum = 0;
        for (ptrdiff_t i = 0; i < dim; i++) sum += in[i] * in[i];
        scale[row] = 1.0f / sqrtf(sum / (float)dim + epsilon);
    }
    NAME(rms_norm_again)(y, scale, x, weight, rows, dim);
}

static void NAME(rms_norm_backward)(float *dx, const float *dy, const float *x, const float *scale, const float *restrict weight, ptrdiff_t rows, ptrdiff_t dim) {
    FAST_SUMS
    for (ptrdiff_t row = 0; row < rows; row++) {
        const float *restrict in = x + row * dim;
        const float *restrict grad = dy + row * dim;
        float *restrict out = dx + row * dim;
        float factor = scale[row], sum = 0;
        for (ptrdiff_t i = 0; i < dim; i++) sum += grad[i] * weight[i] * in[i];
        float pull = sum * factor * factor / (float)dim;
        for (ptrdiff_t i = 0; i < dim; i++) out[i] += factor * (grad[i] * weight[i] - in[i] * pull);
    }
}

static void NAME(rotate)(float *x, ptrdiff_t rows, ptrdiff_t heads, ptrdiff_t head_dim, const float *cosines, const float *sines, ptrdiff_t first_position, float direction) {
    ptrdiff_t half = head_dim / 2;
    for (ptrdiff_t row = 0; row < rows; row++) {
        const float *restrict c = cosines + (first_position + row) * half;
        const float *restrict s = sines + (first_position + row) * half;
        for (ptrdiff_t head = 0; head < heads; head++) {
            float *restrict low = x + (row * heads + head) * head_dim;
            float *restrict high = low + half;
            for (ptrdiff_t i = 0; i < half; i++) {
                float a = low[i], b = high[i], sine = s[i] * direction;
                low[i] = a * c[i] - b * sine;
                high[i] = b * c[i] + a * sine;
            }
        }
    }
}

static void NAME(causal_softmax_again)(float *scores, const float *log_sums, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t first_row, float scale) {
    for (ptrdiff_t row = 0; row < rows; row++) {
        float *restrict s = scores + row * columns;
        ptrdiff_t visible = first_row + row + 1;
        if (visible > columns) visible = columns;
        float log_sum = log_sums[row];
        for (ptrdiff_t i = 0; i < visible; i++) s[i] = NAME(exponential)(s[i] * scale - log_sum);
        for (ptrdiff_t i = visible; i < columns; i++) s[i] = 0;
    }
}

static void NAME(causal_softmax)(float *scores, float *log_sums, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t first_row, float scale) {
    FAST_SUMS
    for (ptrdiff_t row = 0; row < rows; row++) {
        float *restrict s = scores + row * columns;
        ptrdiff_t visible = first_row + row + 1;
        if (visible > columns) visible = columns;
        float largest = NAME(largest)(s, visible) * scale;
        float sum = 0;
        for (ptrdiff_t i = 0; i < visible; i++) {
            s[i] = NAME(exponential)(s[i] * scale - largest);
            sum += s[i];
        }
        float factor = 1.0f / sum;
        for (ptrdiff_t i = 0; i < visible; i++) s[i] *= factor;
        for (ptrdiff_t i = visible; i < columns; i++) s[i] = 0;
        log_sums[row] = largest + logf(sum);
    }
}

static void NAME(softmax_backward)(float *dp, const float *p, const float *means, ptrdiff_t rows, ptrdiff_t columns, float scale) {
    for (ptrdiff_t row = 0; row < rows; row++) {
        float *restrict d = dp + row * columns;
        const float *restrict q = p + row * columns;
        float mean = means[row];
        for (ptrdiff_t i = 0; i < columns; i++) d[i] = q[i] * (d[i] - mean) * scale;
    }
}

static void NAME(swiglu)(float *restrict a, const float *restrict gate, const float *restrict up, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) a[i] = gate[i] * NAME(sigmoid)(gate[i]) * up[i];
}

static void NAME(swiglu_backward)(float *restrict dgate, float *restrict dup, float *restrict a, const float *restrict da, const float *restrict gate, const float *restrict up, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        float s = NAME(sigmoid)(gate[i]), silu = gate[i] * s, d = da[i], u = up[i];
        a[i] = silu * u;
        dup[i] = d * silu;
        dgate[i] = d * u * (s + silu * (1.0f - s));
    }
}

static void NAME(cross_entropy)(float *logits, float *losses, const int32_t *targets, ptrdiff_t rows, ptrdiff_t vocabulary, float gradient_scale) {
    FAST_SUMS
    for (ptrdiff_t row = 0; row < rows; row++) {
        float *restrict z = logits + row * vocabulary;
        float largest = NAME(largest)(z, vocabulary);
        float target = z[targets[row]];
        // In parts of 1024, each added up in F32, the parts in binary64: a vocabulary has 10⁵ terms.
        double total = 0;
        for (ptrdiff_t start = 0; start < vocabulary; start += 1024) {
            ptrdiff_t end = start + 1024 < vocabulary ? start + 1024 : vocabulary;
            float sum = 0;
            if (gradient_scale != 0) {
                for (ptrdiff_t i = start; i < end; i++) {
                    z[i] = NAME(exponential)(z[i] - largest);
                    sum += z[i];
                }
            } else {
                for (ptrdiff_t i = start; i < end; i++) sum += NAME(exponential)(z[i] - largest);
            }
            total += (double)sum;
        }
        losses[row] = (float)(log(total) + (double)(largest - target));
        if (gradient_scale != 0) {
            float factor = (float)((double)gradient_scale / total);
            for (ptrdiff_t i = 0; i < vocabulary; i++) z[i] *= factor;
            z[targets[row]] -= gradient_scale;
        }
    }
}

static void NAME(axpy)(float *restrict y, float a, const float *restrict x, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) y[i] += a * x[i];
}

static void NAME(add_bias)(float *y, const float *restrict bias, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t stride) {
    for (ptrdiff_t row = 0; row < rows; row++) {
        float *restrict out = y + row * stride;
        for (ptrdiff_t i = 0; i < columns; i++) out[i] += bias[i];
    }
}

static void NAME(scale_columns)(float *restrict y, const float *restrict x, const float *restrict factors, const float *restrict bias,
                                ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t row = 0; row < rows; row++) {
        float *restrict out = y + row * columns;
        const float *restrict in = x + row * columns;
        if (bias)
            for (ptrdiff_t i = 0; i < columns; i++) out[i] = in[i] * factors[i] + bias[i];
        else
            for (ptrdiff_t i = 0; i < columns; i++) out[i] = in[i] * factors[i];
    }
}

static void NAME(add_column_products)(float *restrict sums, const float *restrict a, const float *restrict b, ptrdiff_t rows, ptrdiff_t columns,
                                      ptrdiff_t stride) {
    for (ptrdiff_t row = 0; row < rows; row++)
        for (ptrdiff_t i = 0; i < columns; i++) sums[i] += a[row * stride + i] * b[row * stride + i];
}

static float NAME(dot)(const float *x, const float *y, ptrdiff_t count) {
    FAST_SUMS
    float sum = 0;
    for (ptrdiff_t i = 0; i < count; i++) sum += x[i] * y[i];
    return sum;
}

static double NAME(sum_of_squares)(const float *x, ptrdiff_t count) {
    FAST_SUMS
    double sum = 0;
    for (ptrdiff_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

static void NAME(affine)(float *restrict y, const float *matrix, const float *restrict x, const float *restrict bias, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t row = 0; row < rows; row++) y[row] = NAME(dot)(matrix + row * columns, x, columns) + bias[row];
}

static void NAME(add_transposed_product)(float *restrict y, const float *matrix, const float *restrict x, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t row = 0; row < rows; row++) NAME(axpy)(y, x[row], matrix + row * columns, columns);
}

// One parameter. Decay first, then the step, as in torch.optim.AdamW.
static inline void NAME(adamw_one)(float *p, float *m, float *v, float g, float beta1, float beta2, float decay, float rate, float root, float epsilon) {
    float first = *m + (1.0f - beta1) * (g - *m);
    float second = beta2 * *v + (1.0f - beta2) * g * g;
    *m = first;
    *v = second;
    *p = *p * decay - rate * first / (sqrtf(second) * root + epsilon);
}

static void NAME(adamw)(float *restrict parameters, float *restrict first, float *restrict second, const float *restrict gradient, ptrdiff_t count, const oplora_adamw *step) {
    const float decay = 1.0f - step->learning_rate * step->weight_decay, rate = step->learning_rate / step->correction1;
    const float root = 1.0f / step->root_correction2, scale = step->gradient_scale, epsilon = step->epsilon;
    const float beta1 = step->beta1, beta2 = step->beta2;
    for (ptrdiff_t i = 0; i < count; i++)
        NAME(adamw_one)(parameters + i, first + i, second + i, gradient[i] * scale, beta1, beta2, decay, rate, root, epsilon);
}

static void NAME(adamw_outer)(float *matrix, float *first, float *second, const float *left, const float *restrict right, ptrdiff_t rows, ptrdiff_t columns, const oplora_adamw *step) {
    const float decay = 1.0f - step->learning_rate * step->weight_decay, rate = step->learning_rate / step->correction1;
    const float root = 1.0f / step->root_correction2, scale = step->gradient_scale, epsilon = step->epsilon;
    const float beta1 = step->beta1, beta2 = step->beta2;
    for (ptrdiff_t row = 0; row < rows; row++) {
        float *restrict p = matrix + row * columns;
        float *restrict m = first + row * columns;
        float *restrict v = second + row * columns;
        const float l = left[row] * scale;
        for (ptrdiff_t i = 0; i < columns; i++) NAME(adamw_one)(p + i, m + i, v + i, l * right[i], beta1, beta2, decay, rate, root, epsilon);
    }
}

static void NAME(dropout)(float *restrict y, const float *restrict x, ptrdiff_t count, uint64_t seed, uint64_t first_index, float rate) {
    // A 64-bit finaliser (Stafford's variant 13) of seed and index: as good as random, and the same in any order.
    const uint32_t threshold = (uint32_t)(rate * 4294967296.0f);
    const float factor = 1.0f / (1.0f - rate);
    for (ptrdiff_t i = 0; i < count; i++) {
        uint64_t h = seed + (first_index + (uint64_t)i) * 0x9E3779B97F4A7C15u;
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
        h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
        y[i] = (uint32_t)(h >> 32) < threshold ? 0.0f : x[i] * factor;
    }
}

#define STRING_(x) #x
#define STRING(x) STRING_(x)
static const oplora_training_kernels NAME(training_kernels) = {
    .name = STRING(VARIANT),
    .widen = NAME(widen),
    .narrow_bf16 = NAME(narrow_bf16),
    .first_non_finite = NAME(first_non_finite),
    .rms_norm = NAME(rms_norm),
    .rms_norm_again = NAME(rms_norm_again),
    .rms_norm_backward = NAME(rms_norm_backward),
    .rotate = NAME(rotate),
    .causal_softmax = NAME(causal_softmax),
    .causal_softmax_again = NAME(causal_softmax_again),
    .softmax_backward = NAME(softmax_backward),
    .swiglu = NAME(swiglu),
    .swiglu_backward = NAME(swiglu_backward),
    .cross_entropy = NAME(cross_entropy),
    .axpy = NAME(axpy),
    .add_bias = NAME(add_bias),
    .scale_columns = NAME(scale_columns),
    .add_column_products = NAME(add_column_products),
    .dot = NAME(dot),
    .sum_of_squares = NAME(sum_of_squares),
    .affine = NAME(affine),
    .add_transposed_product = NAME(add_transposed_product),
    .adamw = NAME(adamw),
    .adamw_outer = NAME(adamw_outer),
    .dropout = NAME(dropout),
};
#undef STRING
#undef STRING_
#undef NAME
#undef JOIN
#undef JOIN_
#undef FAST_SUMS
