internal import Families
internal import FileIO
internal import JSON
internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Synchronization
public import Tensors
internal import Weights

/// A LoRA from a model and its fine-tuning: for each weight that differs the largest singular values of the difference.
///
/// What no low-rank update can stand for (norms, biases, tensors of another shape) goes into the adapter whole, so that base and
/// adapter are the fine-tuned model but for what the truncation left out. An embedding that is the head's matrix, too, becomes
/// two modules, and their merge two matrices of the same values.
public struct Extraction: Sendable {
    /// What became of one weight.
    public struct Module: Sendable {
        public let path: ModulePath
        public let rank: Int
        /// 1 − ‖ΔW − s·B·A‖² / ‖ΔW‖², measured with the factors as they are written.
        public let energy: Double
        /// ‖ΔW − s·B·A‖ / ‖ΔW‖.
        public let relativeResidual: Double
        /// ‖ΔW‖.
        public let norm: Double
    }

    public struct Options: Sendable {
        public var choice: RankChoice
        /// The element type of the factors: F32, BF16 or F16.
        public var dtype: DType
        public var threads: Int
        /// Asked before each weight; true stops.
        public var isCancelled: @Sendable () -> Bool
        /// Told the weights done and those in all.
        public var progress: (@Sendable (_ done: Int, _ total: Int) -> Void)?

        public init(
            choice: RankChoice, dtype: DType = .f32, threads: Int = 1, isCancelled: @escaping @Sendable () -> Bool = { false },
            progress: (@Sendable (_ done: Int, _ total: Int) -> Void)? = nil
        ) {
            self.choice = choice
            self.dtype = dtype
            self.threads = threads
            self.isCancelled = isCancelled
            self.progress = progress
        }
    }

    public let adapter: Adapter
    /// In the order of the adapter's.
    public let modules: [Module]
    /// Tensors that are the same in both models.
    public let unchanged: Int

