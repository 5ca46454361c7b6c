internal import FileIO
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// The dialect of the PEFT library: a folder with `adapter_config.json` and `adapter_model.safetensors`.
///
/// Source: PEFT 0.21, `PeftConfigMixin.save_pretrained`, `get_peft_model_state_dict` and `get_pattern_key`.
public enum PEFT {
    public static let weightsName = "adapter_model.safetensors"
    public static let configurationName = PEFTConfiguration.fileName
    static let keyPrefix = "base_model.model."

    /// Opens an adapter. Every tensor of the file is part of a module, or the error names it.
    ///
    /// - Parameter path: the folder, or the safetensors file in it.
    /// - Throws: `AdapterError`, `SafetensorsError` or `FileError`.
    public static func read(path: String) throws -> Adapter {
        let status = try FileSystem.status(of: path)
        let folder = status.isFolder ? path : FileSystem.parent(of: path)
        let configurationPath = FileSystem.join(folder, configurationName)
        let weightsPath = status.isFolder ? FileSystem.join(path, weightsName) : path
        guard FileSystem.exists(configurationPath) else {
            if status.isFolder {
                throw AdapterError(
                    .unknownDialect, path: path, "the folder has no \(configurationName); name the folder of an adapter that PEFT wrote")
            }
            throw AdapterError(
                .missingFile, path: path, "there is no \(configurationName) beside the file, and without it the scale is not known")
        }
        guard FileSystem.exists(weightsPath) else {
            let isPickled = FileSystem.exists(FileSystem.join(folder, "adapter_model.bin"))
            throw AdapterError(
                .missingFile, path: path,
                isPickled
                    ? "the weights are a pickle (adapter_model.bin), which is not read; save the adapter again as safetensors"
                    : "the folder has no \(weightsName)")
        }
        let configuration = try PEFTConfiguration(path: configurationPath)
        let (modules, remarks) = try modules(of: SafetensorsFile(path: weightsPath), configuration: configuration)
        return Adapter(
            path: path, dialect: .peft, weightsPath: weightsPath, baseModel: configuration.baseModel, targets: configuration.targets,
            modules: modules, remarks: remarks)
    }

    /// A tensor's key, taken apart.
    private enum Key {
        case loraA(ModulePath)
        case loraB(ModulePath)

        init(_ name: String, path: String) throws(AdapterError) {
            func unexpected(_ why: String) -> AdapterError { AdapterError(.unexpectedTensor, path: path, subject: name, why) }
            func unsupported(_ what: String) -> AdapterError {
                AdapterError(.unsupportedFeature, path: path, subject: name, "\(what) is not supported; nothing of an adapter may be left out")
            }
            guard name.hasPrefix(PEFT.keyPrefix) else {
                throw unexpected("a tensor of a PEFT adapter begins with \(PEFT.keyPrefix)")
            }
            let rest = name.dropFirst(PEFT.keyPrefix.count)
            func module(before suffix: String) throws(AdapterError) -> ModulePath {
                let stem = rest.dropLast(suffix.count)
                // PEFT nests a second adapted parameter of one module, and whatever it wraps, under this name.
                guard let path = ModulePath(stem), !path.components.contains("base_layer") else {
                    throw unsupported("an adapter of the module \(stem), which wraps another,")
                }
                return path
            }
            if rest.hasSuffix(".lora_A.weight") {
                self = .loraA(try module(before: ".lora_A.weight"))
            } else if rest.hasSuffix(".lora_B.weight") {
                self = .loraB(try module(before: ".lora_B.weight"))
            } else if rest.contains(".lora_embedding_A") || rest.contains(".lora_embedding_B") {
                throw unsupported("an adapter of an embedding")
            } else if rest.contains(".lora_magnitude_vector") {
                throw unsupported("a DoRA magnitude")
            } else if rest.hasSuffix(".lora_B.bias") || rest.hasSuffix(".lora_A.bias") {
                throw unsupported("a bias on a factor")
            } else if rest.contains("trainable_tokens_") {
                throw unsupported("a set of trained token embeddings")
            } else if rest.contains(".base_layer.") {
                throw unsupported("a stored tensor of the base layer")
            } else if rest.contains(".lora_") {
                throw unexpected("the key is none of those of a plain LoRA adapter")
            } else {
                throw unsupported("a whole module saved beside the factors")
            }
        }
    }

    private static func modules(of file: SafetensorsFile, configuration: PEFTConfiguration) throws(AdapterError) -> ([AdapterModule], [String]) {
        var factorsA: OrderedDictionary<ModulePath, FactorMatrix> = [:]
        var factorsB: [ModulePath: FactorMatrix] = [:]
        for (name, tensor) in file.tensors {
            let key = try Key(name, path: file.path)
            guard MergeKernel.supports(tensor.dtype) else {
                throw AdapterError(
                    .unsupportedDType, path: file.path, subject: name, "a factor in \(tensor.dtype) is not supported; F32, BF16, F16 and F64 are")
            }
            guard tensor.shape.count == 2 else {
                throw AdapterError(
                    tensor.shape.count > 2 ? .unsupportedFeature : .invalidShape, path: file.path, subject: name,
                    "its shape \(describe(shape: tensor.shape)) is not that of a matrix; adapters of convolutions are not supported")
            }
            let matrix = FactorMatrix(tensor, in: file)
            switch key {
            case .loraA(let module): factorsA[module] = matrix
            case .loraB(let module): factorsB[module] = matrix
            }
        }
        var modules: [AdapterModule] = []
        var remarks: [String] = []
        for (path, a) in factorsA {
            guard let b = factorsB.removeValue(forKey: path) else {
                throw AdapterError(.missingFactor, path: file.path, subject: a.name, "the module \(path) has an A and no B")
            }
            guard a.rows == b.columns, a.rows > 0, a.columns > 0, b.rows > 0 else {
                throw AdapterError(
                    .invalidShape, path: file.path, subject: b.name,
                    "B \(describe(shape: b.shape)) and A \(describe(shape: a.shape)) of \(path) cannot be multiplied to an update")
            }
            let configured = configuration.rank(of: path)
            if configured != a.rows {
                remarks.append("\(path): the configuration gives rank \(configured) and the factors have \(a.rows), which counts")
            }
            let alpha = configuration.alpha(of: path)
            let scale = configuration.isRankStabilised ? alpha / Double(a.rows).squareRoot() : alpha / Double(a.rows)
            guard scale.isFinite else {
                throw AdapterError(.invalidScale, path: file.path, subject: path.text, "alpha \(alpha) gives no finite scale")
            }
            modules.append(AdapterModule(path: path, kind: .linear, loraA: a, loraB: b, alpha: alpha, scale: scale))
        }
        if let (path, b) = factorsB.min(by: { $0.key < $1.key }) {
            throw AdapterError(.missingFactor, path: file.path, subject: b.name, "the module \(path) has a B and no A")
        }
        guard !modules.isEmpty else { throw AdapterError(.empty, path: file.path, "the file holds no tensor of an adapter") }
        return (modules, remarks)
    }
}
