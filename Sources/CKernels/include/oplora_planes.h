// Elements as byte planes and back.
#pragma once

#include <stddef.h>
#include <stdint.h>

/// What happens to an element of n bits before its bytes go to their planes.
typedef enum {
    /// Nothing.
    oplora_planes_plain = 0,
    /// It is rotated left by one bit.
    oplora_planes_rotated = 1,
    /// The base's element is taken away, modulo 2^n, and the sign of the difference d goes to the lowest bit:
    /// d << 1 ^ (d < 0 ? 2^n - 1 : 0).
    oplora_planes_difference = 2,
} oplora_planes_mode;

/// Splits `count` elements of `width` bytes, 1, 2, 4 or 8, little end first: byte k of every element goes to plane k, of which the
/// first byte is `planes` + k · stride. `base` is (count × width) bytes for differences, else it is not looked at.
void oplora_planes_split(const uint8_t *raw, const uint8_t *base, size_t count, size_t width, oplora_planes_mode mode,
                         uint8_t *planes, size_t stride);

/// The reverse: `planes` are `width` pointers to `count` bytes each, and raw is (count × width) bytes, which may not overlap them.
void oplora_planes_join(const uint8_t *const *planes, const uint8_t *base, size_t count, size_t width, oplora_planes_mode mode,
                        uint8_t *raw);

/// Writes the numbers of `plane`'s bytes among 2^bits values, bits of 1, 2 or 4 for each byte, the first byte's lowest. numbers is
/// (256). packed is (⌈count·bits/8⌉); bits beyond the last byte's are zero.
void oplora_planes_pack(const uint8_t *plane, size_t count, unsigned bits, const uint8_t *numbers, uint8_t *packed);

/// The reverse: values is (2^bits).
void oplora_planes_unpack(const uint8_t *packed, size_t count, unsigned bits, const uint8_t *values, uint8_t *plane);
