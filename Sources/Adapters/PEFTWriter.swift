internal import FileIO
internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
public import Tensors

/// A module's factors on their way into an adapter file.
public struct AdapterOutput: Sendable {
    public let path: ModulePath
    public let rank: Int
    public let alpha: Double
    /// A [rank, in], row-major.
    public let loraA: [Float]
    /// B [out, rank], row-major.
    public let loraB: [Float]

    /// - Precondition: both factors hold whole rows of the rank.
    public init(path: ModulePath, rank: Int, alpha: Double, loraA: [Float], loraB: [Float]) {
        precondition(rank > 0 && loraA.count % rank == 0 && loraB.count % rank == 0 && !loraA.isEmpty && !loraB.isEmpty)
        self.path = path
        self.rank = rank
        self.alpha = alpha
        self.loraA = loraA
        self.loraB = loraB
    }

    public var inputs: Int { loraA.count / rank }
    public var outputs: Int { loraB.count / rank }
}

extension PEFT {
    /// What the configuration of a written adapter says beside ranks and alphas.
    public struct WriteOptions: Sendable {
        /// A hub name or path.
        public var baseModel: String?
        /// The names that PEFT looks for at the end of module paths; `nil` takes the last components of the paths.
        public var targets: [String]?
        /// The element type of the factors: F32, BF16 or F16.
        public var dtype: DType
        public var dropout: Double
        public var taskType: String?
        /// Whether the scale is alpha/√rank.
        public var isRankStabilised: Bool
        public var isReplacing: Bool
        /// Whether to wait until the disk holds the folder.
        public var isDurable: Bool

        public init(
            baseModel: String? = nil, targets: [String]? = nil, dtype: DType = .f32, dropout: Double = 0, taskType: String? = "CAUSAL_LM",
            isRankStabilised: Bool = false, isReplacing: Bool = false, isDurable: Bool = true
        ) {
            self.baseModel = baseModel
            self.targets = targets
            self.dtype = dtype
            self.dropout = dropout
            self.taskType = taskType
            self.isRankStabilised = isRankStabilised
            self.isReplacing = isReplacing
            self.isDurable = isDurable
        }
    }

    /// The version of PEFT whose files the written ones equal.
    static let writtenVersion = "0.21.2"

    /// Writes a PEFT folder, which appears under its name only when it is whole.
    ///
    /// Where ranks or alphas differ, the most frequent ones become `r` and `lora_alpha` and the others patterns.
    ///
    /// - Throws: `AdapterError.empty` for no modules, `.notFinite` for a factor that is infinite or no number or becomes
    ///   so in the element type, `.unsupportedDType`; `FileError` from the folder.
    public static func write(_ modules: [AdapterOutput], to path: String, options: WriteOptions) throws {
        guard !modules.isEmpty else { throw AdapterError(.empty, path: path, "there is no module to write") }
        guard [.f32, .bf16, .f16].contains(options.dtype) else {
            throw AdapterError(.unsupportedDType, path: path, "factors are written as F32, BF16 or F16, not \(options.dtype)")
        }
        var tensors: [String: (shape: [Int], values: [Float])] = [:]
        for module in modules {
            tensors["\(keyPrefix)\(module.path).lora_A.weight"] = ([module.rank, module.inputs], module.loraA)
            tensors["\(keyPrefix)\(module.path).lora_B.weight"] = ([module.outputs, module.rank], module.loraB)
        }
        precondition(tensors.count == 2 * modules.count, "a module is to be written twice")
        var encoded: [String: [UInt8]] = [:]
        for (name, tensor) in tensors {
            encoded[name] = try encode(tensor.values, as: options.dtype, name: name, path: path)
        }
        let configuration = configuration(of: modules, options: options)
        let folder = try AtomicFolder(path: path, replacing: options.isReplacing)
        try folder.fill {
            let text = try AtomicFile(path: folder.path(of: configurationName), replacing: false)
            // PEFT ends the file without a line feed.
            try text.write(Array(configuration.serialized(pretty: true, sortedKeys: true).utf8.dropLast()))
            try text.publish(durable: options.isDurable)
            let writer = try SafetensorsWriter(
                path: folder.path(of: weightsName),
                entries: tensors.map { .init(name: $0.key, dtype: options.dtype, shape: $0.value.shape) }, metadata: ["format": "pt"],
                replacing: false)
            for tensor in writer.order {
                // Sound: every bit pattern of a byte may be read as a raw byte.
                if let bytes = encoded[tensor.name] { try writer.write(unsafe bytes.span.bytes) }
            }
            try writer.publish(durable: options.isDurable)
        }
        try folder.publish(durable: options.isDurable)
    }

