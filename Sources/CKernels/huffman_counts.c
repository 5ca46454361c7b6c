// How often each byte occurs in a plane: exactly, or nearly so and faster.
#include "huffman_encoder.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    // One block of each group is counted when a plane is sampled.
    block_size = 512,
    blocks_in_group = 4,
    group_size = block_size * blocks_in_group,
    // Clearing and summing all pairs would take the time of counting some ten thousand bytes.
    shortest_in_pairs = 1 << 15,
    // Bytes that are looked through together.
    search_step = 128,
};

// MARK: Counting

static void count_bytes(const uint8_t *bytes, size_t count, uint32_t *counts) {
    for (size_t index = 0; index < count; index++) counts[bytes[index]]++;
}

// The blocks of a plane that are counted: all of them, or one of each group. Which one changes from group to group, so that
// no period of the plane's is met at one place alone.
struct blocks {
    const uint8_t *plane;
    size_t number;
    bool is_sample;
};

static const uint8_t *block_at(const struct blocks *blocks, size_t index) {
    size_t place = blocks->is_sample ? index * blocks_in_group + ((uint32_t)index * 0x9e3779b1u >> 30) : index;
    return blocks->plane + place * block_size;
}

static void count_pairs_of_block(const uint8_t *restrict block, uint32_t *restrict pairs) {
    for (size_t index = 0; index < block_size; index += 8) {
        uint64_t word = load_64(block + index);
        pairs[word & 0xffff]++;
        pairs[word >> 16 & 0xffff]++;
        pairs[word >> 32 & 0xffff]++;
        pairs[word >> 48]++;
    }
}

// Pairs take half as many increments, and an increment that follows one of the same counter, which waits for it, is rarer.
// Exponents and the like lie in a narrow range, so little of the table is used and needs clearing and summing.
static void count_pairs(uint32_t *restrict pairs, struct blocks blocks, uint32_t *restrict counts) {
    uint8_t least = 255, most = 0;
    for (size_t number = 0; number < blocks.number; number++) {
        const uint8_t *block = block_at(&blocks, number);
        for (size_t index = 0; index < block_size; index++) {
            least = block[index] < least ? block[index] : least;
            most = block[index] > most ? block[index] : most;
        }
    }
    for (size_t number = 0; number < blocks.number; number++) count_pairs_of_block(block_at(&blocks, number), pairs);
    for (size_t second = least; second <= most; second++) {
        uint32_t *row = pairs + 256 * second, sum = 0;
        for (size_t first = least; first <= most; first++) {
            sum += row[first];
            counts[first] += row[first];
            row[first] = 0;
        }
        counts[second] += sum;
    }
}

// MARK: Bytes that the counted blocks do not have

#if defined(__x86_64__)
// How many bytes from the beginning have a count, in steps; fewer than a step may follow that have one too.
__attribute__((target("avx2"))) static size_t counted_start_avx2(const uint8_t *bytes, size_t count, const uint32_t *counts) {
    // A byte is its high digit h and its low one l. Bit h of set l, the lower eight and the upper eight bits apart, says
    // whether it has a count.
    uint8_t sets[2][16] = {{0}};
    for (int value = 0; value < 256; value++)
        if (counts[value]) sets[value >> 7][value & 15] |= (uint8_t)(1 << (value >> 4 & 7));
    const __m128i bits = _mm_set1_epi64x((long long)0x8040201008040201);
    const __m256i lower = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)sets[0]));
    const __m256i upper = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)sets[1]));
    const __m256i lower_bits = _mm256_broadcastsi128_si256(_mm_move_epi64(bits));
    const __m256i upper_bits = _mm256_broadcastsi128_si256(_mm_slli_si128(bits, 8));
    const __m256i digit = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
    size_t position = 0;
    for (; count - position >= search_step; position += search_step) {
        __m256i uncounted = zero;
        for (int part = 0; part < search_step / 32; part++) {
            __m256i value = _mm256_loadu_si256((const __m256i *)(bytes + position) + part);
            __m256i low = _mm256_and_si256(value, digit), high = _mm256_and_si256(_mm256_srli_epi16(value, 4), digit);
            __m256i in_lower = _mm256_and_si256(_mm256_shuffle_epi8(lower, low), _mm256_shuffle_epi8(lower_bits, high));
            __m256i in_upper = _mm256_and_si256(_mm256_shuffle_epi8(upper, low), _mm256_shuffle_epi8(upper_bits, high));
            uncounted = _mm256_or_si256(uncounted, _mm256_cmpeq_epi8(_mm256_or_si256(in_lower, in_upper), zero));
        }
        if (!_mm256_testz_si256(uncounted, uncounted)) break;
    }
    return position;
}
#endif

// Gives the bytes that occur and have no count a count of one.
static void count_uncounted(const oplora_huffman_encoder *encoder, const uint8_t *plane, size_t count, uint32_t *counts) {
    for (size_t position = 0; position < count;) {
#if defined(__x86_64__)
        if (uses_avx2(encoder)) position += counted_start_avx2(plane + position, count - position, counts);
#endif
        size_t end = count - position < search_step ? count : position + search_step;
        for (; position < end; position++)
            if (!counts[plane[position]]) counts[plane[position]] = 1;
    }
}

// MARK: Planes

void oplora_huffman_count(oplora_huffman_encoder *encoder, const uint8_t *plane, size_t count, bool samples, uint32_t *counts) {
    memset(counts, 0, 256 * sizeof *counts);
    if (count < shortest_in_pairs) return count_bytes(plane, count, counts);
    size_t blocks = samples ? count / group_size : count / block_size, whole = blocks * (samples ? group_size : block_size);
    count_pairs(encoder->counts, (struct blocks){.plane = plane, .number = blocks, .is_sample = samples}, counts);
    count_bytes(plane + whole, count - whole, counts);
    if (samples) count_uncounted(encoder, plane, whole, counts);
}
