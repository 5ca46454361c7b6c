// The bodies of verify.c. Included once for each instruction set, with VARIANT naming it, FUSED where it has fused multiply-adds, and
// WHOLE_PANELS where twelve accumulators of sixteen columns fit its registers.

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(f) JOIN(f, VARIANT)
#define INLINE static inline __attribute__((always_inline))

// MARK: Widening

INLINE wide NAME(splat)(double x) { return (wide){x, x, x, x, x, x, x, x}; }

INLINE wide NAME(widen_8)(const char *source, enum oplora_element type) {
    switch (type) {
    case oplora_element_f32: return __builtin_convertvector(*(const narrow *)source, wide);
    case oplora_element_bf16: return __builtin_convertvector((narrow)(__builtin_convertvector(*(const halves *)source, words) << 16), wide);
    case oplora_element_f16: {
        // The fields of binary32 are wider: moved into place and scaled by the difference of the biases, which is exact. What is
        // infinite or NaN would become finite and is put right.
        const words bits = __builtin_convertvector(*(const halves *)source, words);
        const words placed = (bits & 0x7fff) << 13 | (bits & 0x8000) << 16;
        const words top = (words)((bits & 0x7c00) == 0x7c00);
        const wide scaled = __builtin_convertvector((narrow)placed, wide) * 0x1p112;
        const wide special = __builtin_convertvector((narrow)(placed | 0x7f800000), wide);
        const whole mask = __builtin_convertvector((__attribute__((vector_size(32))) int32_t)top, whole);
        return (wide)(((whole)special & mask) | ((whole)scaled & ~mask));
    }
    default: return *(const wide *)source;
    }
}

INLINE void NAME(widen_typed)(const char *source, enum oplora_element type, size_t size, size_t rows, size_t source_stride, size_t count, size_t stride,
                              double *target) {
    for (size_t row = 0; row < rows; row++, source += source_stride * size, target += stride) {
        size_t i = 0;
        for (; i + lanes <= count; i += lanes) *(wide *)(target + i) = NAME(widen_8)(source + i * size, type);
        if (i == count) continue;
        char padded[64] = {0};
        memcpy(padded, source + i * size, (count - i) * size);
        const wide rest = NAME(widen_8)(padded, type);
        memcpy(target + i, &rest, (count - i) * sizeof(double));
    }
}

#define WIDEN(type, size) NAME(widen_typed)(source, type, size, rows, source_stride, count, stride, target)
static void NAME(widen)(const void *source, enum oplora_element type, size_t rows, size_t source_stride, size_t count, size_t stride, double *target) {
    switch (type) {
    case oplora_element_f32: return WIDEN(oplora_element_f32, 4);
    case oplora_element_bf16: return WIDEN(oplora_element_bf16, 2);
    case oplora_element_f16: return WIDEN(oplora_element_f16, 2);
    default: return WIDEN(oplora_element_f64, 8);
    }
}
#undef WIDEN

// MARK: Sums

#ifdef FUSED
#define EXACT_STEP(x, y, z) __builtin_elementwise_fma(x, y, z)
#else
// Where the product is exact, a sum with it is the same.
#define EXACT_STEP(x, y, z) ((z) + (x) * (y))
#endif
#define SEPARATE_STEP(x, y, z) ((z) + (x) * (y))

// acc of ROWS rows and WIDTH vectors of columns, and what follows from it.
#define SUMS(ROWS, WIDTH, STEP)                                                                                       \
    {                                                                                                                 \
        wide acc[ROWS][WIDTH];                                                                                        \
        for (int r = 0; r < ROWS; r++)                                                                                \
            for (int v = 0; v < WIDTH; v++) acc[r][v] = (wide){0};                                                    \
        for (size_t k = 0; k < rank; k++)                                                                             \
            for (int v = 0; v < WIDTH; v++) {                                                                         \
                const wide line = *(const wide *)(right + k * oplora_verify_panel + v * lanes);                       \
                for (int r = 0; r < ROWS; r++) {                                                                      \
                    const double factor = left[(size_t)r * rank + k];                                                 \
                    acc[r][v] = STEP(NAME(splat)(factor), line, acc[r][v]);                                           \
                }                                                                                                     \
            }                                                                                                         \
        for (int r = 0; r < ROWS; r++)                                                                                \
            for (int v = 0; v < WIDTH; v++) {                                                                         \
                const wide added = acc[r][v] * scale;                                                                 \
                const size_t at = (row + (size_t)r) * stride + column + (size_t)v * lanes;                            \
                *(wide *)(total + at) = is_first ? added : *(const wide *)(total + at) + added;                       \
                if (has_result) *(wide *)(result + at) = *(const wide *)((is_first ? weights : result) + at) + added; \
            }                                                                                                         \
    }

#if WHOLE_PANELS
#define PANEL_SUMS(ROWS, STEP)                                                                   \
    {                                                                                            \
        const double *right = panel_right;                                                       \
        const size_t column = p;                                                                 \
        SUMS(ROWS, 2, STEP)                                                                      \
    }
