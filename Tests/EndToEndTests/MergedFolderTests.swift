import FileIO
import Foundation
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

/// What goes into a merged folder beside the weights, and what the report and the receipt say of it.
struct MergedFolderTests {
    private let space: Workspace
    private let base = Repository.tinyLlama

    init() throws { space = try Workspace() }

    private func merge(_ arguments: String..., base: String? = nil, out: String = "merged") throws -> Executable.Outcome {
        try Executable.run(["merge", "--base", base ?? self.base, "--out", space.path(out), "--no-fsync", "--json"] + arguments)
    }

    private func report(_ outcome: Executable.Outcome, _ schema: String = "merge") throws -> JSONValue {
        try #require(outcome.status == 0, "\(outcome.errors)")
        let report = try JSONValue(parsing: Array(outcome.output.utf8))
        #expect(try ReportSchema(schema).faults(of: report) == [])
        return report
    }

    private func receipt(_ folder: String = "merged") throws -> JSONValue {
        let receipt = try JSONValue(parsing: try readAll(space.path(folder + "/oplora-merge.json")))
        #expect(try ReportSchema("merge-receipt").faults(of: receipt) == [])
        return receipt
    }

    private func text(_ path: String) throws -> String { String(decoding: try readAll(space.path(path)), as: UTF8.self) }

    private func remarks(_ report: JSONValue) -> String { report["remarks"]?.arrayValue?.compactMap(\.stringValue).joined(separator: "\n") ?? "" }

    // MARK: Tokenizers

    private static let vocabulary =
        #"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "added_tokens": [{"id": 7, "content": "<tool>"}]}"#

    @Test func anAdaptersTokenizerTakesThePlaceOfTheBases() throws {
        let base = try space.makeModel("base")
        for name in ["special_tokens_map.json", "chat_template.jinja"] { try writeText("of the base", base + "/" + name) }
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        try writeText(Self.vocabulary, adapter + "/tokenizer.json")
        try writeText("{}", adapter + "/tokenizer_config.json")
        let report = try report(try merge("--adapter", adapter, base: base))
        #expect(try text("merged/tokenizer.json") == Self.vocabulary && text("merged/tokenizer_config.json") == "{}")
        // The rest of the base's tokenizer is of another one.
        for name in ["special_tokens_map.json", "chat_template.jinja"] { #expect(!FileSystem.exists(space.path("merged/" + name))) }
        #expect(report["filesLeftOut"] == ["chat_template.jinja", "special_tokens_map.json"])
        let expected: JSONValue = ["adapter": "adapter", "fromAdapter": ["tokenizer.json", "tokenizer_config.json"], "fromBase": []]
        #expect(try report["tokenizer"] == expected && receipt()["tokenizer"] == expected)
        #expect(try text("merged/generation_config.json") == String(decoding: readAll(base + "/generation_config.json"), as: UTF8.self))
        // The base's if it is asked for.
        let kept = try self.report(try merge("--adapter", adapter, "--base-tokenizer", base: base, out: "kept"))
        #expect(try readAll(space.path("kept/tokenizer.json")) == readAll(base + "/tokenizer.json"))
        #expect(kept["tokenizer"]?["adapter"] == .null && kept["tokenizer"]?["fromBase"]?.arrayValue?.count == 4)
    }

    @Test func aTemplateAloneIsReplacedAlone() throws {
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        try writeText("{{ messages }}", adapter + "/chat_template.jinja")
        let report = try report(try merge("--adapter", adapter))
        #expect(try text("merged/chat_template.jinja") == "{{ messages }}")
        #expect(try readAll(space.path("merged/tokenizer.json")) == readAll(base + "/tokenizer.json"))
        #expect(report["tokenizer"]?["fromAdapter"] == ["chat_template.jinja"])
        #expect(report["tokenizer"]?["fromBase"] == ["tokenizer.json", "tokenizer_config.json"])
    }

    @Test func tokenizersThatDoNotFitAreSaid() throws {
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        try writeText(Self.vocabulary.replacing("7", with: "1024"), adapter + "/tokenizer.json")
        #expect(
            try remarks(report(try merge("--adapter", adapter))).contains("tokens up to number 1024, and the merged model has embeddings for 1024"))
        // Another adapter with another one, and parts that mean nothing alone.
        let other = try PEFTAdapter.write(to: space.path("other"), seed: 2)
        try writeText(Self.vocabulary, other + "/tokenizer.json")
        let two = try merge("--adapter", adapter, "--adapter", other, out: "two")
        #expect(two.status == 65 && two.errors.contains("--base-tokenizer"), "\(two.errors)")
        #expect(try merge("--adapter", adapter, "--adapter", other, "--base-tokenizer", out: "two").status == 0)
        try FileSystem.remove(other + "/tokenizer.json")
        try writeText("{}", other + "/special_tokens_map.json")
        let part = try merge("--adapter", other, out: "part")
        #expect(part.status == 65 && part.errors.contains("no vocabulary"), "\(part.errors)")
    }

