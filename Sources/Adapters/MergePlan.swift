internal import FileIO
internal import JSON
internal import Kernels
internal import OrderedCollections
public import Safetensors
public import Tensors

/// An adapter and what its scales are multiplied by.
public struct WeightedAdapter: Sendable {
    public let adapter: Adapter
    public let weight: Double

    public init(_ adapter: Adapter, weight: Double = 1) {
        self.adapter = adapter
        self.weight = weight
    }
}

/// A merge that has been checked against all its inputs and has written nothing yet.
///
/// The merged weight of a module is W′ = round(W + s₁·(B₁A₁) + s₂·(B₂A₂) + …), the adapters from left to right, computed in
/// binary64 and rounded once (see `MergeKernel`); s is the module's scale times the adapter's weight. Tensors that no
/// adapter touches, and those whose update has an all-zero B, keep their bytes.
public struct MergePlan: Sendable {
    public let base: WeightFiles
    public let adapters: [WeightedAdapter]
    /// The element type asked for; `nil` keeps each tensor's own. Only F32, BF16, F16 and F64 tensors change.
    public let dtype: DType?
    /// The tensors of all shards, in the order in which they will be written.
    let jobs: [TensorJob]
    /// `config.json` of the base with its element type changed; `nil` where it is copied as it is.
    let configuration: JSONValue?

    static let configurationName = "config.json"
    /// The largest `config.json` that is read, in bytes.
    private static let maximumConfigurationBytes = 16_000_000
    /// Widened factors are kept between the check and the merge up to this size, in bytes; above it they are made twice.
    private static let keptFactorBytes = 1 << 28

    /// Opens the base and checks that the merge is possible: every module has a weight that its factors fit, every factor
    /// is finite, every element type is one that can be merged.
    ///
    /// - Parameters:
    ///   - base: a model folder or one safetensors file.
    ///   - adapters: in the order in which they are added.
    ///   - dtype: F32, BF16 or F16 for the merged model, or `nil`.
    /// - Throws: `MergeError`, `SafetensorsError` or `FileError`.
    public init(base path: String, adapters: [WeightedAdapter], dtype: DType? = nil) throws {
        if let dtype, ![.f32, .bf16, .f16].contains(dtype) {
            throw MergeError(.unsupportedDType, path: path, "a merged model can be F32, BF16 or F16, not \(dtype)")
        }
        guard adapters.contains(where: { !$0.adapter.modules.isEmpty }) else {
            throw MergeError(.nothingToMerge, path: path, "no adapter with a module was given")
        }
        base = try WeightFiles(path: path)
        self.adapters = adapters
        self.dtype = dtype
        let original = try Self.configuration(of: path)
        configuration = dtype.flatMap { dtype in
            let changed = original.map { ModelFolder.configuration($0, dtype: Self.configurationName(of: dtype)) }
            return changed == original ? nil : changed
        }
        let parts = try Self.parts(of: adapters, base: base, configuration: original)
        var budget = Self.keptFactorBytes
        jobs = try base.tensors.map { name, location in
            let isFloating = MergeKernel.supports(location.info.dtype)
            return try TensorJob(
                location: location, parts: parts[name] ?? [], dtype: isFloating ? dtype ?? location.info.dtype : location.info.dtype,
                budget: &budget)
        }
    }

    /// For each weight that is adapted, the modules and scales that meet it, in the order of the adapters.
    private static func parts(
        of adapters: [WeightedAdapter], base: WeightFiles, configuration: JSONValue?
    ) throws(MergeError) -> [String: [MergePart]] {
        let isTied = configuration?["tie_word_embeddings"]?.boolValue ?? false
        var parts: [String: [MergePart]] = [:]
        for (adapter, weight) in adapters.map({ ($0.adapter, $0.weight) }) {
            for module in adapter.modules {
                let name = module.path.weightName
                let isShared = ["lm_head", "embed_tokens"].contains(module.path.lastComponent)
                if isShared, isTied || base.tensors["lm_head.weight"] == nil {
                    throw MergeError(
                        .tiedWeights, path: adapter.path, tensor: name,
                        "the base uses one matrix for the embedding and the head, and an adapter of one of the two is not supported there")
                }
                guard let info = base.tensors[name]?.info else {
                    throw MergeError(.moduleNotInBase, path: adapter.path, tensor: name, missing(name, in: base))
                }
                guard MergeKernel.supports(info.dtype) else {
                    throw MergeError(
                        .unsupportedDType, path: base.path, tensor: name,
                        "a weight in \(info.dtype) cannot be merged; F32, BF16, F16 and F64 can, so convert the base first")
                }
                guard info.shape == [module.outputs, module.inputs] else {
                    throw MergeError(
                        .shapeMismatch, path: adapter.path, tensor: name,
                        "B \(describe(shape: module.loraB.shape)) times A \(describe(shape: module.loraA.shape)) is an update of "
                            + "\(describe(shape: [module.outputs, module.inputs])) and the weight is \(describe(shape: info.shape)); the adapter belongs to another model"
                    )
                }
                let scale = module.scale * weight
                guard scale.isFinite else {
                    throw MergeError(.invalidScale, path: adapter.path, tensor: name, "scale \(module.scale) times weight \(weight) is not finite")
                }
                parts[name, default: []].append(MergePart(module: module, scale: scale, adapterPath: adapter.path))
            }
        }
        return parts
    }

