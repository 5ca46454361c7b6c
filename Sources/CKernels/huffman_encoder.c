// Huffman coding of byte planes as DEFLATE streams without matches: making codes and block headers, and writing the streams. The
// loops over the planes are in huffman_encoder_pairs.h and huffman_encoder_values.h.
#include "huffman_encoder.h"

#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    // Bytes of the number of shared bytes, and of the length of a part.
    shared_size = 2,
    length_size = 4,
    // Symbols stand below their counts while these are sorted.
    symbol_bits = 9,
    symbol_mask = (1 << symbol_bits) - 1,
};

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
        uint64_t key = counts[symbol] << symbol_bits | (uint64_t)symbol;
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
            bool takes_leaf = leaf < used && leaves[leaf] >> symbol_bits <= package;
            is_leaf[level][total] = takes_leaf;
            merged[total++] = takes_leaf ? leaves[leaf] >> symbol_bits : package;
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

// MARK: Block headers

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

void oplora_huffman_make_plan(const uint32_t *counts, size_t count, size_t streams, int limit, oplora_huffman_plan *plan) {
    uint64_t totals[257], counted = 0;
    int used = 0;
    for (int value = 0; value < 256; value++) {
        totals[value] = counts[value];
        counted += counts[value];
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
    plan->bits = 0;
    for (int value = 0; value < 256; value++) plan->bits += (uint64_t)counts[value] * plan->lengths[value];
    // Of a sample it is an estimate. A plane that needs much more is unlike its sample, and there is a better code for it.
    if (counted < count) plan->bits = (plan->bits * count / counted) * 65 / 64;
    plan->bits += streams * plan->lengths[end_of_block];
    uint64_t parts = plan->bits + streams * (plan->header_bits - 8 * plan->shared);
    // Each part is filled up to a byte.
    plan->most = (streams > 1 ? shared_size : 0) + plan->shared + length_size * (streams - 1) + (size_t)(parts / 8) + streams;
}

// MARK: Encoder

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

oplora_huffman_encoder *oplora_huffman_encoder_create(bool is_portable) {
    oplora_huffman_encoder *encoder = calloc(1, sizeof *encoder);
    if (encoder) encoder->is_portable = is_portable;
    return encoder;
}

void oplora_huffman_encoder_destroy(oplora_huffman_encoder *encoder) { free(encoder); }

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
    if (!pending) return true;
    if (stream->out == stream->out_end) return false;
    *stream->out++ = (uint8_t)bits;
    return true;
}

// MARK: The loops, for each instruction set

#define VARIANT portable
#include "huffman_encoder_pairs.h"
#undef VARIANT

#if defined(__x86_64__)
#define VARIANT bmi2
#pragma clang attribute push(__attribute__((target("bmi,bmi2,lzcnt"))), apply_to = function)
#include "huffman_encoder_pairs.h"
#pragma clang attribute pop
#undef VARIANT

#include "huffman_encoder_values.h"
#endif

// How the streams of one plane are written.
struct encoder_loop {
    const oplora_huffman_encoder *encoder;
    // With values in registers, and how many of them are expected to fit into a word, or 0 with a table of pairs.
    int word;
#if defined(__x86_64__)
    struct value_ranges ranges;
#endif
};

static void choose_loop(oplora_huffman_encoder *encoder, const oplora_huffman_plan *plan, size_t count, struct encoder_loop *loop) {
    loop->encoder = encoder;
    loop->word = 0;
#if defined(__x86_64__)
    // A word has room for 57 bits; some codes are longer than the mean, so less is to be filled.
    uint64_t filled = 50 * (uint64_t)count;
    if (uses_avx2(encoder) && find_ranges(plan, &loop->ranges)) {
        loop->word = 16 * plan->bits <= filled ? 16 : 8 * plan->bits <= filled ? 8 : 4;
        return;
    }
#endif
    fill_pairs(encoder, plan);
}

static void encode_stream(const struct encoder_loop *loop, struct encoder_stream *stream) {
#if defined(__x86_64__)
    if (loop->word) return encode_values(&loop->ranges, loop->word, stream);
    if (uses_avx2(loop->encoder)) return encode_stream_bmi2(loop->encoder, stream);
#endif
    encode_stream_portable(loop->encoder, stream);
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
    struct encoder_loop loop;
    choose_loop(encoder, plan, count, &loop);
    // The header's bits that no byte is shared for. A single stream has all of the header in its part.
    size_t header_bytes = plan->header_bits / 8, in_part = header_bytes - plan->shared, rest = plan->header_bits % 8;
    uint8_t *out = payload + before, *end = payload + room;
    for (size_t part = 0; part < streams; part++) {
        if ((size_t)(end - out) < in_part) return 0;
        memcpy(out, plan->header + plan->shared, in_part);
        struct encoder_stream stream = {
            .in = plane + part_start(count, streams, part), .in_end = plane + part_start(count, streams, part + 1),
            .out = out + in_part, .out_end = end,
            .bits = rest ? (uint64_t)plan->header[header_bytes] << (64 - rest) : 0, .pending = rest};
        encode_stream(&loop, &stream);
        if (!finish_encoding(plan, &stream)) return 0;
        size_t size = (size_t)(stream.out - out);
        if (part + 1 < streams) store_32(payload + lengths + length_size * part, (uint32_t)size);
        out = stream.out;
    }
    return (size_t)(out - payload);
}

// MARK: Repetition

size_t oplora_huffman_repeats(const uint8_t *bytes, size_t count) {
    enum { index_bits = 12 };
    uint16_t last[1 << index_bits] = {0};
    size_t found = 0;
    if (count > UINT16_MAX) count = UINT16_MAX;
    for (size_t index = 0; index + 8 <= count; index += 2) {
        uint64_t word = load_64(bytes + index);
        size_t slot = (size_t)(word * 0x9e3779b97f4a7c15ull >> (64 - index_bits));
        size_t before = last[slot];
        // Slots begin at 0, so a word is never compared with itself but with the first one.
        found += before < index && load_64(bytes + before) == word;
        last[slot] = (uint16_t)index;
    }
    return found;
}
