public import FileIO
internal import Hashing
public import JSON
internal import Kernels
internal import OrderedCollections
internal import Synchronization
public import Tensors

/// A tensor to be written.
public struct TensorContent: Sendable {
    public let name: String
    public let dtype: DType
    /// Dimensions, outermost first; empty for a scalar.
    public let shape: [Int]
    /// The number of the packed file that it belongs to.
    public let file: Int?
    /// Its elements, little end first, as many as `shape` and `dtype` say.
    public let bytes: any ByteSource
    /// The tensor of the same type and shape to store differences to, where they are smaller.
    public let base: (name: String, bytes: any ByteSource)?

    public init(
        name: String, dtype: DType, shape: [Int], file: Int? = nil, bytes: any ByteSource, base: (name: String, bytes: any ByteSource)? = nil
    ) {
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.file = file
        self.bytes = bytes
        self.base = base
    }
}

/// Writes a `.opck` file in one pass: tensors one after the other, then `finish`.
///
/// The file appears under its name only when it is whole (see `AtomicFile`); a writer that is dropped unfinished leaves
/// what was there before. The same calls give the same bytes, whatever the number of threads.
public struct CheckpointWriter: ~Copyable {
    /// What the file is to hold, and how it is made.
    public struct Options: Sendable {
        /// What the file is a checkpoint of: 1 to 64 of `a`–`z`, `0`–`9`, `.` and `-`.
        public var kind: String
        /// A JSON object, kept as it is and in its order; it may hold anything that JSON can hold (so no NaN or infinity).
        public var metadata: JSONValue
        /// The paths of packed files, for the kinds of packed files.
        public var files: [String]?
        /// Whether to take the SHA-256 of each tensor. Checksums of chunks find damage without it, and several times faster;
        /// it tells tensors apart for good.
        public var hashesTensors: Bool
        public var threads: Int

        public init(kind: String, metadata: JSONValue = [:], files: [String]? = nil, hashesTensors: Bool = true, threads: Int = 1) {
            self.kind = kind
            self.metadata = metadata
            self.files = files
            self.hashesTensors = hashesTensors
            self.threads = threads
        }

        /// One packed file of this name.
        public static func packedFile(named name: String, hashesTensors: Bool, threads: Int) -> Options {
            Options(kind: Format.fileKind, files: [name], hashesTensors: hashesTensors, threads: threads)
        }

        /// A packed folder with files of these paths.
        public static func packedFolder(_ paths: [String], hashesTensors: Bool, threads: Int) -> Options {
            Options(kind: Format.folderKind, files: paths, hashesTensors: hashesTensors, threads: threads)
        }
    }

    private let sink: any ByteSink
    private let prologue: [UInt8]
    private let options: Options
    private let metadata: OrderedDictionary<String, JSONValue>
    private let chunkSize: Int
    private var entries: [Footer.Entry] = []
    /// The packed files, and how many of the tensors so far belong to each.
    private var files: [PackedFile]?
    /// That of the last tensor.
    private var lastFile: Int?
    private var labels: Set<String> = []
    private var rawBytes = 0
    private var chunkCount = 0
    private var table: [UInt8] = []
    /// Set when a write failed, after which the file can only be given up.
    private var failure: (any Error)?

    /// Starts a file.
    ///
    /// - Parameter replacing: whether a file that is there already may be replaced.
    /// - Throws: `CheckpointError` with code `kind-invalid`, `metadata-invalid`, `path-invalid`, or `io` (the output exists,
    ///   the folder is missing or the like).
    public init(path: String, replacing: Bool, options: Options) throws(CheckpointError) {
        let file: AtomicFile
        do {
            file = try AtomicFile(path: path, replacing: replacing)
        } catch {
            throw CheckpointError(error)
        }
        try self.init(to: file, options: options, chunkSize: Format.defaultChunkSize)
    }

    /// Starts a file that goes to `sink`.
    public init(to sink: any ByteSink, options: Options) throws(CheckpointError) {
        try self.init(to: sink, options: options, chunkSize: Format.defaultChunkSize)
    }

