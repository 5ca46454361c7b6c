public import JSON
internal import Kernels
internal import OrderedCollections
public import Safetensors
public import Tensors

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
        public let source: WeightFiles.Location
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

        public var shape: [Int] { source.info.shape }
    }

    /// A row of a tensor of an adapter.
    public struct RowSource: Sendable {
        public let values: WeightFiles.Location
        public let row: Int
    }

    /// Takes a module or tensor of an adapter that does not fit, and why.
    public typealias Report = (_ subject: String, _ why: MergeError) throws(MergeError) -> Void

    public let base: BaseModel
    public let adapters: [WeightedAdapter]
    /// The tensors, in the order of the base's shards; those that the base does not have at the end.
    public let tensors: [Tensor]
    /// The members of `config.json` that are not the base's.
    let changedConfiguration: [String: JSONValue]
    /// What somebody who uses the model should know, oddities of the adapters first, each one sentence.
    public let remarks: [String]

    /// Lays the adapters over the base.
    ///
    /// - Parameters:
    ///   - takesAnyBase: whether an adapter may name another model as the one that it was trained on.
    ///   - report: told each module or tensor of an adapter that does not fit, which is then left out; it may throw to stop at
    ///     the first.
    /// - Throws: what `report` throws, and `MergeError` for adapters that cannot be combined.
    public init(
        base: BaseModel, adapters: [WeightedAdapter], takesAnyBase: Bool = true, report: Report = { _, error throws(MergeError) in throw error }
    ) throws(MergeError) {
        self.base = base
        self.adapters = adapters
        for item in adapters where !takesAnyBase {
            guard let name = item.adapter.baseModel, !base.mayBe(name) else { continue }
            throw MergeError(
                .otherBase, path: item.adapter.path,
                "the adapter was trained on \(name) and the base calls itself \(base.configuration?["_name_or_path"]?.stringValue ?? ""); if they are the same weights, say so with --any-base"
            )
        }
        var overlay = Overlay(base: base)
        for item in adapters { try overlay.addReplacements(of: item.adapter, weight: item.weight, report: report) }
        for item in adapters { try overlay.addUpdates(of: item.adapter, weight: item.weight, report: report) }
        try overlay.settleTie()
        try overlay.checkVocabulary()
        tensors = overlay.tensors
        changedConfiguration = overlay.changedConfiguration
        remarks = adapters.flatMap(\.adapter.remarks) + overlay.remarks
    }

    /// `config.json` of the model; `nil` if the base has none.
    public var configuration: JSONValue? {
        guard let original = base.configuration else { return nil }
        return changedConfiguration.isEmpty ? original : ModelFolder.configuration(original, setting: changedConfiguration)
    }
}

/// What has been laid over the base so far, by the names of the merged model's tensors.
private struct Overlay {
    let base: BaseModel
    var updates: [String: [TensorUpdate]] = [:]
    var replaced: [String: (values: WeightFiles.Location, adapter: String)] = [:]
    var rows: [String: [Int: AdaptedModel.RowSource]] = [:]
    var isUntied = false
    var vocabularySize: Int?
    var remarks: [String] = []

    init(base: BaseModel) {
        self.base = base
    }

    // MARK: Replacements

    mutating func addReplacements(of adapter: Adapter, weight: Double, report: AdaptedModel.Report) throws(MergeError) {
        for replacement in adapter.replacements {
            do throws(MergeError) {
                guard weight == 1 else {
                    throw MergeError(
                        .unsupportedCombination, path: adapter.path, tensor: replacement.tensor,
                        "the adapter brings whole values of the tensor, which cannot be weighted by \(weight); merge it with weight 1")
                }
                if let rows = replacement.rows {
                    try add(rows, replacement, adapter: adapter)
                } else {
                    try add(replacement, adapter: adapter)
                }
            } catch {
                try report(replacement.tensor, error)
            }
        }
    }

