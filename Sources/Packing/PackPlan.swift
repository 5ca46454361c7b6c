internal import FileIO
internal import JSON
public import NativeCheckpoint
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// What goes into a pack: the files of the input, each cut into tensors and what lies before them.
///
/// A safetensors file is its header, as bytes that belong to no tensor, and its tensors in the order of their bytes; any
/// other file is one run of bytes. An `.opck` checkpoint is taken apart into its tensors, to be stored as differences.
public struct PackPlan: Sendable {
    /// What was done.
    public struct Report: Sendable {
        public let files: Int
        public let tensors: Int
        /// Tensors that are stored as differences to the base.
        public let differences: Int
        /// Bytes of the input and of the pack.
        public let bytes: Int
        public let packedBytes: Int
    }

    public let input: String
    private let options: CheckpointWriter.Options
    private let contents: [TensorContent]

    /// Bytes that will be packed.
    public var byteCount: Int { contents.reduce(0) { $0 + $1.bytes.byteCount } }

    /// Looks at the input and cuts it up.
    ///
    /// - Parameters:
    ///   - input: a file or a folder.
    ///   - base: where tensors of the same name, type and shape may be that are stored as differences.
    ///   - hashesTensors: whether to take the SHA-256 of each tensor.
    /// - Throws: `FileError`, `PackError`, `CheckpointError`.
    public init(input: String, base: (any BaseTensors)? = nil, hashesTensors: Bool = false, threads: Int = 1) throws {
        self.input = input
        if base != nil, CheckpointFile.claims(input) {
            let checkpoint = try CheckpointFile(path: input)
            guard checkpoint.packedFiles == nil else { throw PackError.alreadyPacked(path: input) }
            options = CheckpointWriter.Options(
                kind: checkpoint.kind, metadata: .object(checkpoint.metadata),
                hashesTensors: hashesTensors || checkpoint.tensors.values.contains { $0.sha256 != nil }, threads: threads)
            contents = try checkpoint.tensors.values.map { tensor in
                TensorContent(
                    name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, bytes: try checkpoint.source(of: tensor),
                    base: try Self.base(of: tensor.name, tensor.dtype, tensor.shape, in: base))
            }
        } else if try FileSystem.status(of: input).isFolder {
            let paths = try Self.paths(in: input)
            contents = try paths.enumerated().flatMap { number, path in
                path.utf8.last == UInt8(ascii: "/") ? [] : try Self.contents(of: FileSystem.join(input, path), number: number, base: base)
            }
            options = .packedFolder(paths, hashesTensors: hashesTensors, threads: threads)
        } else {
            contents = try Self.contents(of: input, number: 0, base: base)
            options = .packedFile(named: FileSystem.lastComponent(input), hashesTensors: hashesTensors, threads: threads)
        }
        if let base, !contents.contains(where: { $0.base != nil }) { throw PackError.baseWithoutTensors(path: base.path) }
    }

    /// Writes the pack.
    ///
    /// - Throws: `CheckpointError`, `PackError.interrupted`, and `FileError` of the input.
    public func run(
        to path: String, replacing: Bool, durable: Bool = true, isCancelled: @escaping @Sendable () -> Bool = { false }
    ) throws -> Report {
        var writer = try CheckpointWriter(path: path, replacing: replacing, options: options)
        do {
            try writer.append(contents, isCancelled: isCancelled)
        } catch is CancellationError {
            throw PackError.interrupted(path: path)
        }
        let differences = writer.differenceCount
        let size = try writer.finish(durable: durable)
        return Report(
            files: options.files?.count ?? 1, tensors: contents.count { !$0.name.isEmpty }, differences: differences, bytes: byteCount,
            packedBytes: size)
    }

    /// The paths of all files below a folder, in the order of their bytes, and of folders with nothing in them.
    private static func paths(in folder: String) throws -> [String] {
        let entries = try FolderListing(of: folder).entries
        let links = ModelLinks(folder: folder)
        return try entries.enumerated().compactMap { number, entry in
            let place = FileSystem.join(folder, entry.path)
            switch entry.kind {
            case .folder:
                let isEmpty = number + 1 == entries.count || !entries[number + 1].path.utf8.starts(with: (entry.path + "/").utf8)
                return isEmpty ? entry.path + "/" : nil
            case .link:
                guard try !FileSystem.status(of: place).isFolder else { throw PackError.linkToFolder(path: place) }
                guard links.target(of: place) != nil else { throw PackError.linkOutside(path: place) }
                return entry.path
            default: return entry.path
            }
        }
    }

    /// One file as tensors and other bytes.
    private static func contents(of path: String, number: Int, base: (any BaseTensors)?) throws -> [TensorContent] {
        let file = try MappedFile(path: path)
        func bytes(_ range: Range<Int>) -> [TensorContent] {
            range.isEmpty
                ? [] : [TensorContent(name: "", dtype: .u8, shape: [range.count], file: number, bytes: MappedBytes(file, range))]
        }
        // What is not safetensors to the letter, or more than the format can say, is packed as bytes: nothing may be lost.
        guard let tensors = try safetensors(path), tensors.file.count == file.count, tensors.tensors.values.allSatisfy(isPackable)
        else { return bytes(0..<file.count) }
        let start = tensors.tensors.values.first?.byteRange.lowerBound ?? file.count
        return try bytes(0..<start)
            + tensors.tensors.values.map { info in
                TensorContent(
                    name: info.name, dtype: info.dtype, shape: info.shape, file: number, bytes: MappedBytes(file, info.byteRange),
                    base: try Self.base(of: info.name, info.dtype, info.shape, in: base))
            }
    }

    /// `nil` for a file of another kind; what the system has against it is an error.
    private static func safetensors(_ path: String) throws -> SafetensorsFile? {
        do { return try SafetensorsFile(path: path) } catch is SafetensorsError { return nil }
    }

    /// The format's limits for names and shapes, which safetensors does not have; the empty name stands for other bytes.
    private static func isPackable(_ info: TensorInfo) -> Bool {
        !info.name.isEmpty && info.name.utf8.count <= 65_535 && !info.name.utf8.contains(0) && info.shape.count <= CheckpointLimits.format.rank
    }

    private static func base(
        of name: String, _ dtype: DType, _ shape: [Int], in base: (any BaseTensors)?
    ) throws -> (name: String, bytes: any ByteSource)? {
        try base?.source(name: name, dtype: dtype, shape: shape).map { (name, $0) }
    }
}
