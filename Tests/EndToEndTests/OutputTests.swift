import FileIO
import Foundation
import JSON
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

/// What `--force` replaces, where outputs may lie, what is copied into them, and who may read them.
struct OutputTests {
    private let space: Workspace
    private let base = Repository.tinyLlama

    init() throws {
        space = try Workspace()
        try space.makeMerged()
    }

    /// Commands that write a folder called `out`.
    private func folderCommands() throws -> [[String]] {
        let (adapter, merged, out) = (space.path("adapter"), space.path("merged"), space.path("out"))
        try space.succeed(["pack", merged, "--out", space.path("merged.opck")])
        return [
            ["merge", "--base", base, "--adapter", adapter, "--out", out, "--no-fsync"],
            ["unmerge", "--merged", merged, "--adapter", adapter, "--out", out, "--no-fsync"],
            ["collapse", space.path("run.opck"), "--out", out],
            ["convert", adapter, "--to", "mlx", "--out", out],
            ["convert", adapter, "--to", "diffusers", "--component", "text_encoder", "--out", out],
            ["resize", adapter, "--rank", "1", "--out", out],
            ["combine", "--adapter", adapter, "--adapter", adapter, "--out", out],
            ["unpack", space.path("merged.opck"), "--out", out, "--no-fsync"],
            ["salvage", space.path("merged.opck"), "--out", out, "--no-fsync"],
        ]
    }

    @Test func ownFoldersAreReplaced() throws {
        for command in try folderCommands() {
            try? FileSystem.remove(space.path("out"))
            try space.succeed(command)
            #expect(try Executable.run(command).status == 73, "\(command[0])")
            try space.succeed(command + ["--force"])
        }
    }

