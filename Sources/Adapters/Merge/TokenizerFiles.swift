internal import FileIO
internal import JSON
internal import OrderedCollections
internal import Safetensors

/// The tokenizer that adapters bring. A trainer saves the one that it trained with beside the adapter: with tokens that the base's does not
/// know, or with another chat template.
public struct TokenizerFiles: Sendable {
    /// The adapter whose folder holds them; `nil` where no adapter brings any.
    public let owner: Adapter?
    let folder: String?
    /// Paths in the folder, sorted.
    let names: [String]
    /// Files of the adapters' tokenizers that are links to what is not theirs, with the adapter's name in front.
    let leftOut: [String]

    /// Files that give tokens their numbers: one of them makes a tokenizer.
    private static let vocabularies: Set<String> = [
        "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
    ]
    /// Files that mean nothing without the vocabulary that they were saved with.
    private static let settings: Set<String> = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"]
    /// The template, which stands for itself; loaders take the first of the two.
    private static let templates: Set<String> = ["chat_template.jinja", "chat_template.json"]
    private static let templateFolder = "additional_chat_templates"
    /// The largest `tokenizer.json` that is looked into, in bytes.
    private static let maximumBytes = 100_000_000

    static func isVocabulary(_ name: String) -> Bool { vocabularies.contains(name) }

    /// Whether a file of a model folder is part of its tokenizer.
    static func claims(_ name: String) -> Bool {
        vocabularies.contains(name) || settings.contains(name) || templates.contains(name) || name.hasPrefix(templateFolder + "/")
    }

    /// Finds what the adapters bring.
    ///
    /// - Parameter base: the model's folder, whose own files no adapter brings.
    /// - Throws: `MergeError.unsupportedCombination` for adapters that bring different tokenizers; `.incompleteTokenizer` for parts that mean
    ///   nothing without a vocabulary; `FileError`.
    public init(adapters: [WeightedAdapter], base: String) throws {
        let found = try adapters.compactMap { item in try Self.files(of: item.adapter, base: base).map { (item.adapter, $0) } }
        leftOut = found.flatMap { adapter, files in files.leftOut.map { FileSystem.join(FileSystem.lastComponent(adapter.path), $0) } }
        let brought = found.filter { !$0.1.names.isEmpty }.map { ($0, $1.folder, $1.names) }
        for (_, folder, names) in brought {
            if let file = names.lazy.compactMap({ StandIn($0, in: folder) }).first { throw MergeError(file, in: folder) }
        }
        guard let (owner, folder, names) = brought.first else {
            (self.owner, self.folder, self.names) = (nil, nil, [])
            return
        }
        for (other, otherFolder, otherNames) in brought.dropFirst() {
            guard names == otherNames, try names.allSatisfy({ try Self.areEqual(FileSystem.join(folder, $0), FileSystem.join(otherFolder, $0)) })
            else {
                throw MergeError(
                    .unsupportedCombination, path: other.path,
                    "the adapter brings another tokenizer than \(owner.path), and a model has one", cause: .bringsTokenizer)
            }
        }
        if names.allSatisfy({ !Self.vocabularies.contains($0) }), let part = names.first(where: Self.settings.contains) {
            throw MergeError(
                .incompleteTokenizer, path: owner.path,
                "the adapter brings \(part) and no vocabulary (tokenizer.json, tokenizer.model or vocab.json) that it belongs to",
                cause: .bringsTokenizer)
        }
        (self.owner, self.folder, self.names) = (owner, folder, names)
    }

    private init() { (owner, folder, names, leftOut) = (nil, nil, [], []) }

    /// For a merge that keeps the base's.
    static let none = TokenizerFiles()

    /// The folder whose `tokenizer.json` encodes text for the merged model; `nil` for the base's.
    public var encodingFolder: String? { names.contains("tokenizer.json") ? folder : nil }

    var hasVocabulary: Bool { names.contains(where: Self.vocabularies.contains) }

    /// Whether the merged folder must not hold a file of the base: a tokenizer is taken whole, a template by itself.
    func supersedes(_ name: String) -> Bool {
        guard !names.isEmpty, Self.claims(name) else { return false }
        if hasVocabulary { return true }
        return Self.templates.contains(name)
            ? names.contains(where: Self.templates.contains) : names.contains { $0.hasPrefix(Self.templateFolder + "/") }
    }

    /// The largest number of a token in `tokenizer.json`; `nil` where there is no such file, or one that is not understood.
    var largestToken: Int? {
        guard let folder, names.contains("tokenizer.json"),
            let text = try? FileSystem.contents(of: FileSystem.join(folder, "tokenizer.json"), limit: Self.maximumBytes),
            let document = try? JSONValue(parsing: text)
        else { return nil }
        let added = document["added_tokens"]?.arrayValue?.compactMap { $0["id"]?.integerValue } ?? []
        let vocabulary = document["model"]?["vocab"]
        let numbers = vocabulary?.objectValue?.values.lazy.compactMap(\.integerValue).max()
        return (added + [numbers, vocabulary?.arrayValue.map { $0.count - 1 }].compactMap(\.self)).max()
    }

    // MARK: Looking for files

    /// The tokenizer's files beside an adapter, sorted, and those that are links to what is not the adapter's. Only a folder that PEFT or
    /// mlx-lm wrote is the adapter's own.
    ///
    /// - Parameter base: a folder that is not looked into.
    static func files(of adapter: Adapter, base: String? = nil) throws -> (folder: String, names: [String], leftOut: [String])? {
        guard [.peft, .mlx].contains(adapter.dialect) else { return nil }
        let inner = adapter.weightsPath.map { FileSystem.parent(of: $0) }
        let folders = [inner, FileSystem.isFolder(adapter.path) ? adapter.path : nil].compactMap(\.self)
        for folder in folders where base.map({ FileSystem.areSame(folder, $0) }) != true {
            let templates = FileSystem.join(folder, templateFolder)
            let inTemplates =
                switch FileSystem.kind(of: templates) {
                case .folder?: try FileSystem.names(in: templates).filter { $0.hasSuffix(".jinja") }.map { FileSystem.join(templateFolder, $0) }
                case .link?: [templateFolder]
                default: [] as [String]
                }
            let claimed = try FileSystem.names(in: folder).filter(claims) + inTemplates
            // As of a model's folder.
            let links = ModelLinks(folder: FileSystem.isFolder(adapter.path) ? adapter.path : folder)
            let kinds = claimed.map { ($0, FileSystem.kind(of: FileSystem.join(folder, $0))) }.filter { $1 != .folder }
            let names = kinds.filter { ModelFolder.isFile($0, $1, of: folder, links) }.map(\.0)
            let leftOut = kinds.map(\.0).filter { !names.contains($0) }
            guard names.isEmpty, leftOut.isEmpty else { return (folder, sorted(names), sorted(leftOut)) }
        }
        return nil
    }

    private static func sorted(_ names: [String]) -> [String] { names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) } }

    private static func areEqual(_ first: String, _ second: String) throws -> Bool {
        guard try FileSystem.status(of: first).byteCount == FileSystem.status(of: second).byteCount else { return false }
        return try FileSystem.contents(of: first, limit: maximumBytes) == FileSystem.contents(of: second, limit: maximumBytes)
    }
}
