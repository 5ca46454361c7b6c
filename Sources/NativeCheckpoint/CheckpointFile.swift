internal import FileIO
internal import Hashing
public import JSON
public import OrderedCollections

/// A `.opck` file, open for reading.
///
/// Opening checks the prologue, the trailer, the footer with its hash, the chunk table and all bounds. The chunks
/// themselves are checked when they are read: each by its CRC-32, each tensor by its SHA-256. Nothing wrong is returned
/// as right.
public final class CheckpointFile: Sendable {
    private let file: MappedFile
    private let index: CheckpointIndex

    /// Opens the file at `path`.
    ///
    /// - Throws: `CheckpointError`, with code `io` when the file is missing or cannot be read.
    public init(path: String, limits: CheckpointLimits = .format) throws(CheckpointError) {
        do {
            file = try MappedFile(path: path)
        } catch {
            throw CheckpointError(error)
        }
        do {
            index = try Self.index(of: file, limits: limits)
        } catch {
            throw error.inFile(path)
        }
    }

    /// Whether to read a path as a checkpoint: by the first bytes of the file, or by its name, so that a damaged one is
    /// told apart from a file of another kind.
    public static func claims(_ path: String) -> Bool {
        guard !FileSystem.isFolder(path) else { return false }
        if path.hasSuffix(".opck") { return true }
        guard let file = try? MappedFile(path: path) else { return false }
        let signature = Array(Format.magic.prefix(5))
        return file.count >= signature.count && file.bytes.holds(signature, at: 0)
    }

    public var path: String { file.path }

    /// The bytes of the file.
    public var byteCount: Int { file.count }

    /// What the file is a checkpoint of, such as `training`.
    public var kind: String { index.kind }

    /// What the writer's caller had to say.
    public var metadata: OrderedDictionary<String, JSONValue> { index.metadata }

    /// The tensors by name, in the order of the file.
    public var tensors: OrderedDictionary<String, CheckpointTensor> { index.tensors }

    /// Decodes a tensor into memory of the caller.
    ///
    /// - Parameter bytes: as long as the tensor's `byteCount`. After an error it holds zeros.
    /// - Throws: `CheckpointError`, with code `tensor-unknown` when there is no such tensor, `bytes-mismatch` when
    ///   `bytes` has another length, otherwise for damage of the tensor's chunks.
    public func read(_ name: String, into bytes: inout MutableRawSpan) throws(CheckpointError) {
        let tensor = try tensor(named: name)
        guard bytes.byteCount == tensor.byteCount else {
            throw CheckpointError(
                .bytesMismatch, tensor: name,
                "the tensor has \(tensor.byteCount) bytes and room was given for \(bytes.byteCount); give as much as it needs"
            ).inFile(path)
        }
        // Sound: the pointer is used only during the call.
        try unsafe bytes.withUnsafeMutableBytes { (raw: UnsafeMutableRawBufferPointer) throws(CheckpointError) in
            do throws(CheckpointError) {
                try unsafe decode(tensor, into: raw)
            } catch {
                _ = unsafe raw.initializeMemory(as: UInt8.self, repeating: 0)
                throw error
            }
        }
    }