    private static func missing(_ name: String, in base: WeightFiles) -> String {
        let similar = base.tensors.keys.first { $0.hasSuffix("." + name) || name.hasSuffix("." + $0) }
        let hint = similar.map { "the nearest is \($0)" } ?? "the adapter belongs to another model"
        return "the base holds no tensor of this name; \(hint)"
    }

    /// `config.json` beside the weights of a model folder.
    private static func configuration(of base: String) throws -> JSONValue? {
        let path = FileSystem.join(base, configurationName)
        guard FileSystem.isFolder(base), FileSystem.exists(path) else { return nil }
        do {
            return try JSONValue(parsing: try FileSystem.contents(of: path, limit: maximumConfigurationBytes))
        } catch let error as JSONError {
            throw MergeError(.invalidConfiguration, path: path, "\(error)")
        }
    }

    /// How `config.json` names an element type.
    private static func configurationName(of dtype: DType) -> String {
        switch dtype {
        case .bf16: "bfloat16"
        case .f16: "float16"
        default: "float32"
        }
    }

    /// The number of modules that will be merged, each weight counted once.
    public var moduleCount: Int { jobs.count { !$0.parts.isEmpty } }

    /// Bytes of the tensors that will be written.
    public var byteCount: Int { jobs.reduce(0) { $0 + $1.outputByteCount } }
}

/// One adapter's part in a weight.
struct MergePart: Sendable {
    let module: AdapterModule
    let scale: Double
    let adapterPath: String

    /// - Throws: `MergeError.factorNotFinite`.
    func factors() throws(MergeError) -> MergeFactors {
        let made: Result<MergeFactors, MergeFactors.NotFinite> = module.loraA.withBytes { a in
            module.loraB.withBytes { b in
                Result { () throws(MergeFactors.NotFinite) in
                    try MergeFactors(
                        loraA: a, typeA: module.loraA.dtype, loraB: b, typeB: module.loraB.dtype, outputs: module.outputs,
                        inputs: module.inputs, rank: module.rank, scale: scale)
                }
            }
        }
        switch made {
        case .success(let factors): return factors
        case .failure(let fault):
            let matrix = fault.isInB ? module.loraB : module.loraA
            throw MergeError(
                .factorNotFinite, path: adapterPath, tensor: matrix.name,
                "element [\(fault.index / matrix.columns),\(fault.index % matrix.columns)] is infinite or no number")
        }
    }
}

/// What has to be done for one tensor of the base.
struct TensorJob: Sendable {
    let location: WeightFiles.Location
    /// The adapters that touch it, those left out whose B is zero.
    let parts: [MergePart]
    /// The modules and scales of all adapters that name it, for the report.
    let named: [MergePart]
    /// The factors, where there was room to keep them.
    let keptFactors: [MergeFactors]?
    let dtype: DType

    init(location: WeightFiles.Location, parts: [MergePart], dtype: DType, budget: inout Int) throws(MergeError) {
        self.location = location
        named = parts
        self.dtype = dtype
        var active: [MergePart] = []
        var factors: [MergeFactors] = []
        var isKeeping = true
        for part in parts {
            let made = try part.factors()
            guard !made.isZero else { continue }
            active.append(part)
            budget -= 8 * made.rank * (made.inputs + made.outputs)
            isKeeping = isKeeping && budget >= 0
            if isKeeping { factors.append(made) }
        }
        self.parts = active
        keptFactors = isKeeping ? factors : nil
    }

    var info: TensorInfo { location.info }
    /// Whether the tensor's bytes are copied as they are.
    var isCopied: Bool { parts.isEmpty && dtype == info.dtype }
    var outputByteCount: Int { info.elementCount * dtype.bitWidth / 8 }
}
