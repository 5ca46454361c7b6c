internal import FileIO
internal import Hashing
public import JSON
internal import OrderedCollections
public import Tensors

/// Writes a `.opck` file in one pass: tensors one after the other, then `finish`.
///
/// The file appears under its name only when it is whole (see `AtomicFile`); a writer that is dropped unfinished leaves
/// what was there before. The same calls give the same bytes.
public struct CheckpointWriter: ~Copyable {
    private let file: AtomicFile
    private let prologue: [UInt8]
    private let kind: String
    private let metadata: OrderedDictionary<String, JSONValue>
    private let chunkSize: Int
    private var encoder = ChunkEncoder()
    private var entries: [Footer.Entry] = []
    private var names: Set<String> = []
    private var rawBytes = 0
    private var chunkCount = 0
    private var table: [UInt8] = []
    /// Set when a write failed, after which the file can only be given up.
    private var failure: CheckpointError?

    /// Starts a file.
    ///
    /// - Parameters:
    ///   - replacing: whether a file that is there already may be replaced.
    ///   - kind: what the file is a checkpoint of: 1 to 64 of `a`–`z`, `0`–`9`, `.` and `-`.
    ///   - metadata: a JSON object, kept as it is and in its order; it may hold anything that JSON can hold (so no NaN
    ///     or infinity).
    /// - Throws: `CheckpointError` with code `kind-invalid`, `metadata-invalid`, or `io` (the output exists, the folder
    ///   is missing or the like).
    public init(path: String, replacing: Bool, kind: String, metadata: JSONValue) throws(CheckpointError) {
        try self.init(path: path, replacing: replacing, kind: kind, metadata: metadata, chunkSize: Format.defaultChunkSize)
    }

    init(
        path: String, replacing: Bool, kind: String, metadata: JSONValue, chunkSize: Int, prologue: Prologue = Prologue()
    ) throws(CheckpointError) {
        precondition(Format.isChunkSize(chunkSize))
        guard Format.isKind(kind) else {
            throw CheckpointError(.kindInvalid, "the kind \"\(kind)\" is not 1 to 64 of a-z, 0-9, '.' and '-'").inFile(path)
        }
        guard case .object(let members) = metadata else {
            throw CheckpointError(.metadataInvalid, "the metadata is \(metadata.kind) and not an object").inFile(path)
        }
        // What does not survive being written and read (NaN, infinity, NUL in a key, too deep nesting) is refused here
        // and not found missing later. One level is the footer's own.
        let text = Array(metadata.serialized().utf8)
        guard text.count <= CheckpointLimits.format.footerBytes / 2,
            let read = try? JSONValue(parsing: text, maximumDepth: JSONValue.defaultMaximumDepth - 1), read == metadata
        else {
            throw CheckpointError(
                .metadataInvalid, "the metadata cannot be kept as JSON: it holds NaN or infinity, or it is too large or too deep"
            ).inFile(path)
        }
        let opened: AtomicFile
        do {
            opened = try AtomicFile(path: path, replacing: replacing)
            try opened.write(prologue.encoded)
        } catch {
            throw CheckpointError(error)
        }
        file = opened
        self.prologue = prologue.encoded
        self.kind = kind
        self.metadata = members
        self.chunkSize = chunkSize
    }

