// The statistics kernels, compiled from one source for each instruction set and chosen at run time.
#include "oplora_statistics.h"

#include "float_bits.h"
#include "instruction_sets.h"

#include <string.h>

#pragma STDC FP_CONTRACT OFF

// Elements that are looked at together, several times, while they lie in the first-level cache.
enum { block = 1024, lanes = 16, limits_at_once = 4 };

static int is_less(uint64_t a, uint64_t b, enum oplora_element element) {
    if (element <= oplora_element_f64) return double_of_bits(a) < double_of_bits(b);
    return element == oplora_element_u64 ? a < b : (int64_t)a < (int64_t)b;
}

// Adds the moments of further numbers, of which there are some.
static void add_moments(oplora_statistics *total, uint64_t count, double mean, double squares) {
    double before = (double)total->finite, added = (double)count, distance = mean - total->mean;
    total->finite += count;
    total->mean += distance * (added / (double)total->finite);
    total->squares += squares + distance * distance * (before * (added / (double)total->finite));
}

void oplora_statistics_add(oplora_statistics *total, const oplora_statistics *part, enum oplora_element element) {
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
    add_moments(total, part->finite, part->mean, part->squares);
    if (is_less(part->minimum, total->minimum, element)) total->minimum = part->minimum;
    if (is_less(total->maximum, part->maximum, element)) total->maximum = part->maximum;
}

// Floating types of 16 bits; see statistics_half.h.

// Below this many numbers, tables of all patterns do not pay. At most `half_most` are counted at a time.
enum { half_patterns = 1 << 16, half_few = 2048, half_most = 1 << 30 };

// Of the numbers with one sign and exponent: how many, and sums of their fractions (without the hidden bit) and squares of them.
typedef struct {
    uint64_t count, sum, squares;
} half_sums;

// Ordered as the numbers are, and its own inverse.
static inline int half_key(uint16_t pattern) { return (int16_t)(pattern ^ (pattern & 0x8000 ? 0x7FFF : 0)); }

// 2 to an exponent that a normal number can have.
static double power_of_two(int exponent) { return double_of_bits((uint64_t)(1023 + exponent) << 52); }

static uint64_t half_extreme(int key, int fraction, int bias) {
    uint16_t pattern = (uint16_t)half_key((uint16_t)key);
    int biased = (pattern & 0x7FFF) >> fraction, rest = pattern & ((1 << fraction) - 1);
    double magnitude = (biased ? rest + (1 << fraction) : rest) * power_of_two((biased ? biased : 1) - bias - fraction);
    // A zero has no sign here.
    return bits_of_double((pattern & 0x8000 ? -magnitude : magnitude) + 0.0);
}

static int half_bin(int exponent) { return exponent < -24 ? 0 : exponent >= 4 ? oplora_statistics_bins - 1 : (exponent + 26) >> 1; }

// Bins, mean and squares from the exact sums; `subnormal` counts numbers below all normal ones by their highest bit.
static void half_finish(oplora_statistics *result, const half_sums *sums, const uint64_t *subnormal, int fraction, int bias) {
    const int exponents = 1 << (15 - fraction);
    for (int bit = 0; bit < fraction; bit++) result->bins[half_bin(bit + 1 - bias - fraction)] += subnormal[bit];
    for (int biased = 0; biased < exponents; biased++)
        for (int sign = 0; sign < 2; sign++) {
            half_sums of = sums[sign * exponents + biased];
            if (!of.count) continue;
            uint64_t sum = of.sum, squares = of.squares;
            if (biased) {
                result->bins[half_bin(biased - bias)] += of.count;
                squares += (2 * of.sum << fraction) + (of.count << 2 * fraction);
                sum += of.count << fraction;
            }
            double unit = power_of_two((biased ? biased : 1) - bias - fraction);
            unsigned __int128 spread = (unsigned __int128)of.count * squares - (unsigned __int128)sum * sum;
            double mean = (double)sum / (double)of.count * unit;
            add_moments(result, of.count, sign ? -mean : mean, (double)spread / (double)of.count * (unit * unit));
        }
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
    static const oplora_statistics_kernels *const variants[instruction_sets] = {
        &statistics_kernels_portable,
#if defined(__x86_64__)
        &statistics_kernels_avx2,
        &statistics_kernels_avx512,
#endif
    };
    return index >= 0 && index < instruction_sets && has_instruction_set(index) ? variants[index] : NULL;
}

const oplora_statistics_kernels *oplora_statistics_kernels_best(void) { return oplora_statistics_kernels_variant(best_instruction_set()); }
