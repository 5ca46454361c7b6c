import Adapters
import FileIO
import Methods
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

/// The names that the modules of diffusion models get in diffusers' layout and in kohya's.
struct DenoiserNamesTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private func tensors(_ modules: [(name: String, shape: [Int])], _ names: (String, String), rank: Int = 2) -> [TestTensor] {
        var generator = SeededGenerator(seed: 3)
        return modules.flatMap { name, shape in
            [
                TestTensor("\(name).\(names.0).weight", .f32, [rank, shape[1]], values: generator.values(rank * shape[1], spread: 1)),
                TestTensor("\(name).\(names.1).weight", .f32, [shape[0], rank], values: generator.values(shape[0] * rank, spread: 1)),
            ]
        }
    }

    private func adapter(_ modules: [(name: String, shape: [Int])], _ name: String = "a") throws -> Adapter {
        let isFlat = modules[0].name.hasPrefix("lora_")
        try writeSafetensors(tensors(modules, isFlat ? ("lora_down", "lora_up") : ("lora_A", "lora_B")), to: folder.path(name + ".safetensors"))
        return try Adapter.read(path: folder.path(name + ".safetensors"))
    }

    /// A base with matrices of these names; with a class, a folder of diffusers.
    private func base(_ modules: [(name: String, shape: [Int])], className: String? = nil) throws -> BaseModel {
        let path = folder.path(className == nil ? "base.safetensors" : "base")
        if className != nil { try FileSystem.createFolder(path) }
        let file = className == nil ? path : path + "/diffusion_pytorch_model.safetensors"
        try writeSafetensors(
            modules.map { TestTensor("\($0.name).weight", .f32, $0.shape, values: [Float](repeating: 0, count: $0.shape.reduce(1, *))) }, to: file)
        if let className { try writeText(#"{"_class_name": "\#(className)"}"#, path + "/config.json") }
        return try BaseModel(path: path)
    }

    private func names(_ adapter: Adapter, _ layout: Adapter.Layout, base: BaseModel? = nil) throws -> [String] {
        let out = folder.path("out-\(layout.rawValue)")
        let named = try base.map { try $0.naming(adapter) } ?? adapter
        _ = try named.write(layout, to: out, base: base, options: .init(isReplacing: true, isDurable: false))
        let file = try SafetensorsFile(path: layout == .diffusers ? out + "/pytorch_lora_weights.safetensors" : out)
        let ending = layout == .diffusers ? ".lora_A.weight" : ".lora_down.weight"
        return file.tensors.keys.filter { $0.hasSuffix(ending) }.map { String($0.dropLast(ending.count)) }.sorted()
    }

    // MARK: diffusers

    @Test func transformersOfKohyasLayoutAreUnderTransformer() throws {
        let modules = [("layers.0.attention.to_q", [4, 4]), ("layers.0.feed_forward.w1", [8, 4])]
        let flat = try adapter(modules.map { ("lora_unet_" + $0.0.replacing(".", with: "_"), $0.1) })
        let found = try names(flat, .diffusers, base: try base(modules, className: "ZImageTransformer2DModel"))
        #expect(found == modules.map { "transformer." + $0.0 }.sorted())
    }

    @Test func fusedProjectionsAreCutForDiffusers() throws {
        let flat = try adapter([("lora_unet_double_blocks_0_img_attn_qkv", [12, 4]), ("lora_unet_single_blocks_0_linear1", [28, 4])])
        let found = try names(
            flat, .diffusers, base: try base([("double_blocks.0.img_attn.qkv", [12, 4]), ("single_blocks.0.linear1", [28, 4])]))
        let (double, single) = ("transformer.transformer_blocks.0.attn.", "transformer.single_transformer_blocks.0.")
        #expect(
            found
                == [
                    double + "to_k", double + "to_q", double + "to_v", single + "attn.to_k", single + "attn.to_q", single + "attn.to_v",
                    single + "proj_mlp",
                ]
                .sorted())
    }

    @Test func authorsNamesOfWanNeedNoBase() throws {
        let found = try names(
            try adapter([("diffusion_model.blocks.0.self_attn.q", [4, 4]), ("diffusion_model.blocks.0.ffn.0", [8, 4])]), .diffusers)
        #expect(found == ["transformer.blocks.0.attn1.to_q", "transformer.blocks.0.ffn.net.0.proj"])
    }

    @Test func namesOfSeveralFamiliesAreAskedAbout() throws {
        let fused = try adapter([("diffusion_model.single_blocks.0.linear1", [20, 4])])
        #expect(throws: AdapterError.self) { try names(fused, .diffusers) }
        // The number of rows tells Flux.2 from Flux.1.
        let flux2 = try adapter([("diffusion_model.single_blocks.0.linear1", [36, 4])], "b")
        #expect(try names(flux2, .diffusers) == ["transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj"])
    }

    /// What was given is not asked for once more.
    @Test func aBaseThatDoesNotTellIsNotAskedForAgain() throws {
        let modules = [("double_blocks.0.img_mlp.0", [8, 4]), ("double_blocks.0.img_attn.qkv", [12, 4])]
        let prefixed = modules.map { ("diffusion_model." + $0.0, $0.1) }
        for (layout, isKnown) in [(Adapter.Layout.diffusers, false), (.kohya, true)] {
            let named = { try names(try adapter(prefixed), layout, base: try base(modules)) }
            guard !isKnown else {
                _ = try named()
                continue
            }
            let error = #expect(throws: AdapterError.self) { try named() }
            #expect(error?.message.contains("the base's names and shapes are those of all of them") == true, "\(error as Any)")
        }
        let odd = [("odd_blocks.0.to_q", [4, 4])]
        let error = #expect(throws: AdapterError.self) {
            try names(try adapter([("diffusion_model.odd_blocks.0.to_q", [4, 4])]), .diffusers, base: try base(odd))
        }
        #expect(error?.message.contains("nor does the base") == true && error?.cause == .needsComponent, "\(error as Any)")
    }

    @Test func familiesThatAreNotKnownAreRefused() throws {
        #expect(throws: AdapterError.self) { try names(try adapter([("diffusion_model.odd_blocks.0.to_q", [4, 4])]), .diffusers) }
        #expect(throws: AdapterError.self) { try names(try adapter([("lora_unet_odd_blocks_0_to_q", [4, 4])], "b"), .diffusers) }
        // Under the names of a base of diffusers they are its own.
        let odd = try base([("odd_blocks.0.to_q", [4, 4])], className: "OddTransformer2DModel")
        #expect(try names(try adapter([("lora_unet_odd_blocks_0_to_q", [4, 4])], "c"), .diffusers, base: odd) == ["transformer.odd_blocks.0.to_q"])
    }

    @Test func halvesThatDiffusersExchangesAreExchanged() throws {
        let given = try adapter([
            ("diffusion_model.final_layer.adaLN_modulation.1", [4, 3]), ("diffusion_model.single_blocks.0.modulation.lin", [12, 4]),
        ])
        _ = try names(given, .diffusers)
        let made = try Adapter.read(path: folder.path("out-diffusers"))
        let (old, new) = (given.modules[0].loraB.doubles(), try #require(made.modules.first { $0.path.text == "norm_out.linear" }).loraB.doubles())
        #expect(new == Array(old[4...] + old[..<4]))
    }

    // MARK: kohya

    @Test func kohyasLayoutHasTheAuthorsNamesOfFlux() throws {
        let modules =
            ["to_q", "to_k", "to_v"].map { ("transformer_blocks.0.attn.\($0)", [4, 4]) } + [("transformer_blocks.0.ff.net.0.proj", [16, 4])]
        let given = try adapter(modules.map { ("transformer." + $0.0, $0.1) })
        let flux = try base(modules, className: "FluxTransformer2DModel")
        #expect(try names(given, .kohya, base: flux) == ["lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_double_blocks_0_img_mlp_0"])
        // The same updates: A of one below that of the other, alpha as many times as large.
        let made = try flux.naming(Adapter.read(path: folder.path("out-kohya")))
        #expect(made.modules.map(\.path) == given.modules.map(\.path))
        for (found, expected) in zip(made.modules, given.modules) {
            let (a, b, rank) = (found.loraA.doubles(), found.loraB.doubles(), found.rank)
            let (oldA, oldB) = (expected.loraA.doubles(), expected.loraB.doubles())
            for row in 0..<found.outputs {
                for column in 0..<4 {
                    let sum = (0..<rank).reduce(0.0) { $0 + b[row * rank + $1] * a[$1 * 4 + column] } * found.scale
                    #expect(sum == (0..<2).reduce(0.0) { $0 + oldB[row * 2 + $1] * oldA[$1 * 4 + column] } * expected.scale)
                }
            }
        }
    }

    @Test func missingPartsOfAFusedProjectionAreZeros() throws {
        let given = try adapter([("transformer.single_transformer_blocks.0.attn.to_k", [4, 4])])
        let parts = ["attn.to_q", "attn.to_k", "attn.to_v"].map { ("single_transformer_blocks.0.\($0)", [4, 4]) }
        let flux = try base(parts + [("single_transformer_blocks.0.proj_mlp", [16, 4])], className: "FluxTransformer2DModel")
        #expect(try names(given, .kohya, base: flux) == ["lora_unet_single_blocks_0_linear1"])
        let made = try #require(try Adapter.read(path: folder.path("out-kohya")).modules.first)
        #expect(made.outputs == 28 && made.loraB.rows(from: 4, count: 4).doubles() == given.modules[0].loraB.doubles())
        // Without the base nobody knows how long the rest is.
        #expect(throws: AdapterError.self) { try names(given, .kohya) }
    }

    @Test func kohyasLayoutKeepsNamesThatBothSidesHave() throws {
        for (className, name) in [
            ("UNet2DConditionModel", "down_blocks.0.attentions.0.to_q"), ("QwenImageTransformer2DModel", "transformer_blocks.0.attn.to_q"),
            ("ZImageTransformer2DModel", "layers.0.attention.to_q"),
        ] {
            let own = try BothSides(folder, className: className, name: name)
            #expect(try names(own.adapter, .kohya, base: own.base) == ["lora_unet_" + name.replacing(".", with: "_")])
        }
    }

    private struct BothSides {
        let adapter: Adapter
        let base: BaseModel

        init(_ folder: TemporaryFolder, className: String, name: String) throws {
            let path = folder.path(className)
            try FileSystem.createFolder(path)
            let values = [Float](repeating: 1, count: 16)
            try writeSafetensors([TestTensor(name + ".weight", .f32, [4, 4], values: values)], to: path + "/diffusion_pytorch_model.safetensors")
            try writeText(#"{"_class_name": "\#(className)"}"#, path + "/config.json")
            base = try BaseModel(path: path)
            let module = AdapterModule(
                path: ModulePath(name)!, rank: 1, alpha: 1, loraA: [Float](repeating: 1, count: 4), loraB: [Float](repeating: 1, count: 4))
            adapter = Adapter(path: "x", dialect: .extraction, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
        }
    }

    @Test func kohyasLayoutOfAFamilyWithoutATableIsRefused() throws {
        for className in ["SD3Transformer2DModel", "SanaTransformer2DModel"] {
            let own = try BothSides(folder, className: className, name: "transformer_blocks.0.attn.to_q")
            #expect(throws: AdapterError.self) { try names(own.adapter, .kohya, base: own.base) }
        }
    }

    /// Names that several families have, some of them without a table here, are no family's for certain.
    @Test func kohyasLayoutOfNamesThatDoNotTellTheFamilyIsRefused() throws {
        let attention = ["attn.to_q", "attn.add_q_proj", "norm1.linear"].map { ("transformer.transformer_blocks.0.\($0)", [4, 4]) }
        let uncertain = [
            // Stable Diffusion 3, with names that Flux.1 has, too.
            [("transformer.transformer_blocks.0.ff.net.0.proj", [16, 4])],
            attention + [("transformer.context_embedder", [4, 4]), ("transformer.norm_out.linear", [8, 4])],
            // Sana, with LTX-Video's, and AuraFlow, with Flux.1's and Qwen-Image's.
            [("transformer.transformer_blocks.0.attn1.to_q", [4, 4]), ("transformer.caption_projection.linear_1", [4, 4])],
            [("transformer.transformer_blocks.0.attn1.to_q", [4, 4])],
            [
                ("transformer.joint_transformer_blocks.0.attn.to_q", [4, 4]), ("transformer.proj_out", [4, 4]),
                ("transformer.norm_out.linear", [8, 4]),
            ],
            [("transformer.single_transformer_blocks.0.attn.to_q", [4, 4])],
        ]
        for (number, modules) in uncertain.enumerated() {
            let error = #expect(throws: AdapterError.self) { try names(try adapter(modules, "u\(number)"), .kohya) }
            #expect(error?.cause == .needsBaseForFamily, "\(number): \(error as Any)")
        }
        let certain: [([(name: String, shape: [Int])], [String])] = [
            (
                attention + [("transformer.single_transformer_blocks.0.norm.linear", [12, 4])],
                ["double_blocks_0_img_attn_qkv", "double_blocks_0_img_mod_lin", "double_blocks_0_txt_attn_qkv", "single_blocks_0_modulation_lin"]
            ),
            (
                [("transformer.transformer_blocks.0.attn.to_q", [4, 4]), ("transformer.transformer_blocks.0.img_mlp.net.2", [4, 16])],
                ["transformer_blocks_0_attn_to_q", "transformer_blocks_0_img_mlp_net_2"]
            ),
            ([("transformer.blocks.0.attn1.to_q", [4, 4])], ["blocks_0_self_attn_q"]),
            ([("transformer.layers.0.attention.to_q", [4, 4])], ["layers_0_attention_to_q"]),
            ([("transformer.transformer_blocks.0.ff.linear_in", [24, 4])], ["double_blocks_0_img_mlp_0"]),
            // ComfyUI takes the same names under diffusion_model. and lora_unet_.
            ([("diffusion_model.transformer_blocks.0.attn1.to_q", [4, 4])], ["transformer_blocks_0_attn1_to_q"]),
        ]
        for (number, (modules, expected)) in certain.enumerated() {
            #expect(try names(try adapter(modules, "c\(number)"), .kohya) == expected.map { "lora_unet_" + $0 }, "\(number)")
        }
    }

    // MARK: What diffusers takes

    private func reasons(_ modules: [(name: String, shape: [Int])], _ name: String) throws -> [String] {
        ServingStack.diffusers.verdict(on: try adapter(modules, name)).reasons
    }

    @Test func diffusersTakesModulesOutsideOfTheBlocks() throws {
        let qwen = [("lora_unet_transformer_blocks_0_img_mlp_net_2", [4, 16])]
        #expect(try reasons(qwen + [("lora_unet_time_text_embed_timestep_embedder_linear_1", [4, 4]), ("lora_unet_img_in", [4, 4])], "q") == [])
        #expect(try reasons(qwen + [("lora_unet_other_in", [4, 4])], "o").first?.contains("does not know the module") == true)
        let zImage = [("lora_unet_layers_0_attention_to_q", [4, 4])]
        let outer = ["all_x_embedder_2-1", "all_final_layer_2-1_linear", "t_embedder_mlp_0", "cap_embedder_1"].map { ("lora_unet_" + $0, [4, 4]) }
        #expect(try reasons(zImage + outer, "z") == [])
        #expect(try reasons(zImage + [("lora_unet_final_layer_linear", [4, 4])], "f").first?.contains("outside of the blocks") == true)
    }

    /// HiDream calls modules in diffusers as the authors of Flux call them.
    @Test func namesOfFamiliesWithoutATableAreNoOtherAuthors() throws {
        let own = [("transformer.final_layer.adaLN_modulation.1", [8, 4]), ("transformer.double_stream_blocks.0.block.attn1.to_q", [4, 4])]
        #expect(try reasons(own, "h") == [])
        #expect(try reasons([("transformer.double_blocks.0.img_attn.qkv", [12, 4])], "f").first?.contains("its own names") == true)
    }

    @Test func whatIsExtractedFromOneFileIsForTheDenoiser() throws {
        for prefix in ["", "model.diffusion_model."] {
            let name = prefix + "double_blocks.0.img_attn.proj"
            for (file, value) in [("one", Float(0)), ("two", 1)] {
                try writeSafetensors(
                    [TestTensor(name + ".weight", .f32, [4, 4], values: [Float](repeating: value, count: 16))],
                    to: folder.path(file + prefix + ".safetensors"))
            }
            let one = folder.path("one\(prefix).safetensors")
            let made = try Extraction(base: one, tuned: folder.path("two\(prefix).safetensors"), options: .init(choice: RankChoice(rank: 1))).adapter
            _ = try made.write(.kohya, to: folder.path("k"), base: try BaseModel(path: one), options: .init(isReplacing: true, isDurable: false))
            let keys = try SafetensorsFile(path: folder.path("k")).tensors.keys
            #expect(keys.allSatisfy { $0.hasPrefix("lora_unet_double_blocks_0_img_attn_proj.") }, "\(keys)")
        }
    }

    // MARK: Two denoisers

    @Test func ofTwoDenoisersTheUserSaysWhich() throws {
        let path = folder.path("wan")
        try FileSystem.createFolder(path)
        try writeText(
            #"{"_class_name": "WanPipeline", "transformer": ["diffusers", "W"], "transformer_2": ["diffusers", "W"]}"#, path + "/model_index.json")
        for part in ["transformer", "transformer_2"] {
            try FileSystem.createFolder(path + "/" + part)
            try writeSafetensors(
                [TestTensor("blocks.0.attn1.to_q.weight", .f32, [4, 4], values: [Float](repeating: 1, count: 16))],
                to: path + "/\(part)/diffusion_pytorch_model.safetensors")
            try writeText(#"{"_class_name": "WanTransformer3DModel"}"#, path + "/\(part)/config.json")
        }
        for name in ["diffusion_model.blocks.0.self_attn.q", "lora_unet_blocks_0_self_attn_q"] {
            let given = try adapter([(name, [4, 4])], name)
            #expect(throws: MergeError.self) { try MergePlan(base: path, adapters: [.init(given)]) }
            for part in ["transformer", "transformer_2"] {
                let plan = try MergePlan(base: path, adapters: [.init(try given.taking(component: part))])
                #expect(plan.steps.filter { $0.module != nil }.map(\.tensor) == ["\(part).blocks.0.attn1.to_q.weight"])
            }
        }
    }
}