    /// - Parameters:
    ///   - base: a model folder or one safetensors file.
    ///   - tuned: the fine-tuned model, likewise, with the same tensors, or with those that are known to be the same in another layout.
    /// - Throws: `AdapterError` (`.unexpectedTensor`, `.unsupportedDType`, `.notFinite`, `.empty`), `MergeError.interrupted`,
    ///   `SafetensorsError` or `FileError`.
    public init(base basePath: String, tuned tunedPath: String, options: Options) throws {
        let base = try BaseModel(path: basePath)
        let tuned = try ModelWeights(path: tunedPath)
        try tuned.requireComparable()
        var changes: [Change] = []
        var replacements: [Replacement] = []
        var unchanged = 0
        let tunedNames = TensorCorrespondence.Model(tuned, configuration: try BaseModel.configuration(of: tunedPath))
        let correspondence = TensorCorrespondence(base.names, tunedNames)
        let names = Dictionary(correspondence.renamed.map { ($0.value, $0.key) }) { first, _ in first }
        let counterparts = correspondence.counterparts
        func misfit(_ name: String, _ has: String) -> AdapterError {
            AdapterError(
                .unexpectedTensor, path: tunedPath, subject: name,
                "\(has) no tensor of this name, nor one that is known to be the same in another layout; either the two are of different architectures, or one is in a layout whose names are not known here: give both in one layout"
            )
        }
        if let gap = correspondence.gaps.first.first { throw misfit(gap.missing, "the fine-tuned model has") }
        if let gap = correspondence.gaps.second.first { throw misfit(gap.missing, "the base has") }
        for name in base.files.tensors.keys
        where tuned.tensors[name] == nil && correspondence.renamed[name] == nil && correspondence.pieces[name] == nil {
            throw misfit(name, "the fine-tuned model has")
        }
        func compare(_ name: String, _ difference: WeightDifference.Tensors) throws {
            if difference.areSame {
                unchanged += 1
            } else if let change = try Change(name, difference, of: base, path: tunedPath) {
                changes.append(change)
            } else if difference.haveSameValues {
                unchanged += 1
            } else if let values = difference.whole {
                replacements.append(Replacement(tensor: name, values: values))
            } else {
                throw AdapterError(
                    .unexpectedTensor, path: tunedPath, subject: name,
                    "it differs, no low-rank update can stand for it, and the fine-tuned model has its elements in other tensors, which an adapter cannot bring as one; give both models in one layout"
                )
            }
        }
        for (tunedName, after) in tuned.tensors where names[tunedName] != nil || !counterparts.contains(tunedName) {
            let name = names[tunedName] ?? tunedName
            guard let before = base.source(of: name) else { throw misfit(name, "the base has") }
            try compare(name, WeightDifference.Tensors(before: before.loaded(as: after.dtype), after: after))
        }
        for (name, pieces) in correspondence.pieces {
            guard let before = base.source(of: name) else { throw misfit(name, "the base has") }
            let parts = try pieces.map { piece in (try tuned.weight(named: piece.second), piece.secondElements) }
            let loaded = parts.first.map { before.loaded(as: $0.0.dtype) } ?? before
            guard let difference = WeightDifference.Tensors(before: loaded, parts: parts) else {
                throw AdapterError(
                    .unsupportedDType, path: tunedPath, subject: name,
                    "the fine-tuned model has its parts in several element types (\(Set(parts.map { "\($0.0.dtype)" }).sorted().joined(separator: ", "))), and one is needed"
                )
            }
            try compare(name, difference)
        }
        let made = try Self.factors(of: changes, path: tunedPath, options: options)
        unchanged += made.count { $0 == nil }
        var all = made.compactMap { $0 }
        // Where embedding and head are one matrix in both models, both have changed.
        for tie in base.ties {
            guard let embedding = all.first(where: { $0.module.kind == .embedding && $0.module.parameterName == tie.source }) else { continue }
            for member in tie.members where base.files.tensors[member] == nil && tuned.tensors[member] == nil {
                let module = embedding.module.sharing(ModulePath(member.dropLast(".weight".count)), isHead: member == tie.head)
                let report = embedding.report
                all.append(
                    (
                        module,
                        Module(
                            path: module.label, rank: report.rank, energy: report.energy, relativeResidual: report.relativeResidual, norm: report.norm
                        )
                    ))
            }
        }
        let found = all.sorted { ($0.module.place, $0.module.parameter) < ($1.module.place, $1.module.parameter) }
        guard !found.isEmpty else {
            throw AdapterError(
                .empty, path: tunedPath,
                replacements.isEmpty
                    ? "the two models have the same weights, and there is nothing to extract"
                    : "only tensors that no low-rank update can stand for differ (\(replacements[0].tensor)), and there is nothing to extract")
        }
        adapter = Adapter(
            path: tunedPath, dialect: .extraction, weightsPath: nil, baseModel: base.configuration?["_name_or_path"]?.stringValue ?? basePath,
            targets: [], taskType: base.isNotCausal ? nil : "CAUSAL_LM", modules: found.map(\.module), replacements: replacements)
        modules = found.map(\.report)
        self.unchanged = unchanged
    }

    private static func factors(
        of changes: [Change], path: String, options: Options
    ) throws -> [(module: AdapterModule, report: Module)?] {
        let results = Mutex<[Int: (module: AdapterModule, report: Module)?]>([:])
        try ThreadPool.forEach(changes.count, threads: options.threads) { number in
            if options.isCancelled() { throw MergeError(.interrupted, path: path, "the extraction was interrupted; nothing was written") }
            let result = try changes[number].factors(options, path: path)
            let done = results.withLock { results in
                results[number] = .some(result)
                return results.count
            }
            options.progress?(done, changes.count)
        }
        return results.withLock { results in changes.indices.map { results[$0] ?? nil } }
    }
}

