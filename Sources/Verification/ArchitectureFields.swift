public import JSON

/// What `config.json` says of an architecture.
public enum ArchitectureFields {
    /// A field that two configurations give different values.
    public struct Difference: Sendable, Equatable {
        public let field: String
        public let before: JSONValue
        public let after: JSONValue
    }

    /// Fields under names that all versions of the libraries use.
    private static let names = [
        "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "vocab_size", "hidden_act", "rms_norm_eps", "layer_norm_eps", "rope_theta", "tie_word_embeddings", "max_position_embeddings",
        "num_local_experts", "num_experts_per_tok",
    ]

    /// Fields that both configurations have with different values, wherever a version of transformers writes them.
    public static func differences(_ before: JSONValue, _ after: JSONValue) -> [Difference] {
        names.compactMap { field in
            guard let old = value(field, before), let new = value(field, after), old != new else { return nil }
            if let a = old.doubleValue, let b = new.doubleValue, a == b { return nil }
            if field == "model_type", isTextPart(before, of: after) || isTextPart(after, of: before) { return nil }
            return Difference(field: field, before: old, after: new)
        }
    }

    /// A field of the model or of its part for the text; null is none.
    private static func value(_ field: String, _ configuration: JSONValue) -> JSONValue? {
        let places = [configuration, configuration["text_config"]].compactMap(\.self)
        // transformers 5 moved the base of the rotary frequencies.
        let rotary = field == "rope_theta" ? places.compactMap { $0["rope_parameters"]?[field] } : []
        return (places.compactMap { $0[field] } + rotary).first { !$0.isNull }
    }

    /// Whether a configuration is that of the text model in another one, which is saved under a type of its own.
    private static func isTextPart(_ part: JSONValue, of whole: JSONValue) -> Bool {
        guard let own = part["model_type"]?.stringValue, let other = whole["model_type"]?.stringValue else { return false }
        return own == whole["text_config"]?["model_type"]?.stringValue || own == other + "_text"
    }
}
