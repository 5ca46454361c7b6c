import FileIO
import JSON
import LanguageModel
import OrderedCollections
import TestModels
import TestSupport
import Testing

/// A configuration that must be refused: what is changed in a good one, and what the message must say.
struct ConfigurationRefusal: Sendable, CustomTestStringConvertible {
    let code: TransformerError.Code
    let changes: OrderedDictionary<String, JSONValue>
    let absent: String?
    let words: String

    var testDescription: String { absent.map { "no \($0)" } ?? JSONValue.object(changes).serialized() }

    init(_ code: TransformerError.Code, _ changes: OrderedDictionary<String, JSONValue>, says words: String) {
        (self.code, self.changes, self.absent, self.words) = (code, changes, nil, words)
    }

    /// Without a field.
    init(without absent: String) { (code, changes, self.absent, words) = (.invalidConfiguration, [:], absent, absent) }
}

struct TransformerConfigurationTests {
    /// Only what has no default.
    private static let least: OrderedDictionary<String, JSONValue> = [
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 5,
    ]

    private func configuration(_ changes: OrderedDictionary<String, JSONValue>, without absent: String? = nil) throws(TransformerError)
        -> TransformerConfiguration
    {
        var fields = Self.least.merging(changes) { $1 }
        if let absent { fields[absent] = nil }
        return try TransformerConfiguration(json: .object(fields), path: "/model/config.json")
    }

    private static let llama3: OrderedDictionary<String, JSONValue> = [
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    ]

    /// Llama 3 scaling with a change.
    private static func scaling(_ key: String, _ value: JSONValue?) -> OrderedDictionary<String, JSONValue> {
        var fields = llama3
        fields[key] = value
        return ["rope_scaling": .object(fields)]
    }

    // MARK: Refused