    private mutating func add(_ replacement: Replacement, adapter: Adapter) throws(MergeError) {
        let name = base.resolve(replacement.tensor) ?? replacement.tensor
        let values = replacement.values
        if let other = replaced[name] {
            throw MergeError(
                .unsupportedCombination, path: adapter.path, tensor: name,
                "\(other.adapter) brings whole values of the tensor too; merge only one of the two")
        }
        if let info = base.source(of: name)?.info {
            let isSameType = info.dtype == values.info.dtype
            guard isSameType || MergeKernel.supports(info.dtype) && MergeKernel.supports(values.info.dtype) else {
                throw MergeError(
                    .unsupportedDType, path: adapter.path, tensor: name,
                    "values in \(values.info.dtype) cannot take the place of the base's in \(info.dtype)")
            }
            if info.shape != values.info.shape {
                guard BaseModel.isVocabulary(name), info.shape.count == values.info.shape.count,
                    info.shape.dropFirst() == values.info.shape.dropFirst()
                else {
                    throw MergeError(
                        .shapeMismatch, path: adapter.path, tensor: name,
                        "its values are \(describe(shape: values.info.shape)) and the base's \(describe(shape: info.shape)); the adapter belongs to another model"
                    )
                }
                if let vocabularySize, vocabularySize != values.info.shape[0] {
                    throw MergeError(
                        .shapeMismatch, path: adapter.path, tensor: name,
                        "its vocabulary has \(values.info.shape[0]) entries and another tensor's \(vocabularySize)")
                }
                vocabularySize = values.info.shape[0]
            }
        } else {
            remarks.append("the base has no tensor \(name); the adapter's own is added")
        }
        replaced[name] = (values, adapter.path)
    }

    private mutating func add(_ numbers: [Int], _ replacement: Replacement, adapter: Adapter) throws(MergeError) {
        let found = base.resolve(replacement.tensor).map { name in base.tie.map { $0.head == name ? $0.embedding : name } ?? name }
        guard let name = found, let info = base.source(of: name)?.info else {
            throw MergeError(
                .moduleNotInBase, path: adapter.path, tensor: replacement.tensor,
                "the base holds no tensor of this name, whose rows the adapter has trained")
        }
        let values = replacement.values
        guard info.shape.count == 2, values.info.shape == [numbers.count, info.shape[1]], let last = numbers.max(), last < info.shape[0] else {
            throw MergeError(
                .shapeMismatch, path: adapter.path, tensor: name,
                "the adapter has rows \(describe(shape: values.info.shape)) for \(numbers.count) tokens up to number \(numbers.max() ?? 0) and the base's tensor is \(describe(shape: info.shape))"
            )
        }
        guard MergeKernel.supports(info.dtype), MergeKernel.supports(values.info.dtype) else {
            throw MergeError(
                .unsupportedDType, path: adapter.path, tensor: name,
                "rows in \(values.info.dtype) cannot take the place of the base's in \(info.dtype)")
        }
        for (row, number) in numbers.enumerated() {
            guard rows[name, default: [:]].updateValue(.init(values: values, row: row), forKey: number) == nil else {
                throw MergeError(
                    .unsupportedCombination, path: adapter.path, tensor: name, "row \(number) was trained twice; merge only one of the adapters")
            }
        }
    }

    // MARK: Updates

    mutating func addUpdates(of adapter: Adapter, weight: Double, report: AdaptedModel.Report) throws(MergeError) {
        let values = replaced.mapValues(\.values)
        var met: [String: [(rows: Range<Int>, module: ModulePath)]] = [:]
        for module in adapter.modules {
            do throws(MergeError) {
                for update in try base.updates(of: module, weight: weight, adapter: adapter.path, replaced: values) {
                    if let other = met[update.tensor]?.first(where: { $0.rows.overlaps(update.rows) })?.module {
                        throw MergeError(
                            .unsupportedCombination, path: adapter.path, tensor: update.tensor,
                            "the adapter's modules \(other) and \(update.module) both are this tensor; if they are those of two models, merge into each with an adapter of its own"
                        )
                    }
                    met[update.tensor, default: []].append((update.rows, update.module))
                    try add(update)
                }
            } catch {
                try report(module.label.text, error)
            }
        }
    }

    private mutating func add(_ update: TensorUpdate) throws(MergeError) {
        func refuse(_ why: String) -> MergeError {
            MergeError(.unsupportedCombination, path: update.adapterPath, tensor: update.tensor, why)
        }
        let others = (updates[update.tensor] ?? []).filter { $0.rows.overlaps(update.rows) }
        if !others.isEmpty, update.magnitude != nil || others.contains(where: { $0.magnitude != nil }) {
            throw refuse("an adapter with magnitudes (DoRA) scales the whole weight and cannot be added to another; merge them one by one")
        }
        if let other = replaced[update.tensor], other.adapter != update.adapterPath {
            throw refuse("\(other.adapter) puts other values in the place of the tensor to which this adapter belongs; merge only one of the two")
        }
        if rows[update.tensor] != nil {
            throw refuse("rows of the tensor were trained whole, and an update of the same tensor cannot be added to them")
        }
        updates[update.tensor, default: []].append(update)
    }

