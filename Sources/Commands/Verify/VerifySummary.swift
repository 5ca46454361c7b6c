internal import Adapters
internal import OrderedCollections
internal import Verification
internal import VisibleText

/// A verdict as lines for a terminal, no more than a screen of them: what it comes to, what is wrong, the worst first, and what is fine, folded
/// over the layers.
struct VerifySummary {
    private let verdict: MergeVerdict

    /// Lines that faults get before the rest is only counted.
    private static let mostLines = 12
    /// Kinds of modules that are listed before the rest is only counted.
    private static let mostKinds = 8

    init(_ verdict: MergeVerdict) {
        self.verdict = verdict
    }

    static func line(_ fault: Fault) -> String {
        "fail: \(fault.code.rawValue): \(fault.module.isEmpty ? "" : fault.module + ": ")\(fault.message)"
    }

    /// What is wrong or undecided.
    var failures: [String] {
        let groups = groups(verdict.faults, "fail") + groups(verdict.doubts, "undecided")
        let isOne = verdict.faults.count + verdict.doubts.count == 1
        let verb = verdict.outcome == .fail ? "fail" : "undecided"
        var lines = verdict.passes || isOne ? [] : WrappedText.lines("\(verb):", verdict.diagnosis, indent: 2)
        var shown = 0
        for group in groups {
            guard lines.count < Self.mostLines else { break }
            lines += group.lines
            shown += group.count
        }
        let rest = verdict.faults.count + verdict.doubts.count - shown
        return rest > 0 ? lines + ["\(verb): \(Format.count(rest)) more; --json has all"] : lines
    }

    /// Faults of one kind that repeated layers have in common, or all modules.
    private func groups(_ faults: [Fault], _ verb: String) -> [(lines: [String], count: Int)] {
        let rank = Dictionary(
            verdict.worstFirst.enumerated().map { ($0.element.path.text, $0.offset) }, uniquingKeysWith: { first, _ in first })
        let common = verdict.commonFault
        return OrderedDictionary(grouping: faults, by: \.code).flatMap { code, faults in
            // What is of no module stays where it is, in front.
            let ordered = faults.enumerated().sorted {
                (rank[$0.element.module] ?? -1, $0.offset) < (rank[$1.element.module] ?? -1, $1.offset)
            }.map(\.element)
            let isCommon = code == common || verb == "undecided"
            return OrderedDictionary(grouping: ordered) {
                isCommon ? "\(faults.count) \(code == .unknownName ? "tensors" : "modules")" : Self.folded($0.module)
            }.map { name, group in
                let worst = group[0]
                let isSame = group.allSatisfy { $0.message == worst.message }
                let count = isCommon ? name : "\(name) ×\(group.count)"
                let subject = group.count == 1 ? worst.module : isSame ? count : "\(count), as \(worst.module)"
                let head = "\(verb): \(code.rawValue):" + (subject.isEmpty ? "" : " \(subject):")
                return (WrappedText.lines(head, worst.message, indent: 6), group.count)
            }
        }
    }

    /// The modules, folded, the function, and the verdict.
    var lines: [String] {
        (verdict.outcome == .pass ? kindLines : standingLines) + functionLines.flatMap { WrappedText.lines($0, indent: 4) }
            + verdict.remarks.flatMap { WrappedText.lines("remark:", $0, indent: 2) } + WrappedText.lines(verdict.summary, indent: 2)
    }

    /// A line for each kind of module, under how they were merged.
    private var kindLines: [String] {
        var groups: OrderedDictionary<String, OrderedDictionary<String, [MergeVerdict.Module]>> = [:]
        for module in verdict.worstFirst {
            groups[module.standing.description, default: [:]][Self.folded(module.path.text), default: []].append(module)
        }
        var lines: [String] = []
        for (standing, kinds) in groups {
            lines += WrappedText.lines("  \(standing):", indent: 4)
            let names = kinds.map { $0.value.count > 1 ? "\($0.key) ×\($0.value.count)" : $0.key }
            let width = names.prefix(Self.mostKinds).map(\.count).max() ?? 0
            for (name, kind) in zip(names, kinds).prefix(Self.mostKinds) {
                let padded = name + String(repeating: " ", count: max(0, width - name.count))
                lines += WrappedText.lines("    \(padded) ", Self.figures(kind.value), indent: 6)
            }
            if kinds.count > Self.mostKinds { lines.append("    and \(Format.count(kinds.count - Self.mostKinds)) more kinds") }
        }
        return lines
    }

    /// A line for each way in which modules that are not wrong were merged.
    private var standingLines: [String] {
        let others = OrderedDictionary(grouping: verdict.worstFirst.filter { $0.standing != .wrong && $0.standing != .inconclusive }) {
            $0.standing.description
        }
        return others.flatMap { standing, modules in
            WrappedText.lines("  \(Format.count(modules.count, "module")): \(standing), \(Self.figures(modules))", indent: 4)
        }
    }

    /// The path with its numbers taken out.
    private static func folded(_ name: String) -> String {
        name.split(separator: ".").map { Int($0) == nil ? String($0) : "*" }.joined(separator: ".")
    }

    private static func figures(_ modules: [MergeVerdict.Module]) -> String {
        var parts: [String] = []
        let survivals = modules.compactMap(\.survival)
        let differing = modules.reduce(0) { $0 + $1.differingElements }
        if let low = survivals.min() { parts.append("\(Format.fixed(100 * low, 1))%\(differing > 0 ? "" : " of the update") left") }
        if differing > 0 {
            let steps = modules.map(\.meaningfulUlp)
            let distance = steps.contains(nil) ? "rounded otherwise" : "up to \(Format.count(steps.compactMap(\.self).max() ?? 0)) ulp off"
            parts.append("\(Format.percent(differing, of: modules.reduce(0) { $0 + $1.elements })) \(distance)")
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
