import FileIO
import Foundation
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

/// What `verify` and `diff` say of the whole, on one screen.
struct DiagnosisTests {
    private let space: Workspace
    private let base = Repository.tinyLlama
    private let adapter: String

    init() throws {
        space = try Workspace()
        adapter = try PEFTAdapter.write(to: space.path("adapter"))
    }

    private func merge(_ adapters: String..., base: String? = nil, out: String) throws -> String {
        try space.succeed(
            ["merge", "--base", base ?? self.base, "--out", space.path(out), "--no-fsync", "--again"] + adapters.flatMap { ["--adapter", $0] })
        return space.path(out)
    }

    /// The report, after a look at the text: one diagnosis, then at most a screen of lines, none too wide.
    private func verify(_ merged: String, status: Int32, adapter: String? = nil) throws -> JSONValue {
        let json = space.path("verify.json")
        let outcome = try Executable.run(
            "verify", "--base", base, "--adapter", adapter ?? self.adapter, "--merged", merged, "--json", json, "--force")
        let text = outcome.errors + outcome.output
        #expect(outcome.status == status, "\(text)")
        expectOneScreen(text)
        let report = try JSONValue(parsing: try readAll(json))
        #expect(try ReportSchema("verify").faults(of: report) == [])
        return report
    }

    private func expectOneScreen(_ text: String) {
        let lines = text.split(separator: "\n")
        #expect(lines.count <= 22 && lines.allSatisfy { $0.count <= 80 }, "\(text)")
        let steps = text.matches(of: #/([\d,]+) ulp/#).compactMap { Int($0.output.1.replacing(",", with: "")) }
        #expect(steps.allSatisfy { $0 <= 128 }, "\(text)")
    }

    private func remarks(_ report: JSONValue) -> String { report["remarks"]?.arrayValue?.compactMap(\.stringValue).joined(separator: "\n") ?? "" }

    private func rename(_ folder: String, _ change: (String) -> String) throws {
        let file = folder + "/model.safetensors"
        try writeSafetensors(
            try space.readTensors(file).map { TestTensor(change($0.name), $0.dtype, $0.shape, bytes: $0.bytes) }, to: file)
    }

    @Test func whatHappenedToTheWholeIsSaidFirst() throws {
        let other = try PEFTAdapter.write(to: space.path("other"), seed: 2)
        let once = try merge(adapter, out: "once")
        for (merged, diagnosis) in [
            (base, "the model is the base: nothing was merged, 16 of 16 modules"),
            (try merge(other, out: "another"), "another adapter was merged: the weights have changed, and the update of this one is in none of them"),
            (try merge(adapter + ":0.5", out: "half"), "the adapter was merged with 0.5 times its scale throughout, 16 of 16 modules"),
            (try merge(adapter, base: once, out: "twice"), "the adapter was merged twice, 16 of 16 modules"),
            (try merge(adapter + ":-1", out: "minus"), "the adapter was subtracted and not added, 16 of 16 modules"),
        ] {
            let report = try verify(merged, status: 1)
            #expect(report["diagnosis"]?.stringValue?.hasPrefix(diagnosis) == true, "\(report["diagnosis"] ?? .null)")
        }
        #expect(try verify(once, status: 0)["diagnosis"] == "the model is base + adapter")
    }

    @Test func receiptsAreHeldAgainstWhatIsVerified() throws {
        let other = try PEFTAdapter.write(to: space.path("other"), seed: 2)
        #expect(try remarks(verify(merge(adapter, out: "once"), status: 0)) == "")
        let another = try verify(try merge(other, out: "another"), status: 1)
        #expect(remarks(another) == "the merged model's receipt says that other was merged, and it is verified against adapter")
        #expect(try remarks(verify(merge(adapter + ":0.5", out: "half"), status: 1)).contains("adapter:0.5 was merged"))
        // What the base has in it already was not merged here.
        let chained = try merge(adapter, base: try merge(other, out: "first"), out: "second")
        let outcome = try space.succeed(["verify", "--base", space.path("first"), "--adapter", adapter, "--merged", chained, "--json"])
        #expect(try remarks(JSONValue(parsing: Array(outcome.output.utf8))) == "")
    }

    @Test func anotherLayoutIsNoFault() throws {
        let merged = try merge(adapter, out: "merged")
        try rename(merged) { $0.hasPrefix("model.") ? String($0.dropFirst("model.".count)) : $0 }
        let report = try verify(merged, status: 0)
        #expect(remarks(report).contains("38 tensors have other names than in the base"), "\(remarks(report))")
        try rename(merged) { "language_model.model." + $0 }
        #expect(try verify(merged, status: 0)["coverage"]?["missing"] == [])
        // A wrong one is wrong all the same.
        try rename(merged) { $0.replacing("layers.0.self_attn.q_proj", with: "layers.0.self_attn.x_proj") }
        #expect(try verify(merged, status: 1)["faults"]?.arrayValue?.count == 2)
    }

    @Test func whatTransformersRewritesIsNoFault() throws {
        let merged = try merge(adapter, out: "merged")
        let file = merged + "/config.json"
        var fields = try #require(try JSONValue(parsing: try readAll(file)).objectValue)
        fields["rope_theta"] = nil
        fields["rope_parameters"] = ["rope_type": "default", "rope_theta": 10000.0]
        fields["torch_dtype"] = nil
        fields["dtype"] = "bfloat16"
        fields["architectures"] = ["LlamaModel"]
        fields["model_type"] = "llama_text"
        fields["head_dim"] = .null
        try writeText(JSONValue.object(fields).serialized(), file)
        _ = try verify(merged, status: 0)
        #expect(try Executable.run("diff", base, base).status == 0)
        // What is moved is compared where it is.
        fields["rope_parameters"] = ["rope_type": "default", "rope_theta": 500.0]
        try writeText(JSONValue.object(fields).serialized(), file)
        #expect(try verify(merged, status: 1)["faults"]?.arrayValue?.first?["module"] == "rope_theta")
    }

    @Test func differencesComeToOneSentence() throws {
        func diff(_ b: String, _ more: String...) throws -> JSONValue {
            let json = space.path("diff.json")
            let outcome = try Executable.run(["diff", base, b, "--json", json, "--force"] + more)
            #expect(outcome.status == 1)
            expectOneScreen(outcome.errors + outcome.output)
            let report = try JSONValue(parsing: try readAll(json))
            #expect(try ReportSchema("diff").faults(of: report) == [])
            #expect(outcome.output.contains(report["diagnosis"]?.stringValue?.prefix(40) ?? "none"))
            return report
        }
        let merged = try diff(try merge(adapter, out: "merged"))
        #expect(merged["diagnosis"]?.stringValue?.hasPrefix("only this differs: 16 tensors have other values, by ") == true)
        let bare = try space.makeModel("bare")
        try rename(bare) { $0.hasPrefix("model.") ? String($0.dropFirst("model.".count)) : $0 }
        let renamed = try diff(bare)
        #expect(renamed["diagnosis"] == "only this differs: 38 tensors have other names")
        #expect(renamed["added"] == [] && renamed["removed"] == [] && renamed["common"] == 38 && renamed["renamed"]?.arrayValue?.count == 38)
    }
}
