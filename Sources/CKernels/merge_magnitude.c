// The magnitudes of weight-decomposed adapters; oplora_merge.h has the definition. Each element is computed by the operations
// named there and in that order; nothing may be contracted.
#include "merge_elements.h"

#include <math.h>

#pragma STDC FP_CONTRACT OFF

enum { norm_lanes = 8 };

static double sum_of_lanes(const double *lanes, size_t stride) {
    const double *l = lanes;
    const size_t s = stride;
    return ((l[0] + l[s]) + (l[2 * s] + l[3 * s])) + ((l[4 * s] + l[5 * s]) + (l[6 * s] + l[7 * s]));
}

static void store(double y, const void *weights, enum oplora_element weight_type, void *merged, enum oplora_element merged_type, size_t index, oplora_merge_sums *sums) {
    narrow_one(y, merged, merged_type, index);
    const double weight = widen_one(weights, weight_type, index), stored = widen_one(merged, merged_type, index);
    if (!is_finite(stored)) sums->not_finite = 1;
    const double update = y - weight, change = stored - weight;
    sums->update_squared += update * update;
    sums->update_times_change += update * change;
}

oplora_merge_sums oplora_merge_scale_rows(const double *u, const double *magnitudes, const void *weights, enum oplora_element weight_type, void *merged,
                                          enum oplora_element merged_type, size_t rows, size_t columns) {
    oplora_merge_sums sums = {0, 0, 0};
    for (size_t row = 0; row < rows; row++) {
        double lanes[norm_lanes] = {0};
        const double *line = u + row * columns;
        size_t i = 0;
        for (; i + norm_lanes <= columns; i += norm_lanes)
            for (size_t j = 0; j < norm_lanes; j++) lanes[j] = lanes[j] + line[i + j] * line[i + j];
        for (size_t j = 0; i + j < columns; j++) lanes[j] = lanes[j] + line[i + j] * line[i + j];
        const double ratio = magnitudes[row] / sqrt(sum_of_lanes(lanes, 1));
        for (i = 0; i < columns; i++) store(ratio * line[i], weights, weight_type, merged, merged_type, row * columns + i, &sums);
    }
    return sums;
}

void oplora_merge_add_squares(const double *u, size_t rows, size_t columns, size_t first_row, double *lanes) {
    for (size_t row = 0; row < rows; row++) {
        const double *line = u + row * columns;
        double *lane = lanes + (first_row + row) % norm_lanes * columns;
        for (size_t i = 0; i < columns; i++) lane[i] = lane[i] + line[i] * line[i];
    }
}

void oplora_merge_column_ratios(const double *lanes, const double *magnitudes, size_t columns, double *ratios) {
    for (size_t i = 0; i < columns; i++) ratios[i] = magnitudes[i] / sqrt(sum_of_lanes(lanes + i, columns));
}

oplora_merge_sums oplora_merge_scale_columns(const double *u, const double *ratios, const void *weights, enum oplora_element weight_type, void *merged,
                                             enum oplora_element merged_type, size_t rows, size_t columns) {
    oplora_merge_sums sums = {0, 0, 0};
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < columns; i++)
            store(ratios[i] * u[row * columns + i], weights, weight_type, merged, merged_type, row * columns + i, &sums);
    return sums;
}
