import FileIO
import JSON
import TestModels
import TestSupport
import Testing

/// The verdict as JSON, JUnit, SARIF and annotations, and the limits that a team may set.
struct VerifyReportTests {
    private func arguments(_ space: Workspace, _ more: String...) -> [String] {
        ["verify", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--merged", space.path("merged")] + more
    }

    /// Changes one element of one adapted weight.
    private func spoil(_ space: Workspace) throws {
        let file = space.path("merged/model.safetensors")
        var tensors = try space.readTensors(file)
        let index = try #require(tensors.firstIndex { $0.name.hasSuffix("layers.0.self_attn.q_proj.weight") })
        tensors[index].bytes[1] ^= 0x80
        try writeSafetensors(tensors, to: file)
    }

    @Test func aRightModelPassesInEveryReport() throws {
        let space = try Workspace()
        try space.makeMerged()
        let run = try space.succeed(
            arguments(space, "--json", "--junit", space.path("a&b.xml"), "--sarif", space.path("verify.sarif"), "--max-ulp", "0"))
        let report = try JSONValue(parsing: Array(run.output.utf8))
        #expect(try ReportSchema("verify").faults(of: report) == [])
        #expect(report["modules"]?.arrayValue?.allSatisfy { $0["standing"]?.stringValue == "exact" } == true)
        let junit = String(decoding: try readAll(space.path("a&b.xml")), as: UTF8.self)
        #expect(junit.contains("tests=\"28\" failures=\"0\" errors=\"0\" skipped=\"0\"") && !junit.contains("<failure"))
        let sarif = try JSONValue(parsing: try readAll(space.path("verify.sarif")))
        let results = sarif["runs"]?.arrayValue?.first?["results"]
        #expect(sarif["version"]?.stringValue == "2.1.0" && results?.arrayValue?.isEmpty == true)
        let lines = try space.succeed(arguments(space, "--github")).lines
        #expect(lines.count == 1 && lines[0].hasPrefix("::notice file=") && lines[0].contains("28 modules"))
    }

    @Test func aWrongModelFailsInEveryReport() throws {
        let space = try Workspace()
        try space.makeMerged()
        try spoil(space)
        let module = "model.layers.0.self_attn.q_proj"
        let outcome = try Executable.run(
            arguments(space, "--json", "--junit", space.path("verify.xml"), "--sarif", space.path("verify.sarif")))
        #expect(outcome.status == 1)
        let report = try JSONValue(parsing: Array(outcome.output.utf8))
        #expect(try ReportSchema("verify").faults(of: report) == [])
        let junit = String(decoding: try readAll(space.path("verify.xml")), as: UTF8.self)
        #expect(junit.contains("failures=\"1\"") && junit.contains("name=\"\(module)\">") && junit.contains("<failure type=\"elementsDiffer\""))
        let run = try #require(try JSONValue(parsing: try readAll(space.path("verify.sarif")))["runs"]?.arrayValue?.first)
        let result = try #require(run["results"]?.arrayValue?.first)
        let rules = try #require(run["tool"]?["driver"]?["rules"]?.arrayValue)
        #expect(result["ruleId"] == "elementsDiffer" && rules[result["ruleIndex"]?.integerValue ?? 0]["id"] == "elementsDiffer")
        let lines = try Executable.run(arguments(space, "--github")).output.split(separator: "\n")
        #expect(lines.count == 1 && lines[0].hasPrefix("::error file=") && lines[0].contains("title=oplora%3A elementsDiffer::\(module)"))
        // Reports are not overwritten unasked.
        #expect(try Executable.run(arguments(space, "--junit", space.path("verify.xml"))).status == 73)
        #expect(try Executable.run(arguments(space, "--junit", space.path("verify.xml"), "--force")).status == 1)
    }

    @Test func receiptsAreHeldAgainstTheBytes() throws {
        let space = try Workspace()
        try space.makeMerged()
        let receipt = space.path("merged/oplora-merge.json")
        // A merge without --hash has none to compare.
        let none = try Executable.run(["verify", "--receipt", receipt])
        #expect(none.status == 65 && none.errors.contains("--hash"), "\(none.errors)")
        try space.succeed([
            "merge", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--out", space.path("merged"), "--no-fsync", "--hash",
            "--force",
        ])
        let report = try JSONValue(parsing: Array(try space.succeed(["verify", "--receipt", receipt, "--json"]).output.utf8))
        #expect(try ReportSchema("verify-receipt").faults(of: report) == [] && report["verdict"] == "pass")
        let size = try readAll(space.path("merged/model.safetensors")).count
        #expect(report["bytes"]?.integerValue.map { $0 < size && $0 > size / 2 } == true)
        try spoil(space)
        let wrong = try Executable.run(["verify", "--receipt", receipt, "--merged", space.path("merged")])
        #expect(wrong.status == 1 && wrong.errors.contains("hashDiffers: model.layers.0.self_attn.q_proj.weight"), "\(wrong.errors)")
        #expect(try Executable.run(["verify", "--receipt", receipt, "--base", Repository.tinyLlama]).status == 64)
        #expect(try Executable.run(["verify", "--receipt", space.path("merged/config.json")]).status == 65)
        #expect(try Executable.run(["verify", "--receipt", space.path("nothing.json")]).status == 66)
    }

    @Test func limitsAreKept() throws {
        let space = try Workspace()
        try space.makeMerged()
        let outcome = try Executable.run(arguments(space, "--min-survival", "1"))
        #expect(outcome.status == 1 && outcome.errors.contains("gate") && outcome.errors.contains("--min-survival"))
        #expect(try Executable.run(arguments(space, "--min-survival", "0.01")).status == 0)
        for wrong in [["--min-survival", "1.5"], ["--max-ulp", "-1"], ["--github", "--json"], ["--run", "x"]] {
            #expect(try Executable.run(arguments(space) + wrong).status == 64, "\(wrong)")
        }
        // What a collapse is not judged by is refused, and not passed over.
        let collapse = ["verify", "--run", space.path("run.opck"), "--adapter", space.path("adapter")]
        #expect(try Executable.run(collapse + ["--max-ulp", "0"]).status == 64)
    }
}
