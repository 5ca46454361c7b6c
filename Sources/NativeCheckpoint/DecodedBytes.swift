internal import Hashing

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

    func release(_ range: Range<Int>) {
        guard !range.isEmpty else { return }
        for number in range.lowerBound / chunkSize...(range.upperBound - 1) / chunkSize { file.release(tensor.chunks.lowerBound + number) }
        base?.release(range)
    }
}

/// A tensor that is read from its beginning to its end and never whole in memory, on one thread.
public final class TensorPieces {
    private let bytes: any ByteSource
    private let check: (String) throws -> Void
    private var digest: SHA256Digest?

    init(_ bytes: any ByteSource, isHashed: Bool, check: @escaping (String) throws -> Void) {
        self.bytes = bytes
        self.check = check
        digest = isHashed ? SHA256Digest() : nil
    }

    public var byteCount: Int { bytes.byteCount }

    /// Hands over the next bytes.
    ///
    /// - Throws: `CheckpointError` for damage of a chunk.
    public func read(_ range: Range<Int>, _ body: (RawSpan) throws -> Void) throws {
        try bytes.withBytes(in: range) { piece in
            digest?.update(piece)
            try body(piece)
        }
        bytes.release(range)
    }

    /// - Throws: `CheckpointError` where the bytes that were handed over are not those of the tensor's SHA-256.
    public func finish() throws {
        if let whole = digest.take() { try check(whole.finishHex()) }
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
