internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Tensors

extension Difference {
    /// The report that `oplora diff --json` gives.
    func json(_ a: String, _ b: String) -> JSONValue {
        func single(_ item: Single) -> JSONValue {
            ["name": .string(item.name), "dtype": item.type.map { .string($0.name) } ?? .null, "shape": .array(item.shape.map { .integer($0) })]
        }
        return [
            "schema": "oplora.diff/1", "a": .string(a), "b": .string(b), "compared": .string(compared), "same": .bool(isNone),
            "common": .integer(common), "added": .array(added.map(single)), "removed": .array(removed.map(single)),
            "changed": .array(changed.map(\.json)),
            "settings": .array(settings.map { ["subject": .string($0.subject), "before": $0.before, "after": $0.after] }),
        ]
    }

    /// The differences, a line each, the most different first.
    ///
    /// - Parameter limit: how many changed tensors are listed, and how many of each other kind.
    func lines(limit: Int) -> [String] {
        func listed<Item>(_ items: [Item], _ what: String, _ line: (Item) -> String) -> [String] {
            let rest = items.count - limit
            return items.prefix(limit).map(line) + (rest > 0 ? ["\(Format.count(rest)) more \(what) (--all lists them)"] : [])
        }
        func form(_ item: Single) -> String { item.type.map { "  \($0.name) \(describe(shape: item.shape))" } ?? "" }
        return listed(settings, "settings") { "set      \($0.subject)  \($0.before.inWords) → \($0.after.inWords)" }
            + listed(removed, "removed") { "removed  \($0.name)\(form($0))" } + listed(added, "added") { "added    \($0.name)\(form($0))" }
            + listed(changed, "changed", \.line)
    }

    /// One sentence.
    var summary: String {
        let noun = compared == "tensors" ? "tensor" : "update"
        guard !isNone else { return "same: \(Format.count(common, noun))" }
        let counts = [
            (changed.count, "changed"), (added.count, "added"), (removed.count, "removed"),
            (settings.count, settings.count == 1 ? "setting" : "settings"),
        ]
        return "different: "
            + counts.filter { $0.0 > 0 }.map { "\(Format.count($0.0)) \($0.1)" }.joined(separator: ", ") + " of \(Format.count(common, noun)) in both"
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

    private var hasSteps: Bool {
        guard !isRetyped, case .plain(let dtype)? = types.first else { return false }
        return ElementComparison.hasSteps(dtype)
    }

    fileprivate var line: String {
        let kind = isReshaped ? "reshaped" : isRetyped && !hasOtherValues ? "retyped " : "changed "
        func pair(_ texts: [String]) -> String { Set(texts).count > 1 ? texts.joined(separator: " → ") : texts.first ?? "" }
        let form = [pair(types.map(\.name)), pair(shapes.map { describe(shape: $0) })].filter { !$0.isEmpty }.joined(separator: " ")
        return "\(kind) \(name)" + (form.isEmpty ? "" : "  \(form)") + "  \(text)"
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
            if comparison.largestSteps > 0 { parts.append("\(Format.count(comparison.largestSteps)) ulp") }
            if comparison.notFinite > 0 { parts.append("\(Format.count(comparison.notFinite)) infinite or no number in one of the two") }
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
