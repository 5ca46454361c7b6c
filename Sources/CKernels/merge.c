// Merging W' = round(W + s·B·A), defined so that any two correct implementations write the same bytes:
//
//     acc(o,i) = Σ over k ascending of B[o,k]·A[k,i]     in binary64, from +0
//     y(o,i)   = W[o,i] + (s·acc)                        multiplied, rounded, added, rounded; one adapter after another
//     W'(o,i)  = y rounded once, to nearest even, from binary64 to the stored type
//
// Each path computes each element by these operations alone and in this order (merge_tiles.h), or shows by an estimate what they
// must give (merge_estimate.h).
#include "oplora_merge.h"

#include "merge_estimate.h"
#include "merge_tiles.h"

#include <math.h>
#include <string.h>

#pragma STDC FP_CONTRACT OFF

enum {
    // Rows that are walked for one chunk of columns before the next chunk; bounds the sums kept on the stack.
    row_block = 48,
    // Bytes of packed A that a chunk may take, so that it stays in the first-level cache while the rows pass.
    chunk_bytes = 24 * 1024,
};

ptrdiff_t oplora_merge_widen(const void *source, enum oplora_element type, size_t count, double *wide) {
    ptrdiff_t first = -1;
    for (size_t index = 0; index < count; index++) {
        wide[index] = widen_one(source, type, index);
        if (first < 0 && !is_finite(wide[index])) first = (ptrdiff_t)index;
    }
    return first;
}

ptrdiff_t oplora_merge_scan(const void *source, enum oplora_element type, size_t count, int *is_zero) {
    *is_zero = 1;
    for (size_t index = 0; index < count; index++) {
        double value = widen_one(source, type, index);
        if (value != 0) *is_zero = 0;
        if (!is_finite(value)) return (ptrdiff_t)index;
    }
    return -1;
}

void oplora_merge_pack(const double *a, size_t rank, size_t columns, double *packed) {
    size_t panels = (columns + panel - 1) / panel;
    for (size_t p = 0; p < panels; p++) {
        size_t width = columns - p * panel < panel ? columns - p * panel : panel;
        for (size_t k = 0; k < rank; k++) {
            double *line = packed + (p * rank + k) * panel;
            memcpy(line, a + k * columns + p * panel, width * sizeof *line);
            memset(line + width, 0, (panel - width) * sizeof *line);
        }
    }
}

int oplora_merge_estimate(const double *packed, const double *b, size_t rank, size_t columns, size_t rows, double scale, float *a_floats,
                          float *column_norms, float *row_errors) {
    const double up = 1 + 0x1p-20;  // more than all roundings here take away
    const size_t panels = (columns + panel - 1) / panel;
    if (rank > estimate_rank || !(fabs(scale) >= 0x1p-32 && fabs(scale) <= 0x1p32)) return 0;
    double largest_a = 0, largest_b = 0;
    for (size_t p = 0; p < panels; p++) {
        double squares[panel] = {0};
        for (size_t k = 0; k < rank; k++)
            for (size_t i = 0; i < panel; i++) {
                const double value = packed[(p * rank + k) * panel + i];
                a_floats[(p * rank + k) * panel + i] = (float)value;
                squares[i] += value * value;
            }
        for (size_t i = 0; i < panel; i++) {
            const double norm = sqrt(squares[i]);
            if (norm > largest_a) largest_a = norm;
            column_norms[p * panel + i] = (float)(norm * up);
        }
    }
    for (size_t row = 0; row < rows; row++) {
        double square = 0;
        for (size_t k = 0; k < rank; k++) square += b[row * rank + k] * b[row * rank + k];
        const double norm = sqrt(square);
        if (norm > largest_b) largest_b = norm;
        row_errors[row] = (float)(((double)rank + 4) * 0x1p-24 * 1.01 * fabs(scale) * norm * up);
    }
    // Neither the chains nor the sums of squares overflow, and the sums do not vanish.
    const double largest = fabs(scale) * largest_a * largest_b;
    return largest_a <= 0x1p40 && largest_b <= 0x1p40 && largest >= 0x1p-40 && largest <= 0x1p40;
}

