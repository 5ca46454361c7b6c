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

struct PEFTTests {
    /// What PEFT 0.21.2 writes for `LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")`.
    static let configuration = """
        {
          "alora_invocation_tokens": null,
          "alpha_pattern": {},
          "arrow_config": null,
          "auto_mapping": null,
          "base_model_name_or_path": null,
          "bias": "none",
          "corda_config": null,
          "ensure_weight_tying": false,
          "eva_config": null,
          "exclude_modules": null,
          "fan_in_fan_out": false,
          "inference_mode": true,
          "init_lora_weights": true,
          "kasa_config": null,
          "layer_replication": null,
          "layers_pattern": null,
          "layers_to_transform": null,
          "loftq_config": {},
          "lora_alpha": 8,
          "lora_bias": false,
          "lora_dropout": 0.0,
          "lora_ga_config": null,
          "megatron_config": null,
          "megatron_core": "megatron.core",
          "modules_to_save": null,
          "monteclora_config": null,
          "peft_type": "LORA",
          "peft_version": "0.21.2",
          "qalora_group_size": 16,
          "r": 4,
          "rank_pattern": {},
          "revision": null,
          "target_modules": [
            "q_proj",
            "v_proj"
          ],
          "target_parameters": null,
          "task_type": "CAUSAL_LM",
          "trainable_token_indices": null,
          "use_bdlora": null,
          "use_dora": false,
          "use_qalora": false,
          "use_rslora": false,
          "velora_config": null
        }
        """

