// CRC-32 by carry-less products, after V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
// Instruction", Intel, 2009. A block of 128 bits may be multiplied by x^d modulo the polynomial and added to the block d bits
// further on without a change of the remainder.
#include "oplora_crc32.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

// For a distance of d bits: x^(d + 32) for the low half of a block and x^(d - 32) for the high half, modulo the polynomial.
// The bits are reflected, as everywhere in this CRC-32; a product of reflected numbers comes out one bit too low, so the
// constants stand one bit higher.
#define DISTANCE_128 0x1751997d0, 0x0ccaa009e
#define DISTANCE_512 0x154442bd4, 0x1c6e41596
#define DISTANCE_1024 0x1e88ef372, 0x14a7fe880
#define DISTANCE_2048 0x11542778a, 0x1322d1430

#define CARRYLESS __attribute__((target("pclmul,sse4.1")))
#define CARRYLESS_WIDE __attribute__((target("avx2,vpclmulqdq,pclmul,sse4.1")))
#define CARRYLESS_WIDEST __attribute__((target("avx512f,avx512vl,avx2,vpclmulqdq,pclmul,sse4.1")))

CARRYLESS static inline __m128i constants(uint64_t low, uint64_t high) { return _mm_set_epi64x((long long)high, (long long)low); }

// `block`, moved on by the distance, in sum with what is there.
CARRYLESS static inline __m128i fold(__m128i block, __m128i distance, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(block, distance, 0x00), high = _mm_clmulepi64_si128(block, distance, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// A register at the start is the same as one of zero and the first 32 bits changed by it.
CARRYLESS static inline __m128i start(uint32_t value) { return _mm_cvtsi32_si128((int)value); }

// Several blocks are in flight, because each product waits some cycles for the one before.
CARRYLESS static size_t fold_blocks(uint32_t value, const uint8_t *bytes, size_t count, uint8_t folded[16]) {
    enum { lanes = 4 };
    const __m128i *blocks = (const __m128i *)bytes;
    size_t groups = count / (16 * lanes);
    __m128i state[lanes];
    for (int lane = 0; lane < lanes; lane++) state[lane] = _mm_loadu_si128(blocks++);
    state[0] = _mm_xor_si128(state[0], start(value));
    __m128i distance = constants(DISTANCE_512);
    for (size_t group = 1; group < groups; group++)
        for (int lane = 0; lane < lanes; lane++) state[lane] = fold(state[lane], distance, _mm_loadu_si128(blocks++));
    distance = constants(DISTANCE_128);
    for (int lane = 1; lane < lanes; lane++) state[lane] = fold(state[lane - 1], distance, state[lane]);
    _mm_storeu_si128((__m128i *)folded, state[lanes - 1]);
    return groups * 16 * lanes;
}

CARRYLESS_WIDE static size_t fold_wide_blocks(uint32_t value, const uint8_t *bytes, size_t count, uint8_t folded[16]) {
    enum { lanes = 4 };
    const __m256i *blocks = (const __m256i *)bytes;
    size_t groups = count / (32 * lanes);
    __m256i state[lanes];
    for (int lane = 0; lane < lanes; lane++) state[lane] = _mm256_loadu_si256(blocks++);
    state[0] = _mm256_xor_si256(state[0], _mm256_zextsi128_si256(start(value)));
    __m256i distance = _mm256_broadcastsi128_si256(constants(DISTANCE_1024));
    for (size_t group = 1; group < groups; group++)
        for (int lane = 0; lane < lanes; lane++) {
            __m256i low = _mm256_clmulepi64_epi128(state[lane], distance, 0x00);
            __m256i high = _mm256_clmulepi64_epi128(state[lane], distance, 0x11);
            state[lane] = _mm256_xor_si256(_mm256_xor_si256(low, high), _mm256_loadu_si256(blocks++));
        }
    __m128i last = _mm_setzero_si128(), step = constants(DISTANCE_128);
    for (int lane = 0; lane < lanes; lane++) {
        last = fold(last, step, _mm256_castsi256_si128(state[lane]));
        last = fold(last, step, _mm256_extracti128_si256(state[lane], 1));
    }
    _mm_storeu_si128((__m128i *)folded, last);
    return groups * 32 * lanes;
}

CARRYLESS_WIDEST static inline __m512i fold_widest(__m512i blocks, __m512i distance, __m512i next) {
    __m512i low = _mm512_clmulepi64_epi128(blocks, distance, 0x00), high = _mm512_clmulepi64_epi128(blocks, distance, 0x11);
    enum { sum_of_three = 0x96 };
    return _mm512_ternarylogic_epi64(low, high, next, sum_of_three);
}

CARRYLESS_WIDEST static size_t fold_widest_blocks(uint32_t value, const uint8_t *bytes, size_t count, uint8_t folded[16]) {
    enum { lanes = 4 };
    const __m512i *blocks = (const __m512i *)bytes;
    size_t groups = count / (64 * lanes);
    __m512i state[lanes];
    for (int lane = 0; lane < lanes; lane++) state[lane] = _mm512_loadu_si512(blocks++);
    state[0] = _mm512_xor_si512(state[0], _mm512_zextsi128_si512(start(value)));
    __m512i distance = _mm512_broadcast_i32x4(constants(DISTANCE_2048));
    for (size_t group = 1; group < groups; group++)
        for (int lane = 0; lane < lanes; lane++) state[lane] = fold_widest(state[lane], distance, _mm512_loadu_si512(blocks++));
    distance = _mm512_broadcast_i32x4(constants(DISTANCE_512));
    for (int lane = 1; lane < lanes; lane++) state[lane] = fold_widest(state[lane - 1], distance, state[lane]);
    __m128i last = _mm512_castsi512_si128(state[lanes - 1]), step = constants(DISTANCE_128);
    last = fold(last, step, _mm512_extracti32x4_epi32(state[lanes - 1], 1));
    last = fold(last, step, _mm512_extracti32x4_epi32(state[lanes - 1], 2));
    last = fold(last, step, _mm512_extracti32x4_epi32(state[lanes - 1], 3));
    _mm_storeu_si128((__m128i *)folded, last);
    return groups * 64 * lanes;
}
#endif

size_t oplora_crc32_fold(int width, uint32_t value, const uint8_t *bytes, size_t count, uint8_t folded[16]) {
#if defined(__x86_64__)
    if (width >= oplora_crc32_widest && count >= 512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("vpclmulqdq"))
        return fold_widest_blocks(value, bytes, count, folded);
    if (width >= oplora_crc32_wide && count >= 256 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("vpclmulqdq"))
        return fold_wide_blocks(value, bytes, count, folded);
    if (count >= 64 && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) return fold_blocks(value, bytes, count, folded);
#endif
    (void)width, (void)value, (void)bytes, (void)count, (void)folded;
    return 0;
}
