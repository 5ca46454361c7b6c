import FileIO
import Foundation
import JSON
import OrderedCollections
import TestModels
import TestSupport
import Testing

/// Options beside `--resume` are obeyed or refused by name.
struct ResumeTests {
    private let space: Workspace

    init() throws { space = try Workspace() }

    /// What a run needs, and nothing that it was started with.
    private func resume(_ run: String, out: String, _ more: String...) throws -> Executable.Outcome {
        try Executable.run(
            [
                "train", "--base", Repository.tinyLlama, "--data", Repository.fixture("texts/adapt-heldout.txt"), "--resume", space.path(run),
                "--out",
                space.path(out),
            ] + more)
    }

    private func step(_ name: String) throws -> JSONValue? {
        try JSONValue(parsing: try space.succeed(["inspect", space.path(name), "--json"]).output)["run"]?["step"]
    }

    @Test func contradictionsAreNamed() throws {
        try space.succeed(space.trainArguments())
        for (option, value) in [
            ("--rank", "3"), ("--lr", "5e-3"), ("--alpha", "1"), ("--schedule", "cosine"), ("--method", "lora"), ("--targets", "q_proj"),
            ("--seed", "1"), ("--dropout", "0.1"), ("--batch-size", "1"), ("--seq-len", "8"), ("--warmup-ratio", "0.5"),
        ] {
            let outcome = try resume("run.opck", out: "more", option, value)
            #expect(outcome.status == 64 && outcome.errors.contains(option), "\(option): \(outcome.status) \(outcome.errors)")
        }
        let both = try resume("run.opck", out: "more", "--rank", "3", "--rslora")
        #expect(both.status == 64 && both.errors.contains("--rank, --rslora"), "\(both.errors)")
        #expect(!FileSystem.exists(space.path("more")))
        // What was given before may be given again, and defaults are no contradiction.
        #expect(try resume("run.opck", out: "more", "--rank", "2", "--lr", "1e-3", "--optimizer", "adamw", "--threads", "1").status == 0)
        #expect(try readAll(space.path("more")) == readAll(space.path("run.opck")))
    }

    @Test func theRunsOwnBaseIsNamed() throws {
        try space.succeed(space.trainArguments())
        // The same model with another bit.
        try FileManager.default.copyItem(atPath: Repository.tinyLlama, toPath: space.path("other"))
        let weights = space.path("other/model.safetensors")
        var bytes = try Data(contentsOf: URL(fileURLWithPath: weights))
        bytes[bytes.count - 1] ^= 1
        try bytes.write(to: URL(fileURLWithPath: weights))
        let outcome = try Executable.run([
            "train", "--base", space.path("other"), "--data", Repository.fixture("texts/adapt-heldout.txt"), "--resume", space.path("run.opck"),
            "--out", space.path("more"),
        ])
        let name = FileSystem.lastComponent(Repository.tinyLlama)
        let sentence = "a model called \(name), whose weights are not those of the base that is given; name that model with --base"
        #expect(outcome.status == 64 && outcome.errors.contains(sentence), "\(outcome.errors)")
    }

    @Test func moreStepsAreTakenWhereTheScheduleAllowsThem() throws {
        try space.succeed(space.trainArguments())
        for (option, value) in [("--steps", "20"), ("--epochs", "2")] {
            let outcome = try resume("run.opck", out: "more", option, value)
            #expect(outcome.status == 64 && outcome.errors.contains("learning rate follows their number"), "\(outcome.status) \(outcome.errors)")
        }
        let fewer = try resume("run.opck", out: "more", "--steps", "5")
        #expect(fewer.status == 64 && fewer.errors.contains("has done 12 steps"), "\(fewer.errors)")
        #expect(try resume("run.opck", out: "same", "--steps", "12").status == 0)

        let constant = ["--schedule", "constant", "--warmup-ratio", "0"]
        try space.succeed(space.trainArguments(out: "short") + constant)
        try space.succeed(space.trainArguments(out: "long", constant + ["--steps", "20"]))
        let outcome = try resume("short", out: "longer", "--steps", "20")
        #expect(outcome.status == 0, "\(outcome.errors)")
        #expect(try readAll(space.path("longer")) == readAll(space.path("long")))
    }

    /// The hint of a run that was interrupted is the command that finishes it, wherever its files lie.
    @Test func theHintIsACommand() throws {
        for measures in [false, true] {
            let name = "it's a \(measures ? "measured " : "")$run"
            let data = try space.makeFile("my data", String(decoding: readAll(Repository.fixture("texts/adapt-heldout.txt")), as: UTF8.self))
            let options = ["--data", data, "--steps", "60"] + (measures ? ["--eval-data", data, "--eval-every", "20", "--save-every", "7"] : [])
            try space.succeed(space.trainArguments(out: "whole", options + ["--force"]))
            let program = try Executable(space.trainArguments(out: name, options))
            while program.isRunning, try !program.errors.contains("step 6/") { usleep(500) }
            program.send(signal: SIGINT)
            let outcome = try program.wait()
            #expect(outcome.status == 130, "\(outcome.errors)")
            let hint = try #require(outcome.errors.firstMatch(of: /interrupted after step \d+ of 60, and saved as .*; go on with: (.*)/)).1
            let shell = Process()
            shell.executableURL = URL(fileURLWithPath: "/bin/sh")
            shell.arguments = ["-c", String(hint)]
            shell.standardOutput = FileHandle.nullDevice
            try shell.run()
            shell.waitUntilExit()
            #expect(shell.terminationStatus == 0, "\(hint)")
            #expect(try readAll(space.path(name)) == readAll(space.path("whole")), "\(hint)")
        }
    }

    @Test func aFinishedRunIsSaidToBe() throws {
        try space.succeed(space.trainArguments())
        let before = try readAll(space.path("run.opck"))
        for out in ["run.opck", "copy"] {
            let outcome = try resume("run.opck", out: out)
            #expect(
                outcome.status == 0 && outcome.output.contains("run.opck: the run was finished already, all 12 steps of it, so nothing is trained"))
            #expect(try readAll(space.path(out)) == before)
        }
    }

    @Test func measuringIsObeyed() throws {
        let held = try space.makeFile("held.txt", String(repeating: "And it came to pass in those days. ", count: 20))
        let other = try space.makeFile("other.txt", String(repeating: "In the beginning was the word. ", count: 20))
        let constant = ["--schedule", "constant", "--warmup-ratio", "0"]
        try space.succeed(space.trainArguments(out: "short") + constant)
        let outcome = try resume("short", out: "measured", "--steps", "20", "--eval-data", held, "--eval-every", "2", "--save-every", "4", "--json")
        #expect(outcome.status == 0, "\(outcome.errors)")
        let events = try outcome.lines.map { try JSONValue(parsing: Array($0.utf8)) }
        func steps(_ event: String) -> [JSONValue?] { events.filter { $0["event"]?.stringValue == event }.map { $0["step"] } }
        #expect(steps("eval") == [12, 14, 16, 18, 20] && steps("checkpoint") == [16, 20])
        let changed = try resume("measured", out: "again", "--eval-data", other)
        #expect(changed.status == 64 && changed.errors.contains("other held-out data; give the same --eval-data"), "\(changed.errors)")
        let missing = try resume("measured", out: "again")
        #expect(missing.status == 64 && missing.errors.contains("give the same --eval-data"), "\(missing.errors)")
    }
}
