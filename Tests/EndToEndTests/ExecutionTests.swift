import FileIO
import Foundation
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

/// Base + adapter in the forward pass is the function of the merged model, whatever the adapter has.
struct ExecutionTests {
    private let space: Workspace

    init() throws { space = try Workspace() }

    private func logits(_ name: String, _ arguments: [String]) throws -> [Float] {
        let out = space.path(name + ".safetensors")
        try space.succeed(
            ["logits", "--data", Repository.fixture("texts/adapt-heldout.txt"), "--seq-len", "24", "--out", out, "--force"] + arguments)
        let tensor = try #require(try space.readTensors(out).first { $0.name == "logits" })
        return (0..<tensor.bytes.count / 4).map { Float(bitPattern: UInt32(truncatingIfNeeded: bits(tensor.bytes, .f32, $0))) }
    }

    private func difference(_ a: [Float], _ b: [Float]) -> Float { a.count == b.count ? zip(a, b).map { abs($0 - $1) }.max() ?? 0 : .infinity }

    /// - Parameter floor: how far from the base the adapter must be for the comparison to mean something.
    private func expectSameFunction(_ adapters: [String], base: String = Repository.tinyLlama, floor: Float = 0.1) throws {
        let named = adapters.flatMap { ["--adapter", $0] }
        try space.succeed(["merge", "--base", base, "--out", space.path("merged"), "--dtype", "f32", "--no-fsync", "--force"] + named)
        let right = try logits("right", ["--base", space.path("merged")])
        #expect(difference(right, try logits("base", ["--base", base])) > floor)
        #expect(difference(right, try logits("adapted", ["--base", base] + named)) < 2e-4)
    }

    @Test func magnitudesRunAsTheyMerge() throws {
        var adapter = PEFTAdapter(configuration: ["use_dora": true])
        try adapter.addFactors(["q_proj"])
        for layer in 0..<4 { adapter.add("model.layers.\(layer).self_attn.q_proj.lora_magnitude_vector", [128], spread: 0.2, around: 1) }
        try expectSameFunction([try adapter.write(to: space.path("adapter"))])
    }

    @Test func wholeModulesRunAsTheyMerge() throws {
        var adapter = PEFTAdapter(configuration: ["modules_to_save": ["lm_head", "model.norm"]])
        try adapter.addFactors()
        adapter.add("lm_head.weight", [1024, 128])
        adapter.add("model.norm.weight", [128], spread: 0.3, around: 1)
        try expectSameFunction([try adapter.write(to: space.path("adapter"))])
    }

    @Test func embeddingsRunAsTheyMerge() throws {
        var adapter = PEFTAdapter(configuration: ["target_modules": ["embed_tokens"]])
        adapter.add("model.embed_tokens.lora_embedding_A", [2, 1024])
        adapter.add("model.embed_tokens.lora_embedding_B", [128, 2])
        try expectSameFunction([try adapter.write(to: space.path("adapter"))])
    }

    @Test func biasesRunAsTheyMerge() throws {
        var generator = SeededGenerator(seed: 7)
        let base = try space.makeModel(configuration: ["attention_bias": true]) { tensors in
            for layer in 0..<4 {
                for (name, size) in [("q", 128), ("k", 64), ("v", 64), ("o", 128)] {
                    tensors.append(
                        TestTensor(
                            "model.layers.\(layer).self_attn.\(name)_proj.bias", .bf16, [size], values: generator.values(size, spread: 0.1)))
                }
            }
        }
        var ofFactors = PEFTAdapter(configuration: ["lora_bias": true])
        try ofFactors.addFactors(["q_proj"])
        for layer in 0..<4 { ofFactors.add("model.layers.\(layer).self_attn.q_proj.lora_B.bias", [128], spread: 2) }
        try expectSameFunction([try ofFactors.write(to: space.path("factors"))], base: base)
        var trained = PEFTAdapter(configuration: ["bias": "all"])
        try trained.addFactors(["q_proj"])
        for layer in 0..<4 { trained.add("model.layers.\(layer).self_attn.v_proj.bias", [64], spread: 1) }
        try expectSameFunction([try trained.write(to: space.path("trained"))], base: base)
    }

    @Test func interleavedRowsOfGGUFRunAsTheyMerge() throws {
        let adapter = try PEFTAdapter.write(to: space.path("adapter"), spread: 0.3)
        try space.succeed(["convert", adapter, "--to", "gguf", "--base", Repository.tinyLlama, "--out", space.path("adapter.gguf")])
        try expectSameFunction([space.path("adapter.gguf")])
    }

    @Test func weightedAdaptersRunAsTheyMerge() throws {
        let (one, two) = (try PEFTAdapter.write(to: space.path("one")), try PEFTAdapter.write(to: space.path("two"), seed: 2))
        try expectSameFunction([one + ":0.5", two])
    }

    @Test func whatCannotRunIsRefused() throws {
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        func run(_ base: String, _ adapter: String) throws -> Executable.Outcome {
            try Executable.run(
                "logits", "--base", base, "--adapter", adapter, "--data", Repository.fixture("texts/adapt-heldout.txt"), "--out", space.path("out"))
        }
        let other = try run(try space.makeModel("gemma", configuration: ["model_type": "gemma2"]), adapter)
        #expect(other.status == 65 && other.errors.contains("the architecture \"gemma2\""), "\(other.errors)")
        let file = try run(Repository.tinyLlama + "/model.safetensors", adapter)
        #expect(file.status == 64 && file.errors.contains("name the folder"), "\(file.errors)")
        // Numbers that say nothing are not written.
        for (name, word) in [("nan", "lora_A.weight: element [0,0] is infinite or NaN"), ("big", "the logits are infinite or NaN")] {
            var spoiled = PEFTAdapter()
            try spoiled.addFactors(spread: name == "big" ? 1e30 : 0.1)
            if name == "nan" { spoiled.tensors[0].bytes.replaceSubrange(0..<4, with: [0, 0, 0xC0, 0x7F]) }
            let outcome = try run(Repository.tinyLlama, try spoiled.write(to: space.path(name)))
            #expect(outcome.status == 65 && outcome.errors.contains(word) && !FileSystem.exists(space.path("out")), "\(outcome.errors)")
        }
        // A part that the forward pass does not have is not left out in silence.
        var pooler = PEFTAdapter(configuration: ["modules_to_save": ["score"]])
        try pooler.addFactors()
        pooler.add("score.weight", [3, 128])
        let unknown = try run(Repository.tinyLlama, try pooler.write(to: space.path("score")))
        #expect(unknown.status == 65 && unknown.errors.contains("tensor score.weight: an adapter changes this tensor"), "\(unknown.errors)")
    }
}
