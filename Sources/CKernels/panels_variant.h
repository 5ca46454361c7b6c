// The bodies of the panel products. Included once for each instruction set, with VARIANT naming it.

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(f) JOIN(f, VARIANT)

// A block of `count` rows of the result, 8 lanes of its width: count accumulators.
#define ROWS(count)                                                                                        \
    {                                                                                                      \
        lanes sums[count];                                                                                 \
        for (int i = 0; i < count; i++) sums[i] = *(const lanes *)(result + (row + i) * width + lane);     \
        for (size_t j = first; j < end; j++) {                                                             \
            const lanes factor = *(const lanes *)(right + j * width + lane);                               \
            for (int i = 0; i < count; i++) sums[i] = sums[i] + left[(row + i) * columns + j] * factor;    \
        }                                                                                                  \
        for (int i = 0; i < count; i++) *(lanes *)(result + (row + i) * width + lane) = sums[i];           \
    }

static void NAME(product)(const double *left, size_t rows, size_t columns, const double *right, size_t width, double *result) {
    // The part of the narrow matrix that is at work stays in the cache of the second level.
    const size_t step = 4096 / width + 64;
    for (size_t first = 0; first < columns; first += step) {
        const size_t end = first + step < columns ? first + step : columns;
        for (size_t lane = 0; lane < width; lane += oplora_panel_lanes) {
            size_t row = 0;
            for (; row + 4 <= rows; row += 4) ROWS(4)
            for (; row < rows; row++) ROWS(1)
        }
    }
}

#undef ROWS

#define COLUMNS(count)                                                                                          \
    {                                                                                                           \
        lanes sums[count];                                                                                      \
        for (int i = 0; i < count; i++) sums[i] = *(const lanes *)(result + (column + i) * width + lane);       \
        for (size_t row = 0; row < rows; row++) {                                                               \
            const lanes factor = *(const lanes *)(right + row * width + lane);                                  \
            for (int i = 0; i < count; i++) sums[i] = sums[i] + left[row * columns + column + i] * factor;      \
        }                                                                                                       \
        for (int i = 0; i < count; i++) *(lanes *)(result + (column + i) * width + lane) = sums[i];             \
    }

static void NAME(product_transposed)(const double *left, size_t rows, size_t columns, const double *right, size_t width, double *result) {
    size_t column = 0;
    for (; column + 4 <= columns; column += 4)
        for (size_t lane = 0; lane < width; lane += oplora_panel_lanes) COLUMNS(4)
    for (; column < columns; column++)
        for (size_t lane = 0; lane < width; lane += oplora_panel_lanes) COLUMNS(1)
}

#undef COLUMNS
#undef NAME
#undef JOIN
#undef JOIN_
