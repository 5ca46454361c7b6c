/// The names that ggml gives the modules of a family with the linear layers of Llama.
///
/// Source: llama.cpp, `gguf-py/gguf/tensor_mapping.py`.
public struct GGMLNaming: Sendable, Equatable {
    /// A linear layer of a block, at ggml and in memory.
    public struct Module: Sendable, Equatable {
        public let ggml: String
        public let memory: String

        public init(_ ggml: String, _ memory: String) { (self.ggml, self.memory) = (ggml, memory) }
    }

    /// The value of `general.architecture`.
    public let architecture: String
    /// The linear layers of a block. Of several with one name the first one counts.
    public let modules: [Module]
    /// The layers, by their names at ggml, with the rows of each head's halves interleaved.
    public let interleaved: Set<String>

    public init(_ architecture: String, own modules: [Module] = [], interleaved: Set<String> = []) {
        (self.architecture, self.interleaved) = (architecture, interleaved)
        self.modules = modules + Self.general
    }

    private static let general: [Module] = [
        Module("attn_q", "self_attn.q_proj"), Module("attn_k", "self_attn.k_proj"),
        Module("attn_v", "self_attn.v_proj"),
        Module("attn_output", "self_attn.o_proj"), Module("attn_qkv", "self_attn.qkv_proj"),
        Module("ffn_gate", "mlp.gate_proj"), Module("ffn_up", "mlp.up_proj"), Module("ffn_down", "mlp.down_proj"),
        fusedGateAndUp,
    ]

    /// Gate and up projection in one layer.
    public static let fusedGateAndUp = Module("ffn_up", "mlp.gate_up_proj")
    public static let embedding = Module("token_embd", "model.embed_tokens")
    public static let head = Module("output", "lm_head")
}