#else
#define PANEL_SUMS(ROWS, STEP)                                                                   \
    for (int half = 0; half < 2; half++) {                                                       \
        const double *right = panel_right + half * lanes;                                        \
        const size_t column = p + (size_t)half * lanes;                                          \
        SUMS(ROWS, 1, STEP)                                                                      \
    }
#endif

static void NAME(sums)(const oplora_verify_update *update, int is_first, size_t rows, size_t first, size_t count, size_t stride,
                       const double *weights, double *total, double *result) {
    const size_t rank = update->rank;
    const double scale = update->scale;
    const int has_result = result != NULL;
    for (size_t p = 0; p < count; p += oplora_verify_panel) {
        const double *panel_right = update->right + (first + p) * rank;
        size_t row = 0;
        if (update->products_are_exact)
            for (; row + row_tile <= rows; row += row_tile) {
                const double *left = update->left + row * rank;
                PANEL_SUMS(row_tile, EXACT_STEP)
            }
        for (; row < rows; row++) {
            const double *left = update->left + row * rank;
            if (update->products_are_exact)
                PANEL_SUMS(1, EXACT_STEP)
            else
                PANEL_SUMS(1, SEPARATE_STEP)
        }
    }
}

// MARK: Judging

INLINE wide NAME(magnitude)(wide x) { return (wide)((whole)x & 0x7fffffffffffffff); }
INLINE wide NAME(select)(whole mask, wide a, wide b) { return (wide)(((whole)a & mask) | ((whole)b & ~mask)); }
INLINE double NAME(sum)(wide x) { return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7])); }

// Rounded to nearest even in a type, as a number of binary64; infinite where it leaves the type's range.
INLINE wide NAME(round_to)(wide x, struct format format) {
    if (format.precision == 53) return x;
    const int dropped = 53 - format.precision;
    const whole bits = (whole)x, last = (bits >> dropped) & 1;
    const wide normal = (wide)((bits + (int64_t)((1ll << (dropped - 1)) - 1) + last) & -(int64_t)(1ll << dropped));
    // Below the normal numbers the last place stays where it is: adding a large number leaves no bit below it.
    const wide large = NAME(splat)(1.5 * power_of_two(52 + format.least - format.precision + 1));
    const wide size = NAME(magnitude)(x), small = (size + large) - large;
    const wide rounded = NAME(select)((whole)(size < power_of_two(format.least)), small, NAME(magnitude)(normal));
    const wide bounded = NAME(select)((whole)(rounded < power_of_two(format.limit - 1) * 2), rounded, NAME(splat)(INFINITY));
    return (wide)((whole)bounded | ((whole)x & (whole)NAME(splat)(-0.0)));
}

INLINE wide NAME(round_float)(wide x) { return __builtin_convertvector(__builtin_convertvector(x, narrow), wide); }

// The distance from one number of a type to the next, at the magnitude of x.
INLINE wide NAME(step)(wide x, struct format format) {
    const wide power = (wide)((whole)x & 0x7ff0000000000000);
    const wide least = NAME(splat)(power_of_two(format.least));
    return NAME(select)((whole)(power > least), power, least) * power_of_two(1 - format.precision);
}

// The place of a number among those of its type, zero being zero.
INLINE whole NAME(ordinal)(wide x, struct format format) {
    const wide size = NAME(magnitude)(x), least = NAME(splat)(power_of_two(format.least));
    const int dropped = 53 - format.precision;
    const whole normal = ((whole)size >> dropped) - ((whole)least >> dropped) + (int64_t)(1ll << (format.precision - 1));
    // Exact: a whole number of steps, below 2^53, with its bits at the end of the sum's.
    const wide steps = size * power_of_two(-format.least) * power_of_two(format.precision - 1);
    const whole subnormal = (whole)(steps + 0x1p52) & 0xfffffffffffff;
    const whole place = (whole)NAME(select)((whole)(size < least), (wide)subnormal, (wide)normal);
    const whole sign = (whole)x >> 63;
    return (place ^ sign) - sign;
}

INLINE int NAME(any)(whole mask) { return __builtin_reduce_or(mask) != 0; }

// Lanes under a mask, counted one by one in as many counters; and the first of them.
struct NAME(notes) {
    whole count;
    int64_t first;
};

INLINE void NAME(note)(struct NAME(notes) *notes, whole mask, int64_t index) {
    notes->count -= mask;
    if (notes->first != INT64_MAX || !NAME(any)(mask)) return;
    for (int i = lanes - 1; i >= 0; i--)
        if (mask[i]) notes->first = index + i;
}

INLINE void NAME(add_notes)(const struct NAME(notes) *notes, int64_t *found, int64_t *first) {
    *found += __builtin_reduce_add(notes->count);
    take_least(first, notes->first);
}

