public import Adapters
import FileIO
import JSON
import Kernels
import OrderedCollections
internal import Safetensors
public import Tensors
public import TestSupport
public import Weights

/// A tensor on its way into a file.
public struct TestTensor {
    public var name: String
    public var dtype: DType
    public var shape: [Int]
    public var bytes: [UInt8]

    public init(_ name: String, _ dtype: DType, _ shape: [Int], bytes: [UInt8]) {
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.bytes = bytes
    }

    public init(_ name: String, _ dtype: DType, _ shape: [Int], values: [Float]) {
        self.init(name, dtype, shape, bytes: values.flatMap { encode(Double($0), dtype) })
    }
}

/// A number in the bytes of a stored type, by the reference rounding.
public func encode(_ value: Double, _ dtype: DType) -> [UInt8] {
    let bits = MergeReference.bits(of: value, in: dtype)
    return (0..<dtype.bitWidth / 8).map { UInt8(truncatingIfNeeded: bits >> (8 * $0)) }
}

/// The stored bits of an element.
public func bits(_ bytes: [UInt8], _ dtype: DType, _ index: Int) -> UInt64 {
    let width = dtype.bitWidth / 8
    return (0..<width).reduce(0) { $0 | UInt64(bytes[index * width + $1]) << (8 * $1) }
}

public func writeSafetensors(_ tensors: [TestTensor], to path: String, metadata: [String: String] = ["format": "pt"]) throws {
    let writer = try SafetensorsWriter(
        path: path, entries: tensors.map { .init(name: $0.name, dtype: $0.dtype, shape: $0.shape) }, metadata: metadata, replacing: true)
    for info in writer.order {
        let tensor = tensors.first { $0.name == info.name }!
        try writer.write(unsafe tensor.bytes.span.bytes)
    }
    try writer.publish(durable: false)
}

public func read(_ name: String, from files: ModelWeights) throws -> [UInt8] {
    let weight = try files.weight(named: name)
    var bytes: [UInt8] = []
    try weight.read(bytes: 0..<weight.byteCount, into: &bytes)
    return bytes
}

/// A model of two layers in two shards with everything that a model folder has.
public enum TestModel {
    public static let modules = (0..<2).flatMap { ["model.layers.\($0).self_attn.q_proj", "model.layers.\($0).mlp.up_proj"] }

    public static func shape(_ module: String) -> [Int] { module.hasSuffix("q_proj") ? [24, 24] : [53, 24] }

    public static func tensors(dtype: DType, generator: inout SeededGenerator) -> [[TestTensor]] {
        func tensor(_ name: String, _ shape: [Int]) -> TestTensor {
            TestTensor(name, dtype, shape, values: generator.values(shape.reduce(1, *), spread: 0.5))
        }
        let first = [tensor("model.embed_tokens.weight", [32, 24])] + modules[..<2].map { tensor($0 + ".weight", shape($0)) }
        let second =
            modules[2...].map { tensor($0 + ".weight", shape($0)) } + [
                tensor("lm_head.weight", [32, 24]), TestTensor("model.norm.weight", .f32, [24], values: generator.values(24, spread: 1)),
                TestTensor("model.positions", .i64, [3], bytes: Array(repeating: 7, count: 24)),
            ]
        return [first, second]
    }

    @discardableResult
    public static func write(to path: String, dtype: DType = .bf16, seed: UInt64, isTied: Bool = false) throws -> [[TestTensor]] {
        var generator = SeededGenerator(seed: seed)
        let shards = tensors(dtype: dtype, generator: &generator)
        try FileSystem.createFolder(path)
        var map: OrderedDictionary<String, JSONValue> = [:]
        var total = 0
        for (number, shard) in shards.enumerated() {
            let name = "model-0000\(number + 1)-of-00002.safetensors"
            try writeSafetensors(shard, to: FileSystem.join(path, name))
            for tensor in shard {
                map[tensor.name] = .string(name)
                total += tensor.bytes.count
            }
        }
        let index: JSONValue = ["metadata": ["total_size": .integer(total)], "weight_map": .object(map)]
        try writeText(index.serialized(pretty: true), FileSystem.join(path, ModelWeights.indexName))
        let configuration = """
            {
              "architectures": [
                "LlamaForCausalLM"
              ],
              "dtype": "bfloat16",
              "hidden_size": 24,
              "rms_norm_eps": 1e-05,
              "tie_word_embeddings": \(isTied),
              "vocab_size": 32
            }

            """
        try writeText(configuration, FileSystem.join(path, "config.json"))
        for name in ["tokenizer.json", "generation_config.json", "chat_template.jinja"] {
            try writeText("\(name) of the base", FileSystem.join(path, name))
        }
        for name in ["pytorch_model.bin", "optimizer.pt", "trainer_state.json", "adapter_config.json", ".gitattributes"] {
            try writeText("not of a merged model", FileSystem.join(path, name))
        }
        try FileSystem.createFolder(FileSystem.join(path, "additional_chat_templates"))
        try writeText("a template", FileSystem.join(path, "additional_chat_templates/tool.jinja"))
        try FileSystem.createFolder(FileSystem.join(path, "onnx"))
        try writeText("weights", FileSystem.join(path, "onnx/model.onnx"))
        return shards
    }

    public static func outputs(_ modules: [String] = modules, rank: Int = 5, alpha: Double = 8, spread: Float = 0.2, seed: UInt64) -> [AdapterModule]
    {
        var generator = SeededGenerator(seed: seed)
        return modules.map { module in
            let shape = shape(module)
            return AdapterModule(
                path: ModulePath(module)!, rank: rank, alpha: alpha, loraA: generator.values(rank * shape[1], spread: spread),
                loraB: generator.values(shape[0] * rank, spread: spread))
        }
    }

    public static func writeAdapter(
        to path: String, modules: [String] = modules, dtype: DType = .f32, rank: Int = 5, alpha: Double = 8, spread: Float = 0.2, seed: UInt64
    ) throws -> Adapter {
        try PEFT.write(
            outputs(modules, rank: rank, alpha: alpha, spread: spread, seed: seed), to: path, options: .init(dtype: dtype, isDurable: false))
        return try Adapter.read(path: path)
    }
}
