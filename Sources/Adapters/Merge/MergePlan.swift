internal import FileIO
internal import JSON
internal import Methods
internal import OrderedCollections
internal import Safetensors
public import Tensors
public import Weights

/// A merge that has been checked against all its inputs and has written nothing yet.
///
/// The merged weight of a module is W′ = round(W + s₁·(B₁A₁) + s₂·(B₂A₂) + …), the adapters from left to right, computed in
/// binary64 and rounded once (see `MergeKernel`); s is the module's scale times the adapter's weight. Tensors that no
/// adapter touches, and those whose update has an all-zero B, keep their bytes.
public struct MergePlan: Sendable {
    public let model: AdaptedModel
    /// The element type asked for; `nil` keeps each tensor's own. Only F32, BF16, F16 and F64 tensors change, and of them not the scales of
    /// quantized weights.
    public let dtype: DType?
    /// The tensors of all shards, in the order in which they will be written.
    let jobs: [TensorJob]
    /// The receipts of the base, where it has been merged into before.
    let receipt: MergeReceipt?
    /// The adapters as the receipt will name them.
    let entries: [MergeReceipt.Entry]
    /// Whether the adapters are taken out, with negative weights, and not merged.
    let isTaking: Bool
    /// The tokenizer that comes from an adapter.
    let tokenizer: TokenizerFiles
    /// The other files of the base's folder; `nil` where the base is a file.
    let others: ModelFolder?
    /// Whether the elements of the factors have been looked at.
    private let isChecked: Bool

    /// About as many bytes as a piece of a tensor gives that is made in one go: with its source it fits a core's cache of the
    /// second level, and it needs few system calls.
    static let pieceBytes = 1 << 18

    /// Opens the base and checks that the merge is possible: every module has a weight that its factors fit, every factor
    /// is finite, every element type is one that can be merged.
    ///
    /// - Parameters:
    ///   - base: a model folder or one safetensors file.
    ///   - adapters: in the order in which they are added.
    ///   - dtype: F32, BF16 or F16 for the merged model, or `nil`.
    ///   - takesAnyBase: whether an adapter may name another model as the one that it was trained on.
    ///   - mergesAgain: whether an adapter may be in the base already, as its receipt has it, or be given twice.
    ///   - keepsTokenizer: whether the base's tokenizer is kept, whatever the adapters bring.
    ///   - readsFactors: whether the elements of the factors are looked at, too. Without it the plan is made from the headers
    ///     alone and cannot be run.
    /// - Throws: `MergeError`, `SafetensorsError` or `FileError`.
    public init(
        base path: String, adapters: [WeightedAdapter], dtype: DType? = nil, takesAnyBase: Bool = true, mergesAgain: Bool = true,
        keepsTokenizer: Bool = false, readsFactors: Bool = true
    ) throws {
        try self.init(
            base: path, adapters: adapters, dtype: dtype, takesAnyBase: takesAnyBase, mergesAgain: mergesAgain, keepsTokenizer: keepsTokenizer,
            readsFactors: readsFactors, isTaking: false)
    }

    init(
        base path: String, adapters: [WeightedAdapter], dtype: DType?, takesAnyBase: Bool, mergesAgain: Bool, keepsTokenizer: Bool,
        readsFactors: Bool, isTaking: Bool
    ) throws {
        if let dtype, !dtype.isWritable {
            throw MergeError(.unsupportedDType, path: path, "a merged model can be F32, BF16 or F16, not \(dtype)")
        }
        guard adapters.contains(where: { !$0.adapter.modules.isEmpty || !$0.adapter.replacements.isEmpty }) else {
            throw MergeError(.nothingToMerge, path: path, "no adapter with a module was given")
        }
        let model = try AdaptedModel(base: try BaseModel(path: path), adapters: adapters, takesAnyBase: takesAnyBase)
        receipt = try MergeReceipt(ofModel: path)
        // A plan from headers alone reads whole adapters only where they may be in the model already.
        entries = readsFactors || receipt != nil || adapters.count > 1 ? adapters.map(MergeReceipt.entry) : []
        if !mergesAgain { try MergeReceipt.refuseRepetition(Array(zip(adapters, entries)), into: receipt) }
        self.model = model
        self.dtype = dtype
        self.isTaking = isTaking
        // A single file, or the components of a pipeline, have no tokenizer beside them.
        let isFolder = FileSystem.isFolder(path) && !model.base.files.isPipeline
        tokenizer = keepsTokenizer || !isFolder ? .none : try TokenizerFiles(adapters: adapters, base: path)
        others = try Self.others(of: model, tokenizer)
        isChecked = readsFactors
        jobs = try model.tensors.map { tensor in
            try TensorJob(tensor, dtype: model.dtype(of: tensor, asked: dtype), base: model.base.files, readsFactors: readsFactors)
        }
    }

