// The loop over planes of few values, with AVX2: each byte's code is looked up in registers, and codes are put together side by
// side until they fill words. Included by huffman_encoder.c alone.
//
// A register has the codes of 16 neighbouring values. Exponents, mostly, lie in one or two such ranges, with zero in another.

enum { ranges_max = 4, range_size = 16 };

struct value_ranges {
    int count;
    uint8_t first[ranges_max];
    // Of each value the lowest eight bits of the code; and the upper four with the length above them. Zero where none.
    uint8_t low[ranges_max][range_size], high[ranges_max][range_size];
};

// False when the values need more ranges than there may be.
static bool find_ranges(const oplora_huffman_plan *plan, struct value_ranges *ranges) {
    memset(ranges, 0, sizeof *ranges);
    for (int value = 0; value < 256; value++) {
        if (!plan->lengths[value]) continue;
        if (ranges->count == 0 || value >= ranges->first[ranges->count - 1] + range_size) {
            if (ranges->count == ranges_max) return false;
            ranges->first[ranges->count++] = (uint8_t)value;
        }
        int range = ranges->count - 1, place = value - ranges->first[range];
        ranges->low[range][place] = (uint8_t)plan->codes[value];
        ranges->high[range][place] = (uint8_t)(plan->codes[value] >> 8 | plan->lengths[value] << 4);
    }
    return true;
}

#define AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt")))
#define INLINE_AVX2 AVX2 static inline __attribute__((always_inline))

// Codes side by side in 64-bit lanes, the first one lowest, and how many bits they have.
struct lanes {
    __m256i codes, bits;
};

// Four codes in each lane, at most 48 bits, from 16-bit lanes of a code and above it its length.
INLINE_AVX2 struct lanes fours(__m256i entries) {
    const __m256i code = _mm256_set1_epi32(0xfff), length = _mm256_set1_epi32(0xf), half = _mm256_set1_epi64x(0xffffffff);
    __m256i first_bits = _mm256_and_si256(_mm256_srli_epi32(entries, 12), length), second_bits = _mm256_srli_epi32(entries, 28);
    __m256i first = _mm256_and_si256(entries, code), second = _mm256_and_si256(_mm256_srli_epi32(entries, 16), code);
    __m256i twos = _mm256_or_si256(first, _mm256_sllv_epi32(second, first_bits));
    __m256i bits_of_twos = _mm256_add_epi32(first_bits, second_bits), lower_bits = _mm256_and_si256(bits_of_twos, half);
    __m256i upper = _mm256_sllv_epi64(_mm256_srli_epi64(twos, 32), lower_bits);
    return (struct lanes){
        .codes = _mm256_or_si256(_mm256_and_si256(twos, half), upper),
        .bits = _mm256_add_epi64(lower_bits, _mm256_srli_epi64(bits_of_twos, 32))};
}

// The codes of `second` above those of `first`. Beyond 64 bits codes are lost, and the number of bits says so.
INLINE_AVX2 struct lanes joined(struct lanes first, struct lanes second) {
    return (struct lanes){
        .codes = _mm256_or_si256(first.codes, _mm256_sllv_epi64(second.codes, first.bits)),
        .bits = _mm256_add_epi64(first.bits, second.bits)};
}

// Appends `count` bits, at most 57, which stand at the top of `codes`.
INLINE_AVX2 void append(struct encoder_stream *stream, uint64_t codes, uint64_t count) {
    stream->bits = stream->bits >> (count & 63) | codes;
    uint64_t total = stream->pending + count;
    store_64(stream->out, stream->bits >> (-total & 63));
    stream->out += total >> 3;
    stream->pending = total & 7;
}

// The codes of each lane at the top, as `append` takes them.
INLINE_AVX2 void take_lanes(struct lanes lanes, uint64_t codes[4], uint64_t bits[4]) {
    _mm256_storeu_si256((__m256i *)codes, _mm256_sllv_epi64(lanes.codes, _mm256_sub_epi64(_mm256_set1_epi64x(64), lanes.bits)));
    _mm256_storeu_si256((__m256i *)bits, lanes.bits);
}

// Appends every `step`-th lane.
INLINE_AVX2 void append_lanes(struct encoder_stream *stream, struct lanes lanes, int step) {
    uint64_t codes[4], bits[4];
    take_lanes(lanes, codes, bits);
#pragma clang loop unroll(full)
    for (int lane = 0; lane < 4; lane += step) append(stream, codes[lane], bits[lane]);
}

