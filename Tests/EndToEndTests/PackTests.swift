import FileIO
import Foundation
import JSON
import Tensors
import TestModels
import TestSupport
import Testing

/// `pack` and `unpack`: every byte comes back, whatever the input is.
struct PackTests {
    /// The files of a folder by path, with folders that hold nothing.
    private static func contents(_ folder: String, under prefix: String = "") throws -> [String: [UInt8]] {
        var contents: [String: [UInt8]] = [:]
        for name in try FileSystem.names(in: folder) {
            let path = FileSystem.join(folder, name)
            if FileSystem.isFolder(path) {
                let inner = try Self.contents(path, under: prefix + name + "/")
                contents.merge(inner.isEmpty ? [prefix + name + "/": []] : inner) { $1 }
            } else {
                contents[prefix + name] = try readAll(path)
            }
        }
        return contents
    }

    /// Packs and unpacks, with the program and with the reference decoder.
    private func roundTrip(_ input: String, in space: Workspace, _ name: String, against base: String? = nil) throws {
        let (pack, out, decoded) = (space.path(name + ".opck"), space.path(name + ".out"), space.path(name + ".decoded"))
        let more = base.map { ["--against", $0] } ?? []
        try space.succeed(["pack", input, "--out", pack, "--no-fsync"] + more)
        try space.succeed(["check", "--deep", pack])
        try space.succeed(["unpack", pack, "--out", out, "--no-fsync", "--threads", "3"] + more)
        let weights = base.map { ["--against", FileSystem.isFolder($0) ? $0 + "/model.safetensors" : $0] } ?? []
        let python = Process()
        python.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        python.arguments = ["python3", Repository.path("formats/reference/opck.py"), "unpack", pack, "--out", decoded] + weights
        try python.run()
        python.waitUntilExit()
        try #require(python.terminationStatus == 0)
        for result in [out, decoded] {
            if FileSystem.isFolder(input) {
                let (expected, found) = (try Self.contents(input), try Self.contents(result))
                #expect(found.keys.sorted() == expected.keys.sorted() && found == expected, "\(name)")
            } else {
                #expect(try readAll(result) == readAll(input), "\(name)")
            }
        }
    }

    @Test func reportsGiveTheSizesOfTheFiles() throws {
        let space = try Workspace()
        let (input, pack) = (Repository.tinyLlama + "/model.safetensors", space.path("file.opck"))
        let packed = try JSONValue(parsing: try space.succeed(["pack", input, "--out", pack, "--json"]).output)
        #expect(try ReportSchema("pack").faults(of: packed) == [])
        let (bytes, packedBytes) = (try FileSystem.status(of: input).byteCount, try FileSystem.status(of: pack).byteCount)
        #expect(packed["bytes"]?.integerValue == bytes && packed["packedBytes"]?.integerValue == packedBytes && packed["files"]?.integerValue == 1)
        let unpacked = try JSONValue(parsing: try space.succeed(["unpack", pack, "--out", space.path("out"), "--json"]).output)
        #expect(try ReportSchema("unpack").faults(of: unpacked) == [] && unpacked["bytes"]?.integerValue == bytes)
    }

    @Test func modelsAdaptersAndFilesComeBack() throws {
        let space = try Workspace()
        try space.makeMerged()
        try roundTrip(Repository.tinyLlama, in: space, "model")
        try roundTrip(space.path("adapter"), in: space, "adapter")
        try roundTrip(Repository.tinyLlama + "/model.safetensors", in: space, "file")
        try roundTrip(space.path("run.opck"), in: space, "training")
        try roundTrip(space.path("merged"), in: space, "merged", against: Repository.tinyLlama)
        let (alone, against) = (try readAll(space.path("file.opck")), try readAll(space.path("merged.opck")))
        #expect(against.count < alone.count)
    }

