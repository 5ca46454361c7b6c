internal import FileIO
package import GGUF
package import JSON
internal import LanguageModel
internal import OrderedCollections
internal import Safetensors
internal import VisibleText
package import Weights

/// What the configuration of a model says of its architecture; as much as there is, for models of every kind.
package struct ModelDescription {
    /// The name that the file gives the model, or the class that runs it.
    private(set) var name: String?
    /// `llama`.
    private(set) var architecture: String?
    private(set) var layers: Int?
    private(set) var hiddenSize: Int?
    private(set) var intermediateSize: Int?
    private(set) var heads: Int?
    private(set) var keyValueHeads: Int?
    private(set) var vocabularySize: Int?
    private(set) var positions: Int?
    private(set) var tiedEmbeddings: Bool?
    /// How its configuration says that the weights are quantized; may be empty.
    private(set) var quantization: String?
    /// How it is stored.
    private let storage: String
    /// Why it cannot be trained here, where that is known.
    private(set) var refusal: String?

    /// The largest configuration that is read, in bytes.
    private static let maximumBytes = 10_000_000

    /// The model of a folder.
    package init(_ files: ModelWeights) {
        let (folder, count) = (files.path, files.shards.count)
        guard !files.isPipeline else {
            storage = "pipeline of \(files.parts.map(\.name).joined(separator: ", ")), in \(Format.count(count, "file"))"
            return
        }
        storage = "model in \(count == 1 ? "one file" : "\(count) shards")"
        do {
            _ = try TransformerConfiguration(folder: folder)
        } catch {
            refusal = "\(error)"
        }
        // What is wrong with the configuration has been said.
        guard let json = try? JSONValue(configuration: try FileSystem.contents(of: FileSystem.join(folder, "config.json"), limit: Self.maximumBytes))
        else {
            return
        }
        // Models of text and pictures keep the text's part apart.
        func field(_ keys: String...) -> JSONValue? {
            for part in [json, json["text_config"]] { for key in keys { if let value = part?[key], !value.isNull { return value } } }
            return nil
        }
        name = field("architectures")?.arrayValue?.first?.stringValue
        architecture = field("model_type")?.stringValue
        layers = field("num_hidden_layers", "n_layer", "num_layers")?.integerValue
        hiddenSize = field("hidden_size", "n_embd", "d_model")?.integerValue
        intermediateSize = field("intermediate_size", "n_inner", "d_ff")?.integerValue
        heads = field("num_attention_heads", "n_head", "num_heads")?.integerValue
        keyValueHeads = field("num_key_value_heads")?.integerValue
        vocabularySize = field("vocab_size")?.integerValue
        positions = field("max_position_embeddings", "n_positions")?.integerValue
        tiedEmbeddings = field("tie_word_embeddings")?.boolValue
        // transformers, and mlx-lm.
        if let settings = field("quantization_config", "quantization")?.objectValue {
            let bits = (settings["bits"] ?? settings["w_bit"])?.integerValue
            quantization = [settings["quant_method"]?.stringValue, bits.map { "\($0) bits" }].compactMap(\.self).joined(separator: ", ")
        }
    }

    /// The model of a GGUF file, or the one that its adapter is for.
    package init(_ file: GGUFFile) {
        var storage = "GGUF \(file.version), tensors aligned to \(file.alignment) bytes"
        if let count = file.metadata["split.count"]?.integerValue, count > 1 {
            let number = file.metadata["split.no"]?.integerValue.map { "\($0 &+ 1)" } ?? "?"
            storage += ", shard \(number) of \(count)"
        }
        self.storage = storage
        func text(_ key: String) -> String? { file.metadata[key]?.stringValue }
        architecture = text("general.architecture")
        name = text("general.name")
        let prefix = architecture ?? ""
        func number(_ key: String) -> Int? { file.metadata["\(prefix).\(key)"]?.integerValue }
        layers = number("block_count")
        hiddenSize = number("embedding_length")
        intermediateSize = number("feed_forward_length")
        heads = number("attention.head_count")
        keyValueHeads = number("attention.head_count_kv")
        positions = number("context_length")
        vocabularySize = number("vocab_size")
        if case .array(let tokens)? = file.metadata["tokenizer.ggml.tokens"] { vocabularySize = tokens.count }
    }

    package var facts: [String] {
        var facts = [storage]
        let title = [name, architecture].compactMap(\.self).joined(separator: ", ")
        var parts: [String] = []
        func add(_ value: Int?, _ text: (String) -> String) { if let value { parts.append(text(Format.count(value))) } }
        add(layers) { "\($0) layers" }
        add(hiddenSize) { "hidden \($0)" }
        add(intermediateSize) { "intermediate \($0)" }
        if let heads {
            parts.append("\(heads) heads" + (keyValueHeads.map { $0 == heads ? "" : " with \($0) key-value heads" } ?? ""))
        }
        if !title.isEmpty || !parts.isEmpty {
            facts.append((title.isEmpty ? "" : title + (parts.isEmpty ? "" : ": ")) + parts.joined(separator: ", "))
        }
        parts = []
        add(vocabularySize) { "vocabulary \($0)" }
        add(positions) { "\($0) positions" }
        if let tiedEmbeddings { parts.append(tiedEmbeddings ? "tied head" : "untied head") }
        if !parts.isEmpty { facts.append(parts.joined(separator: ", ")) }
        if let quantization { facts.append("quantized" + (quantization.isEmpty ? "" : " (\(quantization))") + ", as its config.json says") }
        if let refusal { facts.append("not trainable here: \(refusal)") }
        return facts
    }

    package var json: JSONValue {
        func number(_ value: Int?) -> JSONValue { value.map { .integer($0) } ?? .null }
        func text(_ value: String?) -> JSONValue { value.map { .string($0) } ?? .null }
        return [
            "name": text(name), "architecture": text(architecture), "layers": number(layers), "hiddenSize": number(hiddenSize),
            "intermediateSize": number(intermediateSize), "heads": number(heads), "keyValueHeads": number(keyValueHeads),
            "vocabularySize": number(vocabularySize), "positions": number(positions),
            "tiedEmbeddings": tiedEmbeddings.map { .bool($0) } ?? .null, "quantization": text(quantization),
        ]
    }
}