// The range of what a recipe gives for the ends of the range in which d lies.
struct NAME(range) {
    wide low, high;
};

// Rounded to binary32, and then to a type.
INLINE wide NAME(round_twice)(wide x, struct format format) {
    return NAME(round_to)(format.precision == 53 ? x : NAME(round_float)(x), format);
}

INLINE struct NAME(range) NAME(with_update_in)(struct format type, struct format format, wide w, wide d, wide off) {
    return (struct NAME(range)){NAME(round_twice)(w + NAME(round_twice)(d - off, type), format),
                                NAME(round_twice)(w + NAME(round_twice)(d + off, type), format)};
}

INLINE struct NAME(range) NAME(with_product_in)(struct format type, struct format format, wide w, wide d, wide off, double scale) {
    const wide product = d / scale, product_off = off / scale;
    const wide low = NAME(round_twice)(NAME(round_twice)(product - product_off, type) * scale, type);
    const wide high = NAME(round_twice)(NAME(round_twice)(product + product_off, type) * scale, type);
    return (struct NAME(range)){NAME(round_twice)(w + low, format), NAME(round_twice)(w + high, format)};
}

// The elements of a segment that has others than the correctly rounded ones: which they are, and what explains them.
INLINE void NAME(explain_as)(struct format format, size_t count, const double *weights, const double *merged, const double *total,
                             const double *result, const oplora_verify_bounds *bounds, size_t row, int64_t index,
                             oplora_verify_tally *tally) {
    const struct format bf16 = {8, -126, 128}, f16 = {11, -14, 16};
    const double scale = bounds->scale, error = bounds->errors[row], factor = bounds->factors ? bounds->factors[row] : 1;
    const struct NAME(notes) none = {{0}, INT64_MAX};
    struct NAME(notes) spoiled = none, differing = none, beyond = none, unexplained[oplora_verify_recipes];
    for (int k = 0; k < oplora_verify_recipes; k++) unexplained[k] = none;
    wide update = {0}, change = {0}, expected = {0}, square = {0}, residual = {0}, rounding = {0}, noise = {0};
    whole changed = {0}, expected_changed = {0}, ambiguous = {0}, right = {0};
    for (size_t i = 0; i < count; i += lanes) {
        wide w, m, d, y, norms;
        whole inside = {-1, -1, -1, -1, -1, -1, -1, -1};
        if (count - i >= lanes) {
            w = *(const wide *)(weights + i), m = *(const wide *)(merged + i), d = *(const wide *)(total + i), y = *(const wide *)(result + i);
            norms = *(const wide *)(bounds->norms + i);
        } else {
            w = m = d = y = norms = (wide){0};
            const size_t rest = count - i, bytes = rest * sizeof(double);
            memcpy(&w, weights + i, bytes), memcpy(&m, merged + i, bytes), memcpy(&d, total + i, bytes), memcpy(&y, result + i, bytes);
            memcpy(&norms, bounds->norms + i, bytes);
            for (size_t lane = rest; lane < lanes; lane++) inside[lane] = 0;
        }
        const int64_t at = index + (int64_t)i;
        const wide nearest = NAME(round_to)(y, format);
        // Bits and not values: −0 is not +0.
        const whole is_right = (whole)((whole)m == (whole)nearest);
        const whole is_finite = (whole)(NAME(magnitude)(m) < INFINITY);
        // An infinity or NaN that the base has and nothing was added to may stay.
        const whole kept = (whole)((whole)m == (whole)w) & (whole)(d == 0.0);
        const whole measured = inside & is_finite & (whole)(NAME(magnitude)(w) < INFINITY);
        const whole wrong = ~is_right & inside & (is_finite | ~kept);
        NAME(note)(&spoiled, inside & ~is_finite & ~kept, at);
        const wide zero = {0};
        const wide safe_d = NAME(select)(measured, d, zero), c = NAME(select)(measured, m - w, zero);
        const wide e = NAME(select)(measured & (whole)(NAME(magnitude)(nearest) < INFINITY), nearest - w, zero);
        update = EXACT_STEP(safe_d, safe_d, update);
        change = EXACT_STEP(safe_d, c, change);
        expected = EXACT_STEP(safe_d, e, expected);
        square = EXACT_STEP(c, c, square);
        residual = EXACT_STEP(c - safe_d, c - safe_d, residual);
        rounding = EXACT_STEP(e - safe_d, e - safe_d, rounding);
        changed |= (whole)(c != 0.0);
        expected_changed |= (whole)(e != 0.0);
        right -= measured & ~wrong;
        if (NAME(any)(wrong)) {
            NAME(note)(&differing, wrong, at);
            const whole distance = NAME(ordinal)(m, format) - NAME(ordinal)(nearest, format);
            const whole steps = (distance ^ (distance >> 63)) - (distance >> 63);
            for (int lane = 0; lane < lanes; lane++) {
                if (!(wrong[lane] & measured[lane])) continue;
                const int64_t number = steps[lane];
                const int slot = number <= 2 ? (int)number : 65 - __builtin_clzll((uint64_t)number - 1);
                tally->steps[slot < oplora_verify_histogram ? slot : oplora_verify_histogram - 1]++;
                if (number > tally->largest_steps) tally->largest_steps = number;
            }
        }
        const wide off = norms * error, spread = NAME(magnitude)(y) * bounds->relative + off * factor;
#define EXPLAIN(recipe, ends)                                                                                         \
    do {                                                                                                              \
        const struct NAME(range) given = ends;                                                                        \
        NAME(note)(&unexplained[recipe], ~((whole)(given.low <= m) & (whole)(m <= given.high)) & measured, at);       \
    } while (0)
        const struct NAME(range) plain = {NAME(round_twice)(y - spread, format), NAME(round_twice)(y + spread, format)};
        EXPLAIN(oplora_verify_plain, plain);
        ambiguous -= (whole)(plain.low != plain.high) & measured;
        if (bounds->recipes & 1 << oplora_verify_update_bf16) EXPLAIN(oplora_verify_update_bf16, NAME(with_update_in)(bf16, format, w, d, off));
        if (bounds->recipes & 1 << oplora_verify_update_f16) EXPLAIN(oplora_verify_update_f16, NAME(with_update_in)(f16, format, w, d, off));
        if (bounds->recipes & 1 << oplora_verify_product_bf16)
            EXPLAIN(oplora_verify_product_bf16, NAME(with_product_in)(bf16, format, w, d, off, scale));
        if (bounds->recipes & 1 << oplora_verify_product_f16)
            EXPLAIN(oplora_verify_product_f16, NAME(with_product_in)(f16, format, w, d, off, scale));
#undef EXPLAIN
        // The worst that is known: product, scaled product and update rounded to BF16, the sum rounded to the type.
        const wide largest = NAME(select)((whole)(NAME(magnitude)(y) > NAME(magnitude)(m)), y, m);
        const wide bound = bounds->roundings * 0.51 * NAME(step)(largest, format) + spread + NAME(magnitude)(d) * (3 * 0x1.02p-9) +
                           NAME(magnitude)(y) * bounds->coarse;
        NAME(note)(&beyond, (whole)(NAME(magnitude)(m - y) > bound) & measured, at);
        const wide weighted = safe_d * NAME(select)(measured, bound, zero);
        noise = EXACT_STEP(weighted, weighted, noise);
    }
    tally->update_squared += NAME(sum)(update);
    tally->update_times_change += NAME(sum)(change);
    tally->update_times_expected += NAME(sum)(expected);
    tally->change_squared += NAME(sum)(square);
    tally->residual_squared += NAME(sum)(residual);
    tally->rounding_squared += NAME(sum)(rounding);
    tally->noise_squared += NAME(sum)(noise);
    tally->changed += NAME(any)(changed);
    tally->expected_changed += NAME(any)(expected_changed);
    tally->steps[0] += __builtin_reduce_add(right);
    tally->looked_at += (int64_t)count;
    tally->ambiguous += __builtin_reduce_add(ambiguous);
    NAME(add_notes)(&spoiled, &tally->not_finite, &tally->first_not_finite);
    NAME(add_notes)(&differing, &tally->differing, &tally->first_differing);
    NAME(add_notes)(&beyond, &tally->beyond, &tally->first_beyond);
    for (int k = 0; k < oplora_verify_recipes; k++)
        NAME(add_notes)(&unexplained[k], &tally->unexplained[k], &tally->first_unexplained[k]);
}