extension WeightDifference {
    /// A tensor before and after.
    fileprivate struct Tensors {
        let shape: [Int]
        let shapeAfter: [Int]
        let before: FactorMatrix
        let after: FactorMatrix
        /// Where the tensor is after, if it is one tensor there or a part of one.
        let whole: StoredWeight?

        init(before: StoredWeight, after: StoredWeight) {
            (shape, shapeAfter) = (before.shape, after.shape)
            (self.before, self.after) = (FactorMatrix(before), FactorMatrix(after))
            whole = after
        }

        /// - Parameter parts: the elements that are the tensor after, in order; `nil` where they have several types.
        init?(before: StoredWeight, parts: [(tensor: StoredWeight, elements: Range<Int>)]) {
            shape = before.shape
            shapeAfter = shape
            let matrix = FactorMatrix(before)
            // Parts are rows of the last dimension's length where they are matrices of a stack, and of all but the first's otherwise.
            let starts = parts.flatMap { [$0.elements.lowerBound, $0.elements.count] }
            let width = shape.count < 2 ? 1 : starts.allSatisfy { $0 % matrix.columns == 0 } ? matrix.columns : shape[shape.count - 1]
            guard Set(parts.map(\.tensor.dtype)).count == 1, width > 0, starts.allSatisfy({ $0 % width == 0 }) else { return nil }
            let matrices = parts.map { tensor, elements in
                FactorMatrix(tensor).reshaped(rows: tensor.elementCount / width, columns: width)
                    .rows(from: elements.lowerBound / width, count: elements.count / width)
            }
            let joined = FactorMatrix.joined(matrices)
            self.before = matrix
            after = width == matrix.columns && joined.rows == matrix.rows ? joined : joined.reshaped(rows: matrix.rows, columns: matrix.columns)
            whole = parts.count == 1 ? parts[0].tensor.part(parts[0].elements, shape: shape) : nil
        }

        private var areComparable: Bool { shape == shapeAfter && before.shape == after.shape }

        /// Whether they have the same numbers, in whatever element types.
        var haveSameValues: Bool {
            areComparable && [before, after].allSatisfy { $0.dtype.isFloat } && before.doubles() == after.doubles()
        }

        /// Whether they have the same bytes.
        var areSame: Bool { areComparable && before.dtype == after.dtype && before.hasSameBytes(as: after) }
    }
}

/// A weight that differs, as a matrix or a stack of them.
private struct Change: Sendable {
    let path: ModulePath
    let component: String?
    let parameter: String
    let kind: AdapterModule.Kind
    let kernel: [Int]
    let before: FactorMatrix
    let after: FactorMatrix
    /// The matrices of a stack, one below the other.
    let count: Int
    /// Whether it is stored as [in, out].
    let isTransposed: Bool

    /// - Returns: `nil` for a tensor that no low-rank update can stand for.
    init?(_ name: String, _ tensors: WeightDifference.Tensors, of base: BaseModel, path: String) throws(AdapterError) {
        let (before, after) = (tensors.before, tensors.after)
        let shape = tensors.shape
        guard shape == tensors.shapeAfter, shape.count >= 2, !shape.contains(0) else { return nil }
        for dtype in [before.dtype, after.dtype] where !dtype.isFloat {
            throw AdapterError(
                .unsupportedDType, path: path, subject: name, "a difference of weights in \(dtype) is not supported; F32, BF16, F16 and F64 are")
        }
        let component = base.files.component(of: name)
        let stored = String(name.dropFirst(component.map { $0.count + 1 } ?? 0))
        let stack = shape.count == 3 ? base.stackOfExperts(stored) : nil
        let parts = (stack ?? stored).split(separator: ".")
        guard let parameter = parts.last, let module = ModulePath(parts.dropLast().joined(separator: ".")) else { return nil }
        let isStack = stack != nil
        guard isStack || parameter == "weight" else { return nil }
        // Nor for a convolution of each channel by itself: PEFT has no factors for it.
        if !isStack, shape.count > 2, shape[1] == 1 { return nil }
        self.path = module
        self.component = component
        self.parameter = String(parameter)
        count = isStack ? shape[0] : 1
        kernel = isStack ? [] : Array(shape.dropFirst(2))
        if isStack {
            kind = .experts
        } else if shape.count == 2, Self.isTable(name, of: base) {
            kind = .embedding
        } else if !kernel.isEmpty {
            kind = .convolution
        } else {
            kind = base.storesTransposed(module) ? .transposedLinear : .linear
        }
        isTransposed = kind == .embedding || kind == .transposedLinear || kind == .experts && base.storesExpertsTransposed(self.parameter, shape)
        let columns = isStack ? shape[2] : shape.dropFirst().reduce(1, &*)
        let rows = shape.reduce(1, &*) / columns
        (self.before, self.after) = (before.reshaped(rows: rows, columns: columns), after.reshaped(rows: rows, columns: columns))
    }

