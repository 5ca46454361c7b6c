import Adapters
import FileIO
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

/// A merge is judged by its numbers, in whichever of a family's layouts base, adapter and merged model are.
struct LayoutTests {
    private static let width = 8

    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    /// A tensor's numbers, row by row.
    private struct Values {
        var shape: [Int]
        var numbers: [Float]

        func rows(_ first: Int, _ count: Int) -> Values {
            let width = shape.dropFirst().reduce(1, *)
            return Values(shape: [count] + shape.dropFirst(), numbers: Array(numbers[first * width..<(first + count) * width]))
        }

        static func + (a: Values, b: Values) -> Values {
            Values(shape: [a.shape[0] + b.shape[0]] + a.shape.dropFirst(), numbers: a.numbers + b.numbers)
        }
    }

    private typealias Model = OrderedDictionary<String, Values>

    private static let authorsModules = [
        ("double_blocks.0.img_attn.qkv", [3 * width, width]), ("double_blocks.0.img_attn.proj", [width, width]),
        ("double_blocks.0.img_mlp.0", [4 * width, width]), ("single_blocks.0.linear1", [7 * width, width]),
        ("final_layer.adaLN_modulation.1", [2 * width, width]), ("img_in", [width, 4]),
    ]

    /// Flux.1 in its authors' layout.
    private func authors(seed: UInt64 = 1) -> Model {
        var generator = SeededGenerator(seed: seed)
        var model: Model = [:]
        for (name, shape) in Self.authorsModules {
            model["\(name).weight"] = Values(shape: shape, numbers: generator.values(shape[0] * shape[1], spread: 1))
            model["\(name).bias"] = Values(shape: [shape[0]], numbers: generator.values(shape[0], spread: 1))
        }
        for name in ["query", "key"] {
            model["double_blocks.0.img_attn.norm.\(name)_norm.scale"] = Values(shape: [4], numbers: generator.values(4, spread: 1))
        }
        return model
    }

