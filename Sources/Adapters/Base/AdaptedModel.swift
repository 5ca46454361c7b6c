public import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
public import Tensors
public import Weights

/// An adapter and what its scales are multiplied by.
public struct WeightedAdapter: Sendable {
    public let adapter: Adapter
    public let weight: Double

    public init(_ adapter: Adapter, weight: Double = 1) {
        self.adapter = adapter
        self.weight = weight
    }
}

/// A model with adapters in it, tensor by tensor: from where each comes and what is added to it. No weight has been computed.
public struct AdaptedModel: Sendable {
    /// A tensor of the model with its adapters.
    public struct Tensor: Sendable {
        public let name: String
        /// The values before any update: the base's, or those that an adapter puts in their place.
        public let source: StoredWeight
        /// Whether the values are those that the base has under this name.
        public let isOfBase: Bool
        /// The element type that the tensor keeps if no other is asked for.
        public let dtype: DType
        /// In the order of the adapters.
        public let updates: [TensorUpdate]
        /// Rows that an adapter puts in the place of the source's, by their number.
        public let rows: [Int: RowSource]
        /// The shard of the base that the tensor goes with.
        public let shard: Int

        public var shape: [Int] { source.shape }

        /// The same values under another name.
        public func renamed(_ name: String) -> Tensor {
            Tensor(name: name, source: source, isOfBase: isOfBase, dtype: dtype, updates: updates, rows: rows, shard: shard)
        }
    }

    /// A row of a tensor of an adapter.
    public struct RowSource: Sendable {
        public let values: StoredWeight
        public let row: Int
    }

    /// What becomes of weights that are stored as codes: all that are read are decoded, or none, so that one configuration
    /// fits all.
    public enum Codes: Sendable {
        /// They become full weights where an adapter changes one of them.
        case decodedWhereChanged
        /// They become full weights.
        case decoded
    }

    /// Takes a module or tensor of an adapter that does not fit, and why.
    public typealias Report = (_ subject: String, _ why: MergeError) throws(MergeError) -> Void

    public let base: BaseModel
    public let adapters: [WeightedAdapter]
    /// The tensors, in the order of the base's shards; those that the base does not have at the end.
    public let tensors: [Tensor]
    /// Tensors that are the same as another one, so that the model's files may hold them or not: by their names, the other's name.
    public let shared: [String: String]
    /// Modules whose update is that of another module with the same matrix, and is in the model once.
    let following: Set<ModulePath>
    /// Matrices that the base has once and this model several times, each with the name of the one that the base has.
    public let separated: [String: String]
    /// Whether an embedding and a head differ that the base's configuration calls one matrix.
    public let isUntied: Bool
    /// Whether full weights take the place of the base's codes.
    public let decodes: Bool
    /// `config.json` of the model; `nil` if the base has none.
    public let configuration: JSONValue?
    /// The fields of `config.json` that are not the base's, there or in the part for the text; null for those that are gone.
    public let changedConfiguration: [String: JSONValue]
    /// What somebody who uses the model should know, oddities of the adapters first, each one sentence.
    public let remarks: [String]
    /// Those of them that say that an adapter was trained on a model of another name.
    public let nameRemarks: [String]

    /// Lays the adapters over the base.
    ///
    /// - Parameters:
    ///   - codes: what becomes of weights that are stored as codes.
    ///   - takesAnyBase: whether an adapter may name another model as the one that it was trained on.
    ///   - report: told each module or tensor of an adapter that does not fit, which is then left out; it may throw to stop at
    ///     the first.
    /// - Throws: what `report` throws, and `MergeError` for adapters that cannot be combined.
    public init(
        base: BaseModel, adapters: [WeightedAdapter], codes: Codes = .decodedWhereChanged, takesAnyBase: Bool = true,
        report: Report = { _, error throws(MergeError) in throw error }
    ) throws(MergeError) {
        self.adapters = adapters
        for item in adapters where !takesAnyBase {
            guard let name = item.adapter.baseModel, !base.mayBe(name) else { continue }
            throw MergeError(
                .otherBase, path: item.adapter.path,
                "the adapter was trained on \(name) and the base calls itself \(base.configuration?["_name_or_path"]?.stringValue ?? "")",
                cause: .otherBaseNamed)
        }
        let adapters = adapters.map { WeightedAdapter(base.spreadingTies($0.adapter), weight: $0.weight) }
        var overlay = Overlay(base: base)
        for item in adapters { try overlay.addReplacements(of: item.adapter, weight: item.weight, report: report) }
        for item in adapters { try overlay.addUpdates(of: item.adapter, weight: item.weight, report: report) }
        try overlay.settleCodes(codes, report: report)
        let base = overlay.base
        self.base = base
        try overlay.settleTies()
        try overlay.checkVocabulary()
        tensors = overlay.tensors
        (shared, separated, following) = (overlay.shared, overlay.separated, overlay.following)
        (isUntied, decodes) = (!overlay.untiedTowers.isEmpty, overlay.decodes)
        (configuration, changedConfiguration) = (overlay.configuration, overlay.changedConfiguration)
        nameRemarks = adapters.compactMap { item in
            item.adapter.baseModel.flatMap { name in
                base.ownName(unlike: name).map { "\(item.adapter.path) was trained on \(name), and the base calls itself \($0)" }
            }
        }
        remarks = adapters.flatMap(\.adapter.remarks) + nameRemarks + overlay.remarks
    }

    /// The model's names and shapes.
    public var names: TensorCorrespondence.Model {
        var shapes: OrderedDictionary<String, [Int]> = [:]
        for tensor in tensors { shapes[tensor.name] = tensor.shape }
        return TensorCorrespondence.Model(shapes: shapes, components: base.files.components, configuration: base.configuration)
    }

    /// The element type of a tensor of the model where another one is asked for: what floating point can be converted is, but for what says how
    /// codes are meant.
    public func dtype(of tensor: Tensor, asked: DType?) -> DType {
        guard let asked, tensor.dtype.isFloat, decodes || !base.quantization.isCompanion(tensor.name) else { return tensor.dtype }
        return asked
    }
}
