public import FileIO
internal import JSON
public import NativeCheckpoint
internal import OrderedCollections
internal import Safetensors

/// The saving of what is whole in a damaged `.opck` file.
///
/// The output is a folder: `files/` with the packed files that are whole, `tensors.safetensors` with the whole tensors of no
/// such file, and `salvage.json`, which says what was found, what was lost and what vouches for the rest.
public struct Salvage: Sendable {
    /// What was saved.
    public struct Report: Sendable {
        /// Packed files that are whole.
        public let files: Int
        /// Whole tensors that belong to none of them.
        public let tensors: Int
        /// Tensors that are not whole.
        public let lostTensors: Int
        /// Chunks that belong to no known tensor.
        public let unplacedChunks: Int
        /// Whether everything was saved, and is known to be everything.
        public let isComplete: Bool
    }

    public let checkpoint: DamagedCheckpoint
    private let base: BaseFiles?

    /// Which folders the output may take the place of: those that a salvage has written.
    public static let folderRule = FolderRule { listing in
        let report = try? JSONValue(parsing: try FileSystem.contents(of: FileSystem.join(listing.folder, reportName), limit: 1 << 26))
        guard report?["schema"]?.stringValue == SalvagePlan.schema else { return listing.entries.first?.path }
        let saved = (report?["files"]?.arrayValue ?? []).filter { $0["whole"] == true }.compactMap { $0["path"]?.stringValue }
        return FolderRule.holdingOnly(saved.map { FileSystem.join(filesName, $0) } + [reportName, tensorsName]).firstForeign(listing)
    }

    static let filesName = "files"
    static let tensorsName = "tensors.safetensors"
    static let reportName = "salvage.json"

    /// - Parameter base: what the file was packed against, if anything.
    /// - Throws: `CheckpointError` with code `io`; `PackError.nothingToSalvage`.
    public init(path: String, base: BaseFiles? = nil) throws {
        self.base = base
        checkpoint = try DamagedCheckpoint(path: path)
        guard checkpoint.fault == nil || !checkpoint.tensors.isEmpty || !checkpoint.unplaced.isEmpty else {
            throw PackError.nothingToSalvage(path: path)
        }
    }

    /// Writes the folder.
    ///
    /// - Throws: `FileError`, `PackError.interrupted`, and `CheckpointError` if the file changes in the meantime.
    public func run(
        to path: String, replacing: Bool, durable: Bool = true, isCancelled: @escaping @Sendable () -> Bool = { false }
    ) throws -> Report {
        func goOn() throws {
            if isCancelled() { throw PackError.interrupted(path: path) }
        }
        let folder = try AtomicFolder(path: path, replacing: replacing ? Self.folderRule : nil)
        let conditions = try checkpoint.tensors.map { tensor in
            try goOn()
            return checkpoint.examine(tensor, base: base)
        }
        let plan = SalvagePlan(checkpoint, conditions: conditions)
        let report = Report(
            files: plan.files.count { !$0.isFolder }, tensors: plan.loose.count,
            lostTensors: conditions.count { !$0.isWhole }, unplacedChunks: checkpoint.unplaced.count, isComplete: plan.isComplete)
        try folder.fill {
            for file in plan.files {
                let name = FileSystem.join(Self.filesName, file.path ?? "")
                try folder.makeFolders(for: name)
                guard !file.isFolder else { continue }
                let output = try AtomicFile(path: folder.path(of: name), replacing: false)
                for tensor in file.tensors {
                    try checkpoint.read(checkpoint.tensors[tensor], base: base) { bytes in
                        try goOn()
                        try output.write(bytes)
                    }
                }
                try output.publish(durable: durable)
            }
            if !plan.loose.isEmpty {
                let output = try SafetensorsWriter(
                    path: folder.path(of: Self.tensorsName),
                    entries: plan.loose.map { loose in
                        let tensor = checkpoint.tensors[loose.tensor]
                        return SafetensorsWriter.Entry(name: loose.name, dtype: tensor.dtype, shape: tensor.shape)
                    }, metadata: [:], replacing: false, keepsOrder: true)
                for loose in plan.loose {
                    try checkpoint.read(checkpoint.tensors[loose.tensor], base: base) { bytes in
                        try goOn()
                        try output.write(bytes)
                    }
                }
                try output.publish(durable: durable)
            }
            let output = try AtomicFile(path: folder.path(of: Self.reportName), replacing: false)
            try plan.writeReport(to: output)
            try output.publish(durable: durable)
        }
        try folder.publish(durable: durable)
        return report
    }
}
