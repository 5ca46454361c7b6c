import Adapters
import FileIO
import Hashing
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

/// Every kind of adapted module in PEFT's layout, merged and compared with the definition written out here element by
/// element; the verifier, which computes it in a third way, must agree.
struct AdapterKindTests {
    /// A base and an adapter of a few tensors each.
    final class Case {
        let folder: TemporaryFolder
        let dtype: DType
        var generator: SeededGenerator
        let seed: UInt64
        var base: [TestTensor] = []
        var adapter: [TestTensor] = []
        var configuration: OrderedDictionary<String, JSONValue> = ["peft_type": "LORA", "r": 2, "lora_alpha": 3]
        var modelConfiguration: OrderedDictionary<String, JSONValue> = ["model_type": "llama", "architectures": ["LlamaForCausalLM"]]

        init(_ dtype: DType = .bf16) throws {
            folder = try TemporaryFolder()
            self.dtype = dtype
            seed = UInt64.random(in: 0 ... .max)
            generator = SeededGenerator(seed: seed)
        }

        func addBase(_ name: String, _ shape: [Int]) {
            base.append(TestTensor(name, dtype, shape, values: generator.values(shape.reduce(1, *), spread: 0.5)))
        }

        /// Returns the values as they are stored.
        @discardableResult
        func add(_ name: String, _ shape: [Int], dtype: DType = .f32, spread: Float = 0.3) -> [Double] {
            let tensor = TestTensor("base_model.model." + name, dtype, shape, values: generator.values(shape.reduce(1, *), spread: spread))
            adapter.append(tensor)
            return (0..<shape.reduce(1, *)).map { MergeReference.value(of: bits(tensor.bytes, dtype, $0), in: dtype) }
        }

        func weights(_ name: String) -> [Double] {
            let tensor = base.first { $0.name == name }!
            return (0..<tensor.shape.reduce(1, *)).map { MergeReference.value(of: bits(tensor.bytes, dtype, $0), in: dtype) }
        }

        var basePath: String { folder.path("base") }

        func plan(weight: Double = 1) throws -> MergePlan {
            try? FileSystem.remove(basePath)
            try? FileSystem.remove(folder.path("adapter"))
            try FileSystem.createFolder(basePath)
            try FileSystem.createFolder(folder.path("adapter"))
            try writeSafetensors(base, to: folder.path("base/model.safetensors"))
            try writeText(JSONValue.object(modelConfiguration).serialized(), folder.path("base/config.json"))
            try writeSafetensors(adapter, to: folder.path("adapter/adapter_model.safetensors"))
            try writeText(JSONValue.object(configuration).serialized(), folder.path("adapter/adapter_config.json"))
            return try MergePlan(base: basePath, adapters: [.init(try Adapter.read(path: folder.path("adapter")), weight: weight)])
        }

        /// Merges, verifies, and compares.
        func expect(_ expected: [String: [Double]], _ location: SourceLocation = #_sourceLocation) throws {
            let plan = try plan()
            let report = try plan.run(to: folder.path("merged"), options: .init(threads: 2, isReplacing: true, isDurable: false))
            let merged = try ModelWeights(path: folder.path("merged"))
            for (name, values) in expected {
                let bytes = try read(name, from: merged)
                let stored = values.indices.map { bits(bytes, dtype, $0) }
                #expect(
                    stored == values.map { MergeReference.bits(of: $0, in: dtype) }, "\(name), seed \(seed)", sourceLocation: location)
            }
            for tensor in base where expected[tensor.name] == nil {
                #expect(try read(tensor.name, from: merged) == tensor.bytes, "\(tensor.name)", sourceLocation: location)
            }
            #expect(Set(merged.tensors.keys) == Set(base.map(\.name)).union(expected.keys), sourceLocation: location)
            #expect(report.tensorsChanged == expected.count, sourceLocation: location)
            let verdict = try MergeVerifier.verify(
                base: basePath, adapters: plan.model.adapters, merged: folder.path("merged"), options: .init(threads: 2))
            #expect(verdict.passes, "\(verdict.faults.map(\.message))", sourceLocation: location)
        }

