// The part of a CRC-32 that a processor has instructions for.
#pragma once

#include <stddef.h>
#include <stdint.h>

/// The widest registers of a processor that are used, in bits.
enum { oplora_crc32_narrow = 128, oplora_crc32_wide = 256, oplora_crc32_widest = 512 };

/// Folds as many whole blocks of `bytes` as there are into 16 bytes which bring a CRC-32 register of zero to what the blocks
/// bring one of `value` to. Returns the bytes that were folded: 0 where the processor has no carry-less product, or too few
/// bytes are given for it to pay. Registers wider than `width`, or than the processor has, are not used.
size_t oplora_crc32_fold(int width, uint32_t value, const uint8_t *bytes, size_t count, uint8_t folded[16]);