    private static let refusals: [ConfigurationRefusal] =
        least.keys.map(ConfigurationRefusal.init(without:)) + [
            .init(
                .unknownArchitecture, ["model_type": "qwen2"],
                says: "\"qwen2\" is not one that can be run or trained here; those are llama, mistral, smollm, qwen3"
            ),
            .init(.unknownArchitecture, ["model_type": "Llama"], says: "\"Llama\""),
            .init(.unknownArchitecture, ["model_type": ""], says: "\"\""),
            .init(.invalidConfiguration, ["model_type": 3], says: "model_type must be a string and is 3"),
            .init(.invalidConfiguration, ["model_type": ["llama"]], says: "model_type must be a string"),

            .init(.invalidConfiguration, ["hidden_size": "8"], says: "hidden_size must be a whole number from 1 to 2097152 and is \"8\""),
            .init(.invalidConfiguration, ["hidden_size": .null], says: "hidden_size"),
            .init(.invalidConfiguration, ["intermediate_size": 12.0], says: "intermediate_size"),
            .init(.invalidConfiguration, ["intermediate_size": [12]], says: "intermediate_size"),
            .init(.invalidConfiguration, ["num_hidden_layers": 0], says: "num_hidden_layers"),
            .init(.invalidConfiguration, ["num_hidden_layers": true], says: "num_hidden_layers"),
            .init(.invalidConfiguration, ["num_attention_heads": 0], says: "num_attention_heads"),
            .init(.invalidConfiguration, ["num_attention_heads": -2], says: "num_attention_heads"),
            .init(.invalidConfiguration, ["num_key_value_heads": 0], says: "num_key_value_heads"),
            .init(.invalidConfiguration, ["num_key_value_heads": "1"], says: "num_key_value_heads"),
            .init(.invalidConfiguration, ["head_dim": 0], says: "head_dim"),
            .init(.invalidConfiguration, ["head_dim": 4.5], says: "head_dim"),
            .init(.invalidConfiguration, ["vocab_size": 2_097_153], says: "vocab_size must be a whole number from 1 to 2097152 and is 2097153"),
            .init(.invalidConfiguration, ["vocab_size": .integer(.max)], says: "vocab_size"),
            .init(.invalidConfiguration, ["max_position_embeddings": 1e5], says: "max_position_embeddings"),
            .init(.invalidConfiguration, ["sliding_window": 0], says: "sliding_window"),
            .init(.invalidConfiguration, ["sliding_window": false], says: "sliding_window"),
            .init(.invalidConfiguration, ["rms_norm_eps": 0.0], says: "rms_norm_eps must be a positive number"),
            .init(.invalidConfiguration, ["rms_norm_eps": -1e-6], says: "rms_norm_eps"),
            .init(.invalidConfiguration, ["rms_norm_eps": "1e-6"], says: "rms_norm_eps must be a positive number and is \"1e-6\""),
            .init(.invalidConfiguration, ["rms_norm_eps": .null], says: "rms_norm_eps"),
            .init(.invalidConfiguration, ["rms_norm_eps": .real(.infinity)], says: "rms_norm_eps"),
            .init(.invalidConfiguration, ["tie_word_embeddings": 1], says: "tie_word_embeddings must be true or false and is 1"),
            .init(.invalidConfiguration, ["tie_word_embeddings": .null], says: "tie_word_embeddings"),

            .init(.invalidConfiguration, ["num_key_value_heads": 3], says: "2 attention heads cannot share 3 key-value heads evenly"),
            .init(.invalidConfiguration, ["num_key_value_heads": 4], says: "2 attention heads cannot share 4 key-value heads evenly"),
            .init(.invalidConfiguration, ["num_attention_heads": 3], says: "3 attention heads cannot share hidden_size 8 evenly"),
            .init(.invalidConfiguration, ["num_attention_heads": 16], says: "16 attention heads cannot share hidden_size 8 evenly"),
            .init(.invalidConfiguration, ["num_attention_heads": 3, "head_dim": .null], says: "hidden_size 8"),
            .init(.invalidConfiguration, ["head_dim": 3], says: "head_dim is 3 and rotary embeddings need an even number"),
            .init(.invalidConfiguration, ["num_attention_heads": 8], says: "head_dim is 1"),

            .init(.unsupportedFeature, ["hidden_act": "gelu"], says: "the activation \"gelu\" is not implemented; only silu is"),
            .init(.invalidConfiguration, ["hidden_act": 3], says: "hidden_act must be a string and is 3"),
            .init(.invalidConfiguration, ["hidden_act": .null], says: "hidden_act"),

            .init(
                .unsupportedFeature, ["rope_scaling": ["type": "linear", "factor": 2.0]], says: "the rotary scaling \"linear\" is not implemented"),
            .init(.unsupportedFeature, ["rope_scaling": ["rope_type": "yarn", "factor": 2.0]], says: "\"yarn\""),
            .init(.unsupportedFeature, ["rope_scaling": ["rope_type": "dynamic", "type": "default"]], says: "\"dynamic\""),
            .init(.unsupportedFeature, ["rope_parameters": ["rope_type": "longrope"]], says: "\"longrope\""),
            .init(.invalidConfiguration, ["rope_scaling": ["rope_type": 3]], says: "rope_type must be a string and is 3"),
            .init(.invalidConfiguration, ["rope_scaling": ["type": ["linear"]]], says: "type must be a string"),
            .init(.invalidConfiguration, ["rope_scaling": "linear"], says: "rope_scaling must be an object and is \"linear\""),
            .init(.invalidConfiguration, ["rope_parameters": ["linear"]], says: "rope_parameters must be an object"),
            .init(.invalidConfiguration, ["rope_theta": "500000.0"], says: "rope_theta must be a positive number and is \"500000.0\""),
            .init(.invalidConfiguration, ["rope_theta": 0], says: "rope_theta"),
            .init(.invalidConfiguration, ["rope_theta": -1.0], says: "rope_theta"),
            .init(.invalidConfiguration, ["rope_theta": .real(.infinity)], says: "rope_theta"),
            .init(.invalidConfiguration, ["rope_parameters": ["rope_theta": true]], says: "rope_theta"),

            .init(.invalidConfiguration, scaling("factor", nil), says: "factor must be a positive number and is not there"),
            .init(.invalidConfiguration, scaling("factor", "8"), says: "factor"),
            .init(.invalidConfiguration, scaling("low_freq_factor", nil), says: "low_freq_factor"),
            .init(.invalidConfiguration, scaling("low_freq_factor", 0), says: "low_freq_factor"),
            .init(.invalidConfiguration, scaling("high_freq_factor", nil), says: "high_freq_factor"),
            .init(.invalidConfiguration, scaling("high_freq_factor", -4.0), says: "high_freq_factor"),
            .init(.invalidConfiguration, scaling("original_max_position_embeddings", nil), says: "original_max_position_embeddings"),
            .init(.invalidConfiguration, scaling("original_max_position_embeddings", 8192.0), says: "original_max_position_embeddings"),
        ]

    @Test(arguments: refusals) func whatIsNotRunIsRefusedByItsField(_ refusal: ConfigurationRefusal) {
        let error = #expect(throws: TransformerError.self) { try configuration(refusal.changes, without: refusal.absent) }
        #expect(error?.code == refusal.code)
        #expect(error?.message.contains(refusal.words) == true, "\(String(describing: error))")
        #expect(error?.description.hasPrefix("/model/config.json: ") == true)
    }