    /// What diffusers makes of it.
    private func diffusers(_ model: Model) throws -> Model {
        var made: Model = [:]
        let d = Self.width
        for ending in [".weight", ".bias"] {
            func own(_ name: String) throws -> Values { try #require(model[name + ending]) }
            let qkv = try own("double_blocks.0.img_attn.qkv")
            let linear = try own("single_blocks.0.linear1")
            for (number, name) in ["to_q", "to_k", "to_v"].enumerated() {
                made["transformer_blocks.0.attn.\(name)\(ending)"] = qkv.rows(number * d, d)
                made["single_transformer_blocks.0.attn.\(name)\(ending)"] = linear.rows(number * d, d)
            }
            made["single_transformer_blocks.0.proj_mlp\(ending)"] = linear.rows(3 * d, 4 * d)
            made["transformer_blocks.0.attn.to_out.0\(ending)"] = try own("double_blocks.0.img_attn.proj")
            made["transformer_blocks.0.ff.net.0.proj\(ending)"] = try own("double_blocks.0.img_mlp.0")
            made["x_embedder\(ending)"] = try own("img_in")
            let final = try own("final_layer.adaLN_modulation.1")
            made["norm_out.linear\(ending)"] = final.rows(d, d) + final.rows(0, d)
        }
        made["transformer_blocks.0.attn.norm_q.weight"] = model["double_blocks.0.img_attn.norm.query_norm.scale"]
        made["transformer_blocks.0.attn.norm_k.weight"] = model["double_blocks.0.img_attn.norm.key_norm.scale"]
        return made
    }

    private func write(_ model: Model, _ name: String, className: String? = nil) throws -> String {
        let path = folder.path(className == nil ? "\(name).safetensors" : name)
        if let className {
            try FileSystem.createFolder(path)
            try writeText(#"{"_class_name": "\#(className)"}"#, path + "/config.json")
        }
        try writeSafetensors(
            model.map { TestTensor($0, .f32, $1.shape, values: $1.numbers) },
            to: className == nil ? path : path + "/diffusion_pytorch_model.safetensors")
        return path
    }

    private func model(_ path: String) throws -> Model {
        let files = try ModelWeights(path: path)
        var model: Model = [:]
        for (name, location) in files.tensors {
            let numbers = FactorMatrix(location).doubles().map { Float($0) }
            model[name] = Values(shape: location.shape, numbers: numbers)
        }
        return model
    }

    private func factors(_ modules: [(String, [Int])], prefix: String) -> [TestTensor] {
        var generator = SeededGenerator(seed: 9)
        return modules.flatMap { name, shape in
            [
                TestTensor("\(prefix)\(name).lora_A.weight", .f32, [2, shape[1]], values: generator.values(2 * shape[1], spread: 1)),
                TestTensor("\(prefix)\(name).lora_B.weight", .f32, [shape[0], 2], values: generator.values(shape[0] * 2, spread: 1)),
            ]
        }
    }

    /// An adapter of the authors' modules.
    private func adapter() throws -> Adapter {
        let path = folder.path("adapter.safetensors")
        try writeSafetensors(factors(Self.authorsModules, prefix: "diffusion_model."), to: path)
        return try Adapter.read(path: path)
    }

    private func merged(_ base: String, _ adapter: Adapter) throws -> Model {
        let out = folder.path("plain")
        _ = try MergePlan(base: base, adapters: [.init(adapter)]).run(to: out, options: .init(isReplacing: true, isDurable: false))
        return try model(out)
    }

    private func verify(_ base: String, _ adapter: Adapter, _ merged: String) throws -> MergeVerdict {
        try MergeVerifier.verify(base: base, adapters: [.init(adapter)], merged: merged)
    }

    // MARK: verify

    @Test func aRightMergeInTheOtherLayoutPasses() throws {
        let (own, adapter) = (authors(), try adapter())
        let (base, other) = (try write(own, "base"), try write(diffusers(own), "base-diffusers", className: "FluxTransformer2DModel"))
        let right = try merged(base, adapter)
        let results = [
            try write(right, "right"), try write(diffusers(right), "right-bare"),
            try write(diffusers(right), "right-diffusers", className: "FluxTransformer2DModel"),
            try write(OrderedDictionary(uniqueKeysWithValues: right.map { ("model.diffusion_model." + $0, $1) }), "right-prefixed"),
        ]
        for base in [base, other] {
            for result in results {
                let verdict = try verify(base, adapter, result)
                #expect(verdict.passes && verdict.modules.count == 6, "\(base) \(result): \(verdict.diagnosis) \(verdict.faults) \(verdict.doubts)")
            }
        }
    }

    @Test func whatIsWrongInTheOtherLayoutIsNamedWithItsRows() throws {
        let (own, adapter) = (authors(), try adapter())
        let base = try write(own, "base")
        let right = try diffusers(try merged(base, adapter))
        let before = try diffusers(own)
        func verdict(_ name: String, _ change: (inout Model) -> Void) throws -> MergeVerdict {
            var wrong = right
            change(&wrong)
            return try verify(base, adapter, try write(wrong, name))
        }
        let (k, v) = ("transformer_blocks.0.attn.to_k.weight", "transformer_blocks.0.attn.to_v.weight")
        let unmerged = try verdict("unmerged") { $0[k] = before[k] }
        #expect(unmerged.faults.map(\.code) == [.notMerged])
        #expect(
            unmerged.faults.first?.message
                == "rows 0 to 7 of \(k), which are rows 8 to 15 of the base's double_blocks.0.img_attn.qkv.weight: the weight is the base's, the update is not in it"
        )
        let swapped = try verdict("swapped") { ($0[k], $0[v]) = ($0[v], $0[k]) }
        #expect(swapped.faults.map(\.code) == [.swappedModules, .swappedModules], "\(swapped.faults)")
        #expect(swapped.faults.first?.message.contains("rows 16 to 23 of the base's") == true, "\(swapped.faults)")
        let missing = try verdict("missing") { $0[k] = nil }
        #expect(missing.faults.map(\.code) == [.missingTensor])
        #expect(
            missing.faults.first?.message.contains("rows 8 to 15 of double_blocks.0.img_attn.qkv.weight") == true, "\(missing.faults)")
        let halves = try verdict("halves") {
            $0["norm_out.linear.weight"] = $0["norm_out.linear.weight"].map { $0.rows(8, 8) + $0.rows(0, 8) }
        }
        #expect(halves.faults.map(\.code) == [.swappedModules, .swappedModules], "\(halves.faults)")
        let bias = try verdict("bias") { $0["single_transformer_blocks.0.proj_mlp.bias"]?.numbers[3] += 1 }
        #expect(bias.faults.map(\.code) == [.baseChangedWithoutAdapter])
        #expect(
            bias.faults.first?.message.hasPrefix(
                "elements 0 to 31 of single_transformer_blocks.0.proj_mlp.bias, which are elements 24 to 55 of the base's single_blocks.0.linear1.bias: 1 of 32"
            ) == true, "\(bias.faults)")
    }

    @Test func tensorsWithoutAKnownNameAreLeftUndecided() throws {
        var own = authors()
        own["unheard_of.weight"] = Values(shape: [4, 4], numbers: [Float](repeating: 1, count: 16))
        let (base, adapter) = (try write(own, "base"), try adapter())
        var other = try diffusers(try merged(base, adapter))
        other["never_heard_of.weight"] = own["unheard_of.weight"]
        let verdict = try verify(base, adapter, try write(other, "merged"))
        #expect(verdict.outcome == .inconclusive && Set(verdict.doubts.map(\.code)) == [.unknownName], "\(verdict.faults)")
    }

    @Test func expertsInTheOtherLayoutPass() throws {
        let (count, inner, d) = (3, 6, 8)
        var generator = SeededGenerator(seed: 4)
        var separate: Model = [:]
        for expert in 0..<count {
            for (name, shape) in [("w1", [inner, d]), ("w3", [inner, d]), ("w2", [d, inner])] {
                separate["model.layers.0.block_sparse_moe.experts.\(expert).\(name).weight"] = Values(
                    shape: shape, numbers: generator.values(shape[0] * shape[1], spread: 1))
            }
        }
        separate["model.layers.0.block_sparse_moe.gate.weight"] = Values(shape: [count, d], numbers: generator.values(count * d, spread: 1))
        func stacked(_ model: Model) throws -> Model {
            func own(_ expert: Int, _ name: String) throws -> [Float] {
                try #require(model["model.layers.0.block_sparse_moe.experts.\(expert).\(name).weight"]).numbers
            }
            return [
                "model.layers.0.mlp.experts.gate_up_proj": Values(
                    shape: [count, 2 * inner, d], numbers: try (0..<count).flatMap { try own($0, "w1") + own($0, "w3") }),
                "model.layers.0.mlp.experts.down_proj": Values(
                    shape: [count, d, inner], numbers: try (0..<count).flatMap { try own($0, "w2") }),
                "model.layers.0.mlp.gate.weight": try #require(model["model.layers.0.block_sparse_moe.gate.weight"]),
            ]
        }
        let modules = (0..<count).flatMap { expert in
            [("w1", [inner, d]), ("w2", [d, inner])].map { ("model.layers.0.block_sparse_moe.experts.\(expert).\($0.0)", $0.1) }
        }
        let peft = folder.path("peft")
        try FileSystem.createFolder(peft)
        try writeSafetensors(factors(modules, prefix: "base_model.model."), to: peft + "/adapter_model.safetensors")
        try writeText(#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["w1", "w2"]}"#, peft + "/adapter_config.json")
        let adapter = try Adapter.read(path: peft)
        let base = try write(separate, "base")
        let right = try merged(base, adapter)
        let good = try verify(base, adapter, try write(stacked(right), "right"))
        #expect(good.passes, "\(good.diagnosis) \(good.faults)")
        var wrong = right
        let name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
        wrong[name] = separate[name]
        let bad = try verify(base, adapter, try write(stacked(wrong), "wrong"))
        #expect(bad.faults.map(\.code) == [.notMerged])
        #expect(bad.faults.first?.message.hasPrefix("rows 8 to 15 of model.layers.0.mlp.experts.down_proj") == true, "\(bad.faults)")
        // A half of a stack beside it is one tensor too many.
        for (matrix, name) in [("w1", "gate_proj"), ("w3", "up_proj")] {
            var doubled = try stacked(right)
            let copy = "model.layers.0.mlp.experts.\(name)"
            doubled[copy] = Values(
                shape: [count, inner, d],
                numbers: try (0..<count).flatMap {
                    try #require(right["model.layers.0.block_sparse_moe.experts.\($0).\(matrix).weight"]).numbers
                })
            let path = try write(doubled, "doubled-\(name)")
            let verdict = try verify(base, adapter, path)
            #expect(verdict.faults.map(\.code) == [.extraTensor] && verdict.faults.map(\.module) == [copy], "\(verdict.faults)")
            let (own, other) = (try BaseModel(path: base), try BaseModel(path: path))
            for correspondence in [TensorCorrespondence(own.names, other.names), TensorCorrespondence(other.names, own.names)] {
                #expect(!correspondence.counterparts.contains(copy) && correspondence.pieces[copy] == nil)
            }
            let error = #expect(throws: AdapterError.self) {
                try Extraction(base: base, tuned: path, options: .init(choice: RankChoice(rank: 2)))
            }
            #expect(error?.code == .unexpectedTensor && error?.subject == copy, "\(String(describing: error))")
        }
    }

    // MARK: merge

    /// Both bases get the same update of the final modulation, whose halves diffusers has the other way round.
    @Test func theFinalModulationIsMergedIntoBothLayouts() throws {
        let own = authors()
        let theirs = try adapter()
        let base = try write(own, "base")
        let right = try merged(base, theirs)
        let other = try write(diffusers(own), "base-diffusers", className: "FluxTransformer2DModel")
        let found = try merged(other, theirs)
        let wanted = try diffusers(right)
        for (name, values) in wanted { #expect(found[name]?.numbers == values.numbers, "\(name)") }
        // What an adapter in diffusers' layout says is what is merged, also into the authors' file.
        let made = folder.path("native")
        let named = try BaseModel(path: other).naming(theirs)
        _ = try named.write(.diffusers, to: made, base: BaseModel(path: other), options: .init(isDurable: false))
        let native = try Adapter.read(path: made + "/pytorch_lora_weights.safetensors")
        let back = try merged(base, native)
        for (name, values) in right { #expect(back[name]?.numbers == values.numbers, "\(name)") }
        // Named by the authors' file, it is written for diffusers all the same.
        let renamed = folder.path("native-2")
        _ = try BaseModel(path: base).naming(theirs).write(.diffusers, to: renamed, base: BaseModel(path: base), options: .init(isDurable: false))
        let again = try merged(other, try Adapter.read(path: renamed + "/pytorch_lora_weights.safetensors"))
        for (name, values) in wanted { #expect(again[name]?.numbers == values.numbers, "\(name)") }
    }

    /// A method whose updates are no products of two factors is cut into query, key and value, and its halves are exchanged, row by row.
    @Test(arguments: ["LoHa", "LoKr"]) func otherMethodsAreMergedIntoBothLayouts(method: String) throws {
        var generator = SeededGenerator(seed: 11)
        let tensors = Self.authorsModules.flatMap { name, shape in
            let stem = "lora_unet_" + name.replacing(".", with: "_")
            let parts: [(String, [Int])] =
                method == "LoHa"
                ? [("hada_w1_a", [shape[0], 2]), ("hada_w1_b", [2, shape[1]]), ("hada_w2_a", [shape[0], 3]), ("hada_w2_b", [3, shape[1]])]
                : [("lokr_w1", [4, 2]), ("lokr_w2_a", [shape[0] / 4, 2]), ("lokr_w2_b", [2, shape[1] / 2])]
            return parts.map { TestTensor("\(stem).\($0)", .f32, $1, values: generator.values($1[0] * $1[1], spread: 1)) }
        }
        let path = folder.path("other.safetensors")
        try writeSafetensors(tensors, to: path)
        let (own, adapter) = (authors(), try Adapter.read(path: path))
        let (base, other) = (try write(own, "base"), try write(diffusers(own), "base-diffusers", className: "FluxTransformer2DModel"))
        let right = try merged(base, adapter)
        #expect(right["double_blocks.0.img_attn.qkv.weight"]?.numbers != own["double_blocks.0.img_attn.qkv.weight"]?.numbers)
        let (found, wanted) = (try merged(other, adapter), try diffusers(right))
        for (name, values) in wanted { #expect(found[name]?.numbers == values.numbers, "\(name)") }
        for (base, result) in [(base, right), (other, wanted), (base, wanted), (other, right)] {
            let verdict = try verify(base, adapter, try write(result, "result"))
            #expect(verdict.passes && verdict.modules.count == 6, "\(base): \(verdict.diagnosis) \(verdict.faults) \(verdict.doubts)")
        }
    }

    // MARK: extract

    @Test func theSameIsExtractedFromEveryPairOfLayouts() throws {
        let own = authors()
        let theirs = try adapter()
        let bases = [try write(own, "base"), try write(diffusers(own), "base-diffusers", className: "FluxTransformer2DModel")]
        let right = try merged(bases[0], theirs)
        let tuned = [
            try write(right, "tuned"), try write(diffusers(right), "tuned-diffusers", className: "FluxTransformer2DModel"),
            try write(OrderedDictionary(uniqueKeysWithValues: right.map { ("model.diffusion_model." + $0, $1) }), "tuned-prefixed"),
        ]
        for base in bases {
            var found: [[AdapterModule]] = []
            for tuned in tuned {
                let extraction = try Extraction(base: base, tuned: tuned, options: .init(choice: RankChoice(rank: 2)))
                found.append(extraction.adapter.modules)
                #expect(extraction.modules.allSatisfy { $0.energy > 0.999 } && extraction.adapter.replacements.isEmpty)
            }
            for other in found.dropFirst() {
                #expect(other.map(\.label) == found[0].map(\.label))
                for (a, b) in zip(found[0], other) {
                    #expect(a.loraA.doubles() == b.loraA.doubles() && a.loraB.doubles() == b.loraB.doubles(), "\(a.label)")
                }
            }
        }
    }
}
