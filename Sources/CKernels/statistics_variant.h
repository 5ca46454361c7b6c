// The statistics kernels of one instruction set, named by VARIANT.

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(f) JOIN(f, VARIANT)

static inline double NAME(sum_of_lanes)(double sums[lanes]) {
    for (int width = lanes / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; lane++) sums[lane] += sums[lane + width];
    return sums[0];
}

// Mean and squares from the sums of count > 0 distances from `origin`, which is one of the numbers: so the square of its
// distance from the mean is at most `squares`, and the subtraction loses at most as many bits as `count` has.
static inline void NAME(moments)(oplora_statistics *result, double origin, double sums[lanes], double squares[lanes], ptrdiff_t count) {
    double sum = NAME(sum_of_lanes)(sums);
    double rest = NAME(sum_of_lanes)(squares) - sum * (sum / (double)count);
    result->mean = origin + sum / (double)count;
    result->squares = rest < 0 ? 0 : rest;
}

#include "statistics_half.h"

static void NAME(measure_halves)(oplora_statistics *result, const char *source, ptrdiff_t count, enum oplora_element element, uint32_t *scratch) {
    for (ptrdiff_t start = 0; start < count; start += half_most) {
        oplora_statistics part = {0};
        ptrdiff_t some = count - start < half_most ? count - start : half_most;
        if (element == oplora_element_bf16) NAME(measure_half)(&part, source + 2 * start, some, 7, 127, scratch);
        else NAME(measure_half)(&part, source + 2 * start, some, 10, 15, scratch);
        oplora_statistics_add(result, &part, element);
    }
}

// Each other element type: how it is stored; its magnitude, as a type of which a block can be counted and that the vector units
// compare; a key that is ordered as the numbers are; and how a key becomes a number.
#define FLOATING 1
#define ELEMENT f32
#define STORED int32_t
#define KEY int32_t
#define MAGNITUDE int32_t
#define FRACTION 23
#define BIAS 127
#include "statistics_element.h"

#define ELEMENT f64
#define STORED int64_t
#define KEY int64_t
#define MAGNITUDE int64_t
#define FRACTION 52
#define BIAS 1023
#include "statistics_element.h"
#undef FLOATING

#define FLOATING 0
#define ELEMENT i8
#define STORED int8_t
#define KEY int16_t
#define MAGNITUDE int16_t
#include "statistics_element.h"

#define ELEMENT u8
#define STORED uint8_t
#define KEY int16_t
#define MAGNITUDE int16_t
#include "statistics_element.h"

#define ELEMENT i16
#define STORED int16_t
#define KEY int32_t
#define MAGNITUDE int32_t
#include "statistics_element.h"

#define ELEMENT u16
#define STORED uint16_t
#define KEY int32_t
#define MAGNITUDE int32_t
#include "statistics_element.h"

#define ELEMENT i32
#define STORED int32_t
#define KEY int64_t
#define MAGNITUDE int64_t
#include "statistics_element.h"

#define ELEMENT u32
#define STORED uint32_t
#define KEY int64_t
#define MAGNITUDE int64_t
#include "statistics_element.h"

#define ELEMENT i64
#define STORED int64_t
#define KEY int64_t
#define MAGNITUDE uint64_t
#include "statistics_element.h"

#define ELEMENT u64
#define STORED uint64_t
#define KEY uint64_t
#define MAGNITUDE uint64_t
#include "statistics_element.h"
#undef FLOATING

static void NAME(measure)(oplora_statistics *result, const void *source, enum oplora_element element, ptrdiff_t count, uint32_t *scratch) {
    const char *bytes = source;
    memset(result, 0, sizeof *result);
    switch (element) {
    case oplora_element_bf16:
    case oplora_element_f16: NAME(measure_halves)(result, bytes, count, element, scratch); break;
    case oplora_element_f32: NAME(measure_f32)(result, bytes, count); break;
    case oplora_element_f64: NAME(measure_f64)(result, bytes, count); break;
    case oplora_element_i8: NAME(measure_i8)(result, bytes, count); break;
    case oplora_element_u8: NAME(measure_u8)(result, bytes, count); break;
    case oplora_element_i16: NAME(measure_i16)(result, bytes, count); break;
    case oplora_element_u16: NAME(measure_u16)(result, bytes, count); break;
    case oplora_element_i32: NAME(measure_i32)(result, bytes, count); break;
    case oplora_element_u32: NAME(measure_u32)(result, bytes, count); break;
    case oplora_element_i64: NAME(measure_i64)(result, bytes, count); break;
    case oplora_element_u64: NAME(measure_u64)(result, bytes, count); break;
    }
}

static const oplora_statistics_kernels NAME(statistics_kernels) = {
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
    .name = TEXT(VARIANT),
#undef TEXT
#undef TEXT_
    .measure = NAME(measure),
};

#undef NAME
#undef JOIN
#undef JOIN_
