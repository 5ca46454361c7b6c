internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// State dictionaries of the first author's PyTorch prototype of OP-LoRA and OP-DoRA, which reading collapses: the last chapter of
/// `formats/op-lora.md`.
enum OpLoRAPrototype {
    private static let parts = [
        "hypernetwork.mlp.0.weight", "hypernetwork.mlp.0.bias", "hypernetwork.mlp.2.weight", "hypernetwork.mlp.2.bias", "hypernetwork.mlp_A.weight",
        "hypernetwork.mlp_A.bias", "hypernetwork.mlp_B.weight", "hypernetwork.mlp_B.bias", "hypernetwork.mlp_C.weight", "hypernetwork.mlp_C.bias",
        "input_vector", "rescale", "weight_m_wdecomp.weight",
    ]
    private static let trunkParts: Set<String> = ["hypernetwork.mlp.0.weight", "hypernetwork.mlp.0.bias", "input_vector"]
    private static let scale = 2.0

    static func claims(_ file: SafetensorsFile) -> Bool {
        file.tensors.keys.prefix(Adapter.claimedNames).contains { $0.contains(".hypernetwork.mlp") }
    }

    /// - Parameters:
    ///   - base: what tells the shapes of the weights; OP-LoRA needs it.
    ///   - alpha: OP-DoRA's, which the file does not hold.
    /// - Throws: `AdapterError`.
    static func read(_ file: SafetensorsFile, path: String, base: BaseModel?, alpha: Double?) throws(AdapterError) -> Adapter {
        var tensors = ModuleTensors(file: file)
        for tensor in file.tensors.values {
            let name = tensor.name.hasPrefix(PEFT.keyPrefix) ? tensor.name.dropFirst(PEFT.keyPrefix.count) : Substring(tensor.name)
            guard let part = parts.first(where: { name.hasSuffix("." + $0) }) else {
                throw AdapterError(
                    .unexpectedTensor, path: file.path, subject: tensor.name,
                    "the key is none of those of the prototype's hypernetworks; nothing of an adapter may be left out")
            }
            try tensors.add(tensor, module: String(name.dropLast(part.count + 1)), part: part)
        }
        var modules: [AdapterModule] = []
        for name in tensors.modules.keys {
            let hasHeads = tensors.modules[name]?["hypernetwork.mlp_A.weight"] != nil
            modules.append(try hasHeads ? decomposed(name, tensors, alpha: alpha) : plain(name, tensors, base: base))
        }
        return Adapter(
            path: path, dialect: .opLoRA, weightsPath: file.path, baseModel: nil, targets: [], taskType: "CAUSAL_LM", modules: modules)
    }

    private static func trunk(_ name: String, _ tensors: ModuleTensors) throws(AdapterError) -> Hypernetwork {
        try Hypernetwork(
            z: try tensors.tensor(name, "input_vector", dimensions: 2).matrix,
            weight: try tensors.tensor(name, "hypernetwork.mlp.0.weight", dimensions: 2).matrix,
            bias: try tensors.tensor(name, "hypernetwork.mlp.0.bias", dimensions: 1).matrix, path: tensors.file.path)
    }

    private static func head(_ head: String, of name: String, _ trunk: Hypernetwork, _ tensors: ModuleTensors) throws(AdapterError) -> [Float] {
        try trunk.head(
            weight: try tensors.tensor(name, "hypernetwork.\(head).weight", dimensions: 2).matrix,
            bias: try tensors.tensor(name, "hypernetwork.\(head).bias", dimensions: 1).matrix)
    }

    private static func module(
        _ name: String, a: [Float], b: [Float], rank: Int, alpha: Double, scale: Double, magnitude: FactorMatrix? = nil, path file: String
    ) throws(AdapterError) -> AdapterModule {
        guard let path = ModulePath(name) else { throw AdapterError(.unexpectedTensor, path: file, subject: name, "this is not a module's name") }
        // There A is [in, rank] and B [rank, out].
        let factors = LowRankFactors(
            a: FactorMatrix(name: name + ".lora_A", rows: a.count / rank, columns: rank, values: a).transposed,
            b: FactorMatrix(name: name + ".lora_B", rows: rank, columns: b.count / rank, values: b).transposed)
        return AdapterModule(path: path, kind: .linear, factors: [factors], alpha: alpha, scale: scale, magnitude: magnitude.map { .ofRows($0) })
    }

    private static func plain(_ name: String, _ tensors: ModuleTensors, base: BaseModel?) throws(AdapterError) -> AdapterModule {
        let file = tensors.file.path
        try tensors.require(trunkParts.union(["hypernetwork.mlp.2.weight", "hypernetwork.mlp.2.bias", "rescale"]), of: name)
        guard let base else {
            throw AdapterError(
                .unsupportedFeature, path: file, subject: name,
                "how much of the prototype's output is A, only the shape of the weight tells",
                cause: .needsCollapsingWithBase)
        }
        let values = try head("mlp.2", of: name, try trunk(name, tensors), tensors)
        guard let tensor = base.resolve(name + ".weight"), let shape = base.source(of: tensor)?.shape, shape.count == 2 else {
            throw AdapterError(.invalidShape, path: file, subject: name, "the base has no matrix of this name; the file belongs to another model")
        }
        let width = shape[0] + shape[1]
        guard width > 0, values.count % width == 0, values.count >= width else {
            throw AdapterError(
                .invalidShape, path: file, subject: name,
                "\(values.count) outputs are no whole number of ranks of a weight \(describe(shape: shape)); the file belongs to another model")
        }
        let rank = values.count / width
        guard let info = tensors.modules[name]?["rescale"] else { preconditionFailure("the parts have been checked") }
        let rescale = try Kohya.scalar(info, in: tensors.file)
        let b = values[(rank * shape[1])...].map { Float(Double($0) * rescale) }
        return try module(
            name, a: Array(values[..<(rank * shape[1])]), b: b, rank: rank, alpha: scale * Double(rank), scale: scale, path: file)
    }

    private static func decomposed(_ name: String, _ tensors: ModuleTensors, alpha: Double?) throws(AdapterError) -> AdapterModule {
        let file = tensors.file.path
        let heads = ["A", "B", "C"].flatMap { ["hypernetwork.mlp_\($0).weight", "hypernetwork.mlp_\($0).bias"] }
        try tensors.require(trunkParts.union(heads + ["weight_m_wdecomp.weight"]), of: name)
        guard let alpha else {
            throw AdapterError(
                .unsupportedFeature, path: file, subject: name,
                "the prototype's file does not hold the alpha of an OP-DoRA", cause: .needsCollapsingWithAlpha)
        }
        let trunk = try trunk(name, tensors)
        let a = try head("mlp_A", of: name, trunk, tensors)
        let b = try head("mlp_B", of: name, trunk, tensors)
        let change = try head("mlp_C", of: name, trunk, tensors)
        let outputs = change.count
        guard b.count % outputs == 0, case let rank = b.count / outputs, rank > 0, a.count % rank == 0, !a.isEmpty else {
            throw AdapterError(
                .invalidShape, path: file, subject: name,
                "heads of \(a.count), \(b.count) and \(outputs) outputs are not those of A, B and the magnitude of one module")
        }
        let norm = try tensors.tensor(name, "weight_m_wdecomp.weight", dimensions: 2).matrix
        return try module(
            name, a: a, b: b, rank: rank, alpha: alpha, scale: alpha / Double(rank),
            magnitude: try OpLoRA.sum(norm, change, outputs: outputs, path: file), path: file)
    }
}
