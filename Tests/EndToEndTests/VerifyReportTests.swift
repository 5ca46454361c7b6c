import FileIO
import Foundation
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
        let lines = try space.succeed(arguments(space, "--github")).lines.filter { $0.hasPrefix("::") }
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
        let lines = try Executable.run(arguments(space, "--github")).output.split(separator: "\n").filter { $0.hasPrefix("::") }
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

    @Test func thePageStandsAlone() throws {
        let space = try Workspace()
        try space.makeMerged()
        try space.succeed(arguments(space, "--html", space.path("right.html"), "--quiet"))
        let right = String(decoding: try readAll(space.path("right.html")), as: UTF8.self)
        #expect(right.contains("merged: the merge is right") && right.contains("No row of any module is off") && !right.contains("✕"))
        #expect(right.components(separatedBy: "<i title=").count - 1 == 28)
        try spoil(space)
        #expect(try Executable.run(arguments(space, "--html", space.path("right.html"))).status == 73)
        let json = space.path("wrong.json")
        #expect(try Executable.run(arguments(space, "--html", space.path("wrong.html"), "--json", json)).status == 1)
        let wrong = String(decoding: try readAll(space.path("wrong.html")), as: UTF8.self)
        #expect(wrong.contains("the merge is wrong") && wrong.contains("elementsDiffer: a few elements are not the result"))
        #expect(wrong.components(separatedBy: "✕").count - 1 == 2)
        // The row of the changed element is the worst of its module.
        let report = try JSONValue(parsing: try readAll(json))
        #expect(try ReportSchema("verify").faults(of: report) == [])
        let module = report["modules"]?.arrayValue?.first { $0["standing"] == "wrong" }
        #expect(module?["worstRows"]?.arrayValue?.count == 1 && module?["worstRows"]?.arrayValue?.first?["row"] == .integer(0))
    }

    /// JSON goes to a file beside the text, or in the place of the text.
    @Test func theReportGoesWhereItIsAskedFor() throws {
        let space = try Workspace()
        try space.makeMerged()
        let both = try space.succeed(arguments(space, "--json", space.path("verify.json")))
        #expect(both.output.contains("pass: 28 modules") && both.output.contains("model.layers.*.self_attn.q_proj ×4"))
        #expect(try JSONValue(parsing: try readAll(space.path("verify.json")))["verdict"] == "pass")
        #expect(try Executable.run(arguments(space, "--json", space.path("verify.json"))).status == 73)
        let one = try space.succeed(["verify", "--json"] + arguments(space).dropFirst())
        #expect(try JSONValue(parsing: Array(one.output.utf8))["verdict"] == "pass")
        #expect(try Executable.run(arguments(space, "--github", "--json", space.path("github.json"))).status == 0)
    }

    /// A merge in F32 says what base + adapter says; the base alone does not.
    @Test func bothModelsGoOnWithPrompts() throws {
        let space = try Workspace()
        try space.makeMerged()
        try space.succeed([
            "merge", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--out", space.path("wide"), "--dtype", "f32", "--no-fsync",
        ])
        let prompts = try space.makeFile("prompts.txt", "In the beginning\r\n\n  \nand the earth was without form, and void;\n")
        func verify(_ merged: String, _ more: String...) throws -> (outcome: Executable.Outcome, report: JSONValue) {
            let outcome = try Executable.run(
                ["verify", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--merged", merged, "--prompts", prompts, "--json"]
                    + more)
            return (outcome, try JSONValue(parsing: Array(outcome.output.utf8)))
        }
        let wide = try verify(space.path("wide"), "--dtype", "f32", "--min-argmax-agreement", "1")
        #expect(wide.outcome.status == 0, "\(wide.outcome.errors)")
        #expect(try ReportSchema("verify").faults(of: wide.report) == [])
        let figures = try #require(wide.report["prompts"])
        #expect(figures["maxLogitDifference"]?.doubleValue.map { $0 < 1e-4 } == true && figures["argmaxAgreement"]?.doubleValue == 1)
        #expect(figures["prompts"]?.arrayValue?.count == 2)
        let effect = try #require(figures["base"]?["maxLogitDifference"]?.doubleValue)
        let none = try verify(Repository.tinyLlama, "--min-argmax-agreement", "1")
        #expect(none.outcome.status == 1 && none.report["prompts"]?["maxLogitDifference"]?.doubleValue == effect)
        // What does not run is a fault of the merged model, and no end of the report.
        try space.succeed(arguments(space, "--prompts", prompts))
        let file = space.path("merged/model.safetensors")
        try writeSafetensors(try space.readTensors(file).filter { $0.name != "model.norm.weight" }, to: file)
        let broken = try verify(space.path("merged"))
        #expect(broken.outcome.status == 1)
        #expect(broken.report["faults"]?.arrayValue?.compactMap { $0["code"]?.stringValue } == ["missingTensor", "notRunnable"])
    }

    @Test func promptsThatCannotBeRunAreRefused() throws {
        let space = try Workspace()
        try space.makeMerged()
        let long = try space.makeFile("long.txt", String(repeating: "word ", count: 5000))
        for (arguments, status, word) in [
            (arguments(space, "--prompts", space.path("nothing.txt")), 66, "nothing.txt"),
            (arguments(space, "--prompts", try space.makeFile("empty.txt", "\n \n")), 65, "one a line"),
            (arguments(space, "--prompts", long), 65, "shorten"),
            (arguments(space, "--min-argmax-agreement", "0.5"), 64, "--prompts"),
            (
                [
                    "verify", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--merged", space.path("merged/model.safetensors"),
                    "--prompts", long,
                ], 64, "folders"
            ),
            (arguments(space, "--min-argmax-agreement", "2", "--prompts", long), 64, "between 0 and 1"),
            (["verify", "--run", space.path("run.opck"), "--adapter", space.path("adapter"), "--prompts", long], 64, "--merged"),
        ] {
            let outcome = try Executable.run(arguments)
            #expect(Int(outcome.status) == status && outcome.errors.contains(word), "\(arguments): \(outcome.status) \(outcome.errors)")
        }
    }

    /// A merged model of another width runs, and is wrong.
    @Test func modelsOfOtherWidthsAreCompared() throws {
        let space = try Workspace()
        try space.makeMerged()
        let prompts = try space.makeFile("prompts.txt", "In the beginning\n")
        // The first of four heads alone; every dimension of 128 becomes one of 32.
        let narrow = try space.makeModel(
            "narrow", configuration: ["hidden_size": .integer(64)]
        ) { tensors in
            for index in tensors.indices {
                let old = tensors[index].shape
                let new = old.map { $0 == 128 ? 64 : $0 }
                // Queries keep their width, four heads of 32.
                let isQuery = tensors[index].name.hasSuffix("q_proj.weight"), isOutput = tensors[index].name.hasSuffix("o_proj.weight")
                let shape = isQuery ? [128, 64] : isOutput ? [64, 128] : new
                tensors[index].bytes = [UInt8](repeating: 0, count: shape.reduce(2, *))
                tensors[index].shape = shape
            }
        }
        let outcome = try Executable.run(
            arguments(space, "--prompts", prompts, "--json", space.path("v.json")).map { $0 == space.path("merged") ? narrow : $0 })
        #expect(outcome.status == 1, "\(outcome.errors)")
        let report = try JSONValue(parsing: try readAll(space.path("v.json")))
        #expect(report["prompts"] != nil)
        #expect(try ReportSchema("verify").faults(of: report) == [])
    }

    @Test func reportsReplaceNoInputAndNoOtherReport() throws {
        let space = try Workspace()
        try space.makeMerged()
        let prompts = try space.makeFile("prompts.txt", "In the beginning\n")
        #expect(try Executable.run(arguments(space, "--prompts", prompts, "--json", prompts, "--force")).status == 73)
        let collapse = ["verify", "--run", space.path("run.opck"), "--adapter", space.path("adapter"), "--json"]
        #expect(try Executable.run(collapse + [space.path("run.opck"), "--force"]).status == 73)
        #expect(try Executable.run(collapse + [space.path("adapter/adapter_config.json")]).status == 73)
        #expect(try Executable.run(arguments(space, "--junit", space.path("one"), "--html", space.path("one"))).status == 64)
        #expect(try space.succeed(collapse + [space.path("collapse.json")]).output.hasPrefix("pass"))
    }
}
