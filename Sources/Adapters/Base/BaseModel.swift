internal import FileIO
public import JSON
internal import Kernels
internal import OrderedCollections
public import Safetensors
internal import Synchronization
internal import Tensors

/// The model that adapters are merged into: its tensors, its configuration, and where in it the modules of an adapter lie.
///
/// Adapters name the modules of a model as it is in memory. The files may name them otherwise: without the name of the inner
/// model (`h.0.attn` for `transformer.h.0.attn`) or with it, and with a tensor for each expert where there is one for all in
/// memory.
public struct BaseModel: Sendable {
    public let files: WeightFiles
    /// `config.json` beside the weights of a model folder.
    public let configuration: JSONValue?
    /// The tensors that are one, wherever an embedding and a head are.
    public let ties: [Tie]
    /// The first components of the names of tensors.
    private let outerNames: Set<Substring>
    private let modules: LazyModuleIndex

    /// The index of modules, made when a name is first looked up that is not one of the files'.
    private final class LazyModuleIndex: Sendable {
        private let made = Mutex<ModuleIndex?>(nil)

        func value(_ files: WeightFiles) -> ModuleIndex {
            made.withLock { made in
                let index = made ?? ModuleIndex(files)
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
        files = try WeightFiles(path: path)
        configuration = try Self.configuration(of: path)
        ties = Self.ties(of: files, configuration: configuration)
        modules = LazyModuleIndex()
        outerNames = Set(files.tensors.keys.lazy.compactMap { $0.split(separator: ".", maxSplits: 1).first })
    }

    /// The file or folder that was opened.
    public var path: String { files.path }

    private static func configuration(of base: String) throws -> JSONValue? {
        FileSystem.isFolder(base) ? try configuration(at: FileSystem.join(base, configurationName)) : nil
    }

    /// A `config.json`, if it is there.
    static func configuration(at path: String) throws -> JSONValue? {
        guard FileSystem.exists(path) else { return nil }
        do {
            return try JSONValue(parsing: try FileSystem.contents(of: path, limit: maximumConfigurationBytes))
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
        let wanted = FileSystem.lastComponent(name).lowercased()
        return [own, path].contains { FileSystem.lastComponent($0).lowercased() == wanted }
    }

    // MARK: Names

    /// The name under which the merged model holds a tensor that an adapter names; `nil` if the base has no such tensor.
    public func resolve(_ name: String) -> String? {
        if files.tensors[name] != nil { return name }
        if let known = tiedName(name) ?? nameBesideExperts(name) { return known }
        // The files of the inner model, or of the whole one where the adapter was trained on the inner one.
        if let dot = name.firstIndex(of: "."), case let inner = String(name[name.index(after: dot)...]),
            files.tensors[inner] != nil
        {
            return inner
        }
        let outer = outerNames.map { "\($0).\(name)" }.filter { files.tensors[$0] != nil }
        // Of several none is the one that is meant.
        return outer.count == 1 ? outer[0] : nil
    }

    /// What the merged model's tensor `name` is made from; for a tied matrix of which the files have another name that one.
    ///
    /// - Precondition: `resolve` gave the name.
    func source(of name: String) -> WeightFiles.Location? {
        files.tensors[name] ?? tie(of: name).flatMap { files.tensors[$0.source] }
    }

    // MARK: Updates

    /// Where a module of an adapter meets the tensors of the model.
    ///
    /// - Parameters:
    ///   - weight: what the user multiplies the adapter by.
    ///   - replaced: values that take the place of the model's, by the tensor's name.
    /// - Throws: `MergeError`: `.moduleNotInBase`, `.shapeMismatch`, `.unsupportedDType`, `.invalidScale`.
    public func updates(
        of module: AdapterModule, weight: Double, adapter: String, replaced: [String: WeightFiles.Location] = [:]
    ) throws(MergeError) -> [TensorUpdate] {
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
        if module.kind == .experts { return try expertUpdates(of: module, scale: scale, adapter: adapter) }
        let placement = Placement(model: self, module: module, scale: scale, adapter: adapter, replaced: replaced)
        var updates = try placement.weightUpdates()
        if let bias = module.bias { updates.append(try placement.biasUpdate(bias)) }
        return updates
    }

    /// The matrices that a module of an adapter updates: one, or those that make it, one below the other.
    func places(of module: AdapterModule) -> [ModuleIndex.Place] {
        if let name = resolve(module.parameterName) { return [.init(tensor: name, component: nil, relation: .whole, module: module.path.text)] }
        return module.parameter == "weight" ? modules.value(files).places(of: module.path.text, component: module.component) : []
    }

    /// The tensor that an adapter names, in a type that can be merged.
    func tensor(
        _ wanted: String, adapter: String, replaced: [String: WeightFiles.Location] = [:]
    ) throws(MergeError) -> (name: String, info: TensorInfo) {
        guard let name = resolve(wanted), let info = (replaced[name] ?? source(of: name))?.info else {
            throw MergeError(.moduleNotInBase, path: adapter, tensor: wanted, missing(wanted))
        }
        guard MergeKernel.supports(info.dtype) else {
            throw MergeError(
                .unsupportedDType, path: path, tensor: name,
                "a weight in \(info.dtype) cannot be merged; F32, BF16, F16 and F64 can, so convert the base first")
        }
        return (name, info)
    }

    func missing(_ name: String) -> String {
        let similar = files.tensors.keys.first { $0.hasSuffix("." + name) || name.hasSuffix("." + $0) }
        let hint = similar.map { "the nearest is \($0)" } ?? "the adapter belongs to another model"
        return "the base holds no tensor of this name; \(hint)"
    }
}
