public import JSON
public import OrderedCollections
internal import Safetensors
internal import Tensors
public import Weights

/// Which tensors of two models are the same, whatever names and layouts their files have.
///
/// Libraries rename tensors, put the parts of a fused projection into tensors of their own, or stack the matrices of experts. What is the
/// same elements in another order of tensors is found through the names that families have in their layouts; where those do not
/// decide, tensors stay without a counterpart.
public struct TensorCorrespondence: Sendable {
    /// The names and shapes of a model's tensors.
    public struct Model: Sendable {
        let shapes: OrderedDictionary<String, [Int]>
        /// The components of a pipeline, with which the names of their tensors begin.
        let components: [String]
        let configuration: JSONValue?

        public init(shapes: OrderedDictionary<String, [Int]>, components: [String] = [], configuration: JSONValue? = nil) {
            (self.shapes, self.components, self.configuration) = (shapes, components, configuration)
        }
    }

    /// Elements of a tensor of the first model that are elements of one of the second's, all counted row by row.
    public struct Piece: Sendable {
        public let first: String
        public let firstElements: Range<Int>
        public let second: String
        public let secondStart: Int

        public var secondElements: Range<Int> { secondStart..<secondStart + firstElements.count }
    }

    /// Elements of a tensor whose own tensor the other model lacks.
    public struct Gap: Sendable {
        public let tensor: String
        public let elements: Range<Int>
        /// The tensor that the other model should hold.
        public let missing: String
    }

    /// The second model's names by the first's, of whole tensors.
    public private(set) var renamed: OrderedDictionary<String, String> = [:]
    /// By the first's tensors, in the order of their elements.
    public private(set) var pieces: OrderedDictionary<String, [Piece]> = [:]
    /// Of the first model's tensors, and of the second's.
    public private(set) var gaps: (first: [Gap], second: [Gap]) = ([], [])
    /// Whether the files are in two layouts, and differ in more than the names of models around others.
    public private(set) var isOfTwoLayouts = false
    /// What is known of the names in two layouts of diffusion models.
    private var layouts: LayoutNames?

    public init(_ first: Model, _ second: Model) {
        var rest = (
            first: Array(first.shapes.keys.filter { second.shapes[$0] == nil }), second: Array(second.shapes.keys.filter { first.shapes[$0] == nil })
        )
        guard !rest.first.isEmpty, !rest.second.isEmpty else { return }
        func take(_ pairs: OrderedDictionary<String, String>) {
            guard !pairs.isEmpty else { return }
            renamed.merge(pairs) { old, _ in old }
            let taken = Set(pairs.values)
            rest = (rest.first.filter { pairs[$0] == nil }, rest.second.filter { !taken.contains($0) })
        }
        func fits(_ pair: (key: String, value: String)) -> Bool { first.shapes[pair.key] == second.shapes[pair.value] }
        take(NameMatching.pairs(rest.first, rest.second, by: NameMatching.withoutWrappers))
        let memory = MemoryNames(first.configuration?["model_type"] == nil ? second.configuration : first.configuration)
        take(NameMatching.pairs(rest.first, rest.second) { memory.normal($0) }.filter(fits))
        if let outer = NameMatching.outerName(rest.first, around: rest.second) {
            take(NameMatching.pairs(rest.first, rest.second) { $0.hasPrefix(outer) ? String($0.dropFirst(outer.count)) : $0 }.filter(fits))
        } else if let outer = NameMatching.outerName(rest.second, around: rest.first) {
            take(NameMatching.pairs(rest.first, rest.second) { $0.hasPrefix(outer) ? String($0.dropFirst(outer.count)) : $0 }.filter(fits))
        }
        guard !rest.first.isEmpty, !rest.second.isEmpty else { return }
        let layouts = LayoutNames(first, second)
        self.layouts = layouts
        // Either may be the one with the fused matrices.
        for isFirstFused in [true, false] {
            let (fused, split) = isFirstFused ? (rest.first, rest.second) : (rest.second, rest.first)
            let (fusedModel, splitModel) = isFirstFused ? (first, second) : (second, first)
            let found =
                layouts.joints(fused, of: fusedModel, in: split, of: splitModel)
                + ExpertStacks.joints(fused, of: fusedModel, in: split, of: splitModel, memory)
            for joint in Self.disjoint(found) { add(joint, isFirstFused: isFirstFused, first, second) }
            let known = (Set(renamed.keys).union(pieces.keys), Set(renamed.values).union(pieces.values.joined().map(\.second)))
            rest = (rest.first.filter { !known.0.contains($0) }, rest.second.filter { !known.1.contains($0) })
        }
        for (tensor, list) in pieces { pieces[tensor] = list.sorted { $0.firstElements.lowerBound < $1.firstElements.lowerBound } }
    }