    /// The raw bytes of a tensor.
    ///
    /// - Throws: as `read(_:into:)` does.
    public func read(_ name: String) throws(CheckpointError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: try tensor(named: name).byteCount)
        var span = bytes.mutableSpan
        // Sound: any bytes make valid bytes.
        var raw = unsafe span.mutableBytes
        try read(name, into: &raw)
        return bytes
    }

    /// Checks every chunk and the hash of one tensor, in the memory of one chunk.
    public func verify(_ name: String) throws(CheckpointError) {
        let tensor = try tensor(named: name)
        var decoder = ChunkDecoder()
        var digest = SHA256Digest()
        var bytes = [UInt8](repeating: 0, count: min(tensor.byteCount, index.chunkSize))
        for chunk in tensor.chunks {
            let record = index.chunks[chunk]
            // Sound: the pointer is used only during the call; no chunk has more raw bytes than the buffer.
            try unsafe bytes.withUnsafeMutableBufferPointer { buffer throws(CheckpointError) in
                let raw = unsafe UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: record.rawLength)
                try unsafe decode(chunk, of: tensor, with: &decoder, into: raw)
            }
            digest.update(bytes.rawBytes.extracting(0..<record.rawLength))
            file.release(record.offset..<record.end)
        }
        try check(digest.finishHex(), of: tensor)
    }

    /// Checks every chunk and every hash of the file; the first fault is thrown.
    public func verifyAll() throws(CheckpointError) {
        for name in tensors.keys { try verify(name) }
    }

    /// Checks that this program knows enough of the file to change or extend it. Reading needs less.
    ///
    /// - Throws: `CheckpointError` with code `feature-blocks-rewriting`.
    public func requireRewritable() throws(CheckpointError) {
        let unknown = index.prologue.writeFeatures & ~Prologue.knownWriteFeatures
        guard unknown == 0 else {
            throw CheckpointError(
                .featureBlocksRewriting, at: 16,
                "the file uses feature \(unknown.trailingZeroBitCount), and a program that does not know it may not change the file"
            ).inFile(path)
        }
    }

    // A span of the file may not live across a `catch`, so what takes spans and what names the file in errors stand apart.
    private static func index(of file: MappedFile, limits: CheckpointLimits) throws(CheckpointError) -> CheckpointIndex {
        try CheckpointIndex(parsing: file.bytes, limits: limits)
    }

    private func tensor(named name: String) throws(CheckpointError) -> CheckpointTensor {
        guard let tensor = index.tensors[name] else {
            throw CheckpointError(.tensorUnknown, tensor: name, "the file has no tensor of this name; list its tensors").inFile(path)
        }
        return tensor
    }

    /// Decodes all chunks of a tensor, one after the other, and checks the hash of what came out.
    private func decode(_ tensor: CheckpointTensor, into raw: UnsafeMutableRawBufferPointer) throws(CheckpointError) {
        var decoder = ChunkDecoder()
        var digest = SHA256Digest()
        var done = 0
        for chunk in tensor.chunks {
            let length = index.chunks[chunk].rawLength
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: raw[done..<(done + length)])
            try unsafe decode(chunk, of: tensor, with: &decoder, into: part)
            unsafe digest.update(UnsafeRawBufferPointer(part).bytes)
            done += length
        }
        try check(digest.finishHex(), of: tensor)
    }

    private func decode(
        _ chunk: Int, of tensor: CheckpointTensor, with decoder: inout ChunkDecoder, into bytes: UnsafeMutableRawBufferPointer
    ) throws(CheckpointError) {
        do {
            try unsafe decodeUnnamed(chunk, of: tensor, with: &decoder, into: bytes)
        } catch {
            throw error.inTensor(tensor.name).inFile(path)
        }
    }

    private func decodeUnnamed(
        _ chunk: Int, of tensor: CheckpointTensor, with decoder: inout ChunkDecoder, into bytes: UnsafeMutableRawBufferPointer
    ) throws(CheckpointError) {
        let record = index.chunks[chunk]
        let number = chunk - tensor.chunks.lowerBound
        let descriptor = number == 0 ? TensorDescriptor.encode(name: tensor.name, dtype: tensor.dtype, shape: tensor.shape) : []
        let file = file
        try unsafe decoder.decode(
            file.bytes(in: record.offset..<record.end), record: record, index: number, layout: PlaneLayout(tensor.dtype),
            descriptor: descriptor, into: bytes)
    }

    private func check(_ sha256: String, of tensor: CheckpointTensor) throws(CheckpointError) {
        guard sha256 == tensor.sha256 else {
            throw CheckpointError(
                .tensorHash, tensor: tensor.name,
                "the SHA-256 of its bytes is not the one in the footer; the file is damaged, go back to an older one"
            ).inFile(path)
        }
    }
}
