internal import FileIO
public import Kernels
internal import OrderedCollections
internal import Tensors
public import Weights

/// The weights of a model, where they lie in its mapped files.
public struct TransformerWeights: Sendable {
    public let configuration: TransformerConfiguration
    /// [vocabulary, hidden]
    let embedding: WeightMatrix
    /// [vocabulary, hidden]; the embedding again where they are tied.
    public let head: WeightMatrix
    let finalNorm: FloatView
    let blocks: [BlockWeights]

    /// Finds and checks every weight that the configuration calls for.
    ///
    /// - Parameter substitutes: what takes the place of tensors of the files, or joins them, by name.
    /// - Throws: `TransformerError` naming the tensor that is missing, has another shape or dtype than needed, or holds
    ///   NaN or infinity; `FileError` where it cannot be read.
    public init(
        configuration: TransformerConfiguration, files: ModelWeights, substitutes: [String: WeightMatrix] = [:], compute: Compute
    ) throws {
        self.configuration = configuration
        let source = Source(files: files, substitutes: substitutes)
        let hidden = configuration.hiddenSize
        embedding = try source.matrix("model.embed_tokens.weight", configuration.vocabularySize, hidden)
        // A tied model may carry a copy of the head; the embedding counts.
        head = configuration.tiedEmbeddings ? embedding : try source.matrix("lm_head.weight", configuration.vocabularySize, hidden)
        finalNorm = try source.vector("model.norm.weight", hidden)
        blocks = try (0..<configuration.layers).map { layer in
            var (linears, biases, norms): ([WeightMatrix], [FloatView?], [String: FloatView]) = ([], [], [:])
            for shape in configuration.linears {
                let path = shape.path(layer: layer)
                linears.append(try source.matrix(path + ".weight", shape.out, shape.input))
                biases.append(source.has(path + ".bias") ? try source.vector(path + ".bias", shape.out) : nil)
            }
            for (module, size) in configuration.norms {
                norms[module] = try source.vector("\(TransformerConfiguration.layers).\(layer).\(module).weight", size)
            }
            return BlockWeights(linears: linears, biases: biases, norms: norms)
        }
        try checkFinite(compute: compute, path: files.path)
    }

    /// A linear layer's weight; `number` is its place in `TransformerConfiguration.linears`.
    public func linear(layer: Int, _ number: Int) -> WeightMatrix { blocks[layer].linears[number] }

    /// The tensors that the forward pass reads, biases among them whether or not a model has them.
    public static func names(configuration: TransformerConfiguration) -> Set<String> {
        var names: Set = ["model.embed_tokens.weight", "model.norm.weight"]
        if !configuration.tiedEmbeddings { names.insert("lm_head.weight") }
        for layer in 0..<configuration.layers {
            for (module, _) in configuration.norms { names.insert("\(TransformerConfiguration.layers).\(layer).\(module).weight") }
            for shape in configuration.linears {
                for parameter in ["weight", "bias"] { names.insert("\(shape.path(layer: layer)).\(parameter)") }
            }
        }
        return names
    }

    private func checkFinite(compute: Compute, path: String) throws(TransformerError) {
        var matrices = [embedding] + blocks.flatMap(\.linears)
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
        let files: ModelWeights
        let substitutes: [String: WeightMatrix]

        func has(_ name: String) -> Bool { substitutes[name] != nil || files.tensors[name] != nil }

        func matrix(_ name: String, _ rows: Int, _ columns: Int) throws -> WeightMatrix {
            try weight(name, [rows, columns])
        }

        func vector(_ name: String, _ count: Int) throws -> FloatView {
            let values = try weight(name, [count]).floats()
            guard let index = values.firstIndex(where: { !$0.isFinite }) else {
                let buffer = FloatBuffer(count: count)
                buffer.view.copy(from: values)
                return buffer.view
            }
            throw TransformerError(
                .notFinite, path: files.path, tensor: name, "the element \(index) is NaN or infinite; the model is damaged, fetch it again")
        }

        private func weight(_ name: String, _ shape: [Int]) throws -> WeightMatrix {
            if let substitute = substitutes[name] {
                let found = shape.count == 1 ? [substitute.columns] : [substitute.rows, substitute.columns]
                guard found == shape else { throw wrongShape(name, found, shape) }
                return substitute
            }
            guard let stored = files.tensors[name] else {
                throw TransformerError(
                    .missingTensor, path: files.path, tensor: name,
                    "the configuration calls for it and the weights do not hold it; the folder is incomplete or the configuration belongs to another model"
                )
            }
            guard stored.shape == shape else { throw wrongShape(name, stored.shape, shape) }
            guard let matrix = try WeightMatrix(stored) else {
                throw TransformerError(
                    .unsupportedDType, path: files.path, tensor: name,
                    "weights of type \(stored.dtype) cannot be trained on; F32, BF16 and F16 can")
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

/// The weights of one block.
struct BlockWeights: Sendable {
    /// In the order of `TransformerConfiguration.linears`.
    let linears: [WeightMatrix]
    let biases: [FloatView?]
    /// By their modules in the block.
    let norms: [String: FloatView]

    /// - Precondition: the configuration has the norm.
    func norm(_ module: String) -> FloatView {
        guard let weight = norms[module] else { preconditionFailure("the block has no norm \(module)") }
        return weight
    }

    func linear(_ number: Int, layer: Int, kept: PartContext.Linear.Kept) -> PartContext.Linear {
        .init(number: number, layer: layer, weight: linears[number], bias: biases[number], kept: kept)
    }
}

extension WeightMatrix {
    /// A weight where it lies; one that is decoded from codes in F32, in memory.
    ///
    /// - Returns: `nil` for a type that models do not run in, or another number of dimensions than one or two.
    /// - Throws: `FileError`.
    fileprivate init?(_ weight: StoredWeight) throws(FileError) {
        if let range = weight.plainRange {
            self.init(
                file: weight.file, info: TensorInfo(name: weight.name, dtype: weight.dtype, shape: weight.shape, byteRange: range))
            return
        }
        guard weight.dtype == .f32, (1...2).contains(weight.shape.count) else { return nil }
        let values = FloatBuffer(count: weight.elementCount).view
        // A few rows at a time, so that only the numbers themselves are whole in memory.
        let step = max(1, Self.decodedElements / max(1, weight.shape.last ?? 1)) * (weight.shape.last ?? 1)
        var buffer: [UInt8] = []
        for start in stride(from: 0, to: weight.elementCount, by: max(1, step)) {
            let elements = start..<min(start + step, weight.elementCount)
            try weight.read(bytes: weight.bytes(of: elements), into: &buffer)
            // Sound: every bit pattern of a byte may be read as a raw byte.
            values[elements].copy(fromBytes: unsafe buffer.span.bytes.extracting(0..<4 * elements.count))
        }
        self.init(name: weight.name, shape: weight.shape, values: values)
    }

    private static var decodedElements: Int { 1 << 16 }
}
