import FileIO
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Weights

/// An adapter of the small model in the making, as PEFT would write it.
struct PEFTAdapter {
    var tensors: [TestTensor] = []
    var configuration: OrderedDictionary<String, JSONValue>
    private var generator: SeededGenerator

    init(rank: Int = 2, alpha: Double = 4, seed: UInt64 = 1, configuration: OrderedDictionary<String, JSONValue> = [:]) {
        self.configuration = ["peft_type": "LORA", "r": .integer(rank), "lora_alpha": .real(alpha), "target_modules": ["q_proj"]]
        self.configuration.merge(configuration) { $1 }
        generator = SeededGenerator(seed: seed)
    }

    mutating func add(_ name: String, _ shape: [Int], spread: Float = 0.1, around center: Float = 0) {
        let values = generator.values(shape.reduce(1, *), spread: spread).map { center + $0 }
        tensors.append(TestTensor("base_model.model." + name, .f32, shape, values: values))
    }

    /// Factors of linear layers whose names end so, in all layers.
    mutating func addFactors(_ suffixes: [String] = ["q_proj", "k_proj", "v_proj", "up_proj"], spread: Float = 0.1) throws {
        let rank = configuration["r"]?.integerValue ?? 1
        for location in try ModelWeights(path: Repository.tinyLlama).tensors.values {
            let module = String(location.name.dropLast(".weight".count))
            guard suffixes.contains(where: module.hasSuffix) else { continue }
            add(module + ".lora_A.weight", [rank, location.shape[1]], spread: spread)
            add(module + ".lora_B.weight", [location.shape[0], rank], spread: spread)
        }
    }

    @discardableResult
    func write(to path: String) throws -> String {
        try FileSystem.createFolder(path)
        try writeSafetensors(tensors, to: path + "/adapter_model.safetensors")
        try writeText(JSONValue.object(configuration).serialized(), path + "/adapter_config.json")
        return path
    }

    /// Plain LoRA of some linear layers.
    @discardableResult
    static func write(to path: String, seed: UInt64 = 1, spread: Float = 0.1, alpha: Double = 4, base: String? = nil) throws -> String {
        var adapter = PEFTAdapter(alpha: alpha, seed: seed, configuration: base.map { ["base_model_name_or_path": .string($0)] } ?? [:])
        try adapter.addFactors(spread: spread)
        return try adapter.write(to: path)
    }
}
