public import Adapters
internal import FileIO
internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Synchronization
public import Tensors

/// Checks a merged model against its base and the adapters, from the definition of the merge and in code of its own.
public enum MergeVerifier {
    public struct Options: Sendable {
        public var threads: Int
        /// The element type that the merged model should have; `nil` for that of each tensor of the base.
        public var dtype: DType?
        /// Whether elements that are off by no more than the rounding of another order or precision of summation are let
        /// pass, as for models that other tools merged.
        public var toleratesRounding: Bool
        /// Asked before each block of rows; true stops.
        public var isCancelled: @Sendable () -> Bool

        public init(
            threads: Int = 1, dtype: DType? = nil, toleratesRounding: Bool = false, isCancelled: @escaping @Sendable () -> Bool = { false }
        ) {
            self.threads = threads
            self.dtype = dtype
            self.toleratesRounding = toleratesRounding
            self.isCancelled = isCancelled
        }
    }

    /// Verifies a merged model.
    ///
    /// Every element of an adapted weight must be the correctly rounded one, every other tensor must have the base's bytes,
    /// and both models must hold the same tensors.
    ///
    /// - Parameters:
    ///   - base: a model folder or one safetensors file.
    ///   - adapters: in the order in which they were merged, with their weights.
    ///   - merged: a model folder or one safetensors file.
    /// - Throws: `SafetensorsError` or `FileError` for files that cannot be read; `MergeError.interrupted`.
    public static func verify(
        base: String, adapters: [WeightedAdapter], merged: String, options: Options = Options()
    ) throws -> MergeVerdict {
        let baseModel = try BaseModel(path: base)
        let mergedFiles = try open(merged: merged, base: base)
        var faults: [Fault] = []
        var coverage = MergeVerdict.Coverage()
        let model = try AdaptedModel(base: baseModel, adapters: adapters) { subject, error throws(MergeError) in
            coverage.adapterUnused.append(subject)
            faults.append(Fault(.adapterUnused, subject, error.message))
        }
        var work: [Work] = []
        for tensor in model.tensors {
            let (name, shape) = (tensor.name, tensor.shape)
            guard let other = mergedFiles.tensors[name] else {
                coverage.missing.append(name)
                faults.append(Fault(.missingTensor, name, "the merged model does not hold the tensor \(describe(shape: shape))"))
                continue
            }
            guard other.info.shape == shape else {
                faults.append(
                    Fault(.shapeMismatch, name, "its shape is \(describe(shape: other.info.shape)) and should be \(describe(shape: shape))"))
                continue
            }
            let dtype = isFloating(tensor.dtype) ? options.dtype ?? tensor.dtype : tensor.dtype
            guard other.info.dtype == dtype else {
                faults.append(Fault(.dtypeMismatch, name, "it is stored as \(other.info.dtype) and should be \(dtype)"))
                continue
            }
            work += Self.work(of: tensor, merged: other)
        }
        let names = Set(model.tensors.map(\.name))
        for name in mergedFiles.tensors.keys where !names.contains(name) {
            coverage.extra.append(name)
            faults.append(Fault(.extraTensor, name, "neither the base nor an adapter holds the tensor"))
        }
        let measures = try measure(work, options: options)
        var modules: [ModulePath: Measure] = [:]
        for (item, outcome) in zip(work, measures) {
            if let module = item.module { modules[module, default: Measure()].add(outcome.measure) }
            judge(item, outcome, options: options, faults: &faults, coverage: &coverage)
        }
        faults += folderFaults(model: model, merged: merged)
        return MergeVerdict(
            faults: faults, modules: modules.sorted { $0.key < $1.key }.map { self.module($0.key, $0.value) }, coverage: coverage)
    }

    /// A merged folder made from a single file holds it under that file's name.
    private static func open(merged: String, base: String) throws -> WeightFiles {
        let named = FileSystem.join(merged, FileSystem.lastComponent(base))
        let isOfFile = FileSystem.isFolder(merged) && !FileSystem.isFolder(base) && FileSystem.exists(named)
        return try WeightFiles(path: isOfFile ? named : merged)
    }

    private static func isFloating(_ dtype: DType) -> Bool { [.f32, .bf16, .f16, .f64].contains(dtype) }

    // MARK: Work

    /// Rows of a tensor that the same updates meet.
    private struct Work: Sendable {
        let name: String
        /// What the rows are before the update.
        let source: WeightFiles.Location
        let merged: WeightFiles.Location
        let updates: [TensorUpdate]
        /// What reports call the module, when an adapter names the tensor.
        let module: ModulePath?
        /// Rows of the matrix; any other tensor is cut by elements.
        let rows: Range<Int>
        let columns: Int
        /// A row of an adapter that takes the place of the one row of this work: its number there.
        var replacement: Int?
        /// Whether the values are an adapter's own and not the base's.
        let isReplaced: Bool

