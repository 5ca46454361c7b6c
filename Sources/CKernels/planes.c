// Byte planes. The loops are plain C that the compiler turns into vector code, once for each instruction set.
#include "oplora_planes.h"

#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "elements are taken from memory as they are, little end first"
#endif

#define DEFINE_WIDTH(bits)                                                                                                       \
    ALWAYS_INLINE uint##bits##_t load_##bits(const uint8_t *from, size_t index) {                                               \
        uint##bits##_t value;                                                                                                    \
        memcpy(&value, from + index * sizeof value, sizeof value);                                                               \
        return value;                                                                                                            \
    }                                                                                                                            \
    ALWAYS_INLINE uint##bits##_t arranged_##bits(const uint8_t *raw, const uint8_t *base, size_t index, oplora_planes_mode mode) { \
        uint##bits##_t value = load_##bits(raw, index);                                                                          \
        if (mode == oplora_planes_rotated) return (uint##bits##_t)(value << 1 | value >> (bits - 1));                            \
        if (mode == oplora_planes_plain) return value;                                                                           \
        uint##bits##_t difference = (uint##bits##_t)(value - load_##bits(base, index));                                          \
        return (uint##bits##_t)((uint##bits##_t)(difference << 1) ^ (uint##bits##_t)(0 - (difference >> (bits - 1))));           \
    }                                                                                                                            \
    ALWAYS_INLINE void split_##bits(const uint8_t *restrict raw, const uint8_t *restrict base, size_t count,                     \
                                    oplora_planes_mode mode, uint8_t *restrict planes, size_t stride) {                                         \
        for (size_t plane = 0; plane < bits / 8; plane++) {                                                                      \
            uint8_t *target = planes + plane * stride;                                                                           \
            for (size_t index = 0; index < count; index++)                                                                       \
                target[index] = (uint8_t)(arranged_##bits(raw, base, index, mode) >> (8 * plane));                               \
        }                                                                                                                        \
    }                                                                                                                            \
    ALWAYS_INLINE void join_##bits(const uint8_t *const *planes, const uint8_t *restrict base, size_t count,                     \
                                   oplora_planes_mode mode, uint8_t *restrict raw) {                                             \
        const uint8_t *restrict plane[bits / 8];                                                                                 \
        for (size_t k = 0; k < bits / 8; k++) plane[k] = planes[k];                                                              \
        for (size_t index = 0; index < count; index++) {                                                                         \
            uint##bits##_t value = 0;                                                                                            \
            for (size_t k = 0; k < bits / 8; k++)                                                                                \
                value = (uint##bits##_t)(value | (uint##bits##_t)((uint##bits##_t)plane[k][index] << (8 * k)));                  \
            uint##bits##_t half = (uint##bits##_t)(value >> 1), lowest = (uint##bits##_t)(value & 1);                            \
            if (mode == oplora_planes_rotated) value = (uint##bits##_t)(half | (uint##bits##_t)(lowest << (bits - 1)));          \
            if (mode == oplora_planes_difference)                                                                                \
                value = (uint##bits##_t)((half ^ (uint##bits##_t)(0 - lowest)) + load_##bits(base, index));                      \
            memcpy(raw + index * sizeof value, &value, sizeof value);                                                            \
        }                                                                                                                        \
    }

DEFINE_WIDTH(8)
DEFINE_WIDTH(16)
DEFINE_WIDTH(32)
DEFINE_WIDTH(64)

// A loop for each mode and width, so that neither is looked at inside one.
#define EACH_MODE(bits, call)                                                                                                    \
    switch (mode) {                                                                                                              \
    case oplora_planes_plain: call(bits, oplora_planes_plain); return;                                                           \
    case oplora_planes_rotated: call(bits, oplora_planes_rotated); return;                                                       \
    case oplora_planes_difference: call(bits, oplora_planes_difference); return;                                                 \
    }                                                                                                                            \
    return
#define EACH_WIDTH(call)                                                                                                         \
    switch (width) {                                                                                                             \
    case 1: EACH_MODE(8, call);                                                                                                  \
    case 2: EACH_MODE(16, call);                                                                                                 \
    case 4: EACH_MODE(32, call);                                                                                                 \
    default: EACH_MODE(64, call);                                                                                                \
    }
#define SPLIT(bits, mode) split_##bits(raw, base, count, mode, planes, stride)
#define JOIN(bits, mode) join_##bits(planes, base, count, mode, raw)

#define DEFINE_VARIANT(name, attributes)                                                                                         \
    attributes static void split_##name(const uint8_t *raw, const uint8_t *base, size_t count, size_t width,                     \
                                        oplora_planes_mode mode, uint8_t *planes, size_t stride) {                                              \
        EACH_WIDTH(SPLIT)                                                                                                        \
    }                                                                                                                            \
    attributes static void join_##name(const uint8_t *const *planes, const uint8_t *base, size_t count, size_t width,            \
                                       oplora_planes_mode mode, uint8_t *raw) {                                                  \
        EACH_WIDTH(JOIN)                                                                                                         \
    }

DEFINE_VARIANT(portable, )
#if defined(__x86_64__)
DEFINE_VARIANT(avx2, __attribute__((target("avx2"))))

static int has_avx2(void) { return __builtin_cpu_supports("avx2"); }
#endif

void oplora_planes_split(const uint8_t *raw, const uint8_t *base, size_t count, size_t width, oplora_planes_mode mode, uint8_t *planes, size_t stride) {
#if defined(__x86_64__)
    if (has_avx2()) return split_avx2(raw, base, count, width, mode, planes, stride);
#endif
    split_portable(raw, base, count, width, mode, planes, stride);
}

void oplora_planes_join(const uint8_t *const *planes, const uint8_t *base, size_t count, size_t width, oplora_planes_mode mode,
                        uint8_t *raw) {
#if defined(__x86_64__)
    if (has_avx2()) return join_avx2(planes, base, count, width, mode, raw);
#endif
    join_portable(planes, base, count, width, mode, raw);
}

// MARK: Planes of few values

void oplora_planes_pack(const uint8_t *plane, size_t count, unsigned bits, const uint8_t *numbers, uint8_t *packed) {
    size_t each = 8 / bits, whole = count / each;
    for (size_t index = 0; index < whole; index++) {
        unsigned byte = 0;
        for (unsigned part = 0; part < each; part++) byte |= (unsigned)numbers[plane[index * each + part]] << (bits * part);
        packed[index] = (uint8_t)byte;
    }
    if (count % each) {
        unsigned byte = 0;
        for (size_t part = 0; part < count % each; part++) byte |= (unsigned)numbers[plane[whole * each + part]] << (bits * part);
        packed[whole] = (uint8_t)byte;
    }
}

void oplora_planes_unpack(const uint8_t *packed, size_t count, unsigned bits, const uint8_t *values, uint8_t *plane) {
    // What each byte stands for, up to eight values.
    uint8_t meanings[256][8];
    size_t each = 8 / bits, whole = count / each;
    for (unsigned byte = 0; byte < 256; byte++)
        for (unsigned part = 0; part < each; part++) meanings[byte][part] = values[byte >> (bits * part) & ((1u << bits) - 1)];
    switch (each) {
    case 8:
        for (size_t index = 0; index < whole; index++) memcpy(plane + 8 * index, meanings[packed[index]], 8);
        break;
    case 4:
        for (size_t index = 0; index < whole; index++) memcpy(plane + 4 * index, meanings[packed[index]], 4);
        break;
    default:
        for (size_t index = 0; index < whole; index++) memcpy(plane + 2 * index, meanings[packed[index]], 2);
    }
    if (count % each) memcpy(plane + whole * each, meanings[packed[whole]], count % each);
}