INLINE_AVX2 bool fits(struct lanes lanes) {
    return _mm256_testz_si256(_mm256_cmpgt_epi64(lanes.bits, _mm256_set1_epi64x(57)), _mm256_set1_epi64x(-1));
}

// Writes `groups` times 32 symbols, `word` of them, 4, 8 or 16, at a time where they have no more than 57 bits. A group moves
// the output by at most 48 bytes and writes up to 8 beyond.
INLINE_AVX2 void encode_value_groups(const struct value_ranges *ranges, const int count, const int word,
                                     struct encoder_stream *restrict stream, size_t groups) {
    struct encoder_stream local = *stream;
    __m256i first[ranges_max], low[ranges_max], high[ranges_max];
    for (int range = 0; range < count; range++) {
        first[range] = _mm256_set1_epi8((char)ranges->first[range]);
        low[range] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)ranges->low[range]));
        high[range] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)ranges->high[range]));
    }
    for (size_t group = 0; group < groups; group++, local.in += 32) {
        __m256i values = _mm256_loadu_si256((const __m256i *)local.in), lows = _mm256_setzero_si256(), highs = lows;
#pragma clang loop unroll(full)
        for (int range = 0; range < count; range++) {
            // Places outside of the range get their top bit, for which a look-up gives zero.
            __m256i place = _mm256_adds_epu8(_mm256_sub_epi8(values, first[range]), _mm256_set1_epi8(0x70));
            lows = _mm256_or_si256(lows, _mm256_shuffle_epi8(low[range], place));
            highs = _mm256_or_si256(highs, _mm256_shuffle_epi8(high[range], place));
        }
        // Unpacking works in each half of a register: these are symbols 0, 4, 16, 20 and 8, 12, 24, 28 and the three after.
        struct lanes some = fours(_mm256_unpacklo_epi8(lows, highs)), others = fours(_mm256_unpackhi_epi8(lows, highs));
        struct lanes even = {_mm256_unpacklo_epi64(some.codes, others.codes), _mm256_unpacklo_epi64(some.bits, others.bits)};
        struct lanes odd = {_mm256_unpackhi_epi64(some.codes, others.codes), _mm256_unpackhi_epi64(some.bits, others.bits)};
        if (word >= 8) {
            struct lanes eights = joined(even, odd);
            if (word == 16) {
                // In every other lane; between them nothing is joined.
                const __m256i zero = _mm256_setzero_si256();
                struct lanes sixteens = joined(
                    eights, (struct lanes){_mm256_unpackhi_epi64(eights.codes, zero), _mm256_unpackhi_epi64(eights.bits, zero)});
                if (fits(sixteens)) {
                    append_lanes(&local, sixteens, 2);
                    continue;
                }
            } else if (fits(eights)) {
                append_lanes(&local, eights, 1);
                continue;
            }
        }
        uint64_t even_codes[4], even_bits[4], odd_codes[4], odd_bits[4];
        take_lanes(even, even_codes, even_bits);
        take_lanes(odd, odd_codes, odd_bits);
        for (int lane = 0; lane < 4; lane++) {
            append(&local, even_codes[lane], even_bits[lane]);
            append(&local, odd_codes[lane], odd_bits[lane]);
        }
    }
    *stream = local;
}

// What is at the end of a stream and what there may be no room for is left.
AVX2 static void encode_values(const struct value_ranges *ranges, const int word, struct encoder_stream *stream) {
    for (;;) {
        size_t in = (size_t)(stream->in_end - stream->in) / 32, room = (size_t)(stream->out_end - stream->out);
        size_t out = room < 8 ? 0 : (room - 8) / 48, groups = in < out ? in : out;
        if (groups == 0) return;
#define GROUPS(count, word) encode_value_groups(ranges, count, word, stream, groups)
#define EACH_WORD(count) word == 16 ? GROUPS(count, 16) : word == 8 ? GROUPS(count, 8) : GROUPS(count, 4)
        switch (ranges->count) {
        case 1: EACH_WORD(1); break;
        case 2: EACH_WORD(2); break;
        case 3: EACH_WORD(3); break;
        default: EACH_WORD(4);
        }
#undef EACH_WORD
#undef GROUPS
    }
}