    /// Every type, with random bytes (NaN payloads, infinities, subnormals, -0) and lengths that fill nothing evenly; and
    /// what is no safetensors file, or an unusual one.
    @Test(arguments: [UInt64(1)]) func anythingInAFolderComesBack(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let space = try Workspace()
        let folder = space.path("all")
        try FileManager.default.createDirectory(atPath: folder + "/a/b/c", withIntermediateDirectories: true)
        try FileManager.default.createDirectory(atPath: folder + "/empty/inside", withIntermediateDirectories: true)
        var tensors = DType.allCases.map { dtype in
            let count = dtype.bitWidth < 8 ? 1004 : 1001
            return TestTensor("all.\(dtype)", dtype, [count], bytes: generator.bytes(count * dtype.bitWidth / 8))
        }
        tensors.append(TestTensor("nothing", .f32, [0, 3], bytes: []))
        tensors.append(TestTensor("scalar \"ü\"\n", .f64, [], bytes: [0, 0, 0, 0, 0, 0, 0, 0x80]))
        try writeSafetensors(tensors, to: folder + "/a/types.safetensors")
        // The empty name is taken for other bytes, so this file is packed as bytes.
        try writeSafetensors([TestTensor("", .u8, [3], bytes: [1, 2, 3])], to: folder + "/a/b/nameless.safetensors")
        func put(_ bytes: [UInt8], _ name: String) throws { try Data(bytes).write(to: URL(fileURLWithPath: folder + "/" + name)) }
        try put([], "a/b/c/empty")
        try put([0], "one")
        try put(generator.bytes(100_003), "random.bin")
        try put([UInt8](repeating: 7, count: 2_000_001), "level.bin")
        try put(Array("{}".utf8), "config.json")
        let whole = try readAll(folder + "/a/types.safetensors")
        try put(Array(whole.dropLast()), "cut.safetensors")
        try put(whole + [0], "longer.safetensors")
        // Not padded, spaces inside, and an entry that strict readers refuse.
        let header = Array(#"{ "t" : {"dtype":"I16","shape":[2],"data_offsets":[0,4]}}"#.utf8)
        try put([UInt8(header.count), 0, 0, 0, 0, 0, 0, 0] + header + [1, 2, 3, 4], "spaced.safetensors")
        let list = Array(#"{"t":["U8",[1],[0,1]]}"#.utf8)
        try put([UInt8(list.count), 0, 0, 0, 0, 0, 0, 0] + list + [9], "list.safetensors")
        try roundTrip(folder, in: space, "packed")
        for name in ["a/types.safetensors", "a/b/c/empty", "random.bin"] {
            try roundTrip(folder + "/" + name, in: space, FileSystem.lastComponent(name))
        }
    }

    @Test func aCheckpointIsSmallerAgainstTheOneBefore() throws {
        let space = try Workspace()
        try space.succeed(space.trainArguments(out: "first.opck", "--steps", "4"))
        try space.succeed(space.trainArguments(out: "second.opck", "--steps", "5"))
        let (first, second) = (space.path("first.opck"), space.path("second.opck"))
        try space.succeed(["pack", second, "--against", first, "--out", space.path("delta.opck")])
        #expect(try readAll(space.path("delta.opck")).count < readAll(second).count)
        try space.succeed(["unpack", space.path("delta.opck"), "--against", first, "--out", space.path("back.opck")])
        #expect(try readAll(space.path("back.opck")) == readAll(second))
        // It is a run all the same, only one that cannot be read without the other.
        let inspected = try Executable.run("inspect", space.path("delta.opck"))
        let collapsed = try Executable.run("collapse", space.path("delta.opck"), "--out", space.path("adapter"))
        #expect(collapsed.status == 65 && collapsed.errors.contains("--against"), "\(collapsed.errors) \(inspected.errors)")
    }

    @Test func theSameBytesWithAnyThreads() throws {
        let space = try Workspace()
        for threads in ["1", "2", "5"] {
            try space.succeed(["pack", Repository.tinyLlama, "--hash", "--threads", threads, "--out", space.path("p\(threads).opck")])
        }
        let first = try readAll(space.path("p1.opck"))
        #expect(try readAll(space.path("p2.opck")) == first && readAll(space.path("p5.opck")) == first)
    }

    @Test func whatCannotBePackedOrUnpackedIsRefused() throws {
        let space = try Workspace()
        try space.makeMerged()
        let pack = space.path("pack.opck"), out = space.path("out")
        func expect(_ status: Int32, _ words: String, _ arguments: String..., location: SourceLocation = #_sourceLocation) throws {
            let outcome = try Executable.run(arguments)
            #expect(outcome.status == status && outcome.errors.contains(words), "\(outcome.status) \(outcome.errors)", sourceLocation: location)
            #expect(!FileSystem.exists(out), sourceLocation: location)
        }
        try expect(66, "no such file", "pack", space.path("nothing"), "--out", pack)
        try space.succeed(["pack", Repository.tinyLlama, "--out", pack])
        try expect(73, "exists", "pack", Repository.tinyLlama, "--out", pack)
        try expect(73, "inputs", "pack", pack, "--out", pack, "--force")
        let model = try space.makeModel()
        try expect(73, "in the folder that is packed", "pack", model, "--out", model + "/pack.opck")
        try FileManager.default.createSymbolicLink(atPath: model + "/link", withDestinationPath: "..")
        try expect(65, "link to a folder", "pack", model, "--out", out)
        try expect(65, "packs no files", "unpack", space.path("run.opck"), "--out", out)
        try expect(65, "not an .opck file", "unpack", Repository.tinyLlama + "/model.safetensors", "--out", out)
        try expect(65, "pack without --against", "pack", space.path("adapter"), "--against", Repository.tinyLlama, "--out", out)
        try expect(65, "pack already", "pack", pack, "--against", Repository.tinyLlama, "--out", out)

        let delta = space.path("delta.opck")
        try space.succeed(["pack", space.path("merged"), "--against", Repository.tinyLlama, "--out", delta])
        try expect(65, "--against", "unpack", delta, "--out", out)
        try expect(65, "other bytes", "unpack", delta, "--against", space.path("merged"), "--out", out)
        try expect(65, "no such tensor", "unpack", delta, "--against", space.path("adapter/adapter_model.safetensors"), "--out", out)

        var bytes = try readAll(pack)
        bytes[bytes.count / 2] ^= 0x20
        try Data(bytes).write(to: URL(fileURLWithPath: pack))
        try expect(65, "checksum", "unpack", pack, "--out", out)
        try space.truncate(pack, to: bytes.count - 100)
        try expect(65, "cut", "unpack", pack, "--out", out)
    }
}
