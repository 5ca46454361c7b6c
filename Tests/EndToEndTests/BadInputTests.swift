import FileIO
import Foundation
import JSON
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

/// Bad input gives one clear sentence and the right exit code, and leaves nothing behind.
struct BadInputTests {
    /// A command that must fail.
    struct Case: CustomTestStringConvertible, Sendable {
        let name: String
        let status: Int32
        /// What the sentence must say.
        let words: [String]
        let arguments: @Sendable (Workspace) throws -> [String]

        init(_ name: String, _ status: Int32, _ words: String..., arguments: @escaping @Sendable (Workspace) throws -> [String]) {
            (self.name, self.status, self.words, self.arguments) = (name, status, words, arguments)
        }

        var testDescription: String { name }
    }

    /// - Parameter space: where the output would be, in `out`.
    private func check(_ bad: Case) throws {
        let space = try Workspace()
        let arguments = try bad.arguments(space)
        let before = try FileSystem.names(in: space.folder.path)
        let outcome = try Executable.run(arguments)
        #expect(outcome.status == bad.status, "\(outcome.errors)")
        for word in bad.words { #expect(outcome.errors.contains(word), "\(word) is not in: \(outcome.errors)") }
        #expect(outcome.output.isEmpty, "\(outcome.output)")
        if bad.status != 64 {
            #expect(outcome.errors.hasPrefix("oplora: ") && outcome.errors.split(separator: "\n").count == 1, "\(outcome.errors)")
        }
        #expect(try FileSystem.names(in: space.folder.path) == before, "something was left behind")
    }

    // MARK: The base model

    static let models: [Case] = [
        Case("no model", 66, "nowhere") { space in space.trainArguments(base: space.path("nowhere"), out: "out") },
        Case("no weights", 66, "safetensors") { space in
            let model = try space.makeModel()
            try FileSystem.remove(model + "/model.safetensors")
            return space.trainArguments(base: model, out: "out")
        },
        Case("no tokenizer", 66, "tokenizer.json") { space in
            let model = try space.makeModel()
            try FileSystem.remove(model + "/tokenizer.json")
            return space.trainArguments(base: model, out: "out")
        },
        Case("weights cut short", 65, "model.safetensors", "cut short") { space in
            let model = try space.makeModel()
            try space.truncate(model + "/model.safetensors", to: 1_000_000)
            return space.trainArguments(base: model, out: "out")
        },
        Case("header cut short", 65, "model.safetensors", "cut short") { space in
            let model = try space.makeModel()
            try space.truncate(model + "/model.safetensors", to: 100)
            return space.trainArguments(base: model, out: "out")
        },
        Case("missing tensor", 65, "model.layers.2.mlp.up_proj.weight", "do not hold it") { space in
            let model = try space.makeModel { $0.removeAll { $0.name == "model.layers.2.mlp.up_proj.weight" } }
            return space.trainArguments(base: model, out: "out")
        },
        Case("wrong shape", 65, "shape", "[1024,128]", "[1000,128]") { space in
            space.trainArguments(base: try space.makeModel(configuration: ["vocab_size": 1000]), out: "out")
        },
        Case("integer weights", 65, "model.norm.weight", "I16") { space in
            let model = try space.makeModel { tensors in
                for index in tensors.indices where tensors[index].name == "model.norm.weight" { tensors[index].dtype = .i16 }
            }
            return space.trainArguments(base: model, out: "out")
        },
        Case("NaN in a matrix", 65, "model.layers.1.self_attn.k_proj.weight", "row 3, column 7", "NaN") { space in
            let model = try space.makeModel { tensors in
                let index = tensors.firstIndex { $0.name == "model.layers.1.self_attn.k_proj.weight" }!
                tensors[index].bytes.replaceSubrange((3 * 128 + 7) * 2..<(3 * 128 + 8) * 2, with: [0xC0, 0x7F])
            }
            return space.trainArguments(base: model, out: "out")
        },
        Case("infinity in a norm", 65, "model.norm.weight", "element 5", "infinite") { space in
            let model = try space.makeModel { tensors in
                let index = tensors.firstIndex { $0.name == "model.norm.weight" }!
                tensors[index].bytes.replaceSubrange(10..<12, with: [0x80, 0xFF])
            }
            return space.trainArguments(base: model, out: "out")
        },
        Case("unknown architecture", 65, "config.json", "bert", "llama") { space in
            space.trainArguments(base: try space.makeModel(configuration: ["model_type": "bert"]), out: "out")
        },
        Case("configuration without a field", 65, "config.json", "hidden_size") { space in
            space.trainArguments(base: try space.makeModel(configuration: ["hidden_size": nil]), out: "out")
        },
        Case("configuration of nonsense", 65, "config.json") { space in
            let model = try space.makeModel()
            try writeText("{\"model_type\": ", model + "/config.json")
            return space.trainArguments(base: model, out: "out")
        },
        Case("another tokenizer", 65, "tokenizer.json", "Unigram", "input_ids") { space in
            let model = try space.makeModel()
            try writeText(#"{"version": "1.0", "model": {"type": "Unigram", "vocab": []}}"#, model + "/tokenizer.json")
            return space.trainArguments(base: model, out: "out")
        },
    ]

    @Test(arguments: models) func aBadModelIsNamedWithItsFault(_ bad: Case) throws { try check(bad) }

    // MARK: The data

    private static func ids(_ space: Workspace, _ name: String, _ ids: [Int32]) throws -> String {
        let path = space.path("ids.safetensors")
        let bytes = ids.flatMap { id in (0..<4).map { UInt8(truncatingIfNeeded: id >> (8 * Int32($0))) } }
        try writeSafetensors([TestTensor(name, .i32, [ids.count], bytes: bytes)], to: path)
        return path
    }

    static let data: [Case] = [
        Case("no data", 66, "nothing.txt") { space in space.trainArguments(out: "out", "--data", space.path("nothing.txt")) },
        Case("empty data", 65, "empty.txt", "not one token") { space in
            space.trainArguments(out: "out", "--data", try space.makeFile("empty.txt", ""))
        },
        Case("little data", 65, "few.txt", "--seq-len") { space in
            space.trainArguments(out: "out", "--data", try space.makeFile("few.txt", "In the beginning"))
        },
        Case("little held-out data", 65, "few.txt", "--eval-data") { space in
            space.trainArguments(out: "out", "--eval-data", try space.makeFile("few.txt", "In the beginning"))
        },
        Case("not UTF-8", 65, "latin.txt", "UTF-8") { space in
            let path = space.path("latin.txt")
            try Data(Array(repeating: [0x63, 0x61, 0x66, 0xE9, 0x20], count: 100).flatMap(\.self)).write(to: URL(fileURLWithPath: path))
            return space.trainArguments(out: "out", "--data", path)
        },
        Case("token beyond the vocabulary", 65, "token 1024", "place 40", "vocabulary of 1024") { space in
            var tokens = (0..<100).map { Int32($0) }
            tokens[40] = 1024
            return space.trainArguments(out: "out", "--data", try ids(space, "input_ids", tokens))
        },
        Case("negative token", 65, "token -1", "place 99") { space in
            space.trainArguments(out: "out", "--data", try ids(space, "input_ids", (0..<99).map { Int32($0) } + [-1]))
        },
        Case("ids under another name", 65, "input_ids") { space in
            space.trainArguments(out: "out", "--data", try ids(space, "tokens", Array(0..<100)))
        },
    ]

    @Test(arguments: data) func badDataIsNamedWithItsFault(_ bad: Case) throws { try check(bad) }

    // MARK: Usage and outputs

    static let usage: [Case] = [
        Case("no command of that name", 64, "frobnicate") { _ in ["frobnicate"] },
        Case("no arguments", 64, "--base") { _ in ["train"] },
        Case("unknown method", 64, "magic", "op-lora") { space in space.trainArguments(out: "out", "--method", "magic") },
        Case("unknown precision", 64, "int3", "bf16") { space in space.trainArguments(out: "out", "--precision", "int3") },
        Case("rank 0", 64, "rank") { space in space.trainArguments(out: "out", "--rank", "0") },
        Case("rate of a word", 64, "lr") { space in space.trainArguments(out: "out", "--lr", "fast") },
        Case("unknown target", 64, "c_attn", "q_proj") { space in space.trainArguments(out: "out", "--targets", "c_attn") },
        Case("no adapter", 64, "--adapter") { space in ["merge", "--base", Repository.tinyLlama, "--out", space.path("out")] },
        Case("verify without a merged model", 64, "--merged") { space in
            ["verify", "--base", Repository.tinyLlama, "--adapter", space.path("adapter")]
        },
        Case("sequences longer than the model's", 64, "--seq-len") { space in space.trainArguments(out: "out", "--seq-len", "2000") },
        Case("output without a folder", 73, "nowhere/run") { space in space.trainArguments(out: "nowhere/run") },
        Case("output where nothing can be made", 73, "/proc/run.opck") { space in space.trainArguments("--out", "/proc/run.opck") },
        Case("output called as a folder", 73, "the name of a folder") { space in space.trainArguments(out: "run/") },
        Case("output exists", 73, "out", "--force") { space in
            space.trainArguments("--out", try space.makeFile("out", "precious"))
        },
        Case("output is the base", 73, "input") { space in
            let model = try space.makeModel()
            try space.makeMerged()
            return ["merge", "--base", model, "--adapter", space.path("adapter"), "--out", model, "--force"]
        },
    ]

    @Test(arguments: usage) func badUsageIsNamedWithItsOption(_ bad: Case) throws { try check(bad) }

    // MARK: Runs and adapters

    static let adapters: [Case] = [
        Case("no run", 66, "no.opck") { space in ["collapse", space.path("no.opck"), "--out", space.path("out")] },
        Case("a run that is none", 65, "model.safetensors") { space in
            ["collapse", Repository.tinyLlama + "/model.safetensors", "--out", space.path("out")]
        },
        Case("a run cut short", 65, "run.opck", "cut short") { space in
            try space.succeed(space.trainArguments())
            try space.truncate(space.path("run.opck"), to: 5000)
            return ["collapse", space.path("run.opck"), "--out", space.path("out")]
        },
        Case("a damaged run", 65, "run.opck", "checksum") { space in
            try space.succeed(space.trainArguments())
            var bytes = try readAll(space.path("run.opck"))
            bytes[2000] ^= 1
            try Data(bytes).write(to: URL(fileURLWithPath: space.path("run.opck")))
            return ["collapse", space.path("run.opck"), "--out", space.path("out")]
        },
        Case("resumed on another model", 64, "base") { space in
            try space.succeed(space.trainArguments())
            let other = try space.makeModel { $0[3].bytes[0] ^= 1 }
            return space.trainArguments(base: other, out: "out", "--resume", space.path("run.opck"))
        },
        Case("resumed on other data", 64, "data") { space in
            try space.succeed(space.trainArguments())
            return space.trainArguments(out: "out", "--resume", space.path("run.opck"), "--data", Repository.fixture("texts/adapt-train.txt"))
        },
        Case("no adapter there", 66, "nothing") { space in
            ["merge", "--base", Repository.tinyLlama, "--adapter", space.path("nothing"), "--out", space.path("out")]
        },
        Case("an adapter for other shapes", 65, "q_proj", "[") { space in
            _ = try TestModel.writeAdapter(to: space.path("adapter"), modules: ["model.layers.0.self_attn.q_proj"], seed: 1)
            return ["merge", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--out", space.path("out")]
        },
        Case("an adapter for another base", 65, "model.layers.0.", "the base holds no tensor of this name", "another architecture") { space in
            try space.succeed(space.trainArguments())
            try space.succeed(["collapse", space.path("run.opck"), "--out", space.path("adapter")])
            try TestModel.write(to: space.path("other"), seed: 1)
            return ["merge", "--base", space.path("other"), "--adapter", space.path("adapter"), "--out", space.path("out")]
        },
        Case("an adapter cut short", 65, "adapter_model.safetensors", "cut short") { space in
            try space.succeed(space.trainArguments())
            try space.succeed(["collapse", space.path("run.opck"), "--out", space.path("adapter")])
            try space.truncate(space.path("adapter/adapter_model.safetensors"), to: 30_000)
            return ["merge", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--out", space.path("out")]
        },
    ]

    // MARK: Layouts and spectra

    /// A PEFT adapter of one module of the small model.
    private static func plainAdapter(_ space: Workspace, changes: String = "") throws -> String {
        let path = space.path("adapter")
        let module = "base_model.model.model.layers.0.self_attn.q_proj"
        let shape = try ModelWeights(path: Repository.tinyLlama).weight(named: "model.layers.0.self_attn.q_proj.weight").shape
        try FileSystem.createFolder(path)
        try writeSafetensors(
            [
                TestTensor(module + ".lora_A.weight", .f32, [1, shape[1]], values: [Float](repeating: 1, count: shape[1])),
                TestTensor(module + ".lora_B.weight", .f32, [shape[0], 1], values: [Float](repeating: 1, count: shape[0])),
            ], to: path + "/adapter_model.safetensors")
        try writeText(#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1\#(changes)}"#, path + "/adapter_config.json")
        return path
    }

    static let layouts: [Case] = [
        Case("an unknown layout", 64, "must be one of") { ["convert", try plainAdapter($0), "--to", "onnx", "--out", $0.path("out")] },
        Case("no adapter to convert", 66, "nowhere") { ["convert", $0.path("nowhere"), "--to", "peft", "--out", $0.path("out")] },
        Case("a weight to convert", 64, "no weight") { ["convert", try plainAdapter($0) + ":2", "--to", "peft", "--out", $0.path("out")] },
        Case("convert over its input", 73, "one of the inputs") {
            let path = try plainAdapter($0)
            return ["convert", path, "--to", "peft", "--out", path, "--force"]
        },
        Case("convert over the folder of its input", 73, "a part of one") {
            let path = try plainAdapter($0)
            return ["convert", path + "/adapter_model.safetensors", "--to", "mlx", "--out", path, "--force"]
        },
        Case("convert over a file of its input", 73, "a part of one") {
            let path = try plainAdapter($0)
            return ["convert", path + ":1", "--to", "safetensors", "--out", path + "/../adapter/adapter_model.safetensors", "--force"]
        },
        Case("resize over the base", 73, "one of the inputs") {
            let model = try $0.makeModel()
            return ["resize", try plainAdapter($0), "--rank", "1", "--base", model, "--out", model, "--force"]
        },
        Case("GGUF without the base", 65, "--base") { ["convert", try plainAdapter($0), "--to", "gguf", "--out", $0.path("out")] },
        Case("diffusers without a component", 65, "--component") { ["convert", try plainAdapter($0), "--to", "diffusers", "--out", $0.path("out")] },
        Case("no component of this name", 65, "unet") {
            try FileSystem.createFolder($0.path("in"))
            try writeSafetensors(
                [
                    TestTensor("unet.a.lora_A.weight", .f32, [1, 2], values: [1, 1]),
                    TestTensor("unet.a.lora_B.weight", .f32, [2, 1], values: [1, 1]),
                ], to: $0.path("in/a.safetensors"))
            return ["convert", $0.path("in/a.safetensors"), "--to", "peft", "--component", "text_encoder", "--out", $0.path("out")]
        },
        Case("neither rank nor energy", 64, "--rank or --energy") { ["resize", try plainAdapter($0), "--out", $0.path("out")] },
        Case("an energy above one", 64, "--energy") { ["resize", try plainAdapter($0), "--energy", "1.5", "--out", $0.path("out")] },
        Case("svd without a rank", 64, "svd needs") { ["combine", "--adapter", try plainAdapter($0), "--method", "svd", "--out", $0.path("out")] },
        Case("nothing to extract", 65, "nothing to extract") {
            ["extract", "--base", Repository.tinyLlama, "--tuned", Repository.tinyLlama, "--rank", "1", "--out", $0.path("out")]
        },
        Case("a component that there is none of", 64, "must be one of unet") { space in
            ["merge", "--base", Repository.tinyLlama, "--adapter", space.path("a"), "--component", "nosuch", "--out", space.path("out")]
        },
        Case("extract from another model", 65, "of different architectures, or one is in a layout whose names are not known") { space in
            let other = try space.makeModel { $0.removeLast() }
            return ["extract", "--base", Repository.tinyLlama, "--tuned", other, "--rank", "1", "--out", space.path("out")]
        },
        Case("a magnitude to unmerge", 65, "m_proj") { space in
            try FileSystem.createFolder(space.path("in"))
            try writeSafetensors(
                [
                    TestTensor("lora_unet_m_proj.lora_down.weight", .f32, [1, 2], values: [1, 1]),
                    TestTensor("lora_unet_m_proj.lora_up.weight", .f32, [2, 1], values: [1, 1]),
                    TestTensor("lora_unet_m_proj.dora_scale", .f32, [2, 1], values: [1, 1]),
                ], to: space.path("in/a.safetensors"))
            return ["unmerge", "--merged", Repository.tinyLlama, "--adapter", space.path("in/a.safetensors"), "--out", space.path("out")]
        },
        Case("an adapter to collapse", 64, "oplora convert") { ["collapse", try plainAdapter($0), "--out", $0.path("out")] },
        Case("no program of this name", 64, "must be one of") { ["lint", try plainAdapter($0), "--for", "tgi"] },
        Case("GGUF that is cut short", 65, "a.gguf") { space in
            try FileSystem.createFolder(space.path("in"))
            try writeText("GGUF", space.path("in/a.gguf"))
            return ["convert", space.path("in/a.gguf"), "--to", "peft", "--out", space.path("out")]
        },
    ]

    @Test(arguments: layouts) func aBadLayoutIsNamedWithItsFault(_ bad: Case) throws { try check(bad) }

    @Test(arguments: adapters) func aBadAdapterIsNamedWithItsFault(_ bad: Case) throws { try check(bad) }

    // MARK: Nothing is lost

    /// The disk is full, or the user's limit reached, at some place in the middle of writing.
    @Test(arguments: [0, 512, 4096, 65536]) func aFullDiskLosesNothing(limit: Int) throws {
        let space = try Workspace()
        try space.makeMerged()
        let precious = try readAll(space.path("run.opck"))
        let before = try FileSystem.names(in: space.folder.path)
        let base = Repository.tinyLlama
        let commands = [
            space.trainArguments("--force"), space.trainArguments(out: "new"),
            ["collapse", space.path("run.opck"), "--out", space.path("new"), "--dtype", "f32"],
            ["merge", "--base", base, "--adapter", space.path("adapter"), "--out", space.path("new")],
            ["merge", "--base", base, "--adapter", space.path("adapter"), "--out", space.path("merged"), "--force"],
            ["logits", "--base", base, "--data", Repository.fixture("texts/adapt-heldout.txt"), "--seq-len", "64", "--out", space.path("new")],
        ]
        for command in commands {
            let outcome = try Executable.run(command, fileSizeLimit: limit)
            #expect(outcome.status == 74, "\(command): \(outcome.status) \(outcome.errors)")
            #expect(try FileSystem.names(in: space.folder.path) == before, "\(command) left something behind")
            // The file is named as it would be called, not as it is while it is written. (Standard error is a file, too, and small
            // limits cut it.)
            guard limit >= 4096 else { continue }
            #expect(outcome.errors.contains("oplora: " + space.folder.path) && !outcome.errors.contains(".partial"), "\(outcome.errors)")
        }
        #expect(try readAll(space.path("run.opck")) == precious)
        try space.succeed(["verify", "--base", base, "--adapter", space.path("adapter"), "--merged", space.path("merged")])
    }

    @Test func existingOutputIsReplacedOnlyWhenTold() throws {
        let space = try Workspace()
        try space.makeMerged()
        let commands = [
            space.trainArguments(), ["collapse", space.path("run.opck"), "--out", space.path("adapter")],
            ["merge", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--out", space.path("merged")],
        ]
        for command in commands {
            #expect(try Executable.run(command).status == 73)
            try space.succeed(command + ["--force"])
        }
        try space.succeed(["verify", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--merged", space.path("merged")])
    }
}
