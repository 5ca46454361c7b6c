/// The bytes of a tensor of an `.opck` file, decoded chunk by chunk where they are looked at.
struct DecodedBytes: ByteSource {
    let file: CheckpointFile
    let tensor: CheckpointTensor
    let chunkSize: Int
    /// The bytes that chunks of differences are taken from.
    let base: (any ByteSource)?

    var byteCount: Int { tensor.byteCount }

    func withBytes(in range: Range<Int>, _ body: (RawSpan) throws -> Void) throws {
        guard !range.isEmpty else { return try body(RawSpan()) }
        let decoder = ChunkDecoder()
        let (first, last) = (range.lowerBound / chunkSize, (range.upperBound - 1) / chunkSize)
        let start = first * chunkSize
        var bytes = [UInt8](repeating: 0, count: min((last + 1) * chunkSize, byteCount) - start)
        for number in first...last {
            let part = number * chunkSize..<min((number + 1) * chunkSize, byteCount)
            try unsafe bytes.withUnsafeMutableBytes { buffer in
                // Sound: the pointer is used only during the call.
                let raw = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[(part.lowerBound - start)..<(part.upperBound - start)])
                try unsafe file.decode(tensor.chunks.lowerBound + number, part: part, of: tensor, base: base, with: decoder, into: raw)
            }
        }
        try body(bytes.rawBytes.extracting((range.lowerBound - start)..<(range.upperBound - start)))
    }
}

extension CheckpointFile {
    /// Decodes one chunk, which holds `part` of the tensor's bytes, with the base's bytes for differences.
    func decode(
        _ chunk: Int, part: Range<Int>, of tensor: CheckpointTensor, base: (any ByteSource)?, with decoder: ChunkDecoder,
        into raw: UnsafeMutableRawBufferPointer
    ) throws {
        guard isDifference(chunk), let base else {
            return try unsafe decode(chunk, of: tensor, base: nil, with: decoder, into: raw)
        }
        try base.withBytes(in: part) { try unsafe decode(chunk, of: tensor, base: $0, with: decoder, into: raw) }
        base.release(part)
    }
}
