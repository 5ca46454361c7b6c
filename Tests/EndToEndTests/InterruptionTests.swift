import FileIO
import Foundation
import JSON
import NativeCheckpoint
import Tensors
import TestModels
import TestSupport
import Testing

/// What is there after a signal, a kill, and a file that is cut while it is read.
struct InterruptionTests {
    private let space: Workspace
    /// A model that takes any command a while, as zeros that take no room.
    private let model: String
    private let adapter: String
    private static let (rows, columns, layers) = (4096, 4096, 24)

    init() throws {
        space = try Workspace()
        model = space.path("large")
        try FileSystem.createFolder(model)
        adapter = space.path("adapter")
        try FileSystem.createFolder(adapter)
        try Self.makeZeros(model + "/model.safetensors")
        // Of another type, so that all elements are looked at.
        try Self.makeZeros(space.path("other.safetensors"), dtype: "BF16")
        try writeText(#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#, adapter + "/adapter_config.json")
        try writeSafetensors(
            (0..<Self.layers).flatMap { layer in
                [("A", [1, Self.columns]), ("B", [Self.rows, 1])].map { side, shape in
                    TestTensor(
                        "base_model.model.layers.\(layer).up_proj.lora_\(side).weight", .f32, shape,
                        bytes: [UInt8](repeating: 0x3B, count: 4 * Self.rows))
                }
            }, to: adapter + "/adapter_model.safetensors")
    }

    private static func makeZeros(_ path: String, dtype: String = "F32") throws {
        let size = rows * columns * (dtype == "F32" ? 4 : 2)
        let entries = (0..<layers).map { layer in
            #""layers.\#(layer).up_proj.weight":{"dtype":"\#(dtype)","shape":[\#(rows),\#(columns)],"data_offsets":[\#(layer * size),\#((layer + 1) * size)]}"#
        }
        let header = "{" + entries.joined(separator: ",") + "}"
        let text = header + String(repeating: " ", count: (8 - header.utf8.count % 8) % 8)
        let bytes = (0..<8).map { UInt8(truncatingIfNeeded: text.utf8.count >> (8 * $0)) } + Array(text.utf8)
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        unsafe truncate(path, bytes.count + layers * size)
    }

    private func longCommands() -> [[String]] {
        let out = space.path("out")
        return [
            ["merge", "--base", model, "--adapter", adapter, "--out", out], ["unmerge", "--merged", model, "--adapter", adapter, "--out", out],
            ["pack", model, "--out", out], ["extract", "--base", model, "--tuned", model, "--rank", "1", "--out", out],
            ["inspect", "--stats", model], ["diff", model, space.path("other.safetensors")],
            ["verify", "--base", model, "--adapter", adapter, "--merged", model],
        ]
    }

    private var names: [String] {
        get throws { try FileSystem.names(in: space.folder.path) }
    }

    @Test(arguments: [SIGINT, SIGTERM, SIGHUP]) func theFirstSignalEndsACommand(signal: Int32) throws {
        let before = try names
        for command in longCommands() {
            let program = try Executable(command)
            while program.isRunning, !program.waits(forSignal: signal) { usleep(500) }
            // Into the work, of which none takes less than several times as long.
            usleep(10_000)
            #expect(program.isRunning, "\(command[0]) was done before it could be interrupted")
            program.send(signal: signal)
            let started = Date()
            let outcome = try program.wait()
            #expect(outcome.status == 130 && outcome.errors.contains("interrupted"), "\(command[0]): \(outcome.status) \(outcome.errors)")
            #expect(Date().timeIntervalSince(started) < 5, "\(command[0]) went on")
            #expect(try names == before, "\(command[0])")
        }
    }

    @Test func aKilledRunIsClearedUpByTheNext() throws {
        let before = try names
        for command in longCommands() where ["merge", "unmerge", "pack"].contains(command[0]) {
            let program = try Executable(command)
            while program.isRunning, try !unfinished(before).contains(where: isFilling) { usleep(1000) }
            program.send(signal: SIGKILL)
            #expect(try program.wait().status == -SIGKILL)
            let left = try unfinished(before)
            #expect(left.count == 1, "\(command[0])")
            // The next run may give what it writes the same name; not the same age.
            for place in left { try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSince1970: 0)], ofItemAtPath: place) }
            let next = try Executable(command)
            while next.isRunning, try !unfinished(before).contains(where: { try isFilling($0) && !isAged($0) }) { usleep(1000) }
            next.send(signal: SIGTERM)
            let outcome = try next.wait()
            #expect(try names == before, "\(command[0]): \(outcome.status) \(outcome.errors)")
        }
    }

    /// What has come to lie beside the inputs.
    private func unfinished(_ before: [String]) throws -> [String] { try names.filter { !before.contains($0) }.map(space.path) }

    /// Whether bytes are written to it: a command first tries whether its output can be made.
    private func isFilling(_ place: String) throws -> Bool { try byteCount(of: place) > 0 }

    private func byteCount(of place: String) throws -> Int {
        guard let kind = FileSystem.kind(of: place) else { return 0 }
        guard kind == .folder else { return (try? FileSystem.status(of: place).byteCount) ?? 0 }
        return try ((try? FileSystem.names(in: place)) ?? []).reduce(0) { try $0 + byteCount(of: FileSystem.join(place, $1)) }
    }

    private func isAged(_ place: String) -> Bool {
        let date = try? FileManager.default.attributesOfItem(atPath: place)[.modificationDate] as? Date
        return date.map { $0 < Date(timeIntervalSince1970: 1000) } ?? false
    }

    @Test func aFileThatIsCutWhileItIsReadIsNamed() throws {
        let before = try names, weights = model + "/model.safetensors"
        for command in longCommands() {
            try Self.makeZeros(weights)
            let program = try Executable(command)
            usleep(150_000)
            #expect(program.isRunning, "\(command[0]) was done before")
            // Not at the end of a page: the rest of that is zeros, and no fault.
            unsafe truncate(weights, 1_000_001)
            let outcome = try program.wait()
            #expect(
                outcome.status == 65 && outcome.errors.contains("changed while it was read"), "\(command[0]): \(outcome.status) \(outcome.errors)")
            #expect(try names == before, "\(command[0])")
        }
    }

    /// What is cut off of the last page reads as zeros.
    @Test func aFileThatLosesItsLastBytes() throws {
        let weights = model + "/model.safetensors", size = try FileSystem.status(of: weights).byteCount
        for command in [["inspect", "--stats", model], ["pack", model, "--out", space.path("out")]] {
            try Self.makeZeros(weights)
            let program = try Executable(command)
            usleep(150_000)
            unsafe truncate(weights, size - 10)
            let outcome = try program.wait()
            #expect(
                outcome.status == 65 && outcome.errors.contains("changed while it was read"), "\(command[0]): \(outcome.status) \(outcome.errors)")
            #expect(!FileSystem.exists(space.path("out")))
        }
    }

    // MARK: Training

    @Test func aClosedTerminalKeepsTheRun() throws {
        let arguments = space.trainArguments("--steps", "100000")
        let program = try Executable(arguments)
        while program.isRunning, try !program.errors.contains("step 1/") { usleep(2000) }
        program.send(signal: SIGHUP)
        let outcome = try program.wait()
        #expect(outcome.status == 130 && outcome.errors.contains("--resume"), "\(outcome.status) \(outcome.errors)")
        #expect(FileSystem.exists(space.path("run.opck")))
    }

    @Test func underNohupARunGoesOn() throws {
        let program = try Executable(space.trainArguments("--steps", "40"), ignoresHangup: true)
        while program.isRunning, try !program.errors.contains("step 1/") { usleep(2000) }
        program.send(signal: SIGHUP)
        #expect(try program.wait().status == 0)
    }

    /// An evaluation is cut off too; the run that goes on makes it, and ends in the same bytes.
    @Test func anEvaluationIsInterrupted() throws {
        let text = Repository.fixture("texts/adapt-heldout.txt")
        let long = try space.makeFile("long.txt", String(repeating: String(decoding: try readAll(text), as: UTF8.self), count: 20))
        func arguments(_ out: String) -> [String] { space.trainArguments(out: out, "--steps", "1", "--eval-data", text) }
        let first = try Executable(space.trainArguments("--eval-data", long))
        // This is said when all is read, and the first evaluation begins.
        try first.wait { $0.contains("trainable") }
        usleep(50_000)
        first.send(signal: SIGINT)
        let outcome = try first.wait()
        #expect(outcome.status == 130 && outcome.errors.contains("before the first step"), "\(outcome.status) \(outcome.errors)")
        #expect(!FileSystem.exists(space.path("run.opck")))
        try space.succeed(arguments("whole.opck"))
        let program = try Executable(arguments("part.opck"))
        while program.isRunning, try !program.errors.contains("step 1/") { usleep(500) }
        program.send(signal: SIGTERM)
        let part = try program.wait()
        if part.status != 0 {
            #expect(part.status == 130, "\(part.errors)")
            try space.succeed(arguments("part.opck") + ["--resume", space.path("part.opck")])
        }
        #expect(try readAll(space.path("part.opck")) == readAll(space.path("whole.opck")))
    }

    // MARK: Memory

    /// A pack of little that stands for much takes the memory of a few pieces.
    @Test func memoryDoesNotGrowWithWhatAPackStandsFor() throws {
        let (zeros, pack) = (space.path("zeros"), space.path("zeros.opck"))
        let count = 256 << 20
        #expect(FileManager.default.createFile(atPath: zeros, contents: nil))
        #expect(unsafe truncate(zeros, count) == 0)
        let mapped = try MappedFile(path: zeros)
        var writer = try CheckpointWriter(path: pack, replacing: false, options: CheckpointWriter.Options(kind: "test"))
        try writer.append(name: "t", dtype: .f32, shape: [count / 4], bytes: mapped.bytes)
        _ = try writer.finish(durable: false)
        for command in [
            ["inspect", "--stats", pack], ["check", "--deep", pack], ["diff", pack, pack], ["salvage", pack, "--out", space.path("out")],
        ] {
            let options = command[0] == "check" ? [] : command[0] == "salvage" ? ["--no-fsync"] : ["--threads", "2"]
            let (outcome, peak) = try Executable(command + options).waitForPeak()
            #expect(outcome.status == 0 && peak < 150 << 20 && peak > 0, "\(command[0]): \(outcome.status), \(peak >> 20) MiB")
        }
    }
}

/// An error of the system is not taken for another kind of file.
struct UnreadableInputTests {
    @Test func aPackOfAFileThatCannotBeReadIsNotWritten() throws {
        let library = FileSystem.join(FileSystem.parent(of: Executable.path), "libFaultyCalls.so")
        try #require(FileSystem.exists(library))
        let space = try Workspace()
        let model = try space.makeModel(), whole = space.path("whole.opck"), out = space.path("out.opck")
        try space.succeed(["pack", model + "/model.safetensors", "--out", whole])
        var failed = 0
        for number in 1... {
            let outcome = try Executable.run(
                ["pack", model + "/model.safetensors", "--out", out],
                environment: [
                    "LD_PRELOAD": library, "FAULTY_CALL": "open", "FAULTY_NUMBER": "\(number)", "FAULTY_ERROR": "\(EIO)", "FAULTY_FOLDER": model,
                ])
            if outcome.status == 0 {
                #expect(try readAll(out) == readAll(whole), "open \(number)")
                try FileSystem.remove(out)
                if number > 8 { break }
            } else {
                failed += 1
                #expect(outcome.status == 74 && !FileSystem.exists(out), "open \(number): \(outcome.status) \(outcome.errors)")
            }
        }
        #expect(failed > 1)
    }
}
