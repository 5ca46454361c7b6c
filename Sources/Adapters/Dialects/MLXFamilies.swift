internal import JSON

/// What mlx-lm does with modules of some families of language models: it calls them otherwise, or has no layer there that it adapts.
///
/// Names are those that transformers has in memory; families are the `model_type` of a configuration, also where mlx-lm reads it with the
/// file of another one (`MODEL_REMAPPING` in `utils.py`).
///
/// Source: mlx-lm 0.32, the classes and the `sanitize` of each model in `models/`, and `tuner/utils.py`, which adapts `nn.Linear`,
/// `nn.Embedding`, `SwitchLinear`, and nothing that is derived from none of them.
struct MLXFamilies {
    enum Outcome {
        case named(String)
        /// Why it takes no adapter of the module.
        case refused(String)
    }

    struct Rule {
        /// Parts of a name that stand one behind the other in it.
        let name: String
        let outcome: Outcome
        let families: Set<String>
    }

    /// Families whose `sanitize` makes `embed_q` and `unembed_out` of `kv_b_proj`, each a `MultiLinear`; in DeepSeek-V2 and MiniCPM3 it stays
    /// an `nn.Linear`.
    private static let splitting: Set<String> = [
        "bailing_hybrid", "bailing_moe_v3", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "joyai_llm_flash", "kimi_k2", "kimi_k25",
        "kimi_k3", "kimi_linear", "kimi_vl", "longcat_flash", "mistral4",
    ]
    /// Families whose routers are a class of their own, which holds a bare matrix, or the layer under another name.
    private static let routing: Set<String> = [
        "bailing_hybrid", "bailing_moe", "bailing_moe_linear", "bailing_moe_v3", "deepseek", "deepseek_v2", "deepseek_v3", "deepseek_v32",
        "deepseek_v41", "deepseek_v41_text", "dots1", "exaone_moe", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "hunyuan", "joyai_llm_flash",
        "kimi_k2", "kimi_k25", "kimi_vl", "longcat_flash", "mimo_v2_flash", "muse_spark", "nemotron_h", "solar_open", "step3p5",
    ]
    private static let isSplit = "of this family mlx-lm has no kv_b_proj: it splits the matrix into embed_q and unembed_out, which it does not adapt"
    private static let isRouter = "of this family mlx-lm has routers that it does not adapt"

    static let rules: [Rule] =
        [
            Rule(name: "kv_b_proj", outcome: .refused(isSplit), families: splitting),
            Rule(name: "mlp.gate", outcome: .refused(isRouter), families: routing),
            Rule(name: "mlp.router", outcome: .refused(isRouter), families: routing),
            Rule(name: "mixer.gate", outcome: .refused(isRouter), families: routing),
            Rule(name: "mlp.gate", outcome: .named("mlp.gate.proj"), families: ["laguna"]),
            Rule(name: "mlp.shared_experts", outcome: .named("mlp.shared_expert"), families: ["laguna"]),
            // The checkpoints' names, which transformers has given up.
            Rule(name: "mlp.gate", outcome: .named("block_sparse_moe.gate"), families: ["minimax", "minimax_m2", "mixtral"]),
            Rule(name: "mlp.router", outcome: .named("block_sparse_moe.gate"), families: ["phimoe"]),
            Rule(name: "feed_forward.w1", outcome: .named("feed_forward.gate_proj"), families: ["lfm2_moe"]),
            Rule(name: "feed_forward.w2", outcome: .named("feed_forward.down_proj"), families: ["lfm2_moe"]),
            Rule(name: "feed_forward.w3", outcome: .named("feed_forward.up_proj"), families: ["lfm2_moe"]),
            Rule(name: "transformer.h", outcome: .named("model.h"), families: ["gpt2", "gptj"]),
            Rule(name: "transformer.wte", outcome: .named("model.wte"), families: ["gpt2", "gptj"]),
            Rule(name: "gpt_neox.layers", outcome: .named("model.h"), families: ["gpt_neox"]),
            Rule(name: "gpt_neox.embed_in", outcome: .named("model.embed_in"), families: ["gpt_neox"]),
            Rule(name: "embed_out", outcome: .named("model.embed_out"), families: ["gpt_neox"]),
        ]
    /// Families of which nothing fits.
    private static let hopeless: [String: String] = [
        "bitnet": "of this family mlx-lm has layers of a class of its own (BitLinear), which it does not adapt",
        "nanochat": "mlx-lm has the names of nanochat's own checkpoints for this family, and they are not known here",
    ]
    /// Where the experts are, if not in `switch_mlp` of the same block.
    private static let experts: [String: [String]] = [
        "Klear": ["mlp", "experts"], "afmoe": ["mlp", "experts"], "dots1": ["mlp", "experts"], "gemma4": ["experts", "switch_glu"],
        "gemma4_text": ["experts", "switch_glu"], "gpt_oss": ["mlp", "experts"], "llama4": ["feed_forward", "experts"],
        "minimax": ["block_sparse_moe", "switch_mlp"], "minimax_m2": ["block_sparse_moe", "switch_mlp"],
        "mixtral": ["block_sparse_moe", "switch_mlp"],
        "phimoe": ["block_sparse_moe", "switch_mlp"],
    ]

