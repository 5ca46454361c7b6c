import Adapters
import FileIO
import JSON
import Kernels
import Methods
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Verification
import Weights

/// Extracting, resizing, combining and taking out again.
struct SpectrumTests {
    private let folder: TemporaryFolder
    private let adapter: Adapter

    init() throws {
        folder = try TemporaryFolder()
        try TestModel.write(to: folder.path("base"), dtype: .f32, seed: 1)
        adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 2)
    }

    private func update(_ module: AdapterModule) -> [Double] {
        let product =
            Matrix(rows: module.outputs, columns: module.rank, values: module.loraB.doubles())
            * Matrix(rows: module.rank, columns: module.inputs, values: module.loraA.doubles())
        return product.scaled(by: module.scale).values
    }

    private func relativeDistance(_ a: [Double], _ b: [Double]) -> Double {
        (zip(a, b).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) } / b.reduce(0) { $0 + $1 * $1 }).squareRoot()
    }

    private func merge(_ name: String, dtype: DType? = nil) throws {
        _ = try MergePlan(base: folder.path("base"), adapters: [.init(adapter)], dtype: dtype).run(
            to: folder.path(name), options: .init(isDurable: false))
    }

    @Test(arguments: [1, 2])
    func extractGivesTheAdapterBack(threads: Int) throws {
        try merge("merged")
        let extraction = try Extraction(
            base: folder.path("base"), tuned: folder.path("merged"), options: .init(choice: .init(rank: 5), threads: threads))
        #expect(extraction.adapter.modules.map(\.path) == adapter.modules.map(\.path) && extraction.adapter.replacements.isEmpty)
        #expect(extraction.unchanged == 4)
        for (module, original) in zip(extraction.adapter.modules, adapter.modules) {
            #expect(module.rank == 5 && relativeDistance(update(module), update(original)) < 1e-6)
        }
        #expect(extraction.modules.allSatisfy { $0.energy > 1 - 1e-12 && $0.relativeResidual < 1e-6 })
        // The same factors from any number of threads.
        let again = try Extraction(
            base: folder.path("base"), tuned: folder.path("merged"), options: .init(choice: .init(rank: 5), threads: 3 - threads))
        #expect(zip(extraction.adapter.modules, again.adapter.modules).allSatisfy { $0.loraB.doubles() == $1.loraB.doubles() })
        // All of the energy takes the adapter's rank, but for the noise of rounding.
        let most = try Extraction(base: folder.path("base"), tuned: folder.path("merged"), options: .init(choice: .init(energy: 1 - 1e-9)))
        #expect(most.adapter.modules.allSatisfy { $0.rank == 5 })
    }

    /// A fine-tuned model in a wider type: what has the same numbers has not changed.
    @Test func extractTakesNothingOfAnotherElementTypeAlone() throws {
        try TestModel.write(to: folder.path("narrow"), dtype: .bf16, seed: 1)
        _ = try MergePlan(base: folder.path("narrow"), adapters: [.init(adapter)], dtype: .f32).run(
            to: folder.path("wide"), options: .init(isDurable: false))
        let extraction = try Extraction(base: folder.path("narrow"), tuned: folder.path("wide"), options: .init(choice: .init(rank: 5)))
        #expect(extraction.adapter.replacements.isEmpty && extraction.adapter.modules.map(\.path) == adapter.modules.map(\.path))
    }

    /// The files of the fine-tuned model, or of the base, may have the name of a model around all of them.
    @Test func extractTakesNamesWithAnotherModelAround() throws {
        try merge("merged")
        let plain = try Extraction(base: folder.path("base"), tuned: folder.path("merged"), options: .init(choice: .init(rank: 5)))
        for (name, source) in [("around-merged", "merged"), ("around-base", "base")] {
            let files = try ModelWeights(path: folder.path(source))
            try writeSafetensors(
                files.tensors.map { key, location in
                    TestTensor("model.diffusion_model.\(key)", location.dtype, location.shape, bytes: bytes(of: location))
                }, to: folder.path("\(name).safetensors"))
        }
        let tuned = try Extraction(base: folder.path("base"), tuned: folder.path("around-merged.safetensors"), options: .init(choice: .init(rank: 5)))
        #expect(tuned.adapter.modules.map(\.path) == plain.adapter.modules.map(\.path) && tuned.unchanged == plain.unchanged)
        let based = try Extraction(base: folder.path("around-base.safetensors"), tuned: folder.path("merged"), options: .init(choice: .init(rank: 5)))
        #expect(based.adapter.modules.map(\.path.text) == plain.adapter.modules.map { "model.diffusion_model.\($0.path.text)" })
        #expect(zip(based.adapter.modules, plain.adapter.modules).allSatisfy { $0.loraB.doubles() == $1.loraB.doubles() })
    }

    private func bytes(of location: StoredWeight) -> [UInt8] {
        var bytes: [UInt8] = []
        FactorMatrix(location).withBytes { span in unsafe span.withUnsafeBytes { unsafe bytes.append(contentsOf: $0) } }
        return bytes
    }

    @Test func extractTakesWholeWhatNoUpdateStandsFor() throws {
        let shards = try TestModel.write(to: folder.path("tuned"), dtype: .f32, seed: 1)
        var changed = shards[1]
        let norm = changed.firstIndex { $0.name == "model.norm.weight" }!
        changed[norm].bytes[2] ^= 1
        let projection = changed.firstIndex { $0.name == "model.layers.1.self_attn.q_proj.weight" }!
        changed[projection].bytes[2] ^= 1
        try writeSafetensors(changed, to: folder.path("tuned/model-00002-of-00002.safetensors"))
        let extraction = try Extraction(base: folder.path("base"), tuned: folder.path("tuned"), options: .init(choice: .init(rank: 1)))
        #expect(extraction.adapter.modules.map(\.path.text) == ["model.layers.1.self_attn.q_proj"])
        #expect(extraction.modules[0].energy > 1 - 1e-12 && extraction.adapter.replacements.map(\.tensor) == ["model.norm.weight"])
        #expect(throws: AdapterError.self) {
            try Extraction(base: folder.path("base"), tuned: folder.path("base"), options: .init(choice: .init(rank: 1)))
        }
        // Not one architecture.
        try writeSafetensors(Array(changed.dropLast()), to: folder.path("one.safetensors"))
        #expect(throws: AdapterError.self) {
            try Extraction(base: folder.path("base"), tuned: folder.path("one.safetensors"), options: .init(choice: .init(rank: 1)))
        }
    }

    /// A model folder with one tensor of numbers, and another with other ones.
    private func extract(_ tensors: [(name: String, shape: [Int])], _ configuration: JSONValue) throws -> Extraction {
        var generator = SeededGenerator(seed: 5)
        for name in ["plain", "changed"] {
            try FileSystem.createFolder(folder.path(name))
            try writeText(configuration.serialized(), folder.path(name + "/config.json"))
            try writeSafetensors(
                tensors.map { TestTensor($0.name, .f32, $0.shape, values: generator.values($0.shape.reduce(1, *), spread: 1)) },
                to: folder.path(name + "/model.safetensors"))
        }
        return try Extraction(base: folder.path("plain"), tuned: folder.path("changed"), options: .init(choice: .init(rank: 2)))
    }

    /// A is beside the dimension that PEFT takes for the inputs.
    @Test(arguments: [
        ("gpt_oss", [2, 4, 10], 4), ("openai_privacy_filter", [2, 4, 10], 4), ("llama4_text", [2, 4, 10], 10), ("qwen3_moe", [2, 10, 4], 4),
        ("qwen3_vl_moe", [2, 4, 10], 4), ("qwen3_vl_moe", [2, 10, 4], 4),
    ])
    func extractGivesExpertsTheInputsOfPEFT(family: String, shape: [Int], inputs: Int) throws {
        let extraction = try extract(
            [("model.layers.0.mlp.experts.gate_up_proj", shape)], ["model_type": .string(family), "text_config": ["hidden_size": 4]])
        let module = try #require(extraction.adapter.modules.first)
        #expect(module.kind == .experts && module.inputs == inputs && module.outputs == 14 - inputs)
    }

    /// Stacks of experts that files keep as a weight are adapted as those that they are in memory.
    @Test(arguments: [
        ("granitemoe", "block_sparse_moe.input_linear.weight", "block_sparse_moe.experts", "gate_up_proj", 4),
        ("granitemoe", "block_sparse_moe.output_linear.weight", "block_sparse_moe.experts", "down_proj", 4),
        ("aria_text", "mlp.experts.fc1.weight", "mlp.experts", "gate_up_proj", 10),
        ("jetmoe", "mlp.input_linear.weight", "mlp.input_linear", "weight", 4),
    ])
    func weightsThatAreStacksOfExpertsAreExtractedAsExperts(family: String, tensor: String, path: String, parameter: String, inputs: Int) throws {
        let extraction = try extract([("model.layers.0." + tensor, [3, 10, 4])], ["model_type": .string(family)])
        let module = try #require(extraction.adapter.modules.first)
        #expect(module.kind == .experts && module.factors.count == 3 && module.inputs == inputs)
        #expect(module.path.text == "model.layers.0." + path && module.parameter == parameter)
        // PEFT's files say the same, and the merge finds the tensor.
        let out = folder.path("out")
        _ = try extraction.adapter.write(.peft, to: out, base: try BaseModel(path: folder.path("plain")), options: .init(isDurable: false))
        let read = try Adapter.read(path: out)
        #expect(read.modules[0].path == module.path && read.modules[0].kind == .experts && read.remarks.isEmpty)
        let plan = try MergePlan(base: folder.path("plain"), adapters: [.init(read)])
        #expect(plan.model.tensors.count { $0.updates.count == 3 } == 1)
        // What mlx-lm would not find is not written.
        let isKnown = module.path.lastComponent == "experts"
        let plain = try BaseModel(path: folder.path("plain"))
        let written = try? extraction.adapter.write(.mlx, to: folder.path("mlx"), base: plain, options: .init(isDurable: false))
        #expect((written != nil) == isKnown)
    }

    /// PEFT has no LoRA for them.
    @Test func convolutionsOfEachChannelAreTakenWhole() throws {
        let extraction = try extract(
            [("model.layers.0.conv1d.weight", [6, 1, 4]), ("model.layers.0.conv.weight", [6, 2, 4])], ["model_type": "qwen3_next"])
        #expect(extraction.adapter.modules.map(\.path.text) == ["model.layers.0.conv"])
        #expect(extraction.adapter.replacements.map(\.tensor) == ["model.layers.0.conv1d.weight"])
    }

    /// What PEFT finds by the names in `target_parameters` is what the adapter has.
    @Test func layersThatChangeDifferentParameters() throws {
        func experts(_ layer: Int, _ parameter: String) throws -> AdapterModule {
            let values: [Float] = [1, 2]
            let factors = LowRankFactors(
                a: FactorMatrix(name: "a", rows: 1, columns: 2, values: values), b: FactorMatrix(name: "b", rows: 2, columns: 1, values: values))
            return AdapterModule(
                path: try #require(ModulePath("model.layers.\(layer).mlp.experts")), parameter: parameter, kind: .experts,
                factors: [factors, factors], alpha: 1, scale: 1)
        }
        func targets(_ modules: [AdapterModule]) throws -> [String] {
            let path = folder.path("mixed")
            try PEFT.write(modules, to: path, options: .init(isReplacing: true, isDurable: false))
            let read = try Adapter.read(path: path)
            #expect(Set(read.modules.map(\.label)) == Set(modules.map(\.label)) && read.remarks.isEmpty)
            let configuration = try JSONValue(configuration: try FileSystem.contents(of: path + "/adapter_config.json", limit: 10_000))
            return configuration["target_parameters"]?.arrayValue?.compactMap(\.stringValue) ?? []
        }
        let (first, second) = (try experts(0, "gate_up_proj"), try experts(1, "down_proj"))
        #expect(try targets([first, second]) == ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.down_proj"])
        #expect(
            try targets([first, second, try experts(1, "gate_up_proj")]) == ["mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.down_proj"])
        #expect(try targets([first, try experts(1, "gate_up_proj")]) == ["mlp.experts.gate_up_proj"])
    }

    /// Patterns name a router by its parameter, as PEFT does.
    @Test func patternsOfRoutersAreNoRemarks() throws {
        func module(_ name: String, rank: Int) throws -> AdapterModule {
            AdapterModule(
                path: try #require(ModulePath("model.layers.0.mlp." + name)), rank: rank, alpha: Double(rank),
                loraA: [Float](repeating: 1, count: 2 * rank), loraB: [Float](repeating: 1, count: 3 * rank))
        }
        let path = folder.path("routers")
        try PEFT.write(
            [try module("gate", rank: 1), try module("a_proj", rank: 2), try module("b_proj", rank: 2)], to: path, options: .init(isDurable: false))
        #expect(try Adapter.read(path: path).remarks.isEmpty)
    }

    @Test func resizeKeepsTheLargestValues() throws {
        let (same, reports) = try adapter.resized(to: .init(rank: 9))
        #expect(reports.allSatisfy { $0.rank == 5 && $0.energy == 1 })
        for (module, original) in zip(same.modules, adapter.modules) {
            #expect(module.scale == original.scale && relativeDistance(update(module), update(original)) < 1e-6)
        }
        let (small, cut) = try adapter.resized(to: .init(rank: 2), dtype: .bf16)
        for ((module, report), original) in zip(zip(small.modules, cut), adapter.modules) {
            #expect(module.rank == 2 && module.loraA.dtype == .bf16 && report.rankBefore == 5)
            let values = Matrix(rows: original.outputs, columns: original.inputs, values: update(original)).svd().s
            let kept = values.prefix(2).reduce(0) { $0 + $1 * $1 } / values.reduce(0) { $0 + $1 * $1 }
            // The factors were rounded to BF16, which costs a little of it.
            #expect(report.energy < kept + 1e-12 && report.energy > kept - 1e-4)
        }
        let (energetic, _) = try adapter.resized(to: .init(energy: 0.5))
        #expect(energetic.modules.allSatisfy { (1..<5).contains($0.rank) })
    }

    @Test func combineAddsUpdates() throws {
        let other = try TestModel.writeAdapter(to: folder.path("other"), modules: [TestModel.modules[0]], rank: 2, alpha: 3, seed: 6)
        let adapters = [WeightedAdapter(adapter, weight: 0.5), WeightedAdapter(other, weight: -2)]
        let (sum, _) = try Adapter.combined(adapters, .concatenation)
        #expect(sum.modules.map(\.rank) == [5, 7, 5, 5] && sum.modules.allSatisfy { $0.scale == 1 })
        let number = adapter.modules.firstIndex { $0.path.text == TestModel.modules[0] }!
        let expected = zip(update(adapter.modules[number]), update(other.modules[0])).map { 0.5 * $0 - 2 * $1 }
        #expect(relativeDistance(update(sum.modules[number]), expected) < 1e-6)
        let (cut, reports) = try Adapter.combined(adapters, .svd, choice: .init(rank: 3))
        #expect(cut.modules.allSatisfy { $0.rank == 3 } && reports.allSatisfy { $0.energy < 1 })
        // Of what cancels there is nothing to keep or to lose.
        let opposites = [WeightedAdapter(adapter, weight: 1), WeightedAdapter(adapter, weight: -1)]
        for combination in [Adapter.Combination.concatenation, .svd] {
            let (_, nothing) = try Adapter.combined(opposites, combination, choice: combination == .svd ? .init(rank: 2) : nil)
            #expect(nothing.allSatisfy { $0.energy == 1 }, "\(combination): \(nothing.map(\.energy))")
        }
        let nearly = [WeightedAdapter(adapter, weight: 1), WeightedAdapter(adapter, weight: -1 + 0x1p-20)]
        let (_, reportsOfNearly) = try Adapter.combined(nearly, .svd, choice: .init(rank: 1))
        #expect(reportsOfNearly.allSatisfy { $0.energy > 0 && $0.energy < 1 }, "\(reportsOfNearly.map(\.energy))")
        #expect(throws: AdapterError.self) { try Adapter.combined(adapters, .linear) }
        #expect(throws: AdapterError.self) { try Adapter.combined([], .concatenation) }
    }

    @Test(arguments: [DType.bf16, .f16, .f32])
    func unmergingNamesWhatItCannotKnow(dtype: DType) throws {
        _ = try MergePlan(base: folder.path("base"), adapters: [.init(try TestModel.writeAdapter(to: folder.path("zero"), seed: 1))], dtype: dtype)
        try TestModel.write(to: folder.path("typed"), dtype: dtype, seed: 1)
        _ = try MergePlan(base: folder.path("typed"), adapters: [.init(adapter)]).run(to: folder.path("merged"), options: .init(isDurable: false))
        let result = try Unmerging(
            merged: folder.path("merged"), adapters: [.init(adapter)], to: folder.path("again"), options: .init(isDurable: false))
        let (original, found) = (try ModelWeights(path: folder.path("typed")), try ModelWeights(path: folder.path("again")))
        #expect(result.modules.count == 4 && result.elements == 2 * (24 * 24 + 53 * 24))
        var differing = 0
        for module in result.modules {
            let (before, after) = (try original.weight(named: module.tensor), try found.weight(named: module.tensor))
            let pairs = zip(FactorMatrix(before).doubles(), FactorMatrix(after).doubles())
            let off = pairs.filter { $0 != $1 }
            #expect(off.count <= module.uncertain && off.allSatisfy { abs($0 - $1) <= module.maximumError })
            differing += off.count
        }
        #expect(differing > 0 && result.uncertain < result.elements)
        for name in original.tensors.keys where !result.modules.contains(where: { $0.tensor == name }) {
            #expect(try read(name, from: original) == read(name, from: found))
        }
    }

    @Test func anEmbeddingThatIsTheHeadIsExtractedForBoth() throws {
        for name in ["tied", "tuned"] { try TestModel.write(to: folder.path(name), dtype: .f32, seed: 1, isTied: true) }
        var generator = SeededGenerator(seed: 1)
        var shards = TestModel.tensors(dtype: .f32, generator: &generator)
        shards[1].removeAll { $0.name == "lm_head.weight" }
        for name in ["tied", "tuned"] {
            if name == "tuned" { shards[0][0].bytes[2] ^= 0x40 }
            try writeSafetensors(shards.flatMap(\.self), to: folder.path(name + "/model.safetensors"))
            try FileSystem.remove(folder.path(name + "/model.safetensors.index.json"))
        }
        let extraction = try Extraction(base: folder.path("tied"), tuned: folder.path("tuned"), options: .init(choice: .init(rank: .max)))
        #expect(extraction.adapter.modules.map(\.path.text) == ["lm_head", "model.embed_tokens"])
        _ = try MergePlan(base: folder.path("tied"), adapters: [.init(extraction.adapter)]).run(
            to: folder.path("again"), options: .init(isDurable: false))
        let (tuned, again) = (try ModelWeights(path: folder.path("tuned")), try ModelWeights(path: folder.path("again")))
        func values(_ name: String, _ files: ModelWeights) throws -> [Double] {
            let location = try files.weight(named: name)
            return FactorMatrix(location).doubles()
        }
        #expect(relativeDistance(try values("model.embed_tokens.weight", again), try values("model.embed_tokens.weight", tuned)) < 1e-6)
        // One update of both leaves them one matrix, as they are in the tuned model.
        #expect(again.tensors["lm_head.weight"] == nil)
        let verdict = try MergeVerifier.verify(
            base: folder.path("tied"), adapters: [.init(extraction.adapter)], merged: folder.path("tuned/model.safetensors"))
        #expect(verdict.passes, "\(verdict.faults)")
    }

    /// Tables of embeddings in families that call them otherwise: PEFT takes no other factors for them, and a tied head changes with its own.
    @Test(arguments: [
        ("mamba", "backbone.embeddings", "lm_head"), ("falcon_mamba", "backbone.embeddings", "lm_head"),
        ("xlnet", "transformer.word_embedding", "lm_loss"), ("gpt2", "transformer.wte", "lm_head"), ("t5", "shared", nil),
        ("t5", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias", nil), ("wavlm", "encoder.layers.0.attention.rel_attn_embed", nil),
        ("internlm2", "model.tok_embeddings", "output"), ("qwen3_vl", "model.visual.pos_embed", nil),
        ("ovis2", "model.visual_embeddings_table", nil), ("ctrl", "transformer.w", nil), ("sam", "mask_decoder.mask_tokens", nil),
        ("tapas", "tapas.embeddings.token_type_embeddings_1", nil), ("musicgen", "decoder.model.decoder.embed_tokens.1", nil),
    ])
    func embeddingsAreExtractedAsSuch(family: String, module: String, head: String?) throws {
        var generator = SeededGenerator(seed: 1)
        var tensors = [
            TestTensor("\(module).weight", .f32, [8, 4], values: generator.values(32, spread: 1)),
            TestTensor("encoder.block.0.layer.0.SelfAttention.q.weight", .f32, [4, 4], values: generator.values(16, spread: 1)),
        ]
        if let head, family == "internlm2" { tensors.append(TestTensor("\(head).weight", .f32, [8, 4], values: generator.values(32, spread: 1))) }
        for name in ["tied", "tuned"] {
            try FileSystem.createFolder(folder.path(name))
            try writeText(#"{"model_type": "\#(family)", "architectures": []}"#, folder.path("\(name)/config.json"))
            if name == "tuned" { tensors[0].bytes[2] ^= 0x40 }
            try writeSafetensors(tensors, to: folder.path("\(name)/model.safetensors"))
        }
        let modules = try Extraction(base: folder.path("tied"), tuned: folder.path("tuned"), options: .init(choice: .init(rank: 2))).adapter.modules
        #expect(modules.first { $0.path.text == module }?.kind == .embedding, "\(modules.map { ($0.path, $0.kind) })")
        if let head, family != "internlm2" { #expect(modules.first { $0.path.text == head }?.kind == .linear, "\(modules.map(\.path))") }
    }

    /// What is called alike and is multiplied, and a table that is no vocabulary's and therefore no head's either.
    @Test func onlySomeTablesAreVocabularies() throws {
        let extraction = try extract(
            [("model.visual.pos_embed.weight", [8, 4]), ("model.layers.0.w.weight", [4, 4]), ("model.patch_embed.0.weight", [4, 4])],
            ["model_type": "qwen3_vl", "tie_word_embeddings": true])
        #expect(
            extraction.adapter.modules.map(\.kind) == extraction.adapter.modules.map { $0.path.text.contains("pos_embed") ? .embedding : .linear })
        #expect(extraction.adapter.modules.count == 3)
        #expect(try BaseModel(path: folder.path("plain")).ties.isEmpty)
    }

    /// Parameters that are no weight and no bias of a layer, beside what is adapted of their modules, and of no module at all: PEFT passes over
    /// them, and the file for merging has them.
    @Test func wholeValuesOfAnyParameterAreWrittenForMerging() throws {
        let whole = [
            ("logit_scale", [1]), ("model.layers.0.mlp.experts.down_proj_bias", [2, 4]), ("model.layers.0.mlp.gate.e_score_correction_bias", [2]),
        ]
        let extraction = try extract(
            whole + [
                ("model.layers.0.mlp.experts.down_proj", [2, 6, 4]), ("model.layers.0.mlp.gate.weight", [2, 4]),
                ("model.layers.0.mlp.gate.bias", [2]),
            ],
            ["model_type": "gpt_oss", "hidden_size": 4])
        let base = try BaseModel(path: folder.path("plain"))
        let path = folder.path("whole.safetensors")
        _ = try extraction.adapter.write(.safetensors, to: path, base: base, options: .init(isDurable: false))
        let read = try Adapter.read(path: path)
        #expect(read.modules.count == 2 && read.remarks.isEmpty, "\(read.remarks)")
        #expect(read.replacements.map(\.tensor).sorted() == (whole.map(\.0) + ["model.layers.0.mlp.gate.bias"]).sorted())
        for replacement in read.replacements {
            let written = try #require(extraction.adapter.replacements.first { $0.tensor == replacement.tensor })
            #expect(bytes(of: replacement.values) == bytes(of: written.values))
        }
        let plan = try MergePlan(base: folder.path("plain"), adapters: [.init(read)])
        #expect(plan.model.tensors.count { !$0.updates.isEmpty } == 2)
        // Read from there they are no less in PEFT's way.
        for adapter in [extraction.adapter, read] {
            for base in [base, nil] {
                let error = #expect(throws: AdapterError.self) {
                    try adapter.write(.peft, to: folder.path("peft"), base: base, options: .init(isDurable: false))
                }
                #expect("\(try #require(error))".contains("PEFT has no form for whole values of a parameter"))
            }
        }
    }

    /// A NaN has no singular values, and sums with it are none.
    @Test(arguments: [Float.nan, .infinity]) func whatIsNotFiniteIsNoUpdate(value: Float) throws {
        func adapter(_ a: [Float]) throws -> Adapter {
            let module = AdapterModule(path: try #require(ModulePath("m")), rank: 2, alpha: 2, loraA: a, loraB: [1, 2, 3, 4])
            return Adapter(path: "spoiled", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
        }
        let (spoiled, whole) = (try adapter([1, 2, value, 4]), try adapter([1, 2, 3, 4]))
        func refused(_ what: String, _ body: () throws -> Void) {
            let error = #expect(throws: AdapterError.self, "\(what)") { try body() }
            #expect(
                error?.code == .notFinite && error?.path == "spoiled" && error?.message.hasPrefix("element [1,0]") == true, "\(what): \(error as Any)"
            )
        }
        refused("resize") { _ = try spoiled.resized(to: .init(rank: 1)) }
        for combination in Adapter.Combination.allCases {
            refused("\(combination)") { _ = try Adapter.combined([.init(whole), .init(spoiled)], combination) }
        }
        for layout in Adapter.Layout.allCases where layout != .gguf {
            refused("\(layout)") {
                _ = try spoiled.taking(component: layout == .kohya || layout == .diffusers ? "transformer" : "x")
                    .write(layout, to: folder.path("out"), options: .init(isDurable: false))
            }
        }
    }

    /// One matrix takes updates for some of its rows each: two experts of three.
    @Test func expertsOfAStackAreTakenOutOneByOne() throws {
        var generator = SeededGenerator(seed: 5)
        let stack = TestTensor("experts.up_proj", .bf16, [3, 4, 6], values: generator.values(72, spread: 1))
        try writeSafetensors([stack], to: folder.path("stack.safetensors"))
        let factors = (0..<3).map { expert in
            LowRankFactors(
                a: FactorMatrix(name: "A", rows: 1, columns: 6, values: generator.values(6, spread: 1).map(Double.init)),
                b: FactorMatrix(name: "B", rows: 4, columns: 1, values: generator.values(4, spread: 1).map { expert == 1 ? 0 : Double($0) }))
        }
        let module = AdapterModule(
            path: try #require(ModulePath("experts")), parameter: "up_proj", kind: .experts, factors: factors, alpha: 1, scale: 1)
        let adapter = Adapter(path: "stack", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
        _ = try MergePlan(base: folder.path("stack.safetensors"), adapters: [.init(adapter)]).run(
            to: folder.path("m"), options: .init(isDurable: false))
        let result = try Unmerging(
            merged: folder.path("m/stack.safetensors"), adapters: [.init(adapter)], to: folder.path("u"), options: .init(isDurable: false))
        let again = try ModelWeights(path: folder.path("u/stack.safetensors")).weight(named: "experts.up_proj")
        let values = FactorMatrix(again).doubles()
        #expect(values.count == 72 && result.elements == 72)
        let wanted = try ModelWeights(path: folder.path("stack.safetensors")).weight(named: "experts.up_proj")
        let off = zip(FactorMatrix(wanted).doubles(), values).filter { $0 != $1 }
        #expect(off.count <= result.uncertain && off.allSatisfy { abs($0 - $1) <= result.maximumError } && result.uncertain <= 48)
    }

    /// W = 1 + 2⁻⁷ and ΔW = 2⁻⁸ in BF16: the sum lies half-way, and so does what is left.
    @Test func tiesAreUncertain() throws {
        try writeSafetensors([TestTensor("m.weight", .bf16, [1, 2], values: [1.0078125, 1])], to: folder.path("w.safetensors"))
        let module = AdapterModule(path: ModulePath("m")!, rank: 1, alpha: 1, loraA: [0.00390625, 0.00390625], loraB: [1])
        let tie = Adapter(path: "tie", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
        _ = try MergePlan(base: folder.path("w.safetensors"), adapters: [.init(tie)]).run(to: folder.path("m"), options: .init(isDurable: false))
        let result = try Unmerging(
            merged: folder.path("m/w.safetensors"), adapters: [.init(tie)], to: folder.path("u"), options: .init(isDurable: false))
        #expect(result.uncertain == 2)
    }
}

/// Adapters held against each other by what they do.
struct UpdateComparisonTests {
    private func adapter(_ modules: [AdapterModule], isFlattened: Bool = false) -> Adapter {
        Adapter(path: "", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: modules, namesAreFlattened: isFlattened)
    }

    private func module(_ name: String, rank: Int, alpha: Double, a: [Float], b: [Float]) throws -> AdapterModule {
        AdapterModule(path: try #require(ModulePath(name)), rank: rank, alpha: alpha, loraA: a, loraB: b)
    }

    /// Other factors of the same product are the same update; the share by which others differ is that of the products.
    @Test func productsCountAndNotFactors() throws {
        var generator = SeededGenerator(seed: 3)
        let (a, b) = (generator.values(2 * 5, spread: 1), generator.values(4 * 2, spread: 1))
        let first = try module("layers.0.q", rank: 2, alpha: 4, a: a, b: b)
        // Both components exchanged and one of them scaled by a power of two; a third that is nothing; and the scale in B.
        let otherA: [Float] = a[5..<10].map { $0 * 4 } + Array(a[0..<5]) + [Float](repeating: 7, count: 5)
        var otherB: [Float] = []
        for row in 0..<4 { otherB += [b[2 * row + 1] / 2, b[2 * row] * 2, 0] }
        let second = try module("layers_0_q", rank: 3, alpha: 3, a: otherA, b: otherB)
        let comparison = try UpdateComparison(adapter([first]), adapter([second], isFlattened: true))
        #expect(comparison.entries.count == 1 && comparison.entries[0].relative < UpdateComparison.resolution)
        #expect(comparison.entries[0].ranks == [2, 3] && comparison.onlyInFirst.isEmpty && comparison.onlyInSecond.isEmpty)
        let half = try UpdateComparison(adapter([first]), adapter([try module("layers.0.q", rank: 2, alpha: 2, a: a, b: b)]))
        #expect(abs(half.entries[0].relative - 0.5) < 1e-12)
        let same = try UpdateComparison(adapter([first]), adapter([first]))
        #expect(same.entries[0].relative == 0)
    }

    /// Squares of such numbers are zero.
    @Test func smallUpdatesAreNotTheSame() throws {
        func tiny(_ values: [Double]) throws -> AdapterModule {
            AdapterModule(
                path: try #require(ModulePath("p")), kind: .linear, loraA: FactorMatrix(name: "A", rows: 1, columns: 2, values: values),
                loraB: FactorMatrix(name: "B", rows: 2, columns: 1, values: values), alpha: 1, scale: 1)
        }
        let comparison = try UpdateComparison(adapter([try tiny([1e-100, 2e-100])]), adapter([try tiny([2e-100, -1e-100])]))
        #expect(comparison.entries[0].relative > 0.5)
    }

    @Test func modulesThatOneHasAreNamed() throws {
        let ones = [Float](repeating: 1, count: 4)
        let (p, q) = (try module("p", rank: 1, alpha: 1, a: ones, b: ones), try module("q", rank: 1, alpha: 1, a: ones, b: ones))
        let longer = try module("q", rank: 1, alpha: 1, a: ones + ones, b: ones)
        let comparison = try UpdateComparison(adapter([p, q]), adapter([longer]))
        #expect(comparison.onlyInFirst == ["p"] && comparison.onlyInSecond.isEmpty && comparison.entries.isEmpty)
        #expect(comparison.reshaped.map(\.name) == ["q"] && comparison.reshaped[0].second == [4, 8])
        let zero = try module("p", rank: 1, alpha: 1, a: ones, b: [Float](repeating: 0, count: 4))
        #expect(try UpdateComparison(adapter([zero]), adapter([p])).entries[0].relative == .infinity)
        #expect(try UpdateComparison(adapter([zero]), adapter([zero])).entries[0].relative == 0)
    }
}