        var isConverted: Bool { source.info.dtype != merged.info.dtype }
    }

    /// A tensor, cut where other updates begin and where an adapter brings whole rows.
    private static func work(of tensor: AdaptedModel.Tensor, merged: WeightFiles.Location) -> [Work] {
        let active = tensor.updates.filter { !$0.isZero }
        let columns = active.first?.columns ?? (tensor.rows.isEmpty ? 1 : tensor.shape.last ?? 1)
        let count = tensor.source.info.elementCount / max(columns, 1)
        var cuts = Set(active.flatMap { [$0.rows.lowerBound, $0.rows.upperBound] })
        for row in tensor.rows.keys { cuts.formUnion([row, row + 1]) }
        cuts.formUnion([0, count])
        let bounds = cuts.sorted()
        return zip(bounds, bounds.dropFirst()).map { low, high in
            let row = tensor.rows[low]
            return Work(
                name: tensor.name, source: row?.values ?? tensor.source, merged: merged, updates: active.filter { $0.rows.contains(low) },
                module: tensor.updates.first { $0.rows.contains(low) }?.module, rows: low..<high, columns: columns, replacement: row?.row,
                isReplaced: row != nil || !tensor.isOfBase)
        }
    }

    private enum Outcome: Sendable {
        case measured(Measure)
        /// Bytes that differ: how many elements, and the first.
        case compared(differing: Int, first: Int)

        var measure: Measure {
            switch self {
            case .measured(let measure): return measure
            case .compared(let differing, _):
                var measure = Measure()
                measure.differing = differing
                return measure
            }
        }
    }

    private struct Piece: Sendable {
        let work: Int
        let range: Range<Int>
    }

    /// Elements that a piece has, about.
    private static let pieceElements = 1 << 18

    private static func measure(_ work: [Work], options: Options) throws -> [Outcome] {
        var pieces: [Piece] = []
        for (number, item) in work.enumerated() {
            let step = max(1, pieceElements / max(item.columns, 1))
            for start in stride(from: item.rows.lowerBound, to: item.rows.upperBound, by: step) {
                pieces.append(Piece(work: number, range: start..<min(start + step, item.rows.upperBound)))
            }
        }
        let list = pieces
        let results = Mutex([Outcome?](repeating: nil, count: list.count))
        let next = Atomic<Int>(0)
        let isStopped = Atomic<Bool>(false)
        ThreadPool.runOnce(workers: max(1, min(options.threads, list.count))) { _ in
            var recent = -1
            var updates: [Update] = []
            while true {
                let number = next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard number < list.count else { return }
                if options.isCancelled() { isStopped.store(true, ordering: .relaxed) }
                if isStopped.load(ordering: .relaxed) { return }
                let piece = list[number]
                let item = work[piece.work]
                if recent != piece.work {
                    recent = piece.work
                    updates = item.updates.map { Update($0, weights: item.source) }
                }
                let outcome = measure(item, piece.range, updates)
                results.withLock { $0[number] = outcome }
            }
        }
        if isStopped.load(ordering: .relaxed) {
            throw MergeError(.interrupted, path: "verify", "the verification was interrupted")
        }
        var totals: [Outcome] = work.map { $0.updates.isEmpty && !$0.isConverted ? .compared(differing: 0, first: 0) : .measured(Measure()) }
        let found = results.withLock { $0 }
        for (piece, result) in zip(list, found) {
            switch (totals[piece.work], result) {
            case (.measured(var sum), .measured(let measure)?):
                sum.add(measure)
                totals[piece.work] = .measured(sum)
            case (.compared(let count, let first), .compared(let differing, let place)?):
                totals[piece.work] = .compared(differing: count + differing, first: count > 0 ? first : place)
            default:
                break
            }
        }
        return totals
    }

