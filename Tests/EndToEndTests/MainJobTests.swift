import FileIO
import Foundation
import Hashing
import JSON
import OrderedCollections
import TestModels
import TestSupport
import Testing

/// From a base model to a verified merge, through the executable.
struct MainJobTests {
    @Test func aRunIsTrainedCollapsedMergedAndVerified() throws {
        let space = try Workspace()
        let training = try space.succeed(
            space.trainArguments("--eval-data", Repository.fixture("texts/adapt-heldout.txt"), "--json", "--seq-len", "128"))
        let events = try training.lines.map { try JSONValue(parsing: Array($0.utf8)) }
        #expect(events.map { $0["event"]?.stringValue } == ["eval"] + Array(repeating: "step", count: 12) + ["eval", "checkpoint", "done"])
        for event in events where event["event"]?.stringValue == "step" {
            for key in ["loss", "learningRate", "gradientNorm", "tokensPerSecond"] { #expect(event[key]?.doubleValue != nil, "\(key)") }
        }
        let losses = events.filter { $0["event"]?.stringValue == "eval" }.compactMap { $0["loss"]?.doubleValue }
        #expect(losses[1] < losses[0] - 0.05, "\(losses)")

        let collapse = try space.succeed(["collapse", space.path("run.opck"), "--out", space.path("adapter"), "--verify"])
        #expect(collapse.output.contains("pass: 28 modules"))
        let base = Repository.tinyLlama
        let merge = try space.succeed(["merge", "--base", base, "--adapter", space.path("adapter"), "--out", space.path("merged"), "--json"])
        let report = try JSONValue(parsing: Array(merge.output.utf8))
        #expect(report["schema"]?.stringValue == "oplora.merge/1" && report["modules"]?.integerValue == 28)
        #expect(try ReportSchema("merge").faults(of: report) == [])
        let receipt = try JSONValue(parsing: try readAll(space.path("merged/oplora-merge.json")))
        #expect(try ReportSchema("merge-receipt").faults(of: receipt) == [])
        #expect(report["tensorsChanged"]?.integerValue == 28 && report["survival"]?["minimum"]?.doubleValue != nil)
        // A merged model is a model folder, whole, with a receipt.
        #expect(try FileSystem.names(in: space.path("merged")).sorted() == (try FileSystem.names(in: base) + ["oplora-merge.json"]).sorted())

        let verify = try space.succeed(["verify", "--base", base, "--adapter", space.path("adapter"), "--merged", space.path("merged"), "--json"])
        let verdict = try JSONValue(parsing: Array(verify.output.utf8))
        #expect(verdict["verdict"]?.stringValue == "pass" && verdict["modules"]?.arrayValue?.count == 28)
        try space.succeed(["verify", "--run", space.path("run.opck"), "--adapter", space.path("adapter")])
        // A run stands for its adapter.
        try space.succeed(["verify", "--base", base, "--adapter", space.path("run.opck"), "--merged", space.path("merged")])
    }

    @Test func inspectSaysWhatThingsAre() throws {
        let space = try Workspace()
        try space.makeMerged()
        let paths = [Repository.tinyLlama, space.path("run.opck"), space.path("adapter"), space.path("merged")]
        let outcome = try space.succeed(["inspect", "--json"] + paths)
        let reports = try outcome.lines.map { try JSONValue(parsing: Array($0.utf8)) }
        #expect(reports.count == 4)
        #expect(reports[0]["kind"] == reports[3]["kind"] && reports[0]["parameters"] == reports[3]["parameters"])
        #expect(reports[2]["adapter"]?["rank"]?.integerValue == 2 && reports[2]["adapter"]?["modules"]?.arrayValue?.count == 28)
        for report in reports {
            #expect(report["bytes"]?.integerValue != nil)
            let first = try #require(report["tensors"]?.arrayValue?.first)
            for key in ["name", "dtype", "shape", "bytes", "file"] { #expect(first[key] != nil, "\(key)") }
        }
        let text = try space.succeed(["inspect", space.path("run.opck")]).output
        #expect(text.contains("op-lora"), "\(text)")
    }

    @Test(arguments: ["op-lora", "lora"]) func threadsDoNotMatter(method: String) throws {
        let space = try Workspace()
        for threads in ["1", "2", "3"] {
            try space.succeed(space.trainArguments(out: threads, "--method", method, "--threads", threads, "--grad-accumulation", "2"))
        }
        let first = try readAll(space.path("1"))
        #expect(try readAll(space.path("2")) == first)
        #expect(try readAll(space.path("3")) == first)
    }

    @Test func mergingIsPlannedGatedAndRefused() throws {
        let space = try Workspace()
        try space.succeed(space.trainArguments())
        let base = Repository.tinyLlama
        let plan = try space.succeed([
            "merge", "--base", base, "--adapter", space.path("run.opck"), "--out", space.path("none"), "--json", "--dry-run",
        ])
        #expect(try ReportSchema("merge-plan").faults(of: try JSONValue(parsing: Array(plan.output.utf8))) == [])
        let text = try space.succeed(["merge", "--base", base, "--adapter", space.path("run.opck"), "--out", space.path("none"), "--dry-run"]).output
        #expect(text.contains("model.layers.{0…3}.mlp.up_proj.weight") && text.contains("would merge 28 modules"), "\(text)")
        #expect(!FileSystem.exists(space.path("none")))
        // A run knows the weights that it was trained on.
        try FileSystem.createFolder(space.path("other"))
        let weights = try readAll(base + "/model.safetensors")
        let file = try AtomicFile(path: space.path("other/model.safetensors"), replacing: false)
        try file.write(weights.dropLast() + [weights[weights.count - 1] ^ 1])
        try file.publish(durable: false)
        try writeText(String(decoding: try readAll(base + "/config.json"), as: UTF8.self), space.path("other/config.json"))
        let arguments = ["merge", "--base", space.path("other"), "--adapter", space.path("run.opck"), "--out", space.path("none")]
        let refused = try Executable.run(arguments)
        #expect(refused.status == 65 && refused.errors.contains("--any-base"), "\(refused.errors)")
        try space.succeed(arguments + ["--any-base", "--hash", "--min-survival", "0"])
        let receipt = try JSONValue(parsing: try readAll(space.path("none/oplora-merge.json")))
        #expect(try ReportSchema("merge-receipt").faults(of: receipt) == [] && receipt["sha256"] != nil)
        #expect(try Executable.run(arguments + ["--any-base", "--force", "--min-survival", "1"]).status == 1)
    }

    /// The end of a run does not tell whether, how often or how roughly it was stopped.
    @Test(arguments: zip([SIGKILL, SIGKILL, SIGINT, SIGTERM], ["op-lora", "lora", "op-lora", "lora"]))
    func aRunThatIsStoppedAndResumedHasTheSameBytes(signal: Int32, method: String) throws {
        let space = try Workspace()
        let held = try space.makeFile("held.txt", String(repeating: "And it came to pass in those days. ", count: 20))
        func arguments(_ name: String) -> [String] {
            space.trainArguments(out: name, "--method", method, "--dropout", "0.1", "--eval-data", held, "--eval-every", "5", "--save-every", "3")
        }
        try space.succeed(arguments("whole"))
        let run = try Executable(arguments("stopped") + ["--json"])
        try run.wait { $0.contains(#""event":"step","step":7"#) }
        run.send(signal: signal)
        let outcome = try run.wait()
        #expect(outcome.status == (signal == SIGKILL ? -SIGKILL : 130), "\(outcome.errors)")
        if signal != SIGKILL { #expect(outcome.errors.contains("--resume")) }
        let inspected = try space.succeed(["inspect", space.path("stopped")]).output
        #expect(!inspected.contains("step 12"), "the run was over before it was stopped")
        try space.succeed(arguments("stopped") + ["--resume", space.path("stopped"), "--threads", "1"])
        #expect(try readAll(space.path("stopped")) == readAll(space.path("whole")))
    }

    /// Any one bit of any tensor of the merged model, adapted or not.
    @Test(arguments: 0..<8) func anyFlippedBitOfAMergedModelIsFound(seed: Int) throws {
        let space = try Workspace()
        try space.makeMerged()
        var generator = SeededGenerator(seed: UInt64(seed))
        let file = space.path("merged/model.safetensors")
        let tensors = try space.readTensors(file)
        let tensor = tensors.randomElement(using: &generator)!
        let bit = Int.random(in: 0..<tensor.bytes.count * 8, using: &generator)
        let changed = tensors.map { original in
            var copy = original
            if copy.name == tensor.name { copy.bytes[bit / 8] ^= 1 << UInt8(bit % 8) }
            return copy
        }
        try writeSafetensors(changed, to: file)
        let arguments = ["verify", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--merged", space.path("merged")]
        let outcome = try Executable.run(arguments)
        let module = tensor.name.hasSuffix("_proj.weight") ? String(tensor.name.dropLast(".weight".count)) : tensor.name
        #expect(outcome.status == 1 && outcome.errors.contains(module), "bit \(bit) of \(tensor.name): \(outcome.status) \(outcome.errors)")
        let verdict = try JSONValue(parsing: Array(try Executable.run(arguments + ["--json"]).output.utf8))
        #expect(verdict["verdict"]?.stringValue == "fail" && verdict["faults"]?.arrayValue?.count == 1)
    }

    @Test func divergenceKeepsTheLastCheckpoint() throws {
        let space = try Workspace()
        // An update with this scale is beyond F32 within a few steps, yet not in the first ones.
        let arguments = space.trainArguments(
            "--lr", "10", "--alpha", "1e18", "--max-grad-norm", "0", "--schedule", "constant", "--save-every", "1", "--steps", "40")
        let outcome = try Executable.run(arguments)
        #expect(outcome.status == 1)
        let step = try #require(outcome.errors.firstMatch(of: #/no longer finite at step (\d+)/#).flatMap { Int($0.output.1) }, "\(outcome.errors)")
        try #require(step > 1)
        let text = try space.succeed(["inspect", space.path("run.opck")]).output
        #expect(text.contains("step \(step - 1) of 40"), "\(text)")
        try space.succeed(["collapse", space.path("run.opck"), "--out", space.path("adapter")])
    }

    @Test func helpNamesEveryCommandAndExample() throws {
        let help = try Executable.run("--help")
        #expect(help.status == 0)
        for command in ["inspect", "train", "collapse", "merge", "verify", "tokenize", "logits"] {
            #expect(help.output.contains(command))
            let own = try Executable.run(command, "--help")
            #expect(own.status == 0 && own.output.contains("Example") && own.output.contains("oplora \(command)"), "\(command)")
        }
    }

    /// What lies in `fixtures/` is what its generator wrote.
    @Test func fixturesAreThoseOfTheManifest() throws {
        let manifest = try JSONValue(parsing: try readAll(Repository.fixture("manifest.json")))
        let files = try #require(manifest["files"]?.objectValue)
        #expect(files.count > 10)
        for (name, entry) in files {
            let bytes = try readAll(Repository.fixture(name))
            // Sound: every bit pattern of a byte may be read as a raw byte.
            #expect(SHA256Digest.hex(of: unsafe bytes.span.bytes) == entry["sha256"]?.stringValue, "\(name)")
        }
    }
}
