internal import Adapters
package import JSON
internal import Kernels
internal import OrderedCollections
internal import Tensors
internal import Verification
internal import VisibleText
internal import Weights

extension Difference {
    /// The report that `oplora diff --json` gives.
    package func json(_ a: String, _ b: String) -> JSONValue {
        func single(_ item: Single) -> JSONValue {
            ["name": .string(item.name), "dtype": item.type.map { .string($0.name) } ?? .null, "shape": .array(item.shape.map { .integer($0) })]
        }
        return [
            "schema": "oplora.diff/1", "a": .string(a), "b": .string(b), "compared": .string(compared), "same": .bool(isNone),
            "diagnosis": .string(diagnosis), "common": .integer(common), "added": .array(added.map(single)), "removed": .array(removed.map(single)),
            "renamed": .array(renamed.map { ["a": .string($0.key), "b": .string($0.value)] }),
            "joined": .array(joined.map(\.json)), "changed": .array(changed.map(\.json)),
            "settings": .array(settings.map { ["subject": .string($0.subject), "before": $0.before, "after": $0.after] }),
        ]
    }

    /// What the differences come to, and the differences, the most different first.
    ///
    /// - Parameters:
    ///   - limit: how many lines there are before the rest is only counted.
    ///   - way: how the rest is shown.
    package func lines(limit: Int, wayToRest way: String) -> [String] {
        guard !isNone else { return [] }
        var lines = WrappedText.lines(diagnosis, indent: 2)
        var rest = 0
        func list<Item>(_ items: [Item], _ line: (Item) -> (head: String, text: String)) {
            for item in items {
                guard lines.count < limit else {
                    rest += 1
                    continue
                }
                let (head, text) = line(item)
                lines += text.isEmpty ? [head] : WrappedText.lines(head, text, indent: 9)
            }
        }
        func form(_ item: Single) -> String { item.type.map { " \($0.name) \(describe(shape: item.shape))" } ?? "" }
        list(settings) { ("set      \($0.subject) ", "\($0.before.inWords) → \($0.after.inWords)") }
        list(Array(renamed.prefix(1))) { ("renamed  \($0.key)", "→ \($0.value)" + (renamed.count > 1 ? " and \(renamed.count - 1) like it" : "")) }
        list(Array(joined.prefix(1))) { ("joined   \($0.first)", "with \($0.second)" + (joined.count > 1 ? " and \(joined.count - 1) like it" : "")) }
        list(removed) { ("removed  \($0.name)", form($0)) }
        list(added) { ("added    \($0.name)", form($0)) }
        list(changed, \.line)
        return rest > 0 ? lines + ["\(Format.count(rest)) more (\(way))"] : lines
    }

    /// What the differences come to, in one sentence.
    package var diagnosis: String {
        guard !isNone else { return "both hold the same" }
        let noun = compared == "tensors" ? "tensor" : "update"
        let valued = changed.filter { $0.hasOtherValues && !$0.isReshaped }
        let (reshaped, retyped) = (changed.filter(\.isReshaped), changed.filter { !$0.hasOtherValues && !$0.isReshaped })
        func are(_ count: Int) -> String { "\(Format.count(count, noun)) \(count == 1 ? "has" : "have")" }
        if isOfTwoLayouts, changed.isEmpty, added.isEmpty, removed.isEmpty, settings.isEmpty {
            let tensors = Format.count(common, "weight")
            return "only names or layout differ: the same \(tensors)" + (fused > 0 ? ", \(Format.count(fused, "projection")) fused" : "")
        }
        var kinds: [String] = []
        if !joined.isEmpty { kinds.append("\(are(Set(joined.map(\.first)).count)) another layout") }
        if !renamed.isEmpty { kinds.append("\(are(renamed.count)) other names") }
        if !retyped.isEmpty { kinds.append("\(are(retyped.count)) the same values in other element types") }
        if !reshaped.isEmpty { kinds.append("\(are(reshaped.count)) other shapes") }
        if !valued.isEmpty {
            let sizes = valued.map(\.size).filter { $0 < .greatestFiniteMagnitude }
            let range = zip([sizes.min()], [sizes.max()]).compactMap { least, most in
                least.flatMap { least in most.map { ", by \(Format.scientific(least)) to \(Format.scientific($0)) of their norm" } }
            }
            kinds.append("\(are(valued.count)) other values" + (sizes.count == valued.count && valued.count > 1 ? range.joined() : ""))
        }
        if !removed.isEmpty { kinds.append("\(Format.count(removed.count, noun)) of A \(removed.count == 1 ? "is" : "are") not in B") }
        if !added.isEmpty { kinds.append("\(Format.count(added.count, noun)) of B \(added.count == 1 ? "is" : "are") not in A") }
        if !settings.isEmpty { kinds.append("\(Format.count(settings.count, "setting")) \(settings.count == 1 ? "differs" : "differ")") }
        return (kinds.count == 1 ? "only this differs: " : "") + kinds.joined(separator: "; ")
    }

