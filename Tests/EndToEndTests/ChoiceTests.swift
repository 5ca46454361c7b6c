import FileIO
import Foundation
import TestModels
import TestSupport
import Testing

/// Words that are written otherwise than they are, and what a shell completes.
struct ChoiceTests {
    @Test func capitalLettersAreSmallOnes() throws {
        let space = try Workspace()
        try space.makeMerged()
        try space.succeed(["convert", space.path("adapter"), "--to", "PEFT", "--dtype", "BF16", "--out", space.path("converted")])
        #expect(try space.succeed(["inspect", space.path("converted")]).output.contains("BF16"))
        try space.succeed(["check", "--mode", "Strict", space.path("adapter/adapter_model.safetensors")])
    }

    @Test(arguments: [
        (["convert", "a", "--to", "pft", "--out", "b"], "peft, kohya, diffusers, mlx, gguf, safetensors. Did you mean 'peft'?"),
        (["resize", "a", "--rank", "1", "--layout", "diffuser", "--out", "b"], "Did you mean 'diffusers'?"),
        (["merge", "--base", "a", "--adapter", "b", "--out", "c", "--dtype", "bf61"], "keep, f32, bf16, f16. Did you mean 'bf16'?"),
        (["lint", "a", "--for", "llama"], "vllm, llama.cpp, mlx, diffusers. Did you mean 'llama.cpp'?"),
        (["combine", "--adapter", "a", "--method", "lineer", "--out", "b"], "cat, svd, linear. Did you mean 'linear'?"),
        (["check", "--mode", "references", "a"], "strict, reference. Did you mean 'reference'?"),
        (["inspect", "--sort", "nmae", "a"], "offset, name, size. Did you mean 'name'?"),
        (["train", "--base", "a", "--data", "b", "--out", "c", "--method", "oplora"], "op-lora, lora, dora. Did you mean 'op-lora'?"),
        (["train", "--base", "a", "--data", "b", "--out", "c", "--schedule", "cosin"], "constant, linear, cosine. Did you mean 'cosine'?"),
        (["train", "--base", "a", "--data", "b", "--out", "c", "--optimizer", "adam"], "adamw. Did you mean 'adamw'?"),
        (["train", "--base", "a", "--data", "b", "--out", "c", "--precision", "b16"], "f32, bf16. Did you mean 'bf16'?"),
        (["mrege"], "Did you mean 'merge'?"), (["inspct", "a"], "Did you mean 'inspect'?"), (["Verify"], "Did you mean 'verify'?"),
    ])
    func theNearestWordIsSuggested(arguments: [String], words: String) throws {
        let outcome = try Executable.run(arguments)
        #expect(outcome.status == 64 && outcome.output.isEmpty && outcome.errors.contains(words), "\(outcome.errors)")
    }

    /// Names that other tools have for the same thing.
    @Test func namesOfOtherToolsAreTaken() throws {
        let space = try Workspace()
        try space.makeMerged()
        let adapter = space.path("adapter")
        for (number, (option, other, own)) in [
            ("--to", "mlx-lm", "mlx"), ("--to", "MLX_LM", "mlx"), ("--to", "llama.cpp", "gguf"), ("--to", "sd-scripts", "kohya"),
            ("--dtype", "bfloat16", "bf16"), ("--dtype", "float16", "f16"), ("--dtype", "float32", "f32"), ("--dtype", "torch.half", ""),
        ].enumerated() {
            let rest =
                (option == "--to" ? [] : ["--to", "peft"]) + (own == "kohya" ? ["--component", "text_encoder"] : [])
                + ["--base", Repository.tinyLlama, "--json", "--out"]
            let outcome = try Executable.run(["convert", adapter, option, other] + rest + [space.path("other\(number)")])
            #expect((outcome.status == 0) == !own.isEmpty, "\(option) \(other): \(outcome.errors)")
            guard !own.isEmpty else { continue }
            let same = try space.succeed(["convert", adapter, option, own] + rest + [space.path("own\(number)")])
            #expect(outcome.output == same.output)
        }
        #expect(try Executable.run("lint", adapter, "--for", "mlx-lm").output == Executable.run("lint", adapter, "--for", "mlx").output)
        try space.succeed(space.trainArguments(out: "named", "--precision", "float32"))
        let help = try space.succeed(["convert", "--help"]).output
        #expect(!help.contains("mlx_lm") && !help.contains("bfloat16"))
    }

    @Test func farWordsHaveNoSuggestion() throws {
        let outcome = try Executable.run("frobnicate")
        #expect(outcome.status == 64 && !outcome.errors.contains("Did you mean") && outcome.errors.contains("inspect, train"), "\(outcome.errors)")
    }

    /// bash, with the script that the program gives it, completes files after every option and argument that takes a path, and words after
    /// those that take one of a few.
    @Test func shellsCompleteFilesAndWords() throws {
        let space = try Workspace()
        try FileSystem.createFolder(space.path("models"))
        _ = try space.makeFile("mine.safetensors", "")
        let script = try space.makeFile("completion.bash", try space.succeed(["--generate-completion-script", "bash"]).output)
        func completions(_ words: String) throws -> Set<String> {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/bin/bash")
            process.currentDirectoryURL = URL(fileURLWithPath: space.folder.path)
            process.environment = ["PATH": FileSystem.parent(of: Executable.path) + ":/usr/bin:/bin"]
            process.arguments = [
                "--norc", "-c",
                #"""
                . "$1"; read -ra COMP_WORDS <<<"$2"; COMP_WORDS+=("$3"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE="$2 $3"
                COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; _oplora oplora "$3" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null; printf '%s\n' "${COMPREPLY[@]}"
                """#, "bash", script, "oplora \(words)", "m",
            ]
            let pipe = Pipe()
            process.standardOutput = pipe
            try process.run()
            let output = pipe.fileHandleForReading.readDataToEndOfFile()
            process.waitUntilExit()
            return Set(
                String(decoding: output, as: UTF8.self).split(separator: "\n").map { $0.trimmingCharacters(in: CharacterSet(charactersIn: " /")) })
        }
        for words in [
            "inspect", "check", "diff", "convert", "resize", "lint", "pack", "unpack", "salvage", "collapse", "merge --base", "merge --adapter",
            "verify --merged", "verify --json", "verify --junit", "verify --sarif", "verify --html", "verify --prompts", "verify --receipt",
            "verify --run",
            "verify --adapter", "extract --base", "extract --tuned", "extract --out", "train --data", "train --eval-data", "train --resume",
            "train --out", "inspect --html", "pack --against", "tokenize --tokenizer", "logits --adapter", "unmerge --merged", "diff --against",
            "convert --base", "combine --adapter", "convert --out",
        ] {
            let found = try completions(words)
            #expect(found.contains("mine.safetensors") && found.contains("models"), "\(words): \(found)")
        }
        for words in ["merge --out", "train --base", "logits --base"] {
            let found = try completions(words)
            #expect(found.contains("models") && !found.contains("mine.safetensors"), "\(words): \(found)")
        }
        #expect(try completions("convert --to") == ["mlx"])
        #expect(try completions("lint --for") == ["mlx"])
    }
}
