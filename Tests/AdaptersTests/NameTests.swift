import Adapters
import FileIO
import JSON
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

/// Where the modules of adapters lie in models whose files have other names than the model in memory.
struct NameTests {
    /// A base that holds these matrices [3, 2], or tensors of other shapes.
    private func base(
        _ tensors: [String], models: [String] = [], shape: [Int] = [3, 2], in folder: TemporaryFolder
    ) throws -> BaseModel {
        let path = folder.path("base-\(UInt64.random(in: 0 ... .max))")
        try FileSystem.createFolder(path)
        let values = [Float](repeating: 1, count: shape.reduce(1, *))
        try writeSafetensors(tensors.map { TestTensor($0, .f32, shape, values: values) }, to: FileSystem.join(path, "model.safetensors"))
        var configuration: JSONValue = ["hidden_size": 2]
        for model in models.reversed() { configuration = ["model_type": .string(model), "text_config": configuration] }
        try writeText(configuration.serialized(), FileSystem.join(path, "config.json"))
        return try BaseModel(path: path)
    }

    /// A tensor of the files, and names of adapters that are the same.
    struct Family: CustomTestStringConvertible {
        let models: [String]
        let names: [(file: String, adapters: [String])]
        var testDescription: String { models.joined(separator: " ") }

        init(_ models: String..., names: [(file: String, adapters: [String])]) {
            self.models = models
            self.names = names
        }
    }

    static let families = [
        Family(
            "qwen2_5_vl",
            names: [
                ("model.layers.0.q_proj.weight", ["model.language_model.layers.0.q_proj.weight", "language_model.model.layers.0.q_proj.weight"]),
                ("visual.blocks.0.qkv.weight", ["model.visual.blocks.0.qkv.weight"]),
                ("model.embed_tokens.weight", ["model.language_model.embed_tokens.weight"]), ("lm_head.weight", ["language_model.lm_head.weight"]),
            ]),
        // Saved by a later release; the adapter is of an earlier one.
        Family(
            "qwen2_5_vl",
            names: [
                ("model.language_model.layers.0.q_proj.weight", ["model.layers.0.q_proj.weight"]),
                ("model.visual.blocks.0.qkv.weight", ["visual.blocks.0.qkv.weight"]),
            ]),
        Family(
            "llava", "llama",
            names: [
                ("language_model.model.layers.0.q_proj.weight", ["model.language_model.layers.0.q_proj.weight", "model.layers.0.q_proj.weight"]),
                ("language_model.lm_head.weight", ["lm_head.weight"]),
                (
                    "vision_tower.vision_model.encoder.layers.0.q_proj.weight",
                    ["model.vision_tower.encoder.layers.0.q_proj.weight", "model.vision_tower.vision_model.encoder.layers.0.q_proj.weight"]
                ),
                ("multi_modal_projector.linear_1.weight", ["model.multi_modal_projector.linear_1.weight"]),
            ]),
        // Trained on the class with images.
        Family("gemma3_text", names: [("model.layers.0.q_proj.weight", ["model.language_model.layers.0.q_proj.weight"])]),
        Family(
            "vit",
            names: [
                (
                    "vit.encoder.layer.0.attention.attention.query.weight",
                    ["vit.layers.0.attention.q_proj.weight", "layers.0.attention.q_proj.weight"]
                ),
                ("vit.encoder.layer.0.attention.output.dense.weight", ["vit.layers.0.attention.o_proj.weight"]),
                ("vit.encoder.layer.0.output.dense.weight", ["vit.layers.0.mlp.fc2.weight"]),
            ]),
        Family("vit", names: [("vit.layers.0.mlp.fc2.weight", ["vit.encoder.layer.0.output.dense.weight"])]),
        Family("nemotron_h", names: [("backbone.layers.0.mixer.q_proj.weight", ["model.layers.0.mixer.q_proj.weight"])]),
        Family("gpt_neox", names: [("embed_out.weight", ["lm_head.weight"])]),
        Family("mixtral", names: [("model.layers.0.block_sparse_moe.gate.weight", ["model.layers.0.mlp.gate.weight"])]),
        Family("phimoe", names: [("model.layers.0.block_sparse_moe.gate.weight", ["model.layers.0.mlp.router.weight"])]),
        Family(
            "granitemoe",
            names: [
                ("model.layers.0.block_sparse_moe.input_linear.weight", ["model.layers.0.block_sparse_moe.experts.gate_up_proj"]),
                ("model.layers.0.block_sparse_moe.router.layer.weight", ["model.layers.0.block_sparse_moe.router.weight"]),
            ]),
        // In memory fc1 is what the files call fc0, and fc2 is their fc1.
        Family(
            "kimi_k25",
            names: [
                ("vision_tower.encoder.blocks.0.mlp.fc0.weight", ["model.vision_tower.layers.0.mlp.fc1.weight"]),
                ("vision_tower.encoder.blocks.0.mlp.fc1.weight", ["model.vision_tower.layers.0.mlp.fc2.weight"]),
            ]),
        // What compilers and trainers put around modules.
        Family(
            "llama",
            names: [
                ("_orig_mod.model.layers.0.q_proj.weight", ["model.layers.0.q_proj.weight"]),
                ("module.model.layers._fsdp_wrapped_module.1.q_proj.weight", ["model.layers.1.q_proj.weight"]),
                ("model._orig_mod.layers.2._checkpoint_wrapped_module.q_proj.weight", ["model.layers.2.q_proj.weight", "layers.2.q_proj.weight"]),
            ]),
    ]

