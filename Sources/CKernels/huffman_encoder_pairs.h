// The loops over planes, compiled for each instruction set; VARIANT names it. Included by huffman_encoder.c alone.
#define JOIN_(name, variant) name##_##variant
#define JOIN(name, variant) JOIN_(name, variant)
#define NAME(name) JOIN(name, VARIANT)

// Writes `groups` times eight symbols. A pair has at most 24 bits, and up to 7 are pending before a group, so two pairs never
// push bits out of the word and four seldom do. A group moves the output by at most 12 bytes and writes up to 8 beyond.
//
// One stream at a time: the processor is busy with one already, where the decoder's would wait.
static inline __attribute__((always_inline)) void NAME(encode_groups)(
    const uint64_t *restrict pairs, struct encoder_stream *restrict stream, size_t groups) {
    const uint8_t *in = stream->in, *end = in + 8 * groups;
    uint8_t *out = stream->out;
    uint64_t bits = stream->bits, pending = stream->pending;
    for (; in < end; in += 8) {
        uint64_t word = load_64(in);
        uint64_t first = pairs[word & 0xffff], second = pairs[word >> 16 & 0xffff];
        uint64_t third = pairs[word >> 32 & 0xffff], fourth = pairs[word >> 48];
        // A shift looks at its lowest six bits, where an entry has its length; the entry's own low bits stay beneath
        // what is pending. The lengths' sum is in the lowest seven.
        bits = bits >> (first & 63) | first;
        bits = bits >> (second & 63) | second;
        uint64_t sum = pending + first + second, total = sum + third + fourth;
        if (__builtin_expect((total & 127) > 57, 0)) {
            store_64(out, bits >> (-sum & 63));
            out += sum >> 3 & 7;
            total = (sum & 7) + third + fourth;
        }
        bits = bits >> (third & 63) | third;
        bits = bits >> (fourth & 63) | fourth;
        store_64(out, bits >> (-total & 63));
        out += total >> 3 & 7;
        pending = total & 7;
    }
    *stream = (struct encoder_stream){end, stream->in_end, out, stream->out_end, bits, pending};
}

static void NAME(encode_stream)(const oplora_huffman_encoder *encoder, struct encoder_stream *stream) {
    for (;;) {
        size_t in = (size_t)(stream->in_end - stream->in) / 8, room = (size_t)(stream->out_end - stream->out);
        size_t out = room < 8 ? 0 : (room - 8) / 12, groups = in < out ? in : out;
        if (groups == 0) return;
        NAME(encode_groups)(encoder->pairs, stream, groups);
    }
}

#undef NAME
#undef JOIN
#undef JOIN_