        func refused(_ code: MergeError.Code, weight: Double = 1, _ location: SourceLocation = #_sourceLocation) throws {
            do {
                _ = try plan(weight: weight)
                Issue.record("it was let pass", sourceLocation: location)
            } catch let error as MergeError {
                #expect(error.code == code, "\(error)", sourceLocation: location)
            }
        }
    }

    /// W + s·Σ b[o,k]·a[k,i] for a weight [rows, columns].
    private func sum(_ weights: [Double], rows: Int, columns: Int, scale: Double, _ acc: (Int, Int) -> Double) -> [Double] {
        (0..<rows * columns).map { weights[$0] + scale * acc($0 / columns, $0 % columns) }
    }

    private func dot(_ count: Int, _ term: (Int) -> (Double, Double)) -> Double {
        var sum = 0.0
        for k in 0..<count {
            let (b, a) = term(k)
            sum += b * a
        }
        return sum
    }

    @Test(arguments: [false, true], [DType.bf16, .f32])
    func transposedWeightsTakeTransposedUpdates(isFlagged: Bool, dtype: DType) throws {
        let item = try Case(dtype)
        item.modelConfiguration["model_type"] = isFlagged ? "unknown" : "gpt2"
        if isFlagged { item.configuration["fan_in_fan_out"] = true }
        // A square one, and one that is not.
        for (name, inputs, outputs) in [("attn.c_proj", 12, 12), ("mlp.c_fc", 12, 20)] { item.addBase("h.0.\(name).weight", [inputs, outputs]) }
        var expected: [String: [Double]] = [:]
        for (name, inputs, outputs) in [("attn.c_proj", 12, 12), ("mlp.c_fc", 12, 20)] {
            // The files are those of the inner model.
            let a = item.add("transformer.h.0.\(name).lora_A.weight", [2, inputs])
            let b = item.add("transformer.h.0.\(name).lora_B.weight", [outputs, 2])
            let weight = "h.0.\(name).weight"
            expected[weight] = sum(item.weights(weight), rows: inputs, columns: outputs, scale: 1.5) { i, o in
                dot(2) { (b[o * 2 + $0], a[$0 * inputs + i]) }
            }
        }
        try item.expect(expected)
    }

    @Test func embeddingsTakeUpdatesByTheirRows() throws {
        let item = try Case()
        item.addBase("model.embed_tokens.weight", [40, 12])
        item.addBase("lm_head.weight", [40, 12])
        let a = item.add("model.embed_tokens.lora_embedding_A", [2, 40])
        let b = item.add("model.embed_tokens.lora_embedding_B", [12, 2])
        try item.expect([
            "model.embed_tokens.weight": sum(item.weights("model.embed_tokens.weight"), rows: 40, columns: 12, scale: 1.5) { v, d in
                dot(2) { (b[d * 2 + $0], a[$0 * 40 + v]) }
            }
        ])
    }

    @Test func convolutionsTakeUpdatesOfTheirShape() throws {
        let item = try Case()
        item.addBase("conv.weight", [6, 4, 3, 3])
        item.addBase("point.weight", [6, 4, 1, 1])
        let a = item.add("conv.lora_A.weight", [2, 4, 3, 3])
        let b = item.add("conv.lora_B.weight", [6, 2, 1, 1])
        let pointA = item.add("point.lora_A.weight", [2, 4])
        let pointB = item.add("point.lora_B.weight", [6, 2])
        try item.expect([
            "conv.weight": sum(item.weights("conv.weight"), rows: 6, columns: 36, scale: 1.5) { o, i in dot(2) { (b[o * 2 + $0], a[$0 * 36 + i]) } },
            "point.weight": sum(item.weights("point.weight"), rows: 6, columns: 4, scale: 1.5) { o, i in
                dot(2) { (pointB[o * 2 + $0], pointA[$0 * 4 + i]) }
            },
        ])
    }

    @Test(arguments: [DType.f32, .bf16])
    func magnitudesScaleRowsOfLinearLayers(dtype: DType) throws {
        let item = try Case(dtype)
        item.configuration["use_dora"] = true
        item.addBase("a.q_proj.weight", [50, 21])
        let a = item.add("a.q_proj.lora_A.weight", [2, 21])
        let b = item.add("a.q_proj.lora_B.weight", [50, 2])
        let m = item.add("a.q_proj.lora_magnitude_vector", [50], spread: 2)
        let u = sum(item.weights("a.q_proj.weight"), rows: 50, columns: 21, scale: 1.5) { o, i in dot(2) { (b[o * 2 + $0], a[$0 * 21 + i]) } }
        let expected = (0..<50).flatMap { row in MergeReference.scaled(Array(u[row * 21..<(row + 1) * 21]), to: m[row]) }
        try item.expect(["a.q_proj.weight": expected])
        try item.refused(.unsupportedCombination, weight: 0.5)
        // A magnitude acts though B is zero.
        item.adapter[1].bytes = [UInt8](repeating: 0, count: item.adapter[1].bytes.count)
        let plain = item.weights("a.q_proj.weight")
        try item.expect(["a.q_proj.weight": (0..<50).flatMap { MergeReference.scaled(Array(plain[$0 * 21..<($0 + 1) * 21]), to: m[$0]) }])
    }

    @Test func magnitudesScaleColumnsOfEmbeddings() throws {
        let item = try Case()
        item.configuration["use_dora"] = true
        item.addBase("model.embed_tokens.weight", [43, 12])
        let a = item.add("model.embed_tokens.lora_embedding_A", [2, 43])
        let b = item.add("model.embed_tokens.lora_embedding_B", [12, 2])
        let m = item.add("model.embed_tokens.lora_magnitude_vector", [12], spread: 2)
        let u = sum(item.weights("model.embed_tokens.weight"), rows: 43, columns: 12, scale: 1.5) { v, d in
            dot(2) { (b[d * 2 + $0], a[$0 * 43 + v]) }
        }
        let columns = (0..<12).map { column in MergeReference.scaled((0..<43).map { u[$0 * 12 + column] }, to: m[column]) }
        item.addBase("lm_head.weight", [43, 12])
        try item.expect(["model.embed_tokens.weight": (0..<43 * 12).map { columns[$0 % 12][$0 / 12] }])
    }

    @Test func aMagnitudeAloneMeetsItsWeight() throws {
        let item = try Case()
        item.configuration["use_dora"] = true
        item.addBase("a.q_proj.weight", [4, 8])
        item.add("a.q_proj.lora_A.weight", [2, 8])
        item.add("a.q_proj.lora_B.weight", [4, 2])
        item.add("a.q_proj.lora_magnitude_vector", [4])
        _ = try item.plan()
        let adapter = try Adapter.read(path: item.folder.path("adapter"))
        #expect {
            _ = try MergePlan(base: item.basePath, adapters: [.init(adapter), .init(adapter)])
        } throws: {
            ($0 as? MergeError)?.code == .unsupportedCombination
        }
    }

    @Test func theBiasOfAFactorIsAddedToTheLayers() throws {
        let item = try Case()
        item.configuration["lora_bias"] = true
        item.addBase("a.q_proj.weight", [6, 8])
        item.addBase("a.q_proj.bias", [6])
        let a = item.add("a.q_proj.lora_A.weight", [2, 8])
        let b = item.add("a.q_proj.lora_B.weight", [6, 2])
        let bias = item.add("a.q_proj.lora_B.bias", [6])
        try item.expect([
            "a.q_proj.weight": sum(item.weights("a.q_proj.weight"), rows: 6, columns: 8, scale: 1.5) { o, i in
                dot(2) { (b[o * 2 + $0], a[$0 * 8 + i]) }
            },
            "a.q_proj.bias": zip(item.weights("a.q_proj.bias"), bias).map { $0 + 1.5 * $1 },
        ])
        item.base.removeLast()
        try item.refused(.moduleNotInBase)
    }

    /// How a base may hold the experts of a layer.
    enum ExpertLayout: CaseIterable { case separate, mixtral, stacked, stackedTransposed }

    @Test(arguments: ExpertLayout.allCases)
    func eachExpertTakesItsPartOfTheFactors(layout: ExpertLayout) throws {
        let item = try Case()
        let (count, hidden, inner) = (3, 8, 5)
        item.configuration["target_parameters"] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        item.configuration["rank_pattern"] = ["experts.down_proj": 3]
        // The parameter that the model declares last is wrapped last, and so its key is the plain one.
        let key = "model.layers.0.mlp.experts"
        let gateA = item.add(key + ".base_layer.lora_A.weight", [count * 2, hidden])
        let gateB = item.add(key + ".base_layer.lora_B.weight", [2 * inner, 2 * count])
        let downA = item.add(key + ".lora_A.weight", [count * 3, inner])
        let downB = item.add(key + ".lora_B.weight", [hidden, 3 * count])
        // B is [out, rank, expert].
        func gateUp(_ e: Int, _ o: Int, _ i: Int) -> Double { dot(2) { (gateB[o * 2 * count + $0 * count + e], gateA[(e * 2 + $0) * hidden + i]) } }
        func down(_ e: Int, _ o: Int, _ i: Int) -> Double { dot(3) { (downB[o * 3 * count + $0 * count + e], downA[(e * 3 + $0) * inner + i]) } }
        var expected: [String: [Double]] = [:]
        func expect(_ name: String, _ shape: [Int], scale: Double, _ acc: @escaping (Int, Int) -> Double) {
            item.addBase(name, shape)
            let columns = shape.last!
            expected[name] = sum(item.weights(name), rows: shape.reduce(1, *) / columns, columns: columns, scale: scale, acc)
        }
        switch layout {
        case .separate, .mixtral:
            let path = layout == .separate ? key : "model.layers.0.block_sparse_moe.experts"
            let names = layout == .separate ? ["gate_proj", "up_proj", "down_proj"] : ["w1", "w3", "w2"]
            for e in 0..<count {
                expect("\(path).\(e).\(names[0]).weight", [inner, hidden], scale: 1.5) { gateUp(e, $0, $1) }
                expect("\(path).\(e).\(names[1]).weight", [inner, hidden], scale: 1.5) { gateUp(e, inner + $0, $1) }
                expect("\(path).\(e).\(names[2]).weight", [hidden, inner], scale: 1) { down(e, $0, $1) }
            }
        case .stacked:
            expect(key + ".gate_up_proj", [count, 2 * inner, hidden], scale: 1.5) { gateUp($0 / (2 * inner), $0 % (2 * inner), $1) }
            expect(key + ".down_proj", [count, hidden, inner], scale: 1) { down($0 / hidden, $0 % hidden, $1) }
        case .stackedTransposed:
            expect(key + ".gate_up_proj", [count, hidden, 2 * inner], scale: 1.5) { gateUp($0 / hidden, $1, $0 % hidden) }
            expect(key + ".down_proj", [count, inner, hidden], scale: 1) { down($0 / inner, $1, $0 % inner) }
        }
        try item.expect(expected)
        // An expert too many.
        if layout == .separate {
            item.addBase("\(key).\(count).gate_proj.weight", [inner, hidden])
            try item.refused(.shapeMismatch)
        }
    }

    /// Where the shape cannot tell inputs from outputs, the family does: PEFT transposes where the class of the experts says that it is transposed.
    @Test(arguments: [
        ("aria", true), ("aria_text", true), ("gpt_oss", true), ("openai_privacy_filter", true), ("llama4", false), ("llama4_text", false),
        ("qwen3_vl_moe", false), ("qwen3_moe", false),
    ])
    func theFamilyTellsTheSidesOfSquareExperts(family: String, isTransposed: Bool) throws {
        let item = try Case()
        let (count, width) = (3, 6)
        item.modelConfiguration["model_type"] = .string(family)
        item.configuration["target_parameters"] = ["experts.gate_up_proj"]
        let key = "model.layers.0.mlp.experts"
        let a = item.add(key + ".lora_A.weight", [count * 2, width])
        let b = item.add(key + ".lora_B.weight", [width, 2 * count])
        func update(_ e: Int, _ o: Int, _ i: Int) -> Double { dot(2) { (b[o * 2 * count + $0 * count + e], a[(e * 2 + $0) * width + i]) } }
        let name = key + ".gate_up_proj"
        item.addBase(name, [count, width, width])
        try item.expect([
            name: sum(item.weights(name), rows: count * width, columns: width, scale: 1.5) { row, column in
                isTransposed ? update(row / width, column, row % width) : update(row / width, row % width, column)
            }
        ])
    }

    @Test func wholeTensorsAndRowsTakeThePlaceOfTheBases() throws {
        let item = try Case()
        item.configuration["modules_to_save"] = ["lm_head", "norm", "score"]
        item.configuration["trainable_token_indices"] = ["embed_tokens": [7, 0, 31]]
        item.configuration["bias"] = "all"
        item.addBase("model.embed_tokens.weight", [32, 8])
        item.addBase("model.norm.weight", [8])
        item.addBase("a.q_proj.weight", [8, 8])
        item.addBase("a.q_proj.bias", [8])
        item.addBase("lm_head.weight", [32, 8])
        let head = item.add("lm_head.weight", [32, 8])
        let norm = item.add("model.norm.weight", [8], dtype: .f16)
        let rows = item.add("model.embed_tokens.token_adapter.trainable_tokens_delta", [3, 8])
        let bias = item.add("a.q_proj.base_layer.bias", [8])
        var embedding = item.weights("model.embed_tokens.weight")
        for (place, token) in [7, 0, 31].enumerated() { embedding.replaceSubrange(token * 8..<token * 8 + 8, with: rows[place * 8..<place * 8 + 8]) }
        let expected = ["lm_head.weight": head, "model.norm.weight": norm, "model.embed_tokens.weight": embedding, "a.q_proj.bias": bias]
        try item.expect(expected)
        // One more that the base does not have.
        let score = item.add("score.weight", [3, 8], dtype: .bf16)
        try item.expect(expected.merging(["score.weight": score]) { $1 })
        try item.refused(.unsupportedCombination, weight: 0.5)
        item.configuration["trainable_token_indices"] = ["embed_tokens": [7, 0, 32]]
        try item.refused(.shapeMismatch)
    }

    /// Which matrices of a tied model an adapter updates.
    @Test(arguments: [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
    func tiedWeightsAreSeparated(targets: [String]) throws {
        let item = try Case()
        item.modelConfiguration["tie_word_embeddings"] = true
        item.addBase("model.embed_tokens.weight", [32, 8])
        let weights = item.weights("model.embed_tokens.weight")
        var expected = ["lm_head.weight": weights]
        if targets.contains("embed_tokens") {
            let a = item.add("model.embed_tokens.lora_embedding_A", [2, 32])
            let b = item.add("model.embed_tokens.lora_embedding_B", [8, 2])
            expected["model.embed_tokens.weight"] = sum(weights, rows: 32, columns: 8, scale: 1.5) { v, d in
                dot(2) { (b[d * 2 + $0], a[$0 * 32 + v]) }
            }
        }
        if targets.contains("lm_head") {
            let a = item.add("lm_head.lora_A.weight", [2, 8])
            let b = item.add("lm_head.lora_B.weight", [32, 2])
            expected["lm_head.weight"] = sum(weights, rows: 32, columns: 8, scale: 1.5) { o, i in dot(2) { (b[o * 2 + $0], a[$0 * 8 + i]) } }
        }
        try item.expect(expected)
        let configuration = try JSONValue(parsing: try readAll(item.folder.path("merged/config.json")))
        #expect(configuration["tie_word_embeddings"] == false)
        // A lone file has no configuration that could say so.
        let adapter = try Adapter.read(path: item.folder.path("adapter"))
        #expect {
            _ = try MergePlan(base: item.folder.path("base/model.safetensors"), adapters: [.init(adapter)])
        } throws: {
            ($0 as? MergeError)?.code == .tiedWeights
        }
    }

    @Test func rowsOfATiedMatrixStayShared() throws {
        let item = try Case()
        item.modelConfiguration["tie_word_embeddings"] = true
        item.configuration["trainable_token_indices"] = [3]
        item.addBase("model.embed_tokens.weight", [32, 8])
        let row = item.add("model.embed_tokens.token_adapter.trainable_tokens_delta", [1, 8])
        var embedding = item.weights("model.embed_tokens.weight")
        embedding.replaceSubrange(24..<32, with: row)
        try item.expect(["model.embed_tokens.weight": embedding])
        #expect(try JSONValue(parsing: try readAll(item.folder.path("merged/config.json")))["tie_word_embeddings"] == true)
    }

    @Test func aGrownVocabularyNeedsBothItsMatrices() throws {
        let item = try Case()
        item.modelConfiguration["vocab_size"] = 32
        item.addBase("model.embed_tokens.weight", [32, 8])
        item.addBase("lm_head.weight", [32, 8])
        let embedding = item.add("model.embed_tokens.weight", [35, 8])
        try item.refused(.shapeMismatch)
        let head = item.add("lm_head.weight", [35, 8])
        try item.expect(["model.embed_tokens.weight": embedding, "lm_head.weight": head])
        #expect(try JSONValue(parsing: try readAll(item.folder.path("merged/config.json")))["vocab_size"] == 35)
    }

    /// A plain adapter of one module.
    private func plain() throws -> Case {
        let item = try Case()
        item.addBase("a.q_proj.weight", [6, 8])
        item.addBase("a.norm.weight", [0, 8])
        item.add("a.q_proj.lora_A.weight", [2, 8])
        item.add("a.q_proj.lora_B.weight", [6, 2])
        return item
    }

    @Test func aPlanMayBeMadeFromHeadersAlone() throws {
        let item = try plain()
        item.configuration["alpha_pattern"] = ["k_proj": 2, "q_proj": 4]
        item.adapter[0].bytes = encode(.nan, .f32) + item.adapter[0].bytes.dropFirst(4)
        try item.refused(.factorNotFinite)
        let adapter = try Adapter.read(path: item.folder.path("adapter"))
        #expect(adapter.remarks == ["alpha_pattern: \"k_proj\" matches no module of the adapter"])
        let plan = try MergePlan(base: item.basePath, adapters: [.init(adapter, weight: 0.5)], readsFactors: false)
        #expect(plan.moduleCount == 1 && plan.byteCount == 96 && plan.memoryEstimate(threads: 2) > 0)
        let step = try #require(plan.steps.first)
        #expect(plan.steps.count == 1 && step.tensor == "a.q_proj.weight" && step.shape == [6, 8] && step.dtype == .bf16)
        #expect(step.module?.text == "a.q_proj" && step.rank == 2 && step.scale == 1 && !step.hasMagnitude)
    }

    @Test func aMergeThatLosesTooMuchIsNotWritten() throws {
        let item = try plain()
        let plan = try item.plan()
        let path = item.folder.path("merged")
        #expect {
            _ = try plan.run(to: path, options: .init(isDurable: false, minimumSurvival: 2))
        } throws: {
            ($0 as? MergeError)?.code == .survivalTooLow
        }
        #expect(!FileSystem.exists(path))
        let report = try plan.run(to: path, options: .init(isDurable: false, minimumSurvival: 0.5))
        #expect(try #require(report.minimumSurvival).survival >= 0.5)
    }

    @Test func theReceiptHoldsHashes() throws {
        let item = try plain()
        _ = try item.plan().run(to: item.folder.path("merged"), options: .init(threads: 2, isDurable: false, hashesTensors: true))
        let receipt = try JSONValue(parsing: try readAll(item.folder.path("merged/oplora-merge.json")))
        let merged = try ModelWeights(path: item.folder.path("merged"))
        #expect(receipt["sha256"]?.objectValue?.count == 2)
        for name in merged.tensors.keys {
            let bytes = try read(name, from: merged)
            let digest = SHA256Digest.hex(of: unsafe bytes.span.bytes)
            #expect(receipt["sha256"]?[name]?.stringValue == digest)
        }
        #expect(receipt["coverage"]?["tensors"] == 2 && receipt["coverage"]?["changed"] == 1)
    }

    @Test func anAdapterOfAnotherBaseIsTakenOnlyWhenTold() throws {
        let item = try plain()
        item.configuration["base_model_name_or_path"] = "someone/Model-7B"
        _ = try item.plan()
        let adapter = try Adapter.read(path: item.folder.path("adapter"))
        func merge(takesAnyBase: Bool = false) throws -> MergeError.Code? {
            do { _ = try MergePlan(base: item.basePath, adapters: [.init(adapter)], takesAnyBase: takesAnyBase) } catch let error as MergeError {
                return error.code
            }
            return nil
        }
        // A base that does not say what it is may be any.
        #expect(try merge() == nil)
        for (name, isRefused) in [("other/Model-13B", true), ("elsewhere/model-7b", false), ("", false)] {
            item.modelConfiguration["_name_or_path"] = .string(name)
            try writeText(JSONValue.object(item.modelConfiguration).serialized(), item.folder.path("base/config.json"))
            #expect(try merge() == (isRefused ? .otherBase : nil))
            #expect(try merge(takesAnyBase: true) == nil)
        }
    }

    @Test func namesWithoutTheInnerModelAreFoundWhereThereIsOne() throws {
        let item = try Case()
        item.addBase("model.l.0.q_proj.weight", [4, 4])
        let a = item.add("l.0.q_proj.lora_A.weight", [2, 4])
        let b = item.add("l.0.q_proj.lora_B.weight", [4, 2])
        let name = "model.l.0.q_proj.weight"
        try item.expect([name: sum(item.weights(name), rows: 4, columns: 4, scale: 1.5) { o, i in dot(2) { (b[o * 2 + $0], a[$0 * 4 + i]) } }])
        // Of two models in one file none is the one that is meant.
        item.addBase("teacher.l.0.q_proj.weight", [4, 4])
        try item.refused(.moduleNotInBase)
    }

    @Test func viewsOfFactorsShowTheElementsTheyName() {
        let matrix = FactorMatrix(name: "m", rows: 4, columns: 6, values: (0..<24).map(Float.init))
        #expect(matrix.transposed.shape == [6, 4] && matrix.transposed.doubles() == (0..<24).map { Double($0 % 4 * 6 + $0 / 4) })
        #expect(matrix.rows(from: 1, count: 2).doubles() == (6..<18).map(Double.init))
        #expect(matrix.rows(from: 1, step: 2, count: 2).doubles() == (6..<12).map(Double.init) + (18..<24).map(Double.init))
        #expect(matrix.columns(from: 2, step: 3, count: 2).doubles() == [2, 5, 8, 11, 14, 17, 20, 23])
        #expect(matrix.columns(from: 1, step: 2, count: 3).transposed.rows(from: 1, count: 1).doubles() == [3, 9, 15, 21])
        let doubles = FactorMatrix(name: "d", rows: 1, columns: 3, values: [0.1, 0.2, 0.3] as [Double])
        #expect(doubles.dtype == .f64 && doubles.doubles() == [0.1, 0.2, 0.3] && !doubles.isZero)
    }
}
