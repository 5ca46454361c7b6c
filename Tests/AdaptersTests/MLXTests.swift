import Adapters
import FileIO
import JSON
import Methods
import OrderedCollections
import Safetensors
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

    @Test func expertsEmbeddingsAndMagnitudesAreRead() throws {
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

    // MARK: Names of families

    private func base(_ folder: TemporaryFolder, _ family: String, _ names: [String]) throws -> BaseModel {
        let path = folder.path("base-\(family)")
        try? FileSystem.remove(path)
        try FileSystem.createFolder(path)
        try writeSafetensors(names.map { tensor($0 + ".weight", [4, 4]) }, to: path + "/model.safetensors")
        try writeText(#"{"model_type": "\#(family)"}"#, path + "/config.json")
        return try BaseModel(path: path)
    }

    private func module(_ name: String, isExperts: Bool = false) throws -> AdapterModule {
        let (a, b) = (
            FactorMatrix(name: "a", rows: 2, columns: 4, values: [Float](repeating: 1, count: 8)),
            FactorMatrix(name: "b", rows: 4, columns: 2, values: [Float](repeating: 1, count: 8))
        )
        let factors = [LowRankFactors](repeating: .init(a: a, b: b), count: isExperts ? 2 : 1)
        return AdapterModule(
            path: try #require(ModulePath(name)), parameter: isExperts ? "up_proj" : "weight", kind: isExperts ? .experts : .linear, factors: factors,
            alpha: 2, scale: 1)
    }

    private func written(_ modules: [AdapterModule], base: BaseModel?, in folder: TemporaryFolder) throws -> [String] {
        let adapter = Adapter(path: "a", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: modules)
        _ = try adapter.write(.mlx, to: folder.path("mlx"), base: base, options: .init(isReplacing: true, isDurable: false))
        let keys = try SafetensorsFile(path: folder.path("mlx/adapters.safetensors")).tensors.keys
        return keys.filter { $0.hasSuffix(".lora_a") }.map { String($0.dropLast(".lora_a".count)) }
    }

    /// Family, name in memory, name in mlx-lm; none where mlx-lm has no layer that it adapts.
    static let familyNames: [(String, String, String?)] = [
        ("deepseek_v3", "model.layers.0.self_attn.kv_b_proj", nil), ("mistral4", "model.layers.0.self_attn.kv_b_proj", nil),
        ("deepseek_v2", "model.layers.0.self_attn.kv_b_proj", "model.layers.0.self_attn.kv_b_proj"), ("glm4_moe", "model.layers.0.mlp.gate", nil),
        ("deepseek_v2", "model.layers.0.mlp.gate", nil), ("dots1", "model.layers.0.mlp.gate", nil),
        ("qwen2_moe", "model.layers.0.mlp.gate", "model.layers.0.mlp.gate"),
        ("mixtral", "model.layers.0.mlp.gate", "model.layers.0.block_sparse_moe.gate"),
        ("lfm2_moe", "model.layers.0.feed_forward.w2", "model.layers.0.feed_forward.down_proj"),
        ("lfm2", "model.layers.0.feed_forward.w2", "model.layers.0.feed_forward.w2"),
        ("laguna", "model.layers.0.mlp.shared_experts.up_proj", "model.layers.0.mlp.shared_expert.up_proj"),
        ("deepseek_v3", "model.layers.0.mlp.shared_experts.up_proj", "model.layers.0.mlp.shared_experts.up_proj"),
        ("gpt_neox", "gpt_neox.layers.0.attention.dense", "model.h.0.attention.dense"), ("bitnet", "model.layers.0.mlp.up_proj", nil),
    ]

    @Test(arguments: familyNames.indices) func modulesHaveTheNamesOfMLX(index: Int) throws {
        let (family, name, expected) = Self.familyNames[index]
        let folder = try TemporaryFolder()
        let (base, modules) = (try base(folder, family, [name]), [try module(name)])
        if let expected {
            #expect(try written(modules, base: base, in: folder) == [expected], "\(family)")
            // What was written is found in the base again.
            #expect(base.resolve(expected + ".weight") == name + ".weight")
        } else {
            let error = #expect(throws: AdapterError.self) { try written(modules, base: base, in: folder) }
            #expect(error?.message.contains("of this family mlx-lm has") == true, "\(family): \(error as Any)")
        }
    }

    @Test func expertsAreWhereTheFamilyHasThem() throws {
        for (family, place) in [
            ("qwen3_moe", "mlp.switch_mlp"), ("afmoe", "mlp.experts"), ("dots1", "mlp.experts"), ("mixtral", "block_sparse_moe.switch_mlp"),
        ] {
            let folder = try TemporaryFolder()
            let name = "model.layers.0.mlp.experts"
            let found = try written([try module(name, isExperts: true)], base: try base(folder, family, ["model.norm"]), in: folder)
            #expect(found == ["model.layers.0.\(place).up_proj"])
            let read = try Adapter.read(path: folder.path("mlx"))
            #expect(read.modules.map(\.path.lastComponent) == ["experts"] && ServingStack.mlx.verdict(on: read).isTaken)
            // Its own names are known without the base.
            _ = try read.write(.mlx, to: folder.path("again"), options: .init(isDurable: false))
            #expect(try Adapter.read(path: folder.path("again")).modules.map(\.path) == read.modules.map(\.path))
            #expect(
                try SafetensorsFile(path: folder.path("again/adapters.safetensors")).tensors.keys.allSatisfy {
                    $0.hasPrefix("model.layers.0.\(place).")
                })
        }
    }

    @Test func onlyTheBaseTellsNamesThatFamiliesDifferIn() throws {
        let folder = try TemporaryFolder()
        for name in ["model.layers.0.self_attn.kv_b_proj", "model.layers.0.mlp.gate", "model.layers.0.mlp.experts"] {
            let error = #expect(throws: AdapterError.self) {
                try written([try module(name, isExperts: name.hasSuffix("experts"))], base: nil, in: folder)
            }
            #expect(error?.cause == .needsBase, "\(error as Any)")
        }
        #expect(try written([try module("model.layers.0.self_attn.q_proj")], base: nil, in: folder) == ["model.layers.0.self_attn.q_proj"])
        // lint says what it cannot know, and what no family has.
        let names = ["model.layers.0.self_attn.kv_b_proj", "model.layers.0.mlp.gate"]
        for name in names {
            try write([tensor(name + ".lora_a", [4, 2]), tensor(name + ".lora_b", [2, 4])], Self.complete([name]), to: folder.path("one"))
            let verdict = ServingStack.mlx.verdict(on: try Adapter.read(path: folder.path("one")))
            #expect(verdict.isTaken && verdict.notes.first?.contains("only the model tells") == true)
        }
        try write(
            names.flatMap { [tensor($0 + ".lora_a", [4, 2]), tensor($0 + ".lora_b", [2, 4])] }, Self.complete(names), to: folder.path("both"))
        #expect(!ServingStack.mlx.verdict(on: try Adapter.read(path: folder.path("both"))).isTaken)
    }

    private static func complete(_ keys: [String]) -> String {
        let keys = keys.map { "\"\($0)\"" }.joined(separator: ", ")
        return #"{"fine_tune_type": "lora", "num_layers": 0, "lora_parameters": {"rank": 2, "scale": 1, "dropout": 0, "keys": [\#(keys)]}}"#
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

    @Test(arguments: refused.indices) func whatCannotBeReadIsRefusedByItsCode(index: Int) throws {
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
