import FileIO
import Foundation
import JSON
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

/// Folders whose weights have no index, or another name than others have, and configurations as Python writes them.
struct FolderWeightsTests {
    /// A folder with one file of another name is what `merge` writes where the base is one file; every command goes on with it.
    @Test func aSingleFileMayHaveAnotherName() throws {
        let space = try Workspace()
        try space.makeMerged()
        try FileManager.default.copyItem(atPath: Repository.tinyLlama + "/model.safetensors", toPath: space.path("ltx.safetensors"))
        let (base, adapter, merged) = (space.path("ltx.safetensors"), space.path("adapter"), space.path("single"))
        try space.succeed(["merge", "--base", base, "--adapter", adapter, "--out", merged, "--no-fsync"])
        #expect(try FileSystem.names(in: merged).contains("ltx.safetensors"))
        try commandsGoOn(space, base: base, merged: merged)
    }

    @Test func shardsNeedNoIndex() throws {
        let space = try Workspace()
        try space.makeMerged()
        for (name, source) in [("base", Repository.tinyLlama), ("sharded", space.path("merged"))] {
            try FileManager.default.copyItem(atPath: source, toPath: space.path(name))
            let tensors = try space.readTensors(space.path(name) + "/model.safetensors")
            try FileSystem.remove(space.path(name) + "/model.safetensors")
            try writeSafetensors(Array(tensors[..<9]), to: space.path(name) + "/model-00001-of-00002.safetensors")
            try writeSafetensors(Array(tensors[9...]), to: space.path(name) + "/model-00002-of-00002.safetensors")
        }
        try commandsGoOn(space, base: space.path("base"), merged: space.path("sharded"))
        // transformers loads shards by their index alone.
        let said = try space.succeed([
            "merge", "--base", space.path("base"), "--adapter", space.path("adapter"), "--out", space.path("indexed"), "--no-fsync",
        ]).output
        #expect(said.contains("model.safetensors.index.json"))
        let index = try JSONValue(parsing: try readAll(space.path("indexed/model.safetensors.index.json")))
        let tensors = try space.readTensors(space.path("merged/model.safetensors"))
        #expect(index["metadata"]?["total_size"]?.integerValue == tensors.reduce(0) { $0 + $1.bytes.count })
        let map = try #require(index["weight_map"]?.objectValue)
        #expect(map.count == tensors.count && Set(map.values.compactMap(\.stringValue)).count == 2)
        #expect(try space.succeed(["check", space.path("indexed")]).output.hasPrefix("\(space.path("indexed")): ok"))
        // It is known again as what merge has written.
        try space.succeed([
            "merge", "--base", space.path("base"), "--adapter", space.path("adapter"), "--out", space.path("indexed"), "--no-fsync", "--force",
        ])
    }

    private func commandsGoOn(_ space: Workspace, base: String, merged: String) throws {
        let adapter = space.path("adapter")
        #expect(try space.succeed(["inspect", merged]).output.contains("38 tensors"))
        #expect(try space.succeed(["check", merged]).output.hasPrefix("\(merged): ok"))
        #expect(try Executable.run("diff", base, merged).status == 1)
        try space.succeed(["diff", merged, space.path("merged/model.safetensors")])
        try space.succeed(["verify", "--base", base, "--adapter", adapter, "--merged", merged])
        try space.succeed(["extract", "--base", base, "--tuned", merged, "--rank", "2", "--out", space.path("extracted")])
        try space.succeed(["unmerge", "--merged", merged, "--adapter", adapter, "--out", space.path("unmerged"), "--no-fsync"])
        try space.succeed(["merge", "--base", merged, "--adapter", adapter, "--out", space.path("again"), "--no-fsync", "--again"])
        try space.succeed(["inspect", space.path("again")])
        try space.succeed(["pack", merged, "--against", base, "--out", space.path("packed.opck")])
    }

    /// An adapter that is the only file of a folder is that adapter.
    @Test func theOnlyFileOfAFolderIsTheAdapter() throws {
        let space = try Workspace()
        try FileSystem.createFolder(space.path("in"))
        try writeSafetensors(
            [
                TestTensor("lora_unet_m_proj.lora_down.weight", .f32, [1, 2], values: [1, 1]),
                TestTensor("lora_unet_m_proj.lora_up.weight", .f32, [2, 1], values: [1, 1]),
            ], to: space.path("in/style.safetensors"))
        let report = try JSONValue(parsing: try space.succeed(["inspect", "--json", space.path("in")]).output)
        #expect(report["kind"] == "adapter" && report["method"] == "LoRA" && report["adapter"]?["modules"]?.arrayValue?.count == 1)
        try space.succeed(["resize", space.path("in"), "--rank", "1", "--layout", "kohya", "--out", space.path("out.safetensors")])
    }

    @Test func configurationsMayHoldNumbersThatAreNotFinite() throws {
        let space = try Workspace()
        try space.makeMerged()
        let model = try space.makeModel()
        let file = model + "/config.json"
        let text = String(decoding: try readAll(file), as: UTF8.self)
        let start = try #require(text.firstIndex(of: "{"))
        try writeText("{\"time_step_limit\": [0.0, Infinity], \"low\": -Infinity, \"none\": NaN," + text[text.index(after: start)...], file)
        let merged = space.path("out")
        // A merge in another type writes the configuration anew.
        try space.succeed(["merge", "--base", model, "--adapter", space.path("adapter"), "--out", merged, "--dtype", "f32", "--no-fsync"])
        let written = String(decoding: try readAll(merged + "/config.json"), as: UTF8.self)
        for word in ["Infinity", "\"low\": -Infinity", "\"none\": NaN", "\"float32\""] { #expect(written.contains(word), "\(written)") }
        #expect(try JSONValue(configuration: Array(written.utf8))["time_step_limit"] == [0.0, .real(.infinity)])
        try space.succeed(["verify", "--base", model, "--adapter", space.path("adapter"), "--merged", merged, "--dtype", "f32"])
        try space.succeed(["diff", model, model])
        #expect(try space.succeed(["inspect", model]).output.contains("llama: 4 layers"))
        // They are numbers, and no sizes.
        let broken = try space.makeModel("broken")
        try writeText(text.replacing("\"rms_norm_eps\": 1e-05", with: "\"rms_norm_eps\": Infinity"), broken + "/config.json")
        let outcome = try Executable.run(space.trainArguments(base: broken, out: "new"))
        #expect(outcome.status == 65 && outcome.errors.contains("rms_norm_eps must be a positive number and is Infinity"), "\(outcome.errors)")
        // A header is no configuration.
        let header = #"{"__metadata__":NaN}"#
        let path = try space.makeFile("nan.safetensors", "\u{14}\0\0\0\0\0\0\0" + header)
        #expect(try Executable.run("check", path).status == 1)
    }
}
