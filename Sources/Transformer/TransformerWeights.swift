public import Kernels
internal import OrderedCollections
public import Safetensors
internal import Tensors

/// The weights of a model, where they lie in its mapped files.
public struct TransformerWeights: Sendable {
    struct Layer: Sendable {
        /// In the order of `Projection`.
        let projections: [WeightMatrix]
        let biases: [FloatView?]
        let inputNorm: FloatView
        let postAttentionNorm: FloatView
    }

    public let configuration: TransformerConfiguration
    /// [vocabulary, hidden]
    let embedding: WeightMatrix
    /// [vocabulary, hidden]; the embedding again where they are tied.
    public let head: WeightMatrix
    let finalNorm: FloatView
    let layers: [Layer]

    /// Finds and checks every weight that the configuration calls for.
    ///
    /// - Parameter substitutes: what takes the place of tensors of the files, or joins them, by name.
    /// - Throws: `TransformerError` naming the tensor that is missing, has another shape or dtype than needed, or holds
    ///   NaN or infinity.
    public init(
        configuration: TransformerConfiguration, files: WeightFiles, substitutes: [String: WeightMatrix] = [:], compute: Compute
    ) throws(TransformerError) {
        self.configuration = configuration
        let source = Source(files: files, substitutes: substitutes)
        let hidden = configuration.hiddenSize
        embedding = try source.matrix("model.embed_tokens.weight", configuration.vocabularySize, hidden)
        // A tied model may carry a copy of the head; the embedding counts.
        head = configuration.tiedEmbeddings ? embedding : try source.matrix("lm_head.weight", configuration.vocabularySize, hidden)
        finalNorm = try source.vector("model.norm.weight", hidden)
        var layers: [Layer] = []
        for layer in 0..<configuration.layers {
            var projections: [WeightMatrix] = []
            var biases: [FloatView?] = []
            for projection in Projection.allCases {
                let (out, input) = projection.shape(in: configuration)
                let module = projection.module(layer: layer)
                projections.append(try source.matrix(module + ".weight", out, input))
                biases.append(source.has(module + ".bias") ? try source.vector(module + ".bias", out) : nil)
            }
            layers.append(
                Layer(
                    projections: projections, biases: biases, inputNorm: try source.vector("model.layers.\(layer).input_layernorm.weight", hidden),
                    postAttentionNorm: try source.vector("model.layers.\(layer).post_attention_layernorm.weight", hidden)))
        }
        self.layers = layers
        try checkFinite(compute: compute, path: files.path)
    }

    /// The tensors that the forward pass reads, biases among them whether or not a model has them.
    public static func names(configuration: TransformerConfiguration) -> Set<String> {
        var names: Set = ["model.embed_tokens.weight", "model.norm.weight"]
        if !configuration.tiedEmbeddings { names.insert("lm_head.weight") }
        for layer in 0..<configuration.layers {
            for norm in ["input_layernorm", "post_attention_layernorm"] { names.insert("model.layers.\(layer).\(norm).weight") }
            for projection in Projection.allCases {
                for parameter in ["weight", "bias"] { names.insert("\(projection.module(layer: layer)).\(parameter)") }
            }
        }
        return names
    }

    private func checkFinite(compute: Compute, path: String) throws(TransformerError) {
        var matrices = [embedding] + layers.flatMap(\.projections)
        if !configuration.tiedEmbeddings { matrices.append(head) }
        let all = matrices
        let faults = FloatBuffer(count: all.count).view
        compute.pool.run(all.count) { index, _ in
            if all[index].firstNonFinite() != nil { faults[index] = 1 }
        }
        guard let index = all.indices.first(where: { faults[$0] != 0 }), let place = all[index].firstNonFinite() else { return }
        throw TransformerError(
            .notFinite, path: path, tensor: all[index].name,
            "the weight at row \(place.row), column \(place.column) is NaN or infinite; the model is damaged, fetch it again")
    }

    /// Looks tensors up and checks them.
    private struct Source {
        let files: WeightFiles
        let substitutes: [String: WeightMatrix]

        func has(_ name: String) -> Bool { substitutes[name] != nil || files.tensors[name] != nil }

        func matrix(_ name: String, _ rows: Int, _ columns: Int) throws(TransformerError) -> WeightMatrix {
            try weight(name, [rows, columns])
        }

        func vector(_ name: String, _ count: Int) throws(TransformerError) -> FloatView {
            let values = try weight(name, [count]).floats()
            guard let index = values.firstIndex(where: { !$0.isFinite }) else {
                let buffer = FloatBuffer(count: count)
                buffer.view.copy(from: values)
                return buffer.view
            }
            throw TransformerError(
                .notFinite, path: files.path, tensor: name, "the element \(index) is NaN or infinite; the model is damaged, fetch it again")
        }

        private func weight(_ name: String, _ shape: [Int]) throws(TransformerError) -> WeightMatrix {
            if let substitute = substitutes[name] {
                let found = shape.count == 1 ? [substitute.columns] : [substitute.rows, substitute.columns]
                guard found == shape else { throw wrongShape(name, found, shape) }
                return substitute
            }
            guard let location = files.tensors[name] else {
                throw TransformerError(
                    .missingTensor, path: files.path, tensor: name,
                    "the configuration calls for it and the weights do not hold it; the folder is incomplete or the configuration belongs to another model"
                )
            }
            guard location.info.shape == shape else {
                throw wrongShape(name, location.info.shape, shape)
            }
            guard let matrix = WeightMatrix(file: location.file.file, info: location.info) else {
                throw TransformerError(
                    .unsupportedDType, path: files.path, tensor: name,
                    "weights of type \(location.info.dtype) cannot be trained on; F32, BF16 and F16 can")
            }
            return matrix
        }

        private func wrongShape(_ name: String, _ found: [Int], _ shape: [Int]) -> TransformerError {
            TransformerError(
                .wrongShape, path: files.path, tensor: name,
                "its shape is \(describe(shape: found)) and the configuration calls for \(describe(shape: shape))")
        }
    }
}
