internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// Trained hypernetworks in safetensors, which reading collapses: `formats/op-lora.md`.
public enum OpLoRA {
    private static let infix = ".op_lora."
    private static let sharedA = "op_lora.vera_A", sharedB = "op_lora.vera_B"

    /// Whether a file is of this layout.
    static func claims(_ file: SafetensorsFile) -> Bool { file.metadata["format"] == "op-lora" }

    /// Reads and collapses. Every tensor of the file is part of a module, or the error names it.
    ///
    /// - Throws: `AdapterError`.
    static func read(_ file: SafetensorsFile, path: String) throws(AdapterError) -> Adapter {
        func fault(_ code: AdapterError.Code, _ subject: String, _ message: String) -> AdapterError {
            AdapterError(code, path: file.path, subject: subject, message)
        }
        guard file.metadata["version"] == "1" else {
            throw fault(.unsupportedFeature, "version", "version \(file.metadata["version"] ?? "none") of the layout is not known, only 1")
        }
        guard let alpha = file.metadata["alpha"].flatMap(Double.init), alpha.isFinite else {
            throw fault(.invalidConfiguration, "alpha", "the header's alpha must be a finite number and is \(file.metadata["alpha"] ?? "missing")")
        }
        var tensors = ModuleTensors(file: file)
        var shared: [String: TensorInfo] = [:]
        for tensor in file.tensors.values {
            if tensor.name == sharedA || tensor.name == sharedB {
                shared[tensor.name] = tensor
            } else if let range = tensor.name.ranges(of: infix).first, range.lowerBound > tensor.name.startIndex {
                try tensors.add(tensor, module: String(tensor.name[..<range.lowerBound]), part: String(tensor.name[range.upperBound...]))
            } else {
                throw fault(.unexpectedTensor, tensor.name, "the key is none of those of the layout; nothing of an adapter may be left out")
            }
        }
        guard ["true", "false", nil].contains(file.metadata["rank_stabilized"]) else {
            throw fault(
                .invalidConfiguration, "rank_stabilized", "the header's field must be true or false and is \(file.metadata["rank_stabilized"] ?? "")")
        }
        let isRankStabilized = file.metadata["rank_stabilized"] == "true"
        var modules: [AdapterModule] = []
        for name in tensors.modules.keys {
            let isOfVeRA = tensors.modules[name]?["d.weight"] != nil
            modules.append(
                try isOfVeRA
                    ? veraModule(name, tensors, shared: shared) : module(name, tensors, alpha: alpha, isRankStabilized: isRankStabilized))
        }
        guard !modules.isEmpty else { throw AdapterError(.empty, path: file.path, "the file holds no module") }
        if let unused = shared.keys.min(), !modules.contains(where: \.takesInputsOfWeight) {
            throw fault(.unexpectedTensor, unused, "no module of the file is an OP-VeRA, which alone has frozen projections")
        }
        return Adapter(
            path: path, dialect: .opLoRA, weightsPath: file.path, baseModel: file.metadata["base_model_name_or_path"], targets: [],
            taskType: "CAUSAL_LM", modules: modules)
    }

    private static func trunk(_ name: String, _ tensors: ModuleTensors) throws(AdapterError) -> Hypernetwork {
        try Hypernetwork(
            z: try tensors.tensor(name, "z", dimensions: 1).matrix, weight: try tensors.tensor(name, "trunk.weight", dimensions: 2).matrix,
            bias: try tensors.tensor(name, "trunk.bias", dimensions: 1).matrix, path: tensors.file.path)
    }

    private static func path(_ name: String, in file: SafetensorsFile) throws(AdapterError) -> ModulePath {
        guard let path = ModulePath(name) else {
            throw AdapterError(.unexpectedTensor, path: file.path, subject: name, "this is not a module's name")
        }
        return path
    }

