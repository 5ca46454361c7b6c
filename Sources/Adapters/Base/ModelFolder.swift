internal import FileIO
internal import JSON
internal import OrderedCollections
internal import Safetensors
internal import Weights

/// The files of a model folder that are not its weights, sorted into those that belong to a merged model and those that
/// do not.
struct ModelFolder {
    /// The receipt that a merge leaves.
    static let receiptName = "oplora-merge.json"
    static let receiptSchema = "oplora.merge-receipt/1"

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

    /// - Throws: `FileError`; `.excessive` for a folder that holds more than any model.
    ///
    /// - Parameter decodes: whether the model has full weights in the place of codes, to which some files belong.
    init(_ files: ModelWeights, decodes: Bool = false) throws {
        try collect(files.path, moduleFolders: try Self.moduleFolders(of: files.path), components: Set(files.parts.map(\.name)))
        // The weights themselves are neither.
        let written = files.parts.flatMap { part in
            files.shards[part.shards].map { part.path(of: FileSystem.lastComponent($0.path)) } + [part.index.map { part.path(of: $0.name) } ?? ""]
        }
        // The receipt of an earlier merge goes on in the new one, as its history.
        leftOut.removeAll(where: Set(written + [Self.receiptName]).contains)
        // Nobody misses them, and they need not be fetched for a merge.
        let documents = copied.filter { Self.isDocument($0) && StandIn($0, in: files.path) != nil }
        copied.removeAll(where: Set(documents).contains)
        leftOut += documents
        if decodes {
            leftOut += copied.filter(QuantizationSettings.files.contains)
            copied.removeAll(where: QuantizationSettings.files.contains)
        }
        copied.sort { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        leftOut.sort { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    /// Pictures and texts for people, which no loader opens.
    private static let documentEndings = [".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".pdf", ".mp4", ".webm"]

    private static func isDocument(_ name: String) -> Bool { documentEndings.contains(where: name.lowercased().hasSuffix) }

    static func isWeights(_ name: String) -> Bool { weightEndings.contains { name.hasSuffix($0) } }

    private static func isForeign(_ name: String) -> Bool {
        isWeights(name) || FileNature.isUnfinished(name) || foreignNames.contains(name) || name.hasPrefix("events.out.tfevents")
    }

    /// Hidden files are of the system or of a version control, and hold nothing of the model.
    private static func isHidden(_ path: String) -> Bool { path.utf8.split(separator: slash).contains { $0.first == UInt8(ascii: ".") } }

    private static let slash = UInt8(ascii: "/")

    /// Sub-folders that `modules.json` of a sentence-transformers model names as parts of it.
    private static func moduleFolders(of path: String) throws -> Set<String> {
        let file = FileSystem.join(path, "modules.json")
        guard FileSystem.exists(file) else { return [] }
        let text = try FileSystem.contents(of: file, limit: 1 << 20)
        guard let list = (try? JSONValue(parsing: text))?.arrayValue else { return [] }
        return Set(list.compactMap { $0["path"]?.stringValue })
    }

    private mutating func collect(_ folder: String, moduleFolders: Set<String>, components: Set<String>) throws {
        let entries = try FolderListing(of: folder, entering: { !Self.isHidden($0.path) }).entries
        // A sub-folder with weights of its own is the same model in another format, or a stage of its training.
        var withWeights: Set<String> = []
        for entry in entries where entry.kind != .folder && Self.isForeign(entry.name) {
            var parent = FileSystem.parent(of: entry.path)
            while parent != ".", withWeights.insert(parent).inserted { parent = FileSystem.parent(of: parent) }
        }
        let links = ModelLinks(folder: folder)
        var skipped: String?
        for entry in entries {
            if let skipped, entry.path.utf8.starts(with: skipped.utf8) { continue }
            let isOfModel = moduleFolders.contains(entry.path) || components.contains(entry.path)
            if entry.kind == .folder, !Self.isHidden(entry.path), isOfModel || !withWeights.contains(entry.path) { continue }
            if entry.kind == .folder { skipped = entry.path + "/" }
            let isOfPart = moduleFolders.contains(FileSystem.parent(of: entry.path))
            let isCopied =
                !Self.isHidden(entry.path) && (isOfPart || !Self.isForeign(entry.name)) && Self.isFile(entry.path, entry.kind, of: folder, links)
            if isCopied { copied.append(entry.path) } else { leftOut.append(entry.path) }
        }
    }

    /// A file, or a link to one that belongs to the model; what else a link leads to is nobody's to copy.
    static func isFile(_ path: String, _ kind: FileSystem.Kind?, of folder: String, _ links: ModelLinks) -> Bool {
        guard kind == .link else { return kind == .file }
        // A file of the model that is missing is none to be left out.
        guard let target = links.target(of: FileSystem.join(folder, path)) else { return StandIn(path, in: folder)?.nature == .brokenLink }
        let root = (FileSystem.resolved(folder) ?? folder) + "/"
        return !target.utf8.starts(with: root.utf8) || !isHidden(String(decoding: target.utf8.dropFirst(root.utf8.count), as: UTF8.self))
    }

    /// Copies a file byte for byte.
    static func copy(_ source: String, to target: String, isDurable: Bool) throws {
        let file = try MappedFile(path: source)
        let output = try AtomicFile(path: target, replacing: false)
        let size = 1 << 20
        var piece = [UInt8](repeating: 0, count: min(size, file.count))
        for start in stride(from: 0, to: file.count, by: size) {
            let range = start..<min(start + size, file.count)
            var span = piece.mutableSpan
            // Sound: every bit pattern of a byte may be written and read.
            var bytes = unsafe span.mutableBytes
            try file.copyBytes(in: range, to: &bytes)
            try output.write(unsafe piece.span.bytes.extracting(0..<range.count))
        }
        try output.publish(durable: isDurable)
    }

    /// `config.json` with the fields that name the element type of the weights set to `name`.
    ///
    /// - Parameter replaces: takes the type that a field names.
    static func configuration(_ value: JSONValue, dtype name: String, replacing replaces: (String) -> Bool = { _ in true }) -> JSONValue {
        switch value {
        case .object(let members):
            var changed = members
            for (key, member) in members {
                let own = key == "torch_dtype" || key == "dtype" ? member.stringValue : nil
                changed[key] = own.map { replaces($0) ? .string(name) : member } ?? configuration(member, dtype: name, replacing: replaces)
            }
            return .object(changed)
        case .array(let elements):
            return .array(elements.map { configuration($0, dtype: name, replacing: replaces) })
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
