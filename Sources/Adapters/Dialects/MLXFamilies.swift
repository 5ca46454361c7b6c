internal import Families
internal import JSON

/// The names and refusals of mlx-lm for the families of one model.
///
/// Names are those that transformers has in memory. mlx-lm may read a `model_type` with the file of another family
/// (`MODEL_REMAPPING` in `utils.py`), and then the row of the `model_type` says what that file does.
struct MLXFamilies {
    typealias Rule = MLXNaming.Rule
    typealias Outcome = MLXNaming.Rule.Outcome

    /// Whether the configuration of the base names a family at all, with or without a row in the table.
    let isKnown: Bool
    /// The families of the model and of the language model in it.
    private let families: [MLXNaming]

    init(_ base: BaseModel?) {
        let configuration = base?.configuration
        let types = [configuration, configuration?["text_config"]].compactMap { $0?["model_type"]?.stringValue }
        isKnown = !types.isEmpty
        families = ModelFamilies.families(of: types).map(\.mlx)
    }

    private static func range(of name: String, in parts: [Substring]) -> Range<Int>? {
        let wanted = name.split(separator: ".")
        return parts.indices.lazy.map { $0..<($0 + wanted.count) }.first { $0.upperBound <= parts.count && parts[$0].elementsEqual(wanted) }
    }

    /// The rules of any family that touch a name.
    static func rules(for name: String) -> [(rule: Rule, types: Set<String>)] {
        let parts = name.split(separator: ".")
        return ModelFamilies.atMLX.filter { range(of: $0.rule.name, in: parts) != nil }
    }

    /// What mlx-lm makes of a name; the name itself where the families have no rule for it.
    func outcome(for name: String) -> Outcome {
        if let reason = families.lazy.compactMap(\.refusal).first { return .refused(reason) }
        let parts = name.split(separator: ".")
        for rule in families.lazy.flatMap(\.rules) {
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
        for rule in families.lazy.flatMap(\.rules) {
            guard case .named(let new) = rule.outcome, let range = Self.range(of: new, in: parts) else { continue }
            return Self.replacing(range, of: parts, with: rule.name)
        }
        return nil
    }

    /// The layer of experts that transformers calls `experts`.
    func place(ofExperts name: String) -> String {
        let owner = name.split(separator: ".").dropLast().map(String.init)
        guard let place = families.first(where: { !$0.experts.isEmpty })?.experts else {
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
        func first(_ wanted: String) -> String? { names.first { rules(for: $0).contains { $0.rule.name == wanted } } }
        guard let split = first("kv_b_proj"), let router = first("mlp.gate") else { return nil }
        return "no family has both \(split) and \(router) as layers that it adapts"
    }

    /// What only the model tells of names that some families do not take.
    static func remark(on names: [String]) -> String? {
        for name in names {
            for (rule, types) in rules(for: name) {
                guard case .refused = rule.outcome else { continue }
                return "only the model tells whether it takes \(name): of \(types.sorted().joined(separator: ", ")) it refuses it"
            }
        }
        return nil
    }
}
