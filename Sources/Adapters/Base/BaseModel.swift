internal import Families
internal import FileIO
public import JSON
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Synchronization
public import Tensors
public import Weights

/// The model that adapters are merged into: its tensors, its configuration, and where in it the modules of an adapter lie.
///
/// Adapters name the modules of a model as it is in memory, now or at an earlier release. The files may name them otherwise (`MemoryNames`):
/// without the name of the inner model (`h.0.attn` for `transformer.h.0.attn`) or with it, after another fashion, and with a tensor for each
/// expert where there is one for all in memory.
public struct BaseModel: Sendable {
    public let files: ModelWeights
    /// `config.json` beside the weights of a model folder.
    public let configuration: JSONValue?
    /// The tensors that are one, wherever an embedding and a head are.
    public let ties: [Tie]
    private let outer: Lazy<Set<Substring>>
    /// The tensors by the names that adapters may give them, and the modules by those that tools give them.
    let memory: Lazy<MemoryIndex>
    let modules: Lazy<ModuleIndex>
    private let inMemory: Lazy<MemoryNames?>
    /// The family of the model. `nil` where the table has no row for it.
    let family: ModelFamily?
    /// The families of the model and of its parts.
    let families: [ModelFamily]
    /// What is stored as codes with scales.
    var quantization: QuantizedWeights { files.quantization }

    /// An index that is made when a name is first looked up that is not one of the files'.
    final class Lazy<Index: Sendable>: Sendable {
        private let made = Mutex<Index?>(nil)
        private let make: @Sendable () -> Index

        init(_ make: @escaping @Sendable () -> Index) { self.make = make }

        var value: Index {
            made.withLock { made in
                let index = made ?? make()
                made = index
                return index
            }
        }
    }

    static let configurationName = "config.json"
    /// The largest `config.json` that is read, in bytes.
    private static let maximumConfigurationBytes = 16_000_000

    /// - Parameter path: a model folder or one safetensors file.
    /// - Throws: `SafetensorsError`, `FileError`, or `MergeError.invalidConfiguration`.
    public init(path: String) throws {
        let files = try ModelWeights(path: path)
        try files.requireSafetensors(
            "the base is a GGUF file, which is not read as a base yet; name the model that it was made from, in safetensors, and convert what is merged with llama.cpp"
        )
        self.init(files, configuration: try Self.configuration(of: path))
    }

    private init(_ files: ModelWeights, configuration: JSONValue?) {
        let ties = Self.ties(of: files, configuration: configuration)
        (self.files, self.configuration, self.ties) = (files, configuration, ties)
        memory = Lazy { MemoryIndex(files, configuration: configuration, absent: Self.absentNames(of: ties, in: files)) }
        modules = Lazy { ModuleIndex(files) }
        inMemory = Lazy { configuration?["model_type"] != nil && !files.isPipeline ? MemoryNames(configuration) : nil }
        family = ModelFamilies.family(of: configuration?["model_type"]?.stringValue ?? "")
        families = ModelFamilies.families(of: MemoryNames.models(in: configuration))
        outer = Lazy { Set(files.tensors.keys.lazy.compactMap { $0.split(separator: ".", maxSplits: 1).first }) }
    }

    /// The same model with the codes and scales of quantized weights as they are stored.
    var withCodes: BaseModel { files.isDecoded ? BaseModel(files.withCodes, configuration: configuration) : self }

    /// The element type that the model's numbers have, as far as its configuration says it: what takes the place of codes.
    public var statedType: DType {
        files.quantization.elementTypes.lazy.compactMap { DType.writable(named: $0) }.first ?? .bf16
    }

    /// The modules by every name that a tool may give them.
    var index: ModuleIndex { modules.value }

    /// What its modules are called in memory; `nil` where the family is not known.
    var memoryNames: MemoryNames? { inMemory.value }

    /// The first components of the names of tensors.
    var outerNames: Set<Substring> { outer.value }

