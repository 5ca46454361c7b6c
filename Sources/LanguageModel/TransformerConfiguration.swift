public import Families
internal import FileIO
public import JSON

/// The shape of a language model of a family that runs here, as its `config.json` gives it.
public struct TransformerConfiguration: Sendable, Equatable {
    /// Stretching of the rotary frequencies for long contexts, as Llama 3.1 does it.
    public struct Llama3Scaling: Sendable, Equatable {
        public let factor: Double
        public let lowFrequencyFactor: Double
        public let highFrequencyFactor: Double
        public let originalPositions: Int
    }

    public let modelType: String
    /// What each block is made of.
    public let block: BlockDescription
    public let hiddenSize: Int
    public let intermediateSize: Int
    public let layers: Int
    public let heads: Int
    public let keyValueHeads: Int
    public let headDimension: Int
    public let vocabularySize: Int
    public let maximumPositions: Int
    public let normEpsilon: Float
    public let ropeTheta: Double
    public let ropeScaling: Llama3Scaling?
    public let tiedEmbeddings: Bool
    /// Tokens that a query sees, where the model limits them.
    public let slidingWindow: Int?

    public var queryWidth: Int { heads * headDimension }
    public var keyWidth: Int { keyValueHeads * headDimension }

    static let maximumBytes = 10_000_000
    public static let fileName = "config.json"

    /// Reads `config.json` out of a model folder.
    ///
    /// - Throws: `FileError`, or `TransformerError` for a file that is not a configuration, an architecture that is not
    ///   of the Llama family, or a feature that changes the arithmetic and is not implemented.
    public init(folder: String) throws {
        let path = FileSystem.join(folder, Self.fileName)
        let json: JSONValue
        do {
            json = try JSONValue(configuration: try FileSystem.contents(of: path, limit: Self.maximumBytes))
        } catch let error as JSONError {
            throw TransformerError(.invalidConfiguration, path: path, "\(error)")
        }
        try self.init(json: json, path: path)
    }

    /// - Parameter path: named in errors.
    public init(json: JSONValue, path: String) throws(TransformerError) {
        let fields = Fields(json: json, path: path)
        modelType = try fields.string("model_type")
        guard let block = ModelFamilies.family(of: modelType)?.block else {
            throw TransformerError(
                .unknownArchitecture, path: path,
                "the architecture \"\(modelType)\" is not one that can be run or trained here; those are \(ModelFamilies.running.joined(separator: ", "))"
            )
        }
        self.block = block
        hiddenSize = try fields.size("hidden_size")
        intermediateSize = try fields.size("intermediate_size")
        layers = try fields.size("num_hidden_layers")
        heads = try fields.size("num_attention_heads")
        keyValueHeads = try fields.size("num_key_value_heads", default: heads)
        guard hiddenSize % heads == 0 || fields.has("head_dim") else {
            throw TransformerError(
                .invalidConfiguration, path: path, "\(heads) attention heads cannot share hidden_size \(hiddenSize) evenly and there is no head_dim")
        }
        headDimension = try fields.size("head_dim", default: hiddenSize / heads)
        vocabularySize = try fields.size("vocab_size")
        maximumPositions = try fields.size("max_position_embeddings", default: 2048)
        normEpsilon = Float(try fields.number("rms_norm_eps", default: 1e-6))
        tiedEmbeddings = try fields.flag("tie_word_embeddings", default: false)
        guard heads % keyValueHeads == 0 else {
            throw TransformerError(.invalidConfiguration, path: path, "\(heads) attention heads cannot share \(keyValueHeads) key-value heads evenly")
        }
        guard headDimension % 2 == 0 else {
            throw TransformerError(.invalidConfiguration, path: path, "head_dim is \(headDimension) and rotary embeddings need an even number")
        }
        let activation = try fields.string("hidden_act", default: "silu")
        guard activation == "silu" || activation == "swish" else {
            throw TransformerError(.unsupportedFeature, path: path, "the activation \"\(activation)\" is not implemented; only silu is")
        }
        slidingWindow = fields.has("sliding_window") ? try fields.size("sliding_window") : nil
        // transformers 5 moved the rotary settings into `rope_parameters`.
        let key = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling"
        let rope = json[key] ?? .null
        guard rope.isNull || rope.objectValue != nil else { throw fields.missing(key, "an object") }
        let ropeFields = Fields(json: rope, path: path)
        ropeTheta = try ropeFields.number("rope_theta", default: try fields.number("rope_theta", default: 10_000))
        switch try ropeFields.string("rope_type", default: try ropeFields.string("type", default: "default")) {
        case "default": ropeScaling = nil
        case "llama3":
            ropeScaling = Llama3Scaling(
                factor: try ropeFields.number("factor"), lowFrequencyFactor: try ropeFields.number("low_freq_factor"),
                highFrequencyFactor: try ropeFields.number("high_freq_factor"),
                originalPositions: try ropeFields.size("original_max_position_embeddings"))
        case let kind:
            throw TransformerError(.unsupportedFeature, path: path, "the rotary scaling \"\(kind)\" is not implemented; only default and llama3 are")
        }
    }

    /// Typed access to the fields of a configuration.
    private struct Fields {
        let json: JSONValue
        let path: String

        func missing(_ key: String, _ kind: String) -> TransformerError {
            TransformerError(
                .invalidConfiguration, path: path, "\(key) must be \(kind) and is \(json[key].map { "\($0.inWords)" } ?? "not there")")
        }

        /// Whether there is a value other than null.
        func has(_ key: String) -> Bool { !(json[key] ?? .null).isNull }

        func string(_ key: String, default fallback: String? = nil) throws(TransformerError) -> String {
            guard let value = json[key] == nil ? fallback : json[key]?.stringValue else { throw missing(key, "a string") }
            return value
        }

        /// A size of at most 2²¹, so that products of two of them and a few more factors fit an `Int`. (max_position_embeddings reaches 2²⁰.)
        func size(_ key: String, default fallback: Int? = nil) throws(TransformerError) -> Int {
            guard let value = has(key) ? json[key]?.integerValue : fallback, (1...(1 << 21)).contains(value) else {
                throw missing(key, "a whole number from 1 to \(1 << 21)")
            }
            return value
        }

        func number(_ key: String, default fallback: Double? = nil) throws(TransformerError) -> Double {
            guard let value = json[key]?.doubleValue ?? (json[key] == nil ? fallback : nil), value > 0, value.isFinite else {
                throw missing(key, "a positive number")
            }
            return value
        }

        func flag(_ key: String, default fallback: Bool) throws(TransformerError) -> Bool {
            guard let value = json[key] else { return fallback }
            guard let flag = value.boolValue else { throw missing(key, "true or false") }
            return flag
        }
    }
}