    /// One sentence.
    package var summary: String {
        let noun = compared == "tensors" ? "tensor" : "update"
        guard !isNone else { return "same: \(Format.count(common, noun))" }
        let counts = [
            (changed.count, "changed"), (renamed.count, "renamed"), (Set(joined.map(\.first)).count, "joined otherwise"), (added.count, "added"),
            (removed.count, "removed"),
            (settings.count, settings.count == 1 ? "setting" : "settings"),
        ]
        return "different: "
            + counts.filter { $0.0 > 0 }.map { "\(Format.count($0.0)) \($0.1)" }.joined(separator: ", ") + " of \(Format.count(common, noun)) in both"
    }
}

extension TensorCorrespondence.Piece {
    fileprivate var json: JSONValue {
        func range(_ elements: Range<Int>) -> JSONValue { [.integer(elements.lowerBound), .integer(elements.upperBound)] }
        return ["a": .string(first), "aElements": range(firstElements), "b": .string(second), "bElements": range(secondElements)]
    }
}

extension Difference.Change {
    fileprivate var json: JSONValue {
        var object: OrderedDictionary<String, JSONValue> = ["name": .string(name)]
        object["retyped"] = .bool(isRetyped)
        object["reshaped"] = .bool(isReshaped)
        object["dtypes"] = .array(types.map { .string($0.name) })
        object["shapes"] = .array(shapes.map { .array($0.map { .integer($0) }) })
        func number(_ value: Double) -> JSONValue { value.isFinite ? .real(value) : .null }
        switch extent {
        case .none: object["values"] = "same"
        case .unknown: object["values"] = "incomparable"
        case .bytes(let differing, let count):
            object["values"] = "bytes"
            object["differing"] = .integer(differing)
            object["of"] = .integer(count)
        case .update(let relative):
            object["values"] = "update"
            object["relative"] = number(relative)
        case .elements(let comparison):
            object["values"] = "elements"
            object["differing"] = .integer(comparison.differing)
            object["of"] = .integer(comparison.elements)
            object["beyondTolerance"] = .integer(comparison.beyond)
            object["notFinite"] = .integer(comparison.notFinite)
            object["first"] = comparison.firstDiffering.map { .integer($0) } ?? .null
            object["relative"] = number(comparison.relative)
            object["largest"] = number(comparison.largest)
            object["largestAt"] = comparison.largestIndex.map { .integer($0) } ?? .null
            object["maxUlp"] = hasSteps ? .integer(comparison.largestSteps) : .null
        }
        return .object(object)
    }

    /// Beyond as many steps, or across zero, a count of them says nothing.
    private var stepsToDouble: Int {
        guard case .plain(let dtype)? = types.first else { return 1 }
        return dtype.stepsToDouble
    }

    private var hasSteps: Bool {
        guard !isRetyped, case .plain(let dtype)? = types.first else { return false }
        return ElementComparison.hasSteps(dtype)
    }

    fileprivate var line: (head: String, text: String) {
        let kind = isReshaped ? "reshaped" : isRetyped && !hasOtherValues ? "retyped " : "changed "
        func pair(_ texts: [String]) -> String { Set(texts).count > 1 ? texts.joined(separator: " → ") : texts.first ?? "" }
        let form = [pair(types.map(\.name)), pair(shapes.map { describe(shape: $0) })].filter { !$0.isEmpty }.joined(separator: " ")
        return ("\(kind) \(name)", (form.isEmpty ? "" : " \(form) ") + " \(text)")
    }

    private var text: String {
        switch extent {
        case .none: return "the same values"
        case .unknown: return "values that cannot be compared"
        case .bytes(let differing, let count): return "\(Format.count(differing)) of \(Format.count(count, "byte"))"
        case .update(let relative): return Self.share(relative)
        case .elements(let comparison):
            var parts = ["\(Format.count(comparison.differing)) of \(Format.count(comparison.elements, "element"))"]
            if let index = comparison.largestIndex {
                parts += [
                    Self.share(comparison.relative), "at most \(Format.scientific(comparison.largest)) at \(place(index))",
                ]
            }
            if (1...stepsToDouble).contains(comparison.largestSteps) { parts.append("\(Format.count(comparison.largestSteps)) ulp") }
            if comparison.notFinite > 0 { parts.append("\(Format.count(comparison.notFinite)) infinite or NaN in one of the two") }
            return parts.joined(separator: ", ")
        }
    }

    private static func share(_ relative: Double) -> String {
        relative.isFinite ? "\(Format.scientific(relative)) of the norm" : "where there was zero"
    }

    /// `[3,17]` for an element of a matrix.
    private func place(_ index: Int) -> String {
        guard let shape = shapes.first, shape.count == 2, shape[1] > 0 else { return "[\(index)]" }
        return "[\(index / shape[1]),\(index % shape[1])]"
    }
}
