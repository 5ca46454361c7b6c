// Huffman coding of byte planes as DEFLATE streams without matches: making codes, block headers, and what the variants for
// the instruction sets share. The loops over the planes are in huffman_variant.h.
#include "oplora_huffman.h"

#include <stdlib.h>
#include <string.h>

enum {
    streams_max = oplora_huffman_streams,
    longest = oplora_huffman_longest,
    end_of_block = 256,
    // Bytes of the number of shared bytes, and of the length of a part.
    shared_size = 2,
    length_size = 4,
    // DEFLATE's own bounds.
    longest_of_deflate = 15,
    literal_symbols = 288,
    table_size = 1 << longest,
    // Codes of this length or less are looked up in a table of half the size, which stays in the first-level cache.
    short_longest = 11,
    symbol_mask = 511,
    length_shift = 9,
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

static uint32_t reversed(uint32_t code, int length) {
    uint32_t result = 0;
    for (int bit = 0; bit < length; bit++) result |= (code >> bit & 1) << (length - 1 - bit);
    return result;
}

// MARK: Making a code

// Lengths of an optimal code of at most `limit` bits, by package-merge. Symbols of count 0 get length 0. At least two
// symbols have a count, and 2^limit is not less than their number. Equal counts are ordered by symbol.
static void limited_lengths(const uint64_t *counts, int symbols, int limit, uint8_t *lengths) {
    enum { most = 257, deepest = 15 };
    uint64_t leaves[most], list[2 * most], merged[2 * most];
    uint8_t is_leaf[deepest][2 * most];
    int used = 0;
    for (int symbol = 0; symbol < symbols; symbol++) {
        lengths[symbol] = 0;
        if (!counts[symbol]) continue;
        // The symbol in the low bits breaks ties.
        uint64_t key = counts[symbol] << 9 | (uint64_t)symbol;
        int place = used++;
        for (; place > 0 && leaves[place - 1] > key; place--) leaves[place] = leaves[place - 1];
        leaves[place] = key;
    }
    int size = 0;
    for (int level = 0; level < limit; level++) {
        // The leaves, and the pairs of the level before, by weight.
        int pairs = size / 2, leaf = 0, pair = 0, total = 0;
        while (leaf < used || pair < pairs) {
            uint64_t package = pair < pairs ? list[2 * pair] + list[2 * pair + 1] : UINT64_MAX;
            bool takes_leaf = leaf < used && leaves[leaf] >> 9 <= package;
            is_leaf[level][total] = takes_leaf;
            merged[total++] = takes_leaf ? leaves[leaf] >> 9 : package;
            if (takes_leaf) leaf++; else pair++;
        }
        memcpy(list, merged, (size_t)total * sizeof *list);
        size = total;
    }
    // The lightest 2·used − 2 of the last level are the code; their packages select from the level below.
    int taken = 2 * used - 2;
    for (int level = limit - 1; level >= 0 && taken > 0; level--) {
        int leaf_count = 0;
        for (int item = 0; item < taken; item++) leaf_count += is_leaf[level][item];
        for (int leaf = 0; leaf < leaf_count; leaf++) lengths[leaves[leaf] & symbol_mask]++;
        taken = 2 * (taken - leaf_count);
    }
}

// The canonical codes of RFC 1951, section 3.2.2, first bit lowest.
static void canonical_codes(const uint8_t *lengths, int symbols, uint16_t *codes) {
    uint32_t next[longest_of_deflate + 2] = {0}, of_length[longest_of_deflate + 1] = {0};
    for (int symbol = 0; symbol < symbols; symbol++) of_length[lengths[symbol]]++;
    of_length[0] = 0;
    for (int length = 1; length <= longest_of_deflate; length++) next[length + 1] = (next[length] + of_length[length]) << 1;
    for (int symbol = 0; symbol < symbols; symbol++)
        codes[symbol] = lengths[symbol] ? (uint16_t)reversed(next[lengths[symbol]]++, lengths[symbol]) : 0;
}

// MARK: Block headers

// The order in which a header gives the lengths of the code for lengths.
static const uint8_t length_order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

static void put(oplora_huffman_plan *plan, uint32_t value, int bits) {
    for (int bit = 0; bit < bits; bit++, plan->header_bits++)
        plan->header[plan->header_bits / 8] |= (uint8_t)((value >> bit & 1) << plan->header_bits % 8);
}

// One last block with a code of its own. Its header takes at most 17 + 19·3 + 259·7 bits and more for no symbol than the 7
// of its code, so 352 bytes have room for it.
static void write_header(oplora_huffman_plan *plan) {
    // Two distances of one bit each, which nothing uses: some decoders refuse a code of none or one.
    enum { lengths_count = 257 + 2 };
    uint8_t lengths[lengths_count];
    memcpy(lengths, plan->lengths, 257);
    lengths[257] = lengths[258] = 1;

    uint8_t symbols[lengths_count], extras[lengths_count];
    int count = 0;
    for (int index = 0; index < lengths_count;) {
        int value = lengths[index], run = 1;
        while (index + run < lengths_count && lengths[index + run] == value) run++;
        index += run;
        if (value == 0) {
            for (; run >= 11; count++) {
                int part = run < 138 ? run : 138;
                symbols[count] = 18, extras[count] = (uint8_t)(part - 11), run -= part;
            }
            if (run >= 3) symbols[count] = 17, extras[count++] = (uint8_t)(run - 3), run = 0;
        } else if (run >= 4) {
            symbols[count] = (uint8_t)value, extras[count++] = 0, run--;
            for (; run >= 3; count++) {
                int part = run < 6 ? run : 6;
                symbols[count] = 16, extras[count] = (uint8_t)(part - 3), run -= part;
            }
        }
        for (; run > 0; run--) symbols[count] = (uint8_t)value, extras[count++] = 0;
    }

    uint64_t counts[19] = {0};
    for (int index = 0; index < count; index++) counts[symbols[index]]++;
    uint8_t code_lengths[19];
    uint16_t codes[19];
    // At least two different symbols occur: the distances' 1 and, as 257 symbols cannot all have one bit, another one.
    limited_lengths(counts, 19, 7, code_lengths);
    canonical_codes(code_lengths, 19, codes);
    int given = 19;
    while (given > 4 && code_lengths[length_order[given - 1]] == 0) given--;

    memset(plan->header, 0, sizeof plan->header);
    plan->header_bits = 0;
    put(plan, 1, 1);
    put(plan, 2, 2);
    put(plan, 0, 5);
    put(plan, 1, 5);
    put(plan, (uint32_t)given - 4, 4);
    for (int index = 0; index < given; index++) put(plan, code_lengths[length_order[index]], 3);
    for (int index = 0; index < count; index++) {
        put(plan, codes[symbols[index]], code_lengths[symbols[index]]);
        if (symbols[index] == 16) put(plan, extras[index], 2);
        if (symbols[index] == 17) put(plan, extras[index], 3);
        if (symbols[index] == 18) put(plan, extras[index], 7);
    }
}

void oplora_huffman_make_plan(const uint32_t *counts, size_t streams, int limit, oplora_huffman_plan *plan) {
    uint64_t totals[257];
    int used = 0;
    for (int value = 0; value < 256; value++) {
        totals[value] = counts[value];
        used += counts[value] > 0;
    }
    plan->streams = streams = streams == 1 ? 1 : streams_max;
    totals[end_of_block] = streams;
    // A plane of no bytes: a code needs two symbols to be complete.
    if (used == 0) totals[0] = 1;
    limited_lengths(totals, 257, limit < 9 ? 9 : limit > longest ? longest : limit, plan->lengths);
    canonical_codes(plan->lengths, 257, plan->codes);
    write_header(plan);
    plan->shared = streams == 1 ? 0 : plan->header_bits / 8;
    plan->bits = streams * plan->lengths[end_of_block];
    for (int value = 0; value < 256; value++) plan->bits += (uint64_t)counts[value] * plan->lengths[value];
    uint64_t parts = plan->bits + streams * (plan->header_bits - 8 * plan->shared);
    // Each part is filled up to a byte.
    plan->most = (streams > 1 ? shared_size : 0) + plan->shared + length_size * (streams - 1) + (size_t)(parts / 8) + streams;
}

// MARK: Encoder

struct oplora_huffman_encoder {
    // For two neighbours a, b at a + 256·b: their codes' bits at the top, the number of bits at the bottom. Entries of
    // bytes that do not occur are zero or of an earlier plane; no entry has more than 24 bits.
    uint64_t pairs[256 * 256];
    // How often each pair occurs.
    uint32_t counts[256 * 256];
};

struct encoder_stream {
    const uint8_t *in;
    const uint8_t *in_end;
    uint8_t *out;
    uint8_t *out_end;
    // The last bits are at the top; those beneath them have been written or mean nothing.
    uint64_t bits;
    // Bits at the top that are still to be written.
    uint64_t pending;
};

oplora_huffman_encoder *oplora_huffman_encoder_create(void) { return calloc(1, sizeof(oplora_huffman_encoder)); }
void oplora_huffman_encoder_destroy(oplora_huffman_encoder *encoder) { free(encoder); }

// Pairs take half as many increments, and an increment that follows one of the same counter, which waits for it, is rarer.
// Exponents and the like lie in a narrow range, so little of the table is used and needs clearing and summing.
static void count_pairs(oplora_huffman_encoder *encoder, const uint8_t *plane, size_t count, uint32_t *counts) {
    uint8_t least = 255, most = 0;
    for (size_t index = 0; index < count; index++) {
        least = plane[index] < least ? plane[index] : least;
        most = plane[index] > most ? plane[index] : most;
    }
    uint32_t *pairs = encoder->counts;
    size_t width = (size_t)most - least + 1;
    for (size_t second = least; second <= most; second++) memset(pairs + 256 * second + least, 0, width * sizeof *pairs);
    size_t index = 0;
    for (; index + 8 <= count; index += 8) {
        uint64_t word = load_64(plane + index);
        pairs[word & 0xffff]++;
        pairs[word >> 16 & 0xffff]++;
        pairs[word >> 32 & 0xffff]++;
        pairs[word >> 48]++;
    }
    for (; index < count; index++) counts[plane[index]]++;
    for (size_t second = least; second <= most; second++) {
        const uint32_t *row = pairs + 256 * second;
        uint32_t sum = 0;
        for (size_t first = least; first <= most; first++) {
            sum += row[first];
            counts[first] += row[first];
        }
        counts[second] += sum;
    }
}

void oplora_huffman_count(oplora_huffman_encoder *encoder, const uint8_t *plane, size_t count, uint32_t *counts) {
    // Clearing and summing all pairs would take the time of counting some ten thousand bytes.
    enum { shortest_in_pairs = 1 << 15 };
    memset(counts, 0, 256 * sizeof *counts);
    if (count >= shortest_in_pairs)
        count_pairs(encoder, plane, count, counts);
    else
        for (size_t index = 0; index < count; index++) counts[plane[index]]++;
}

static void fill_pairs(oplora_huffman_encoder *encoder, const oplora_huffman_plan *plan) {
    uint8_t used[256];
    int count = 0;
    for (int value = 0; value < 256; value++)
        if (plan->lengths[value]) used[count++] = (uint8_t)value;
    for (int second = 0; second < count; second++) {
        uint64_t *row = encoder->pairs + 256 * used[second];
        uint64_t code = plan->codes[used[second]], length = plan->lengths[used[second]];
        for (int first = 0; first < count; first++) {
            uint64_t before = plan->lengths[used[first]];
            uint64_t bits = plan->codes[used[first]] | code << before;
            row[used[first]] = bits << (64 - before - length) | (before + length);
        }
    }
}

// Writes what is left of a stream symbol by symbol, and the end of its block. False when there is no room for it.
static bool finish_encoding(const oplora_huffman_plan *plan, struct encoder_stream *stream) {
    uint64_t bits = stream->pending ? stream->bits >> (64 - stream->pending) : 0, pending = stream->pending;
    bool ended = false;
    while (!ended) {
        int symbol = stream->in < stream->in_end ? *stream->in++ : end_of_block;
        ended = symbol == end_of_block;
        bits |= (uint64_t)plan->codes[symbol] << pending;
        pending += plan->lengths[symbol];
        for (; pending >= 8; pending -= 8, bits >>= 8) {
            if (stream->out == stream->out_end) return false;
            *stream->out++ = (uint8_t)bits;
        }
    }
    stream->bits = bits;
    stream->pending = pending;
    if (!pending) return true;
    if (stream->out == stream->out_end) return false;
    *stream->out++ = (uint8_t)bits;
    return true;
}

// MARK: Decoder

struct oplora_huffman_decoder {
    // Bits that are looked up at once: as many as the longest code has, 11 at least and 12 at most.
    int bits;
    // For the next bits: up to four literals in the lowest four bytes, the bits that they take in the next byte and their
    // number above. Zero where the first symbol is no literal or longer.
    uint64_t table[table_size];
    // The first symbol of the next bits and its length; zero where the code is longer.
    uint16_t first[table_size];
    // Canonical decoding of what is longer.
    uint16_t of_length[longest_of_deflate + 1];
    uint16_t sorted[literal_symbols];
};

struct decoder_stream {
    const uint8_t *in;
    const uint8_t *in_end;
    // Bits of *in that have been used, 0 to 7.
    uint64_t used;
    uint8_t *out;
    uint8_t *out_end;
};

oplora_huffman_decoder *oplora_huffman_decoder_create(void) { return calloc(1, sizeof(oplora_huffman_decoder)); }
void oplora_huffman_decoder_destroy(oplora_huffman_decoder *decoder) { free(decoder); }

// The next bits, zeros after the end; at least 25 are right.
static uint32_t peek(const struct decoder_stream *stream) {
    size_t left = (size_t)(stream->in_end - stream->in);
    if (left >= 4) return load_32(stream->in) >> stream->used;
    uint32_t bits = 0;
    for (size_t byte = 0; byte < left; byte++) bits |= (uint32_t)stream->in[byte] << (8 * byte);
    return bits >> stream->used;
}

// Passes over bits; false when there are not so many.
static bool skip(struct decoder_stream *stream, uint32_t bits) {
    uint64_t position = stream->used + bits;
    if (position > 8 * (uint64_t)(stream->in_end - stream->in)) return false;
    stream->in += position / 8;
    stream->used = position % 8;
    return true;
}

static bool take(struct decoder_stream *stream, int bits, uint32_t *value) {
    *value = peek(stream) & ((1u << bits) - 1);
    return skip(stream, (uint32_t)bits);
}

// Whether lengths make a complete code, neither too many nor too few.
static bool is_complete(const uint8_t *lengths, int symbols) {
    uint32_t filled = 0;
    for (int symbol = 0; symbol < symbols; symbol++)
        if (lengths[symbol]) filled += 1u << (longest_of_deflate - lengths[symbol]);
    return filled == 1u << longest_of_deflate;
}

static uint64_t literals_of(uint16_t first) {
    uint64_t length = first >> length_shift, symbol = first & symbol_mask;
    return length && symbol < end_of_block ? symbol | length << 32 | 1ull << 40 : 0;
}

// Puts what follows `entry` behind it if the bits that are known hold all of it.
static uint64_t joined(uint64_t entry, uint64_t following, int bits) {
    uint64_t sum = (entry & ~0xffffffffull) + (following & ~0xffffffffull);
    if ((uint8_t)(sum >> 32) > bits || !following) return entry;
    return sum | (entry & 0xffffffff) | (following & 0xffffffff) << 8 * (entry >> 40);
}

static bool build_table(oplora_huffman_decoder *decoder, const uint8_t *lengths, int symbols) {
    if (!is_complete(lengths, symbols) || !lengths[end_of_block]) return false;
    int bits = short_longest;
    for (int symbol = 0; symbol < symbols; symbol++)
        if (lengths[symbol] > bits) bits = longest;
    int size = 1 << bits;
    decoder->bits = bits;
    uint32_t next[longest_of_deflate + 2] = {0}, place[longest_of_deflate + 2] = {0};
    memset(decoder->of_length, 0, sizeof decoder->of_length);
    for (int symbol = 0; symbol < symbols; symbol++) decoder->of_length[lengths[symbol]]++;
    decoder->of_length[0] = 0;
    for (int length = 1; length <= longest_of_deflate; length++) {
        next[length + 1] = (next[length] + decoder->of_length[length]) << 1;
        place[length + 1] = place[length] + decoder->of_length[length];
    }
    memset(decoder->first, 0, (size_t)size * sizeof *decoder->first);
    for (int symbol = 0; symbol < symbols; symbol++) {
        int length = lengths[symbol];
        if (!length) continue;
        decoder->sorted[place[length]++] = (uint16_t)symbol;
        uint32_t code = next[length]++;
        if (length > bits) continue;
        for (uint32_t index = reversed(code, length); index < (uint32_t)size; index += 1u << length)
            decoder->first[index] = (uint16_t)(symbol | length << length_shift);
    }
    // An entry looks at smaller indices only, or at itself, so going down it finds them as they were.
    uint64_t *table = decoder->table;
    for (int index = 0; index < size; index++) table[index] = literals_of(decoder->first[index]);
    for (int index = size - 1; index >= 0; index--) {
        uint64_t entry = table[index];
        if (entry) table[index] = joined(entry, table[index >> (uint8_t)(entry >> 32)], bits);
    }
    for (int index = size - 1; index >= 0; index--) {
        uint64_t entry = table[index];
        // One literal alone: the next was seen not to fit.
        if (entry >> 40 != 2) continue;
        int rest = index >> (uint8_t)(entry >> 32);
        uint64_t three = joined(entry, literals_of(decoder->first[rest]), bits), four = joined(entry, table[rest], bits);
        table[index] = four != entry ? four : three;
    }
    return true;
}

// The next symbol, bit by bit where its code is long; -1 when the stream ends inside it.
static int next_symbol(const oplora_huffman_decoder *decoder, struct decoder_stream *stream) {
    uint32_t bits = peek(stream);
    uint16_t first = decoder->first[bits & ((1u << decoder->bits) - 1)];
    if (first) return skip(stream, first >> length_shift) ? first & symbol_mask : -1;
    uint32_t code = 0, start = 0, place = 0;
    for (uint32_t length = 1; length <= longest_of_deflate; length++) {
        code = code << 1 | (bits & 1);
        bits >>= 1;
        uint32_t count = decoder->of_length[length];
        if (code - start < count) return skip(stream, length) ? decoder->sorted[place + code - start] : -1;
        place += count;
        start = (start + count) << 1;
    }
    return -1;
}

// Reads a block's header and makes its tables.
static bool read_header(oplora_huffman_decoder *decoder, struct decoder_stream *stream, bool *is_last) {
    uint32_t last, type;
    if (!take(stream, 1, &last) || !take(stream, 2, &type)) return false;
    *is_last = last;
    uint8_t lengths[literal_symbols + 32] = {0};
    if (type == 1) {
        memset(lengths, 8, 144);
        memset(lengths + 144, 9, 112);
        memset(lengths + 256, 7, 24);
        memset(lengths + 280, 8, 8);
        return build_table(decoder, lengths, literal_symbols);
    }
    if (type != 2) return false;

    uint32_t literals, distances, given;
    if (!take(stream, 5, &literals) || !take(stream, 5, &distances) || !take(stream, 4, &given)) return false;
    literals += 257, distances += 1, given += 4;
    if (literals > 286 || distances > 30) return false;
    uint8_t code_lengths[19] = {0};
    for (uint32_t index = 0; index < given; index++) {
        uint32_t length;
        if (!take(stream, 3, &length)) return false;
        code_lengths[length_order[index]] = (uint8_t)length;
    }
    if (!is_complete(code_lengths, 19)) return false;
    uint16_t codes[19];
    canonical_codes(code_lengths, 19, codes);
    uint8_t symbol_of[128], length_of[128];
    for (int symbol = 0; symbol < 19; symbol++) {
        if (!code_lengths[symbol]) continue;
        for (uint32_t index = codes[symbol]; index < 128; index += 1u << code_lengths[symbol])
            symbol_of[index] = (uint8_t)symbol, length_of[index] = code_lengths[symbol];
    }

    uint8_t all[286 + 30];
    uint32_t total = literals + distances, index = 0;
    while (index < total) {
        uint32_t bits = peek(stream) & 127, extra = 0, run = 1;
        uint8_t symbol = symbol_of[bits], value = symbol;
        if (!skip(stream, length_of[bits])) return false;
        if (symbol == 16) {
            if (index == 0 || !take(stream, 2, &extra)) return false;
            value = all[index - 1];
            run = 3 + extra;
        } else if (symbol == 17) {
            if (!take(stream, 3, &extra)) return false;
            value = 0;
            run = 3 + extra;
        } else if (symbol == 18) {
            if (!take(stream, 7, &extra)) return false;
            value = 0;
            run = 11 + extra;
        }
        if (run > total - index) return false;
        memset(all + index, value, run);
        index += run;
    }
    // The distances are not used, but a code that is no code makes the stream invalid. One of a single bit, or none, may be
    // incomplete.
    int used = 0, greatest = 0;
    for (uint32_t distance = 0; distance < distances; distance++) {
        int length = all[literals + distance];
        used += length > 0;
        if (length > greatest) greatest = length;
    }
    if (!(used == 0 || (used == 1 && greatest == 1)) && !is_complete(all + literals, (int)distances)) return false;
    memcpy(lengths, all, literals);
    return build_table(decoder, lengths, (int)literals);
}

// MARK: The loops, for each instruction set

#define VARIANT portable
#include "huffman_variant.h"
#undef VARIANT

#if defined(__x86_64__)
#define VARIANT bmi2
#pragma clang attribute push(__attribute__((target("bmi,bmi2,lzcnt"))), apply_to = function)
#include "huffman_variant.h"
#pragma clang attribute pop
#undef VARIANT
#endif

static bool has_bmi2(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt");
#else
    return false;
#endif
}

static void encode_stream(const oplora_huffman_encoder *encoder, struct encoder_stream *stream) {
#if defined(__x86_64__)
    if (has_bmi2()) return encode_stream_bmi2(encoder, stream);
#endif
    encode_stream_portable(encoder, stream);
}

size_t oplora_huffman_encode(oplora_huffman_encoder *encoder, const oplora_huffman_plan *plan, const uint8_t *plane, size_t count,
                             uint8_t *payload, size_t room) {
    size_t streams = plan->streams, lengths = (streams > 1 ? shared_size : 0) + plan->shared;
    size_t before = lengths + length_size * (streams - 1);
    if ((streams != 1 && streams != streams_max) || room < before) return 0;
    if (streams > 1) {
        payload[0] = (uint8_t)plan->shared, payload[1] = (uint8_t)(plan->shared >> 8);
        memcpy(payload + shared_size, plan->header, plan->shared);
    }
    fill_pairs(encoder, plan);
    // The header's bits that no byte is shared for. A single stream has all of the header in its part.
    size_t header_bytes = plan->header_bits / 8, in_part = header_bytes - plan->shared, rest = plan->header_bits % 8;
    uint8_t *out = payload + before, *end = payload + room;
    uint64_t bits = 0;
    for (size_t part = 0; part < streams; part++) {
        if ((size_t)(end - out) < in_part) return 0;
        memcpy(out, plan->header + plan->shared, in_part);
        struct encoder_stream stream = {
            .in = plane + part_start(count, streams, part), .in_end = plane + part_start(count, streams, part + 1),
            .out = out + in_part, .out_end = end,
            .bits = rest ? (uint64_t)plan->header[header_bytes] << (64 - rest) : 0, .pending = rest};
        encode_stream(encoder, &stream);
        if (!finish_encoding(plan, &stream)) return 0;
        size_t size = (size_t)(stream.out - out);
        bits += 8 * (size - in_part) - rest - (stream.pending ? 8 - stream.pending : 0);
        if (part + 1 < streams) store_32(payload + lengths + length_size * part, (uint32_t)size);
        out = stream.out;
    }
    // Other bytes than those counted, which a file may hold now that another program writes to, may have no code.
    return bits == plan->bits ? (size_t)(out - payload) : 0;
}

bool oplora_huffman_decode(oplora_huffman_decoder *decoder, const uint8_t *shared, size_t shared_size, const uint8_t *parts,
                           const size_t *starts, size_t streams, uint8_t *plane, size_t count) {
    if (streams == 1 && shared_size == 0) {
        struct decoder_stream state = {
            .in = parts + starts[0], .in_end = parts + starts[1], .used = 0, .out = plane, .out_end = plane + count};
#if defined(__x86_64__)
        if (has_bmi2()) return decode_blocks_bmi2(decoder, &state);
#endif
        return decode_blocks_portable(decoder, &state);
    }
    if (streams != streams_max) return false;

    // The header lies across the shared bytes and the first part. It is read from a copy that holds the longest one:
    // 17 + 19·3 + 316·14 bits.
    uint8_t start[600];
    size_t first_size = starts[1] - starts[0];
    if (shared_size > sizeof start) return false;
    if (shared_size) memcpy(start, shared, shared_size);
    size_t copied = first_size < sizeof start - shared_size ? first_size : sizeof start - shared_size;
    memcpy(start + shared_size, parts + starts[0], copied);
    struct decoder_stream header = {.in = start, .in_end = start + shared_size + copied};
    bool is_last;
    if (!read_header(decoder, &header, &is_last) || !is_last) return false;
    size_t bits = 8 * (size_t)(header.in - start) + header.used;
    // What the streams do not share must be the same bits in each, else they have different codes.
    if (bits < 8 * shared_size || bits - 8 * shared_size > 7) return false;
    size_t rest = bits - 8 * shared_size;
    struct decoder_stream states[streams_max];
    for (size_t part = 0; part < streams; part++) {
        if (starts[part] >= starts[part + 1]) return false;
        if ((parts[starts[part]] ^ parts[starts[0]]) & ((1u << rest) - 1)) return false;
        states[part] = (struct decoder_stream){
            .in = parts + starts[part], .in_end = parts + starts[part + 1], .used = rest,
            .out = plane + part_start(count, streams, part), .out_end = plane + part_start(count, streams, part + 1)};
    }
#if defined(__x86_64__)
    if (has_bmi2()) return decode_streams_bmi2(decoder, states);
#endif
    return decode_streams_portable(decoder, states);
}

// MARK: Repetition

size_t oplora_huffman_repeats(const uint8_t *bytes, size_t count) {
    enum { index_bits = 12 };
    uint16_t last[1 << index_bits] = {0};
    size_t found = 0;
    if (count > UINT16_MAX) count = UINT16_MAX;
    for (size_t index = 0; index + 8 <= count; index++) {
        uint64_t word = load_64(bytes + index);
        size_t slot = (size_t)(word * 0x9e3779b97f4a7c15ull >> (64 - index_bits));
        size_t before = last[slot];
        // Slots begin at 0, so a word is never compared with itself but with the first one.
        found += before < index && load_64(bytes + before) == word;
        last[slot] = (uint16_t)index;
    }
    return found;
}
