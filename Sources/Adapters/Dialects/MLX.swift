internal import FileIO
internal import JSON
internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// The dialect of mlx-lm: a folder with `adapter_config.json` and `adapters.safetensors`.
///
/// Factors are transposed against PEFT's: `lora_a` [in, rank] and `lora_b` [rank, out]; those of a layer of experts have the
/// experts in front, `lora_a` [experts, rank, in] and `lora_b` [experts, out, rank]. The scale multiplies directly; there is no
/// alpha.
///
/// Source: mlx-lm 0.32, `tuner/lora.py`, `tuner/dora.py` and `tuner/utils.py`.
public enum MLX {
    public static let weightsName = "adapters.safetensors"
    public static let configurationName = "adapter_config.json"
    /// The largest configuration that is read, in bytes.
    private static let maximumConfigurationBytes = 16_000_000

    /// Whether a folder, or the file in it, is an adapter of this dialect.
    static func claims(_ path: String) -> Bool {
        FileSystem.isFolder(path) ? FileSystem.exists(FileSystem.join(path, weightsName)) : FileSystem.lastComponent(path) == weightsName
    }

    /// Opens an adapter. Every tensor of the file is part of a module, or the error names it.
    ///
    /// - Parameter path: the folder, or the safetensors file in it.
    /// - Throws: `AdapterError`, `SafetensorsError` or `FileError`.
    public static func read(path: String) throws -> Adapter {
        let folder = FileSystem.isFolder(path) ? path : FileSystem.parent(of: path)
        let configurationPath = FileSystem.join(folder, configurationName)
        guard FileSystem.exists(configurationPath) else {
            throw AdapterError(
                .missingFile, path: path, "there is no \(configurationName) beside \(weightsName), and without it the scale is not known")
        }
        let configuration = try Configuration(path: configurationPath)
        let file = try AdapterFile.open(FileSystem.join(folder, weightsName))
        return Adapter(
            path: path, dialect: .mlx, weightsPath: file.path, baseModel: configuration.baseModel, targets: configuration.targets,
            taskType: "CAUSAL_LM", modules: try modules(of: file, configuration: configuration), metadata: file.metadata)
    }

    /// What the configuration says of the arithmetic.
    private struct Configuration {
        let scale: Double
        let usesMagnitudes: Bool
        let baseModel: String?
        let targets: [String]

