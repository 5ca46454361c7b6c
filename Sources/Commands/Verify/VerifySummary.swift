internal import Adapters
internal import OrderedCollections
internal import Verification

/// A verdict as lines for a terminal: what is wrong one by one, the worst first, and what is fine folded over the layers.
struct VerifySummary {
    private let verdict: MergeVerdict

    /// Lines that one kind of fault gets before the rest is only counted.
    private static let mostOfAKind = 10

    init(_ verdict: MergeVerdict) {
        self.verdict = verdict
    }

    static func line(_ fault: Fault, _ verb: String = "fail") -> String {
        "\(verb): \(fault.code.rawValue): \(fault.module.isEmpty ? "" : fault.module + ": ")\(fault.message)"
    }

    /// What is wrong or undecided.
    var failures: [String] {
        let rank = Dictionary(
            verdict.worstFirst.enumerated().map { ($0.element.path.text, $0.offset) }, uniquingKeysWith: { first, _ in first })
        func listed(_ faults: [Fault], _ verb: String) -> [String] {
            OrderedDictionary(grouping: faults, by: \.code).flatMap { code, faults -> [String] in
                // What is of no module stays where it is, in front.
                let ordered = faults.enumerated().sorted {
                    (rank[$0.element.module] ?? -1, $0.offset) < (rank[$1.element.module] ?? -1, $1.offset)
                }.map(\.element)
                let rest = ordered.count - Self.mostOfAKind
                return ordered.prefix(Self.mostOfAKind).map { Self.line($0, verb) }
                    + (rest > 0 ? ["\(verb): \(code.rawValue): \(Format.count(rest)) more; --json has all"] : [])
            }
        }
        return listed(verdict.faults, "fail") + listed(verdict.doubts, "undecided")
    }

    /// The modules, folded, the function, and the verdict.
    var lines: [String] { moduleLines + functionLines + [verdict.summary] }

    private var moduleLines: [String] {
        var groups: OrderedDictionary<[String], [MergeVerdict.Module]> = [:]
        for module in verdict.worstFirst { groups[[module.standing.description, Self.folded(module.path)], default: []].append(module) }
        let names = groups.keys.map { "\($0[1])\((groups[$0]?.count ?? 0) > 1 ? " ×\(groups[$0]?.count ?? 0)" : "")" }
        let (nameWidth, wayWidth) = (names.map(\.count).max() ?? 0, groups.keys.map { $0[0].count }.max() ?? 0)
        func padded(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }
        return zip(groups, names).map { group, name in
            "  \(padded(name, nameWidth))  \(padded(group.key[0], wayWidth))  \(Self.figures(group.value))"
        }
    }

    /// The path with its numbers taken out.
    private static func folded(_ path: ModulePath) -> String {
        path.text.split(separator: ".").map { Int($0) == nil ? String($0) : "*" }.joined(separator: ".")
    }

    private static func figures(_ modules: [MergeVerdict.Module]) -> String {
        var parts: [String] = []
        let survivals = modules.compactMap(\.survival)
        if let low = survivals.min() { parts.append("rounding leaves \(Format.fixed(100 * low, 1))% of the update") }
        if modules.contains(where: { $0.standing == .wrong }), let projection = modules.compactMap(\.projection).min() {
            parts.append("projection \(Format.fixed(projection, 3))")
        }
        let (steps, differing) = (modules.map(\.maxUlp).max() ?? 0, modules.reduce(0) { $0 + $1.differingElements })
        if differing > 0 {
            parts.append("\(Format.percent(differing, of: modules.reduce(0) { $0 + $1.elements })) of elements up to \(Format.count(steps)) ulp off")
        }
        return parts.joined(separator: ", ")
    }

    private var functionLines: [String] {
        guard let function = verdict.function else { return [] }
        func text(_ distance: FunctionComparison.Distance) -> String {
            "logits differ by up to \(Format.scientific(distance.maxLogitDifference)), KL \(Format.scientific(distance.meanKL)) nats a token, "
                + "the same next token after \(Format.fixed(100 * distance.argmaxAgreement, 1))%"
        }
        let tokens = function.prompts.reduce(0) { $0 + $1.tokens }
        let base = function.base.map { ["  between base + adapter and the base alone: \(text($0))"] } ?? []
        return [
            "  over \(Format.count(tokens, "token")) of \(Format.count(function.prompts.count, "prompt")): \(text(function.merged))"
        ] + base
    }
}
