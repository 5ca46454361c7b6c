// The element types of the merge, one element at a time: widened exactly to binary64, and rounded once from it.
#pragma once

#include "float_bits.h"
#include "oplora_merge.h"

static inline size_t element_size(enum oplora_element type) {
    switch (type) {
    case oplora_element_f32: return 4;
    case oplora_element_f64: return 8;
    default: return 2;
    }
}

// MARK: Scalar conversions

static inline double widen_half(uint16_t half) {
    uint64_t sign = (uint64_t)(half & 0x8000) << 48;
    uint64_t exponent = (half >> 10) & 31, fraction = half & 0x3ff;
    if (exponent == 31) return double_of_bits(sign | 0x7ff0000000000000ull | fraction << 42);
    if (exponent == 0) {
        // A multiple of 2^-24, which binary64 holds exactly.
        double magnitude = (double)fraction * 0x1p-24;
        return sign ? -magnitude : magnitude;
    }
    return double_of_bits(sign | (exponent + 1008) << 52 | fraction << 42);
}

static inline double widen_one(const void *source, enum oplora_element type, size_t index) {
    switch (type) {
    case oplora_element_f32: return ((const float *)source)[index];
    case oplora_element_bf16: return float_of_bits((uint32_t)((const uint16_t *)source)[index] << 16);
    case oplora_element_f16: return widen_half(((const uint16_t *)source)[index]);
    default: return ((const double *)source)[index];
    }
}

// Rounds to nearest even into a 16-bit type with `fraction` stored bits, exponent bias `bias` and largest exponent field
// `top` (that of infinity), straight from the bits of binary64.
static inline uint16_t narrow_16(double value, int fraction, int bias, int top) {
    uint64_t bits = bits_of_double(value);
    uint16_t sign = (uint16_t)(bits >> 48 & 0x8000);
    uint64_t magnitude = bits & 0x7fffffffffffffffull;
    uint16_t infinity = (uint16_t)(top << fraction);
    if (magnitude > 0x7ff0000000000000ull) return (uint16_t)(sign | infinity | 1u << (fraction - 1));
    int exponent = (int)(magnitude >> 52) - 1023 + bias;
    if (exponent >= 1) {
        int dropped = 52 - fraction;
        uint64_t rounded = magnitude + ((1ull << (dropped - 1)) - 1) + (magnitude >> dropped & 1);
        rounded = (rounded >> dropped) - ((uint64_t)(1023 - bias) << fraction);
        return (uint16_t)(sign | (rounded > infinity ? infinity : (uint16_t)rounded));
    }
    // Below the normal numbers the last place stays where it is and more bits are dropped.
    int dropped = 52 - fraction + 1 - exponent;
    if (dropped > 54) return sign;
    uint64_t significand = (magnitude & 0xfffffffffffffull) | (magnitude >> 52 ? 1ull << 52 : 0);
    uint64_t kept = dropped > 53 ? 0 : significand >> dropped;
    uint64_t rest = significand & ((1ull << dropped) - 1), half = 1ull << (dropped - 1);
    if (rest > half || (rest == half && (kept & 1))) kept++;
    return (uint16_t)(sign | kept);
}

static inline void narrow_one(double value, void *target, enum oplora_element type, size_t index) {
    switch (type) {
    case oplora_element_f32: ((float *)target)[index] = (float)value; break;
    case oplora_element_bf16: ((uint16_t *)target)[index] = narrow_16(value, 7, 127, 255); break;
    case oplora_element_f16: ((uint16_t *)target)[index] = narrow_16(value, 10, 15, 31); break;
    default: ((double *)target)[index] = value; break;
    }
}

static inline int is_finite(double value) { return (bits_of_double(value) & 0x7ff0000000000000ull) != 0x7ff0000000000000ull; }
