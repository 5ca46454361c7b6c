internal import Hashing
internal import Kernels

/// The decoding of some tensors: chunks are decoded side by side and handed over one after the other.
final class DecodeRun: @unchecked Sendable {
    // Sound: `hash` is touched only by the worker whose turn it is.

    private struct Piece {
        let tensor: Int
        let chunk: Int
        /// Bytes of the tensor.
        let range: Range<Int>
        let isLast: Bool
    }

    private let file: CheckpointFile
    private let tensors: [CheckpointTensor]
    private let bases: [(any ByteSource)?]
    private let pieces: [Piece]
    /// Of the tensor whose pieces are being handed over.
    private var hash: SHA256Digest?

    /// - Parameter bases: for each tensor the bytes of its base, checked; `nil` where it has none or none is known.
    init(file: CheckpointFile, tensors: [CheckpointTensor], bases: [(any ByteSource)?]) {
        self.file = file
        self.tensors = tensors
        self.bases = bases
        var pieces: [Piece] = []
        for (number, tensor) in tensors.enumerated() {
            var start = 0
            for chunk in tensor.chunks {
                let end = start + file.record(chunk).rawLength
                pieces.append(Piece(tensor: number, chunk: chunk, range: start..<end, isLast: end == tensor.byteCount))
                start = end
            }
        }
        self.pieces = pieces
    }

    /// What a chunk is decoded in, and the next one after it.
    private struct Workspace {
        let decoder = ChunkDecoder()
        var bytes: [UInt8] = []
    }

    func execute(threads: Int, to body: @Sendable (CheckpointTensor, RawSpan) throws -> Void) throws {
        // Those without bytes have no piece that would bring them here.
        for tensor in tensors where tensor.byteCount == 0 && tensor.sha256 != nil { try file.check(SHA256Digest.hex(of: RawSpan()), of: tensor) }
        try ThreadPool.runInOrder(pieces.count, threads: threads) {
            Workspace()
        } make: { [self] number, workspace in
            try decode(pieces[number], workspace.decoder, into: &workspace.bytes)
        } hand: { [self] number, workspace in
            let piece = pieces[number]
            try hand(workspace.bytes.rawBytes.extracting(0..<piece.range.count), of: piece, to: body)
        }
    }

    /// Decodes the tensors into memory that has room for all of them, one after the other.
    func execute(threads: Int, into raw: UnsafeMutableRawBufferPointer) throws {
        let starts = tensors.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1.byteCount) }
        precondition(raw.count == starts[tensors.count])
        // Sound: each piece has a place of its own, and the pointer is used only during the call.
        nonisolated(unsafe) let raw = unsafe raw
        @Sendable func place(_ tensor: Int, _ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
            unsafe UnsafeMutableRawBufferPointer(rebasing: raw[(starts[tensor] + range.lowerBound)..<(starts[tensor] + range.upperBound)])
        }
        try ThreadPool.forEach(pieces.count, threads: threads, state: { ChunkDecoder() }) { [self] number, decoder in
            let piece = pieces[number]
            try unsafe file.decode(
                piece.chunk, part: piece.range, of: tensors[piece.tensor], base: bases[piece.tensor], with: decoder,
                into: place(piece.tensor, piece.range))
        }
        try ThreadPool.forEach(tensors.count, threads: threads) { [self] number in
            guard tensors[number].sha256 != nil else { return }
            try file.check(
                SHA256Digest.hex(of: unsafe UnsafeRawBufferPointer(place(number, 0..<tensors[number].byteCount)).bytes), of: tensors[number])
        }
    }

    private func decode(_ piece: Piece, _ decoder: ChunkDecoder, into bytes: inout [UInt8]) throws {
        if bytes.count < piece.range.count { bytes = [UInt8](repeating: 0, count: piece.range.count) }
        let tensor = tensors[piece.tensor]
        try unsafe bytes.withUnsafeMutableBytes { buffer in
            // Sound: the pointer is used only during the call; the buffer has as many bytes as the chunk, at least.
            let raw = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[0..<piece.range.count])
            try unsafe file.decode(piece.chunk, part: piece.range, of: tensor, base: bases[piece.tensor], with: decoder, into: raw)
        }
        file.release(piece.chunk)
    }

    private func hand(_ bytes: RawSpan, of piece: Piece, to body: (CheckpointTensor, RawSpan) throws -> Void) throws {
        let tensor = tensors[piece.tensor]
        // Differences without their base have nothing to be hashed.
        if tensor.sha256 != nil, tensor.base == nil || bases[piece.tensor] != nil {
            if piece.range.lowerBound == 0 { hash = SHA256Digest() }
            hash?.update(bytes)
            if piece.isLast, let whole = hash.take() { try file.check(whole.finishHex(), of: tensor) }
        }
        try body(tensor, bytes)
    }
}
