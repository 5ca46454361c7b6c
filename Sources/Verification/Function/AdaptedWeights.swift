public import Adapters
internal import JSON
public import Kernels
public import LanguageModel
internal import Methods
internal import Safetensors
internal import Tensors
internal import Weights

/// A base with its adapters as the transformer runs them: the only place where an adapter enters the forward pass.
///
/// Low-rank updates of linear layers run beside the weight. What cannot run so (magnitudes, biases, embeddings, whole values) is
/// computed in the verifier's arithmetic and kept in F32.
public struct AdaptedWeights {
    public let weights: TransformerWeights
    /// What runs beside the weights.
    public let updates: LowRankUpdates
    public let maximumRank: Int

    /// - Parameter path: the folder of a Llama-family model.
    /// - Throws: `TransformerError` for a model that does not run here, or an adapter that changes what it does not run; the errors of
    ///   the files, and `MergeError` for adapters that do not fit.
    public init(base path: String, adapters: [WeightedAdapter], compute: Compute) throws {
        let base = try BaseModel(path: path)
        for item in adapters { try item.adapter.requireFinite() }
        // A model that does not run is refused as such, before the adapters are.
        _ = try TransformerConfiguration(folder: path)
        try self.init(try AdaptedModel(base: base, adapters: adapters, codes: .decoded), folder: path, compute: compute)
    }

    /// - Parameter folder: of the base, for errors.
    init(_ model: AdaptedModel, folder: String, compute: Compute) throws {
        guard let configuration = model.configuration else {
            throw TransformerError(.invalidConfiguration, path: folder, "there is no config.json beside the weights, so the model cannot be run")
        }
        let shape = try TransformerConfiguration(json: configuration, path: folder)
        let linears = shape.linears
        let linear = Set((0..<shape.layers).flatMap { layer in linears.map { $0.path(layer: layer) + ".weight" } })
        let known = TransformerWeights.names(configuration: shape)
        var beside: [String: LowRankUpdate] = [:]
        var substitutes: [String: WeightMatrix] = [:]
        for tensor in model.tensors {
            let active = tensor.updates.filter { !$0.isZero }
            guard !active.isEmpty || !tensor.isOfBase || !tensor.rows.isEmpty else { continue }
            guard known.contains(tensor.name) else {
                throw TransformerError(
                    .unsupportedFeature, path: folder, tensor: tensor.name,
                    "an adapter changes this tensor, and the forward pass of this program does not use it; run the adapter in the library that trained it"
                )
            }
            let isPlain =
                tensor.isOfBase && tensor.rows.isEmpty
                && active.allSatisfy { $0.magnitude == nil && $0.lowRank != nil && $0.rows == 0..<(tensor.shape.first ?? 0) }
            if isPlain, linear.contains(tensor.name) {
                beside[tensor.name] = Self.sum(active)
            } else {
                substitutes[tensor.name] = try Self.expected(tensor)
            }
        }
        weights = try TransformerWeights(configuration: shape, files: model.base.files, substitutes: substitutes, compute: compute)
        updates = LowRankUpdates(layers: shape.layers, linears: linears.count) { beside[linears[$1].path(layer: $0) + ".weight"] }
        maximumRank = beside.values.map(\.rank).max() ?? 0
    }

    /// Updates of one weight as one: their factors side by side, B times the scale.
    private static func sum(_ updates: [TensorUpdate]) -> LowRankUpdate {
        let parts = updates.compactMap { update in update.lowRank.map { (factors: $0, scale: update.scale) } }
        let rank = parts.reduce(0) { $0 + $1.factors.rank }
        let rows = updates[0].rows.count
        let a = parts.flatMap { $0.factors.a.doubles().map { Float($0) } }
        var b = [Float](repeating: 0, count: rows * rank)
        var first = 0
        for (factors, scale) in parts {
            let left = factors.b.doubles()
            for row in 0..<rows { for k in 0..<factors.rank { b[row * rank + first + k] = Float(left[row * factors.rank + k] * scale) } }
            first += factors.rank
        }
        let (viewA, viewB) = (FloatBuffer(count: a.count).view, FloatBuffer(count: b.count).view)
        viewA.copy(from: a)
        viewB.copy(from: b)
        // Nothing is trained here; the gradients are never written.
        return LowRankUpdate(rank: rank, scale: 1, a: viewA, b: viewB, gradientA: viewA, gradientB: viewB)
    }

    /// What a tensor is with its updates, in F32.
    private static func expected(_ tensor: AdaptedModel.Tensor) throws -> WeightMatrix {
        let values = FloatBuffer(count: tensor.source.elementCount).view
        let whole = MergeWork.Target(tensor.source, elements: 0..<tensor.source.elementCount, start: 0)
        for work in MergeWork.parts(of: tensor, merged: [whole]) {
            try work.forEachExpectedRow { row, elements in
                let start = row * work.columns
                for (column, element) in elements.enumerated() { values[start + column] = Float(element) }
            }
        }
        return WeightMatrix(name: tensor.name, shape: tensor.shape, values: values)
    }
}
