import CKernels
import CZlib

/// The coder of byte planes, beside zlib. The first byte chooses direction and streams, the second how many bytes the streams
/// share, the next two the size of the plane.
///
/// Decoding: whatever the kernel takes, zlib takes to the same bytes. Encoding: both read what the kernel wrote.
func fuzzHuffman(_ bytes: [UInt8]) {
    guard bytes.count >= 4 else { return }
    let streams = bytes[0] & 1 == 0 ? 1 : Int(oplora_huffman_streams)
    let rest = Array(bytes[4...])
    if bytes[0] & 2 == 0 {
        let shared = streams == 1 ? 0 : min(Int(bytes[1]), rest.count)
        decode(
            shared: Array(rest[..<shared]), parts: cut(Array(rest[shared...]), into: streams), count: Int(bytes[2]) | Int(bytes[3]) << 8)
    } else {
        encode(rest, streams: streams)
    }
}

/// Cuts bytes into streams at the lengths that the first bytes give.
private func cut(_ bytes: [UInt8], into streams: Int) -> [[UInt8]] {
    var rest = bytes[...]
    var parts: [[UInt8]] = []
    for _ in 1..<streams {
        let length = min(Int(rest.popFirst() ?? 0), rest.count)
        parts.append(Array(rest.prefix(length)))
        rest = rest.dropFirst(length)
    }
    return parts + [Array(rest)]
}

private func decode(shared: [UInt8], parts: [[UInt8]], count: Int) {
    guard let plane = decoded(shared: shared, parts: parts, count: count) else { return }
    for (index, part) in parts.enumerated() {
        let range = (index * count / parts.count)..<((index + 1) * count / parts.count)
        require(inflated(shared + part, count: range.count) == Array(plane[range]), "the kernel and zlib disagree about stream \(index)")
    }
}

private func encode(_ plane: [UInt8], streams: Int) {
    guard plane.count >= streams else { return }
    var counts = [UInt32](repeating: 0, count: 256)
    var plan = oplora_huffman_plan()
    var payloads: [[UInt8]] = []
    for isPortable in [true, false] {
        guard let encoder = unsafe oplora_huffman_encoder_create(isPortable) else { fail("there is no memory") }
        defer { unsafe oplora_huffman_encoder_destroy(encoder) }
        unsafe oplora_huffman_count(encoder, plane, plane.count, false, &counts)
        unsafe oplora_huffman_make_plan(counts, plane.count, streams, plane.count % 2 == 0 ? 11 : 12, &plan)
        var payload = [UInt8](repeating: 0, count: plan.most)
        let size = unsafe oplora_huffman_encode(encoder, &plan, plane, plane.count, &payload, payload.count)
        require(size > 0 && size <= plan.most, "the kernel does not write its own plan")
        payloads.append(Array(payload[..<size]))
    }
    require(payloads[0] == payloads[1], "two loops write different bytes")
    let (payload, size) = (payloads[1], payloads[1].count)
    let lengths = streams == 1 ? 0 : 2 + plan.shared
    let shared = streams == 1 ? [] : Array(payload[2..<lengths])
    require(streams == 1 || Int(payload[0]) | Int(payload[1]) << 8 == plan.shared, "the number of shared bytes is not the plan's")
    var position = lengths + 4 * (streams - 1)
    var parts: [[UInt8]] = []
    for part in 0..<streams {
        let length = (0..<4).reduce(0) { $0 | Int(payload[lengths + (part < streams - 1 ? 4 * part + $1 : 0)]) << (8 * $1) }
        let end = part < streams - 1 ? position + length : size
        require(position <= end && end <= size, "the lengths of the parts do not fit")
        parts.append(Array(payload[position..<end]))
        position = end
    }
    require(decoded(shared: shared, parts: parts, count: plane.count) == plane, "the kernel does not read what it wrote")
    decode(shared: shared, parts: parts, count: plane.count)
}

/// What the kernel makes of streams; `nil` when it leaves them to zlib.
private func decoded(shared: [UInt8], parts: [[UInt8]], count: Int) -> [UInt8]? {
    guard let decoder = unsafe oplora_huffman_decoder_create() else { fail("there is no memory") }
    defer { unsafe oplora_huffman_decoder_destroy(decoder) }
    var plane = [UInt8](repeating: 0xAA, count: count)
    let starts = parts.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1.count) }
    let joined = Array(parts.joined())
    // Sound: the kernel keeps to the sizes that it is given, which are those of the arrays; the address sanitizer watches.
    return unsafe oplora_huffman_decode(decoder, shared, shared.count, joined, starts, parts.count, &plane, count) ? plane : nil
}

/// What zlib makes of a raw DEFLATE stream; `nil` unless it is a whole one of exactly `count` bytes.
private func inflated(_ bytes: [UInt8], count: Int) -> [UInt8]? {
    var stream = unsafe z_stream()
    guard unsafe inflateInit2_(&stream, -15, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else { fail("there is no memory") }
    defer { unsafe inflateEnd(&stream) }
    var input = bytes
    // One byte more than there may be, so that too much shows, and zlib sees the end of a stream of no bytes.
    var output = [UInt8](repeating: 0, count: count + 1)
    let isWhole = unsafe input.withUnsafeMutableBufferPointer { input in
        unsafe output.withUnsafeMutableBufferPointer { output in
            unsafe stream.next_in = input.baseAddress
            unsafe stream.avail_in = UInt32(input.count)
            unsafe stream.next_out = output.baseAddress
            unsafe stream.avail_out = UInt32(output.count)
            return unsafe inflate(&stream, Z_FINISH) == Z_STREAM_END && stream.avail_in == 0 && stream.avail_out == 1
        }
    }
    return isWhole ? Array(output[..<count]) : nil
}