    /// A tensor of one model, and those of the other that its elements make, in order; an element of `nil` is one that the other lacks.
    struct Joint {
        let fused: String
        let parts: [(name: String, elements: Range<Int>, start: Int, isThere: Bool)]
    }

    /// Those that have no elements in common, the largest first; what else the model holds of them is a copy without a counterpart.
    private static func disjoint(_ joints: [Joint]) -> [Joint] {
        var (fused, taken): (Set<String>, [String: [Range<Int>]]) = ([], [:])
        func size(_ joint: Joint) -> Int { joint.parts.reduce(0) { $0 + $1.elements.count } }
        return joints.sorted { size($0) > size($1) }.filter { joint in
            let parts = joint.parts.filter(\.isThere).map { ($0.name, $0.start..<$0.start + $0.elements.count) }
            guard !fused.contains(joint.fused), parts.allSatisfy({ name, range in !(taken[name] ?? []).contains { $0.overlaps(range) } })
            else { return false }
            fused.insert(joint.fused)
            for (name, range) in parts { taken[name, default: []].append(range) }
            return true
        }
    }

    private mutating func add(_ joint: Joint, isFirstFused: Bool, _ first: Model, _ second: Model) {
        isOfTwoLayouts = true
        if joint.parts.count == 1, let part = joint.parts.first {
            let (own, other) = isFirstFused ? (joint.fused, part.name) : (part.name, joint.fused)
            if first.shapes[own] == second.shapes[other] {
                renamed[own] = other
                return
            }
        }
        for part in joint.parts {
            guard part.isThere else {
                let gap = Gap(tensor: joint.fused, elements: part.elements, missing: part.name)
                if isFirstFused { gaps.first.append(gap) } else { gaps.second.append(gap) }
                continue
            }
            let (own, other) = isFirstFused ? (joint.fused, part.name) : (part.name, joint.fused)
            let range = isFirstFused ? part.elements : part.start..<part.start + part.elements.count
            pieces[own, default: []].append(
                Piece(first: own, firstElements: range, second: other, secondStart: isFirstFused ? part.start : part.elements.lowerBound))
        }
    }

    /// The tensors of the second model that hold elements of one of the first.
    public var counterparts: Set<String> { Set(renamed.values).union(pieces.values.joined().map(\.second)) }

    /// How many tensors of either model hold what are several of the other's.
    public var fusedCount: Int {
        let all = pieces.values.joined()
        let split = Set(Dictionary(grouping: all, by: \.second).filter { Set($0.value.map(\.first)).count > 1 }.keys)
        return split.count + pieces.values.count { Set($0.map(\.second)).count > 1 }
    }

    /// Whether the table of a family has the name, so that its counterpart would have been found.
    public func knows(_ name: String) -> Bool { layouts?.knows(name) ?? false }
}

// MARK: Models

extension TensorCorrespondence.Model {
    public init(_ files: ModelWeights, configuration: JSONValue?) {
        self.init(
            shapes: files.tensors.mapValues(\.shape), components: files.components, configuration: configuration)
    }
}

extension BaseModel {
    /// The model's names and shapes.
    public var names: TensorCorrespondence.Model { TensorCorrespondence.Model(files, configuration: configuration) }
}
