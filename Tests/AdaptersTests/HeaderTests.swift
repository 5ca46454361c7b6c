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

/// What the header of an adapter's file says: alphas that stand nowhere else, and what a trainer has written down.
struct HeaderTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private func tensor(_ name: String, _ shape: [Int], _ value: Float = 1) -> TestTensor {
        TestTensor(name, .f32, shape, values: [Float](repeating: value, count: shape.reduce(1, *)))
    }

    private func pair(_ module: String, rank: Int = 4, names: (String, String) = ("lora_A", "lora_B")) -> [TestTensor] {
        [tensor("\(module).\(names.0).weight", [rank, 3]), tensor("\(module).\(names.1).weight", [5, rank])]
    }

    private func read(_ tensors: [TestTensor], _ metadata: [String: String] = [:], alpha: AlphaChoice = .ofFile) throws -> Adapter {
        let path = folder.path("a.safetensors")
        try? FileSystem.remove(path)
        try writeSafetensors(tensors, to: path, metadata: metadata)
        return try Adapter.read(path: path, alpha: alpha)
    }

    // MARK: Alpha

    static let stated: [[String: String]] = [
        ["alpha": "1"], ["lora_alpha": "1", "r": "4"], ["network_alpha": "1.0"], ["transformer.lora_alpha": "1", "transformer.r": "4"],
        ["lora_config": #"{"r": 4, "lora_alpha": 1}"#], ["alpha": "1", "lora_alpha": "1.0"],
        ["transformer.lora_alpha": "0.5", "transformer.use_rslora": "true"],
    ]

    @Test(arguments: stated)
    func anAlphaInTheHeaderCounts(metadata: [String: String]) throws {
        let adapter = try read(pair("transformer.a"), metadata)
        #expect(adapter.modules[0].scale == 0.25 && adapter.remarks.count == 1, "\(adapter.remarks)")
        let flat = try read(pair("lora_unet_a", names: ("lora_down", "lora_up")), metadata)
        #expect(flat.modules[0].scale == 0.25 && flat.remarks.count == 1)
    }

    @Test func anAlphaBesideTheFactorsGoesFirst() throws {
        let adapter = try read(pair("transformer.a") + [tensor("transformer.a.alpha", [], 2)] + pair("transformer.b"), ["alpha": "1"])
        #expect(adapter.modules.map(\.scale) == [0.5, 0.25])
        #expect(try read(pair("transformer.a"), ["alpha": "None"]).modules[0].scale == 1)
    }

    static let unsettled: [[String: String]] = [
        ["alpha": "1", "lora_alpha": "2"], ["alpha": "much"], ["lora_alpha": "inf"], ["ss_network_alpha": "1", "ss_network_dim": "4"],
        ["lora_alpha": "1", "alpha_pattern": #"{"a": 2}"#],
    ]

    @Test(arguments: unsettled)
    func whatTheHeaderLeavesOpenIsAsked(metadata: [String: String]) throws {
        #expect(throws: AdapterError.self) { try read(pair("transformer.a"), metadata) }
        #expect(try read(pair("transformer.a"), metadata, alpha: .rank).modules[0].scale == 1)
        let given = try read(pair("transformer.a"), metadata, alpha: .number(2))
        #expect(given.modules[0].scale == 0.5)
        // Which of two fields of the header it stands for cannot be said.
        if metadata["alpha"] == nil, metadata["lora_alpha"] == "1", metadata["alpha_pattern"] == nil {
            #expect(given.remarks == ["the alpha that was asked for counts, and not lora_alpha in the header"])
        }
    }

    /// LyCORIS takes the scale one where both matrices are whole.
    @Test func whereNoTensorHasARankNoAlphaIsDividedByOne() throws {
        let tensors = [tensor("lora_unet_a.lokr_w1", [2, 2]), tensor("lora_unet_a.lokr_w2", [3, 3]), tensor("lora_unet_a.alpha", [], 7)]
        #expect(try read(tensors).modules[0].scale == 1)
        for alpha in [AlphaChoice.rank, .number(7), .number(1)] {
            let error = #expect(throws: AdapterError.self) { try read(tensors, alpha: alpha) }
            #expect(error?.code == .invalidScale && error?.message.contains("none of its tensors has a rank") == true)
        }
    }

    @Test func aGivenAlphaDoesNotContradictTheFile() throws {
        let tensors = pair("transformer.a") + [tensor("transformer.a.alpha", [], 2)]
        #expect(try read(tensors, alpha: .number(2)).modules[0].scale == 0.5)
        #expect(throws: AdapterError.self) { try read(tensors, alpha: .number(4)) }
        #expect(throws: AdapterError.self) { try read(tensors, alpha: .rank) }
        let peft = folder.path("peft")
        try PEFT.write(
            TestModel.outputs([TestModel.modules[0]], rank: 4, alpha: 8, seed: 1), to: peft, options: .init(isDurable: false))
        #expect(try Adapter.read(path: peft, alpha: .number(8)).modules[0].alpha == 8)
        #expect(throws: AdapterError.self) { try Adapter.read(path: peft, alpha: .number(4)) }
    }

    @Test func aModuleCalledDownKeepsItsAlpha() throws {
        for name in ["down", "up", "lora", "gate"] {
            let module = "diffusion_model.blocks.0.mlp.\(name)"
            let adapter = try read(pair(module) + [tensor(module + ".alpha", [], 1)])
            #expect(adapter.modules[0].scale == 0.25 && adapter.modules[0].path.text == "blocks.0.mlp.\(name)")
        }
        let old = try read(pair("unet.a.to_q.lora", names: ("down", "up")) + [tensor("unet.a.to_q.lora.down.alpha", [], 1)])
        #expect(old.modules[0].scale == 0.25)
    }

    @Test func anAlphaOfZeroIsNoChangeAndIsSaid() throws {
        for tensors in [
            pair("transformer.a") + [tensor("transformer.a.alpha", [], 0)],
            pair("lora_unet_a", names: ("lora_down", "lora_up")) + [tensor("lora_unet_a.alpha", [], 0)],
        ] {
            let adapter = try read(tensors)
            #expect(adapter.modules[0].scale == 0 && adapter.remarks.contains { $0.contains("is 0") })
        }
    }

    @Test func namesOfPEFTInOneFileWantAnAlpha() throws {
        let tensors = pair("base_model.model.transformer.a")
        #expect(throws: AdapterError.self) { try read(tensors) }
        let adapter = try read(tensors, alpha: .number(2))
        #expect(adapter.modules[0].scale == 0.5 && adapter.modules[0].label.text == "transformer.a" && adapter.components.isEmpty)
        #expect(try read(tensors, ["lora_alpha": "1"]).modules[0].scale == 0.25)
    }

    @Test func magnitudesBehindNamesWithDotsAreRead() throws {
        for (ending, shape, isOfOutputs) in [(".dora_scale", [5, 1], true), (".dora_scale", [1, 3], false), (".magnitude", [5], true)] {
            let module = try read(pair("unet.a.to_q") + [tensor("unet.a.to_q" + ending, shape)]).modules[0]
            switch try #require(module.magnitude) {
            case .ofRows(let values): #expect(isOfOutputs && values.columns == 5)
            case .ofColumns(let values): #expect(!isOfOutputs && values.columns == 3)
            }
        }
        #expect(throws: AdapterError.self) { try read(pair("unet.a.to_q") + [tensor("unet.b.to_q.dora_scale", [5, 1])]) }
    }

    // MARK: Other methods

    static let others = [
        ("diffusion_model.a.to_q.lokr_w1", "LoKr"), ("unet.a.hada_w1_a", "LoHa"), ("transformer.a.ia3_l", "IA³"),
        ("diffusion_model.a.diff_b", "difference"), ("diffusion_model.a.diff", "difference"), ("lora_unet_a.oft_blocks", "OFT"),
        ("transformer.a.oft_R.weight", "OFT"), ("lycoris_a.a1.weight", "GLoRA"),
    ]

    @Test(arguments: others.indices)
    func otherMethodsAreRefusedByName(number: Int) throws {
        let (name, word) = Self.others[number]
        for tensors in [[tensor(name, [3, 3])], pair("diffusion_model.b") + [tensor(name, [3, 3])]] {
            do {
                _ = try read(tensors)
                Issue.record("\(name) was accepted")
            } catch let error as AdapterError {
                #expect(error.code == .unsupportedFeature && error.message.contains(word), "\(error)")
            } catch {
                Issue.record("\(error)")
            }
            if name.hasPrefix("ly") || name.hasPrefix("lora") { break }
        }
    }

    @Test func theTypeIsJudgedBeforeTheFields() throws {
        let path = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 1).path
        try writeText(#"{"peft_type": "OFT", "r": 8, "eps": 0.1, "block_share": true}"#, path + "/adapter_config.json")
        do {
            _ = try Adapter.read(path: path)
            Issue.record("it was accepted")
        } catch let error as AdapterError {
            #expect(error.subject == "peft_type" && error.message.contains("OFT"))
        }
    }

    // MARK: Wrappers

    @Test func namesOfWrappersAreTakenOff() throws {
        let names = [
            "_orig_mod.transformer.blocks.0.attn.to_q", "module._orig_mod.transformer.blocks.0.attn.to_q",
            "transformer._orig_mod.blocks.0.attn.to_q", "transformer.blocks.0._orig_mod.attn.to_q",
            "transformer.module.blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.attn.to_q",
            "_fsdp_wrapped_module.module.transformer.blocks.0.attn.to_q",
        ]
        for name in names {
            for infix in ["", ".default"] {
                let adapter = try read([
                    tensor("\(name).lora_A\(infix).weight", [4, 3]), tensor("\(name).lora_B\(infix).weight", [5, 4]), tensor("\(name).alpha", [], 2),
                ])
                #expect(adapter.modules.map(\.label.text) == ["transformer.blocks.0.attn.to_q"] && adapter.modules[0].scale == 0.5, "\(name)")
            }
        }
        let flat = try read(pair("lora_unet__orig_mod_down_blocks_0__orig_mod_to_q", names: ("lora_down", "lora_up")))
        #expect(flat.modules[0].path.text == "down_blocks_0_to_q")
        // A module that is itself called so, and two tensors that become one.
        #expect(try read(pair("transformer.blocks.0.module.to_q")).modules[0].path.text == "blocks.0.module.to_q")
        #expect(throws: AdapterError.self) { try read(pair("transformer.a") + pair("_orig_mod.transformer.a")) }
    }

    @Test func namesOfWrappersInAFolderOfPEFTAreTakenOff() throws {
        let plain = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 1)
        let file = try SafetensorsFile(path: folder.path("adapter/adapter_model.safetensors"))
        let tensors = file.tensors.values.map { info in
            let name = info.name.replacing("base_model.model.", with: "_orig_mod.module.base_model.model._fsdp_wrapped_module.")
                .replacing("lora_A.weight", with: "lora_A.default.weight").replacing("lora_B.weight", with: "lora_B.default.weight")
            return TestTensor(name, info.dtype, info.shape, values: FactorMatrix(info, in: file).doubles().map(Float.init))
        }
        try writeSafetensors(tensors, to: folder.path("adapter/adapter_model.safetensors"))
        #expect(try Adapter.read(path: folder.path("adapter")).modules.map(\.path) == plain.modules.map(\.path))
    }

    // MARK: Trainer's metadata

    private static let fields = [
        "ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "4", "ss_base_model_version": "sdxl_base_v1-0",
        "ss_tag_frequency": #"{"one":{"a thing":12}}"#, "modelspec.title": "thing", "modelspec.trigger_phrase": "a thing",
        "modelspec.hash_sha256": "0x12", "sshs_model_hash": "12", "sshs_legacy_hash": "34", "lora_alpha": "4", "format": "pt",
        "ss_network_args": #"{"conv_dim":"2","algo":"lora"}"#,
    ]

    private func header(_ adapter: Adapter, _ layout: Adapter.Layout) throws -> [String: String] {
        let path = folder.path("out-\(layout.rawValue)")
        _ = try adapter.write(layout, to: path, options: .init(isReplacing: true, isDurable: false))
        let file = FileSystem.isFolder(path) ? try #require(Adapter.weightsPath(at: path)) : path
        return Dictionary(uniqueKeysWithValues: try SafetensorsFile(path: file).metadata.map { ($0, $1) })
    }

    @Test(arguments: Adapter.Layout.allCases.filter { $0 != .gguf })
    func theTrainersMetadataStaysWhereItIsTrue(layout: Adapter.Layout) throws {
        let adapter = try read(pair("unet.down_blocks.0.to_q"), Self.fields)
        let (small, _) = try adapter.resized(to: RankChoice(rank: 1))
        let header = try header(small, layout)
        for name in ["ss_base_model_version", "ss_tag_frequency", "modelspec.title", "modelspec.trigger_phrase", "ss_network_module"] {
            #expect(header[name] == Self.fields[name], "\(name)")
        }
        for name in ["modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash", "lora_alpha"] { #expect(header[name] == nil, "\(name)") }
        #expect(header["ss_network_dim"] == "1" && header["ss_network_alpha"] == "1" && header["ss_network_args"] == #"{"algo":"lora"}"#)
    }

    @Test func whatAdaptersAgreeOnIsTrueOfTheirCombination() throws {
        let one = try read(pair("unet.down_blocks.0.to_q"), Self.fields)
        var fields = Self.fields
        fields["modelspec.title"] = "other"
        fields["modelspec.trigger_phrase"] = "a style"
        fields["ss_tag_frequency"] = #"{"two":{"a style":3}}"#
        let two = try read(pair("unet.down_blocks.0.to_q"), fields)
        let header = try header(Adapter.combined([.init(one), .init(two)], .concatenation).adapter, .kohya)
        #expect(header["ss_base_model_version"] == "sdxl_base_v1-0" && header["modelspec.title"] == nil)
        #expect(header["modelspec.trigger_phrase"] == "a thing, a style")
        #expect(header["ss_tag_frequency"] == #"{"one":{"a thing":12},"two":{"a style":3}}"#)
        #expect(header["ss_network_dim"] == "8")
    }
}