    /// What the configuration of the base says, of the model and of the language model in it; none where it says nothing.
    private let families: Set<String>

    init(_ base: BaseModel?) {
        let configuration = base?.configuration
        families = Set([configuration?["model_type"]?.stringValue, configuration?["text_config"]?["model_type"]?.stringValue].compactMap { $0 })
    }

    var isKnown: Bool { !families.isEmpty }

    private static func range(of name: String, in parts: [Substring]) -> Range<Int>? {
        let wanted = name.split(separator: ".")
        return parts.indices.lazy.map { $0..<($0 + wanted.count) }.first { $0.upperBound <= parts.count && parts[$0].elementsEqual(wanted) }
    }

    /// Rules that touch a name, of whatever family.
    static func rules(for name: String) -> [Rule] {
        let parts = name.split(separator: ".")
        return rules.filter { range(of: $0.name, in: parts) != nil }
    }

    /// What mlx-lm makes of a name; the name itself where the families have no rule for it.
    func outcome(for name: String) -> Outcome {
        if let reason = families.sorted().lazy.compactMap({ Self.hopeless[$0] }).first { return .refused(reason) }
        let parts = name.split(separator: ".")
        for rule in Self.rules where !rule.families.isDisjoint(with: families) {
            guard let range = Self.range(of: rule.name, in: parts) else { continue }
            guard case .named(let new) = rule.outcome else { return rule.outcome }
            return .named(Self.replacing(range, of: parts, with: new))
        }
        return .named(name)
    }

    private static func replacing(_ range: Range<Int>, of parts: [Substring], with name: String) -> String {
        (parts[..<range.lowerBound] + name.split(separator: ".") + parts[range.upperBound...]).joined(separator: ".")
    }

    /// The name in memory of what mlx-lm calls otherwise; `nil` where no rule of the families made the name.
    func original(of name: String) -> String? {
        let parts = name.split(separator: ".")
        for rule in Self.rules where !rule.families.isDisjoint(with: families) {
            guard case .named(let new) = rule.outcome, let range = Self.range(of: new, in: parts) else { continue }
            return Self.replacing(range, of: parts, with: rule.name)
        }
        return nil
    }

    /// The layer of experts that transformers calls `experts`.
    func place(ofExperts name: String) -> String {
        let owner = name.split(separator: ".").dropLast().map(String.init)
        guard let place = families.sorted().lazy.compactMap({ Self.experts[$0] }).first else {
            return (owner + ["switch_mlp"]).joined(separator: ".")
        }
        // Gemma 4 has the experts beside the dense block, and not in it.
        return (place[0] == "experts" ? owner + place : owner.dropLast() + place).joined(separator: ".")
    }

    /// The path that the program has in memory for a layer of experts of mlx-lm's; `nil` for what is none.
    static func experts(at place: [Substring]) -> [Substring]? {
        switch place.last {
        case "switch_mlp": place.dropLast() + ["experts"]
        case "experts": place
        case "switch_glu" where place.dropLast().last == "experts": place.dropLast()
        default: nil
        }
    }

    /// What keeps mlx-lm from taking names in any family: with both of these, the one or the other is refused.
    static func fault(in names: [String]) -> String? {
        func first(_ wanted: String) -> String? { names.first { rules(for: $0).contains { $0.name == wanted } } }
        guard let split = first("kv_b_proj"), let router = first("mlp.gate") else { return nil }
        return "no family has both \(split) and \(router) as layers that it adapts"
    }

    /// What only the model tells of names that some families do not take.
    static func remark(on names: [String]) -> String? {
        for name in names {
            for rule in rules(for: name) {
                guard case .refused = rule.outcome else { continue }
                return "only the model tells whether it takes \(name): of \(rule.families.sorted().joined(separator: ", ")) it refuses it"
            }
        }
        return nil
    }
}
