/// The table of families.
public enum ModelFamilies {
    static let all: [ModelFamily] = [
        ModelFamily("llama", "mistral", "smollm", block: .llama()),
        ModelFamily("qwen3", block: .llama(headNorms: true)),
    ]

    private static let byType = Dictionary(all.flatMap { family in family.types.map { ($0, family) } }) { first, _ in first }

    /// The family of a `model_type`.
    public static func family(of type: String) -> ModelFamily? { byType[type] }

    /// The `model_type`s whose models are run here, in the order of the table.
    public static var running: [String] { all.filter { $0.block != nil }.flatMap { $0.types.sorted() } }
}
