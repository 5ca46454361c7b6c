// The statistics kernels, compiled from one source for each instruction set and chosen at run time.
#include "oplora_statistics.h"

#include <string.h>

#pragma STDC FP_CONTRACT OFF

// Elements that are looked at together, several times, while they lie in the first-level cache.
enum { block = 1024, lanes = 16, limits_at_once = 4 };

static double double_of_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint64_t bits_of_double(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static int is_less(uint64_t a, uint64_t b, enum oplora_statistics_element element) {
    if (element <= oplora_statistics_f64) return double_of_bits(a) < double_of_bits(b);
    return element == oplora_statistics_u64 ? a < b : (int64_t)a < (int64_t)b;
}

void oplora_statistics_add(oplora_statistics *total, const oplora_statistics *part, enum oplora_statistics_element element) {
    total->zeros += part->zeros;
    total->nan += part->nan;
    total->infinite += part->infinite;
    for (int bin = 0; bin < oplora_statistics_bins; bin++) total->bins[bin] += part->bins[bin];
    if (!part->finite) return;
    if (!total->finite) {
        total->finite = part->finite;
        total->mean = part->mean;
        total->squares = part->squares;
        total->minimum = part->minimum;
        total->maximum = part->maximum;
        return;
    }
    double before = (double)total->finite, added = (double)part->finite, distance = part->mean - total->mean;
    total->finite += part->finite;
    total->mean += distance * (added / (double)total->finite);
    total->squares += part->squares + distance * distance * (before * (added / (double)total->finite));
    if (is_less(part->minimum, total->minimum, element)) total->minimum = part->minimum;
    if (is_less(total->maximum, part->maximum, element)) total->maximum = part->maximum;
}

#define VARIANT portable
#include "statistics_variant.h"
#undef VARIANT

#if defined(__x86_64__)
#define VARIANT avx2
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#include "statistics_variant.h"
#pragma clang attribute pop
#undef VARIANT

#define VARIANT avx512
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi,bmi2,prefer-256-bit"))), apply_to = function)
#include "statistics_variant.h"
#pragma clang attribute pop
#undef VARIANT
#endif

const oplora_statistics_kernels *oplora_statistics_kernels_variant(int index) {
    if (index == 0) return &statistics_kernels_portable;
#if defined(__x86_64__)
    if (index == 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        return &statistics_kernels_avx2;
    if (index == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return &statistics_kernels_avx512;
#endif
    return NULL;
}

const oplora_statistics_kernels *oplora_statistics_kernels_best(void) {
    for (int index = 2; index > 0; index--) {
        const oplora_statistics_kernels *kernels = oplora_statistics_kernels_variant(index);
        if (kernels) return kernels;
    }
    return &statistics_kernels_portable;
}