    @Test func filesThatAreNoConfigurationAreRefused() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("config.json")
        #expect(throws: FileError.missing(path: path)) { try TransformerConfiguration(folder: folder.path) }
        for text in ["", "{", "[]", "3", #"{"model_type":"llama","model_type":"llama"}"#] {
            try writeText(text, path)
            let error = #expect(throws: TransformerError.self) { try TransformerConfiguration(folder: folder.path) }
            #expect(error?.code == .invalidConfiguration && error?.path == path, "\(text)")
        }
        let file = try AtomicFile(path: path, replacing: true)
        try file.write([UInt8](repeating: UInt8(ascii: " "), count: 10_000_001))
        try file.publish(durable: false)
        #expect(throws: FileError.tooLarge(path: path, bytes: 10_000_001, limit: 10_000_000)) { try TransformerConfiguration(folder: folder.path) }
    }

    // MARK: Accepted

    @Test func theSmallModelHasItsShape() throws {
        let c = try TransformerConfiguration(folder: Repository.tinyLlama)
        #expect(c.modelType == "llama" && c.hiddenSize == 128 && c.intermediateSize == 352 && c.layers == 4 && c.vocabularySize == 1024)
        #expect(c.heads == 4 && c.keyValueHeads == 2 && c.headDimension == 32 && c.queryWidth == 128 && c.keyWidth == 64)
        #expect(c.maximumPositions == 512 && c.normEpsilon == 1e-5 && c.ropeTheta == 10_000 && c.ropeScaling == nil)
        #expect(c.tiedEmbeddings && c.slidingWindow == nil)
    }

    @Test func whatIsLeftOutHasADefault() throws {
        let c = try configuration([:])
        #expect(c.keyValueHeads == 2 && c.headDimension == 4 && c.maximumPositions == 2048 && c.normEpsilon == 1e-6 && c.ropeTheta == 10_000)
        #expect(!c.tiedEmbeddings && c.slidingWindow == nil && c.ropeScaling == nil)
        let nulls = try configuration([
            "num_key_value_heads": .null, "head_dim": .null, "max_position_embeddings": .null, "sliding_window": .null, "rope_scaling": .null,
            "rope_parameters": .null,
        ])
        #expect(nulls == c)
        #expect(try configuration(["some_future_field": ["a": 1]]) == c)
        #expect(try configuration(["hidden_act": "silu"]) == c && configuration(["hidden_act": "swish"]) == c)
    }

    @Test(arguments: ["llama", "mistral", "smollm"]) func knownArchitecturesAreTaken(name: String) throws {
        #expect(try configuration(["model_type": .string(name)]).modelType == name)
    }

    @Test func everyFieldIsRead() throws {
        let c = try configuration([
            "num_key_value_heads": 1, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "sliding_window": 64,
            "rope_theta": 500_000, "hidden_size": 2_097_152, "num_hidden_layers": 3, "intermediate_size": 1, "vocab_size": 7, "head_dim": 6,
        ])
        #expect(c.keyValueHeads == 1 && c.maximumPositions == 4096 && c.normEpsilon == 1e-5 && c.tiedEmbeddings && c.slidingWindow == 64)
        #expect(c.ropeTheta == 500_000 && c.hiddenSize == 2_097_152 && c.layers == 3 && c.intermediateSize == 1 && c.vocabularySize == 7)
        #expect(c.queryWidth == 12 && c.keyWidth == 6)
    }

    /// As Mistral Nemo has it: heads that are not a part of the hidden size.
    @Test func headsMayHaveADimensionOfTheirOwn() throws {
        let c = try configuration(["num_attention_heads": 3, "head_dim": 6])
        #expect(c.heads == 3 && c.keyValueHeads == 3 && c.headDimension == 6 && c.queryWidth == 18)
    }

    @Test func rotarySettingsAreReadInBothForms() throws {
        func theta(_ changes: OrderedDictionary<String, JSONValue>) throws -> Double { try configuration(changes).ropeTheta }
        #expect(try theta(["rope_parameters": ["rope_theta": 1e6, "rope_type": "default"]]) == 1e6)
        #expect(try theta(["rope_parameters": ["rope_theta": 1e6], "rope_theta": 5.0]) == 1e6)
        #expect(try theta(["rope_parameters": ["rope_type": "default"], "rope_theta": 5.0]) == 5)
        #expect(try theta(["rope_parameters": .null, "rope_scaling": ["rope_theta": 7.0]]) == 7)
        for key in ["rope_scaling", "rope_parameters"] {
            let scaling = try #require(try configuration([key: .object(Self.llama3)]).ropeScaling)
            #expect(scaling.factor == 8 && scaling.lowFrequencyFactor == 1 && scaling.highFrequencyFactor == 4 && scaling.originalPositions == 8192)
        }
        // Before `rope_type` the field was called `type`.
        var older = Self.llama3
        older["type"] = older.removeValue(forKey: "rope_type")
        #expect(try configuration(["rope_scaling": .object(older)]).ropeScaling?.factor == 8)
        #expect(try configuration(["rope_scaling": ["type": "default"]]).ropeScaling == nil)
        #expect(try configuration(["rope_scaling": .object(Self.llama3), "rope_parameters": ["rope_type": "default"]]).ropeScaling == nil)
    }
}