    /// Whether a weight is a table of embeddings, of tokens or of anything else, which PEFT adapts as such. Where the model's ties do not tell,
    /// the name does.
    private static func isTable(_ weight: String, of base: BaseModel) -> Bool {
        // A table has no bias.
        guard base.files.tensors[weight.dropLast("weight".count) + "bias"] == nil else { return false }
        if BaseModel.isEmbedding(weight) || base.ties.contains(where: { $0.members.dropLast().contains(weight) }) { return true }
        var name = tableName(weight)
        guard !name.hasPrefix("patch_embed"), !EmbeddingNames.multiplied.contains(String(name)) else { return false }
        if base.family?.embeddingModules.contains(String(name)) == true { return true }
        // Some number their tables in the name.
        if let end = name.lastIndex(of: "_"), Int(name[name.index(after: end)...]) != nil { name = name[..<end] }
        return EmbeddingNames.tables.contains(String(name)) || name.hasPrefix("embed_") || name.hasSuffix("_embeddings")
            || name.hasSuffix("_embedding")
    }

    /// The name of a weight's module, or of the list of which the module is a member.
    private static func tableName(_ weight: String) -> Substring {
        weight.split(separator: ".").dropLast().last { Int($0) == nil } ?? ""
    }

    /// The module and what it has kept; `nil` where the numbers are equal though the bytes are not.
    func factors(_ options: Extraction.Options, path file: String) throws -> (module: AdapterModule, report: Extraction.Module)? {
        let rows = before.rows / count
        var found: [LowRankProduct] = []
        var (total, rest) = (0.0, 0.0)
        let differences = (0..<count).map { part in
            WeightDifference(base: before.rows(from: part * rows, count: rows), tuned: after.rows(from: part * rows, count: rows))
        }
        for difference in differences {
            let squares = difference.squaredNorm
            guard squares.isFinite else {
                throw AdapterError(.notFinite, path: file, subject: "\(path).\(parameter)", "the difference to the base is infinite or NaN")
            }
            total += squares
            guard squares > 0 else {
                found.append(LowRankProduct(b: Matrix(zeros: rows, 0), a: Matrix(zeros: 0, before.columns)))
                continue
            }
            let svd = TruncatedSVD(difference, choice: options.choice, total: squares)
            found.append(LowRankProduct.balanced(u: svd.u, values: svd.values, v: svd.v))
        }
        guard total > 0 else { return nil }
        let factors = try LowRankProduct.factors(of: found, name: path.text, dtypes: (options.dtype, options.dtype), path: file)
        for (difference, part) in zip(differences, factors) { rest += difference.squaredDistance(b: part.b.matrix, a: part.a.matrix) }
        let rank = factors[0].a.rows
        let module = AdapterModule(
            component: component, path: path, parameter: parameter, kind: kind,
            factors: isTransposed ? factors.map { .init(a: $0.b.transposed, b: $0.a.transposed) } : factors, alpha: Double(rank), scale: 1,
            kernel: kernel)
        return (
            module,
            Extraction.Module(
                path: module.label, rank: rank, energy: 1 - rest / total, relativeResidual: (rest / total).squareRoot(), norm: total.squareRoot())
        )
    }
}
