import FileIO
import Foundation
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

/// A folder for one test, with short ways to put into it what the commands take.
final class Workspace {
    let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    func path(_ name: String) -> String { folder.path(name) }

    /// Options of a short run on the small model, without those that `more` gives, or that plain LoRA has not.
    func trainArguments(base: String = Repository.tinyLlama, out: String = "run.opck", _ more: String...) -> [String] {
        trainArguments(base: base, out: out, more)
    }

    func trainArguments(base: String = Repository.tinyLlama, out: String = "run.opck", _ more: [String]) -> [String] {
        let standard = [
            ("--base", base), ("--data", Repository.fixture("texts/adapt-heldout.txt")), ("--out", path(out)), ("--rank", "2"), ("--width", "4"),
            ("--embedding", "8"), ("--batch-size", "2"), ("--seq-len", "16"), ("--steps", "12"), ("--lr", "1e-3"),
        ]
        let others = more + (more.contains("lora") ? ["--width", "--embedding"] : [])
        return ["train"] + standard.filter { !others.contains($0.0) }.flatMap { [$0.0, $0.1] } + more
    }

    /// A run, its adapter and the merged model, as `run.opck`, `adapter` and `merged`.
    func makeMerged() throws {
        try succeed(trainArguments())
        try succeed(["collapse", path("run.opck"), "--out", path("adapter")])
        try succeed(["merge", "--base", Repository.tinyLlama, "--adapter", path("adapter"), "--out", path("merged"), "--no-fsync"])
    }

    @discardableResult
    func succeed(_ arguments: [String], sourceLocation: SourceLocation = #_sourceLocation) throws -> Executable.Outcome {
        let outcome = try Executable.run(arguments)
        try #require(outcome.status == 0, "\(arguments): \(outcome.errors)", sourceLocation: sourceLocation)
        return outcome
    }

    /// A copy of the small model in which single things are different.
    ///
    /// - Parameters:
    ///   - configuration: fields of config.json to replace; `nil` to take one away.
    ///   - weights: changes the list of tensors.
    func makeModel(
        _ name: String = "model", configuration: [String: JSONValue?] = [:], weights: ((inout [TestTensor]) -> Void)? = nil
    ) throws -> String {
        let target = path(name)
        try FileManager.default.copyItem(atPath: Repository.tinyLlama, toPath: target)
        if !configuration.isEmpty {
            let file = FileSystem.join(target, "config.json")
            var fields = try #require(try JSONValue(parsing: try readAll(file)).objectValue)
            for (key, value) in configuration { fields[key] = value }
            try writeText(JSONValue.object(fields).serialized(), file)
        }
        if let weights {
            let file = FileSystem.join(target, "model.safetensors")
            var tensors = try readTensors(file)
            weights(&tensors)
            try writeSafetensors(tensors, to: file)
        }
        return target
    }

    /// Every tensor of a file.
    func readTensors(_ path: String) throws -> [TestTensor] {
        let file = try SafetensorsFile(path: path)
        return file.tensors.values.map { info in
            TestTensor(
                info.name, info.dtype, info.shape, bytes: file.withBytes(of: info) { bytes in unsafe bytes.withUnsafeBytes { unsafe Array($0) } })
        }
    }

    /// Writes a text and returns its path.
    func makeFile(_ name: String, _ text: String) throws -> String {
        try writeText(text, path(name))
        return path(name)
    }

    /// Cuts the end of a file off.
    func truncate(_ path: String, to count: Int) throws {
        let bytes = try readAll(path)
        try Data(bytes.prefix(count)).write(to: URL(fileURLWithPath: path))
    }
}