    // MARK: Tied weights

    /// Gives embedding and head matrices of their own if an adapter makes them differ.
    mutating func settleTie() throws(MergeError) {
        guard let tie = base.tie else { return }
        func isTouched(_ name: String) -> Bool { updates[name] != nil || replaced[name] != nil }
        guard isTouched(tie.embedding) || isTouched(tie.head) else { return }
        if updates[tie.embedding] == nil, updates[tie.head] == nil, let embedding = replaced[tie.embedding]?.values,
            let head = replaced[tie.head]?.values,
            Self.areEqual(embedding, head)
        {
            replaced[tie.head] = nil
            return
        }
        let path = (updates[tie.embedding] ?? updates[tie.head])?.first?.adapterPath ?? replaced[tie.embedding]?.adapter ?? base.path
        guard base.configuration != nil else {
            throw MergeError(
                .tiedWeights, path: path, tensor: tie.embedding,
                "the embedding and the head are one matrix, and without a config.json beside the weights they cannot be separated")
        }
        guard rows[tie.embedding] == nil else {
            throw MergeError(
                .unsupportedCombination, path: path, tensor: tie.embedding,
                "rows that the embedding and the head share were trained whole, and an adapter makes the two differ")
        }
        isUntied = true
        remarks.append("the embedding and the head were one matrix and are two now: \(tie.embedding) and \(tie.head)")
    }

    /// Where an adapter brings an embedding or a head for another vocabulary, it must bring the other one as well.
    func checkVocabulary() throws(MergeError) {
        guard let vocabularySize else { return }
        var names = base.files.tensors.keys.filter(BaseModel.isVocabulary)
        if isUntied, let tie = base.tie { names.append(tie.head) }
        for name in names where (replaced[name]?.values ?? base.source(of: name))?.info.shape.first != vocabularySize {
            throw MergeError(
                .shapeMismatch, path: replaced.values.first?.adapter ?? base.path, tensor: name,
                "the adapter brings a vocabulary of \(vocabularySize) tokens and no values of this tensor, which the base has for another; save the adapter together with its embedding and its head"
            )
        }
    }

    private static func areEqual(_ a: WeightFiles.Location, _ b: WeightFiles.Location) -> Bool {
        FactorMatrix(a.info, in: a.file).hasSameBytes(as: FactorMatrix(b.info, in: b.file))
    }

    // MARK: Result

    var changedConfiguration: [String: JSONValue] {
        var changed: [String: JSONValue] = [:]
        if isUntied { changed["tie_word_embeddings"] = false }
        if let vocabularySize { changed["vocab_size"] = .integer(vocabularySize) }
        return changed
    }

    var tensors: [AdaptedModel.Tensor] {
        let shards = Dictionary(uniqueKeysWithValues: base.files.shards.enumerated().map { (ObjectIdentifier($1), $0) })
        func shard(ofAdded name: String) -> Int {
            let component = base.files.component(of: name)
            return max(0, (base.files.parts.first { component == nil || $0.name == component }?.shards.upperBound ?? 1) - 1)
        }
        var tensors: [AdaptedModel.Tensor] = []
        func add(_ name: String, _ location: WeightFiles.Location?, shard: Int) {
            let isSeparatedHead = isUntied && name == base.tie?.head
            guard let source = replaced[name]?.values ?? (isSeparatedHead ? base.source(of: name) : location) else { return }
            tensors.append(
                AdaptedModel.Tensor(
                    name: name, source: source, isOfBase: replaced[name] == nil && !isSeparatedHead,
                    dtype: (location ?? base.source(of: name) ?? source).info.dtype, updates: updates[name] ?? [], rows: rows[name] ?? [:],
                    shard: shard))
        }
        for (name, location) in base.files.tensors { add(name, location, shard: shards[ObjectIdentifier(location.file)] ?? 0) }
        var added = Set(replaced.keys)
        if isUntied, let tie = base.tie { added.insert(tie.head) }
        for name in added.sorted(by: { $0.utf8.lexicographicallyPrecedes($1.utf8) }) where base.files.tensors[name] == nil {
            add(name, nil, shard: shard(ofAdded: name))
        }
        return tensors
    }
}
