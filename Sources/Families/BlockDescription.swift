/// The parts of a block of a language model, in the order in which they run, and what its tensors are called.
public struct BlockDescription: Sendable, Equatable {
    /// A norm before a part, attention or feed-forward, and the sum of both with what came in.
    public struct Half: Sendable, Equatable {
        /// The module of the norm, in the block: `input_layernorm`.
        public let norm: String
        public let body: Body

        public init(norm: String, body: Body) {
            (self.norm, self.body) = (norm, body)
        }
    }

    public enum Body: Sendable, Equatable {
        /// Attention with rotary positions and grouped keys and values.
        case attention(AttentionDescription)
        /// down(silu(gate(x)) ⊙ up(x)).
        case gatedFeedForward(module: String)
    }

    public let halves: [Half]

    public init(_ halves: [Half]) { self.halves = halves }

    /// That of Llama, with norms of the heads where a family has them.
    public static func llama(headNorms: Bool = false) -> BlockDescription {
        BlockDescription([
            Half(norm: "input_layernorm", body: .attention(AttentionDescription(module: "self_attn", hasHeadNorms: headNorms))),
            Half(norm: "post_attention_layernorm", body: .gatedFeedForward(module: "mlp")),
        ])
    }
}

/// What an attention has beside its four projections.
public struct AttentionDescription: Sendable, Equatable {
    /// The module, in the block.
    public let module: String
    /// Whether each head's queries and keys are normed before they are rotated (`q_norm`, `k_norm`).
    public let hasHeadNorms: Bool

    public init(module: String, hasHeadNorms: Bool = false) {
        (self.module, self.hasHeadNorms) = (module, hasHeadNorms)
    }
}
