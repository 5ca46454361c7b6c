import Foundation
import TestModels
import TestSupport
import Testing

/// `check`: a line for each path, whatever it is.
struct CheckTests {
    /// A header that the reference library takes and the written format does not know.
    private static let list = #"{"t":["U8",[1],[0,1]]}"#

    @Test func everyPathHasALine() throws {
        let space = try Workspace()
        try space.makeMerged()
        let list = try space.makeFile("list.safetensors", "\u{16}\0\0\0\0\0\0\0" + Self.list + "x")
        let good = [Repository.tinyLlama, Repository.tinyLlama + "/model.safetensors", space.path("run.opck"), space.path("merged")]
        let fine = try space.succeed(["check", "--deep"] + good)
        #expect(fine.lines.map(String.init) == good.map { $0 + ": ok" })
        #expect(try Executable.run(["check", "--quiet"] + good).output.isEmpty)

        let missing = space.path("missing.safetensors")
        let mixed = try Executable.run(["check", list, good[1], missing])
        #expect(mixed.status == 1 && mixed.errors.isEmpty, "\(mixed.errors)")
        #expect(mixed.lines.count == 3 && mixed.lines[0].hasPrefix("\(list): invalidTensor: "))
        #expect(mixed.lines[1] == "\(good[1]): ok" && mixed.lines[2].hasPrefix("\(missing): missing: "))
    }

    @Test func damageInTheDataIsSeenWhenLookedFor() throws {
        let space = try Workspace()
        try space.succeed(space.trainArguments())
        var bytes = try readAll(space.path("run.opck"))
        bytes[2000] ^= 1
        try Data(bytes).write(to: URL(fileURLWithPath: space.path("run.opck")))
        #expect(try Executable.run("check", space.path("run.opck")).status == 0)
        let deep = try Executable.run("check", "--deep", space.path("run.opck"))
        #expect(deep.status == 1 && deep.output.contains("checksum"), "\(deep.output)")
    }

    @Test func theModeDecides() throws {
        let space = try Workspace()
        #expect(Self.list.utf8.count == 0x16)
        let path = try space.makeFile("list.safetensors", "\u{16}\0\0\0\0\0\0\0" + Self.list + "x")
        #expect(try Executable.run("check", "--mode", "reference", path).status == 0)
        let strict = try Executable.run("check", path)
        #expect(strict.status == 1 && strict.output.hasPrefix("\(path): invalidTensor: "), "\(strict.output)")
        #expect(try Executable.run("check", "--mode", "lenient", path).status == 64)
    }

    @Test func foldersAreCheckedStrictly() throws {
        let space = try Workspace()
        let model = try space.makeModel()
        let file = model + "/model.safetensors"
        var bytes = try readAll(file)
        let length = Int(bytes[0]) | Int(bytes[1]) << 8
        // The header of the fixture ends with spaces; a tab there is read all the same.
        try #require(bytes[8 + length - 1] == UInt8(ascii: " "))
        bytes[8 + length - 1] = UInt8(ascii: "\t")
        try Data(bytes).write(to: URL(fileURLWithPath: file))
        try space.succeed(["inspect", model])
        let strict = try Executable.run("check", model)
        #expect(strict.status == 1 && strict.output.contains("invalidPadding"), "\(strict.output)")
        #expect(try Executable.run("check", "--mode", "reference", file).status == 0)
        #expect(try Executable.run("check", "--mode", "reference", model).status == 64)
    }

    @Test func whatIsPermittedIsSaidAndNoFault() throws {
        let space = try Workspace()
        let odd = try space.makeFile("odd.safetensors", "\u{35}\0\0\0\0\0\0\0" + #"{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"# + "d")
        #expect(
            try space.succeed(["check", odd]).lines == [
                "\(odd): ok (its data begins at byte 61, no multiple of 8)"
            ])
        let inner = try space.makeFile(
            "inner.safetensors", "\u{36}\0\0\0\0\0\0\0" + #"{"t":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"# + "8 bytes.")
        #expect(
            try space.succeed(["check", inner]).lines == [
                "\(inner): ok (its data begins at byte 62, no multiple of 8; 1 of 1 tensors begin at no multiple of their element's size, the first is t at byte 62)"
            ])
        #expect(try space.succeed(["check", "--mode", "reference", inner]).lines == ["\(inner): ok"])
        let model = space.path("sharded")
        try TestModel.write(to: model, seed: 1)
        #expect(try space.succeed(["check", model]).lines == ["\(model): ok"])
        let index = model + "/model.safetensors.index.json"
        let text = String(decoding: try readAll(index), as: UTF8.self)
        try writeText(text.replacing("\"total_size\": ", with: "\"total_size\": 1"), index)
        let outcome = try space.succeed(["check", model])
        #expect(outcome.output.hasPrefix("\(model): ok (its index gives a total_size of 1"), "\(outcome.output)")
    }
}