    init(to sink: any ByteSink, options: Options, chunkSize: Int, prologue: Prologue = Prologue()) throws(CheckpointError) {
        precondition(Format.isChunkSize(chunkSize))
        let path = sink.path
        guard Format.isKind(options.kind) else {
            throw CheckpointError(.kindInvalid, "the kind \"\(options.kind)\" is not 1 to 64 of a-z, 0-9, '.' and '-'").inFile(path)
        }
        guard case .object(let members) = options.metadata else {
            throw CheckpointError(.metadataInvalid, "the metadata is \(options.metadata.kind) and not an object").inFile(path)
        }
        // What does not survive being written and read (NaN, infinity, NUL in a key, too deep nesting) is refused here
        // and not found missing later. One level is the footer's own.
        let text = Array(options.metadata.serialized().utf8)
        guard text.count <= CheckpointLimits.format.footerBytes / 2,
            let read = try? JSONValue(parsing: text, maximumDepth: JSONValue.defaultMaximumDepth - 1), read == options.metadata
        else {
            throw CheckpointError(
                .metadataInvalid, "the metadata cannot be kept as JSON: it holds NaN or infinity, or it is too large or too deep"
            ).inFile(path)
        }
        let files = options.files ?? []
        if let unfit = files.first(where: { !Format.isPath($0) }) {
            throw CheckpointError(.pathInvalid, "\"\(unfit)\" cannot be the path of a packed file").inFile(path)
        }
        guard Set(files).count == files.count else {
            throw CheckpointError(.pathInvalid, "two files have names that differ in nothing but the way Unicode writes them; rename one").inFile(
                path)
        }
        do {
            try sink.write(prologue.encoded)
        } catch {
            throw CheckpointError(error)
        }
        self.sink = sink
        self.options = options
        self.prologue = prologue.encoded
        self.metadata = members
        self.files = options.files?.map { PackedFile(path: $0, tensors: 0) }
        self.chunkSize = chunkSize
    }

    /// Writes one tensor.
    ///
    /// - Parameter bytes: its elements, little end first, as many as `shape` and `dtype` say.
    /// - Throws: `CheckpointError` with code `name-invalid`, `name-duplicate`, `shape-invalid`, `bytes-mismatch` or a
    ///   limit, after which the writer can go on without this tensor; or `io`, after which it can only be dropped.
    public mutating func append(name: String, dtype: DType, shape: [Int], bytes: RawSpan) throws {
        // Sound: the bytes are alive until `append` returns.
        try unsafe bytes.withUnsafeBytes { bytes in
            try append([TensorContent(name: name, dtype: dtype, shape: shape, bytes: unsafe LentBytes(bytes))])
        }
    }

    /// Writes tensors, with chunks of several coded at once.
    ///
    /// - Parameter isCancelled: asked before each chunk; if true, `CancellationError` is thrown.
    /// - Throws: as for one tensor; nothing has been written when a tensor is refused. Also what the tensors' bytes throw.
    public mutating func append(_ tensors: [TensorContent], isCancelled: @escaping @Sendable () -> Bool = { false }) throws {
        if let failure { throw failure }
        var run = AppendRun.Plan(firstTensor: entries.count, chunkSize: chunkSize)
        var (labels, rawBytes, lastFile) = (labels, rawBytes, lastFile)
        for tensor in tensors {
            do {
                let count = try check(
                    tensor, labels: labels, rawBytes: rawBytes, tensors: run.firstTensor + run.tensors.count,
                    chunks: chunkCount + run.pieces.count)
                let path = tensor.file.flatMap { options.files?[$0] }
                labels.insert(CheckpointTensor.label(name: tensor.name, path: path))
                rawBytes += count
                run.add(tensor, path: tensor.file == lastFile ? nil : path)
                lastFile = tensor.file
            } catch {
                throw error.inTensor(tensor.name).inFile(sink.path)
            }
        }
        let made = AppendRun(plan: run, sink: sink, isCancelled: isCancelled)
        let hashes: [String?]
        let baseHashes: [String?]
        do {
            try made.execute(threads: options.threads)
            hashes = try Self.hashes(of: tensors.map { options.hashesTensors ? $0.bytes : nil }, threads: options.threads)
            baseHashes = try Self.hashes(
                of: zip(tensors, made.holdsDifferences).map { $1 ? $0.base?.bytes : nil }, threads: options.threads)
        } catch {
            // Chunks have been written that no entry counts.
            failure = (error as? FileError).map(CheckpointError.init) ?? error
            throw failure ?? error
        }
        for (number, tensor) in tensors.enumerated() {
            let base = baseHashes[number].map { CheckpointTensor.Base(name: tensor.base?.name ?? "", sha256: $0) }
            entries.append(
                Footer.Entry(
                    name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, base: base, sha256: hashes[number],
                    byteCount: tensor.bytes.byteCount))
            if let file = tensor.file { files?[file].tensors += 1 }
        }
        chunkCount += run.pieces.count
        table += made.table
        self.lastFile = lastFile
        self.labels = labels
        self.rawBytes = rawBytes
    }