// With a type known where it is compiled.
static void NAME(explain)(enum oplora_element type, size_t count, const double *weights, const double *merged, const double *total, const double *result,
                          const oplora_verify_bounds *bounds, size_t row, int64_t index, oplora_verify_tally *tally) {
#define EXPLAIN(type) NAME(explain_as)(format_of(type), count, weights, merged, total, result, bounds, row, index, tally)
    switch (type) {
    case oplora_element_f32: return EXPLAIN(oplora_element_f32);
    case oplora_element_bf16: return EXPLAIN(oplora_element_bf16);
    case oplora_element_f16: return EXPLAIN(oplora_element_f16);
    default: return EXPLAIN(oplora_element_f64);
    }
#undef EXPLAIN
}

// What a row of elements that are all the correctly rounded ones adds up to.
struct NAME(row_sums) {
    wide update, change, residual;
    whole changed, certain;
};

INLINE struct NAME(row_sums) NAME(no_sums)(void) {
    return (struct NAME(row_sums)){{0}, {0}, {0}, {0}, {-1, -1, -1, -1, -1, -1, -1, -1}};
}

// `scale` is two to the power of the type's precision.
INLINE void NAME(measure)(struct NAME(row_sums) *sums, wide w, wide m, wide d, wide y, double scale) {
    const wide c = m - w;
    // Nearer to y than half a step, away from zero and toward it, where the step below a power of two is half as large (the factor
    // takes the number, or one a little above, below it): then no other number of the type is as near.
    const wide above = (wide)((whole)m & 0x7ff0000000000000), below = (wide)((whole)(m * (1 - 0x1p-20)) & 0x7ff0000000000000);
    const wide away = (wide)((whole)((y - m) * scale) ^ ((whole)m & (whole)NAME(splat)(-0.0)));
    sums->certain &= (whole)(away < above) & (whole)(-away < below);
    sums->changed |= (whole)m ^ (whole)w;
    sums->update = EXACT_STEP(d, d, sums->update);
    sums->change = EXACT_STEP(d, c, sums->change);
    sums->residual = EXACT_STEP(c - d, c - d, sums->residual);
}

