package import Adapters
internal import JSON
package import Kernels
package import OrderedCollections
internal import Tensors
internal import Verification
internal import Weights

/// What differs between two files or folders, tensor by tensor.
package struct Difference {
    package struct Options {
        var tolerance = ElementComparison.Tolerance()
        /// Whether element types may differ where the values do not.
        var ignoresType = false
        var threads = 1

        package init(tolerance: ElementComparison.Tolerance = ElementComparison.Tolerance(), ignoresType: Bool = false, threads: Int = 1) {
            self.tolerance = tolerance
            self.ignoresType = ignoresType
            self.threads = threads
        }
    }

    /// A tensor that only one of the two has.
    package struct Single {
        let name: String
        let type: ElementType?
        let shape: [Int]
    }

    /// A tensor that both have.
    package struct Change {
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
            case .elements(let comparison): comparison.notFinite > 0 || comparison.relative.isNaN ? .infinity : comparison.relative
            case .update(let relative): relative.isNaN ? .infinity : relative
            }
        }
    }

    /// By how much the values of a tensor differ.
    package enum Extent {
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
    package struct Setting {
        let subject: String
        let before: JSONValue
        let after: JSONValue
    }

    /// `tensors`, or `updates` of adapters.
    package let compared: String
    /// How many both have.
    package let common: Int
    package let added: [Single]
    package let removed: [Single]
    /// What both have under other names: B's by A's.
    package let renamed: OrderedDictionary<String, String>
    /// Elements that lie in different tensors of the two, whose files are in two layouts.
    package let joined: [TensorCorrespondence.Piece]
    /// How many tensors of either are several of the other's.
    package let fused: Int
    /// Whether the names are those of two layouts of one model.
    package let isOfTwoLayouts: Bool
    /// The most different first.
    package let changed: [Change]
    package let settings: [Setting]

    package var isNone: Bool { added.isEmpty && removed.isEmpty && renamed.isEmpty && joined.isEmpty && changed.isEmpty && settings.isEmpty }

    /// Whether there is a tensor in both, whatever its name.
    package static func haveCommonTensors(_ a: ComparedFile, _ b: ComparedFile) -> Bool {
        let correspondence = TensorCorrespondence(a.names, b.names)
        return !correspondence.renamed.isEmpty || !correspondence.pieces.isEmpty || a.tensors.keys.contains { b.tensors[$0] != nil }
    }

    /// Compares by tensors.
    package init(_ a: ComparedFile, _ b: ComparedFile, options: Options) throws {
        compared = "tensors"
        let correspondence = TensorCorrespondence(a.names, b.names)
        let renamed = correspondence.renamed.filter { a.tensors[$0.key]?.shape == b.tensors[$0.value]?.shape }
        self.renamed = renamed
        let pieces = correspondence.pieces.values.joined().compactMap { piece -> (piece: TensorCorrespondence.Piece, pair: TensorPair)? in
            guard let first = a.tensors[piece.first], let own = first.part(piece.firstElements),
                let other = b.tensors[piece.second]?.part(piece.secondElements)
            else { return nil }
            let isWhole = piece.firstElements.count == first.elementCount
            let name = isWhole ? piece.first : "\(piece.first), \(LayoutFaults.rows(piece.firstElements, of: first.shape))"
            return (piece, TensorPair(name: name, a: own, b: other.like(own)))
        }
        joined = pieces.map(\.piece)
        (fused, isOfTwoLayouts) = (correspondence.fusedCount, correspondence.isOfTwoLayouts)
        func only(_ one: ComparedFile, _ other: ComparedFile, but matched: Set<String>) -> [Single] {
            one.tensors.filter { other.tensors[$0.key] == nil && !matched.contains($0.key) }
                .map { Single(name: $0.key, type: $0.value.type, shape: $0.value.shape) }
        }
        func gaps(_ gaps: [TensorCorrespondence.Gap], of file: ComparedFile) -> [Single] {
            gaps.compactMap { gap in
                file.tensors[gap.tensor].map { whole in
                    let shape = whole.part(gap.elements)?.shape ?? [gap.elements.count]
                    return Single(name: "\(gap.tensor), \(LayoutFaults.rows(gap.elements, of: whole.shape))", type: whole.type, shape: shape)
                }
            }
        }
        added = only(b, a, but: Set(renamed.values).union(joined.map(\.second))) + gaps(correspondence.gaps.second, of: b)
        removed = only(a, b, but: Set(renamed.keys).union(joined.map(\.first))) + gaps(correspondence.gaps.first, of: a)
        let named = a.tensors.compactMap { name, tensor in b.tensors[renamed[name] ?? name].map { TensorPair(name: name, a: tensor, b: $0) } }
        let pairs = named + pieces.map(\.pair)
        common = named.count + Set(joined.map(\.first)).count
        let extents = try TensorPair.extents(pairs, options: options)
        changed = zip(pairs, extents).compactMap { pair, extent in
            let change = Change(
                name: pair.name, types: [pair.a.type, pair.b.type], shapes: [pair.a.shape, pair.b.shape], extent: extent)
            return change.hasOtherValues || change.isReshaped || change.isRetyped && !options.ignoresType ? change : nil
        }.sorted { ($1.size, $0.name) < ($0.size, $1.name) }
        var settings: [Setting] = []
        func present(_ value: Any?) -> JSONValue { value == nil ? .null : "present" }
        // The authors' files of a diffusion model have no configuration.
        if !isOfTwoLayouts, a.isFolder, b.isFolder, a.adapter == nil, b.adapter == nil, (a.configuration == nil) != (b.configuration == nil) {
            settings.append(Setting(subject: "config.json", before: present(a.configuration), after: present(b.configuration)))
        }
        if (a.adapter == nil) != (b.adapter == nil), common > 0 {
            settings.append(
                Setting(subject: "configuration of the adapter, as far as it is read", before: present(a.adapter), after: present(b.adapter)))
        }
        if let before = a.configuration, let after = b.configuration {
            settings += ArchitectureFields.differences(before, after).map { Setting(subject: $0.field, before: $0.before, after: $0.after) }
        }
        if let before = a.adapter, let after = b.adapter {
            let others = Dictionary(after.modules.map { ($0.label.text, $0) }, uniquingKeysWith: { first, _ in first })
            for module in before.modules {
                guard let other = others[module.label.text] else { continue }
                let name = module.label.text
                if other.scale != module.scale {
                    settings.append(Setting(subject: "\(name) (scale)", before: .real(module.scale), after: .real(other.scale)))
                }
                if other.kind != module.kind {
                    settings.append(
                        Setting(subject: "\(name) (kind)", before: .string(module.kind.rawValue), after: .string(other.kind.rawValue)))
                }
            }
        }
        self.settings = settings
    }

    /// Compares the updates of two adapters, in whatever layouts they are.
    package init(updatesOf a: Adapter, _ b: Adapter, options: Options) throws {
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
        (renamed, joined, fused, isOfTwoLayouts) = ([:], [], 0, false)
    }
}