    @Test func foreignEntriesKeepAFolder() throws {
        let out = space.path("out")
        for command in try folderCommands() {
            try? FileSystem.remove(out)
            try space.succeed(command)
            for name in ["notes.txt", ".git", "inner", "a-link", "model-00009.safetensors"] {
                let path = FileSystem.join(out, name)
                switch name {
                case ".git", "inner": try FileSystem.createFolder(path)
                case "a-link": try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: "nothing")
                default: try writeText("mine", path)
                }
                let outcome = try Executable.run(command + ["--force"])
                #expect(outcome.status == 73 && outcome.errors.contains(name), "\(command[0]), \(name): \(outcome.status) \(outcome.errors)")
                #expect(FileSystem.exists(path), "\(command[0]) has removed \(name)")
                try FileSystem.remove(path)
            }
            try space.succeed(command + ["--force"])
        }
    }

    @Test func aFolderOfTheUserIsNotReplaced() throws {
        let mine = space.path("mine")
        try FileManager.default.copyItem(atPath: base, toPath: mine)
        let outcome = try Executable.run("merge", "--base", base, "--adapter", space.path("adapter"), "--out", mine, "--force")
        #expect(outcome.status == 73 && outcome.errors.contains("config.json"), "\(outcome.errors)")
        #expect(FileSystem.exists(mine + "/model.safetensors"))
    }

    /// The first receipts had no list of files; such a folder is known by its names.
    @Test func foldersOfEarlierVersionsAreReplaced() throws {
        let merged = space.path("merged"), receipt = merged + "/oplora-merge.json"
        var members = try #require(try JSONValue(parsing: try readAll(receipt)).objectValue)
        #expect(members.removeValue(forKey: "files") != nil)
        try writeText(JSONValue.object(members).serialized(), receipt)
        let command = ["merge", "--base", base, "--adapter", space.path("adapter"), "--out", merged, "--no-fsync", "--force"]
        try writeText("mine", merged + "/results.csv")
        #expect(try Executable.run(command).status == 73)
        try FileSystem.remove(merged + "/results.csv")
        try space.succeed(command)
        #expect(try JSONValue(parsing: try readAll(receipt))["files"] != nil)
    }

    @Test func filesAreReplacedAndNothingElse() throws {
        let out = space.path("out")
        let commands = [
            ["pack", space.path("merged"), "--out", out], ["convert", space.path("adapter"), "--to", "safetensors", "--out", out],
            ["logits", "--base", base, "--data", Repository.fixture("texts/adapt-heldout.txt"), "--seq-len", "8", "--out", out],
            ["inspect", base, "--html", out], space.trainArguments(out: "out", "--steps", "1"),
        ]
        try writeText("precious", space.path("target"))
        for command in commands {
            try FileManager.default.createSymbolicLink(atPath: out, withDestinationPath: "target")
            let link = try Executable.run(command + ["--force"])
            #expect(link.status == 73 && link.errors.contains("link"), "\(command[0]): \(link.status) \(link.errors)")
            #expect(FileSystem.isSymbolicLink(out))
            try FileSystem.remove(out)
            try FileSystem.createFolder(out)
            let folder = try Executable.run(command + ["--force"])
            #expect(folder.status == 73 && folder.errors.contains("folder"), "\(command[0]): \(folder.status) \(folder.errors)")
            try FileSystem.remove(out)
            try writeText("old", out)
            try space.succeed(command + ["--force"])
            try FileSystem.remove(out)
        }
        #expect(try readAll(space.path("target")) == Array("precious".utf8))
    }

    // MARK: Named pipes and devices

    @Test func filesGoThroughNamedPipes() throws {
        let pipe = space.path("pipe"), adapter = space.path("adapter"), file = space.path("file")
        #expect(unsafe mkfifo(pipe, 0o600) == 0)
        try space.succeed(["pack", adapter, "--out", file])
        let program = try Executable(["pack", adapter, "--out", pipe])
        let received = try #require(FileHandle(forReadingAtPath: pipe)).readToEnd() ?? Data()
        #expect(try program.wait().status == 0)
        #expect(try Array(received) == readAll(file))
        #expect(FileSystem.kind(of: pipe) == .namedPipe)
        for arguments in [["merge", "--base", base, "--adapter", adapter, "--out", pipe, "--force"], space.trainArguments(out: "pipe", "--force")] {
            #expect(try Executable.run(arguments).status == 73, "\(arguments[0])")
        }
        #expect(FileSystem.kind(of: pipe) == .namedPipe)
    }

    @Test func reportsGoToDevices() throws {
        let verify = ["verify", "--base", base, "--adapter", space.path("adapter"), "--merged", space.path("merged")]
        let outcome = try Executable.run(
            verify + ["--json", "/dev/stdout", "--quiet", "--junit", "/dev/null", "--sarif", "/dev/null", "--html", "/dev/null"])
        let report = try JSONValue(parsing: Array(outcome.output.utf8))
        #expect(report["schema"] == "oplora.verify/1")
        #expect(FileSystem.kind(of: "/dev/null") == .characterDevice && FileSystem.isSymbolicLink("/dev/stdout"))
        let pack = try Executable.run("pack", space.path("adapter"), "--out", "/dev/stdout")
        #expect(pack.status == 73 && pack.output.isEmpty, "\(pack.errors)")
        try space.succeed(["pack", space.path("adapter"), "--out", "/dev/null"])
        #expect(try Executable.run("collapse", space.path("run.opck"), "--out", "/dev/null", "--force").status == 73)
    }

    // MARK: Names

    /// A name says what is in the file, and the system takes it.
    @Test func namesThatCannotBeAreRefused() throws {
        let base = Repository.tinyLlama, before = try FileSystem.names(in: space.folder.path)
        let long = space.path(String(repeating: "n", count: 256))
        for (command, out, word) in [
            (["train", "--base", base, "--data", base, "--steps", "1"], space.path("r.safetensors"), "name it with .opck"),
            (["pack", base + "/model.safetensors"], space.path("p.safetensors"), "name it with .opck"),
            (["logits", "--base", base, "--data", Repository.fixture("texts/adapt-heldout.txt")], space.path("l.bin"), "name it with .safetensors"),
            (["collapse", space.path("run.opck")], long, "more than 255 bytes"), (["pack", base], long, "more than 255 bytes"),
            (["pack", base], space.path("run.opck") + "/p.opck", "is not a folder"), (["pack", base], space.path("no/p.opck"), "there is no folder"),
        ] {
            let outcome = try Executable.run(command + ["--out", out])
            #expect(outcome.status == 73 && outcome.errors.contains(word), "\(command[0]) \(out): \(outcome.status) \(outcome.errors)")
        }
        #expect(try FileSystem.names(in: space.folder.path) == before)
    }

    @Test func placesThatCannotBeAreRefused() throws {
        let copy = space.path("copy")
        try FileManager.default.copyItem(atPath: base, toPath: copy)
        let merge = ["merge", "--base", copy, "--adapter", space.path("adapter"), "--out"]
        #expect(try Executable.run(merge + [""]).status == 64)
        #expect(try Executable.run(merge + ["", "--dry-run"]).status == 64)
        #expect(try Executable.run(["pack", copy, "--out", ""]).status == 64)
        for name in ["inside", "./inside"] {
            let outcome = try Executable.run(merge + [FileSystem.join(copy, name)])
            #expect(outcome.status == 73 && outcome.errors.contains("would lie in"), "\(outcome.status) \(outcome.errors)")
        }
        #expect(try Executable.run(merge + [space.path("no/such/folder")]).status == 73)
        #expect(try FileSystem.names(in: copy) == FileSystem.names(in: base))
    }

    // MARK: Links

    @Test func linksOutOfTheModelAreNotFollowed() throws {
        let model = space.path("model"), out = space.path("out")
        try FileManager.default.copyItem(atPath: base, toPath: model)
        try FileSystem.createFolder(space.path("private"))
        try writeText("token", space.path("private/token"))
        let links = ["assets": "../private", "extra.json": "../private/token", "loop": ".", "twin.json": "config.json", "nowhere": "gone"]
        for (name, target) in links { try FileManager.default.createSymbolicLink(atPath: model + "/" + name, withDestinationPath: target) }
        for command in [
            ["merge", "--base", model, "--adapter", space.path("adapter"), "--out", out, "--no-fsync", "--json"],
            ["unmerge", "--merged", model, "--adapter", space.path("adapter"), "--out", out, "--no-fsync", "--force"],
        ] {
            let outcome = try space.succeed(command)
            if command[0] == "merge" {
                let left = try JSONValue(parsing: Array(outcome.output.utf8))["filesLeftOut"]?.arrayValue?.compactMap(\.stringValue)
                #expect(left == ["assets", "extra.json", "loop", "nowhere"])
            }
            #expect(try FileSystem.names(in: out) == (FileSystem.names(in: base) + ["oplora-merge.json", "twin.json"]).sorted())
            #expect(FileSystem.kind(of: out + "/twin.json") == .file)
        }
        for name in ["assets", "loop", "nowhere"] { try FileSystem.remove(model + "/" + name) }
        let pack = try Executable.run("pack", model, "--out", space.path("model.opck"))
        #expect(pack.status == 65 && pack.errors.contains("extra.json"), "\(pack.errors)")
        try FileSystem.remove(model + "/extra.json")
        try space.succeed(["pack", model, "--out", space.path("model.opck")])
    }

    @Test func linksOfTheHubCacheAreFollowed() throws {
        let cache = space.path("models--a--b"), snapshot = cache + "/snapshots/1"
        for name in [cache, cache + "/blobs", cache + "/snapshots", snapshot] { try FileSystem.createFolder(name) }
        for (number, name) in try FileSystem.names(in: base).enumerated() {
            try FileManager.default.copyItem(atPath: base + "/" + name, toPath: cache + "/blobs/\(number)")
            try FileManager.default.createSymbolicLink(atPath: snapshot + "/" + name, withDestinationPath: "../../blobs/\(number)")
        }
        try space.succeed(["merge", "--base", snapshot, "--adapter", space.path("adapter"), "--out", space.path("out"), "--no-fsync"])
        #expect(try FileSystem.names(in: space.path("out")) == FileSystem.names(in: space.path("merged")))
        try space.succeed(["pack", snapshot, "--out", space.path("snapshot.opck")])
    }

    /// The rule is the same for the tokenizer that an adapter brings.
    @Test func linksAmongWhatAnAdapterBringsFollowTheSameRule() throws {
        func link(_ path: String, to target: String) throws {
            try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: target)
        }
        func merge(_ adapter: String) throws -> JSONValue {
            let command = ["merge", "--base", base, "--adapter", adapter, "--out", space.path("out"), "--no-fsync", "--force", "--json"]
            return try JSONValue(parsing: Array(space.succeed(command).output.utf8))
        }
        let (adapter, vocabulary) = (space.path("adapter"), #"{"model": {"vocab": {"a": 0}}}"#)
        try writeText(vocabulary, space.path("private.json"))
        try link(adapter + "/tokenizer.json", to: "../private.json")
        try link(adapter + "/chat_template.jinja", to: space.path("private.json"))
        try FileSystem.createFolder(space.path("templates"))
        try writeText("{{ private }}", space.path("templates/tool.jinja"))
        try link(adapter + "/additional_chat_templates", to: "../templates")
        let report = try merge(adapter)
        #expect(report["tokenizer"]?["adapter"] == .null)
        #expect(report["filesLeftOut"] == ["adapter/additional_chat_templates", "adapter/chat_template.jinja", "adapter/tokenizer.json"])
        #expect(try readAll(space.path("out/tokenizer.json")) == readAll(base + "/tokenizer.json"))
        // A file beside it, and the store of a cache, are the adapter's.
        for name in ["tokenizer.json", "chat_template.jinja", "additional_chat_templates"] { try FileSystem.remove(adapter + "/" + name) }
        try writeText(vocabulary, adapter + "/mine.json")
        try link(adapter + "/tokenizer.json", to: "mine.json")
        #expect(try merge(adapter)["tokenizer"]?["fromAdapter"] == ["tokenizer.json"])
        let cache = space.path("models--a--adapter"), snapshot = cache + "/snapshots/1"
        for name in [cache, cache + "/blobs", cache + "/snapshots", snapshot] { try FileSystem.createFolder(name) }
        for (number, name) in try FileSystem.names(in: adapter).enumerated() {
            try Data(readAll(adapter + "/" + name)).write(to: URL(fileURLWithPath: cache + "/blobs/\(number)"))
            try link(snapshot + "/" + name, to: "../../blobs/\(number)")
        }
        let cached = try merge(snapshot)
        #expect(cached["tokenizer"]?["fromAdapter"] == ["tokenizer.json"] && cached["filesLeftOut"] == ["tokenizer_config.json"])
        #expect(try readAll(space.path("out/tokenizer.json")) == Array(vocabulary.utf8))
    }

    @Test func nestingIsBounded() throws {
        let model = space.path("model")
        try FileManager.default.copyItem(atPath: base, toPath: model)
        var inner = model
        for _ in 0..<17 {
            inner += "/a"
            try FileSystem.createFolder(inner)
        }
        let commands = [
            ["merge", "--base", model, "--adapter", space.path("adapter"), "--out", space.path("out")], ["pack", model, "--out", space.path("out")],
        ]
        for command in commands {
            let outcome = try Executable.run(command)
            #expect(outcome.status == 65 && outcome.errors.contains("nested"), "\(command[0]): \(outcome.status) \(outcome.errors)")
            #expect(!FileSystem.exists(space.path("out")))
        }
        try FileSystem.remove(inner)
        try FileSystem.remove(FileSystem.parent(of: inner))
        for command in commands {
            try space.succeed(command)
            try FileSystem.remove(space.path("out"))
        }
    }

    // MARK: Who may read them

    private func mode(_ path: String) throws -> Int {
        try #require(FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
    }

    @Test func outputsAreAsPrivateAsInputs() throws {
        let model = space.path("model")
        try FileManager.default.copyItem(atPath: base, toPath: model)
        unsafe chmod(model + "/model.safetensors", 0o600)
        let adapter = space.path("adapter")
        try space.succeed(["merge", "--base", model, "--adapter", adapter, "--out", space.path("a"), "--no-fsync"])
        for name in try FileSystem.names(in: space.path("a")) { #expect(try mode(space.path("a/" + name)) & 0o077 == 0, "\(name)") }
        #expect(try mode(space.path("a")) & 0o077 == 0)
        unsafe chmod(model + "/model.safetensors", 0o644)
        unsafe chmod(model, 0o700)
        try space.succeed(["pack", model, "--out", space.path("b")])
        #expect(try mode(space.path("b")) & 0o077 == 0)
        unsafe chmod(model, 0o755)
        unsafe chmod(adapter + "/adapter_model.safetensors", 0o640)
        try space.succeed(["merge", "--base", model, "--adapter", adapter, "--out", space.path("c"), "--no-fsync"])
        #expect(try mode(space.path("c/model.safetensors")) & 0o007 == 0 && mode(space.path("c")) & 0o007 == 0)
        unsafe chmod(adapter + "/adapter_model.safetensors", 0o644)
        let before = umask(0o022)
        umask(before)
        try space.succeed(["merge", "--base", model, "--adapter", adapter, "--out", space.path("d"), "--no-fsync"])
        #expect(try mode(space.path("d/model.safetensors")) == 0o666 & ~Int(before) && mode(space.path("d")) == 0o777 & ~Int(before))
    }

    // MARK: Room

    @Test func aPlanSaysWhatDoesNotFit() throws {
        let free = try #require(FileSystem.freeBytes(at: space.path("out")))
        let (rows, columns) = (free / 4 / 65_536 + 65_536, 65_536)
        let header =
            #"{"model.layers.0.mlp.up_proj.weight":{"dtype":"F32","shape":[\#(rows),\#(columns)],"data_offsets":[0,\#(rows * columns * 4)]}}"#
        let text = header + String(repeating: " ", count: (8 - header.utf8.count % 8) % 8)
        let path = space.path("large.safetensors")
        let bytes = (0..<8).map { UInt8(truncatingIfNeeded: text.utf8.count >> (8 * $0)) } + Array(text.utf8)
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        // Some disks have no files of that size, even with nothing in them.
        guard unsafe truncate(path, bytes.count + rows * columns * 4) == 0 else { return }
        let module = "base_model.model.model.layers.0.mlp.up_proj.lora_"
        let adapter = space.path("small")
        try FileSystem.createFolder(adapter)
        try writeText(#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#, adapter + "/adapter_config.json")
        try writeSafetensors(
            [
                TestTensor(module + "A.weight", .f32, [1, columns], bytes: [UInt8](repeating: 0, count: 4 * columns)),
                TestTensor(module + "B.weight", .f32, [rows, 1], bytes: [UInt8](repeating: 0, count: 4 * rows)),
            ], to: adapter + "/adapter_model.safetensors")
        let command = ["merge", "--base", path, "--adapter", adapter, "--out", space.path("out"), "--dry-run"]
        #expect(try space.succeed(command).output.contains("it will not fit"))
        #expect(try JSONValue(parsing: Array(try space.succeed(command + ["--json"]).output.utf8))["fits"] == false)
        let fitting = ["merge", "--base", base, "--adapter", space.path("adapter"), "--out", space.path("out"), "--dry-run", "--json"]
        #expect(try JSONValue(parsing: Array(try space.succeed(fitting).output.utf8))["fits"] == true)
    }
}