INLINE void NAME(add_row)(double update, double times, double rest, int is_changed, size_t count, oplora_verify_tally *tally) {
    tally->update_squared += update;
    tally->update_times_change += times;
    tally->update_times_expected += times;
    // c² = (c − d)² + 2·d·c − d².
    tally->change_squared += fmax(rest + 2 * times - update, 0);
    tally->residual_squared += rest;
    tally->rounding_squared += rest;
    tally->changed += is_changed;
    tally->expected_changed += is_changed;
    tally->steps[0] += (int64_t)count;
}

INLINE void NAME(add_sums)(const struct NAME(row_sums) *sums, size_t count, oplora_verify_tally *tally) {
    NAME(add_row)(NAME(sum)(sums->update), NAME(sum)(sums->change), NAME(sum)(sums->residual), __builtin_reduce_or(sums->changed) != 0, count,
                  tally);
}

static void NAME(judge)(enum oplora_element type, size_t rows, size_t count, size_t stride, const double *weights, const double *merged, const double *total,
                        const double *result, const oplora_verify_bounds *bounds, int64_t index, size_t columns,
                        oplora_verify_tally *tally) {
    const struct format format = format_of(type);
    const double scale = power_of_two(format.precision);
    for (size_t row = 0, at = 0; row < rows; row++, at += stride) {
        struct NAME(row_sums) sums = NAME(no_sums)();
        for (size_t i = at; i + lanes <= at + count; i += lanes)
            NAME(measure)(&sums, *(const wide *)(weights + i), *(const wide *)(merged + i), *(const wide *)(total + i),
                          *(const wide *)(result + i), scale);
        if (count % lanes == 0 && !bounds->is_thorough && __builtin_reduce_and(sums.certain))
            NAME(add_sums)(&sums, count, tally);
        else
            NAME(explain)(type, count, weights + at, merged + at, total + at, result + at, bounds, row, index + (int64_t)(row * columns),
                          tally);
    }
}

// A tile: `count` columns of some rows whose updates are in `total` [rows, tile_columns]. The types are constants where it is inlined.
INLINE void NAME(tile)(const char *base, enum oplora_element base_type, size_t base_size, const char *merged, enum oplora_element merged_type, size_t merged_size, size_t rows,
                       size_t columns, size_t count, const double *total, const oplora_verify_bounds *bounds, int64_t index,
                       oplora_verify_tally *tally) {
    const struct format format = format_of(merged_type);
    const double scale = power_of_two(format.precision);
    for (size_t row = 0; row < rows; row++, base += columns * base_size, merged += columns * merged_size, total += tile_columns) {
        struct NAME(row_sums) sums = NAME(no_sums)();
        for (size_t i = 0; i + lanes <= count; i += lanes) {
            const wide w = NAME(widen_8)(base + i * base_size, base_type), m = NAME(widen_8)(merged + i * merged_size, merged_type);
            const wide d = *(const wide *)(total + i);
            NAME(measure)(&sums, w, m, d, w + d, scale);
        }
        if (count % lanes == 0 && !bounds->is_thorough && __builtin_reduce_and(sums.certain)) {
            NAME(add_sums)(&sums, count, tally);
            continue;
        }
        double weights[tile_columns], stored[tile_columns], result[tile_columns];
        NAME(widen_typed)(base, base_type, base_size, 1, columns, count, tile_columns, weights);
        NAME(widen_typed)(merged, merged_type, merged_size, 1, columns, count, tile_columns, stored);
        for (size_t i = 0; i < count; i++) result[i] = weights[i] + total[i];
        NAME(explain)(merged_type, count, weights, stored, total, result, bounds, row, index + (int64_t)(row * columns), tally);
    }
}