    /// The file or folder that was opened.
    public var path: String { files.path }

    static func configuration(of base: String) throws -> JSONValue? {
        FileSystem.isFolder(base) ? try configuration(at: FileSystem.join(base, configurationName)) : nil
    }

    /// A `config.json`, if it is there.
    static func configuration(at path: String) throws -> JSONValue? {
        guard FileSystem.exists(path) else { return nil }
        do {
            return try JSONValue(configuration: try FileSystem.contents(of: path, limit: maximumConfigurationBytes))
        } catch let error as JSONError {
            throw MergeError(.invalidConfiguration, path: path, "\(error)")
        }
    }

    /// Whether a model is a causal language model; `nil` where its configuration does not say.
    private static func isCausal(_ configuration: JSONValue?) -> Bool? {
        let names = configuration?["architectures"]?.arrayValue?.compactMap(\.stringValue) ?? []
        return names.isEmpty ? nil : names.contains { $0.hasSuffix("ForCausalLM") || $0.hasSuffix("LMHeadModel") }
    }

    /// Whether the model is known to be none that continues a text.
    var isNotCausal: Bool { Self.isCausal(configuration) == false }

    /// Whether an adapter that names the model that it was trained on may mean this one: by the end of the name, where
    /// both are known.
    func mayBe(_ name: String) -> Bool {
        guard let own = configuration?["_name_or_path"]?.stringValue, !own.isEmpty, !name.isEmpty else { return true }
        let wanted = ModelName(name)
        return [own, path].contains { ModelName($0) == wanted }
    }

    /// What the base calls itself, in its configuration or in a hub's cache, where that is not what an adapter says to be trained on.
    func ownName(unlike name: String) -> String? {
        let own = [configuration?["_name_or_path"]?.stringValue, ModelName(path).cached].compactMap(\.self).filter { !$0.isEmpty }
        guard !name.isEmpty, let first = own.first, !(own + [path]).contains(where: { ModelName($0) == ModelName(name) }) else { return nil }
        return ModelName(first).cached ?? first
    }

    // MARK: Updates

    /// Where a module of an adapter meets the tensors of the model.
    ///
    /// - Parameters:
    ///   - weight: what the user multiplies the adapter by.
    ///   - replaced: values that take the place of the model's, by the tensor's name.
    /// - Throws: `MergeError`: `.moduleNotInBase`, `.shapeMismatch`, `.unsupportedDType`, `.invalidScale`.
    public func updates(
        of module: AdapterModule, weight: Double, adapter: String, replaced: [String: StoredWeight] = [:]
    ) throws(MergeError) -> [TensorUpdate] {
        try requireComponent(of: module, adapter: adapter)
        let scale = module.scale * weight
        guard scale.isFinite else {
            throw MergeError(
                .invalidScale, path: adapter, tensor: module.parameterName, "scale \(module.scale) times weight \(weight) is not finite")
        }
        if module.magnitude != nil, weight != 1 {
            throw MergeError(
                .unsupportedCombination, path: adapter, tensor: module.parameterName,
                "the module has a magnitude (DoRA), which cannot be weighted by \(weight); merge it with weight 1")
        }
        if weight != 1, let update = module.updates.first(where: { !$0.isSum }) {
            throw MergeError(
                .unsupportedCombination, path: adapter, tensor: module.parameterName,
                "what \(type(of: update).name) does to a weight is no sum, and cannot be weighted by \(weight); merge it with weight 1")
        }
        if module.kind == .experts { return try expertUpdates(of: module, scale: scale, adapter: adapter) }
        let placement = Placement(model: self, module: module, scale: scale, adapter: adapter, replaced: replaced)
        var updates = try placement.weightUpdates()
        if let bias = module.bias { updates.append(try placement.biasUpdate(bias)) }
        if let bias = module.update.ofBias { updates += try placement.updateOfBias(bias) }
        return updates
    }
}
