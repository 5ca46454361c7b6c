/// The names that mlx-lm gives the modules of a family, and the modules that it cannot adapt.
///
/// Source: mlx-lm 0.32, the classes and the `sanitize` of each model in `models/`, and `tuner/utils.py`, which adapts
/// `nn.Linear`, `nn.Embedding` and `SwitchLinear`, but no class of the model's own.
public struct MLXNaming: Sendable, Equatable {
    /// What becomes of modules with a run of components in their names.
    public struct Rule: Sendable, Hashable {
        public enum Outcome: Sendable, Hashable {
            case named(String)
            /// The reason why mlx-lm takes no adapter of the module.
            case refused(String)
        }

        /// The run of components, as transformers has it in memory.
        public let name: String
        public let outcome: Outcome

        public init(_ name: String, _ new: String) { (self.name, outcome) = (name, .named(new)) }
        public init(_ name: String, refused reason: String) { (self.name, outcome) = (name, .refused(reason)) }
    }

    /// The place of the language model in a model of text and more.
    public enum LanguageModel: Sendable, Equatable {
        /// `language_model`, around the model of another family.
        case wrapped
        /// The same as in transformers.
        case kept
    }

    /// The first rule that fits counts.
    public let rules: [Rule]
    /// The reason why mlx-lm takes no adapter at all.
    public let refusal: String?
    /// The layer of the experts, if it is not `switch_mlp` in the same block.
    public let experts: [String]
    /// `nil` where it is not known, or the model is of text alone.
    public let languageModel: LanguageModel?

    public init(
        _ rules: [Rule] = [], refusal: String? = nil, experts: [String] = [], languageModel: LanguageModel? = nil
    ) {
        (self.rules, self.refusal, self.experts, self.languageModel) = (rules, refusal, experts, languageModel)
    }

    /// The `sanitize` makes `embed_q` and `unembed_out` of the layer, each a `MultiLinear`.
    public static let splitting = [
        Rule(
            "kv_b_proj",
            refused:
                "of this family mlx-lm has no kv_b_proj: it splits the matrix into embed_q and unembed_out, "
                + "which it does not adapt"
        )
    ]
    /// Routers are of a class of their own, which holds a bare matrix or the layer under another name.
    public static let routing = ["mlp.gate", "mlp.router", "mixer.gate"].map {
        Rule($0, refused: "of this family mlx-lm has routers that it does not adapt")
    }
    /// The names in checkpoints, which transformers has given up.
    public static let mixtral = MLXNaming(
        [Rule("mlp.gate", "block_sparse_moe.gate")], experts: ["block_sparse_moe", "switch_mlp"])
    public static let gpt2 = MLXNaming([Rule("transformer.h", "model.h"), Rule("transformer.wte", "model.wte")])
    public static let wrapped = MLXNaming(languageModel: .wrapped)
}
