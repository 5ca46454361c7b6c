internal import FileIO
internal import Hashing
public import JSON
internal import Kernels
public import OrderedCollections
internal import Tensors

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

    /// The paths of the files that are packed in it, where its kind is that of packed files; an empty folder's ends with a
    /// slash.
    public var packedFiles: [String]? { index.files?.map(\.path) }

    /// Whether it holds a single packed file and not a folder.
    public var isSingleFile: Bool { kind == Format.fileKind }

    /// The tensors by label, in the order of the file.
    public var tensors: OrderedDictionary<String, CheckpointTensor> { index.tensors }

    /// Decodes a tensor into memory of the caller.
    ///
    /// - Parameter bytes: as long as the tensor's `byteCount`. After an error it holds zeros.
    /// - Throws: `CheckpointError`, with code `tensor-unknown` when there is no such tensor, `bytes-mismatch` when
    ///   `bytes` has another length, `base-needed` when its chunks hold differences, otherwise for damage of its chunks.
    public func read(_ label: String, into bytes: inout MutableRawSpan) throws {
        try read([tensor(named: label)], into: &bytes)
    }

    /// Decodes tensors into memory of the caller, one after the other.
    ///
    /// - Parameter bytes: as long as all of them together. After an error it holds zeros.
    /// - Throws: as for one tensor; with a base, also what is wrong with that.
    public func read(
        _ tensors: [CheckpointTensor], into bytes: inout MutableRawSpan, base: (any BaseTensors)? = nil, threads: Int = 1
    ) throws {
        let needed = tensors.reduce(0) { $0 + $1.byteCount }
        guard bytes.byteCount == needed else {
            throw CheckpointError(
                .bytesMismatch, tensor: tensors.first?.label,
                "\(needed) bytes are to be read and room was given for \(bytes.byteCount); give as much as it needs"
            ).inFile(path)
        }
        // Sound: the pointer is used only during the call.
        try unsafe bytes.withUnsafeMutableBytes { raw in
            do {
                let bases = try bases(of: tensors, in: base, threads: threads, requiringBase: true)
                try unsafe DecodeRun(file: self, tensors: tensors, bases: bases).execute(threads: threads, into: raw)
            } catch {
                _ = unsafe raw.initializeMemory(as: UInt8.self, repeating: 0)
                throw error
            }
        }
    }

    /// The raw bytes of a tensor.
    ///
    /// - Throws: as `read(_:into:)` does.
    public func read(_ label: String) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: try tensor(named: label).byteCount)
        var span = bytes.mutableSpan
        // Sound: any bytes make valid bytes.
        var raw = unsafe span.mutableBytes
        try read(label, into: &raw)
        return bytes
    }

    /// Checks every chunk and every hash of the file.
    ///
    /// - Parameter base: where the tensors are that others are stored as differences to. Without it of chunks of differences
    ///   only what is stored is checked.
    /// - Throws: the first fault.
    public func verifyAll(threads: Int = 1, base: (any BaseTensors)? = nil) throws {
        try copy(Array(tensors.values), base: base, threads: threads, requiringBase: false) { _, _ in }
    }

    /// Decodes tensors one after the other and hands their bytes to `body` in pieces, in order; chunks are decoded side by side.
    ///
    /// Every piece has passed its checksums when it is handed over. Where a tensor has a SHA-256, that is known to hold only
    /// when its last piece has been taken and no error is thrown.
    ///
    /// - Parameters:
    ///   - base: where the tensors are that others are stored as differences to.
    ///   - body: is never called twice at once.
    public func copy(
        _ tensors: [CheckpointTensor], base: (any BaseTensors)? = nil, threads: Int = 1,
        to body: @Sendable (CheckpointTensor, RawSpan) throws -> Void
    ) throws {
        try copy(tensors, base: base, threads: threads, requiringBase: true, to: body)
    }

    private func copy(
        _ tensors: [CheckpointTensor], base: (any BaseTensors)?, threads: Int, requiringBase: Bool,
        to body: @Sendable (CheckpointTensor, RawSpan) throws -> Void
    ) throws {
        let run = DecodeRun(file: self, tensors: tensors, bases: try bases(of: tensors, in: base, threads: threads, requiringBase: requiringBase))
        try run.execute(threads: threads, to: body)
    }

    /// The bytes of each tensor's base, their hashes checked; `nil` for a tensor without one.
    private func bases(
        of tensors: [CheckpointTensor], in base: (any BaseTensors)?, threads: Int, requiringBase: Bool
    ) throws -> [(any ByteSource)?] {
        guard let base else {
            if requiringBase, let tensor = tensors.first(where: { $0.base != nil }) { throw baseNeeded(tensor) }
            return tensors.map { _ in nil }
        }
        let sources = try tensors.map { tensor -> (any ByteSource)? in
            guard let wanted = tensor.base else { return nil }
            guard let source = try base.source(name: wanted.name, dtype: tensor.dtype, shape: tensor.shape),
                source.byteCount == tensor.byteCount
            else {
                throw CheckpointError(
                    .baseMissing, tensor: tensor.label,
                    "it is stored as differences to \"\(wanted.name)\", and \(base.path) has no such tensor of \(tensor.dtype) \(describe(shape: tensor.shape)); name the base that it was packed against"
                ).inFile(path)
            }
            return source
        }
        try ThreadPool.forEach(tensors.count, threads: threads) { number in
            guard let wanted = tensors[number].base, let source = sources[number] else { return }
            guard try source.sha256() == wanted.sha256 else {
                throw CheckpointError(
                    .baseHash, tensor: tensors[number].label,
                    "it is stored as differences to \"\(wanted.name)\", which has other bytes in \(base.path); name the base that it was packed against"
                ).inFile(self.path)
            }
        }
        return sources
    }

    /// Checks that `base` holds what tensors are stored as differences to.
    ///
    /// - Throws: `CheckpointError` with code `base-needed`, `base-missing` or `base-hash`.
    public func checkBases(_ base: (any BaseTensors)?, threads: Int = 1) throws {
        _ = try bases(of: Array(tensors.values), in: base, threads: threads, requiringBase: true)
    }

    /// The bytes of a tensor of this file, decoded where they are looked at. Its SHA-256 is not checked.
    ///
    /// - Parameter base: where the tensor is that this one is stored as differences to; `checkBases` checks it.
    public func source(of tensor: CheckpointTensor, base: (any BaseTensors)? = nil) throws -> any ByteSource {
        var bytes: (any ByteSource)?
        if let wanted = tensor.base {
            guard let base else { throw baseNeeded(tensor) }
            bytes = try base.source(name: wanted.name, dtype: tensor.dtype, shape: tensor.shape)
        }
        return DecodedBytes(file: self, tensor: tensor, chunkSize: index.chunkSize, base: bytes)
    }

    /// The bytes of a tensor for whoever goes through them once.
    ///
    /// - Throws: as `read(_:into:)` does.
    public func pieces(of label: String) throws -> TensorPieces {
        let tensor = try tensor(named: label)
        return TensorPieces(try source(of: tensor), isHashed: tensor.sha256 != nil) { try self.check($0, of: tensor) }
    }

    fileprivate func baseNeeded(_ tensor: CheckpointTensor) -> CheckpointError {
        CheckpointError(
            .baseNeeded, tensor: tensor.label,
            "it is stored as differences to a tensor of another file"
        ).inFile(path)
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

    /// Whether a chunk holds differences to a base.
    func isDifference(_ chunk: Int) -> Bool { index.chunks[chunk].codec == PlaneLayout.Arrangement.difference.rawValue }

    func record(_ chunk: Int) -> ChunkRecord { index.chunks[chunk] }

    /// Says that the stored bytes of a chunk will not be looked at again.
    func release(_ chunk: Int) { file.release(index.chunks[chunk].offset..<index.chunks[chunk].end) }

    /// Decodes one chunk; with what is stored of it checked alone, if it holds differences and there is no base.
    func decode(
        _ chunk: Int, of tensor: CheckpointTensor, base: RawSpan?, with decoder: ChunkDecoder, into bytes: UnsafeMutableRawBufferPointer
    ) throws(CheckpointError) {
        do {
            try unsafe decodeUnnamed(chunk, of: tensor, base: base, with: decoder, into: bytes)
        } catch {
            throw error.inTensor(tensor.label).inFile(path)
        }
    }

    private func decodeUnnamed(
        _ chunk: Int, of tensor: CheckpointTensor, base: RawSpan?, with decoder: ChunkDecoder, into bytes: UnsafeMutableRawBufferPointer
    ) throws(CheckpointError) {
        let record = index.chunks[chunk]
        let number = chunk - tensor.chunks.lowerBound
        let layout = PlaneLayout(tensor.dtype)
        let file = file
        try unsafe decoder.decode(
            file.bytes(in: record.offset..<record.end), record: record, index: number,
            layout: isDifference(chunk) ? layout.ofDifferences : layout, descriptor: number == 0 ? tensor.descriptor.encoded : [], base: base,
            into: bytes)
    }

    func check(_ sha256: String, of tensor: CheckpointTensor) throws(CheckpointError) {
        guard sha256 == tensor.sha256 else {
            throw CheckpointError(
                .tensorHash, tensor: tensor.label,
                "the SHA-256 of its bytes is not the one in the footer; the file is damaged, go back to an older one"
            ).inFile(path)
        }
    }
}
