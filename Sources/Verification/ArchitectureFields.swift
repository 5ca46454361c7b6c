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

    /// Fields that both configurations have with different values.
    public static func differences(_ before: JSONValue, _ after: JSONValue) -> [Difference] {
        names.compactMap { field in
            guard let old = before[field], let new = after[field], old != new else { return nil }
            if let a = old.doubleValue, let b = new.doubleValue, a == b { return nil }
            return Difference(field: field, before: old, after: new)
        }
    }
}
