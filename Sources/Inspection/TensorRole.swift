/// What a tensor is for, as its name tells. Names of Hugging Face models, GGUF files and adapters of several dialects are
/// known; what fits none is `other`.
package enum TensorRole: String, CaseIterable {
    case embedding, attention
    case mlp = "MLP"
    case norm, head, adapter, other

    package init(name: String) {
        let name = Name(name)
        // The first that fits: what is a norm inside of the attention is a norm.
        if name.begins(".adamw.", ".history.") {
            self = .other
        } else if name.holds(Self.adapterWords) {
            self = .adapter
        } else if name.holds(["norm", "ln_", "_ln"]) {
            self = .norm
        } else if name.holds(["lm_head", "embed_out", "classifier", "qa_outputs", ".score.", ".cls."]) || name.begins(".output.") {
            self = .head
        } else if name.holds([
            "attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj", "qkv", ".to_q.", ".to_k.", ".to_v.", ".to_out.", ".wq.", ".wk.", ".wv.",
            ".wo.",
        ]) {
            self = .attention
        } else if name.holds(["embed", "embd", ".wte.", ".wpe."]) {
            self = .embedding
        } else if name.holds([
            "mlp", "ffn", "feed_forward", "gate_proj", "up_proj", "down_proj", "experts", "moe", "intermediate", "fc1", "fc2", "dense", ".w1.",
            ".w2.",
            ".w3.",
        ]) {
            self = .mlp
        } else {
            self = .other
        }
    }

    /// The role of the module that a tensor of an adapter adapts; `adapter` where its name does not tell.
    package init(adaptedBy name: String) {
        let module = name.split(separator: ".").prefix { !Name(String($0)).holds(Self.adapterWords) }.joined(separator: ".")
        let role = TensorRole(name: module)
        self = role == .other ? .adapter : role
    }

    private static let adapterWords = ["lora_", "hypernetwork", "dora_scale", "hada_w", "lokr_w", "oft_", "vera_lambda", "ia3_", ".magnitude."]
}

/// A name in small letters with a dot before and after it, so that a word between dots is a whole component.
private struct Name {
    private let bytes: [UInt8]

    package init(_ name: String) {
        let dot = UInt8(ascii: ".")
        bytes = [dot] + name.utf8.map { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) ? $0 | 0x20 : $0 } + [dot]
    }

    package func begins(_ words: String...) -> Bool { words.contains { bytes.starts(with: $0.utf8) } }

    /// Whether one of the words is part of it. (The standard library's search would take longer than all else that looks at
    /// a small model.)
    package func holds(_ words: [String]) -> Bool {
        words.contains { word in
            let word = Array(word.utf8)
            return bytes.indices.dropLast(word.count - 1).contains { start in bytes[start...].starts(with: word) }
        }
    }
}