        init(path: String) throws {
            let root: JSONValue
            do {
                root = try JSONValue(configuration: try FileSystem.contents(of: path, limit: maximumConfigurationBytes))
            } catch let error as JSONError {
                throw AdapterError(.invalidConfiguration, path: path, "\(error)")
            }
            let kind = root["fine_tune_type"]?.stringValue ?? "lora"
            guard kind == "lora" || kind == "dora" else {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: "fine_tune_type",
                    "an adapter of type \(kind) is not supported, only lora and dora; the weights of a full fine-tuning are a model of their own")
            }
            guard let scale = root["lora_parameters"]?["scale"]?.doubleValue, scale.isFinite else {
                throw AdapterError(.invalidConfiguration, path: path, subject: "lora_parameters.scale", "the field must be a finite number")
            }
            self.scale = scale
            usesMagnitudes = kind == "dora"
            baseModel = root["model"]?.stringValue
            targets = root["lora_parameters"]?["keys"]?.arrayValue?.compactMap(\.stringValue) ?? []
        }
    }

    /// What keeps mlx-lm's loader from meeting the tensors of an adapter, though its meaning is clear.
    static func loaderFaults(of adapter: Adapter) -> [String] {
        let folder = FileSystem.parent(of: adapter.weightsPath ?? "")
        guard let text = try? FileSystem.contents(of: FileSystem.join(folder, configurationName), limit: maximumConfigurationBytes),
            let root = try? JSONValue(parsing: text), let parameters = root["lora_parameters"]
        else { return [] }
        var faults: [String] = []
        for field in ["rank", "dropout"] where parameters[field]?.doubleValue == nil {
            faults.append("its loader wants lora_parameters.\(field), and the configuration has none")
        }
        if root["num_layers"]?.integerValue == nil { faults.append("its loader wants num_layers, and the configuration has none") }
        if let rank = parameters["rank"]?.integerValue, let module = adapter.modules.first(where: { $0.rank != rank }) {
            faults.append("the configuration gives rank \(rank) and the factors have \(module.rank), which its loader refuses (\(module.label))")
        }
        let layers = Set(adapter.modules.compactMap { $0.path.components.first { Int($0) != nil } })
        if let count = root["num_layers"]?.integerValue, count > 0, layers.count > count {
            faults.append("num_layers is \(count) and the file has modules of \(layers.count) layers, which its loader refuses")
        }
        if let keys = parameters["keys"]?.arrayValue?.compactMap(\.stringValue) {
            let missing = adapter.modules.first { module in
                let place = nameInFile(of: module)
                return !keys.contains(key(of: place)) && !keys.contains(place)
            }
            if let missing { faults.append("lora_parameters.keys does not name a module of the file, which its loader refuses (\(missing.label))") }
        }
        if let module = adapter.modules.first(where: { $0.path.text.hasPrefix("base_model.") }) {
            faults.append("its loader knows no names that begin with base_model. (\(module.label))")
        }
        if let fault = MLXFamilies.fault(in: adapter.modules.map(\.path.text)) { faults.append(fault) }
        return faults
    }

    /// What only the model tells about names in the file.
    static func loaderRemarks(on adapter: Adapter) -> [String] {
        MLXFamilies.remark(on: adapter.modules.filter { $0.kind != .experts }.map(\.path.text)).map { [$0] } ?? []
    }

    /// The name that a module has in a file of mlx-lm, which for a layer of experts is not that of its path.
    static func nameInFile(of module: AdapterModule) -> String {
        guard module.kind == .experts else { return module.path.text }
        let name = module.factors[0].a.name
        if name.hasSuffix(".lora_a") { return String(name.dropLast(".lora_a".count)) }
        return (module.path.components.dropLast() + ["switch_mlp", Substring(module.parameter)]).joined(separator: ".")
    }

    /// What the file holds for one module.
    private struct Parts {
        var a: TensorInfo?
        var b: TensorInfo?
        var magnitude: TensorInfo?
    }

    private static func modules(of file: SafetensorsFile, configuration: Configuration) throws(AdapterError) -> [AdapterModule] {
        func fault(_ code: AdapterError.Code, _ subject: String, _ message: String) -> AdapterError {
            AdapterError(code, path: file.path, subject: subject, message)
        }
        var parts: OrderedDictionary<ModulePath, Parts> = [:]
        for tensor in file.tensors.values {
            guard tensor.dtype.isFloat else {
                throw fault(.unsupportedDType, tensor.name, "a factor in \(tensor.dtype) is not supported; F32, BF16, F16 and F64 are")
            }
            guard let dot = tensor.name.lastIndex(of: "."), let path = ModulePath(tensor.name[..<dot]) else {
                throw fault(.unexpectedTensor, tensor.name, "the key is none of those of an adapter of mlx-lm")
            }
            switch tensor.name[tensor.name.index(after: dot)...] {
            case "lora_a": parts[path, default: Parts()].a = tensor
            case "lora_b": parts[path, default: Parts()].b = tensor
            case "m" where configuration.usesMagnitudes: parts[path, default: Parts()].magnitude = tensor
            default:
                throw fault(.unexpectedTensor, tensor.name, "the key is none of those of an adapter of mlx-lm; nothing of an adapter may be left out")
            }
        }
        guard !parts.isEmpty else { throw AdapterError(.empty, path: file.path, "the file holds no tensor of an adapter") }
        return try parts.map { path, part throws(AdapterError) in
            guard let a = part.a, let b = part.b else {
                let found = part.a ?? part.b ?? part.magnitude
                throw fault(
                    .missingFactor, found?.name ?? path.text, "the module \(path) has \(part.a == nil ? "no lora_a" : "a lora_a and no lora_b")")
            }
            guard a.shape.count == b.shape.count, a.shape.allSatisfy({ $0 > 0 }), b.shape.allSatisfy({ $0 > 0 }) else {
                throw fault(.invalidShape, b.name, "lora_a \(describe(shape: a.shape)) and lora_b \(describe(shape: b.shape)) cannot be multiplied")
            }
            switch a.shape.count {
            case 2 where a.shape[1] == b.shape[0]:
                return try plainModule(path, FactorMatrix(a, in: file), FactorMatrix(b, in: file), part.magnitude, configuration, file: file)
            case 3 where a.shape[0] == b.shape[0] && a.shape[1] == b.shape[2] && part.magnitude == nil:
                return try experts(path, a, b, configuration, file: file)
            default:
                throw fault(.invalidShape, b.name, "lora_a \(describe(shape: a.shape)) and lora_b \(describe(shape: b.shape)) cannot be multiplied")
            }
        }
    }

    private static func plainModule(
        _ path: ModulePath, _ a: FactorMatrix, _ b: FactorMatrix, _ magnitude: TensorInfo?, _ configuration: Configuration, file: SafetensorsFile
    ) throws(AdapterError) -> AdapterModule {
        let isEmbedding = BaseModel.isEmbedding(path.weightName)
        guard (magnitude != nil) == configuration.usesMagnitudes else {
            throw AdapterError(.missingFactor, path: file.path, subject: path.text, "the configuration asks for DoRA and the module has no magnitude")
        }
        if let magnitude {
            // mlx-lm takes the norms of an embedding over each token, and not over each dimension as PEFT does.
            guard !isEmbedding else {
                throw AdapterError(.unsupportedFeature, path: file.path, subject: magnitude.name, "a DoRA magnitude of an embedding is not supported")
            }
            guard magnitude.shape == [b.columns] else {
                throw AdapterError(
                    .invalidShape, path: file.path, subject: magnitude.name,
                    "its shape is \(describe(shape: magnitude.shape)) and the module \(path) has \(b.columns) outputs")
            }
        }
        return AdapterModule(
            path: path, kind: isEmbedding ? .embedding : .linear, factors: [.init(a: a.transposed, b: b.transposed)],
            alpha: configuration.scale * Double(a.columns), scale: configuration.scale,
            magnitude: magnitude.map { .ofRows(FactorMatrix($0, in: file)) })
    }

    /// A layer of experts, which mlx-lm mostly calls `switch_mlp`, and has one matrix of each kind in.
    private static func experts(
        _ path: ModulePath, _ a: TensorInfo, _ b: TensorInfo, _ configuration: Configuration, file: SafetensorsFile
    ) throws(AdapterError) -> AdapterModule {
        var components = path.components
        let parameter = components.removeLast()
        guard let owner = MLXFamilies.experts(at: components).flatMap({ ModulePath($0.joined(separator: ".")) }) else {
            throw AdapterError(
                .unsupportedFeature, path: file.path, subject: a.name,
                "a layer of experts that is not called switch_mlp, switch_glu or experts is not supported")
        }
        let (allA, allB) = (FactorMatrix(a, in: file), FactorMatrix(b, in: file))
        let (rank, inputs, outputs) = (a.shape[1], a.shape[2], b.shape[1])
        let factors = (0..<a.shape[0]).map { expert in
            LowRankFactors(
                a: allA.rows(from: expert, count: 1).reshaped(rows: rank, columns: inputs),
                b: allB.rows(from: expert, count: 1).reshaped(rows: outputs, columns: rank))
        }
        return AdapterModule(
            path: owner, parameter: String(parameter), kind: .experts, factors: factors, alpha: configuration.scale * Double(rank),
            scale: configuration.scale)
    }
}
