// Decoding of byte planes from DEFLATE streams without matches: block headers, tables, and reading the streams. The loops over
// the planes are in huffman_decoder_variant.h.
#include "huffman_code.h"

#include <stdlib.h>

enum {
    literal_symbols = 288,
    table_size = 1 << longest,
    // Codes of this length or less are looked up in a table of half the size, which stays in the first-level cache.
    short_longest = 11,
    symbol_mask = 511,
    length_shift = 9,
};

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

// All without branches: a table has thousands of entries, and which of them fit cannot be foretold.
static inline uint64_t literals_of(uint16_t first) {
    uint64_t length = first >> length_shift, symbol = first & symbol_mask;
    uint64_t is_literal = (uint64_t)((length > 0) & (symbol < end_of_block));
    return symbol * is_literal | length * is_literal << 32 | is_literal << 40;
}

// `entry` with what follows it behind it, if the bits that are known hold all of it.
static inline uint64_t joined(uint64_t entry, uint64_t following, int bits) {
    const uint64_t symbols = 0xffffffff;
    uint64_t addition = (following & ~symbols) + ((following & symbols) << 8 * (entry >> 40));
    bool fits = (uint8_t)((entry + addition) >> 32) <= bits;
    return __builtin_unpredictable(fits) ? entry + addition : entry;
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
        table[index] = joined(entry, table[index >> (uint8_t)(entry >> 32)], bits);
    }
    // Two more, or one. Behind a literal alone there is no room for either, as there was none for the next.
    for (int index = size - 1; index >= 0; index--) {
        uint64_t entry = table[index];
        int rest = index >> (uint8_t)(entry >> 32);
        uint64_t three = joined(entry, literals_of(decoder->first[rest]), bits), four = joined(entry, table[rest], bits);
        // The longer one has the longer code, too.
        table[index] = four > three ? four : three;
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
#include "huffman_decoder_variant.h"
#undef VARIANT

#if defined(__x86_64__)
#define VARIANT bmi2
#pragma clang attribute push(__attribute__((target("bmi,bmi2,lzcnt"))), apply_to = function)
#include "huffman_decoder_variant.h"
#pragma clang attribute pop
#undef VARIANT
#endif

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
