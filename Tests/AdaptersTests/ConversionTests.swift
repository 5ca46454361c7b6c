import Adapters
import FileIO
import GGUF
import JSON
import Methods
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

/// What is written in a layout is read back as the same updates, bit for bit, or the loss is named.
struct ConversionTests {
    private let folder: TemporaryFolder
    private let base: BaseModel

    init() throws {
        folder = try TemporaryFolder()
        try TestModel.write(to: folder.path("base"), seed: 1)
        try writeText(
            #"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_attention_heads": 3, "tie_word_embeddings": false}"#,
            folder.path("base/config.json"))
        base = try BaseModel(path: folder.path("base"))
    }

    private func path(_ layout: Adapter.Layout) -> String { folder.path("\(layout.rawValue).safetensors") }

    private func write(_ adapter: Adapter, _ layout: Adapter.Layout) throws -> (read: Adapter, notes: [String]) {
        // What is of no part of a pipeline has no form there.
        let given = [.kohya, .diffusers].contains(layout) ? try adapter.taking(component: "text_encoder") : adapter
        let notes = try given.write(layout, to: path(layout), base: base, options: .init(isReplacing: true, isDurable: false))
        return (try base.naming(try Adapter.read(path: path(layout))), notes)
    }

    @Test(arguments: Adapter.Layout.allCases, [DType.f32, .bf16])
    func everyLayoutKeepsEveryBit(layout: Adapter.Layout, dtype: DType) throws {
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), dtype: dtype, seed: 2)
        let (read, notes) = try write(adapter, layout)
        #expect(notes.isEmpty, "\(notes)")
        #expect(read.modules.map(\.path) == adapter.modules.map(\.path))
        for (module, original) in zip(read.modules, adapter.modules) {
            #expect(module.scale == original.scale && module.loraA.dtype == dtype)
            #expect(module.loraA.doubles() == original.loraA.doubles() && module.loraB.doubles() == original.loraB.doubles())
        }
    }

    /// Scales of two, one and a third, of ranks two and three.
    private func uneven() throws -> Adapter {
        var generator = SeededGenerator(seed: 5)
        let modules = zip(TestModel.modules, [(2, 4.0), (3, 3), (2, 4), (3, 1)]).map { name, form in
            let shape = TestModel.shape(name)
            return AdapterModule(
                path: ModulePath(name)!, rank: form.0, alpha: form.1, loraA: generator.values(form.0 * shape[1], spread: 1),
                loraB: generator.values(shape[0] * form.0, spread: 1))
        }
        return Adapter(path: "uneven", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: modules)
    }

    private func updates(_ adapter: Adapter) -> [[Double]] {
        adapter.modules.map { module in
            let (a, b) = (module.loraA.doubles(), module.loraB.doubles())
            return (0..<module.outputs * module.inputs).map { place in
                module.scale
                    * (0..<module.rank).reduce(0.0) {
                        $0 + b[place / module.inputs * module.rank + $1] * a[$1 * module.inputs + place % module.inputs]
                    }
            }
        }
    }

    @Test(arguments: Adapter.Layout.allCases)
    func scalesThatALayoutCannotSayAreBakedIn(layout: Adapter.Layout) throws {
        let adapter = try uneven()
        let (read, notes) = try write(adapter, layout)
        let keepsAll = ![.mlx, .gguf].contains(layout)
        #expect(notes.isEmpty == keepsAll, "\(notes)")
        for (found, expected) in zip(updates(read), updates(adapter)) {
            for (x, y) in zip(found, expected) { #expect(keepsAll ? x == y : abs(x - y) <= 1e-6 * abs(y).squareRoot() + 1e-6) }
        }
        if layout == .mlx { #expect(notes.count == 2 && Set(read.modules.map(\.rank)) == [3] && Set(read.modules.map(\.scale)) == [2]) }
    }

    @Test func uniformIsExactForPowersOfTwo() throws {
        let adapter = try uneven()
        let (uniform, notes) = try Adapter(
            path: "two", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: Array(adapter.modules.filter { $0.scale >= 1 })
        ).uniform()
        #expect(notes.count == 2 && notes[0].contains("no bit is lost"))
        #expect(Set(uniform.modules.map(\.scale)) == [2] && Set(uniform.modules.map(\.rank)) == [3])
        #expect(updates(uniform) == updates(adapter).enumerated().filter { adapter.modules[$0.offset].scale >= 1 }.map(\.element))
    }

    @Test func interleavedRowsComeBackInOrder() throws {
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 7)
        _ = try adapter.write(.gguf, to: path(.gguf), base: base, options: .init(isReplacing: true, isDurable: false))
        let raw = try Adapter.read(path: path(.gguf))
        let (stored, original) = (raw.modules[1], adapter.modules[1])
        #expect(stored.path.text == "model.layers.0.self_attn.q_proj" && stored.isInterleaved && !raw.modules[0].isInterleaved)
        // Three heads of eight rows: row 2i of a head is row i of its first half, row 2i+1 row i of its second.
        let (b, expected) = (stored.loraB.doubles(), original.loraB.doubles())
        for head in 0..<3 {
            for row in 0..<8 {
                let source = head * 8 + row % 2 * 4 + row / 2
                #expect(b[(head * 8 + row) * 5..<(head * 8 + row + 1) * 5] == expected[source * 5..<(source + 1) * 5])
            }
        }
        #expect(throws: AdapterError.self) { try raw.write(.peft, to: folder.path("p"), options: .init(isDurable: false)) }
    }

    @Test func namesThatHaveLostTheirDotsNeedTheBase() throws {
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 8)
        _ = try adapter.taking(component: "text_encoder").write(.kohya, to: path(.kohya), options: .init(isDurable: false))
        let read = try Adapter.read(path: path(.kohya))
        #expect(read.modules.map(\.path.text).allSatisfy { !$0.contains(".") })
        for layout in Adapter.Layout.allCases where layout != .kohya {
            #expect(throws: AdapterError.self) { try read.write(layout, to: folder.path("x"), options: .init(isDurable: false)) }
        }
        #expect(try base.naming(read).modules.map(\.path) == adapter.modules.map(\.path))
        // What a kohya file says of no module of the base is an error of the merge, too.
        #expect(try MergePlan(base: base.path, adapters: [.init(read)]).moduleCount == 4)
    }

    /// Nothing loads a language model's adapter in these layouts, unless the model is a pipeline's text encoder.
    @Test func aLanguageModelsAdapterIsNotWrittenForDiffusionModels() throws {
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 8)
        for layout in [Adapter.Layout.kohya, .diffusers] {
            for component in [nil, "unet", "transformer"] {
                let given = try component.map { try adapter.taking(component: $0) } ?? adapter
                for base in [nil, base] {
                    do {
                        _ = try given.write(layout, to: folder.path("x"), base: base, options: .init(isDurable: false))
                        Issue.record("written: \(layout) \(component ?? "-")")
                    } catch {
                        #expect((error as? AdapterError)?.cause == .isOfLanguageModel && "\(error)".contains("language model's"), "\(error)")
                    }
                }
            }
            let out = folder.path("te-\(layout.rawValue)")
            _ = try adapter.taking(component: "text_encoder").write(layout, to: out, options: .init(isDurable: false))
            let file = try SafetensorsFile(path: layout == .diffusers ? out + "/pytorch_lora_weights.safetensors" : out)
            #expect(file.tensors.keys.allSatisfy { $0.hasPrefix(layout == .diffusers ? "text_encoder.model." : "lora_te_model_") })
        }
        let verdict = ServingStack.diffusers.verdict(on: adapter)
        #expect(verdict.conversion == nil && verdict.reasons.first?.contains("a language model's") == true)
    }

    @Test func gateAndUpProjectionsOfExpertsMoveBetweenTheirForms() throws {
        var generator = SeededGenerator(seed: 4)
        func factors(_ outputs: Int) -> [LowRankFactors] {
            (0..<2).map { expert in
                .init(
                    a: FactorMatrix(name: "a\(expert)", rows: 2, columns: 4, values: generator.values(8, spread: 1)),
                    b: FactorMatrix(name: "b\(expert)", rows: outputs, columns: 2, values: generator.values(outputs * 2, spread: 1)))
            }
        }
        let path = ModulePath("l.0.mlp.experts")!
        let stack = AdapterModule(path: path, parameter: "gate_up_proj", kind: .experts, factors: factors(6), alpha: 2, scale: 1)
        let whole = Adapter(path: "e", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [stack])
        try FileSystem.createFolder(folder.path("moe"))
        try writeSafetensors([TestTensor("l.norm.weight", .f32, [1], values: [1])], to: folder.path("moe/model.safetensors"))
        try writeText(#"{"model_type": "qwen3_moe"}"#, folder.path("moe/config.json"))
        _ = try whole.write(.mlx, to: folder.path("mlx"), base: try BaseModel(path: folder.path("moe")), options: .init(isDurable: false))
        let halves = try Adapter.read(path: folder.path("mlx"))
        #expect(halves.modules.map(\.parameter) == ["gate_proj", "up_proj"])
        _ = try halves.write(.peft, to: folder.path("peft"), options: .init(isDurable: false))
        let joined = try #require(try Adapter.read(path: folder.path("peft")).modules.first)
        #expect(joined.parameter == "gate_up_proj" && joined.rank == 2)
        for (found, original) in zip(joined.factors, stack.factors) {
            #expect(found.a.doubles() == original.a.doubles() && found.b.doubles() == original.b.doubles())
        }
        // With an A of its own for each, the ranks add up.
        let apart = Adapter(
            path: "e", dialect: .mlx, weightsPath: nil, baseModel: nil, targets: [],
            modules: ["gate_proj", "up_proj"].map {
                AdapterModule(path: path, parameter: $0, kind: .experts, factors: factors(3), alpha: 2, scale: 1)
            })
        _ = try apart.write(.peft, to: folder.path("both"), options: .init(isDurable: false))
        let both = try #require(try Adapter.read(path: folder.path("both")).modules.first)
        #expect(both.rank == 4 && both.scale == 1)
        for (number, module) in apart.modules.enumerated() {
            let (b, a) = (both.factors[1].b.doubles(), both.factors[1].a.doubles())
            for row in 0..<3 {
                for column in 0..<4 {
                    let found = (0..<4).reduce(0.0) { $0 + b[(3 * number + row) * 4 + $1] * a[$1 * 4 + column] }
                    let expected = (0..<2).reduce(0.0) {
                        $0 + module.factors[1].b.doubles()[row * 2 + $1] * module.factors[1].a.doubles()[$1 * 4 + column]
                    }
                    #expect(found == expected)
                }
            }
        }
    }

    // MARK: Adapters that were made to do harm

    @Test func elementsThatShareBytesAreKeptWhole() throws {
        let path = folder.path("adapter")
        _ = try TestModel.writeAdapter(to: path, modules: [TestModel.modules[0]], seed: 1)
        var tensors = [
            TestTensor("base_model.model.\(TestModel.modules[0]).lora_A.weight", .f32, [1, 24], values: [Float](repeating: 1, count: 24)),
            TestTensor("base_model.model.\(TestModel.modules[0]).lora_B.weight", .f32, [24, 1], values: [Float](repeating: 1, count: 24)),
        ]
        tensors.append(TestTensor("base_model.model.model.odd.weight", .f4, [4], bytes: [0x12, 0x34]))
        try writeSafetensors(tensors, to: path + "/adapter_model.safetensors")
        try writeText(#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "modules_to_save": ["odd"]}"#, path + "/adapter_config.json")
        _ = try Adapter.read(path: path).write(.peft, to: folder.path("copy"), options: .init(isDurable: false))
        let file = try ModelWeights(path: folder.path("copy/adapter_model.safetensors"))
        #expect(try read("base_model.model.model.odd.weight", from: file) == [0x12, 0x34])
    }

    private func kohya(_ tensors: [(String, [Int])]) throws -> Adapter {
        let path = folder.path("k.safetensors")
        try writeSafetensors(
            tensors.map { name, shape in TestTensor(name, .f32, shape, values: [Float](repeating: 1, count: shape.reduce(1, *))) }, to: path)
        return try Adapter.read(path: path)
    }

    @Test func sizesThatMultiplyAreBounded() throws {
        #expect(throws: AdapterError.self) {
            try kohya([
                ("lora_unet_a.lora_down.weight", [1, 20_000, 1, 1]), ("lora_unet_a.lora_mid.weight", [20_000, 1, 1, 1]),
                ("lora_unet_a.lora_up.weight", [1, 20_000, 1, 1]),
            ])
        }
        let uneven = try kohya([
            ("lora_unet_a.lora_down.weight", [100_000, 1]), ("lora_unet_a.lora_up.weight", [1, 100_000]),
            ("lora_unet_b.lora_down.weight", [1, 100_000]),
            ("lora_unet_b.lora_up.weight", [1, 1]),
        ])
        #expect(throws: AdapterError.self) { try uneven.uniform() }
    }

    @Test func oneParameterHasOneUpdate() throws {
        let parts = ["lora_te_a", "lora_te1_a"].flatMap { [($0 + ".lora_down.weight", [1, 2]), ($0 + ".lora_up.weight", [2, 1])] }
        #expect(throws: AdapterError.self) { try kohya(parts) }
        // Two names of one module of the base.
        let twice = try kohya(
            ["lora_unet_model_layers_0_self_attn_q_proj", "lora_te_model_layers_0_self_attn_q_proj"].flatMap {
                [($0 + ".lora_down.weight", [1, 24]), ($0 + ".lora_up.weight", [24, 1])]
            })
        #expect(throws: MergeError.self) { try MergePlan(base: base.path, adapters: [.init(twice)]) }
        #expect(throws: MergeError.self) { try base.naming(twice).write(.gguf, to: folder.path("g"), base: base, options: .init(isDurable: false)) }
    }

    @Test(arguments: [Double(0), 1e-50, 1e39])
    func alphasThatALayoutCannotHoldAreRefused(alpha: Double) throws {
        // Zero is no change in kohya's layout, and a scale of one in GGUF.
        let module = AdapterModule(
            path: ModulePath("model.layers.0.self_attn.q_proj")!, rank: 1, alpha: alpha, loraA: [Float](repeating: 1, count: 24),
            loraB: [Float](repeating: 1, count: 24))
        let adapter = Adapter(path: "a", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
        for layout in [Adapter.Layout.gguf, .kohya] where alpha != 0 || layout == .gguf {
            let given = layout == .kohya ? try adapter.taking(component: "text_encoder") : adapter
            #expect(throws: AdapterError.self) { try given.write(layout, to: folder.path("x"), base: base, options: .init(isDurable: false)) }
        }
        if alpha == 0 {
            _ = try adapter.taking(component: "text_encoder").write(
                .kohya, to: folder.path("k.safetensors"), base: base, options: .init(isDurable: false))
            #expect(try Adapter.read(path: folder.path("k.safetensors")).modules[0].scale == 0)
        }
        _ = try adapter.write(.peft, to: folder.path("p"), options: .init(isDurable: false))
        #expect(try Adapter.read(path: folder.path("p")).modules[0].scale == alpha)
    }

    /// As in llama.cpp, which takes a missing field for zero, and zero for no scaling.
    @Test(arguments: [nil, 0, 6] as [Double?])
    func ggufWithoutAlphaHasTheScaleOne(alpha: Double?) throws {
        var metadata: OrderedDictionary<String, GGUFValue> = [
            "general.type": .string("adapter"), "general.architecture": .string("llama"), "adapter.type": .string("lora"),
        ]
        if let alpha { metadata["adapter.lora.alpha"] = .real(alpha) }
        let writer = try GGUFWriter(
            path: folder.path("a.gguf"), metadata: metadata,
            tensors: [
                .init(name: "blk.0.attn_v.weight.lora_a", type: .f32, shape: [3, 4]),
                .init(name: "blk.0.attn_v.weight.lora_b", type: .f32, shape: [4, 3]),
            ], replacing: false)
        let zeros = [UInt8](repeating: 0, count: 48)
        for _ in 0..<2 { try writer.write(unsafe zeros.span.bytes) }
        try writer.publish(durable: false)
        let adapter = try Adapter.read(path: folder.path("a.gguf"))
        #expect(adapter.modules.map(\.scale) == [alpha == 6 ? 2 : 1])
        #expect(adapter.remarks.contains { $0.contains("a scale of 1") } == (alpha != 6), "\(adapter.remarks)")
    }

    @Test func headsThatNoModelHasAreRefused() throws {
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 7)
        try writeText(
            #"{"model_type": "llama", "num_attention_heads": 9223372036854775807, "tie_word_embeddings": false}"#, folder.path("base/config.json"))
        let odd = try BaseModel(path: folder.path("base"))
        #expect(throws: MergeError.self) { try adapter.write(.gguf, to: folder.path("g"), base: odd, options: .init(isDurable: false)) }
    }

    @Test func emptyNamesOfParametersAreRefused() throws {
        let path = folder.path("adapter")
        _ = try TestModel.writeAdapter(to: path, seed: 1)
        for name in ["", "experts."] {
            try writeText(#"{"peft_type": "LORA", "r": 5, "lora_alpha": 8, "target_parameters": ["\#(name)"]}"#, path + "/adapter_config.json")
            #expect(throws: AdapterError.self) { try Adapter.read(path: path) }
        }
    }

    @Test func stacksOfExpertsKeepAllOfThem() throws {
        try writeSafetensors(
            [TestTensor("l.0.mlp.experts.gate_up_proj", .f32, [3, 4, 2], values: [Float](repeating: 1, count: 24))], to: folder.path("e.safetensors"))
        let experts = try BaseModel(path: folder.path("e.safetensors"))
        let factors = (0..<3).map { number in
            LowRankFactors(
                a: FactorMatrix(name: "a", rows: 1, columns: 2, values: [Float(number), 1]),
                b: FactorMatrix(name: "b", rows: 4, columns: 1, values: [Float](repeating: Float(number), count: 4)))
        }
        let module = AdapterModule(
            path: ModulePath("l.0.mlp.experts")!, parameter: "gate_up_proj", kind: .experts, factors: factors, alpha: 1, scale: 1)
        let adapter = Adapter(path: "e", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
        #expect(try experts.naming(adapter).modules[0].factors.count == 3)
    }

    /// PEFT matches ends of names, and wants every parameter of every module that they mean.
    @Test func modulesThatWereTrainedWholeAreNamedAlone() throws {
        let path = folder.path("norms")
        try FileSystem.createFolder(path)
        let names = (0..<2).flatMap { ["model.layers.\($0).norm.weight", "model.layers.\($0).norm.bias"] }
        try writeSafetensors(
            names.map { TestTensor($0, .f32, [2], values: [1, 2]) }
                + [TestTensor("model.layers.0.self_attn.q_proj.weight", .f32, [2, 2], values: [1, 2, 3, 4])],
            to: FileSystem.join(path, "model.safetensors"))
        try writeText(#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}"#, FileSystem.join(path, "config.json"))
        let base = try BaseModel(path: path)
        let module = AdapterModule(
            path: try #require(ModulePath("model.layers.0.self_attn.q_proj")), rank: 1, alpha: 1, loraA: [1, 2], loraB: [1, 2])
        let values = try base.files.weight(named: "model.layers.1.norm.weight")
        func written(
            _ dialect: Adapter.Dialect, saved: [String], tensor: String = "model.layers.1.norm.weight", mayBeNew: Bool = false,
            base: BaseModel? = base
        ) throws -> (fields: JSONValue, tensors: [String]) {
            let adapter = Adapter(
                path: "a", dialect: dialect, weightsPath: nil, baseModel: nil, targets: [], modules: [module],
                replacements: [Replacement(tensor: tensor, values: values, isOfNewModule: mayBeNew)], savedModules: saved)
            let out = folder.path("\(dialect)")
            _ = try adapter.write(.peft, to: out, base: base, options: .init(isReplacing: true, isDurable: false))
            let fields = try JSONValue(parsing: try readAll(out + "/adapter_config.json"))
            return (fields, try Adapter.read(path: out).replacements.map(\.tensor))
        }
        let extracted = try written(.extraction, saved: [])
        #expect(extracted.fields["modules_to_save"] == ["model.layers.1.norm"])
        #expect(extracted.tensors == ["model.layers.1.norm.bias", "model.layers.1.norm.weight"])
        // As their author named them.
        #expect(try written(.peft, saved: ["layers.1"]).fields["modules_to_save"] == ["layers.1"])
        // A file without a configuration does not say which of its tensors are of new modules; the base does.
        for base in [base, nil] {
            #expect(try written(.diffusers, saved: [], mayBeNew: true, base: base).fields["modules_to_save"] == ["model.layers.1.norm"])
        }
        #expect(try written(.diffusers, saved: [], tensor: "classifier.dense.weight", mayBeNew: true).fields["modules_to_save"] == ["classifier"])
        // A parameter that is no module's weight has no form.
        let odd = Adapter(
            path: "a", dialect: .extraction, weightsPath: nil, baseModel: nil, targets: [], modules: [module],
            replacements: [Replacement(tensor: "model.layers.1.mixer.A_log", values: values)])
        #expect(throws: AdapterError.self) { try odd.write(.peft, to: folder.path("odd"), base: base, options: .init(isDurable: false)) }
    }

    // MARK: What serving programs take

    @Test func servingProgramsTakeAnAdapterOrSayWhyNot() throws {
        let plain = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 2)
        #expect(ServingStack.vLLM.verdict(on: plain).isTaken)
        #expect(ServingStack.llamaCpp.verdict(on: plain).conversion?.layout == .gguf)
        #expect(!ServingStack.mlx.verdict(on: plain).isTaken && !ServingStack.diffusers.verdict(on: plain).isTaken)
        let denoiser = AdapterModule(
            component: "unet", path: try #require(ModulePath("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")), kind: .linear,
            factors: plain.modules[0].factors, alpha: 1, scale: 1)
        for dialect in [Adapter.Dialect.peft, .mlx, .gguf] {
            let adapter = Adapter(path: "d", dialect: dialect, weightsPath: nil, baseModel: nil, targets: [], modules: [denoiser])
            for stack in [ServingStack.vLLM, .mlx, .llamaCpp] {
                #expect(stack.verdict(on: adapter).reasons.contains { $0.contains("a diffusion model's") })
            }
        }
        // vLLM 0.33 takes patterns of ranks and alphas.
        #expect(ServingStack.vLLM.verdict(on: try write(try uneven(), .peft).read).isTaken)
        for (layout, stack) in [(.mlx, .mlx), (.gguf, .llamaCpp), (.diffusers, .diffusers)] as [(Adapter.Layout, ServingStack)] {
            _ = try write(plain, layout)
            #expect(stack.verdict(on: try Adapter.read(path: path(layout))).isTaken)
        }
    }
}