    /// - Throws: `MergeError.fileNotFetched` where one that would be copied is not there itself.
    private static func others(of model: AdaptedModel, _ tokenizer: TokenizerFiles) throws -> ModelFolder? {
        let base = model.base.files
        guard FileSystem.isFolder(base.path) else { return nil }
        let files = try ModelFolder(base, decodes: model.decodes)
        for name in files.copied where !tokenizer.supersedes(name) {
            if let file = StandIn(name, in: base.path) { throw MergeError(file, in: base.path) }
        }
        return files
    }

    /// What a file of the model's folder becomes where it is a configuration that the merge changes; `nil` where it is copied.
    func configuration(_ name: String) throws -> JSONValue? {
        let isOwn = name == BaseModel.configurationName
        let isOfPart = base.parts.contains { !$0.name.isEmpty && $0.path(of: BaseModel.configurationName) == name }
        guard isOwn || isOfPart else { return nil }
        guard let original = isOwn ? model.base.configuration : try BaseModel.configuration(at: FileSystem.join(base.path, name)) else { return nil }
        let adapted = isOwn ? model.configuration ?? original : original
        let changed = dtype.map { ModelFolder.configuration(adapted, dtype: Self.configurationName(of: $0)) } ?? adapted
        return changed == original ? nil : changed
    }

    /// How `config.json` names an element type.
    static func configurationName(of dtype: DType) -> String {
        switch dtype {
        case .bf16: "bfloat16"
        case .f16: "float16"
        default: "float32"
        }
    }

    public var base: ModelWeights { model.base.files }

    /// Nothing may be written from headers alone.
    func requireChecked() {
        precondition(isChecked, "the plan was made without reading the factors")
    }

    /// The number of modules that will be merged.
    public var moduleCount: Int { Set(jobs.lazy.flatMap { $0.tensor.updates.lazy.map(\.module) }).count }

    /// Bytes of the tensors that will be written.
    public var byteCount: Int { jobs.reduce(0) { $0 + $1.outputByteCount } }
}

extension TensorUpdate {
    /// - Throws: `MergeError.factorNotFinite`.
    func checkFactors() throws(MergeError) {
        for matrix in update.matrices + (magnitude.map { [$0.values] } ?? []) {
            do throws(UpdateFault) { try matrix.requireFinite() } catch { throw MergeError(error, adapter: adapterPath) }
        }
    }
}

/// What has to be done for one tensor of the merged model.
struct TensorJob: Sendable {
    let tensor: AdaptedModel.Tensor
    /// The updates that change it; those are left out whose B is zero.
    let updates: [TensorUpdate]
    let dtype: DType
    /// What the result is compared with to see whether anything has changed: the base's tensor, where it has the same form.
    let original: StoredWeight?

    init(_ tensor: AdaptedModel.Tensor, dtype: DType, base: ModelWeights, readsFactors: Bool) throws(MergeError) {
        self.tensor = tensor
        self.dtype = dtype
        original = base.tensors[tensor.name].flatMap { $0.isPlain && $0.dtype == dtype && $0.shape == tensor.shape ? $0 : nil }
        guard readsFactors else {
            updates = tensor.updates
            return
        }
        for update in tensor.updates { try update.checkFactors() }
        updates = tensor.updates.filter { !$0.isZero }
    }

    var source: StoredWeight { tensor.source }
    var elementCount: Int { source.elementCount }
    /// Whether the stored bytes are the result's where nothing changes; what codes stand for is looked at, since a scale may be anything.
    var keepsType: Bool { dtype == source.dtype && source.isPlain }
    /// Whether the tensor's bytes are copied as they are.
    var isCopied: Bool { updates.isEmpty && tensor.rows.isEmpty && keepsType }
    /// Whether the result may be another tensor than the base has under this name.
    var mayChange: Bool { !isCopied || !tensor.isOfBase }
    var outputByteCount: Int { elementCount * dtype.bitWidth / 8 }
    /// The columns of the tensor seen as a matrix: those of the updates, or of the rows that an adapter brings.
    var columns: Int {
        if let update = updates.first { return update.columns }
        return tensor.rows.isEmpty ? elementCount : tensor.shape.last ?? 1
    }
    /// The runs of rows that the same updates meet, by their numbers; a stack of experts has one for each expert.
    var runs: [(rows: Range<Int>, updates: [Int])] {
        let bounds = Set(updates.flatMap { [$0.rows.lowerBound, $0.rows.upperBound] } + [0, elementCount / max(1, columns)]).sorted()
        return zip(bounds, bounds.dropFirst()).map { low, high in (low..<high, updates.indices.filter { updates[$0].rows.contains(low) }) }
    }
}
