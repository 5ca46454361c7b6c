import FileIO
import Foundation
import JSON
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

/// What differs between two files or folders of any kind.
struct DiffTests {
    private func diff(_ arguments: String...) throws -> (status: Int32, report: JSONValue) {
        let outcome = try Executable.run(["diff"] + arguments + ["--json"])
        let report = try JSONValue(parsing: Array(outcome.output.utf8))
        #expect(try ReportSchema("diff").faults(of: report) == [])
        return (outcome.status, report)
    }

    @Test func whatIsTheSameIsTheSame() throws {
        let space = try Workspace()
        let copy = try space.makeModel("copy")
        let found = try diff(Repository.tinyLlama, copy)
        #expect(found.status == 0 && found.report["same"] == true && found.report["changed"]?.arrayValue?.isEmpty == true)
        #expect(try Executable.run(["diff", Repository.tinyLlama, copy]).output == "same: 38 tensors\n")
        // A checkpoint of a model holds what the model holds, also as differences to another.
        try space.succeed(["pack", copy, "--out", space.path("copy.opck")])
        #expect(try diff(Repository.tinyLlama, space.path("copy.opck")).status == 0)
        try space.succeed(["pack", copy, "--against", Repository.tinyLlama, "--out", space.path("small.opck")])
        #expect(try Executable.run(["diff", copy, space.path("small.opck")]).status == 64)
        #expect(try diff(copy, space.path("small.opck"), "--against", Repository.tinyLlama).status == 0)
    }

    @Test func everyKindOfDifferenceIsNamed() throws {
        let space = try Workspace()
        let norm = "model.norm.weight"
        let other = try space.makeModel("other", configuration: ["rope_theta": .real(5000)]) { tensors in
            let index = tensors.firstIndex { $0.name == norm }!
            tensors[index].bytes[1] ^= 0x80
            let up = tensors.firstIndex { $0.name == "model.layers.1.mlp.up_proj.weight" }!
            tensors[up].shape.reverse()
            let down = tensors.firstIndex { $0.name == "model.layers.1.mlp.down_proj.weight" }!
            tensors[down] = TestTensor(
                tensors[down].name, .f32, tensors[down].shape,
                bytes: stride(from: 0, to: tensors[down].bytes.count, by: 2).flatMap { [0, 0] + tensors[down].bytes[$0..<$0 + 2] })
            let gate = tensors.firstIndex { $0.name == "model.layers.1.mlp.gate_proj.weight" }!
            tensors[gate].name = "model.layers.1.mlp.gate.weight"
        }
        let (status, report) = try diff(Repository.tinyLlama, other)
        #expect(status == 1 && report["same"] == false)
        func names(_ key: String) -> [String] { report[key]?.arrayValue?.compactMap { $0["name"]?.stringValue } ?? [] }
        #expect(names("added") == ["model.layers.1.mlp.gate.weight"] && names("removed") == ["model.layers.1.mlp.gate_proj.weight"])
        #expect(Set(names("changed")) == [norm, "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"])
        let changed = Dictionary(uniqueKeysWithValues: (report["changed"]?.arrayValue ?? []).map { ($0["name"]?.stringValue ?? "", $0) })
        let sign = try #require(changed[norm])
        #expect(sign["differing"] == .integer(1) && sign["first"] == .integer(0) && sign["retyped"] == false && sign["values"] == "elements")
        let down = try #require(changed["model.layers.1.mlp.down_proj.weight"])
        #expect(down["retyped"] == true && down["values"] == "same" && down["dtypes"] == ["BF16", "F32"])
        #expect(changed["model.layers.1.mlp.up_proj.weight"]?["reshaped"] == true)
        #expect(report["settings"]?.arrayValue?.first?["subject"] == "rope_theta")
        let text = try Executable.run(["diff", Repository.tinyLlama, other])
        #expect(text.status == 1 && text.output.contains("removed  model.layers.1.mlp.gate_proj.weight") && text.output.hasSuffix("in both\n"))
    }

    @Test func tolerancesForgive() throws {
        let space = try Workspace()
        try space.makeMerged()
        try space.succeed([
            "merge", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--out", space.path("wide"), "--dtype", "f32", "--no-fsync",
        ])
        #expect(try diff(Repository.tinyLlama, space.path("merged")).status == 1)
        #expect(try diff(Repository.tinyLlama, space.path("merged"), "--atol", "10").status == 0)
        #expect(try diff(space.path("merged"), space.path("wide"), "--rtol", "0.004").status == 1)
        #expect(try diff(space.path("merged"), space.path("wide"), "--rtol", "0.004", "--ignore-dtype").status == 0)
        #expect(try diff(space.path("merged"), space.path("wide"), "--rtol", "0.0001", "--ignore-dtype").status == 1)
    }