    // MARK: Effect

    @Test func whatChangesNothingIsNotCalledChanged() throws {
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        let zero = try report(try merge("--adapter", adapter + ":0", out: "zero"))
        #expect(zero["modules"] == 16 && zero["tensorsChanged"] == 0 && zero["modulesWithoutEffect"]?.arrayValue?.count == 16)
        #expect(remarks(zero).contains("the update of 16 modules is zero"))
        #expect(try receipt("zero")["coverage"]?["changed"] == 0)
        #expect(try readAll(space.path("zero/model.safetensors")) == readAll(base + "/model.safetensors"))
        let tiny = try PEFTAdapter.write(to: space.path("tiny"), spread: 1e-6)
        let erased = try report(try merge("--adapter", tiny, out: "erased"))
        #expect(erased["tensorsChanged"] == 0 && remarks(erased).contains("rounding erased the update of 16 modules"), "\(remarks(erased))")
        let wide = try report(try merge("--adapter", tiny, "--dtype", "f32", out: "wide"))
        #expect(wide["tensorsChanged"] == 38 && wide["modulesWithoutEffect"] == [])
    }

    @Test func valuesThatAreTheBasesAreNoChange() throws {
        let norm = "model.norm.weight"
        var tensor = try #require(try space.readTensors(base + "/model.safetensors").first { $0.name == norm })
        tensor.name = "base_model.model." + norm
        for isSame in [true, false] {
            var adapter = PEFTAdapter(configuration: ["modules_to_save": ["model.norm"]])
            if !isSame { tensor.bytes[10] ^= 1 }
            adapter.tensors.append(tensor)
            let path = try adapter.write(to: space.path("adapter\(isSame)"))
            #expect(try report(try merge("--adapter", path, out: "\(isSame)"))["tensorsChanged"] == (isSame ? 0 : 1))
        }
    }

    // MARK: Receipts

    @Test func receiptsAreChained() throws {
        let (one, two) = (try PEFTAdapter.write(to: space.path("one")), try PEFTAdapter.write(to: space.path("two"), seed: 2))
        _ = try report(try merge("--adapter", one))
        let first = try receipt()
        _ = try report(try merge("--adapter", two + ":0.5", base: space.path("merged"), out: "both"))
        #expect(try receipt("both")["history"] == [first])
        // The same adapter once more, from wherever it is read.
        try FileManager.default.copyItem(atPath: one, toPath: space.path("copy"))
        let again = try merge("--adapter", space.path("copy"), base: space.path("both"), out: "again")
        #expect(again.status == 65 && again.errors.contains("--again") && again.errors.contains("as one"), "\(again.errors)")
        #expect(try merge("--adapter", space.path("copy"), "--again", base: space.path("both"), out: "again").status == 0)
        let twice = try merge("--adapter", two, "--adapter", two, out: "twice")
        #expect(twice.status == 64 && twice.errors.contains("two: the adapter is given twice; give it once"), "\(twice.errors)")
        let copied = try merge("--adapter", one, "--adapter", space.path("copy"), out: "twice")
        #expect(copied.status == 64 && copied.errors.contains("given twice, also as \(one)"), "\(copied.errors)")
        // A receipt that is none is not dropped in silence.
        try writeText("{", space.path("again/oplora-merge.json"))
        let broken = try merge("--adapter", two, base: space.path("again"), out: "broken")
        #expect(broken.status == 65 && broken.errors.contains("oplora-merge.json"), "\(broken.errors)")
    }

