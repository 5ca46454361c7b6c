#if os(Linux)
    import FileIO
    import Foundation
    import Hashing
    import TestModels
    import TestSupport
    import Testing

    /// Each system call that makes an output fails once, in its turn: the old output or the new one is there, whole.
    struct FaultTests {
        struct Fault: Sendable, CustomTestStringConvertible {
            let call: String
            let error: Int32
            /// Whether the program goes on as if nothing had happened.
            var isHarmless = false

            var testDescription: String { "\(call) fails with \(error)" }
        }

        static let faults: [Fault] = [
            Fault(call: "open", error: ENOSPC), Fault(call: "write", error: EIO), Fault(call: "write", error: EINTR, isHarmless: true),
            Fault(call: "write", error: 0, isHarmless: true), Fault(call: "fsync", error: EIO), Fault(call: "close", error: EIO),
            Fault(call: "rename", error: EIO), Fault(call: "renameat2", error: EINVAL, isHarmless: true), Fault(call: "mkdir", error: ENOSPC),
        ]

        private static let library = FileSystem.join(FileSystem.parent(of: Executable.path), "libFaultyCalls.so")

        /// The names of all files in a folder, each with the digest of its bytes.
        private static func contents(_ folder: String, under prefix: String = "") throws -> [String: String] {
            var contents: [String: String] = [:]
            for name in try FileSystem.names(in: folder) {
                let path = FileSystem.join(folder, name)
                if FileSystem.isFolder(path) {
                    contents.merge(try Self.contents(path, under: prefix + name + "/")) { $1 }
                } else {
                    let bytes = try readAll(path)
                    // Sound: every bit pattern of a byte may be read as a raw byte.
                    contents[prefix + name] = SHA256Digest.hex(of: unsafe bytes.span.bytes)
                }
            }
            return contents
        }

        /// A read of the base fails once, in its turn: nothing is published, or the merge is what it always is.
        @Test(arguments: [
            Fault(call: "read", error: EIO), Fault(call: "read", error: EINTR, isHarmless: true), Fault(call: "read", error: 0, isHarmless: true),
        ])
        func aReadOfTheBaseThatFailsIsToldOrRepeated(_ fault: Fault) throws {
            try #require(FileSystem.exists(Self.library))
            let space = try Workspace()
            try space.makeMerged()
            let base = space.path("base"), out = space.path("out")
            try FileManager.default.copyItem(atPath: Repository.tinyLlama, toPath: base)
            let command = ["merge", "--base", base, "--adapter", space.path("adapter"), "--out", out, "--no-fsync"]
            try space.succeed(command)
            let whole = try Self.contents(out)
            try FileSystem.remove(out)
            var failed = 0
            for number in 1... {
                let outcome = try Executable.run(
                    command,
                    environment: [
                        "LD_PRELOAD": Self.library, "FAULTY_CALL": fault.call, "FAULTY_NUMBER": "\(number)", "FAULTY_ERROR": "\(fault.error)",
                        "FAULTY_FOLDER": base,
                    ])
                let what = "read \(number): exit code \(outcome.status), \(outcome.errors)"
                if outcome.status == 0 {
                    #expect(try Self.contents(out) == whole, "\(what)")
                    try FileSystem.remove(out)
                    if !fault.isHarmless || number == 8 { break }
                } else {
                    failed += 1
                    #expect(!fault.isHarmless && outcome.status == 74 && !FileSystem.exists(out), "\(what)")
                    #expect(try FileSystem.names(in: space.folder.path).allSatisfy { !$0.contains("partial") }, "\(what)")
                }
            }
            #expect(fault.isHarmless || failed > 30, "\(failed) reads failed")
        }

        @Test(arguments: faults) func aCallThatFailsLeavesTheOldOutputOrTheNewOne(_ fault: Fault) throws {
            try #require(FileSystem.exists(Self.library))
            let space = try Workspace()
            try space.succeed(space.trainArguments())
            try space.succeed(["collapse", space.path("run.opck"), "--out", space.path("adapter")])
            try space.succeed(["pack", space.path("adapter"), "--out", space.path("adapter.opck")])
            // What is written lies in a folder of its own, so that only calls on it are counted.
            let outputs = space.path("outputs"), old = space.path("old")
            let base = Repository.tinyLlama + "/model.safetensors"
            let commands = [
                ["merge", "--base", base, "--adapter", space.path("adapter"), "--out", outputs + "/merged"],
                ["collapse", space.path("run.opck"), "--out", outputs + "/adapter", "--force"],
                space.trainArguments(out: "outputs/run.opck", "--steps", "1", "--force"),
                ["pack", space.path("adapter"), "--out", outputs + "/adapter.opck"],
                ["unpack", space.path("adapter.opck"), "--out", outputs + "/adapter", "--force"],
            ]
            try FileSystem.createFolder(old)
            try space.succeed(["collapse", space.path("run.opck"), "--out", old + "/adapter", "--dtype", "bf16"])
            try FileManager.default.copyItem(atPath: space.path("run.opck"), toPath: old + "/run.opck")
            func reset() throws {
                try? FileSystem.remove(outputs)
                try FileManager.default.copyItem(atPath: old, toPath: outputs)
            }
            let before = try Self.contents(old)
            var failed = 0
            for command in commands {
                try reset()
                try space.succeed(command)
                let new = try Self.contents(outputs)
                try #require(new != before)
                for number in 1... {
                    try reset()
                    let outcome = try Executable.run(
                        command,
                        environment: [
                            "LD_PRELOAD": Self.library, "FAULTY_CALL": fault.call, "FAULTY_NUMBER": "\(number)", "FAULTY_ERROR": "\(fault.error)",
                            "FAULTY_FOLDER": outputs,
                        ])
                    let after = try Self.contents(outputs)
                    let what = "\(fault.call) \(number) of \(command[0]): exit code \(outcome.status), \(outcome.errors)"
                    if outcome.status == 0 {
                        #expect(after == new, "\(what)")
                        // Past the last call nothing fails any more.
                        if !fault.isHarmless || number == 4 { break }
                    } else {
                        failed += 1
                        #expect(!fault.isHarmless && [73, 74].contains(outcome.status), "\(what)")
                        // The new output is there when the fault came after its renaming.
                        #expect(after == before || after == new, "\(what)\n\(after.keys.sorted())")
                    }
                    try #require(number < 100)
                }
            }
            #expect(fault.isHarmless || failed > 0, "the fault met no call")
        }
    }
#endif
