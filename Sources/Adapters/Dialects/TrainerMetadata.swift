internal import JSON
internal import OrderedCollections

/// What a trainer has written into the header of a file: words that call the adapter up, its base, its license. It stays as long as
/// it is true.
enum TrainerMetadata {
    /// Of the tensors' bytes or names, which every command changes, and what is read as part of the adapter.
    private static let dropped: Set<String> = [
        "format", Diffusers.metadataKey, "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "alpha", "lora_alpha", "network_alpha",
        "alpha_pattern", "rank_pattern", "use_rslora", "r", "rank", "lora_rank", "network_dim", "lora_config",
    ]
    private static let componentFields = [".lora_alpha", ".r", ".use_rslora", ".alpha_pattern", ".rank_pattern"]
    private static let (rank, alpha, arguments) = ("ss_network_dim", "ss_network_alpha", "ss_network_args")
    /// Of the arguments of a trainer those that give ranks and alphas.
    private static let sizes: Set<String> = [
        "conv_dim", "conv_alpha", "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "network_dim", "network_alpha",
    ]

    /// The fields of an adapter's header that are true of what is written, and those of the layout.
    static func header(of adapter: Adapter, _ own: [String: String] = [:]) -> [String: String] {
        var header: [String: String] = [:]
        for (name, value) in adapter.metadata where !dropped.contains(name) && !componentFields.contains(where: name.hasSuffix) {
            header[name] = value
        }
        if !adapter.modules.isEmpty, header[rank] != nil || header[alpha] != nil { header.merge(sizes(of: adapter.modules)) { $1 } }
        if let text = header[arguments] { header[arguments] = withoutSizes(text) }
        return own.merging(header) { own, kept in kept }.merging(own.filter { $0.key == "format" || $0.key == Diffusers.metadataKey }) { $1 }
    }

    /// The rank and the alpha of most modules.
    static func sizes(of modules: [AdapterModule]) -> [String: String] {
        let common = PEFT.mostFrequent(modules.map(\.plainAlpha))
        return [rank: String(PEFT.mostFrequent(modules.map(\.rank))), alpha: common.plain]
    }

    private static func withoutSizes(_ text: String) -> String {
        guard let members = (try? JSONValue(parsing: Array(text.utf8)))?.objectValue, members.keys.contains(where: sizes.contains) else {
            return text
        }
        return JSONValue.object(members.filter { !sizes.contains($0.key) }).serialized()
    }

    private static let (tags, trigger) = ("ss_tag_frequency", "modelspec.trigger_phrase")

    /// What is true of several adapters in one: fields on which all agree that have them, the tags of all, and the words that call each up.
    static func combined(_ headers: [OrderedDictionary<String, String>]) -> OrderedDictionary<String, String> {
        var result: OrderedDictionary<String, String> = [:]
        for name in OrderedSet(headers.flatMap(\.keys)) {
            let values = OrderedSet(headers.compactMap { $0[name] })
            if values.count == 1 { result[name] = values[0] }
            if values.count > 1, name == trigger { result[name] = values.joined(separator: ", ") }
            if values.count > 1, name == tags { result[name] = union(values.elements) }
        }
        return result
    }

    /// The objects as one; of a data set that several have, the first.
    private static func union(_ texts: [String]) -> String? {
        var all: OrderedDictionary<String, JSONValue> = [:]
        for text in texts {
            guard let members = (try? JSONValue(parsing: Array(text.utf8)))?.objectValue else { return nil }
            all.merge(members) { first, _ in first }
        }
        return JSONValue.object(all).serialized()
    }
}