    /// The SHA-256 of each source that is given.
    private static func hashes(of sources: [(any ByteSource)?], threads: Int) throws -> [String?] {
        let hashes = Mutex([String?](repeating: nil, count: sources.count))
        try ThreadPool.forEach(sources.count, threads: threads) { number in
            let hash = try sources[number]?.sha256()
            hashes.withLock { $0[number] = hash }
        }
        return hashes.withLock { $0 }
    }

    /// Tensors so far that are stored as differences to a base, in part at least.
    public var differenceCount: Int { entries.count { $0.base != nil } }

    /// Writes the footer and publishes the file under its name.
    ///
    /// - Parameter durable: whether to wait until the disk holds the file.
    /// - Returns: the bytes of the file.
    @discardableResult
    public consuming func finish(durable: Bool = true) throws -> Int {
        if let failure { throw failure }
        let text = Footer(kind: options.kind, metadata: metadata, chunkSize: chunkSize, files: files, entries: entries).encoded
        guard text.count <= CheckpointLimits.format.footerBytes else {
            throw CheckpointError(.limitFooter, "the footer's text would have \(text.count) bytes, more than is allowed").inFile(sink.path)
        }
        let lengths = Trailer.lengths(footerOffset: sink.position, textLength: text.count, chunkCount: chunkCount)
        var digest = SHA256Digest()
        for part in [prologue, text, table, lengths] { digest.update(part.rawBytes) }
        do {
            for part in [text, table, lengths + digest.finish() + Format.endMagic] { try sink.write(part) }
            try sink.publish(durable: durable)
        } catch {
            throw CheckpointError(error)
        }
        return sink.position
    }

    /// Refuses a tensor that the format has no room for; its bytes.
    private func check(
        _ tensor: TensorContent, labels: Set<String>, rawBytes: Int, tensors: Int, chunks: Int
    ) throws(CheckpointError) -> Int {
        let limits = CheckpointLimits.format
        let (name, shape, byteCount) = (tensor.name, tensor.shape, tensor.bytes.byteCount)
        guard Format.isName(name) else {
            throw CheckpointError(.nameInvalid, "the name of a tensor has more than 65,535 bytes or holds a NUL")
        }
        precondition((tensor.file == nil) == (options.files == nil), "packed files have tensors of files, others have none")
        precondition(tensor.file ?? 0 >= lastFile ?? 0, "tensors come in the order of their files")
        let path = tensor.file.flatMap { options.files?[$0] }
        guard !labels.contains(CheckpointTensor.label(name: name, path: path)) else {
            throw CheckpointError(.nameDuplicate, "a tensor of this name is written already")
        }
        guard shape.count <= limits.rank else {
            throw CheckpointError(.limitRank, "the tensor has \(shape.count) dimensions, more than the \(limits.rank) that are allowed")
        }
        guard let needed = CheckedSize.byteCount(of: shape, dtype: tensor.dtype) else {
            throw CheckpointError(
                .shapeInvalid, "the shape \(describe(shape: shape)) of \(tensor.dtype) is negative, overflows, or leaves a byte unfilled")
        }
        guard needed == byteCount, tensor.base?.bytes.byteCount ?? needed == needed else {
            throw CheckpointError(
                .bytesMismatch, "\(describe(shape: shape)) of \(tensor.dtype) takes \(needed) bytes and \(byteCount) were given")
        }
        guard tensors < limits.tensors else { throw CheckpointError(.limitTensors, "the file has as many tensors as are allowed") }
        guard byteCount <= limits.rawBytes - rawBytes else {
            throw CheckpointError(.limitRawBytes, "the file would hold more bytes than are allowed")
        }
        guard (byteCount + chunkSize - 1) / chunkSize <= limits.chunks - chunks else {
            throw CheckpointError(.limitChunks, "the file would have more chunks than are allowed")
        }
        return byteCount
    }
}
