import FileIO
import Foundation
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

/// Converting, extracting, resizing, combining and unmerging through the real program.
struct AdapterCommandTests {
    private let space: Workspace
    private let base = Repository.tinyLlama

    init() throws {
        space = try Workspace()
    }

    private func adapter(_ name: String, seed: UInt64, alpha: Double = 4) throws -> String {
        var generator = SeededGenerator(seed: seed)
        let tensors = try ModelWeights(path: base).tensors.values.filter { $0.name.hasSuffix("_proj.weight") }.flatMap { location in
            let (shape, module) = (location.shape, "base_model.model." + location.name.dropLast(".weight".count))
            return [
                TestTensor(module + ".lora_A.weight", .f32, [2, shape[1]], values: generator.values(2 * shape[1], spread: 0.1)),
                TestTensor(module + ".lora_B.weight", .f32, [shape[0], 2], values: generator.values(2 * shape[0], spread: 0.1)),
            ]
        }
        try FileSystem.createFolder(space.path(name))
        try writeSafetensors(tensors, to: space.path(name + "/adapter_model.safetensors"))
        try writeText(
            #"{"peft_type": "LORA", "r": 2, "lora_alpha": \#(alpha), "target_modules": ["q_proj"]}"#, space.path(name + "/adapter_config.json"))
        return space.path(name)
    }

    private func report(_ arguments: [String], schema: String) throws -> JSONValue {
        let outcome = try space.succeed(arguments + ["--json"])
        #expect(outcome.errors.isEmpty, "\(outcome.errors)")
        let value = try JSONValue(parsing: outcome.output)
        #expect(try ReportSchema(schema).faults(of: value) == [])
        return value
    }

    private func weights(_ folder: String) throws -> [String: [UInt8]] {
        let files = try ModelWeights(path: folder)
        return Dictionary(uniqueKeysWithValues: try files.tensors.keys.map { ($0, try read($0, from: files)) })
    }

    private func merged(_ adapter: String, _ name: String, base: String? = nil) throws -> [String: [UInt8]] {
        try space.succeed(["merge", "--base", base ?? self.base, "--adapter", adapter, "--out", space.path(name), "--no-fsync"])
        return try weights(space.path(name))
    }

    @Test(arguments: ["peft", "safetensors", "mlx", "kohya", "gguf"])
    func convertedAdaptersMergeToTheSameBytes(layout: String) throws {
        let path = try adapter("adapter", seed: 1)
        let ending = ["safetensors": ".safetensors", "kohya": ".safetensors", "gguf": ".gguf"][layout] ?? ""
        let out = space.path("converted" + ending)
        // Kohya's layout has names for the parts of a pipeline alone.
        let part = layout == "kohya" ? ["--component", "text_encoder"] : []
        let result = try report(["convert", path, "--to", layout, "--base", base, "--out", out] + part, schema: "convert")
        #expect(result["modules"]?.integerValue == 28 && result["notes"]?.arrayValue == [])
        let expected = try merged(path, "m1")
        #expect(try merged(out, "m2") == expected)
        let again = try report(["convert", out, "--to", "peft", "--base", base, "--out", space.path("back")], schema: "convert")
        #expect(again["dialect"]?.stringValue == (layout == "safetensors" ? "diffusers" : layout))
        #expect(try merged(space.path("back"), "m3") == expected)
        // An adapter of any layout is looked at.
        let inspected = try JSONValue(parsing: try space.succeed(["inspect", out, "--json"]).output)
        #expect(inspected["kind"]?.stringValue == "adapter" && inspected["adapter"]?["modules"]?.arrayValue?.count == 28)
    }

    @Test func anAlphaThatTheFileDoesNotGiveIsGiven() throws {
        let path = try adapter("adapter", seed: 1)
        let expected = try merged(path, "m1")
        // The same factors in one file, without the configuration.
        let single = space.path("single.safetensors")
        try writeSafetensors(try space.readTensors(path + "/adapter_model.safetensors"), to: single)
        let arguments = ["--base", base, "--adapter", single]
        let refused = try Executable.run(["merge"] + arguments + ["--out", space.path("m2"), "--no-fsync"])
        #expect(refused.status == 66 && refused.errors.contains("--alpha"), "\(refused.errors)")
        try space.succeed(["merge"] + arguments + ["--alpha", "4", "--out", space.path("m2"), "--no-fsync"])
        #expect(try weights(space.path("m2")) == expected)
        try space.succeed(["verify"] + arguments + ["--alpha", "4", "--merged", space.path("m2")])
        #expect(try Executable.run(["verify"] + arguments + ["--alpha", "rank", "--merged", space.path("m2")]).status == 1)
        try space.succeed(["unmerge", "--merged", space.path("m2"), "--adapter", single, "--alpha", "4", "--out", space.path("u"), "--no-fsync"])
        try space.succeed(["convert", single, "--alpha", "4", "--to", "peft", "--base", base, "--out", space.path("c")])
        #expect(try merged(space.path("c"), "m3") == expected)
        try space.succeed(["resize", single, "--alpha", "4", "--rank", "1", "--out", space.path("r")])
        try space.succeed([
            "combine", "--adapter", single, "--adapter", path, "--alpha", "4", "--alpha", "file", "--out", space.path("k"),
        ])
        // A file that has its own.
        let contradicted = try Executable.run(["merge", "--base", base, "--adapter", path, "--alpha", "8", "--out", space.path("m4")])
        #expect(contradicted.status == 65 && contradicted.errors.contains("leave --alpha out"), "\(contradicted.errors)")
        #expect(try Executable.run(["merge"] + arguments + ["--alpha", "1", "--alpha", "2", "--out", space.path("m5")]).status == 64)
    }

    /// A collapse knows the base that the rows of a GGUF file are ordered by; a check of its own knows it not, and says so.
    @Test func aCollapseIntoGGUFIsVerified() throws {
        try space.succeed(space.trainArguments())
        let (run, out, base) = (space.path("run.opck"), space.path("c.gguf"), Repository.tinyLlama)
        let collapse = try space.succeed(["collapse", run, "--out", out, "--layout", "gguf", "--base", base, "--verify"])
        #expect(collapse.output.contains("pass: 28 modules"), "\(collapse.output)")
        let verify = try Executable.run("verify", "--run", run, "--adapter", out)
        #expect(verify.status == 65 && verify.errors.contains("only the base can undo that"), "\(verify.status) \(verify.errors)")
        let alpha = try Executable.run("collapse", run, "--out", space.path("other"), "--alpha", "3")
        #expect(alpha.status == 64 && alpha.errors.contains("has its own alpha"), "\(alpha.status) \(alpha.errors)")
    }

    /// The names tell that no denoiser is meant, and a component is none of theirs.
    @Test func aLanguageModelIsNoDenoiser() throws {
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        for command in [["merge", "--base", Repository.tinyLlama, "--adapter"], ["convert", "--to", "mlx"], ["lint"]] {
            let out = command[0] == "lint" ? [] : ["--out", space.path("out")]
            let outcome = try Executable.run(command + [adapter, "--component", "unet"] + out)
            #expect(outcome.status == 65 && outcome.errors.contains("unet is a part of a diffusion model"), "\(command[0]): \(outcome.errors)")
        }
    }

    /// What another adapter has changed does not make the base another one.
    @Test func anotherAdapterIsNotAnotherBase() throws {
        var merged = PEFTAdapter(seed: 1)
        try merged.addFactors(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
        var other = PEFTAdapter(seed: 2)
        try other.addFactors(["q_proj", "v_proj"])
        let base = Repository.tinyLlama
        try space.succeed(["merge", "--base", base, "--adapter", try merged.write(to: space.path("a")), "--out", space.path("merged"), "--no-fsync"])
        let outcome = try Executable.run(
            "verify", "--base", base, "--adapter", try other.write(to: space.path("b")), "--merged", space.path("merged"), "--json")
        #expect(outcome.status == 1 && !outcome.output.contains("wrongBase") && outcome.output.contains("another adapter"), "\(outcome.output)")
    }

    @Test func extractResizeCombineAndUnmergeFitEachOther() throws {
        let (one, two) = (try adapter("one", seed: 1), try adapter("two", seed: 2, alpha: 1))
        _ = try merged(one, "merged")
        let extracted = try report(
            ["extract", "--base", base, "--tuned", space.path("merged"), "--rank", "2", "--out", space.path("extracted")], schema: "extract")
        #expect(extracted["modules"]?.arrayValue?.count == 28 && extracted["whole"]?.arrayValue == [])
        let resized = try report(["resize", one, "--energy", "0.5", "--out", space.path("resized")], schema: "resize")
        #expect(resized["modules"]?.arrayValue?.allSatisfy { $0["rankBefore"] == 2 } == true)
        let combined = try report(
            ["combine", "--adapter", one, "--adapter", two + ":0.5", "--method", "svd", "--rank", "3", "--out", space.path("combined")],
            schema: "combine")
        #expect(combined["modules"]?.arrayValue?.allSatisfy { $0["rank"] == 3 && $0["rankBefore"] == 4 } == true)
        for name in ["extracted", "resized", "combined"] { _ = try merged(space.path(name), "merged-" + name) }
        let unmerged = try report(
            ["unmerge", "--merged", space.path("merged"), "--adapter", one, "--out", space.path("again"), "--no-fsync"], schema: "unmerge")
        let (before, after) = (try weights(base), try weights(space.path("again")))
        let differing = before.reduce(0) { count, item in
            count + zip(item.value, after[item.key] ?? []).count { $0 != $1 }
        }
        #expect(before.keys == after.keys && differing > 0)
        #expect(differing <= 2 * (unmerged["uncertain"]?.integerValue ?? 0))
        let lint = try report(["lint", one], schema: "lint")
        #expect(lint["programs"]?.arrayValue?.map { $0["takes"] } == [true, false, false, false])
        #expect(try Executable.run("lint", one, "--for", "vllm").status == 0)
        #expect(try Executable.run("lint", one, "--for", "vllm", "--for", "mlx").status == 1)
    }

    // MARK: Pipelines

    /// A pipeline of a U-Net and a text encoder.
    private func pipeline() throws -> String {
        let path = space.path("pipeline")
        for folder in ["", "/unet", "/text_encoder", "/scheduler"] { try FileSystem.createFolder(path + folder) }
        var generator = SeededGenerator(seed: 3)
        func tensor(_ name: String, _ shape: [Int]) -> TestTensor {
            TestTensor(name, .f32, shape, values: generator.values(shape.reduce(1, *), spread: 1))
        }
        try writeSafetensors(
            [
                tensor("down_blocks.0.attentions.0.proj_in.weight", [4, 3, 1, 1]), tensor("conv_in.weight", [4, 2, 3, 3]),
                tensor("down_blocks.0.resnets.1.conv1.weight", [4, 4, 3, 3]),
            ],
            to: path + "/unet/diffusion_pytorch_model.safetensors")
        try writeSafetensors([tensor("text_model.encoder.layers.0.mlp.fc1.weight", [4, 3])], to: path + "/text_encoder/model.safetensors")
        try writeText(#"{"sample_size": 8}"#, path + "/unet/config.json")
        try writeText(#"{"torch_dtype": "float32"}"#, path + "/text_encoder/config.json")
        try writeText("{}", path + "/scheduler/scheduler_config.json")
        try writeText(
            #"{"_class_name": "P", "unet": ["d", "U"], "text_encoder": ["t", "C"], "scheduler": ["d", "S"], "../evil": ["a", "b"], "none": [null, null]}"#,
            path + "/model_index.json")
        return path
    }

    private func kohya(_ names: [(String, [Int], Int)]) throws -> String {
        var generator = SeededGenerator(seed: 4)
        func tensor(_ name: String, _ shape: [Int]) -> TestTensor {
            TestTensor(name, .f32, shape, values: generator.values(shape.reduce(1, *), spread: 1))
        }
        try writeSafetensors(
            names.flatMap { name, down, out in
                [
                    tensor(name + ".lora_down.weight", down), tensor(name + ".lora_up.weight", [out, down[0]] + down.dropFirst(2).map { _ in 1 }),
                    tensor(name + ".alpha", []),
                ]
            }, to: space.path("kohya.safetensors"))
        return space.path("kohya.safetensors")
    }

    @Test func aPipelineIsMergedComponentByComponent() throws {
        let base = try pipeline()
        // One module by its authors' name, one by diffusers'.
        let adapter = try kohya([
            ("lora_unet_input_blocks_2_0_in_layers_2", [2, 4, 3, 3], 4), ("lora_unet_down_blocks_0_attentions_0_proj_in", [2, 3], 4),
            ("lora_te_text_model_encoder_layers_0_mlp_fc1", [2, 3], 4),
        ])
        let changed = try merged(adapter, "out", base: base)
        let original = try weights(base)
        #expect(changed.keys == original.keys && changed["unet.conv_in.weight"] == original["unet.conv_in.weight"])
        for name in ["unet.down_blocks.0.resnets.1.conv1.weight", "unet.down_blocks.0.attentions.0.proj_in.weight"] {
            #expect(changed[name] != original[name])
        }
        #expect(
            changed["text_encoder.text_model.encoder.layers.0.mlp.fc1.weight"] != original["text_encoder.text_model.encoder.layers.0.mlp.fc1.weight"])
        for name in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "text_encoder/config.json"] {
            #expect(try readAll(space.path("out/" + name)) == readAll(base + "/" + name))
        }
        #expect(
            try FileSystem.names(in: space.path("out")).sorted() == ["model_index.json", "oplora-merge.json", "scheduler", "text_encoder", "unet"])
        try space.succeed(["verify", "--base", base, "--adapter", adapter, "--merged", space.path("out")])
        // Another element type goes into the configurations of the components that name one.
        try space.succeed(["merge", "--base", base, "--adapter", adapter, "--out", space.path("half"), "--dtype", "f16", "--no-fsync"])
        #expect(String(decoding: try readAll(space.path("half/text_encoder/config.json")), as: UTF8.self).contains("float16"))
        try space.succeed(["inspect", base])
        // What is missing from the base is missing from the merged pipeline, which diffusers does not load.
        let whole = try space.succeed(["merge", "--base", base, "--adapter", adapter, "--out", space.path("whole"), "--no-fsync"])
        #expect(!whole.output.contains("the pipeline names"))
        try FileSystem.remove(base + "/scheduler")
        let partial = try space.succeed(["merge", "--base", base, "--adapter", adapter, "--out", space.path("partial"), "--no-fsync"])
        #expect(partial.output.contains("the pipeline names scheduler, and has no such folder"), "\(partial.output)")
        // The folder of one component takes its modules, and says that the others are none of its.
        let outcome = try Executable.run("merge", "--base", base + "/unet", "--adapter", adapter, "--out", space.path("unet"))
        #expect(outcome.status == 65 && outcome.errors.contains("text_encoder.text_model_encoder_layers_0_mlp_fc1"))
        try space.succeed(["convert", adapter, "--to", "diffusers", "--component", "unet", "--base", base, "--out", space.path("only")])
        _ = try merged(space.path("only"), "of-unet", base: base + "/unet")
    }

    @Test func modulesThatMeetOneTensorAreRefused() throws {
        let base = try pipeline()
        let adapter = try kohya([
            ("lora_unet_input_blocks_2_0_in_layers_2", [2, 4, 3, 3], 4), ("lora_unet_down_blocks_0_resnets_1_conv1", [2, 4, 3, 3], 4),
        ])
        let outcome = try Executable.run("merge", "--base", base, "--adapter", adapter, "--out", space.path("out"))
        #expect(outcome.status == 65 && outcome.errors.contains("both are this tensor"), "\(outcome.errors)")
    }
}