// total [row_tile, tile_columns] = s·acc of one tile, whose left factor is laid out as [rank, row_tile].
static void NAME(tile_sums)(const double *left, const oplora_verify_update *update, size_t first, size_t count, double *total) {
    const size_t rank = update->rank;
    const double scale = update->scale;
    for (size_t p = 0; p < count; p += oplora_verify_panel)
        for (int half = 0; half < 2; half += 1 + WHOLE_PANELS) {
            enum { width = 1 + WHOLE_PANELS };
            const double *right = update->right + (first + p) * rank + half * lanes;
            wide acc[row_tile][width];
            for (int r = 0; r < row_tile; r++)
                for (int v = 0; v < width; v++) acc[r][v] = (wide){0};
            for (size_t k = 0; k < rank; k++)
                for (int v = 0; v < width; v++) {
                    const wide line = *(const wide *)(right + k * oplora_verify_panel + v * lanes);
                    for (int r = 0; r < row_tile; r++) acc[r][v] = EXACT_STEP(NAME(splat)(left[k * row_tile + (size_t)r]), line, acc[r][v]);
                }
            for (int r = 0; r < row_tile; r++)
                for (int v = 0; v < width; v++)
                    *(wide *)(total + (size_t)r * tile_columns + p + (size_t)(half + v) * lanes) = acc[r][v] * scale;
        }
}

// MARK: The first look

// Most elements of a right merge lie well within half a step of y, and for those y in binary32 is enough: with u = 2^-24 it is off by
// no more than the bound that holds for a sum in binary32 in any order, errors[row]·norms[column], and by u·|y| for the sum with W. An
// element that is nearer to it than half a step less that is the correctly rounded one. A panel with an element that is not so clear, one
// in ten or twenty, is looked at in binary64. Sums over a row of a tile are good enough where the bound of d is small beside d and beside
// what is rounded away, in the mean; where factors cancel it is not, and the row is left to binary64.