    @Test func onlyWhatWasMergedIsTakenOut() throws {
        let (one, two) = (try PEFTAdapter.write(to: space.path("one")), try PEFTAdapter.write(to: space.path("two"), seed: 2))
        _ = try report(try merge("--adapter", one + ":0.5"))
        func unmerge(_ arguments: String..., from: String = "merged", out: String = "again") throws -> Executable.Outcome {
            try Executable.run(["unmerge", "--merged", space.path(from), "--out", space.path(out), "--no-fsync", "--json"] + arguments)
        }
        let other = try unmerge("--adapter", two)
        #expect(other.status == 65 && other.errors.contains("does not have this adapter") && other.errors.contains("one:0.5"), "\(other.errors)")
        let weight = try unmerge("--adapter", one)
        #expect(weight.status == 65 && weight.errors.contains("with weight 0.5 and not 1.0"), "\(weight.errors)")
        #expect(!FileSystem.exists(space.path("again")))
        #expect(try report(try unmerge("--adapter", one + ":0.5"), "unmerge")["remarks"] == [])
        let taken = try receipt("again")
        #expect(taken["operation"] == "unmerge" && taken["history"]?.arrayValue?.count == 1)
        // It is out, so it can be put in again and not be taken out again.
        #expect(try unmerge("--adapter", one + ":0.5", from: "again", out: "none").status == 65)
        #expect(try merge("--adapter", one, base: space.path("again"), out: "back").status == 0)
        // Without a receipt nothing is known, and that is said.
        try FileSystem.remove(space.path("merged/oplora-merge.json"))
        #expect(try remarks(report(try unmerge("--adapter", one + ":0.5", out: "blind"), "unmerge")).contains("there is no receipt"))
        #expect(try unmerge("--adapter", two, "--any-adapter", from: "back", out: "insisted").status == 0)
    }

    /// PEFT keeps what a layer of the vocabulary has itself beside its update; that is no value that the adapter put in its place.
    @Test func anUpdateBesideTheLayersOwnValuesIsTakenOut() throws {
        var adapter = PEFTAdapter(configuration: ["target_modules": ["embed_tokens"]])
        adapter.add("model.embed_tokens.lora_embedding_A", [2, 1024])
        adapter.add("model.embed_tokens.lora_embedding_B", [128, 2])
        let own = try #require(try space.readTensors(base + "/model.safetensors").first { $0.name == "model.embed_tokens.weight" })
        adapter.tensors.append(TestTensor("base_model.model.model.embed_tokens.base_layer.weight", own.dtype, own.shape, bytes: own.bytes))
        _ = try report(try merge("--adapter", try adapter.write(to: space.path("head"))))
        let taken = try space.succeed([
            "unmerge", "--merged", space.path("merged"), "--adapter", space.path("head"), "--out", space.path("again"), "--no-fsync",
        ])
        // PEFT gives no update to the head that the embedding was, so that the merge had to give it a matrix of its own.
        #expect(taken.output.contains("lm_head.weight came to be with the merge and stays"), "\(taken.output)")
        let outcome = try Executable.run("diff", base, space.path("again"), "--atol", "2e-2")
        #expect(outcome.output.contains("different: 1 added, 1 setting of 38 tensors in both"), "\(outcome.output)")
    }

