internal import Kernels
internal import Methods
public import Tensors

extension Adapter {
    /// What is left of a module's update in fewer singular values.
    public struct Resized: Sendable {
        public let path: ModulePath
        public let rankBefore: Int
        public let rank: Int
        /// 1 − ‖ΔW − ΔW′‖² / ‖ΔW‖² with the factors as they are written; of a stack of experts the least.
        public let energy: Double
    }

    /// The adapter with each update in fewer singular values; scales, magnitudes and whole tensors stay, and so do the factors of modules
    /// that have no more than is asked for.
    ///
    /// - Parameter dtype: of the new factors; `nil` for those of the old.
    /// A method whose updates are no products of two factors becomes a LoRA.
    ///
    /// - Throws: `AdapterError`: `.notFinite`, `.unsupportedFeature` for a VeRA whose inputs only the base tells, and for a method whose
    ///   update depends on the weight.
    public func resized(to choice: RankChoice, dtype: DType? = nil) throws -> (adapter: Adapter, modules: [Resized]) {
        try requireOwnInputs()
        try requireFinite()
        var reports: [Resized] = []
        let made = try modules.map { module in
            let (resized, report) = try module.resized(to: choice, dtype: dtype, path: path)
            reports.append(report)
            return resized
        }
        return (with(modules: made), reports)
    }

    private func requireOwnInputs() throws(AdapterError) {
        guard let module = modules.first(where: \.takesInputsOfWeight) else { return }
        throw AdapterError(
            .unsupportedFeature, path: path, subject: module.label.text,
            "its A is as wide as the widest module's (VeRA), and only the base tells how many inputs it has",
            cause: .needsBase)
    }

    /// How adapters become one.
    public enum Combination: String, Sendable, CaseIterable {
        /// The factors one beside the other: the sum of the updates but for the rounding of B, of the sum of the ranks.
        case concatenation = "cat"
        /// The largest singular values of the sum.
        case svd
        /// The sums of the factors, weighted by the roots of weight times scale: not the sum of the updates. What PEFT calls linear.
        case linear
    }

    /// One adapter of several, each with its weight.
    ///
    /// - Parameters:
    ///   - choice: how many singular values of a sum are kept, for `svd`; without it as many as the first adapter has.
    ///   - dtype: of the factors.
    /// - Throws: `AdapterError`: `.unsupportedFeature` for what cannot be added, `.invalidShape`, `.empty`, `.notFinite`.
    public static func combined(
        _ adapters: [WeightedAdapter], _ combination: Combination, choice: RankChoice? = nil, dtype: DType = .f32
    ) throws -> (adapter: Adapter, modules: [Resized]) {
        guard let first = adapters.first?.adapter else { throw AdapterError(.empty, path: "", "no adapter was given") }
        var parts: [String: [(module: AdapterModule, weight: Double, path: String)]] = [:]
        for item in adapters {
            try item.adapter.requireOwnInputs()
            try item.adapter.requireFinite()
            if let replacement = item.adapter.replacements.first {
                throw AdapterError(
                    .unsupportedFeature, path: item.adapter.path, subject: replacement.tensor,
                    "tensors that were trained whole cannot be added; merge the adapters into the base instead")
            }
            if item.adapter.namesAreFlattened != first.namesAreFlattened {
                throw AdapterError(
                    .unsupportedFeature, path: item.adapter.path,
                    "the modules of some of the adapters have lost their dots", cause: .needsBase)
            }
            for module in item.adapter.modules { parts[module.parameterName, default: []].append((module, item.weight, item.adapter.path)) }
        }
        var reports: [Resized] = []
        let modules = try parts.keys.sorted().map { name in
            let (module, report) = try AdapterModule.combined(parts[name] ?? [], combination, choice: choice, dtype: dtype)
            reports.append(report)
            return module
        }
        return (first.with(modules: modules, metadata: TrainerMetadata.combined(adapters.map(\.adapter.metadata))), reports)
    }
}

extension AdapterModule {
    fileprivate func resized(to choice: RankChoice, dtype: DType?, path file: String) throws -> (AdapterModule, Adapter.Resized) {
        // A factorisation of what fits already would only round it again.
        if isLowRank, choice.energy == nil, rank <= choice.rank ?? rank, [loraA.dtype, loraB.dtype].allSatisfy({ $0 == dtype ?? $0 }) {
            return (self, Adapter.Resized(path: label, rankBefore: rank, rank: rank, energy: 1))
        }
        guard isLowRank else { return try approximated(choice, dtype: dtype ?? .f32, path: file) }
        let products = factors.map { LowRankProduct($0, scale: 1) }
        let (made, energy) = try Self.factors(
            try products.map { try $0.truncated(choice, path: file, name: label.text) }, of: products, name: path.text,
            dtypes: (dtype ?? loraA.dtype, dtype ?? loraB.dtype), path: file)
        let rank = made[0].a.rows
        let module = changing { ($0.factors, $0.alpha) = (made, scale * Double(rank)) }
        return (module, Adapter.Resized(path: label, rankBefore: self.rank, rank: rank, energy: energy))
    }