INLINE singles NAME(splat_single)(float x) { return (singles){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

INLINE singles NAME(widen_16)(const char *source, enum oplora_element type) {
    const signs bits = __builtin_convertvector(*(const shorts *)source, signs);
    if (type == oplora_element_bf16) return (singles)(bits << 16);
    // As in widen_8; what is infinite or NaN compares as nothing and is left open.
    const signs special = (signs)((bits & 0x7c00) == 0x7c00) & 0x7fc00000;
    return (singles)((signs)((singles)((bits & 0x7fff) << 13 | (bits & 0x8000) << 16) * 0x1p112f) | special);
}

#ifdef FUSED
#define SINGLE_STEP(x, y, z) __builtin_elementwise_fma(x, y, z)
#else
#define SINGLE_STEP(x, y, z) ((z) + (x) * (y))
#endif

// s·acc of one tile in binary32, whose left factor is laid out as [rank, row_tile]. WIDTH panels at once.
#define LOOK(WIDTH)                                                                                                          \
    {                                                                                                                        \
        const float *right = update->right_narrow + (first + p) * rank;                                                      \
        singles acc[row_tile][WIDTH];                                                                                        \
        for (int r = 0; r < row_tile; r++)                                                                                   \
            for (int v = 0; v < WIDTH; v++) acc[r][v] = (singles){0};                                                        \
        for (size_t k = 0; k < rank; k++)                                                                                    \
            for (int v = 0; v < WIDTH; v++) {                                                                                \
                const singles line = *(const singles *)(right + ((size_t)v * rank + k) * oplora_verify_panel);               \
                for (int r = 0; r < row_tile; r++)                                                                           \
                    acc[r][v] = SINGLE_STEP(NAME(splat_single)(left[k * row_tile + (size_t)r]), line, acc[r][v]);            \
            }                                                                                                                \
        for (int r = 0; r < row_tile; r++)                                                                                   \
            for (int v = 0; v < WIDTH; v++)                                                                                  \
                *(singles *)(total + (size_t)r * tile_columns + p + (size_t)v * oplora_verify_panel) = acc[r][v] * scale;    \
    }

static void NAME(look_sums)(const float *left, const oplora_verify_update *update, size_t first, size_t count, float *total) {
    const size_t rank = update->rank;
    const float scale = (float)update->scale;
    size_t p = 0;
#if WHOLE_PANELS
    for (; p + 2 * oplora_verify_panel <= count; p += 2 * oplora_verify_panel) LOOK(2)
#endif
    for (; p < count; p += oplora_verify_panel) LOOK(1)
}

// Whether the elements of a panel, from column on, are the correctly rounded ones, in binary64. `left` is a row of [rank, row_tile].
INLINE int NAME(is_right)(const char *base, const char *merged, enum oplora_element type, const double *left, const oplora_verify_update *update, size_t column,
                          double scale) {
    const double *right = update->right + column * update->rank;
    wide acc[2] = {{0}, {0}};
    for (size_t k = 0; k < update->rank; k++)
        for (int v = 0; v < 2; v++)
            acc[v] = EXACT_STEP(NAME(splat)(left[k * row_tile]), *(const wide *)(right + k * oplora_verify_panel + v * lanes), acc[v]);
    struct NAME(row_sums) sums = NAME(no_sums)();
    for (int v = 0; v < 2; v++) {
        const wide w = NAME(widen_8)(base + 2 * v * lanes, type), m = NAME(widen_8)(merged + 2 * v * lanes, type), d = acc[v] * update->scale;
        NAME(measure)(&sums, w, m, d, w + d, scale);
    }
    return __builtin_reduce_and(sums.certain) != 0;
}

// What rows that a first look has found right add up to.
struct NAME(looked_at) {
    wide square, change, residual;
    signs changed;
    size_t count;
};

INLINE wide NAME(halves_of)(singles x) {
    narrow parts[2];
    memcpy(parts, &x, sizeof parts);
    return __builtin_convertvector(parts[0], wide) + __builtin_convertvector(parts[1], wide);
}

// Whether all elements of a row of a tile, from column on, are certainly the correctly rounded ones; if so, adds what they add up to.
// Columns are whole panels. `total` is the row's update in binary32, `error` bounds it as a share of the columns' norms.
INLINE int NAME(look)(const char *base, const char *merged, enum oplora_element type, size_t column, size_t count, const float *total, const double *left,
                      const oplora_verify_update *update, double error, double norm_squares, struct NAME(looked_at) *sums) {
    const struct format format = format_of(type);
    const float scale = (float)power_of_two(format.precision), *norms = update->norms_narrow + column;
    // A little more for what these products round. What products and sums lose below the normal numbers is no share of anything: half of
    // the least number each, times the scale.
    const double lost = (2 * (double)update->rank + 4) * 0x1p-149 * fabs(update->scale);
    const singles slope = NAME(splat_single)((float)fmax(error * 1.0001 * (double)scale, 0x1p-100)), share = NAME(splat_single)(scale * 0x1p-22f);
    const singles least = NAME(splat_single)((float)(lost * 1.0001 * (double)scale + 0x1p-120));
    signs changed = {0};
    singles square = {0}, change = {0}, residual = {0};
    for (size_t i = 0; i < count; i += oplora_verify_panel) {
        const singles w = NAME(widen_16)(base + 2 * i, type), m = NAME(widen_16)(merged + 2 * i, type), d = *(const singles *)(total + i);
        const singles size = (singles)((signs)m & 0x7fffffff), open = SINGLE_STEP(*(const singles *)(norms + i), slope, SINGLE_STEP(size, share, least));
        // As in `measure`.
        const singles above = (singles)((signs)m & 0x7f800000), below = (singles)((signs)(m * (1 - 0x1p-20f)) & 0x7f800000);
        const singles away = (singles)((signs)(((w + d) - m) * scale) ^ ((signs)m & (int32_t)0x80000000));
        const signs certain = (signs)(away + open < above) & (signs)(open - away < below);
        if (!__builtin_reduce_and(certain) &&
            !NAME(is_right)(base + 2 * i, merged + 2 * i, type, left, update, column + i, power_of_two(format.precision)))
            return 0;
        changed |= (signs)m ^ (signs)w;
        const singles c = m - w, rest = c - d;
        square = SINGLE_STEP(d, d, square);
        change = SINGLE_STEP(d, c, change);
        residual = SINGLE_STEP(rest, rest, residual);
    }
    // What leaves the range of binary32 is summed in binary64.
    const singles all = square + residual + (singles)((signs)change & 0x7fffffff);
    if (!__builtin_reduce_and((signs)(all < INFINITY))) return 0;
    const wide squares = NAME(halves_of)(square), rests = NAME(halves_of)(residual);
    const double off = error * error * norm_squares + lost * lost * (double)count;
    if (!(off <= 1e-6 * NAME(sum)(squares) && off <= 1e-2 * NAME(sum)(rests))) return 0;
    sums->square += squares;
    sums->change += NAME(halves_of)(change);
    sums->residual += rests;
    sums->changed |= changed;
    sums->count += count;
    return 1;
}

// A row of a tile that a first look has left open, in binary64.
static void NAME(open_row)(const char *base, const char *merged, enum oplora_element type, size_t columns, size_t column, size_t width, size_t row,
                           const oplora_verify_update *update, const oplora_verify_bounds *bounds, int64_t index, oplora_verify_tally *tally) {
    double total[tile_columns];
    oplora_verify_update part = *update;
    part.left += row * update->rank;
    NAME(sums)(&part, 1, 1, column, width, tile_columns, NULL, total, NULL);
    oplora_verify_bounds near = *bounds;
    near.errors += row;
    near.norms += column;
    if (type == oplora_element_bf16)
        NAME(tile)(base, oplora_element_bf16, 2, merged, oplora_element_bf16, 2, 1, columns, width, total, &near, index, tally);
    else
        NAME(tile)(base, oplora_element_f16, 2, merged, oplora_element_f16, 2, 1, columns, width, total, &near, index, tally);
}

static void NAME(rows)(const char *base, enum oplora_element base_type, const char *merged, enum oplora_element merged_type, size_t rows, size_t columns,
                       const oplora_verify_update *update, const oplora_verify_bounds *bounds, int64_t index, oplora_verify_tally *tally) {
    const size_t base_size = size_of(base_type), merged_size = size_of(merged_type);
    double total[row_tile * tile_columns], packed[row_block * packed_rank];
    float narrow_total[row_tile * tile_columns], narrow_packed[row_block * packed_rank];
    const size_t rank = update->rank;
    const int is_packed = update->products_are_exact && rank <= packed_rank;
    const int is_looked_at = is_packed && update->right_narrow && !bounds->is_thorough && base_type == merged_type && merged_size == 2 &&
                             fabs(update->scale) > 0x1p-60 && fabs(update->scale) < 0x1p60;
    struct NAME(looked_at) looked_at = {{0}, {0}, {0}, {0}, 0};
    int left_open = 0;
    // A block of rows for each tile of columns, so that the part of A that belongs to it is loaded once for all of them.
    for (size_t block = 0; block < rows; block += row_block) {
        const size_t block_end = rows - block < row_block ? rows : block + row_block;
        for (size_t row = 0; is_packed && row < row_block; row++)
            for (size_t k = 0; k < rank; k++)
                packed[(row / row_tile * rank + k) * row_tile + row % row_tile] =
                    block + row < block_end ? update->left[(block + row) * rank + k] : 0;
        // Squares of numbers that are much smaller or larger have no place in binary32.
        int is_moderate = is_looked_at;
        for (size_t row = block; is_looked_at && row < block_end; row++) {
            const double largest = bounds->errors[row] * (double)update->largest_norm;
            is_moderate &= bounds->errors[row] == 0 || (largest > 1e-22 && largest < 1e8);
        }
        for (size_t i = 0; is_moderate && i < row_block * rank; i++) narrow_packed[i] = (float)packed[i];
        for (size_t column = 0; column < columns; column += tile_columns) {
            const size_t width = columns - column < tile_columns ? columns - column : tile_columns;
            double norm_squares = 0;
            for (size_t i = column; is_moderate && i < column + width; i++) norm_squares += bounds->norms[i] * bounds->norms[i];
            for (size_t row = block; row < block_end; row += row_tile) {
                const size_t count = block_end - row < row_tile ? block_end - row : row_tile;
                const char *before = base + (row * columns + column) * base_size, *after = merged + (row * columns + column) * merged_size;
                const int64_t at = index + (int64_t)(row * columns + column);
                if (is_moderate && width % oplora_verify_panel == 0 && left_open < patience) {
                    NAME(look_sums)(narrow_packed + (row - block) * rank, update, column, width, narrow_total);
                    for (size_t r = 0; r < count; r++) {
                        const size_t step = r * columns * 2;
#define LOOK_AT(type)                                                                                        \
    NAME(look)(before + step, after + step, type, column, width, narrow_total + r * tile_columns,                \
               packed + (row - block) * rank + r, update, bounds->errors[row + r], norm_squares, &looked_at)
                        if (merged_type == oplora_element_bf16 ? LOOK_AT(oplora_element_bf16) : LOOK_AT(oplora_element_f16)) {
                            left_open -= left_open > 0;
                            continue;
                        }
                        left_open += 8;
                        NAME(open_row)(before + step, after + step, merged_type, columns, column, width, row + r, update, bounds,
                                       at + (int64_t)(r * columns), tally);
                    }
                    continue;
                }
                left_open -= left_open > 0;
                oplora_verify_update part = *update;
                part.left += row * update->rank;
                if (is_packed)
                    NAME(tile_sums)(packed + (row - block) * rank, update, column, width, total);
                else
                    NAME(sums)(&part, 1, count, column, width, tile_columns, NULL, total, NULL);
                oplora_verify_bounds near = *bounds;
                near.errors += row;
                near.norms += column;
#define TILE(from, from_size, to, to_size) \
    NAME(tile)(before, from, from_size, after, to, to_size, count, columns, width, total, &near, at, tally)
                if (base_type == oplora_element_bf16 && merged_type == oplora_element_bf16)
                    TILE(oplora_element_bf16, 2, oplora_element_bf16, 2);
                else if (base_type == oplora_element_f32 && merged_type == oplora_element_f32)
                    TILE(oplora_element_f32, 4, oplora_element_f32, 4);
                else if (base_type == oplora_element_f16 && merged_type == oplora_element_f16)
                    TILE(oplora_element_f16, 2, oplora_element_f16, 2);
                else
                    TILE(base_type, base_size, merged_type, merged_size);
#undef TILE
            }
        }
    }
    if (looked_at.count > 0)
        NAME(add_row)(NAME(sum)(looked_at.square), NAME(sum)(looked_at.change), NAME(sum)(looked_at.residual),
                      __builtin_reduce_or(looked_at.changed) != 0, looked_at.count, tally);
}

#undef PANEL_SUMS
#undef SUMS
#undef LOOK
#undef LOOK_AT
#undef SINGLE_STEP
#undef EXACT_STEP
#undef SEPARATE_STEP
#undef INLINE
#undef NAME
#undef JOIN
#undef JOIN_
