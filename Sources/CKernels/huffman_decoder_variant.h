// The loops over planes, compiled for each instruction set; VARIANT names it. Included by huffman_decoder.c alone.
#define JOIN_(name, variant) name##_##variant
#define JOIN(name, variant) JOIN_(name, variant)
#define NAME(name) JOIN(name, VARIANT)

// Makes `rounds` rounds in each stream. A round loads 64 bits, of which at least 56 are new, and looks up five times 11 or
// four times 12; it moves the input by at most 7 bytes and the output by at most 20, and writes nothing beyond those 20. A
// stream that meets what is no literal stays where it is.
static inline __attribute__((always_inline)) void NAME(decode_rounds)(
    const uint64_t *restrict table, const int width, struct decoder_stream *restrict states, const int streams, size_t rounds) {
    const int lookups = 56 / width;
    struct decoder_stream local[streams_max];
    uint64_t bits[streams_max];
    for (int s = 0; s < streams; s++) local[s] = states[s];
    for (size_t round = 0; round < rounds; round++) {
        const uint8_t *before = local[0].out;
#pragma clang loop unroll(full)
        for (int s = 0; s < streams; s++)
            // The mark at the top moves down with what is used, so that the zeros above it count the used bits.
            bits[s] = (load_64(local[s].in) | 1ull << 63) >> local[s].used;
#pragma clang loop unroll(full)
        for (int lookup = 0; lookup < lookups; lookup++) {
#pragma clang loop unroll(full)
            for (int s = 0; s < streams; s++) {
                uint64_t entry = table[bits[s] & ((1u << width) - 1)];
                store_32(local[s].out, (uint32_t)entry);
                entry >>= 32;
                bits[s] >>= entry & 63;
                local[s].out += entry >> 8;
            }
        }
#pragma clang loop unroll(full)
        for (int s = 0; s < streams; s++) {
            uint64_t used = (uint64_t)__builtin_clzll(bits[s]);
            local[s].in += used >> 3;
            local[s].used = used & 7;
        }
        // Several streams are stopped by the caller's bound instead: they stand at their ends only.
        if (streams == 1 && local[0].out == before) break;
    }
    for (int s = 0; s < streams; s++) states[s] = local[s];
}

// Makes as many rounds as there is room for, until one of the streams stands at what is no literal.
static inline __attribute__((always_inline)) void NAME(decode_freely)(
    const oplora_huffman_decoder *decoder, struct decoder_stream *states, const int streams) {
    for (;;) {
        // A bound, so that a stream that stands does not keep the others turning for long.
        size_t rounds = 1024;
        for (int s = 0; s < streams; s++) {
            size_t left = (size_t)(states[s].in_end - states[s].in);
            size_t in = left < 8 ? 0 : (left - 8) / 7, out = (size_t)(states[s].out_end - states[s].out) / 20;
            if (in < rounds) rounds = in;
            if (out < rounds) rounds = out;
            if (in && decoder->table[peek(&states[s]) & ((1u << decoder->bits) - 1)] == 0) rounds = 0;
        }
        if (rounds == 0) return;
        if (decoder->bits == short_longest)
            NAME(decode_rounds)(decoder->table, short_longest, states, streams, rounds);
        else
            NAME(decode_rounds)(decoder->table, longest, states, streams, rounds);
    }
}

// Decodes the rest of a block after its header. False when it does not end, or with what is no literal, or gives too much.
static bool NAME(decode_block)(const oplora_huffman_decoder *decoder, struct decoder_stream *state) {
    for (;;) {
        NAME(decode_freely)(decoder, state, 1);
        int symbol = next_symbol(decoder, state);
        if (symbol == end_of_block) return true;
        if (symbol < 0 || symbol > end_of_block || state->out == state->out_end) return false;
        *state->out++ = (uint8_t)symbol;
    }
}

// Whether a stream has given all of its part and ends in its last byte.
static bool NAME(is_done)(const struct decoder_stream *state) {
    return state->out == state->out_end && state->in + (state->used > 0) == state->in_end;
}

static bool NAME(decode_blocks)(oplora_huffman_decoder *decoder, struct decoder_stream *state) {
    bool is_last = false;
    while (!is_last)
        if (!read_header(decoder, state, &is_last) || !NAME(decode_block)(decoder, state)) return false;
    return NAME(is_done)(state);
}

static bool NAME(decode_streams)(oplora_huffman_decoder *decoder, struct decoder_stream *states) {
    NAME(decode_freely)(decoder, states, streams_max);
    for (int s = 0; s < streams_max; s++)
        if (!NAME(decode_block)(decoder, &states[s]) || !NAME(is_done)(&states[s])) return false;
    return true;
}

#undef NAME
#undef JOIN
#undef JOIN_
