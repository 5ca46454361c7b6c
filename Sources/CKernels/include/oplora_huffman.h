// Byte planes as raw DEFLATE streams (RFC 1951) of literals alone: the part of DEFLATE that skewed, otherwise random bytes
// gain from. A plane is cut into streams that share one code, so that several can be coded side by side.
//
// Unlike the other kernels these take bytes from strangers. Every size is checked here; no input makes them read or write
// outside of what they are given.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    /// Streams that a plane is cut into when it is cut.
    oplora_huffman_streams = 4,
    /// The longest code that the encoder gives, so that the decoder needs one table alone.
    oplora_huffman_longest = 12,
    /// Room for the header of a block.
    oplora_huffman_header_room = 352,
};

/// The code of one plane.
typedef struct {
    /// Streams: 1 or oplora_huffman_streams.
    size_t streams;
    /// Bytes that the streams share: all whole bytes of the header, or none for one stream.
    size_t shared;
    /// No payload of a counted plane is longer, and none shorter by as many bytes as there are streams. For a sampled plane
    /// it is a sixty-fourth more than the sample lets expect.
    size_t most;
    /// Bits of all streams after their headers, in the same way.
    uint64_t bits;
    /// The bits of the block's header.
    size_t header_bits;
    uint8_t header[oplora_huffman_header_room];
    /// Length of the code of each byte and of the end of the block; 0 where there is none.
    uint8_t lengths[257];
    /// The codes, the first bit lowest.
    uint16_t codes[257];
} oplora_huffman_plan;

/// An encoder's memory.
typedef struct oplora_huffman_encoder oplora_huffman_encoder;
/// NULL when there is no memory. A portable one does without what some processors have, and gives the same bytes.
oplora_huffman_encoder *oplora_huffman_encoder_create(bool is_portable);
void oplora_huffman_encoder_destroy(oplora_huffman_encoder *encoder);

/// Counts the bytes of `plane`; counts is (256). With `samples` a quarter of a long plane is counted, in short pieces from all
/// over it, and each byte that occurs elsewhere alone has a count of one.
void oplora_huffman_count(oplora_huffman_encoder *encoder, const uint8_t *plane, size_t count, bool samples, uint32_t *counts);

/// Makes the best code of at most `limit` bits, from 9 to oplora_huffman_longest, for a plane of `count` bytes and these counts,
/// to be cut into `streams`, 1 or oplora_huffman_streams. Codes of 11 bits are decoded faster than those of 12.
void oplora_huffman_make_plan(const uint32_t *counts, size_t count, size_t streams, int limit, oplora_huffman_plan *plan);

/// Writes a plane's payload: for several streams the number of shared bytes in two bytes, these bytes, and the lengths of all
/// parts but the last as 32-bit integers; then the parts. Part i is bytes ⌊i·count/streams⌋ up to the next part's first.
///
/// The plan has a code for every byte that occurs, or else the payload means nothing.
///
/// Returns the bytes of the payload; 0 when they are more than `room`. Then some of `payload` has been written, and nothing
/// else.
size_t oplora_huffman_encode(oplora_huffman_encoder *encoder, const oplora_huffman_plan *plan, const uint8_t *plane, size_t count,
                             uint8_t *payload, size_t room);

/// A decoder's memory.
typedef struct oplora_huffman_decoder oplora_huffman_decoder;
/// NULL when there is no memory.
oplora_huffman_decoder *oplora_huffman_decoder_create(void);
void oplora_huffman_decoder_destroy(oplora_huffman_decoder *decoder);

/// Decodes a plane from streams of Huffman blocks of literals. Stream i is `shared` followed by the bytes from
/// starts[i] up to starts[i + 1] of `parts`, and gives part i of the plane, exactly.
///
/// False when a stream is none of those, be it one with matches or an invalid one; then some of `plane` has been
/// written, and a general decoder has the last word.
bool oplora_huffman_decode(oplora_huffman_decoder *decoder, const uint8_t *shared, size_t shared_size, const uint8_t *parts,
                           const size_t *starts, size_t streams, uint8_t *plane, size_t count);

/// How many 8-byte words at the even places of `bytes`, at most 65,535 long, occur at one before: whether looking for matches is
/// worth it.
size_t oplora_huffman_repeats(const uint8_t *bytes, size_t count);
