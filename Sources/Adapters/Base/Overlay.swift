internal import JSON
internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// What has been laid over the base so far, by the names of the merged model's tensors.
struct Overlay {
    private(set) var base: BaseModel
    var updates: [String: [TensorUpdate]] = [:]
    var replaced: [String: (values: StoredWeight, adapter: String)] = [:]
    var rows: [String: [Int: AdaptedModel.RowSource]] = [:]
    /// See `AdaptedModel`.
    var shared: [String: String] = [:]
    var separated: [String: String] = [:]
    /// The parts of the configuration whose models are no longer tied.
    var untiedTowers: Set<String> = []
    var vocabularySize: Int?
    /// How many tokens the base has where the adapter brings another number.
    private var outgrown: Set<Int> = []
    var remarks: [String] = []

    /// Modules with the same update as the one whose matrix is theirs, too.
    var following: Set<ModulePath> = []

    init(base: BaseModel) { self.base = base }

    // MARK: Replacements

    mutating func addReplacements(of adapter: Adapter, weight: Double, report: AdaptedModel.Report) throws(MergeError) {
        // Rows may be those of a grown matrix, which the adapter brings as well.
        for replacement in adapter.replacements.filter({ $0.rows == nil }) + adapter.replacements.filter({ $0.rows != nil }) {
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
        let name = try base.place(ofWhole: replacement.tensor, adapter: adapter.path)
        let values = replacement.values
        if let other = replaced[name] {
            throw MergeError(
                .unsupportedCombination, path: adapter.path, tensor: name,
                "\(other.adapter) brings whole values of the tensor too; merge only one of the two")
        }
        if let weight = base.source(of: name) {
            let isSameType = weight.dtype == values.dtype
            guard isSameType || weight.dtype.isFloat && values.dtype.isFloat else {
                throw MergeError(
                    .unsupportedDType, path: adapter.path, tensor: name,
                    "values in \(values.dtype) cannot take the place of the base's in \(weight.dtype)")
            }
            if weight.shape != values.shape {
                guard base.isVocabulary(name), values.elementCount > 0, weight.shape.count == values.shape.count,
                    weight.shape.dropFirst() == values.shape.dropFirst()
                else {
                    throw MergeError(
                        .shapeMismatch, path: adapter.path, tensor: name,
                        "its values are \(describe(shape: values.shape)) and the base's \(describe(shape: weight.shape)); the adapter was made for a model of other sizes"
                    )
                }
                if let vocabularySize, vocabularySize != values.shape[0] {
                    throw MergeError(
                        .shapeMismatch, path: adapter.path, tensor: name,
                        "its vocabulary has \(values.shape[0]) entries and another tensor's \(vocabularySize)")
                }
                vocabularySize = values.shape[0]
                outgrown.insert(weight.shape[0])
            }
        } else {
            guard replacement.isOfNewModule, !base.files.tensors.keys.contains(where: { $0.hasPrefix(name.prefix { $0 != "." } + ".") }) else {
                throw MergeError(
                    .moduleNotInBase, path: adapter.path, tensor: replacement.tensor,
                    "the base holds no tensor of this name; only a module that modules_to_save names and of which the base has nothing, such as a new head, can be added"
                )
            }
            remarks.append("the base has no tensor \(name); the adapter's own is added")
        }
        replaced[name] = (values, adapter.path)
    }

    private mutating func add(_ numbers: [Int], _ replacement: Replacement, adapter: Adapter) throws(MergeError) {
        guard let name = base.resolve(replacement.tensor), let weight = (replaced[name]?.values ?? base.source(of: name)) else {
            throw MergeError(
                .moduleNotInBase, path: adapter.path, tensor: replacement.tensor,
                "the base holds no tensor of this name, whose rows the adapter has trained")
        }
        let values = replacement.values
        guard weight.shape.count == 2, values.shape == [numbers.count, weight.shape[1]], let last = numbers.max(), last < weight.shape[0] else {
            throw MergeError(
                .shapeMismatch, path: adapter.path, tensor: name,
                "the adapter has rows \(describe(shape: values.shape)) for \(numbers.count) tokens up to number \(numbers.max() ?? 0) and the base's tensor is \(describe(shape: weight.shape))"
            )
        }
        guard weight.dtype.isFloat, values.dtype.isFloat else {
            throw MergeError(
                .unsupportedDType, path: adapter.path, tensor: name,
                "rows in \(values.dtype) cannot take the place of the base's in \(weight.dtype)")
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
        if !others.isEmpty, let method = ([update] + others).first(where: { !$0.update.isSum })?.update {
            throw refuse("what \(type(of: method).name) does to a weight is no sum and cannot be added to another; merge the adapters one by one")
        }
        if let other = replaced[update.tensor], other.adapter != update.adapterPath {
            throw refuse("\(other.adapter) puts other values in the place of the tensor to which this adapter belongs; merge only one of the two")
        }
        if rows[update.tensor] != nil {
            throw refuse("rows of the tensor were trained whole, and an update of the same tensor cannot be added to them")
        }
        updates[update.tensor, default: []].append(update)
    }

    /// Where an adapter brings an embedding or a head for another vocabulary, it must bring the other one as well.
    func checkVocabulary() throws(MergeError) {
        guard let vocabularySize else { return }
        let names = base.files.tensors.keys.filter(base.isVocabulary) + separated.keys.sorted()
        for name in names {
            guard let before = base.source(of: name)?.shape.first, outgrown.contains(before) else { continue }
            guard (replaced[name]?.values ?? base.source(of: name))?.shape.first != vocabularySize else { continue }
            throw MergeError(
                .shapeMismatch, path: replaced.values.first?.adapter ?? base.path, tensor: name,
                "the adapter brings a vocabulary of \(vocabularySize) tokens and no values of this tensor, which the base has for another; save the adapter together with its embedding and its head"
            )
        }
    }

    // MARK: Codes

    /// Whether the base's codes become what they stand for: they do where an adapter changes one of their weights.
    private(set) var decodes = false

    /// Decides what becomes of weights that are stored as codes.
    mutating func settleCodes(_ codes: AdaptedModel.Codes, report: AdaptedModel.Report) throws(MergeError) {
        guard base.files.isDecoded else { return }
        let changed = [Array(updates.keys), Array(replaced.keys), Array(rows.keys)].joined()
        guard codes == .decoded || changed.contains(where: { base.source(of: $0)?.encoded != nil }) else {
            base = base.withCodes
            return
        }
        guard !base.files.isPipeline else {
            throw MergeError(
                .quantizedBase, path: base.path,
                "a component of this pipeline is quantized, and only a component by itself is read as full weights; name its folder as the base"
            )
        }
        decodes = true
        let names = base.files.encodings.map(\.name).joined(separator: ", ")
        if let codes = base.files.unreadCodes.first {
            try report(
                codes,
                MergeError(
                    .quantizedBase, path: base.path, tensor: codes,
                    "the base's weights in \(names) become full weights, and this one cannot: "
                        + (base.quantization.unread(codes, isOfFile: true) { $0 }?.sentence(statement: nil) ?? "its encoding is not known")
                ))
        }
        remarks.append("the base is quantized (\(names)) and the model has full weights in the place of its codes")
        func tell(_ what: String, of names: [String]) {
            guard let first = names.first else { return }
            remarks.append("\(what): \(first)\(names.count > 1 ? " and \(names.count - 1) more" : "")")
        }
        tell("scales of a serving setup belong to no weight and are left out", of: base.files.leftOutScales)
        tell("tensors are named as scales of codes are, stand beside none, and are kept", of: base.files.strayScales)
    }

    /// What the configuration says of codes that are no more.
    private var codeStatements: [QuantizationSettings.Statement] {
        decodes ? QuantizationSettings(base.configuration).statements : []
    }

    // MARK: Result

    var changedConfiguration: [String: JSONValue] {
        var changed: [String: JSONValue] = [:]
        if !untiedTowers.isEmpty { changed[BaseModel.tieField] = false }
        if let vocabularySize { changed["vocab_size"] = .integer(vocabularySize) }
        for statement in codeStatements { changed[statement.name] = .null }
        return changed
    }

    var configuration: JSONValue? {
        guard var configuration = base.configuration else { return nil }
        for tower in untiedTowers.sorted() { configuration = BaseModel.untying(configuration, tower: tower) }
        if let vocabularySize { configuration = ModelFolder.configuration(configuration, setting: ["vocab_size": .integer(vocabularySize)]) }
        if decodes {
            configuration = QuantizationSettings.removed(from: configuration)
            // Loaders would store full weights in a type of codes.
            configuration = ModelFolder.configuration(configuration, dtype: MergePlan.configurationName(of: base.statedType)) {
                $0.contains("float8")
            }
        }
        return configuration
    }

    var tensors: [AdaptedModel.Tensor] {
        let shards = Dictionary(uniqueKeysWithValues: base.files.shards.enumerated().map { (ObjectIdentifier($1.file), $0) })
        func shard(ofAdded name: String) -> Int {
            let component = base.files.component(of: name)
            return max(0, (base.files.parts.first { component == nil || $0.name == component }?.shards.upperBound ?? 1) - 1)
        }
        var tensors: [AdaptedModel.Tensor] = []
        func add(_ name: String, _ location: StoredWeight?, shard: Int) {
            let isSeparated = separated[name] != nil
            guard let source = replaced[name]?.values ?? (isSeparated ? base.source(of: name) : location) else { return }
            tensors.append(
                AdaptedModel.Tensor(
                    name: name, source: source, isOfBase: replaced[name] == nil && !isSeparated,
                    dtype: type(of: location ?? base.source(of: name) ?? source), updates: updates[name] ?? [], rows: rows[name] ?? [:],
                    shard: shard))
        }
        func type(of weight: StoredWeight) -> DType { weight.encoded == nil ? weight.dtype : base.statedType }
        for (name, location) in base.files.tensors { add(name, location, shard: shards[ObjectIdentifier(location.file)] ?? 0) }
        for name in Set(replaced.keys).union(separated.keys).sorted(by: { $0.utf8.lexicographicallyPrecedes($1.utf8) })
        where base.files.tensors[name] == nil {
            add(name, nil, shard: shard(ofAdded: name))
        }
        return tensors
    }
}
