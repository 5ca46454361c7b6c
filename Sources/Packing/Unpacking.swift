public import FileIO
internal import JSON
public import NativeCheckpoint
internal import OrderedCollections

/// The way back: from a pack to the files, or from differences to the checkpoint that they stand for.
public struct Unpacking: Sendable {
    /// What was written.
    public struct Report: Sendable {
        public let files: Int
        public let bytes: Int
    }

    public let file: CheckpointFile
    private let base: (any BaseTensors)?
    private let threads: Int

    /// - Throws: `CheckpointError`; `PackError.notAPack` for a checkpoint that neither packs files nor holds differences.
    public init(path: String, base: (any BaseTensors)? = nil, threads: Int = 1) throws {
        file = try CheckpointFile(path: path)
        self.base = base
        self.threads = threads
        guard file.packedFiles != nil || file.tensors.values.contains(where: { $0.base != nil }) else {
            throw PackError.notAPack(path: path, kind: file.kind)
        }
    }

    /// Whether the output is a folder.
    public var makesFolder: Bool { file.packedFiles != nil && !file.isSingleFile }

    /// Which folders the output may take the place of: those that hold nothing but files of the pack.
    public var folderRule: FolderRule { .holdingOnly(file.packedFiles ?? []) }

    /// Writes the file or folder.
    ///
    /// - Throws: `CheckpointError` for damage and a base that is missing or another one, `FileError`, `PackError.interrupted`.
    public func run(
        to path: String, replacing: Bool, durable: Bool = true, isCancelled: @escaping @Sendable () -> Bool = { false }
    ) throws -> Report {
        do {
            guard let paths = file.packedFiles else { return try restoreCheckpoint(to: path, replacing: replacing, durable, isCancelled) }
            let tensors = Array(file.tensors.values)
            if file.isSingleFile {
                let output = try AtomicFile(path: path, replacing: replacing)
                try write(tensors, to: output, isCancelled)
                try output.publish(durable: durable)
                return Report(files: 1, bytes: output.position)
            }
            let folder = try AtomicFolder(path: path, replacing: replacing ? folderRule : nil)
            try folder.fill { try fill(folder, paths, tensors, durable, isCancelled) }
            try folder.publish(durable: durable)
            return Report(files: paths.count { !Self.isFolder($0) }, bytes: tensors.reduce(0) { $0 + $1.byteCount })
        } catch is CancellationError {
            throw PackError.interrupted(path: path)
        }
    }

    private func write(_ tensors: [CheckpointTensor], to output: AtomicFile, _ isCancelled: @escaping @Sendable () -> Bool) throws {
        // Sound: `copy` never calls its body twice at once.
        nonisolated(unsafe) let output = output
        try file.copy(tensors, base: base, threads: threads) { _, bytes in
            guard !isCancelled() else { throw CancellationError() }
            try unsafe output.write(bytes)
        }
    }

    /// Writes all files of a folder in one pass over the tensors, of which those of a file follow each other.
    private func fill(
        _ folder: AtomicFolder, _ paths: [String], _ tensors: [CheckpointTensor], _ durable: Bool,
        _ isCancelled: @escaping @Sendable () -> Bool
    ) throws {
        let withBytes = Set(tensors.lazy.filter { $0.byteCount > 0 }.compactMap(\.path))
        for name in paths {
            try folder.makeFolders(for: name)
            guard !Self.isFolder(name), !withBytes.contains(name) else { continue }
            try AtomicFile(path: folder.path(of: name), replacing: false).publish(durable: durable)
        }
        nonisolated(unsafe) let folder = folder
        // Sound: `copy` never calls its body twice at once.
        nonisolated(unsafe) var current: (path: String, file: AtomicFile)?
        try file.copy(tensors, base: base, threads: threads) { tensor, bytes in
            guard !isCancelled() else { throw CancellationError() }
            let path = tensor.path ?? ""
            if unsafe current?.path != path {
                try unsafe current?.file.publish(durable: durable)
                unsafe current = (path, try AtomicFile(path: folder.path(of: path), replacing: false))
            }
            try unsafe current?.file.write(bytes)
        }
        try unsafe current?.file.publish(durable: durable)
    }

    /// By the last byte: in Swift's characters a slash and a combining mark are one.
    private static func isFolder(_ path: String) -> Bool { path.utf8.last == UInt8(ascii: "/") }

    private func restoreCheckpoint(
        to path: String, replacing: Bool, _ durable: Bool, _ isCancelled: @escaping @Sendable () -> Bool
    ) throws -> Report {
        var writer = try CheckpointWriter(
            path: path, replacing: replacing,
            options: CheckpointWriter.Options(
                kind: file.kind, metadata: .object(file.metadata), hashesTensors: file.tensors.values.contains { $0.sha256 != nil },
                threads: threads))
        try file.checkBases(base, threads: threads)
        try writer.append(
            try file.tensors.values.map { tensor in
                TensorContent(name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, bytes: try file.source(of: tensor, base: base))
            }, isCancelled: isCancelled)
        return Report(files: 1, bytes: try writer.finish(durable: durable))
    }
}
