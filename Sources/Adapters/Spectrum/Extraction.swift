internal import FileIO
internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Synchronization
public import Tensors

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
    ///   - tuned: the fine-tuned model, likewise, with the same tensors.
    /// - Throws: `AdapterError` (`.unexpectedTensor`, `.unsupportedDType`, `.notFinite`, `.empty`), `MergeError.interrupted`,
    ///   `SafetensorsError` or `FileError`.
    public init(base basePath: String, tuned tunedPath: String, options: Options) throws {
        let base = try BaseModel(path: basePath)
        let tuned = try WeightFiles(path: tunedPath)
        var changes: [Change] = []
        var replacements: [Replacement] = []
        var unchanged = 0
        let names = Self.names(of: tuned, in: base.files)
        let known = Set(names.values)
        func misfit(_ name: String, _ has: String) -> AdapterError {
            AdapterError(
                .unexpectedTensor, path: tunedPath, subject: name,
                "\(has) no tensor of this name; either the two are of different architectures, or their files are in different layouts, such as the authors' and diffusers', between which extracting does not translate: give both in one layout"
            )
        }
        for name in base.files.tensors.keys where !known.contains(name) { throw misfit(name, "the fine-tuned model has") }
        for (tunedName, after) in tuned.tensors {
            let name = names[tunedName] ?? tunedName
            guard let before = base.source(of: name) else { throw misfit(name, "the base has") }
            let difference = WeightDifference.Tensors(before: before, after: after)
            if difference.areSame {
                unchanged += 1
            } else if let change = try Change(name, difference, of: base, path: tunedPath) {
                changes.append(change)
            } else if difference.haveSameValues {
                unchanged += 1
            } else {
                replacements.append(Replacement(tensor: name, values: after))
            }
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

    /// The names that the base has for the tensors of the fine-tuned model: the same, or those without or with the name of a model around them all.
    private static func names(of tuned: WeightFiles, in base: WeightFiles) -> [String: String] {
        let same = Dictionary(uniqueKeysWithValues: tuned.tensors.keys.map { ($0, $0) })
        guard let first = base.tensors.keys.first, tuned.tensors[first] == nil, !tuned.isPipeline, !base.isPipeline else { return same }
        for name in tuned.tensors.keys {
            if name.hasSuffix("." + first) {
                let outer = name.dropLast(first.count)
                if tuned.tensors.keys.allSatisfy({ $0.hasPrefix(outer) }) { return same.mapValues { String($0.dropFirst(outer.count)) } }
            } else if first.hasSuffix("." + name) {
                return same.mapValues { first.dropLast(name.count) + $0 }
            }
        }
        return same
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
        let before: WeightFiles.Location
        let after: WeightFiles.Location

        /// Whether they have the same numbers, in whatever element types.
        var haveSameValues: Bool {
            guard before.info.shape == after.info.shape, [before, after].allSatisfy({ MergeKernel.supports($0.info.dtype) }) else { return false }
            return FactorMatrix(before.info, in: before.file).doubles() == FactorMatrix(after.info, in: after.file).doubles()
        }

        /// Whether they have the same bytes.
        var areSame: Bool {
            before.info.shape == after.info.shape && before.info.dtype == after.info.dtype
                && FactorMatrix(before.info, in: before.file).hasSameBytes(as: FactorMatrix(after.info, in: after.file))
        }
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
        let shape = before.info.shape
        guard shape == after.info.shape, shape.count >= 2, !shape.contains(0) else { return nil }
        for info in [before.info, after.info] where !MergeKernel.supports(info.dtype) {
            throw AdapterError(
                .unsupportedDType, path: path, subject: name, "a difference of weights in \(info.dtype) is not supported; F32, BF16, F16 and F64 are")
        }
        let component = base.files.component(of: name)
        let parts = name.dropFirst(component.map { $0.count + 1 } ?? 0).split(separator: ".")
        guard let parameter = parts.last, let module = ModulePath(parts.dropLast().joined(separator: ".")) else { return nil }
        let isWeight = parameter == "weight"
        guard isWeight || shape.count == 3 && BaseModel.isStackOfExperts(String(parameter)) else { return nil }
        self.path = module
        self.component = component
        self.parameter = String(parameter)
        count = isWeight ? 1 : shape[0]
        kernel = isWeight ? Array(shape.dropFirst(2)) : []
        if !isWeight {
            kind = .experts
        } else if Self.isTable(module.lastComponent), shape.count == 2, base.files.tensors[name.dropLast("weight".count) + "bias"] == nil {
            kind = .embedding
        } else if !kernel.isEmpty {
            kind = .convolution
        } else {
            kind = base.storesTransposed(module) ? .transposedLinear : .linear
        }
        isTransposed = kind == .embedding || kind == .transposedLinear || kind == .experts && base.storesExpertsTransposed
        let columns = isWeight ? shape.dropFirst().reduce(1, &*) : shape[2]
        func matrix(_ location: WeightFiles.Location) -> FactorMatrix {
            FactorMatrix(location.info, in: location.file).reshaped(rows: shape.reduce(1, &*) / columns, columns: columns)
        }
        (self.before, self.after) = (matrix(before), matrix(after))
    }

    /// Whether a module of this name is a table of embeddings, of tokens or of anything else, which PEFT adapts as such.
    private static func isTable(_ name: String) -> Bool {
        // GPT-NeoX's embed_out is its head.
        ["wte", "wpe", "shared"].contains(name) || name.hasPrefix("embed_") && name != "embed_out" || name.hasSuffix("_embeddings")
            || name.hasSuffix("_embedding")
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