    @Test func writesWhatPEFTWrites() throws {
        let folder = try TemporaryFolder()
        let modules = ["model.layers.0.self_attn.v_proj", "model.layers.0.self_attn.q_proj"].map {
            AdapterModule(
                path: ModulePath($0)!, rank: 4, alpha: 8, loraA: [Float](repeating: 1, count: 12), loraB: [Float](repeating: 2, count: 8))
        }
        try PEFT.write(modules, to: folder.path("adapter"), options: .init(isDurable: false))
        #expect(try FileSystem.names(in: folder.path("adapter")) == ["adapter_config.json", "adapter_model.safetensors"])
        #expect(String(decoding: try readAll(folder.path("adapter/adapter_config.json")), as: UTF8.self) == Self.configuration)
        let file = try SafetensorsFile(path: folder.path("adapter/adapter_model.safetensors"))
        #expect(file.metadata == ["format": "pt"])
        #expect(
            file.tensors.keys.elementsEqual([
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
                "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight", "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
            ]))
        #expect(file.tensors.values.map(\.shape) == [[4, 3], [2, 4], [4, 3], [2, 4]])
    }

    @Test(arguments: [DType.f32, .bf16, .f16])
    func readsWhatItWrites(dtype: DType) throws {
        let folder = try TemporaryFolder()
        let path = folder.path("adapter")
        var outputs = TestModel.outputs(seed: 3)
        outputs[1] = TestModel.outputs([TestModel.modules[1]], rank: 2, alpha: 3, seed: 4)[0]
        try PEFT.write(outputs, to: path, options: .init(baseModel: "some/model", dtype: dtype, isDurable: false))
        for source in [path, path + "/adapter_model.safetensors"] {
            let adapter = try Adapter.read(path: source)
            #expect(adapter.dialect == .peft && adapter.baseModel == "some/model" && adapter.targets == ["q_proj", "up_proj"])
            #expect(adapter.remarks.isEmpty)
            #expect(adapter.modules.map(\.path) == outputs.map(\.path).sorted())
            for output in outputs {
                let module = try #require(adapter.modules.first { $0.path == output.path })
                #expect(module.rank == output.rank && module.alpha == output.alpha && module.scale == output.alpha / Double(output.rank))
                let expected = (output.loraA.doubles() + output.loraB.doubles()).map { decode(encode($0, dtype), dtype) }
                #expect(module.loraA.doubles() + module.loraB.doubles() == expected)
            }
        }
    }

    private func decode(_ bytes: [UInt8], _ dtype: DType) -> Double {
        switch dtype {
        case .f32: Double(Float(bitPattern: UInt32(bits(bytes, dtype, 0))))
        case .bf16: Double(Float(bitPattern: UInt32(bits(bytes, dtype, 0)) << 16))
        default: Double(Float16(bitPattern: UInt16(bits(bytes, dtype, 0))))
        }
    }

    /// An adapter of one or more modules with a configuration of its own.
    private func adapter(_ changes: OrderedDictionary<String, JSONValue>, modules: [String] = TestModel.modules, in folder: TemporaryFolder) throws
        -> Adapter
    {
        let path = folder.path("adapter-\(UInt64.random(in: 0 ... .max))")
        try PEFT.write(TestModel.outputs(modules, rank: 4, alpha: 8, seed: 1), to: path, options: .init(isDurable: false))
        var fields = try #require(try JSONValue(parsing: Self.configuration).objectValue)
        for (key, value) in changes { fields[key] = value }
        try writeText(JSONValue.object(fields).serialized(), path + "/adapter_config.json")
        return try Adapter.read(path: path)
    }

    @Test func patternsMatchAsPEFTMatchesThem() throws {
        let folder = try TemporaryFolder()
        func alphas(_ pattern: OrderedDictionary<String, JSONValue>) throws -> [Double] {
            try adapter(["alpha_pattern": .object(pattern)], in: folder).modules.map(\.alpha)
        }
        // The modules, sorted: 0.mlp.up_proj, 0.self_attn.q_proj, 1.mlp.up_proj, 1.self_attn.q_proj.
        #expect(try alphas([:]) == [8, 8, 8, 8])
        #expect(try alphas(["q_proj": 16]) == [8, 16, 8, 16])
        // Not the end of a component, and not its beginning.
        #expect(try alphas(["_proj": 16, "up": 16, "roj": 2]) == [8, 8, 8, 8])
        #expect(try alphas(["self_attn.q_proj": 2.5]) == [8, 2.5, 8, 2.5])
        #expect(try alphas(["model.layers.1.mlp.up_proj": 1]) == [8, 8, 1, 8])
        // A dot is any character; a bare prefix is no suffix.
        #expect(try alphas(["layers.1.self_attn.q.proj": 1, "model.layers.0": 3]) == [8, 8, 8, 1])
        // The first key in the file's order wins.
        #expect(try alphas(["q_proj": 1, "layers.0.self_attn.q_proj": 2]) == [8, 1, 8, 1])
        #expect(try alphas(["layers.0.self_attn.q_proj": 2, "q_proj": 1]) == [8, 2, 8, 1])
        // Regular expressions.
        #expect(try alphas(["layers\\.[1-9]\\..*": 4]) == [8, 8, 4, 4])
        #expect(try alphas(["(q_proj|up_proj)": 4]) == [4, 4, 4, 4])
        #expect(try alphas(["q_proj|mlp.up_proj": 4]) == [4, 4, 4, 4])
        #expect(try alphas(["^model\\.layers\\.0\\.self_attn\\.q_proj": 4, "^layers.1.mlp.up_proj": 5]) == [8, 4, 8, 8])
        #expect(try alphas([".*": 4]) == [4, 4, 4, 4])
        #expect(throws: AdapterError.self) { try alphas(["(q_proj": 4]) }
        do { _ = try alphas(["(q_proj": 4]) } catch let error as AdapterError { #expect(error.code == .invalidPattern) }
    }

    @Test func scalesAreThoseOfPEFT() throws {
        let folder = try TemporaryFolder()
        #expect(try adapter([:], in: folder).modules[0].scale == 2)
        #expect(try adapter(["use_rslora": true, "lora_alpha": 10], in: folder).modules[0].scale == 5)
        #expect(try adapter(["lora_alpha": 0.5], in: folder).modules[0].scale == 0.125)
        // The factors' own rank counts, and the difference is remarked.
        let other = try adapter(["r": 16], in: folder)
        #expect(other.modules[0].scale == 2 && other.remarks.count == 1 && other.remarks[0].hasSuffix("and likewise for 3 more"))
        #expect(try adapter(["r": 16, "rank_pattern": [".*": 4]], in: folder).remarks.isEmpty)
    }

    static let refused: [(String, JSONValue)] = [
        ("bias", "some"), ("layer_replication", [[0, 4], [2, 6]]), ("use_qalora", true), ("use_bdlora", ["nblocks": 2]),
        ("alora_invocation_tokens", [3]),
        ("arrow_config", ["top_k": 2]), ("kasa_config", ["beta": 0.1]), ("velora_config", ["scale": 1.0]), ("monteclora_config", ["num_samples": 4]),
        ("init_lora_weights", "pissa"), ("init_lora_weights", "olora"), ("init_lora_weights", "loftq"),
        ("init_lora_weights", "mica"), ("peft_type", "OFT"), ("a_field_of_tomorrow", 3),
    ]

    @Test(arguments: refused.indices)
    func featuresThatChangeTheResultAreRefusedByName(index: Int) throws {
        let (field, value) = Self.refused[index]
        let folder = try TemporaryFolder()
        do {
            _ = try adapter([field: value], in: folder)
            Issue.record("\(field) was let pass")
        } catch let error as AdapterError {
            #expect(error.code == .unsupportedFeature && error.subject == field)
        }
    }

    /// A field that only a kind knows is no reason before the kind is.
    @Test(arguments: ["OFT", "ADALORA", "IA3", "A_KIND_OF_TOMORROW"])
    func aKindIsRefusedByItsName(kind: String) throws {
        let folder = try TemporaryFolder()
        do {
            _ = try adapter(["eps": 1e-5, "peft_type": .string(kind), "rank_pattern": [3]], in: folder)
            Issue.record("\(kind) was let pass")
        } catch let error as AdapterError {
            #expect(error.code == .unsupportedFeature && error.subject == "peft_type" && error.message.contains(" \(kind) "))
        }
    }

    @Test func unknownFieldsAtTheirDefaultsAreAllowed() throws {
        let folder = try TemporaryFolder()
        let fields: OrderedDictionary<String, JSONValue> = [
            "tomorrow": .null, "later": false, "never": [:], "ever": [], "init_lora_weights": "gaussian", "eva_config": ["rho": 2.0],
        ]
        #expect(try adapter(fields, in: folder).modules.count == 4)
    }

    /// Tensors that take the place of those of a good adapter, and the fault that each must give.
    static let ledger: [(String, [Int]?, AdapterError.Code)] = [
        ("base_model.model.x.q_proj.lora_magnitude_vector", [3], .unexpectedTensor),
        ("base_model.model.x.q_proj.lora_B.bias", [3], .unexpectedTensor),
        ("base_model.model.x.embed.lora_embedding_A", [2, 3], .missingFactor),
        ("base_model.model.x.q_proj.base_layer.weight", [3, 3], .unexpectedTensor),
        ("base_model.model.x.norm.weight", [3], .unexpectedTensor),
        ("base_model.model.x.norm.bias", [3], .unexpectedTensor),
        ("base_model.model.x.embed.token_adapter.trainable_tokens_delta", [2, 3], .unexpectedTensor),
        ("base_model.model.x.conv.lora_A.weight", [2, 3, 1, 1], .missingFactor),
        ("base_model.model.x.experts.base_layer.lora_A.weight", [2, 3], .missingFactor),
        ("base_model.model.x.q_proj.lora_A.default.weight", [2, 3], .unexpectedTensor),
        ("x.k_proj.lora_A.weight", [2, 3], .unexpectedTensor),
        ("base_model.model.x.k_proj.lora_A.weight", [2, 3], .missingFactor),
        ("base_model.model.x.k_proj.lora_B.weight", [2, 3], .missingFactor),
        ("base_model.model.x.q_proj.lora_B.weight", [3, 5], .invalidShape),
        ("base_model.model.x.q_proj.lora_B.weight", [3, 0], .invalidShape),
        ("base_model.model.x.embed_tokens.weight", [0, 3], .invalidShape),
        ("base_model.model.lm_head.original_module.weight", [3, 3], .unexpectedTensor),
    ]

    @Test(arguments: ledger.indices)
    func everyTensorIsConsumedOrNamed(index: Int) throws {
        let (name, shape, code) = Self.ledger[index]
        let folder = try TemporaryFolder()
        try writeText(Self.configuration, folder.path("adapter_config.json"))
        var tensors = [
            TestTensor("base_model.model.x.q_proj.lora_A.weight", .f32, [2, 3], values: [1, 2, 3, 4, 5, 6]),
            TestTensor("base_model.model.x.q_proj.lora_B.weight", .f32, [3, 2], values: [1, 2, 3, 4, 5, 6]),
        ]
        tensors.removeAll { $0.name == name }
        let count = (shape ?? []).reduce(1, *)
        tensors.append(TestTensor(name, .f32, shape ?? [], values: [Float](repeating: 1, count: count)))
        try writeSafetensors(tensors, to: folder.path("adapter_model.safetensors"))
        do {
            _ = try Adapter.read(path: folder.path)
            Issue.record("\(name) was let pass")
        } catch let error as AdapterError {
            #expect(error.code == code)
            #expect(error.subject == name || error.description.contains(name))
        }
    }

    @Test func foldersThatAreNoAdaptersAreRefused() throws {
        let folder = try TemporaryFolder()
        func code(_ path: String) -> AdapterError.Code? {
            do { _ = try Adapter.read(path: path) } catch let error as AdapterError { return error.code } catch {}
            return nil
        }
        #expect(code(folder.path) == .missingFile)
        try writeText("", folder.path("pytorch_model.bin"))
        #expect(code(folder.path) == .unknownDialect)
        try FileSystem.remove(folder.path("pytorch_model.bin"))
        try writeText(Self.configuration, folder.path("adapter_config.json"))
        #expect(code(folder.path) == .missingFile)
        try writeText("{", folder.path("adapter_config.json"))
        try writeSafetensors([TestTensor("a", .i8, [1], bytes: [1])], to: folder.path("adapter_model.safetensors"))
        #expect(code(folder.path) == .invalidConfiguration)
        try writeText(Self.configuration, folder.path("adapter_config.json"))
        try writeSafetensors([], to: folder.path("adapter_model.safetensors"))
        #expect(code(folder.path) == .empty)
    }

    @Test func writingRefusesWhatIsNotFinite() throws {
        let folder = try TemporaryFolder()
        let output = AdapterModule(path: ModulePath("a.b")!, rank: 1, alpha: 1, loraA: [1, 70_000], loraB: [1])
        #expect(throws: AdapterError.self) { try PEFT.write([output], to: folder.path("a"), options: .init(dtype: .f16)) }
        #expect(try FileSystem.names(in: folder.path).isEmpty)
    }

    @Test func pathsOfModulesHaveNoEmptyComponents() {
        #expect(ModulePath("") == nil && ModulePath("a..b") == nil && ModulePath(".a") == nil && ModulePath("a.") == nil)
        #expect(ModulePath("a")?.lastComponent == "a" && ModulePath("a.b.c")?.lastComponent == "c")
        #expect(ModulePath("a.b")?.weightName == "a.b.weight")
    }
}
