internal import Adapters
internal import OrderedCollections

/// What a verdict comes to, in one sentence: many modules that are wrong are wrong for one reason, mostly.
extension MergeVerdict {
    public var diagnosis: String {
        switch outcome {
        case .pass: return "the model is base + adapter"
        case .inconclusive: return String(summary.dropFirst("inconclusive: ".count))
        case .fail: break
        }
        if faults.contains(where: { $0.code == .wrongBase }) { return "the model was not merged from this base" }
        if let code = commonFault { return sentence(code) }
        return ([moduleSentence].compactMap(\.self) + otherSentences).joined(separator: "; ")
    }

    /// The fault that all modules have of which anything can be said, where they are more than one.
    public var commonFault: Fault.Code? {
        let decided = modules.filter { $0.standing != .inconclusive }
        guard decided.count > 1, decided.allSatisfy({ $0.standing == .wrong }) else { return nil }
        let own = faultsOfModules
        let codes = Set(decided.map { own[$0.path.text].map { $0.count == 1 ? $0.first : nil } ?? nil })
        guard codes.count == 1, let code = codes.first else { return nil }
        return code
    }

    /// The kinds of faults of each module that is wrong.
    private var faultsOfModules: [String: Set<Fault.Code>] {
        Dictionary(grouping: faults.filter { $0.code != .gate }, by: \.module).mapValues { Set($0.map(\.code)) }
    }

    private func sentence(_ code: Fault.Code) -> String {
        let wrong = modules.filter { $0.standing == .wrong }
        let share = "\(wrong.count) of \(modules.count) modules"
        let isBaseOtherwise = coverage.baseChangedWithoutAdapter.isEmpty && coverage.missing.isEmpty && coverage.extra.isEmpty
        switch code {
        case .notMerged:
            return isBaseOtherwise ? "the model is the base: nothing was merged, \(share)" : "the adapter was not merged: \(share) are the base's"
        case .mergedTwice: return "the adapter was merged twice, \(share)"
        case .wrongSign: return "the adapter was subtracted and not added, \(share)"
        case .wrongScale:
            let factors = wrong.compactMap { module in module.projection.flatMap { own in module.survival.map { own / $0 } } }.sorted()
            guard !factors.isEmpty else { break }
            // Where rounding left little the factor is not known so well.
            let (least, middle, most) = (factors[factors.count / 10], factors[factors.count / 2], factors[factors.count * 9 / 10])
            return most - least <= 0.05 * middle.magnitude
                ? "the adapter was merged with \(Self.text(middle)) times its scale throughout, \(share)"
                : "the adapter was merged with other scales, \(Self.text(least)) to \(Self.text(most)) times its own, \(share)"
        case .wrongUpdate:
            let projections = wrong.compactMap(\.projection).map(\.magnitude)
            guard projections.allSatisfy({ $0 < 0.1 }) else { break }
            return "another adapter was merged: the weights have changed, and the update of this one is in none of them, \(share)"
        default: break
        }
        return "\(code.title), \(share)"
    }

    /// A number as people say it.
    private static func text(_ factor: Double) -> String {
        let hundredths = (100 * factor).rounded() / 100
        return hundredths == 0 || (hundredths - factor).magnitude > 0.02 * factor.magnitude ? FaultSearch.text(factor) : FaultSearch.text(hundredths)
    }

    private var moduleSentence: String? {
        let wrong = modules.count { $0.standing == .wrong }
        guard wrong > 0 else { return nil }
        let own = faultsOfModules
        let codes = OrderedDictionary(grouping: modules.filter { $0.standing == .wrong }.flatMap { own[$0.path.text] ?? [] }) { $0 }
        let kinds = codes.sorted { ($1.value.count, $0.key.rawValue) < ($0.value.count, $1.key.rawValue) }.map { code, list in
            "\(code.title)" + (codes.count > 1 ? " (\(list.count))" : "")
        }
        return "\(wrong) of \(modules.count) modules \(wrong == 1 ? "is" : "are") wrong: \(kinds.joined(separator: ", "))"
    }

    /// Of what is no module.
    private var otherSentences: [String] {
        let names = Set(modules.filter { $0.standing == .wrong }.map(\.path.text))
        let others = OrderedDictionary(grouping: faults.filter { !names.contains($0.module) || $0.code == .gate }, by: \.code)
        return others.map { code, list in list.count == 1 ? code.title : "\(code.title) (\(list.count) times)" }
    }
}
