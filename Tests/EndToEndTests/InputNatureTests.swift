import FileIO
import Foundation
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

/// What people hand to the program in the place of a model or an adapter: every command says what it is, in the same words.
struct InputNatureTests {
    /// A file that is none, and what is said of it.
    struct Stranger: CustomTestStringConvertible, Sendable {
        let name: String
        let bytes: [UInt8]
        let words: String

        init(_ name: String, _ bytes: [UInt8], _ words: String) { (self.name, self.bytes, self.words) = (name, bytes, words) }
        init(_ name: String, _ text: String, _ words: String) { self.init(name, Array(text.utf8), words) }

        var testDescription: String { name }
    }

    private static let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123\n"

    static let strangers: [Stranger] = [
        Stranger("pointer.safetensors", pointer, "git lfs pull"), Stranger("pointer.gguf", pointer, "git lfs pull"),
        Stranger("pytorch_model.bin", Array("PK\u{3}\u{4}".utf8) + [UInt8](repeating: 0, count: 60), "loading one can run any code"),
        Stranger("mine.zip", Array("PK\u{3}\u{4}............archive/data.pkl".utf8), "loading one can run any code"),
        Stranger("old.ckpt", [0x80, 2, 0x8A, 10, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20], "loading one can run any code"),
        Stranger("data.zip", Array("PK\u{3}\u{4}............a.txt".utf8), "a ZIP archive; unpack it"),
        Stranger("model.safetensors.gz", [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2], "compressed by gzip; unpack it"),
        Stranger("called.safetensors", Array("GGUF".utf8) + [3, 0, 0, 0] + [UInt8](repeating: 0, count: 16), "is a GGUF file"),
        Stranger("config.json", "{\"model_type\": \"llama\"}", "this is a JSON file and holds no weights"),
        Stranger("page.safetensors", "\n<!DOCTYPE html>\n<html><body>404</body></html>", "this is a web page"),
        Stranger("error.safetensors", "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        Stranger("denied.safetensors", "Invalid username or password.", "this is a text file"),
        Stranger("model.safetensors.incomplete", [0x10, 0, 0, 0, 0, 0, 0, 0, 0x7B], "the download of this file has not finished"),
        Stranger("model.safetensors.part", [0x10, 0, 0, 0, 0, 0, 0, 0, 0x7B], "the download of this file has not finished"),
        Stranger("empty.safetensors", "", "the file is empty"),
    ]

    @Test(arguments: strangers) func everyCommandNamesAFile(_ stranger: Stranger) throws {
        let space = try Workspace()
        let path = space.path(stranger.name)
        try Data(stranger.bytes).write(to: URL(fileURLWithPath: path))
        let (base, out) = (Repository.tinyLlama, space.path("out"))
        var commands = [
            ["inspect", path], ["diff", path, path], ["merge", "--base", base, "--adapter", path, "--out", out], ["lint", path],
            ["convert", path, "--to", "peft", "--out", out], ["resize", path, "--rank", "1", "--out", out],
            ["verify", "--base", base, "--adapter", path, "--merged", base],
        ]
        // A file of this name is read as GGUF where that is asked of an adapter, and refused as that.
        if !stranger.name.hasSuffix(".gguf") {
            commands.append(["extract", "--base", path, "--tuned", base, "--rank", "1", "--out", out])
        } else {
            commands = [["extract", "--base", path, "--tuned", base, "--rank", "1", "--out", out]]
        }
        for command in commands {
            let outcome = try Executable.run(command)
            // A true GGUF file is taken where GGUF is read.
            if stranger.words.contains("GGUF"), command[0] != "extract" { continue }
            #expect(outcome.status == 65 && outcome.errors.contains(stranger.words), "\(command[0]): \(outcome.status) \(outcome.errors)")
        }
        let check = try Executable.run("check", path)
        #expect(check.status == 1 && check.output.contains(stranger.words), "\(check.output)")
    }

    /// The same where the file lies in a folder in the place of a part of a model or an adapter.
    @Test func configurationsThatAreNoneAreNamed() throws {
        let space = try Workspace()
        try space.makeMerged()
        let model = try space.makeModel()
        for (file, command) in [
            (model + "/config.json", ["merge", "--base", model, "--adapter", space.path("adapter"), "--out", space.path("out")]),
            (model + "/tokenizer.json", space.trainArguments(base: model, out: "new")),
            (space.path("adapter/adapter_config.json"), ["lint", space.path("adapter")]),
        ] {
            let before = try readAll(file)
            for (text, words) in [(Self.pointer, "git lfs pull"), ("", "the file is empty"), ("<html></html>", "this is a web page")] {
                try writeText(text, file)
                let outcome = try Executable.run(command)
                #expect(outcome.status == 65 && outcome.errors.contains(words) && outcome.errors.contains(file), "\(outcome.errors)")
            }
            try Data(before).write(to: URL(fileURLWithPath: file))
        }
    }

    /// What lies in the place of a file that comes along is not carried into a merged model.
    @Test(arguments: [
        "config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json",
        "special.bpe",
    ])
    func pointersAreNotCopied(_ name: String) throws {
        let space = try Workspace()
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        let base = try space.makeModel("base")
        try space.succeed(["merge", "--base", base, "--adapter", adapter, "--out", space.path("merged"), "--no-fsync"])
        for (option, folder, more) in [("--base", base, ["--dry-run"]), ("--base", base, []), ("--merged", space.path("merged"), [])] {
            try writeText(Self.pointer, folder + "/" + name)
            let command = [option == "--base" ? "merge" : "unmerge", option, folder, "--adapter", adapter, "--out", space.path("out")] + more
            let outcome = try Executable.run(command)
            let words = "\(folder)/\(name): this is a pointer of Git LFS"
            #expect(outcome.status == 65 && outcome.errors.contains(words), "\(command): \(outcome.errors)")
            #expect(!FileSystem.exists(space.path("out")))
        }
        let inspection = try Executable.run("inspect", base)
        #expect(inspection.status == 0 && inspection.output.contains("\(name): this is a pointer of Git LFS"), "\(inspection.output)")
        let clean = try space.makeModel("clean")
        let verdict = try Executable.run("verify", "--base", clean, "--adapter", adapter, "--merged", space.path("merged"))
        #expect(verdict.status == 1 && verdict.errors.contains("fileNotFetched: \(name): this is a pointer of Git LFS"), "\(verdict.errors)")
    }

    @Test func pointersAmongWhatAnAdapterBringsAreRefused() throws {
        let space = try Workspace()
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        for (name, text, words) in [
            ("tokenizer.json", Self.pointer, "git lfs pull"), ("tokenizer.json", "", "the file is empty"),
            ("chat_template.jinja", Self.pointer, "git lfs pull"), ("tokenizer.model", "<!doctype html>", "this is a web page"),
        ] {
            try writeText(text, adapter + "/" + name)
            let command = ["merge", "--base", Repository.tinyLlama, "--adapter", adapter, "--out", space.path("out")]
            let outcome = try Executable.run(command + ["--dry-run"])
            #expect(outcome.status == 65 && outcome.errors.contains(words) && outcome.errors.contains("adapter/" + name), "\(outcome.errors)")
            #expect(try Executable.run("inspect", adapter).output.contains("\(name): "))
            #expect(try Executable.run(command + ["--base-tokenizer", "--no-fsync", "--force"]).status == 0)
            try FileSystem.remove(adapter + "/" + name)
        }
    }

    /// Pictures and texts for people are missed by nobody, and what an adapter supersedes is not copied.
    @Test func pointersThatDoNoHarm() throws {
        let space = try Workspace()
        let (adapter, base) = (try PEFTAdapter.write(to: space.path("adapter")), try space.makeModel("base"))
        for name in ["README.md", "preview.PNG", "tokenizer.json"] { try writeText(Self.pointer, base + "/" + name) }
        try writeText("{}", base + "/tokenizer.json.incomplete")
        try writeText(#"{"model": {"vocab": {"a": 0}}}"#, adapter + "/tokenizer.json")
        let outcome = try space.succeed(["merge", "--base", base, "--adapter", adapter, "--out", space.path("merged"), "--no-fsync", "--json"])
        let left = try JSONValue(parsing: Array(outcome.output.utf8))["filesLeftOut"]
        #expect(left == ["README.md", "preview.PNG", "tokenizer.json.incomplete", "tokenizer_config.json"], "\(outcome.output)")
        #expect(try Executable.run("verify", "--base", base, "--adapter", adapter, "--merged", space.path("merged")).status == 0)
    }

    // MARK: Folders

    struct Folder: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let status: Int32
        let words: [String]
        let make: @Sendable (Workspace) throws -> Void

        init(_ name: String, _ status: Int32, _ words: String..., make: @escaping @Sendable (Workspace) throws -> Void) {
            (testDescription, self.status, self.words, self.make) = (name, status, words, make)
        }
    }

    private static func touch(_ space: Workspace, _ names: String...) throws {
        for name in names {
            let parts = name.split(separator: "/").dropLast()
            for count in 1..<(parts.count + 1) where !parts.isEmpty {
                let folder = space.path("in/" + parts.prefix(count).joined(separator: "/"))
                if !FileSystem.exists(folder) { try FileSystem.createFolder(folder) }
            }
            try writeText("x", space.path("in/" + name))
        }
    }

    static let folders: [Folder] = [
        Folder("nothing", 66, "the folder is empty") { _ in },
        Folder("a trainer's folder", 66, "checkpoint-500 and checkpoint-1000", "/in/checkpoint-1000") {
            try touch($0, "checkpoint-1000/model.safetensors", "checkpoint-500/model.safetensors", "README.md")
        },
        Folder("a cache of one model", 66, "the root of a model in a cache", "/in/snapshots/abc") {
            try touch($0, "snapshots/abc/model.safetensors", "snapshots/aaa/model.safetensors", "refs/main", "blobs/1")
            try writeText("abc", $0.path("in/refs/main"))
        },
        Folder("a cache", 66, "a cache of the model models--org--name", "/in/models--org--name/snapshots/abc") {
            try touch($0, "models--org--name/snapshots/abc/config.json", "version.txt")
        },
        Folder("pickles alone", 65, "the pickle pytorch_model.bin", "can run any code") { try touch($0, "pytorch_model.bin", "config.json") },
        Folder("an unfinished download", 65, "the download of model.safetensors.incomplete has not finished") {
            try touch($0, "model.safetensors.incomplete", "config.json")
        },
        Folder("GGUF files", 65, "a.gguf and b.gguf", "name the file itself") { try touch($0, "a.gguf", "b.gguf") },
        Folder("weights of another kind", 65, "tf_model.h5", "not read") { try touch($0, "tf_model.h5", "config.json") },
        Folder("several files", 66, "one.safetensors and two.safetensors", "name one of these files") {
            try touch($0, "one.safetensors", "two.safetensors")
        },
        Folder("a shard that is missing", 66, "2 of 3 shards", "lacks model-00002-of-00003.safetensors") {
            try touch($0, "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors")
        },
    ]

    @Test(arguments: folders) func everyCommandNamesAFolder(_ folder: Folder) throws {
        let space = try Workspace()
        let path = space.path("in")
        try FileSystem.createFolder(path)
        try folder.make(space)
        for command in [
            ["inspect", path], ["diff", path, path],
            ["extract", "--base", path, "--tuned", Repository.tinyLlama, "--rank", "1", "--out", space.path("out")],
            ["pack", Repository.tinyLlama, "--against", path, "--out", space.path("out")],
        ] {
            let outcome = try Executable.run(command)
            #expect(outcome.status == folder.status, "\(command[0]): \(outcome.errors)")
            for word in folder.words { #expect(outcome.errors.contains(word), "\(command[0]): \(outcome.errors)") }
        }
        // As an adapter it is looked at in the same way, where it is not a folder of weights.
        guard !folder.words.joined().contains("shards"), !folder.words.joined().contains("one of these") else { return }
        let outcome = try Executable.run("lint", path)
        #expect(outcome.status == folder.status)
        for word in folder.words { #expect(outcome.errors.contains(word), "lint: \(outcome.errors)") }
    }

    @Test func pickledAdaptersAreNamedAsSuch() throws {
        let space = try Workspace()
        try FileSystem.createFolder(space.path("in"))
        try writeText(#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#, space.path("in/adapter_config.json"))
        try writeText("x", space.path("in/adapter_model.bin"))
        for command in [["lint"], ["inspect"], ["merge", "--base", Repository.tinyLlama, "--out", space.path("out"), "--adapter"]] {
            let outcome = try Executable.run(command + [space.path("in")])
            let words = "its weights are the pickle adapter_model.bin, which is not read because loading one can run any code"
            #expect(outcome.status == 65 && outcome.errors.contains(words), "\(command[0]): \(outcome.errors)")
        }
    }

    // MARK: One mistake, one exit code

    struct Mistake: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let status: Int32
        let words: String
        /// What `in` is handed to the commands as.
        let parts: Set<Part>
        let make: @Sendable (Workspace) throws -> Void

        enum Part { case model, adapter }

        init(
            _ name: String, _ status: Int32, _ words: String, _ parts: Set<Part> = [.model, .adapter],
            make: @escaping @Sendable (Workspace) throws -> Void
        ) {
            (testDescription, self.status, self.words, self.parts, self.make) = (name, status, words, parts, make)
        }
    }

    static let mistakes: [Mistake] = [
        Mistake("nothing at the path", 66, "there is no such file or folder") { _ in },
        Mistake("an empty folder", 66, "the folder is empty") { try FileSystem.createFolder($0.path("in")) },
        Mistake("a folder of something else", 66, "but notes.txt and photo.png; name the folder or the file") {
            try FileSystem.createFolder($0.path("in"))
            try touch($0, "notes.txt", "photo.png", ".git/config")
        },
        Mistake("a trainer's folder", 66, "a checkpoint of a training, checkpoint-500, and nothing of its own that can be opened; name it") {
            try FileSystem.createFolder($0.path("in"))
            try PEFTAdapter.write(to: $0.path("in/checkpoint-500"))
            try touch($0, "README.md", "training_args.bin")
        },
        Mistake("a model's checkpoint in a trainer's folder", 66, "checkpoint-500, and nothing of its own that can be opened; name it") {
            try FileSystem.createFolder($0.path("in"))
            try FileManager.default.copyItem(atPath: Repository.tinyLlama, toPath: $0.path("in/checkpoint-500"))
        },
        Mistake("a pickle", 65, "loading one can run any code") { try Data([0x80, 2, 0x8A, 10]).write(to: URL(fileURLWithPath: $0.path("in"))) },
        Mistake("a pickle in a folder", 65, "loading one can run any code") {
            try FileSystem.createFolder($0.path("in"))
            try touch($0, "pytorch_model.bin", "config.json")
        },
        Mistake("a pointer", 65, "git lfs pull") { try writeText(pointer, $0.path("in")) },
        Mistake("a pointer in a model's folder", 65, "git lfs pull", [.model]) {
            try FileManager.default.copyItem(atPath: Repository.tinyLlama, toPath: $0.path("in"))
            try writeText(pointer, $0.path("in/model.safetensors"))
        },
        Mistake("a pointer in an adapter's folder", 65, "git lfs pull", [.adapter]) {
            try PEFTAdapter.write(to: $0.path("in"))
            try writeText(pointer, $0.path("in/adapter_model.safetensors"))
        },
        Mistake("a shard that is missing", 66, "model-00002-of-00002.safetensors", [.model]) {
            try FileSystem.createFolder($0.path("in"))
            try touch($0, "model-00001-of-00002.safetensors")
        },
        Mistake("a shard that is missing and named", 66, "model-00002-of-00002.safetensors", [.model]) {
            try FileSystem.createFolder($0.path("in"))
            try writeText(#"{"weight_map": {"a": "model-00002-of-00002.safetensors"}}"#, $0.path("in/model.safetensors.index.json"))
        },
        Mistake("an adapter in a model's place", 65, "is an adapter, not a model", [.model]) { try PEFTAdapter.write(to: $0.path("in")) },
        Mistake("a model in an adapter's place", 65, "is a model, not an adapter", [.adapter]) {
            try FileManager.default.copyItem(atPath: Repository.tinyLlama, toPath: $0.path("in"))
        },
    ]

    @Test(arguments: mistakes) func oneMistakeHasOneExitCode(_ mistake: Mistake) throws {
        let space = try Workspace()
        try mistake.make(space)
        let (path, out, base) = (space.path("in"), space.path("out"), Repository.tinyLlama)
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        var commands: [[String]] = []
        if mistake.parts.contains(.model) {
            commands += [
                ["merge", "--base", path, "--adapter", adapter, "--out", out], ["unmerge", "--merged", path, "--adapter", adapter, "--out", out],
                ["verify", "--base", path, "--adapter", adapter, "--merged", base],
                ["verify", "--base", base, "--adapter", adapter, "--merged", path],
                ["extract", "--base", path, "--tuned", base, "--rank", "1", "--out", out],
                ["convert", adapter, "--to", "mlx", "--base", path, "--out", out], space.trainArguments(base: path),
            ]
            if FileSystem.isFolder(path) {
                commands.append(
                    ["logits", "--base", path, "--data", Repository.fixture("texts/adapt-heldout.txt"), "--adapter", adapter, "--out", out])
            }
        }
        if mistake.parts.contains(.adapter) {
            commands += [
                ["merge", "--base", base, "--adapter", path, "--out", out], ["unmerge", "--merged", base, "--adapter", path, "--out", out],
                ["verify", "--base", base, "--adapter", path, "--merged", base], ["lint", path], ["convert", path, "--to", "mlx", "--out", out],
                ["resize", path, "--rank", "1", "--out", out],
                ["combine", "--adapter", path, "--adapter", adapter, "--method", "cat", "--out", out],
            ]
        }
        if !mistake.words.contains(", not a") { commands += [["inspect", path], ["diff", path, path]] }
        for command in commands {
            let outcome = try Executable.run(command)
            #expect(
                outcome.status == mistake.status && outcome.errors.contains(mistake.words), "\(command): \(outcome.status) \(outcome.errors)")
        }
    }

    /// A run goes on as it began: whatever contradicts it is a wrong argument.
    @Test func whatContradictsARunIsWrongUsage() throws {
        let space = try Workspace()
        try space.succeed(space.trainArguments("--steps", "2"))
        let other = try space.makeModel("other", weights: { $0[0].bytes[0] ^= 1 })
        let text = try space.makeFile("other.txt", String(repeating: "In the beginning was the word. ", count: 40))
        func resume(_ base: String, _ data: String, _ more: String...) throws -> Int32 {
            let arguments = ["--base", base, "--data", data, "--out", space.path("next"), "--resume", space.path("run.opck")]
            return try Executable.run(["train"] + arguments + more).status
        }
        let data = Repository.fixture("texts/adapt-heldout.txt")
        #expect(try resume(other, data) == 64)
        #expect(try resume(Repository.tinyLlama, text) == 64)
        #expect(try resume(Repository.tinyLlama, data, "--lr", "1") == 64)
    }

    // MARK: Arguments

    @Test func namesOfTheHubAreNoPaths() throws {
        let space = try Workspace()
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        for name in ["mistralai/Mistral-7B-v0.1", "Qwen/Qwen2.5-0.5B", "bigscience/bloom"] {
            for command in [
                ["merge", "--base", name, "--adapter", adapter, "--out", space.path("out")], ["inspect", name],
                ["train", "--base", name, "--data", Repository.fixture("texts/adapt-heldout.txt"), "--out", space.path("out")],
            ] {
                let outcome = try Executable.run(command)
                #expect(outcome.status == 66 && outcome.errors.contains("hf download \(name) --local-dir "), "\(outcome.errors)")
            }
        }
        for name in ["nothing/here.safetensors", "a/b/c", "/a/b", "../a", "nothing"] {
            #expect(try Executable.run("inspect", name).errors.contains("check the path"))
        }
    }

    @Test func linksToNothingAreNamedAsSuch() throws {
        let space = try Workspace()
        try FileSystem.createFolder(space.path("base"))
        try FileManager.default.createSymbolicLink(atPath: space.path("base/model.safetensors"), withDestinationPath: "../blobs/0123")
        for path in ["base/model.safetensors", "base"] {
            let outcome = try Executable.run("inspect", space.path(path))
            #expect(outcome.status == 66 && outcome.errors.contains("this is a link, and what it leads to is not there"), "\(outcome.errors)")
        }
        // A tokenizer that a cache has lost is no part of the merged model that may be left out.
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        try FileManager.default.copyItem(atPath: Repository.tinyLlama, toPath: space.path("model"))
        try FileManager.default.removeItem(atPath: space.path("model/tokenizer.json"))
        try FileManager.default.createSymbolicLink(atPath: space.path("model/tokenizer.json"), withDestinationPath: "../blobs/0123")
        for more in [[], ["--dry-run"]] {
            let merge = try Executable.run(["merge", "--base", space.path("model"), "--adapter", adapter, "--out", space.path("out")] + more)
            #expect(merge.status == 65 && merge.errors.contains("tokenizer.json: this is a link"), "\(merge.status) \(merge.errors)")
        }
    }

    @Test func aBiasThatNoLayerHasIsRefused() throws {
        let space = try Workspace()
        var adapter = PEFTAdapter(configuration: ["lora_bias": true])
        try adapter.addFactors(["q_proj"])
        for layer in 0..<4 { adapter.add("model.layers.\(layer).self_attn.q_proj.lora_B.bias", [128]) }
        let outcome = try Executable.run(
            "merge", "--base", Repository.tinyLlama, "--adapter", try adapter.write(to: space.path("adapter")), "--out", space.path("out"))
        #expect(outcome.status == 65 && outcome.errors.contains("a bias (lora_bias) to a layer that has none"), "\(outcome.status) \(outcome.errors)")
    }

    @Test func weightsThatAreNone() throws {
        let space = try Workspace()
        let colon = try PEFTAdapter.write(to: space.path("name:0.5"))
        let merge = ["merge", "--base", Repository.tinyLlama, "--no-fsync", "--out", space.path("colon"), "--adapter"]
        let read = try Executable.run(merge + [colon])
        #expect(read.status == 64 && read.errors.contains("for the one of this name write \(colon):1"), "\(read.status) \(read.errors)")
        try space.succeed(merge + [colon + ":1"])
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        for (weight, words) in [
            ("abc", "\"abc\" is not a number"), ("", "\"\" is not a number"), ("nan", "is a finite number"), ("inf", "is a finite number"),
        ] {
            let outcome = try Executable.run(
                "merge", "--base", Repository.tinyLlama, "--adapter", "\(adapter):\(weight)", "--out", space.path("out"))
            #expect(outcome.status == 64 && outcome.errors.contains(words) && outcome.errors.contains("\(adapter):0.5"), "\(outcome.errors)")
        }
    }

    @Test func anAdapterIsNoBaseOfATraining() throws {
        let space = try Workspace()
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        let outcome = try Executable.run(space.trainArguments(base: adapter))
        #expect(outcome.status == 65 && outcome.errors.contains("--base \(adapter) is an adapter, not a model"), "\(outcome.errors)")
    }

    @Test func filesAndFoldersInEachOthersPlaceAreNamed() throws {
        let space = try Workspace()
        let adapter = try PEFTAdapter.write(to: space.path("adapter"))
        try FileSystem.createFolder(space.path("folder"))
        for (layout, name, words) in [
            ("peft", "x.safetensors", "or choose a layout that is a file: kohya or safetensors"), ("mlx", "x.safetensors", "a folder is written"),
            ("diffusers", "x.gguf", "a file: gguf"), ("kohya", "folder", "such as \(space.path("folder/name.safetensors"))"),
            ("safetensors", "folder/", "folder/name.safetensors"), ("gguf", "folder", "folder/name.gguf"),
            ("gguf", "x.safetensors", "name it with .gguf"), ("kohya", "x.gguf", "name it with .safetensors"),
            ("safetensors", "x.bin", "name it with .safetensors"),
        ] {
            let outcome = try Executable.run(
                "convert", adapter, "--to", layout, "--base", Repository.tinyLlama, "--out", space.path(name), "--force")
            #expect(outcome.status == 73 && outcome.errors.contains(words), "\(layout): \(outcome.status) \(outcome.errors)")
        }
        let merge = try Executable.run("merge", "--base", Repository.tinyLlama, "--adapter", adapter, "--out", space.path("m.safetensors"))
        #expect(merge.status == 73 && merge.errors.contains("a folder is written"), "\(merge.errors)")
        #expect(try FileSystem.names(in: space.folder.path) == ["adapter", "folder"])
        for (layout, name) in [("peft", "p"), ("kohya", "k.safetensors"), ("kohya", "k"), ("safetensors", "s.safetensors"), ("gguf", "g.gguf")] {
            let part = layout == "kohya" ? ["--component", "text_encoder"] : []
            try space.succeed(["convert", adapter, "--to", layout, "--base", Repository.tinyLlama, "--out", space.path(name)] + part)
        }
        // What it is stands in the file and not in its name.
        #expect(try Executable.run("inspect", space.path("k")).output.contains("method: LoRA"))
        let single = try Executable.run("inspect", space.path("s.safetensors")).output
        #expect(single.contains("adapter of one model in one file: 16 modules") && !single.contains("diffusers"), "\(single)")
    }

    @Test func argumentsInEachOthersPlaceAreNamed() throws {
        let space = try Workspace()
        try space.makeMerged()
        let (base, adapter, merged, out) = (Repository.tinyLlama, space.path("adapter"), space.path("merged"), space.path("out"))
        let adapterFile = adapter + "/adapter_model.safetensors"
        for (command, words) in [
            (["merge", "--base", adapter, "--adapter", base, "--out", out], "--base \(adapter) is an adapter, not a model"),
            (["merge", "--base", adapterFile, "--adapter", adapter, "--out", out], "--base \(adapterFile) is an adapter, not a model"),
            (["merge", "--base", base, "--adapter", base, "--out", out], "--adapter \(base) is a model, not an adapter"),
            (["merge", "--base", base, "--adapter", base + "/model.safetensors", "--out", out], "/model.safetensors is a model, not an adapter"),
            (["unmerge", "--merged", adapter, "--adapter", adapter, "--out", out], "--merged \(adapter) is an adapter, not a model"),
            (["verify", "--base", adapter, "--adapter", adapter, "--merged", merged], "--base \(adapter) is an adapter, not a model"),
            (["verify", "--base", base, "--adapter", adapter, "--merged", adapter], "--merged \(adapter) is an adapter, not a model"),
            (
                ["verify", "--base", merged, "--adapter", adapter, "--merged", base],
                "\(merged) holds the receipt of a merge and --merged \(base) holds none"
            ),
            (["extract", "--base", base, "--tuned", adapter, "--rank", "1", "--out", out], "--tuned \(adapter) is an adapter, not a model"),
            (["convert", base, "--to", "mlx", "--out", out], "\(base) is a model, not an adapter"),
            (["resize", base, "--rank", "1", "--out", out], "\(base) is a model, not an adapter"),
            (["lint", base], "\(base) is a model, not an adapter"),
        ] {
            let outcome = try Executable.run(command)
            #expect(![0, 70].contains(outcome.status) && outcome.errors.contains(words), "\(command[0]): \(outcome.status) \(outcome.errors)")
            if words.contains("--merged \(adapter)") { #expect(outcome.status == 65 && outcome.lines.isEmpty, "\(outcome.output)") }
        }
    }

    // MARK: What may not be read

    /// Root may read everything, so the program runs as somebody else where the tests are root's.
    @Test func whatMayNotBeReadIsNamed() throws {
        // Nobody may reach a program in a folder that is root's alone.
        guard try runUnprivileged(["--version"]).status == 0 else { return }
        let space = try Workspace()
        let model = try space.makeModel()
        let closed = space.path("closed")
        try FileManager.default.copyItem(atPath: model, toPath: closed)
        _ = unsafe chmod(space.folder.path, 0o755)
        _ = unsafe chmod(model + "/model.safetensors", 0)
        _ = unsafe chmod(closed, 0)
        defer { _ = unsafe chmod(closed, 0o755) }
        for path in [model, model + "/model.safetensors", closed] {
            for command in [
                ["inspect", path], ["check", path], ["extract", "--base", path, "--tuned", path, "--rank", "1", "--out", space.path("out")],
                ["lint", path],
            ] {
                let outcome = try runUnprivileged(command)
                let text = outcome.output + outcome.errors
                guard command[0] != "lint" || path != model else { continue }
                #expect(outcome.status == 74 && text.contains("Permission denied; check the permissions"), "\(command[0]): \(outcome.status) \(text)")
            }
        }
    }

    private func runUnprivileged(_ arguments: [String]) throws -> Executable.Outcome {
        guard getuid() == 0 else { return try Executable.run(arguments) }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = ["-c", #"exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@""#, "sh", Executable.path] + arguments
        let pipe = Pipe()
        (process.standardOutput, process.standardError) = (pipe, pipe)
        try process.run()
        let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return Executable.Outcome(status: process.terminationStatus, output: text, errors: "")
    }
}