    /// A bias beside an update was trained, and its old value is in no file.
    @Test func aTrainedBiasIsNotTakenOut() throws {
        var generator = SeededGenerator(seed: 7)
        let biased = try space.makeModel("biased", configuration: ["attention_bias": true]) { tensors in
            for tensor in tensors where tensor.name.hasSuffix("_proj.weight") && tensor.name.contains("self_attn") {
                let name = tensor.name.replacing(".weight", with: ".bias")
                tensors.append(TestTensor(name, tensor.dtype, [tensor.shape[0]], values: generator.values(tensor.shape[0], spread: 1)))
            }
        }
        var adapter = PEFTAdapter(configuration: ["bias": "lora_only"])
        try adapter.addFactors(["q_proj"])
        for layer in 0..<4 { adapter.add("model.layers.\(layer).self_attn.q_proj.base_layer.bias", [128], spread: 1) }
        #expect(try merge("--adapter", try adapter.write(to: space.path("biases")), base: biased).status == 0)
        let outcome = try Executable.run(
            "unmerge", "--merged", space.path("merged"), "--adapter", space.path("biases"), "--out", space.path("again"))
        #expect(outcome.status == 65 && outcome.errors.contains("whole values in the place of the base's"), "\(outcome.status) \(outcome.errors)")
    }

    @Test func runsAreKnownByTheirReceipts() throws {
        try space.succeed(space.trainArguments())
        _ = try report(try merge("--adapter", space.path("run.opck")))
        #expect(try receipt()["adapters"]?.arrayValue?.first?["sha256"]?.stringValue?.count == 64)
        #expect(try merge("--adapter", space.path("run.opck"), "--any-base", base: space.path("merged"), out: "again").status == 65)
    }

    @Test func aBaseOfAnotherNameIsRemarkedOn() throws {
        let cache = space.path("models--HuggingFaceTB--SmolLM2-135M/snapshots")
        try FileManager.default.createDirectory(atPath: cache, withIntermediateDirectories: true)
        try FileManager.default.copyItem(atPath: base, toPath: cache + "/0123abc")
        let same = try PEFTAdapter.write(to: space.path("same"), base: "HuggingFaceTB/SmolLM2-135M")
        #expect(try report(try merge("--adapter", same, base: cache + "/0123abc", out: "m1"))["remarks"] == [])
        let other = try PEFTAdapter.write(to: space.path("other"), base: "/cache/models--Qwen--Qwen2.5-0.5B/snapshots/9")
        let remark = remarks(try report(try merge("--adapter", other, base: cache + "/0123abc", out: "m2")))
        #expect(remark.hasSuffix("and the base calls itself HuggingFaceTB/SmolLM2-135M"), "\(remark)")
        // The configuration's own name is one that counts, also as a path of a cache.
        let named = try space.makeModel("named", configuration: ["_name_or_path": "/cache/models--Qwen--Qwen2.5-0.5B/snapshots/9"])
        #expect(try merge("--adapter", try PEFTAdapter.write(to: space.path("qwen"), base: "Qwen/Qwen2.5-0.5B"), base: named, out: "m3").status == 0)
        #expect(try merge("--adapter", same, base: named, out: "m4").status == 65)
        #expect(try remarks(report(try merge("--adapter", same, "--any-base", base: named, out: "m4"))).contains("calls itself Qwen/Qwen2.5-0.5B"))
    }

    /// What the receipt knows is said where a verdict turns on it.
    @Test func theElementTypeOfTheReceiptIsSaid() throws {
        let space = try Workspace()
        let models = ["--base", Repository.tinyLlama, "--adapter", try PEFTAdapter.write(to: space.path("adapter"))]
        try space.succeed(["merge"] + models + ["--dtype", "f16", "--out", space.path("merged"), "--no-fsync"])
        let verify = try Executable.run(["verify"] + models + ["--merged", space.path("merged")])
        #expect(verify.status == 1 && verify.output.contains("--dtype f16"), "\(verify.errors)")
        try space.succeed(["verify"] + models + ["--merged", space.path("merged"), "--dtype", "f16"])
    }

    @Test func aFileBesideItsConfigurationIsNoWholeModel() throws {
        let space = try Workspace()
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        let merge = try space.succeed([
            "merge", "--base", Repository.tinyLlama + "/model.safetensors", "--adapter", adapter, "--out", space.path("merged"), "--no-fsync",
        ])
        #expect(merge.output.contains("are not copied; name its folder"), "\(merge.output)")
    }
}