    /// The module as a LoRA of the largest singular values.
    private func approximated(_ choice: RankChoice, dtype: DType, path file: String) throws -> (AdapterModule, Adapter.Resized) {
        var products: [LowRankProduct] = []
        var matrices: [(matrix: EvaluatedMatrix, total: Double)] = []
        for update in updates {
            guard update.isSum, case .evaluated(let evaluated) = update.form else {
                throw AdapterError(
                    .unsupportedFeature, path: file, subject: label.text,
                    "what \(type(of: update).name) does to a weight depends on the weight; merge the adapter, and extract a LoRA from the result")
            }
            let matrix: EvaluatedMatrix
            do throws(UpdateFault) { matrix = try EvaluatedMatrix(update, evaluated) } catch { throw AdapterError(error, path: file) }
            let total = matrix.squaredNorm
            guard total.isFinite else {
                throw AdapterError(.notFinite, path: file, subject: label.text, "its update is too large to be decomposed, or NaN")
            }
            matrices.append((matrix, total))
            guard total > 0 else {
                products.append(LowRankProduct(b: Matrix(zeros: matrix.rows, 1), a: Matrix(zeros: 1, matrix.columns)))
                continue
            }
            let svd = TruncatedSVD(matrix, choice: choice, total: total)
            products.append(LowRankProduct.balanced(u: svd.u, values: svd.values, v: svd.v))
        }
        let made = try LowRankProduct.factors(of: products, name: path.text, dtypes: (dtype, dtype), path: file)
        let energies = zip(matrices, made).map { item, factors in
            item.total > 0 ? 1 - item.matrix.squaredDistance(b: factors.b.matrix, a: factors.a.matrix) / item.total : 1
        }
        let rank = made[0].rank
        let module = changing { ($0.factors, $0.alpha) = (made, scale * Double(rank)) }
        return (module, Adapter.Resized(path: label, rankBefore: self.rank, rank: rank, energy: energies.min() ?? 1))
    }

    /// Factors of the products, and the least energy among them, measured with what was rounded.
    private static func factors(
        _ cut: [LowRankProduct], of targets: [LowRankProduct], name: String, dtypes: (a: DType, b: DType), path: String
    ) throws -> (factors: [LowRankFactors], energy: Double) {
        let factors = try LowRankProduct.factors(of: cut, name: name, dtypes: dtypes, path: path)
        let energies = zip(factors, targets).map { LowRankProduct($0, scale: 1).energy(of: $1) }
        return (factors, energies.min() ?? 1)
    }

    fileprivate static func combined(
        _ parts: [(module: AdapterModule, weight: Double, path: String)], _ combination: Adapter.Combination, choice: RankChoice?, dtype: DType
    ) throws -> (AdapterModule, Adapter.Resized) {
        let first = parts[0].module
        for (module, _, path) in parts {
            func refuse(_ code: AdapterError.Code, _ why: String, cause: AdapterError.Cause? = nil) -> AdapterError {
                AdapterError(code, path: path, subject: module.label.text, why, cause: cause)
            }
            guard module.isLowRank else {
                throw refuse(.unsupportedFeature, "it is a \(module.methodName), and only LoRA are combined; resize makes a LoRA of it")
            }
            guard module.magnitude == nil, module.bias == nil else {
                throw refuse(.unsupportedFeature, "magnitudes (DoRA) and biases on B cannot be added; merge the adapters into the base instead")
            }
            guard module.inputs == first.inputs, module.outputs == first.outputs else {
                throw refuse(
                    .invalidShape,
                    "its update is \(describe(shape: [module.outputs, module.inputs])) and that of another adapter \(describe(shape: [first.outputs, first.inputs]))"
                )
            }
            guard module.isInterleaved == first.isInterleaved else {
                throw refuse(
                    .unsupportedFeature,
                    "only some of the adapters keep its rows as ggml orders them, and only the base tells that order", cause: .needsBase)
            }
            guard module.kind == first.kind, module.kernel == first.kernel, module.factors.count == first.factors.count else {
                throw refuse(
                    .invalidShape,
                    "it is \(module.kind.rawValue) with \(module.factors.count) \(module.factors.count == 1 ? "matrix" : "matrices"), and in another adapter \(first.kind.rawValue) with \(first.factors.count)\(module.kernel == first.kernel ? "" : ", or of another kernel")"
                )
            }
            if combination == .linear, module.rank != first.rank {
                throw refuse(.invalidShape, "factors of the ranks \(first.rank) and \(module.rank) cannot be added; combine them by cat or svd")
            }
        }
        let sums = first.factors.indices.map { number in
            LowRankProduct.sum(parts.map { LowRankProduct($0.module.factors[number], scale: $0.module.scale * $0.weight) })
        }
        let cut = try first.factors.indices.map { number in
            switch combination {
            case .linear:
                var (b, a) = (Matrix(zeros: first.outputs, first.rank), Matrix(zeros: first.rank, first.inputs))
                for (module, weight, _) in parts {
                    let factor = module.scale * weight
                    let root = abs(factor).squareRoot()
                    b = b + module.factors[number].b.matrix.scaled(by: root)
                    a = a + module.factors[number].a.matrix.scaled(by: factor < 0 ? -root : root)
                }
                return LowRankProduct(b: b, a: a)
            case .concatenation: return sums[number]
            case .svd: return try sums[number].truncated(choice ?? RankChoice(rank: first.rank), path: parts[0].path, name: first.label.text)
            }
        }
        let (made, energy) = try factors(cut, of: sums, name: first.path.text, dtypes: (dtype, dtype), path: parts[0].path)
        let rank = made[0].a.rows
        let module = first.changing { ($0.factors, $0.alpha, $0.scale) = (made, Double(rank), 1) }
        return (module, Adapter.Resized(path: first.label, rankBefore: parts.reduce(0) { $0 + $1.module.rank }, rank: rank, energy: energy))
    }
}