    private static func measure(_ item: Work, _ range: Range<Int>, _ updates: [Update]) -> Outcome {
        let columns = item.columns
        func bytes(of location: WeightFiles.Location, _ rows: Range<Int>) -> Range<Int> {
            let start = location.info.byteRange.lowerBound
            let width = location.info.dtype.bitWidth
            return start + rows.lowerBound * columns * width / 8..<start + (rows.upperBound * columns * width + 7) / 8
        }
        let sourceRows = item.replacement.map { $0..<$0 + range.count } ?? range
        let (baseRange, mergedRange) = (bytes(of: item.source, sourceRows), bytes(of: item.merged, range))
        let (baseFile, mergedFile) = (item.source.file.file, item.merged.file.file)
        defer {
            baseFile.release(baseRange)
            mergedFile.release(mergedRange)
        }
        let base = baseFile.bytes(in: baseRange)
        let merged = mergedFile.bytes(in: mergedRange)
        if item.updates.isEmpty, !item.isConverted {
            return compare(base, merged, width: max(1, item.source.info.dtype.bitWidth / 8), start: range.lowerBound * columns)
        }
        // A tensor that is only converted is one row.
        let isRow = item.updates.isEmpty
        var measure = ElementCheck.measure(
            base: base, baseType: item.source.info.dtype, merged: merged, mergedType: item.merged.info.dtype, rows: isRow ? 0..<1 : range,
            columns: isRow ? range.count * columns : columns, updates: updates)
        if isRow {
            measure.firstDiffering?.index += range.lowerBound * columns
            measure.firstNotFinite = measure.firstNotFinite.map { $0 + range.lowerBound * columns }
        }
        return .measured(measure)
    }

    private static func compare(_ a: RawSpan, _ b: RawSpan, width: Int, start: Int) -> Outcome {
        // Sound: whole words within both spans, which are equally long; every bit pattern is an integer.
        var index = 0
        let words = a.byteCount / 8
        while index < words,
            unsafe a.unsafeLoadUnaligned(fromByteOffset: 8 * index, as: UInt64.self)
                == b.unsafeLoadUnaligned(fromByteOffset: 8 * index, as: UInt64.self)
        { index += 1 }
        var differing = 0
        var first = 0
        var last = -1
        for byte in 8 * index..<a.byteCount
        where unsafe a.unsafeLoad(fromByteOffset: byte, as: UInt8.self) != b.unsafeLoad(fromByteOffset: byte, as: UInt8.self) {
            guard byte / width != last else { continue }
            last = byte / width
            if differing == 0 { first = start + last }
            differing += 1
        }
        return .compared(differing: differing, first: first)
    }

    // MARK: Judgement

    private static func judge(
        _ item: Work, _ outcome: Outcome, options: Options, faults: inout [Fault], coverage: inout MergeVerdict.Coverage
    ) {
        func place(_ index: Int) -> String {
            let shape = item.merged.info.shape
            return shape.count == 2 ? "[\(index / shape[1]),\(index % shape[1])]" : "\(index)"
        }
        switch outcome {
        case .compared(let differing, let first):
            guard differing > 0 else { return }
            if !item.isReplaced { coverage.baseChangedWithoutAdapter.append(item.name) }
            let why = item.module == nil ? "no adapter names it" : "the adapter's update of it is zero"
            let owner = item.isReplaced ? "those that the adapter puts there" : "the base's and \(why)"
            var message =
                "\(differing) of \(item.rows.count * item.columns) elements are not \(owner); the first is element \(place(first))"
            if isFloating(item.merged.info.dtype) {
                let stored = value(item.merged, first)
                let sourceIndex = first + ((item.replacement ?? item.rows.lowerBound) - item.rows.lowerBound) * item.columns
                message += ", \(stored) where \(item.isReplaced ? "the adapter" : "the base") has \(value(item.source, sourceIndex))"
                if !stored.isFinite { faults.append(Fault(.notFinite, item.name, "element \(place(first)) is infinite or no number")) }
            }
            faults.append(Fault(item.isReplaced ? .wrongReplacement : .baseChangedWithoutAdapter, item.name, message))
        case .measured(let measure):
            let isAdapted = !item.updates.isEmpty
            guard measure.differing > 0 else { return }
            if options.toleratesRounding, isAdapted, measure.differing == measure.roundingLike { return }
            if !isAdapted, !item.isReplaced { coverage.baseChangedWithoutAdapter.append(item.name) }
            faults.append(diagnose(item, measure, place))
        }
    }

    private static func module(_ path: ModulePath, _ measure: Measure) -> MergeVerdict.Module {
        let hasUpdate = measure.updateSquared > 0
        return .init(
            path: path, projection: hasUpdate ? measure.updateTimesChange / measure.updateSquared : nil,
            relativeResidual: hasUpdate ? (measure.residualSquared / measure.updateSquared).squareRoot() : nil, maxUlp: measure.maxUlp,
            survival: hasUpdate ? measure.updateTimesExpected / measure.updateSquared : nil, differingElements: measure.differing,
            isErased: hasUpdate && measure.expectedChanged == 0)
    }

