import FileIO
import Foundation
import JSON
import TestModels
import TestSupport
import Testing

/// `salvage`: what is left of damaged files.
struct SalvageTests {
    @Test func aCheckpointThatIsCutShortIsSavedUpToTheCut() throws {
        let space = try Workspace()
        try space.succeed(space.trainArguments())
        let whole = try space.succeed(["salvage", space.path("run.opck"), "--out", space.path("whole"), "--no-fsync"])
        #expect(whole.output.contains("nothing was lost"))
        let tensors = try space.readTensors(space.path("whole/tensors.safetensors"))
        #expect(tensors.count > 28)

        try space.truncate(space.path("run.opck"), to: try FileSystem.status(of: space.path("run.opck")).byteCount / 2)
        #expect(try Executable.run("check", space.path("run.opck")).status == 1)
        let cut = try Executable.run("salvage", space.path("run.opck"), "--out", space.path("cut"), "--json")
        let report = try JSONValue(parsing: Array(cut.output.utf8))
        #expect(cut.status == 1 && cut.errors.isEmpty, "\(cut.errors)")
        #expect(try ReportSchema("salvage").faults(of: report) == [] && report["complete"]?.boolValue == false)
        let saved = try space.readTensors(space.path("cut/tensors.safetensors"))
        #expect(!saved.isEmpty && saved.count < tensors.count && report["tensors"]?.integerValue == saved.count)
        for tensor in saved { #expect(tensors.contains { $0.name == tensor.name && $0.bytes == tensor.bytes }) }
    }

    @Test func aPackWithDamageKeepsItsWholeFiles() throws {
        let space = try Workspace()
        let pack = space.path("pack.opck")
        try space.succeed(["pack", Repository.tinyLlama, "--out", pack, "--no-fsync"])
        try space.succeed(["salvage", pack, "--out", space.path("whole"), "--quiet"])
        let names = try FileSystem.names(in: Repository.tinyLlama)
        #expect(try FileSystem.names(in: space.path("whole/files")) == names)
        #expect(try FileSystem.names(in: space.path("whole")) == ["files", "salvage.json"])

        var bytes = try readAll(pack)
        bytes[bytes.count / 2] ^= 1
        try Data(bytes).write(to: URL(fileURLWithPath: pack))
        #expect(try Executable.run("salvage", pack, "--out", space.path("damaged")).status == 1)
        #expect(try FileSystem.names(in: space.path("damaged")) == ["files", "salvage.json", "tensors.safetensors"])
        let saved = try FileSystem.names(in: space.path("damaged/files"))
        #expect(saved.count == names.count - 1)
        for name in saved {
            #expect(try readAll(space.path("damaged/files/" + name)) == readAll(FileSystem.join(Repository.tinyLlama, name)), "\(name)")
        }
    }

    /// The bytes of what was packed against a base come back with it, with the footer and without; another base does no harm.
    @Test func aPackAgainstABaseComesBackWithIt() throws {
        let space = try Workspace()
        try space.makeMerged()
        let (pack, merged) = (space.path("pack.opck"), space.path("merged"))
        try space.succeed(["pack", merged, "--against", Repository.tinyLlama, "--out", pack, "--no-fsync"])
        let weights = merged + "/model.safetensors"
        let whole = try readAll(pack)
        for isCut in [false, true] {
            try Data(isCut ? whole.dropLast(200) : whole).write(to: URL(fileURLWithPath: pack))
            let name = isCut ? "cut" : "intact"
            for (base, restores) in [(Repository.tinyLlama, true), (weights, false), (nil, false)] {
                let out = space.path("\(name)-\(base.map { $0 == weights ? "other" : "base" } ?? "none")")
                let result = try Executable.run(["salvage", pack, "--out", out, "--no-fsync"] + (base.map { ["--against", $0] } ?? []))
                #expect(result.status == (restores && !isCut ? 0 : 1) && result.errors.isEmpty, "\(name): \(result.errors)")
                let report = try JSONValue(parsing: try readAll(out + "/salvage.json"))
                #expect(try ReportSchema("salvaged").faults(of: report) == [])
                let tensors = try #require(report["tensors"]?.arrayValue)
                #expect(tensors.contains { $0["differences"] != nil } == !restores)
                #expect(FileSystem.exists(out + "/files/model.safetensors") == restores)
                if restores { #expect(try readAll(out + "/files/model.safetensors") == readAll(weights)) }
            }
        }
    }

    @Test func whatCannotBeSavedIsRefused() throws {
        let space = try Workspace()
        let text = try space.makeFile("text.opck", "no checkpoint")
        let nothing = try Executable.run("salvage", text, "--out", space.path("out"))
        #expect(nothing.status == 65 && nothing.errors.hasPrefix("oplora: \(text): ") && !FileSystem.exists(space.path("out")))
        #expect(try Executable.run("salvage", space.path("missing.opck"), "--out", space.path("out")).status == 66)
        #expect(try Executable.run("salvage", text, "--out", text, "--force").status == 73)
        #expect(try FileSystem.names(in: space.path("")) == ["text.opck"])
    }
}