    private static func encode(_ values: [Float], as dtype: DType, name: String, path: String) throws(AdapterError) -> [UInt8] {
        let size = dtype.bitWidth / 8
        var bytes = [UInt8](repeating: 0, count: values.count * size)
        var target = bytes.mutableSpan
        var raw = unsafe target.mutableBytes
        // The merge of nothing is a conversion, rounded once.
        // Sound: every bit pattern of a number may be read as raw bytes.
        let sums = MergeKernel.mergeRows(
            weights: unsafe values.span.bytes, weightType: .f32, into: &raw, mergedType: dtype, rows: 0..<1, columns: values.count, factors: [])
        guard !sums.isNotFinite else {
            throw AdapterError(.notFinite, path: path, subject: name, "an element is infinite or no number, or becomes so in \(dtype)")
        }
        return bytes
    }

    /// The configuration as PEFT's own `save_pretrained` gives it for the same `LoraConfig`; its set of targets has no order
    /// there and is sorted here.
    static func configuration(of modules: [AdapterOutput], options: WriteOptions) -> JSONValue {
        let rank = mostFrequent(modules.map(\.rank))
        let alpha = mostFrequent(modules.map(\.alpha))
        let names = modules.map(\.path)
        func patterns(_ values: [(ModulePath, JSONValue)]) -> JSONValue {
            .object(OrderedDictionary(values.map { (patternKey(of: $0.0, among: names), $0.1) }, uniquingKeysWith: { $1 }))
        }
        let targets = Set(options.targets ?? names.map(\.lastComponent)).sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        return [
            "alora_invocation_tokens": .null,
            "alpha_pattern": patterns(modules.filter { $0.alpha != alpha }.map { ($0.path, number($0.alpha)) }),
            "arrow_config": .null,
            "auto_mapping": .null,
            "base_model_name_or_path": options.baseModel.map { .string($0) } ?? .null,
            "bias": "none",
            "corda_config": .null,
            "ensure_weight_tying": false,
            "eva_config": .null,
            "exclude_modules": .null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "kasa_config": .null,
            "layer_replication": .null,
            "layers_pattern": .null,
            "layers_to_transform": .null,
            "loftq_config": [:],
            "lora_alpha": number(alpha),
            "lora_bias": false,
            "lora_dropout": .real(options.dropout),
            "lora_ga_config": .null,
            "megatron_config": .null,
            "megatron_core": "megatron.core",
            "modules_to_save": .null,
            "monteclora_config": .null,
            "peft_type": "LORA",
            "peft_version": .string(writtenVersion),
            "qalora_group_size": 16,
            "r": .integer(rank),
            "rank_pattern": patterns(modules.filter { $0.rank != rank }.map { ($0.path, .integer($0.rank)) }),
            "revision": .null,
            "target_modules": .array(targets.map { .string($0) }),
            "target_parameters": .null,
            "task_type": options.taskType.map { .string($0) } ?? .null,
            "trainable_token_indices": .null,
            "use_bdlora": .null,
            "use_dora": false,
            "use_qalora": false,
            "use_rslora": .bool(options.isRankStabilised),
            "velora_config": .null,
        ]
    }

    /// A key that PEFT matches with this module and none of the others: the path, or, where that is also the end of a
    /// longer path, the path as an anchored regular expression.
    private static func patternKey(of path: ModulePath, among all: [ModulePath]) -> String {
        if let pattern = PEFTPattern(path.text), all.allSatisfy({ $0 == path || !pattern.matches($0) }) { return path.text }
        return "^" + path.text.split(separator: ".", omittingEmptySubsequences: false).joined(separator: "\\.")
    }

    /// The larger of two that are equally frequent.
    private static func mostFrequent<Value: Hashable & Comparable>(_ values: [Value]) -> Value {
        var counts: [Value: Int] = [:]
        for value in values { counts[value, default: 0] += 1 }
        guard let best = counts.max(by: { ($0.value, $0.key) < ($1.value, $1.key) }) else { preconditionFailure("no values") }
        return best.key
    }

    /// An alpha as Python writes it: whole numbers without a fraction, because nearly everyone gives them so.
    private static func number(_ value: Double) -> JSONValue {
        if let whole = Int(exactly: value) { return .integer(whole) }
        return .real(value)
    }
}