    /// The authors' file of a diffusion model and diffusers' are the same numbers in other tensors.
    @Test func layoutsOfOneModelAreCompared() throws {
        let space = try Workspace()
        let numbers = (0..<48).map { Float($0) }
        let out = TestTensor("layers.0.attention.out.weight", .f32, [4, 4], values: Array(numbers[..<16]))
        func split(_ numbers: [Float]) -> [TestTensor] {
            ["q", "k", "v"].enumerated().map { number, name in
                TestTensor("layers.0.attention.to_\(name).weight", .f32, [4, 4], values: Array(numbers[16 * number..<16 * number + 16]))
            } + [TestTensor("layers.0.attention.to_out.0.weight", .f32, [4, 4], values: Array(numbers[..<16]))]
        }
        try writeSafetensors(
            [TestTensor("layers.0.attention.qkv.weight", .f32, [12, 4], values: numbers), out], to: space.path("authors.safetensors"))
        try writeSafetensors(split(numbers), to: space.path("diffusers.safetensors"))
        for pair in [["authors", "diffusers"], ["diffusers", "authors"]] {
            let text = try Executable.run(["diff"] + pair.map { space.path($0 + ".safetensors") })
            #expect(text.status == 1)
            let count = pair[0] == "authors" ? 2 : 4
            #expect(text.output.hasPrefix("only names or layout differ: the same \(count) weights, 1 projection fused\n"), "\(text.output)")
        }
        var wrong = numbers
        wrong[20] += 1
        try writeSafetensors(split(wrong), to: space.path("wrong.safetensors"))
        let other = try diff(space.path("authors.safetensors"), space.path("wrong.safetensors"))
        #expect(other.report["changed"]?.arrayValue?.count == 1)
        #expect(other.report["changed"]?.arrayValue?.first?["name"] == "layers.0.attention.qkv.weight, rows 4 to 7")
        #expect(other.report["added"]?.arrayValue?.isEmpty == true && other.report["joined"]?.arrayValue?.count == 3)
    }

    @Test func adaptersAreComparedByTheirUpdates() throws {
        let space = try Workspace()
        try space.makeMerged()
        let (adapter, mlx) = (space.path("adapter"), space.path("mlx"))
        try space.succeed(["convert", adapter, "--to", "mlx", "--out", mlx])
        let other = try diff(adapter, mlx)
        #expect(other.status == 0 && other.report["compared"] == "updates" && other.report["common"] == .integer(28))
        // The scale is not in the tensors, and changes what they mean.
        try space.succeed(["convert", adapter, "--to", "peft", "--out", space.path("doubled")])
        let file = space.path("doubled/adapter_config.json")
        var fields = try #require(try JSONValue(parsing: try readAll(file)).objectValue)
        fields["lora_alpha"] = .real(2 * (fields["lora_alpha"]?.doubleValue ?? 0))
        try writeText(JSONValue.object(fields).serialized(), file)
        let doubled = try diff(adapter, space.path("doubled"))
        #expect(doubled.status == 1 && doubled.report["settings"]?.arrayValue?.count == 28)
        let updates = try diff(adapter, space.path("doubled"), "--updates")
        #expect(updates.report["changed"]?.arrayValue?.allSatisfy { abs(($0["relative"]?.doubleValue ?? 0) - 1) < 1e-9 } == true)
    }

    /// A run is compared as the adapter that comes from it, and an adapter with nothing that is none.
    @Test func aRunIsComparedAsItsAdapter() throws {
        let space = try Workspace()
        try space.makeMerged()
        let (adapter, run) = (space.path("adapter"), space.path("run.opck"))
        let same = try diff(adapter, run)
        #expect(same.status == 0 && same.report["compared"] == "updates" && same.report["common"] == .integer(28))
        #expect(try diff(run, run, "--updates").status == 0 && diff(run, run).report["compared"] == "tensors")
        let other = try PEFTAdapter.write(to: space.path("other"))
        #expect(try diff(run, other).report["compared"] == "updates")
        for (a, b, words) in [
            (Repository.tinyLlama, adapter, "\(adapter) is an adapter and \(Repository.tinyLlama) is none"),
            (run, Repository.tinyLlama, "\(run) is a training run and \(Repository.tinyLlama) is none"),
        ] {
            let outcome = try Executable.run("diff", a, b)
            #expect(outcome.status == 64 && outcome.errors.contains(words) && outcome.output.isEmpty, "\(outcome.errors)")
        }
    }

    /// What says what tensors mean is compared, and missing on one side it is a difference.
    @Test func configurationsCount() throws {
        let space = try Workspace()
        try space.makeMerged()
        let bare = try space.makeModel("bare")
        try FileSystem.remove(bare + "/config.json")
        #expect(try diff(Repository.tinyLlama, bare).report["settings"]?.arrayValue?.first?["subject"] == "config.json")
        let broken = try space.makeModel("broken")
        try writeText("{", broken + "/config.json")
        #expect(try Executable.run(["diff", Repository.tinyLlama, broken]).status == 65)
        try space.succeed(["convert", space.path("adapter"), "--to", "peft", "--out", space.path("other")])
        try writeText("{", space.path("other/adapter_config.json"))
        #expect(try Executable.run(["diff", space.path("adapter"), space.path("other")]).status == 65)
        // A is the first, wherever --json stands.
        let outcome = try Executable.run(["diff", Repository.tinyLlama, "--json", bare])
        #expect(try JSONValue(parsing: Array(outcome.output.utf8))["a"] == .string(Repository.tinyLlama))
    }

    @Test func argumentsAreChecked() throws {
        let space = try Workspace()
        let base = Repository.tinyLlama
        for (arguments, status) in [
            ([base], 64), ([base, base, base], 64), ([base, base, "--rtol", "-1"], 64), ([base, base, "--updates"], 64),
            ([base, space.path("nothing")], 66), ([base, base + "/config.json"], 65),
        ] {
            #expect(try Int(Executable.run(["diff"] + arguments).status) == status, "\(arguments)")
        }
        // --json takes no path that is needed as one of the two.
        #expect(try Executable.run(["diff", "--json", base, base]).output.hasPrefix("{\"schema\":\"oplora.diff/1\""))
        let file = space.path("diff.json")
        #expect(try Executable.run(["diff", base, base, "--json", file]).output == "same: 38 tensors\n")
        #expect(try JSONValue(parsing: try readAll(file))["same"] == true)
        #expect(try Executable.run(["diff", base, base, "--json", file]).status == 73)
    }
}