// MARK: Walking the matrix

int oplora_merge_supports(int path) {
    if (path == oplora_merge_portable) return 1;
#if defined(__x86_64__)
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (path == oplora_merge_avx2) return avx2;
    if (path == oplora_merge_avx512) return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq");
#endif
    return 0;
}

typedef void (*tile_function)(const char *, enum oplora_element, char *, enum oplora_element, size_t, size_t, size_t, size_t, const oplora_merge_factors *, size_t,
                              struct lanes *, int *);

static tile_function tile_of(int path) {
#if defined(__x86_64__)
    if (path == oplora_merge_avx512) return tile_avx512;
    if (path == oplora_merge_avx2) return tile_avx2;
#endif
    (void)path;
    return portable_tile;
}

typedef void (*run_function)(const char *, char *, size_t, size_t, size_t, size_t, size_t, const oplora_merge_factors *,
                             const float *, struct float_lanes *, int *);

static run_function run_of(int path) {
#if defined(__x86_64__)
    if (path == oplora_merge_avx512) return run_avx512;
    if (path == oplora_merge_avx2) return run_avx2;
#endif
    (void)path;
    return portable_run;
}

// The last panel of a row has fewer columns than a panel: it is computed on a padded copy. The padding is zero on both
// sides, so it adds nothing to the sums.
static void narrow_tile(tile_function tile, const char *weights, enum oplora_element weight_type, char *merged, enum oplora_element merged_type, size_t rows,
                        size_t columns, size_t width, size_t row, size_t p, const oplora_merge_factors *factors, size_t factor_count,
                        struct lanes *lanes, int *not_finite) {
    char padded[panel * 8], result[panel * 8];
    const size_t weight_size = element_size(weight_type), merged_size = element_size(merged_type);
    memset(padded, 0, sizeof padded);
    for (size_t r = 0; r < rows; r++) {
        memcpy(padded, weights + r * columns * weight_size, width * weight_size);
        tile(padded, weight_type, result, merged_type, 1, panel, row + r, p, factors, factor_count, &lanes[r], not_finite);
        memcpy(merged + r * columns * merged_size, result, width * merged_size);
    }
}

static void narrow_run(run_function run, const char *weights, char *merged, size_t rows, size_t columns, size_t row, size_t p,
                       const oplora_merge_factors *factors, const float *b, struct float_lanes *lanes, int *not_finite) {
    const size_t width = columns - p * panel;
    uint16_t padded[panel] = {0}, result[panel];
    for (size_t r = 0; r < rows; r++) {
        memcpy(padded, weights + 2 * r * columns, 2 * width);
        run((const char *)padded, (char *)result, 1, panel, row + r, p, p + 1, factors, b + r, &lanes[r], not_finite);
        memcpy(merged + 2 * r * columns, result, 2 * width);
    }
}

// Adds the sums of rows, one row after the other, to those of their block.
static void add_lanes(const struct lanes *lanes, size_t rows, oplora_merge_sums *sums) {
    for (size_t r = 0; r < rows; r++) {
        const double *u = lanes[r].update, *c = lanes[r].change;
        sums->update_squared = sums->update_squared + (((u[0] + u[1]) + (u[2] + u[3])) + ((u[4] + u[5]) + (u[6] + u[7])));
        sums->update_times_change = sums->update_times_change + (((c[0] + c[1]) + (c[2] + c[3])) + ((c[4] + c[5]) + (c[6] + c[7])));
    }
}

// The number of panels that a chunk holds.
static size_t chunk_of(size_t panels, size_t bytes_of_a_panel) {
    const size_t chunk = bytes_of_a_panel ? chunk_bytes / bytes_of_a_panel : panels;
    return chunk < 1 ? 1 : chunk;
}

