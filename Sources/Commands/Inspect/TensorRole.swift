/// What a tensor is for, as its name tells. Names of Hugging Face models, GGUF files and adapters of several dialects are
/// known; what fits none is `other`.
enum TensorRole: String, CaseIterable {
    case embedding, attention
    case mlp = "MLP"
    case norm, head, adapter, other

    init(name: String) {
        let components = name.lowercased().split(separator: ".")
        func any(_ words: [String]) -> Bool { components.contains { component in words.contains { component.contains($0) } } }
        func isAnyOf(_ words: Set<Substring>) -> Bool { components.contains { words.contains($0) } }
        // The first that fits: what is a norm inside of the attention is a norm.
        if components.first == "adamw" || components.first == "history" {
            self = .other
        } else if components.contains(where: Self.isOfAdapter) {
            self = .adapter
        } else if any(["norm", "ln_", "_ln"]) {
            self = .norm
        } else if any(["lm_head", "embed_out", "classifier", "qa_outputs"]) || isAnyOf(["score", "cls"]) || components.first == "output" {
            self = .head
        } else if any(["attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj", "qkv"])
            || isAnyOf(["to_q", "to_k", "to_v", "to_out", "wq", "wk", "wv", "wo"])
        {
            self = .attention
        } else if any(["embed", "embd"]) || isAnyOf(["wte", "wpe"]) {
            self = .embedding
        } else if any(["mlp", "ffn", "feed_forward", "gate_proj", "up_proj", "down_proj", "experts", "moe", "intermediate", "fc1", "fc2", "dense"])
            || isAnyOf(["w1", "w2", "w3"])
        {
            self = .mlp
        } else {
            self = .other
        }
    }

    /// The role of the module that a tensor of an adapter adapts; `adapter` where its name does not tell.
    init(adaptedBy name: String) {
        let module = name.split(separator: ".").prefix { !Self.isOfAdapter($0.lowercased()) }.joined(separator: ".")
        let role = TensorRole(name: module)
        self = role == .other ? .adapter : role
    }

    private static func isOfAdapter(_ component: some StringProtocol) -> Bool {
        ["lora_", "hypernetwork", "dora_scale", "hada_w", "lokr_w", "oft_"].contains { component.contains($0) }
    }
}
