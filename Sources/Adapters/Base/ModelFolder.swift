internal import FileIO
internal import JSON
internal import OrderedCollections
internal import Safetensors

/// The files of a model folder that are not its weights, sorted into those that belong to a merged model and those that
/// do not.
struct ModelFolder {
    /// The receipt that a merge leaves.
    static let receiptName = "oplora-merge.json"

    /// Paths in the folder, sorted.
    private(set) var copied: [String] = []
    private(set) var leftOut: [String] = []

    /// Endings of files that hold weights, or the state of a training, in any format.
    private static let weightEndings = [
        ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".h5", ".msgpack",
        ".msgpack.index.json", ".onnx", ".onnx_data", ".gguf", ".ggml", ".tflite", ".mlmodel", ".npz", ".opck", ".partial",
    ]

    /// Files of a training or of an adapter, which a merged model is not.
    private static let foreignNames: Set<String> = [
        "adapter_config.json", "trainer_state.json", "training_args.json", "optimizer.json", receiptName,
    ]

    init(_ files: WeightFiles) throws {
        try collect(
            files.path, prefix: "", moduleFolders: Self.moduleFolders(of: files.path),
            components: Set(files.parts.map(\.name)))
        // The weights themselves are neither.
        let written = files.parts.flatMap { part in
            files.shards[part.shards].map { part.path(of: FileSystem.lastComponent($0.path)) } + [part.index.map { part.path(of: $0.name) } ?? ""]
        }
        leftOut.removeAll(where: Set(written).contains)
        copied.sort { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        leftOut.sort { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    static func isWeights(_ name: String) -> Bool { weightEndings.contains { name.hasSuffix($0) } }

    private static func isForeign(_ name: String) -> Bool {
        isWeights(name) || foreignNames.contains(name) || name.hasPrefix("events.out.tfevents")
    }

    /// Sub-folders that `modules.json` of a sentence-transformers model names as parts of it.
    private static func moduleFolders(of path: String) -> Set<String> {
        let file = FileSystem.join(path, "modules.json")
        guard let text = try? FileSystem.contents(of: file, limit: 1 << 20), let list = (try? JSONValue(parsing: text))?.arrayValue else { return [] }
        return Set(list.compactMap { $0["path"]?.stringValue })
    }

    private mutating func collect(_ folder: String, prefix: String, moduleFolders: Set<String>, components: Set<String>) throws {
        for name in try FileSystem.names(in: folder) {
            let path = FileSystem.join(folder, name)
            let relative = prefix + name
            // A link that leads nowhere has no content to copy.
            guard let status = try? FileSystem.status(of: path) else {
                leftOut.append(relative)
                continue
            }
            if status.isRegularFile {
                let isPart = !prefix.isEmpty && moduleFolders.contains(String(prefix.dropLast()))
                // Hidden files are of the system or of a version control, and hold nothing of the model.
                if name.hasPrefix(".") || (Self.isForeign(name) && !isPart) {
                    leftOut.append(relative)
                } else {
                    copied.append(relative)
                }
            } else if status.isFolder, !name.hasPrefix("."),
                try moduleFolders.contains(relative) || components.contains(relative) || Self.isFreeOfWeights(path)
            {
                try collect(path, prefix: relative + "/", moduleFolders: moduleFolders, components: components)
            } else {
                leftOut.append(relative)
            }
        }
    }

    /// A sub-folder with weights of its own is the same model in another format, or a stage of its training.
    private static func isFreeOfWeights(_ folder: String) throws -> Bool {
        try FileSystem.names(in: folder).allSatisfy { name in
            let path = FileSystem.join(folder, name)
            return try FileSystem.isFolder(path) ? isFreeOfWeights(path) : !isForeign(name)
        }
    }

    /// Copies a file byte for byte.
    static func copy(_ source: String, to target: String, isDurable: Bool) throws {
        let file = try MappedFile(path: source)
        let output = try AtomicFile(path: target, replacing: false)
        let piece = 1 << 22
        for start in stride(from: 0, to: file.count, by: piece) {
            let range = start..<min(start + piece, file.count)
            try output.write(file.bytes(in: range))
            file.release(range)
        }
        try output.publish(durable: isDurable)
    }

    /// `config.json` with every field that names the element type of the weights set to `name`.
    static func configuration(_ value: JSONValue, dtype name: String) -> JSONValue {
        switch value {
        case .object(let members):
            var changed = members
            for (key, member) in members {
                let isTypeName = (key == "torch_dtype" || key == "dtype") && member.stringValue != nil
                changed[key] = isTypeName ? .string(name) : configuration(member, dtype: name)
            }
            return .object(changed)
        case .array(let elements):
            return .array(elements.map { configuration($0, dtype: name) })
        default:
            return value
        }
    }

    /// `config.json` with members set; a model of text and images has them in its part for the text as well.
    static func configuration(_ value: JSONValue, setting changes: [String: JSONValue]) -> JSONValue {
        guard var members = value.objectValue else { return value }
        var text = members["text_config"]?.objectValue
        for (key, change) in changes.sorted(by: { $0.key < $1.key }) {
            if text?[key] != nil { text?[key] = change }
            if text == nil || members[key] != nil || text?[key] == nil { members[key] = change }
        }
        if let text { members["text_config"] = .object(text) }
        return .object(members)
    }
}
