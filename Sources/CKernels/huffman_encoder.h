// The encoder's memory, which counting and writing share.
#pragma once

#include "huffman_code.h"

struct oplora_huffman_encoder {
    // Whether to leave out what not every processor has.
    bool is_portable;
    // For two neighbours a, b at a + 256·b: their codes' bits at the top, the number of bits at the bottom. Entries of
    // bytes that do not occur are zero or of an earlier plane; no entry has more than 24 bits.
    uint64_t pairs[256 * 256];
    // How often each pair occurs; zero between one plane and the next.
    uint32_t counts[256 * 256];
};

static inline bool uses_avx2(const oplora_huffman_encoder *encoder) {
#if defined(__x86_64__)
    return !encoder->is_portable && __builtin_cpu_supports("avx2") && has_bmi2();
#else
    (void)encoder;
    return false;
#endif
}