    /// Writes one tensor.
    ///
    /// - Parameter bytes: its elements, little end first, as many as `shape` and `dtype` say.
    /// - Throws: `CheckpointError` with code `name-invalid`, `name-duplicate`, `shape-invalid`, `bytes-mismatch` or a
    ///   limit, after which the writer can go on without this tensor; or `io`, after which it can only be dropped.
    public mutating func append(name: String, dtype: DType, shape: [Int], bytes: RawSpan) throws(CheckpointError) {
        if let failure { throw failure }
        do {
            try check(name: name, dtype: dtype, shape: shape, byteCount: bytes.byteCount)
        } catch {
            throw error.inTensor(name).inFile(file.path)
        }
        let layout = PlaneLayout(dtype)
        var digest = SHA256Digest()
        let firstChunk = chunkCount
        var start = 0
        while start < bytes.byteCount {
            let part = bytes.extracting(start..<min(start + chunkSize, bytes.byteCount))
            digest.update(part)
            let descriptor = start == 0 ? TensorDescriptor.encode(name: name, dtype: dtype, shape: shape) : []
            let chunk = encoder.encode(
                part, layout: layout, tensorIndex: entries.count, index: chunkCount - firstChunk, descriptor: descriptor)
            ChunkRecord(
                offset: file.position, storedLength: chunk.bytes.count, rawLength: part.byteCount, checksum: chunk.checksum,
                tensorIndex: entries.count, codec: layout.codec, width: UInt8(layout.width)
            ).encode(into: &table)
            chunkCount += 1
            try write(chunk.bytes)
            start += part.byteCount
        }
        names.insert(name)
        rawBytes += bytes.byteCount
        entries.append(
            Footer.Entry(
                name: name, dtype: dtype, shape: shape, sha256: digest.finishHex(), firstChunk: firstChunk,
                chunkCount: chunkCount - firstChunk, byteCount: bytes.byteCount))
    }

    /// Writes the footer and publishes the file under its name.
    ///
    /// - Parameter durable: whether to wait until the disk holds the file.
    /// - Returns: the bytes of the file.
    @discardableResult
    public consuming func finish(durable: Bool = true) throws(CheckpointError) -> Int {
        if let failure { throw failure }
        let text = Footer(kind: kind, metadata: metadata, chunkSize: chunkSize, entries: entries).encoded
        guard text.count <= CheckpointLimits.format.footerBytes else {
            throw CheckpointError(.limitFooter, "the footer's text would have \(text.count) bytes, more than is allowed").inFile(file.path)
        }
        let lengths = Trailer.lengths(footerOffset: file.position, textLength: text.count, chunkCount: chunkCount)
        var digest = SHA256Digest()
        for part in [prologue, text, table, lengths] { digest.update(part.rawBytes) }
        try write(text)
        try write(table)
        try write(lengths + digest.finish() + Format.endMagic)
        do {
            try file.publish(durable: durable)
        } catch {
            throw CheckpointError(error)
        }
        return file.position
    }

    private func check(name: String, dtype: DType, shape: [Int], byteCount: Int) throws(CheckpointError) {
        let limits = CheckpointLimits.format
        guard Format.isName(name) else {
            throw CheckpointError(.nameInvalid, "the name of a tensor has more than 65,535 bytes or holds a NUL")
        }
        guard !names.contains(name) else { throw CheckpointError(.nameDuplicate, "a tensor of this name is written already") }
        guard shape.count <= limits.rank else {
            throw CheckpointError(.limitRank, "the tensor has \(shape.count) dimensions, more than the \(limits.rank) that are allowed")
        }
        guard let needed = CheckedSize.byteCount(of: shape, dtype: dtype) else {
            throw CheckpointError(
                .shapeInvalid, "the shape \(describe(shape: shape)) of \(dtype) is negative, overflows, or leaves a byte unfilled")
        }
        guard needed == byteCount else {
            throw CheckpointError(
                .bytesMismatch, "\(describe(shape: shape)) of \(dtype) takes \(needed) bytes and \(byteCount) were given")
        }
        guard entries.count < limits.tensors else { throw CheckpointError(.limitTensors, "the file has as many tensors as are allowed") }
        guard byteCount <= limits.rawBytes - rawBytes else {
            throw CheckpointError(.limitRawBytes, "the file would hold more bytes than are allowed")
        }
        guard (byteCount + chunkSize - 1) / chunkSize <= limits.chunks - chunkCount else {
            throw CheckpointError(.limitChunks, "the file would have more chunks than are allowed")
        }
    }

    private mutating func write(_ bytes: [UInt8]) throws(CheckpointError) {
        do {
            try file.write(bytes)
        } catch {
            let wrapped = CheckpointError(error)
            failure = wrapped
            throw wrapped
        }
    }
}
