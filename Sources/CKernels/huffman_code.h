// What the encoder and the decoder of byte planes share: the formats' sizes, little-endian memory, canonical codes, and the
// question for instruction sets.
#pragma once

#include "oplora_huffman.h"

#include <string.h>

enum {
    streams_max = oplora_huffman_streams,
    longest = oplora_huffman_longest,
    end_of_block = 256,
    // DEFLATE's own bound.
    longest_of_deflate = 15,
};

// MARK: Little-endian memory

static inline uint64_t load_64(const uint8_t *from) {
    uint64_t value;
    memcpy(&value, from, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline uint32_t load_32(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap32(value);
#endif
    return value;
}

static inline void store_64(uint8_t *to, uint64_t value) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    memcpy(to, &value, sizeof value);
}

static inline void store_32(uint8_t *to, uint32_t value) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap32(value);
#endif
    memcpy(to, &value, sizeof value);
}

// Where part `index` of `streams` begins. A plane has at most 2^20 bytes in a file; the division first keeps any size right.
static inline size_t part_start(size_t count, size_t streams, size_t index) {
    return count / streams * index + count % streams * index / streams;
}

static inline uint32_t reversed(uint32_t code, int length) {
    uint32_t result = 0;
    for (int bit = 0; bit < length; bit++) result |= (code >> bit & 1) << (length - 1 - bit);
    return result;
}

// MARK: Codes

// The canonical codes of RFC 1951, section 3.2.2, first bit lowest.
static inline void canonical_codes(const uint8_t *lengths, int symbols, uint16_t *codes) {
    uint32_t next[longest_of_deflate + 2] = {0}, of_length[longest_of_deflate + 1] = {0};
    for (int symbol = 0; symbol < symbols; symbol++) of_length[lengths[symbol]]++;
    of_length[0] = 0;
    for (int length = 1; length <= longest_of_deflate; length++) next[length + 1] = (next[length] + of_length[length]) << 1;
    for (int symbol = 0; symbol < symbols; symbol++)
        codes[symbol] = lengths[symbol] ? (uint16_t)reversed(next[lengths[symbol]]++, lengths[symbol]) : 0;
}

// The order in which a header gives the lengths of the code for lengths.
static const uint8_t length_order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

// MARK: Instruction sets

static inline bool has_bmi2(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt");
#else
    return false;
#endif
}