    @Test(arguments: families)
    func namesInMemoryAndOfEarlierReleasesAreFoundInTheFiles(family: Family) throws {
        let folder = try TemporaryFolder()
        let model = try base(family.names.map(\.file), models: family.models, in: folder)
        for (file, adapters) in family.names {
            #expect(model.resolve(file) == file)
            for name in adapters { #expect(model.resolve(name) == file, "\(name)") }
        }
    }

    @Test func aTowerIsNoModelAroundAnother() throws {
        let folder = try TemporaryFolder()
        let text = try base(["layers.0.q_proj.weight"], models: ["qwen3"], in: folder)
        #expect(text.resolve("model.layers.0.q_proj.weight") == "layers.0.q_proj.weight")
        #expect(text.resolve("visual.layers.0.q_proj.weight") == nil && text.resolve("model.vision_tower.layers.0.q_proj.weight") == nil)
        let both = try base(["vision_tower.layers.0.q_proj.weight", "lm_head.weight"], models: ["llava"], in: folder)
        #expect(both.resolve("layers.0.q_proj.weight") == nil)
        #expect(both.resolve("model.layers.0.q_proj.weight") == nil)
        // The vision model alone has an encoder where the text model has none.
        let whole = try base(
            ["language_model.model.layers.0.q_proj.weight", "vision_tower.vision_model.encoder.layers.0.q_proj.weight"], models: ["llava"], in: folder
        )
        #expect(whole.resolve("encoder.layers.0.q_proj.weight") == nil && whole.resolve("vision_model.encoder.layers.0.q_proj.weight") == nil)
    }

    @Test func familiesKeepTheirRenamingsToThemselves() throws {
        let folder = try TemporaryFolder()
        let names = ["model.layers.0.self_attn.gate_proj.weight", "backbone.layers.0.q_proj.weight"]
        #expect(try base(names, models: ["lfm3"], in: folder).resolve("model.layers.0.self_attn.g_proj.weight") == names[0])
        let other = try base(names, models: ["llama"], in: folder)
        #expect(other.resolve("model.layers.0.self_attn.g_proj.weight") == nil && other.resolve("model.layers.0.q_proj.weight") == nil)
    }

    // MARK: Refusals

    private func refusal(of module: String, shape: (rows: Int, columns: Int) = (3, 2), by base: BaseModel) throws -> MergeError? {
        let module = AdapterModule(
            path: try #require(ModulePath(module)), rank: 1, alpha: 1, loraA: [Float](repeating: 1, count: shape.columns),
            loraB: [Float](repeating: 1, count: shape.rows))
        do {
            _ = try base.updates(of: module, weight: 1, adapter: "adapter")
            return nil
        } catch {
            return error
        }
    }

    @Test func whatMayBeSeveralTensorsIsRefused() throws {
        let folder = try TemporaryFolder()
        let model = try base(
            ["_orig_mod.model.layers.0.q_proj.weight", "language_model.model.layers.0.q_proj.weight"], models: ["llama"], in: folder)
        let error = try #require(try refusal(of: "model.layers.0.q_proj", by: model))
        #expect(error.code == .moduleNotInBase && error.message.contains("several tensors"))
        #expect(error.message.contains("_orig_mod.model.layers.0.q_proj.weight and language_model.model.layers.0.q_proj.weight"))
    }

    @Test func refusalsSayOnlyWhatIsKnown() throws {
        let folder = try TemporaryFolder()
        let model = try base(["model.layers.0.q_proj.weight", "model.layers.1.k_proj.weight"], models: ["somebodys"], in: folder)
        #expect(try refusal(of: "model.layers.0.q_proj", by: model) == nil)
        let unknown = try #require(try refusal(of: "model.layers.0.query", by: model))
        #expect(unknown.code == .moduleNotInBase && unknown.message.contains("the nearest is model.layers.0.q_proj.weight; either"))
        #expect(unknown.message.contains("family \"somebodys\"") && !unknown.message.contains("belongs to"))
        let deeper = try #require(try refusal(of: "model.layers.9.q_proj", by: model))
        #expect(deeper.message.hasSuffix("the nearest is model.layers.0.q_proj.weight; the adapter was made for a model with more layers or experts"))
        // The layer is there.
        let shared = try #require(try refusal(of: "model.layers.1.q_proj", by: model))
        #expect(shared.message.contains("the nearest is model.layers.0.q_proj.weight; either"))
        let misfit = try #require(try refusal(of: "model.layers.0.q_proj", shape: (3, 4), by: model))
        #expect(misfit.code == .shapeMismatch && misfit.message.contains("[3,4]") && misfit.message.contains("[3,2]"))
        #expect(misfit.message.hasSuffix("the adapter was made for a model of other sizes"))
    }

    @Test func aComponentThatIsNotThereIsNamed() throws {
        let folder = try TemporaryFolder()
        for part in ["text_encoder", "unet"] {
            try FileSystem.createFolder(folder.path(part))
            try writeSafetensors(
                [TestTensor("layers.0.q_proj.weight", .f32, [3, 2], values: [Float](repeating: 1, count: 6))],
                to: folder.path("\(part)/model.safetensors"))
        }
        try writeText(#"{"text_encoder": ["a", "b"], "unet": ["a", "b"]}"#, folder.path("model_index.json"))
        let model = try BaseModel(path: folder.path)
        #expect(model.resolve("text_encoder.layers.0.q_proj.weight") == "text_encoder.layers.0.q_proj.weight")
        let error = try #require(try refusal(of: "text_encoder_2.layers.0.q_proj", by: model))
        #expect(error.message == "the base has no component text_encoder_2; it has text_encoder, unet")
    }

    @Test func aWholeTensorTakesThePlaceOfTheOneOfItsNameInMemory() throws {
        let folder = try TemporaryFolder()
        let model = try base(["lm_head.weight", "model.embed_tokens.weight"], models: ["qwen2_5_vl"], in: folder)
        try writeSafetensors(
            [TestTensor("w", .f32, [3, 2], values: [Float](repeating: 2, count: 6))], to: folder.path("values.safetensors"))
        let values = try ModelWeights(path: folder.path("values.safetensors")).weight(named: "w")
        let adapter = Adapter(
            path: "adapter", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [],
            replacements: [Replacement(tensor: "model.language_model.embed_tokens.weight", values: values)])
        let adapted = try AdaptedModel(base: model, adapters: [.init(adapter)])
        #expect(adapted.tensors.map(\.name) == ["lm_head.weight", "model.embed_tokens.weight"])
        #expect(adapted.tensors.map(\.isOfBase) == [true, false])
    }

    // MARK: Other layouts

    @Test func theTextPartOfAModelOfImagesKeepsItsNameInOtherLayouts() throws {
        let folder = try TemporaryFolder()
        let model = try base(
            ["model.layers.0.self_attn.q_proj.weight", "visual.blocks.0.attn.proj.weight"], models: ["qwen2_5_vl", "qwen2_5_vl_text"], in: folder)
        func adapter(_ name: String) throws -> Adapter {
            let module = AdapterModule(path: try #require(ModulePath(name)), rank: 1, alpha: 1, loraA: [1, 2], loraB: [1, 2, 3])
            return Adapter(path: "adapter", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
        }
        for name in ["model.language_model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj"] {
            let (mlx, gguf) = (folder.path("\(name).mlx"), folder.path("\(name).gguf"))
            _ = try adapter(name).write(.mlx, to: mlx, base: model, options: .init(isDurable: false))
            _ = try adapter(name).write(.gguf, to: gguf, base: model, options: .init(isDurable: false))
            #expect(try Adapter.read(path: mlx).modules.map(\.path.text) == ["language_model.model.layers.0.self_attn.q_proj"])
            for path in [mlx, gguf] {
                let plan = try MergePlan(base: model.path, adapters: [.init(try Adapter.read(path: path))], readsFactors: false)
                #expect(plan.model.tensors.filter { !$0.updates.isEmpty }.map(\.name) == ["model.layers.0.self_attn.q_proj.weight"])
            }
        }
        for layout in [Adapter.Layout.mlx, .gguf] {
            #expect(throws: AdapterError.self) {
                try adapter("model.visual.blocks.0.attn.proj").write(layout, to: folder.path("x"), base: model, options: .init(isDurable: false))
            }
        }
    }

    /// PEFT passes over a name that is not one of the model in memory, and the adapter does nothing.
    struct Renamed: CustomTestStringConvertible {
        let configuration: JSONValue
        let names: [(file: String, memory: String)]
        var testDescription: String { configuration["model_type"]?.stringValue ?? "" }
    }

    static let renamed: [Renamed] = [
        Renamed(
            configuration: ["model_type": "qwen2_5_vl", "text_config": ["model_type": "qwen2_5_vl_text"]],
            names: [
                ("model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"),
                ("visual.blocks.0.attn.proj", "model.visual.blocks.0.attn.proj"), ("lm_head", "lm_head"),
            ]),
        Renamed(
            configuration: ["model_type": "gemma3", "text_config": ["model_type": "gemma3_text"]],
            names: [
                ("language_model.model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj"),
                ("vision_tower.vision_model.encoder.layers.0.self_attn.q_proj", "model.vision_tower.encoder.layers.0.self_attn.q_proj"),
            ]),
        Renamed(
            configuration: ["model_type": "llama4", "text_config": ["model_type": "llama4_text"]],
            names: [("language_model.model.layers.0.self_attn.q_proj", "language_model.model.layers.0.self_attn.q_proj")]),
        Renamed(
            configuration: ["model_type": "nemotron_h"], names: [("backbone.layers.0.mixer.in_proj", "model.layers.0.mixer.in_proj")]),
        Renamed(
            configuration: ["model_type": "mixtral"],
            names: [
                ("model.layers.0.block_sparse_moe.gate", "model.layers.0.mlp.gate"),
                // PEFT stacks them itself, by the names of files.
                ("model.layers.0.block_sparse_moe.experts.1.w1", "model.layers.0.block_sparse_moe.experts.1.w1"),
            ]),
        Renamed(
            configuration: ["model_type": "granitemoe"],
            names: [("model.layers.0.block_sparse_moe.router.layer", "model.layers.0.block_sparse_moe.router")]),
        Renamed(
            configuration: ["model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]],
            names: [("h.0.attn.c_attn", "transformer.h.0.attn.c_attn"), ("transformer.h.1.attn.c_attn", "transformer.h.1.attn.c_attn")]),
        Renamed(configuration: ["model_type": "gpt2", "architectures": ["GPT2Model"]], names: [("h.0.attn.c_attn", "h.0.attn.c_attn")]),
        Renamed(
            configuration: ["model_type": "vit", "architectures": ["ViTForImageClassification"]],
            names: [("vit.encoder.layer.0.attention.attention.query", "vit.layers.0.attention.q_proj")]),
        Renamed(
            configuration: ["model_type": "gemma3", "architectures": ["Gemma3Model"], "text_config": ["model_type": "gemma3_text"]],
            names: [("language_model.model.layers.0.mlp.up_proj", "language_model.layers.0.mlp.up_proj")]),
        Renamed(
            configuration: [
                "model_type": "clip", "architectures": ["CLIPModel"], "text_config": ["model_type": "clip_text_model"],
                "vision_config": ["model_type": "clip_vision_model"],
            ],
            names: [
                ("text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.0.self_attn.q_proj"),
                ("vision_model.encoder.layers.0.self_attn.q_proj", "vision_model.encoder.layers.0.self_attn.q_proj"),
            ]),
        // Classes for other tasks of the same family.
        Renamed(
            configuration: [
                "model_type": "clip", "architectures": ["CLIPForImageClassification"], "text_config": ["model_type": "clip_text_model"],
                "vision_config": ["model_type": "clip_vision_model"],
            ],
            names: [
                ("vision_model.encoder.layers.0.self_attn.q_proj", "vision_model.encoder.layers.0.self_attn.q_proj"), ("classifier", "classifier"),
            ]),
        Renamed(
            configuration: ["model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"]],
            names: [("vision_model.encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.q_proj")]),
        Renamed(
            configuration: [
                "model_type": "modernvbert", "architectures": ["ModernVBertForSequenceClassification"],
                "text_config": ["model_type": "modernbert"], "vision_config": ["model_type": "siglip_vision_model"],
            ],
            names: [
                ("model.vision_model.encoder.layers.0.self_attn.q_proj", "model.vision_model.encoder.layers.0.self_attn.q_proj"),
                ("model.text_model.layers.0.attn.Wo", "model.text_model.layers.0.attn.Wo"), ("head.dense", "head.dense"),
                ("classifier", "classifier"),
            ]),
        Renamed(
            configuration: [
                "model_type": "shieldgemma2", "architectures": ["ShieldGemma2ForImageClassification"], "text_config": ["model_type": "gemma3_text"],
            ],
            names: [
                ("model.model.language_model.model.layers.0.mlp.up_proj", "model.model.language_model.layers.0.mlp.up_proj"),
                (
                    "model.model.vision_tower.encoder.layers.0.self_attn.q_proj",
                    "model.model.vision_tower.encoder.layers.0.self_attn.q_proj"
                ),
            ]),
        Renamed(
            configuration: ["model_type": "vit_msn", "architectures": ["ViTMSNForImageClassification"]],
            names: [("encoder.layer.0.attention.attention.query", "vit.layers.0.attention.q_proj"), ("classifier", "classifier")]),
        Renamed(
            configuration: ["model_type": "ultrabert", "architectures": ["UltrabertForMaskedLM"]],
            names: [
                ("ultrabert.layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj"), ("cls", "head.decoder"), ("head.linear1", "head.linear1"),
            ]),
        Renamed(
            configuration: ["model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]],
            names: [("transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_attn"), ("score", "score")]),
        Renamed(
            configuration: ["model_type": "bloom", "architectures": ["BloomForQuestionAnswering"]],
            names: [("h.0.mlp.dense_h_to_4h", "transformer.h.0.mlp.dense_h_to_4h"), ("qa_outputs", "qa_outputs")]),
        Renamed(configuration: ["model_type": "llama"], names: [("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj")]),
    ]

    @Test(arguments: renamed)
    func peftGetsTheNamesInMemory(_ family: Renamed) throws {
        let folder = try TemporaryFolder()
        let path = folder.path("base")
        try FileSystem.createFolder(path)
        try writeSafetensors(
            family.names.map { TestTensor($0.file + ".weight", .f32, [3, 2], values: [1, 1, 1, 1, 1, 1]) },
            to: FileSystem.join(path, "model.safetensors"))
        try writeText(family.configuration.serialized(), FileSystem.join(path, "config.json"))
        let base = try BaseModel(path: path)
        let modules = try family.names.map {
            AdapterModule(path: try #require(ModulePath($0.file)), rank: 1, alpha: 1, loraA: [1, 2], loraB: [1, 2, 3])
        }
        for dialect in [Adapter.Dialect.extraction, .mlx, .gguf, .kohya] {
            let adapter = Adapter(path: "adapter", dialect: dialect, weightsPath: nil, baseModel: nil, targets: [], modules: modules)
            let out = folder.path(dialect.rawValue)
            _ = try adapter.write(.peft, to: out, base: base, options: .init(isDurable: false))
            let read = try Adapter.read(path: out)
            #expect(read.modules.map(\.path.text).sorted() == family.names.map(\.memory).sorted())
            // They are the same modules of the base.
            let plan = try MergePlan(base: path, adapters: [.init(read)], readsFactors: false)
            #expect(plan.model.tensors.count { !$0.updates.isEmpty } == family.names.count)
        }
    }

    @Test func namesInMemoryThatAreNotKnownAreNotGuessed() throws {
        let folder = try TemporaryFolder()
        let model = try base(["model.encoder.layers.0.self_attn.q_proj.weight"], models: ["t5gemma2"], in: folder)
        let module = AdapterModule(
            path: try #require(ModulePath("model.encoder.layers.0.self_attn.q_proj")), rank: 1, alpha: 1, loraA: [1, 2], loraB: [1, 2, 3])
        let adapter = Adapter(path: "adapter", dialect: .extraction, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
        let error = #expect(throws: AdapterError.self) {
            try adapter.write(.peft, to: folder.path("out"), base: model, options: .init(isDurable: false))
        }
        #expect("\(try #require(error))".contains("the family \"t5gemma2\" is not known here"))
        // Some classes of a family have the inner model under a name of its own, and some are it.
        let path = folder.path("backbone")
        try FileSystem.createFolder(path)
        try writeText(#"{"model_type": "beit", "architectures": ["BeitBackbone"]}"#, FileSystem.join(path, "config.json"))
        try writeSafetensors(
            [TestTensor("\(module.path).weight", .f32, [3, 2], values: [1, 1, 1, 1, 1, 1])], to: FileSystem.join(path, "model.safetensors"))
        let backbone = try BaseModel(path: path)
        #expect(throws: AdapterError.self) { try adapter.write(.peft, to: folder.path("out"), base: backbone, options: .init(isDurable: false)) }
    }

    /// mlx-lm calls GPT-2's inner model `model`; the files tell what it is called in memory.
    @Test func namesOfMLXAreThoseOfTheFiles() throws {
        let folder = try TemporaryFolder()
        for prefix in ["", "transformer."] {
            let model = try base(["\(prefix)h.0.attn.c_attn.weight"], in: folder)
            try writeText(#"{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}"#, FileSystem.join(model.path, "config.json"))
            let module = AdapterModule(
                path: try #require(ModulePath("model.h.0.attn.c_attn")), rank: 1, alpha: 1, loraA: [1, 2, 3], loraB: [1, 2])
            let adapter = Adapter(path: "adapter", dialect: .mlx, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
            let out = folder.path("gpt\(prefix.count)")
            _ = try adapter.write(.peft, to: out, base: try BaseModel(path: model.path), options: .init(isDurable: false))
            #expect(try Adapter.read(path: out).modules.map(\.path.text) == ["transformer.h.0.attn.c_attn"])
        }
    }

    /// Linear layers have known names in some families whose norms have not.
    @Test func normsOfSomeFamiliesAreNotGuessed() throws {
        let folder = try TemporaryFolder()
        let name = "gte.layers.0.attn_ln.weight"
        let model = try base([name, "gte.layers.0.self_attn.q_proj.weight"], models: ["gte"], in: folder)
        let module = AdapterModule(
            path: try #require(ModulePath("gte.layers.0.self_attn.q_proj")), rank: 1, alpha: 1, loraA: [1, 2], loraB: [1, 2, 3])
        func write(_ replacements: [Replacement], _ layout: Adapter.Layout) throws {
            let adapter = Adapter(
                path: "adapter", dialect: .extraction, weightsPath: nil, baseModel: nil, targets: [], modules: [module], replacements: replacements)
            _ = try adapter.write(layout, to: folder.path("\(layout)\(replacements.count)"), base: model, options: .init(isDurable: false))
        }
        let norm = Replacement(tensor: name, values: try model.files.weight(named: name))
        try write([], .peft)
        try write([norm], .safetensors)
        let error = #expect(throws: AdapterError.self) { try write([norm], .peft) }
        #expect(error?.subject == name && error?.message.contains("the norms and convolutions of the family \"gte\"") == true, "\(error as Any)")
    }

    @Test func onlyTheBaseTellsTheNamesInMemoryOfAnAdapterOfMLX() throws {
        let folder = try TemporaryFolder()
        let module = AdapterModule(
            path: try #require(ModulePath("language_model.model.layers.0.self_attn.q_proj")), rank: 1, alpha: 1, loraA: [1, 2], loraB: [1, 2, 3])
        let adapter = Adapter(path: "adapter", dialect: .mlx, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
        let error = #expect(throws: AdapterError.self) { try adapter.write(.peft, to: folder.path("out"), options: .init(isDurable: false)) }
        #expect(error?.cause == .needsBase, "\(error as Any)")
    }
}
