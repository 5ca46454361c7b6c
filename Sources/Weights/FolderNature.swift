public import FileIO

/// What a folder really is, where it holds no weights or no adapter that can be opened: where they are, or why there are none.
public struct FolderNature: Sendable {
    /// What the folder is and what to do, as the end of a sentence that begins with its path.
    public let explanation: String
    /// Whether what is looked for is not in the folder; otherwise it is, and is not read.
    public let isMissing: Bool

    /// The most names that a message lists.
    private static let mostNames = 8

    /// Pickles that trainers leave beside a model and that hold no weights of it.
    private static let trainerNames: Set<String> = [
        "training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "rng_state.pth",
    ]

    /// `nil` where there is nothing to say.
    ///
    /// - Throws: `FileError` where it cannot be listed.
    public init?(of folder: String) throws(FileError) {
        let names = try FileSystem.names(in: folder)
        if let place = try Self.elsewhere(folder, names) {
            (explanation, isMissing) = (place, true)
        } else if let reason = Self.unreadable(folder, names) {
            (explanation, isMissing) = (reason, false)
        } else {
            return nil
        }
    }

    /// Where what is looked for is, or that it is nowhere.
    private static func elsewhere(_ folder: String, _ names: [String]) throws(FileError) -> String? {
        guard !names.isEmpty else { return "the folder is empty" }
        if let cache = try ofCache(folder, names) { return cache }
        let checkpoints = names.filter { isCheckpoint($0) && FileSystem.isFolder(FileSystem.join(folder, $0)) }.sorted { step($0) < step($1) }
        guard let last = checkpoints.last else { return nil }
        let example = FileSystem.join(folder, last)
        return checkpoints.count == 1
            ? "the folder holds a checkpoint of a training, \(last), and nothing of its own that can be opened; name it as \(example)"
            : "the folder holds checkpoints of a training, \(list(checkpoints)), and nothing of its own that can be opened; name one of them, such as \(example)"
    }

    /// What the folder holds in the place of what is read.
    private static func unreadable(_ folder: String, _ names: [String]) -> String? {
        func files(_ condition: (String) -> Bool) -> [String] { names.filter { condition($0) && !FileSystem.isFolder(FileSystem.join(folder, $0)) } }
        let unfinished = files(FileNature.isUnfinished)
        if !unfinished.isEmpty { return "the download of \(list(unfinished)) has not finished; fetch it again" }
        let pickles = files { FileNature.isPickled($0) && !trainerNames.contains($0) }
        if !pickles.isEmpty {
            let which = pickles.count == 1 ? "the pickle \(list(pickles)), which is" : "pickles (\(list(pickles))), which are"
            return "its weights are \(which) not read because \(FileNature.pickleAdvice)"
        }
        let quantized = files { $0.hasSuffix(".gguf") }
        if let first = quantized.first {
            return
                "the folder holds no safetensors but \(list(quantized)); where GGUF is read, name the file itself, such as \(FileSystem.join(folder, first))"
        }
        let packs = files { $0.hasSuffix(".opck") }
        if let first = packs.first {
            return "the folder holds no safetensors but \(list(packs)); name the file itself, such as \(FileSystem.join(folder, first))"
        }
        let foreign = files { name in [".h5", ".msgpack", ".onnx", ".tflite", ".npz"].contains(where: name.hasSuffix) }
        if !foreign.isEmpty { return "the folder holds \(list(foreign)), which are not read; save the model as safetensors" }
        return nil
    }

    /// What lies in a folder, as it stands in a sentence; hidden files are of the system or of a version control.
    ///
    /// - Throws: `FileError` where it cannot be listed.
    public static func contents(of folder: String) throws(FileError) -> String {
        let names = try FileSystem.names(in: folder).filter { !$0.hasPrefix(".") }
        return names.isEmpty ? "nothing" : list(names)
    }

    /// Names as they stand in a sentence, the last few of many left out.
    static func list(_ names: [String]) -> String {
        names.count > mostNames + 1
            ? names.prefix(mostNames).joined(separator: ", ") + " and \(names.count - mostNames) more"
            : names.count < 2 ? names.joined() : names.dropLast().joined(separator: ", ") + " and " + (names.last ?? "")
    }

    // MARK: Trainers

    private static let checkpointPrefix = "checkpoint-"

    /// Whether a folder of this name is a checkpoint that a trainer has left.
    public static func isCheckpoint(_ name: String) -> Bool {
        name.hasPrefix(checkpointPrefix) && name.utf8.count > checkpointPrefix.utf8.count
            && name.utf8.dropFirst(checkpointPrefix.utf8.count).allSatisfy { UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }
    }

    private static func step(_ name: String) -> Int { Int(name.dropFirst(checkpointPrefix.count)) ?? .max }

    // MARK: The cache of huggingface_hub

    private static func ofCache(_ folder: String, _ names: [String]) throws(FileError) -> String? {
        if names.contains("snapshots"), names.contains("blobs") || names.contains("refs") {
            guard let snapshot = snapshot(in: folder) else { return "this is the cache of a model that was not fetched; fetch it" }
            return "this is the root of a model in a cache; name the snapshot in it, \(snapshot)"
        }
        let models = names.filter { $0.hasPrefix("models--") }
        guard let first = models.first else { return nil }
        let example = snapshot(in: FileSystem.join(folder, first))
        return "this is a cache of \(models.count == 1 ? "the model" : "models,") \(list(models)); name a snapshot in it"
            + (example.map { ", such as \($0)" } ?? "")
    }

    /// The snapshot that `main` is, or the first there is.
    private static func snapshot(in root: String) -> String? {
        let snapshots = FileSystem.join(root, "snapshots")
        let names = (try? FileSystem.names(in: snapshots)) ?? []
        let reference = (try? FileSystem.contents(of: FileSystem.join(FileSystem.join(root, "refs"), "main"), limit: 256)) ?? []
        let main = String(decoding: reference.prefix { $0 > 0x20 }, as: UTF8.self)
        return (names.contains(main) ? main : names.first).map { FileSystem.join(snapshots, $0) }
    }
}