    /// The name of what is wrong with a weight that is not the correctly rounded one.
    private static func diagnose(_ item: Work, _ measure: Measure, _ place: (Int) -> String) -> Fault {
        let name = item.module?.text ?? item.name
        let share = "\(measure.differing) of \(measure.elements) elements are not the correctly rounded ones"
        var first = ""
        if let found = measure.firstDiffering {
            first = "; the first is element \(place(found.index)), \(found.stored) instead of \(found.expected), \(found.steps) ulp off"
        }
        if let index = measure.firstNotFinite {
            return Fault(.notFinite, name, "\(measure.notFinite) elements are infinite or no number; the first is element \(place(index))")
        }
        if item.updates.isEmpty { return Fault(item.isReplaced ? .wrongReplacement : .baseChangedWithoutAdapter, name, share + first) }
        if measure.differing == measure.roundingLike, measure.differing <= max(8, measure.elements / 20) {
            return Fault(.notCorrectlyRounded, name, share + ", all by no more than a rounding" + first)
        }
        if measure.differing <= max(8, measure.elements / 1000) { return Fault(.elementsDiffer, name, share + first) }
        if measure.changed == 0 { return Fault(.notMerged, name, "the weight is the base's, the update is not in it") }
        // How much of the update is in the change, against what rounding lets through, and what the change is beside it.
        let projection = measure.updateTimesChange / measure.updateSquared
        let survival = measure.updateTimesExpected / measure.updateSquared
        let unexplained = measure.changeSquared - projection * measure.updateTimesChange
        let allowance = 4 * measure.roundingSquared + 0.01 * measure.changeSquared
        if unexplained <= allowance, survival > 0.1,
            measure.updateTimesChange * measure.updateTimesChange > 0.01 * measure.updateSquared * measure.changeSquared
        {
            let factor = projection / survival
            if (factor + 1).magnitude < 0.02 { return Fault(.wrongSign, name, "the update was subtracted (projection \(projection))" + first) }
            if (factor - 1).magnitude > 0.001 {
                return Fault(.wrongScale, name, "the update is in it \(factor) times (projection \(projection))" + first)
            }
        }
        if item.rows == 0..<item.columns, item.updates.allSatisfy({ $0.magnitude == nil }) {
            let transposed = transposedProjection(item)
            if transposed > 0.5 * survival, transposed > 2 * projection.magnitude {
                return Fault(
                    .transposed, name, "the change is the transpose of the update (projection \(projection), of the transpose \(transposed))" + first)
            }
        }
        if measure.differing == measure.roundingLike {
            return Fault(.notCorrectlyRounded, name, share + ", all by no more than a rounding" + first)
        }
        return Fault(.wrongUpdate, name, share + " (projection \(projection))" + first)
    }

    private static func transposedProjection(_ item: Work) -> Double {
        let (base, merged) = (item.source, item.merged)
        return base.file.withBytes(of: base.info) { before in
            merged.file.withBytes(of: merged.info) { after in
                ElementCheck.transposedProjection(
                    base: before, baseType: base.info.dtype, merged: after, mergedType: merged.info.dtype, size: item.columns,
                    updates: item.updates.map { Update($0, weights: base) })
            }
        }
    }

    private static func value(_ location: WeightFiles.Location, _ index: Int) -> Double {
        location.file.withBytes(of: location.info) { ElementCheck.value($0, location.info.dtype, index) }
    }

    // MARK: The other files

    /// Fields that describe the architecture under names that all versions of the libraries use.
    private static let architectureFields = [
        "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "vocab_size", "hidden_act", "rms_norm_eps", "layer_norm_eps", "rope_theta", "tie_word_embeddings", "max_position_embeddings",
        "num_local_experts", "num_experts_per_tok",
    ]

    private static func folderFaults(model: AdaptedModel, merged: String) -> [Fault] {
        guard FileSystem.isFolder(merged) else { return [] }
        var faults: [Fault] = []
        for name in ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
        where FileSystem.exists(FileSystem.join(merged, name)) {
            faults.append(Fault(.leftoverAdapter, name, "the merged folder holds this file of an adapter, and loaders would apply it once more"))
        }
        guard let before = model.configuration else { return faults }
        guard let after = configuration(merged) else {
            faults.append(Fault(.configurationDiffers, "config.json", "the base has one and the merged folder has none that can be read"))
            return faults
        }
        for field in architectureFields {
            guard let old = before[field], let new = after[field], old != new else { continue }
            if let a = old.doubleValue, let b = new.doubleValue, a == b { continue }
            faults.append(Fault(.configurationDiffers, field, "config.json says \(new.serialized()) and should say \(old.serialized())"))
        }
        return faults
    }

    private static func configuration(_ folder: String) -> JSONValue? {
        guard let text = try? FileSystem.contents(of: FileSystem.join(folder, "config.json"), limit: 16_000_000) else { return nil }
        return try? JSONValue(parsing: text)
    }
}