// One adapter in BF16, estimated.
static oplora_merge_sums estimated_rows(int path, const char *weights, char *merged, size_t rows, size_t columns,
                                        const oplora_merge_factors *factors) {
    const run_function run = run_of(path);
    const size_t panels = (columns + panel - 1) / panel, full = columns / panel;
    const size_t fitting = chunk_of(panels, factors->rank * panel * sizeof(float)), chunk = fitting < run_panels ? fitting : run_panels;
    oplora_merge_sums sums = {0, 0, 0};
    struct lanes lanes[row_block];
    float packed[estimate_rank * row_block];
    for (size_t block = 0; block < rows; block += row_block) {
        const size_t block_rows = rows - block < row_block ? rows - block : row_block;
        memset(lanes, 0, sizeof lanes);
        for (size_t r = 0; r < block_rows; r += run_rows)
            pack_rows(factors, block_rows - r < run_rows ? block_rows - r : run_rows, block + r, packed + r * factors->rank);
        for (size_t from = 0; from < panels; from += chunk) {
            const size_t to = panels - from < chunk ? panels : from + chunk, wide_to = to < full ? to : full;
            for (size_t r = 0; r < block_rows; r += run_rows) {
                const size_t count = block_rows - r < run_rows ? block_rows - r : run_rows, row = block + r;
                const float *b = packed + r * factors->rank;
                struct float_lanes parts[run_rows];
                memset(parts, 0, sizeof parts);
                const size_t start = 2 * (row * columns + from * panel);
                if (wide_to > from) run(weights + start, merged + start, count, columns, row, from, wide_to, factors, b, parts, &sums.not_finite);
                if (wide_to < to)
                    narrow_run(run, weights + 2 * (row * columns + full * panel), merged + 2 * (row * columns + full * panel), count, columns,
                               row, full, factors, b, parts, &sums.not_finite);
                for (size_t i = 0; i < count; i++)
                    for (int j = 0; j < 8; j++) {
                        lanes[r + i].update[j] += (double)parts[i].update[j] + (double)parts[i].update[j + 8];
                        lanes[r + i].change[j] += (double)parts[i].change[j] + (double)parts[i].change[j + 8];
                    }
            }
        }
        add_lanes(lanes, block_rows, &sums);
    }
    return sums;
}

oplora_merge_sums oplora_merge_rows(int path, const void *weights, enum oplora_element weight_type, void *merged, enum oplora_element merged_type, size_t rows,
                                    size_t columns, const oplora_merge_factors *factors, size_t factor_count) {
    const tile_function tile = tile_of(path);
    const size_t panels = (columns + panel - 1) / panel;
    const size_t weight_size = element_size(weight_type), merged_size = element_size(merged_type);
    if (factor_count == 1 && factors->is_estimated && weight_type == oplora_element_bf16 && merged_type == oplora_element_bf16)
        return estimated_rows(path, weights, merged, rows, columns, factors);
    size_t ranks = 0;
    for (size_t f = 0; f < factor_count; f++) ranks += factors[f].rank;
    const size_t chunk = chunk_of(panels, ranks * panel * sizeof(double));

    oplora_merge_sums sums = {0, 0, 0};
    struct lanes lanes[row_block];
    for (size_t block = 0; block < rows; block += row_block) {
        const size_t block_rows = rows - block < row_block ? rows - block : row_block;
        memset(lanes, 0, sizeof lanes);
        for (size_t from = 0; from < panels; from += chunk) {
            const size_t to = panels - from < chunk ? panels : from + chunk;
            for (size_t r = 0; r < block_rows; r += TILE_ROWS) {
                const size_t tile_rows = block_rows - r < TILE_ROWS ? block_rows - r : TILE_ROWS;
                for (size_t p = from; p < to; p++) {
                    const size_t start = (block + r) * columns + p * panel, width = columns - p * panel;
                    const char *source = (const char *)weights + start * weight_size;
                    char *target = (char *)merged + start * merged_size;
                    if (width >= panel)
                        tile(source, weight_type, target, merged_type, tile_rows, columns, block + r, p, factors, factor_count,
                             &lanes[r], &sums.not_finite);
                    else
                        narrow_tile(tile, source, weight_type, target, merged_type, tile_rows, columns, width, block + r, p,
                                    factors, factor_count, &lanes[r], &sums.not_finite);
                }
            }
        }
        add_lanes(lanes, block_rows, &sums);
    }
    return sums;
}