    private static func module(
        _ name: String, _ tensors: ModuleTensors, alpha: Double, isRankStabilized: Bool
    ) throws(AdapterError) -> AdapterModule {
        var parts: Set<String> = ["z", "trunk.weight", "trunk.bias", "a.weight", "a.bias", "b.weight", "b.bias"]
        let hasMagnitude = tensors.modules[name]?["m.weight"] != nil
        if hasMagnitude { parts.formUnion(["m.weight", "m.bias", "m.norm"]) }
        try tensors.require(parts, of: name)
        let trunk = try trunk(name, tensors)
        let (a, b) = (try tensors.tensor(name, "a.bias", dimensions: 2), try tensors.tensor(name, "b.bias", dimensions: 2))
        let (rank, inputs, outputs) = (a.shape[0], a.shape[1], b.shape[0])
        guard b.shape[1] == rank else {
            throw AdapterError(
                .invalidShape, path: tensors.file.path, subject: b.matrix.name,
                "A is \(describe(shape: a.shape)) and B \(describe(shape: b.shape)), which cannot be multiplied")
        }
        let loraA = try trunk.head(weight: try tensors.tensor(name, "a.weight", dimensions: 3).matrix, bias: a.matrix)
        let loraB = try trunk.head(weight: try tensors.tensor(name, "b.weight", dimensions: 3).matrix, bias: b.matrix)
        var magnitude: FactorMatrix?
        if hasMagnitude {
            let norm = try tensors.tensor(name, "m.norm", dimensions: 1).matrix
            let change = try trunk.head(
                weight: try tensors.tensor(name, "m.weight", dimensions: 2).matrix, bias: try tensors.tensor(name, "m.bias", dimensions: 1).matrix)
            magnitude = try sum(norm, change, outputs: outputs, path: tensors.file.path)
        }
        let scale = isRankStabilized ? alpha / Double(rank).squareRoot() : alpha / Double(rank)
        return AdapterModule(
            path: try path(name, in: tensors.file), kind: .linear,
            factors: [
                .init(
                    a: FactorMatrix(name: name + ".lora_A", rows: rank, columns: inputs, values: loraA),
                    b: FactorMatrix(name: name + ".lora_B", rows: outputs, columns: rank, values: loraB))
            ], alpha: alpha, scale: scale, magnitude: magnitude.map { .ofRows($0) })
    }

    /// m = norm + Δm, rounded to F32.
    static func sum(_ norm: FactorMatrix, _ change: [Float], outputs: Int, path: String) throws(AdapterError) -> FactorMatrix {
        guard change.count == outputs, norm.rows * norm.columns == outputs else {
            throw AdapterError(
                .invalidShape, path: path, subject: norm.name,
                "there are \(norm.rows * norm.columns) norms and \(change.count) changes of them for \(outputs) outputs")
        }
        return FactorMatrix(name: norm.name, rows: 1, columns: outputs, values: zip(norm.doubles(), change).map { Float($0 + Double($1)) })
    }

    private static func veraModule(_ name: String, _ tensors: ModuleTensors, shared: [String: TensorInfo]) throws(AdapterError) -> AdapterModule {
        let file = tensors.file
        try tensors.require(["z", "trunk.weight", "trunk.bias", "d.weight", "d.bias", "l.weight", "l.bias"], of: name)
        let trunk = try trunk(name, tensors)
        guard let infoA = shared[sharedA], let infoB = shared[sharedB] else {
            throw AdapterError(.missingFactor, path: file.path, subject: name, "the file does not hold the frozen \(sharedA) and \(sharedB)")
        }
        for info in [infoA, infoB] where info.shape.count != 2 || !info.dtype.isFloat {
            throw AdapterError(
                .invalidShape, path: file.path, subject: info.name, "it must be a matrix and is \(info.dtype) \(describe(shape: info.shape))")
        }
        let (a, b) = (FactorMatrix(infoA, in: file), FactorMatrix(infoB, in: file))
        func head(_ part: String) throws(AdapterError) -> FactorMatrix {
            let values = try trunk.head(
                weight: try tensors.tensor(name, part + ".weight", dimensions: 2).matrix,
                bias: try tensors.tensor(name, part + ".bias", dimensions: 1).matrix)
            return FactorMatrix(name: "\(name).\(part)", rows: 1, columns: values.count, values: values)
        }
        let (d, l) = (try head("d"), try head("l"))
        let path = try path(name, in: file)
        do throws(UpdateFault) {
            let update = try VeRA(d: d, b: l, sharedA: a, sharedB: b, module: name)
            return AdapterModule(path: path, kind: .linear, updates: [update], alpha: Double(a.rows), scale: 1)
        } catch {
            throw AdapterError(error, path: file.path)
        }
    }
}
