public import FileIO
internal import JSON

/// Folders that this program wrote, told from any other: those that `--force` may replace.
public enum WrittenFolder {
    /// A merged model holds a receipt, which says what else is in it; an adapter is exactly the files of one layout.
    public static let rule = FolderRule { listing in
        let files = Set(listing.entries.map(\.path))
        if files.isEmpty { return nil }
        if let layout = adapters.first(where: files.isSuperset) { return listing.entries.first { !layout.contains($0.path) }?.path }
        guard files.contains(ModelFolder.receiptName), let receipt = receipt(in: listing.folder) else { return listing.entries.first?.path }
        guard let written = receipt["files"]?.arrayValue else { return firstUnknown(listing) }
        return FolderRule.holdingOnly(written.compactMap(\.stringValue)).firstForeign(listing)
    }

    private static let adapters: [Set<String>] = [
        [PEFT.configurationName, PEFT.weightsName], [MLX.configurationName, MLX.weightsName], [Diffusers.weightsName],
    ]

    private static func receipt(in folder: String) -> JSONValue? {
        let path = FileSystem.join(folder, ModelFolder.receiptName)
        guard let receipt = try? JSONValue(parsing: try FileSystem.contents(of: path, limit: 1 << 28)),
            receipt["schema"]?.stringValue == ModelFolder.receiptSchema
        else { return nil }
        return receipt
    }

    // MARK: Receipts without a list of files, as the first versions wrote them

    /// The first path whose name is not one that the files of models have.
    private static func firstUnknown(_ listing: FolderListing) -> String? {
        let names = Set(listing.entries.map(\.path))
        let hasParts = names.contains("model_index.json") || names.contains("modules.json")
        return listing.entries.first { entry in
            guard entry.kind == .folder else { return !isKnown(entry.name) }
            return entry.path != "additional_chat_templates" && (!hasParts || entry.path.utf8.contains(UInt8(ascii: "/")))
        }?.path
    }

    private static func isKnown(_ name: String) -> Bool {
        name == ModelFolder.receiptName || knownNames.contains(name) || knownEndings.contains { name.hasSuffix($0) }
            || knownBeginnings.contains { name.hasPrefix($0) }
    }

    private static let knownEndings = [
        ".safetensors", ".safetensors.index.json", "_config.json", ".jinja", ".model", ".tiktoken", "processor_config.json",
    ]
    private static let knownBeginnings = ["LICENSE", "NOTICE", "configuration_", "modeling_", "tokenization_"]
    private static let knownNames: Set<String> = [
        "config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
        "chat_template.json", "model_index.json", "modules.json", "config_sentence_transformers.json", "README.md", "USE_POLICY.md",
    ]
}

extension AtomicFolder {
    /// A folder of a model or an adapter, which takes the place of another that this program wrote.
    convenience init(path: String, replacing: Bool) throws(FileError) {
        try self.init(path: path, replacing: replacing ? WrittenFolder.rule : nil)
    }
}
