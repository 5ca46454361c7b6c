/// The table of families.
public enum ModelFamilies {
    /// All rows. Where several fit the parts of one model, their renamings are made in this order.
    static let all: [ModelFamily] =
        LlamaFamilies.rows + QwenFamilies.rows + GemmaFamilies.rows + DecoderFamilies.rows + MixtureFamilies.rows
        + DeepSeekFamilies.rows + VisionLanguageFamilies.rows + EncoderDecoderFamilies.rows + VisionFamilies.rows
        + EncoderFamilies.rows

    private static let rowByType: [String: Int] = Dictionary(
        all.enumerated().flatMap { row, family in family.types.map { ($0, row) } }
    ) { first, _ in first }

    /// The family of a `model_type`.
    public static func family(of type: String) -> ModelFamily? { rowByType[type].map { all[$0] } }

    /// The families of a model and its parts, each once, in the order of the table.
    public static func families(of types: some Sequence<String>) -> [ModelFamily] {
        Set(types.compactMap { rowByType[$0] }).sorted().map { all[$0] }
    }

    /// The `model_type`s whose models are run here, in the order of the table.
    public static var running: [String] { all.filter { $0.block != nil }.flatMap { $0.types.sorted() } }

    // MARK: ggml

    /// The families with names at ggml, in the order of the table. Of several with one architecture the first one
    /// stands for all.
    public static let atGGML: [GGMLNaming] = all.compactMap(\.ggml).reduce(into: []) { found, naming in
        if !found.contains(where: { $0.architecture == naming.architecture }) { found.append(naming) }
    }

    // MARK: mlx-lm

    /// The rules of all families for mlx-lm, each once, with the `model_type`s that have it.
    public static let atMLX: [(rule: MLXNaming.Rule, types: Set<String>)] = {
        var rules: [MLXNaming.Rule] = []
        var types: [MLXNaming.Rule: Set<String>] = [:]
        for family in all {
            for rule in family.mlx.rules {
                if types[rule] == nil { rules.append(rule) }
                types[rule, default: []].formUnion(family.types)
            }
        }
        return rules.map { ($0, types[$0] ?? []) }
    }()
}
