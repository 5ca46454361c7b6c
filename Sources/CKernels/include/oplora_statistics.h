// What the numbers of a tensor are like: extremes, mean, spread, counts and a histogram of magnitudes.
//
// All variants give the same bits. For floating types of 16 bits everything follows from how often each pattern occurs; for
// the others the binary64 sums run in sixteen lanes over blocks of a fixed size. Nothing is contracted.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "oplora_element.h"

enum {
    oplora_statistics_bins = 16,
    /// Numbers of the scratch memory: two counters for each pattern of 16 bits.
    oplora_statistics_scratch = 2 << 16,
};

typedef struct {
    uint64_t zeros, nan, infinite;
    /// Numbers that are neither zero, NaN nor infinite, by magnitude. Floating types: bin 0 below 2^-24, bin k (1 to 14)
    /// from 2^(2k-26) to below 2^(2k-24), bin 15 from 16 on. Integers of w bits, s = max(1, w/16): bin k from 2^(sk) to
    /// below 2^(s(k+1)).
    uint64_t bins[oplora_statistics_bins];
    /// How many numbers are finite. What follows is of these alone, and 0 where there are none.
    uint64_t finite;
    double mean;
    /// The sum of squared distances from the mean.
    double squares;
    /// The extremes: the bits of a binary64 number, of an int64_t or of a uint64_t, as the element type has it.
    uint64_t minimum, maximum;
} oplora_statistics;

typedef struct {
    const char *name;
    /// Statistics of `count` elements that lie anywhere, aligned or not. scratch is (oplora_statistics_scratch), of one thread
    /// alone, zero before and after.
    void (*measure)(oplora_statistics *result, const void *source, enum oplora_element element, ptrdiff_t count,
                    uint32_t *scratch);
} oplora_statistics_kernels;

/// Adds the statistics of further elements of the same type (Chan, Golub and LeVeque 1979). The order of additions counts.
void oplora_statistics_add(oplora_statistics *total, const oplora_statistics *part, enum oplora_element element);

/// The fastest kernels that this processor can run.
const oplora_statistics_kernels *oplora_statistics_kernels_best(void);
/// All variants that this processor can run, the portable one first; NULL past the last.
const oplora_statistics_kernels *oplora_statistics_kernels_variant(int index);
