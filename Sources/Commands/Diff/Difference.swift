internal import Adapters
internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Synchronization
internal import Tensors
internal import Verification

/// What differs between two files or folders, tensor by tensor.
struct Difference {
    struct Options {
        var tolerance = ElementComparison.Tolerance()
        /// Whether element types may differ where the values do not.
        var ignoresType = false
        var threads = 1
        var isCancelled: @Sendable () -> Bool = { false }
    }

    /// A tensor that only one of the two has.
    struct Single {
        let name: String
        let type: ElementType?
        let shape: [Int]
    }

    /// A tensor that both have.
    struct Change {
        let name: String
        let types: [ElementType]
        let shapes: [[Int]]
        let extent: Extent

        var isRetyped: Bool { Set(types).count > 1 }
        var isReshaped: Bool { shapes.count > 1 && shapes[0] != shapes[1] }
        var hasOtherValues: Bool { if case .none = extent { false } else { true } }

        /// How much the values differ, for the order of a report; what cannot be compared comes first.
        var size: Double {
            switch extent {
            case .none, .unknown: .infinity
            case .bytes: .greatestFiniteMagnitude
            case .elements(let comparison): comparison.notFinite > 0 ? .infinity : comparison.relative
            case .update(let relative): relative
            }
        }
    }

    /// By how much the values of a tensor differ.
    enum Extent {
        case none
        /// They cannot be held against each other.
        case unknown
        case elements(ElementComparison)
        /// Bytes of a type that is not taken apart here: how many differ, and of how many.
        case bytes(differing: Int, of: Int)
        /// The distance of an adapter's updates in shares of the first's norm.
        case update(relative: Double)
    }

    /// A value beside the tensors that decides what they mean.
    struct Setting {
        let subject: String
        let before: JSONValue
        let after: JSONValue
    }

    /// `tensors`, or `updates` of adapters.
    let compared: String
    /// How many both have.
    let common: Int
    let added: [Single]
    let removed: [Single]
    /// The most different first.
    let changed: [Change]
    let settings: [Setting]

    var isNone: Bool { added.isEmpty && removed.isEmpty && changed.isEmpty && settings.isEmpty }

    /// Compares by tensors.
    init(_ a: ComparedFile, _ b: ComparedFile, options: Options) throws {
        compared = "tensors"
        func only(_ one: ComparedFile, _ other: ComparedFile) -> [Single] {
            one.tensors.filter { other.tensors[$0.key] == nil }.map { Single(name: $0.key, type: $0.value.type, shape: $0.value.shape) }
        }
        added = only(b, a)
        removed = only(a, b)
        let pairs = a.tensors.compactMap { name, tensor in b.tensors[name].map { TensorPair(name: name, a: tensor, b: $0) } }
        common = pairs.count
        let extents = try TensorPair.extents(pairs, options: options)
        changed = zip(pairs, extents).compactMap { pair, extent in
            let change = Change(
                name: pair.name, types: [pair.a.type, pair.b.type], shapes: [pair.a.shape, pair.b.shape], extent: extent)
            return change.hasOtherValues || change.isReshaped || change.isRetyped && !options.ignoresType ? change : nil
        }.sorted { ($1.size, $0.name) < ($0.size, $1.name) }
        var settings: [Setting] = []
        if let before = a.configuration, let after = b.configuration {
            settings += ArchitectureFields.differences(before, after).map { Setting(subject: $0.field, before: $0.before, after: $0.after) }
        }
        if let before = a.adapter, let after = b.adapter {
            let others = Dictionary(after.modules.map { ($0.label.text, $0.scale) }, uniquingKeysWith: { first, _ in first })
            settings += before.modules.compactMap { module in
                guard let scale = others[module.label.text], scale != module.scale else { return nil }
                return Setting(subject: "\(module.label.text) (scale)", before: .real(module.scale), after: .real(scale))
            }
        }
        self.settings = settings
    }

    /// Compares the updates of two adapters, in whatever layouts they are.
    init(updatesOf a: Adapter, _ b: Adapter, options: Options) throws {
        compared = "updates"
        let comparison = try UpdateComparison(a, b)
        common = comparison.entries.count + comparison.reshaped.count
        added = comparison.onlyInSecond.map { Single(name: $0, type: nil, shape: []) }
        removed = comparison.onlyInFirst.map { Single(name: $0, type: nil, shape: []) }
        let allowed = max(options.tolerance.relative, UpdateComparison.resolution)
        let other = comparison.entries.filter { !($0.relative <= allowed) }.map {
            Change(name: $0.name, types: [], shapes: [], extent: .update(relative: $0.relative))
        }
        changed =
            comparison.reshaped.map { Change(name: $0.name, types: [], shapes: [$0.first, $0.second], extent: .unknown) }
            + other.sorted { ($1.size, $0.name) < ($0.size, $1.name) }
        settings = []
    }

    // MARK: Report

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
        return listed(settings, "settings") { "set      \($0.subject)  \($0.before.serialized()) → \($0.after.serialized())" }
            + listed(removed, "removed") { "removed  \($0.name)\(form($0))" } + listed(added, "added") { "added    \($0.name)\(form($0))" }
            + listed(changed, "changed", \.line)
    }

    /// One sentence.
    var summary: String {
        let noun = compared == "tensors" ? "tensor" : "update"
        guard !isNone else { return "same: \(Format.count(common, noun))" }
        let counts = [(changed.count, "changed"), (added.count, "added"), (removed.count, "removed"), (settings.count, "settings")]
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
            object["maxUlp"] = isRetyped ? .null : .integer(comparison.largestSteps)
        }
        return .object(object)
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
