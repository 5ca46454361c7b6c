import Adapters
import FileIO
import JSON
import Tensors
import TestModels
import TestSupport
import Testing

struct MLXTests {
    private func write(_ tensors: [TestTensor], _ configuration: String, to path: String) throws {
        try? FileSystem.remove(path)
        try FileSystem.createFolder(path)
        try writeSafetensors(tensors, to: path + "/adapters.safetensors")
        try writeText(configuration, path + "/adapter_config.json")
    }

    private static let lora =
        #"{"fine_tune_type": "lora", "num_layers": 2, "model": "some/model", "lora_parameters": {"rank": 2, "scale": 2.5, "keys": ["q_proj"]}}"#

    private func tensor(_ name: String, _ shape: [Int]) -> TestTensor {
        TestTensor(name, .f32, shape, values: (0..<shape.reduce(1, *)).map { Float($0 + 1) })
    }

    @Test func factorsAreTransposedAndTheScaleIsDirect() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("adapter")
        try write([tensor("a.q_proj.lora_a", [3, 2]), tensor("a.q_proj.lora_b", [2, 4])], Self.lora, to: path)
        for source in [path, path + "/adapters.safetensors"] {
            let adapter = try Adapter.read(path: source)
            #expect(adapter.dialect == .mlx && adapter.baseModel == "some/model" && adapter.targets == ["q_proj"])
            let module = try #require(adapter.modules.first)
            #expect(module.path.text == "a.q_proj" && module.kind == .linear && module.rank == 2 && module.inputs == 3 && module.outputs == 4)
            #expect(module.scale == 2.5 && module.alpha == 5)
            #expect(module.loraA.doubles() == [1, 3, 5, 2, 4, 6] && module.loraB.doubles() == [1, 5, 2, 6, 3, 7, 4, 8])
        }
    }

    @Test func expertsEmbeddingsAndMagnitudes() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("adapter")
        try write(
            [
                tensor("l.0.mlp.switch_mlp.up_proj.lora_a", [3, 2, 4]), tensor("l.0.mlp.switch_mlp.up_proj.lora_b", [3, 5, 2]),
                tensor("model.embed_tokens.lora_a", [7, 2]), tensor("model.embed_tokens.lora_b", [2, 4]),
            ], Self.lora, to: path)
        let modules = try Adapter.read(path: path).modules
        #expect(modules.map(\.label.text) == ["l.0.mlp.experts.up_proj", "model.embed_tokens"] && modules.map(\.kind) == [.experts, .embedding])
        #expect(modules[0].factors.count == 3 && modules[0].factors[1].a.doubles() == (9...16).map(Double.init))
        #expect(modules[0].factors[2].b.shape == [5, 2] && modules[0].factors[2].b.doubles() == (21...30).map(Double.init))
        #expect(modules[1].loraA.shape == [2, 7] && modules[1].loraB.shape == [4, 2])
        let dora = #"{"fine_tune_type": "dora", "lora_parameters": {"scale": 1}}"#
        try write([tensor("a.lora_a", [3, 2]), tensor("a.lora_b", [2, 4]), tensor("a.m", [4])], dora, to: path)
        #expect(try Adapter.read(path: path).modules[0].magnitude?.values.doubles() == [1, 2, 3, 4])
    }

    /// mlx-lm runs the head of a tied model through the embedding's module, and so with its update.
    @Test func theEmbeddingOfATiedModelIsItsHead() throws {
        let folder = try TemporaryFolder()
        try FileSystem.createFolder(folder.path("base"))
        try writeSafetensors([tensor("model.embed_tokens.weight", [3, 2])], to: folder.path("base/model.safetensors"))
        try writeText(#"{"model_type": "llama", "tie_word_embeddings": true}"#, folder.path("base/config.json"))
        try write(
            [tensor("model.embed_tokens.lora_a", [3, 2]), tensor("model.embed_tokens.lora_b", [2, 2])], Self.lora, to: folder.path("adapter"))
        let adapter = try Adapter.read(path: folder.path("adapter"))
        let base = try BaseModel(path: folder.path("base"))
        let model = try AdaptedModel(base: base, adapters: [.init(adapter)])
        #expect(model.tensors.map(\.name) == ["model.embed_tokens.weight"] && model.configuration == base.configuration)
        // In PEFT's layout the head has an update of its own; in mlx-lm's the two must be one.
        let named = try base.naming(adapter)
        #expect(named.modules.map(\.label.text) == ["lm_head", "model.embed_tokens"])
        let options = AdapterOptions(isDurable: false)
        #expect(try named.write(.mlx, to: folder.path("mlx"), base: base, options: options) == [])
        #expect(try Adapter.read(path: folder.path("mlx")).modules.map(\.label.text) == ["model.embed_tokens"])
        for module in named.modules {
            try PEFT.write([module], to: folder.path(module.label.text), options: options)
            let alone = try Adapter.read(path: folder.path(module.label.text))
            #expect(throws: AdapterError.self) { try alone.write(.mlx, to: folder.path("refused"), base: base, options: options) }
        }
    }

    static let refused: [(String, [(String, [Int])], String, AdapterError.Code)] = [
        ("a full fine-tuning", [("a.weight", [2, 2])], #"{"fine_tune_type": "full"}"#, .unsupportedFeature),
        ("no scale", [("a.lora_a", [3, 2]), ("a.lora_b", [2, 4])], #"{"lora_parameters": {"alpha": 16}}"#, .invalidConfiguration),
        ("no lora_b", [("a.lora_a", [3, 2])], lora, .missingFactor),
        ("no lora_a", [("a.lora_b", [2, 3])], lora, .missingFactor),
        ("other ranks", [("a.lora_a", [3, 2]), ("a.lora_b", [3, 4])], lora, .invalidShape),
        ("a vector", [("a.lora_a", [3]), ("a.lora_b", [3])], lora, .invalidShape),
        ("another tensor", [("a.lora_a", [3, 2]), ("a.lora_b", [2, 4]), ("a.weight", [4, 3])], lora, .unexpectedTensor),
        ("a magnitude without DoRA", [("a.lora_a", [3, 2]), ("a.lora_b", [2, 4]), ("a.m", [4])], lora, .unexpectedTensor),
        (
            "a magnitude of another length", [("a.lora_a", [3, 2]), ("a.lora_b", [2, 4]), ("a.m", [3])],
            #"{"fine_tune_type": "dora", "lora_parameters": {"scale": 1}}"#, .invalidShape
        ),
        (
            "no magnitude", [("a.lora_a", [3, 2]), ("a.lora_b", [2, 4])], #"{"fine_tune_type": "dora", "lora_parameters": {"scale": 1}}"#,
            .missingFactor
        ),
        (
            "a magnitude of an embedding", [("wte.lora_a", [3, 2]), ("wte.lora_b", [2, 4]), ("wte.m", [3])],
            #"{"fine_tune_type": "dora", "lora_parameters": {"scale": 1}}"#, .unsupportedFeature
        ),
        ("nothing", [], lora, .empty),
        ("other experts", [("a.moe.up.lora_a", [2, 2, 3]), ("a.moe.up.lora_b", [2, 4, 2])], lora, .unsupportedFeature),
        ("no JSON", [("a.lora_a", [3, 2])], "{", .invalidConfiguration),
    ]

    @Test(arguments: refused.indices) func isRefused(index: Int) throws {
        let (name, tensors, configuration, code) = Self.refused[index]
        let folder = try TemporaryFolder()
        try write(tensors.map { tensor($0.0, $0.1) }, configuration, to: folder.path("adapter"))
        do {
            _ = try Adapter.read(path: folder.path("adapter"))
            Issue.record("\(name) was let pass")
        } catch let error as AdapterError {
            #expect(error.code == code, "\(name): \(error)")
        }
    }
}
