import FileIO
import Foundation
import JSON
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

/// Names, metadata, fields and arguments from strangers give no orders to whatever shows or reads the output, in any command.
struct HostileTextTests {
    private static let name =
        "m\u{1B}[31mRED\u{1B}]0;title\u{7}\n::error file=x::INJECTED\r\n##vso[task.complete]##[error]x\nsection_start:1:a\r<b>bold</b>\u{202E}\u{200B}\u{2028}\u{85}\"'&](x){0}"

    /// What every line must be free of.
    private func faults(of output: String) -> [String] {
        var faults: [String] = []
        for scalar in output.unicodeScalars where scalar != "\n" {
            let category = scalar.properties.generalCategory
            if [.control, .format, .lineSeparator, .paragraphSeparator].contains(category) || scalar == "\u{FFFD}" {
                faults.append("U+\(String(scalar.value, radix: 16))")
            }
        }
        for line in output.unicodeScalars.split(separator: "\n") {
            let text = String(line.drop(while: \.properties.isWhitespace))
            if ["::", "--- ", "+++ "].contains(where: text.hasPrefix) { faults.append("the command \(text.prefix(40))") }
            for mark in ["##vso[", "##[", "##teamcity[", "section_start:"] where text.contains(mark) { faults.append("the command \(mark)") }
        }
        return faults
    }

    /// A base, a merged model, an adapter, and a file that is not sound; all as hostile as they can be.
    private func makeFiles(_ space: Workspace) throws {
        let weight = [Float](repeating: 0.5, count: 16)
        for (folder, value) in [("base", Float(0.5)), ("merged", 9)] {
            try FileSystem.createFolder(space.path(folder))
            try writeSafetensors(
                [TestTensor(Self.name + ".q_proj.weight", .f32, [4, 4], values: weight.map { $0 * value })],
                to: space.path(folder + "/model.safetensors"), metadata: [Self.name: Self.name])
            let configuration: JSONValue = ["architectures": [.string(Self.name)], "model_type": .string(Self.name)]
            try writeText(configuration.serialized(), space.path(folder + "/config.json"))
        }
        try FileSystem.createFolder(space.path("adapter"))
        try writeSafetensors(
            [
                TestTensor("base_model.model.\(Self.name).q_proj.lora_A.weight", .f32, [2, 4], values: Array(weight[..<8])),
                TestTensor("base_model.model.\(Self.name).q_proj.lora_B.weight", .f32, [4, 2], values: Array(weight[..<8])),
            ], to: space.path("adapter/adapter_model.safetensors"))
        let configuration: JSONValue = [
            "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", .string(Self.name)],
            "base_model_name_or_path": .string(Self.name),
        ]
        try writeText(configuration.serialized(), space.path("adapter/adapter_config.json"))
        let header = JSONValue.object([Self.name: ["dtype": "F32", "shape": [4], "data_offsets": [0, 12]]]).serialized()
        var bytes = (0..<8).map { UInt8(truncatingIfNeeded: header.utf8.count >> (8 * $0)) } + Array(header.utf8)
        bytes += [UInt8](repeating: 0, count: 16)
        try Data(bytes).write(to: URL(fileURLWithPath: space.path("bad.safetensors")))
    }

    private func commands(_ space: Workspace) -> [[String]] {
        let (base, merged, adapter, bad) = (space.path("base"), space.path("merged"), space.path("adapter"), space.path("bad.safetensors"))
        let pair = ["--base", base, "--adapter", adapter]
        let nowhere = space.path(Self.name.replacing("/", with: "-"))
        return [
            ["inspect", base, adapter], ["inspect", "--tensors", "--metadata", base], ["inspect", "--stats", base], ["inspect", bad],
            ["inspect", nowhere], ["inspect", "--filter", "(" + Self.name, base], ["check", base, bad, nowhere],
            ["check", "--mode", "reference", bad],
            ["merge"] + pair + ["--out", space.path("m1")], ["merge"] + pair + ["--dry-run", "--out", space.path("m2")],
            ["merge", "--base", bad, "--adapter", adapter, "--out", space.path("m3")],
            ["merge", "--base", base, "--adapter", base, "--out", nowhere],
            ["merge", "--base", adapter, "--adapter", adapter, "--out", space.path("m4")], ["diff", base, merged], ["diff", base, adapter],
            ["verify"] + pair + ["--merged", merged], ["verify"] + pair + ["--merged", base], ["verify"] + pair + ["--merged", bad],
            ["unmerge", "--merged", merged, "--adapter", adapter, "--out", space.path("u")],
            ["resize", adapter, "--rank", "1", "--out", space.path("r")],
            ["extract", "--base", base, "--tuned", merged, "--rank", "1", "--out", space.path("e")],
            ["combine", "--adapter", adapter, "--adapter", adapter, "--out", space.path("c")], ["lint", adapter],
            ["convert", adapter, "--to", "mlx", "--out", space.path("x")],
            ["convert", adapter, "--to", "gguf", "--base", base, "--out", space.path("y")],
            ["convert", adapter, "--to", Self.name, "--out", space.path("y")], ["convert", adapter, "--to", "peft", Self.name], [Self.name],
            ["merge", "--" + Self.name], ["train", "--base", base, "--data", bad, "--out", space.path("run.opck")],
            ["collapse", bad, "--out", space.path("z")],
            ["logits", "--base", base, "--data", bad, "--out", space.path("l")], ["pack", base, "--out", space.path("base.opck")],
            ["unpack", bad, "--out", space.path("w")], ["unpack", space.path("base.opck"), "--out", space.path("v")],
            ["salvage", bad, "--out", space.path("s")],
            ["tokenize", "--tokenizer", space.path("base/config.json")],
        ]
    }

    @Test func noCommandPrintsOrders() throws {
        let space = try Workspace()
        try makeFiles(space)
        for command in commands(space) {
            let outcome = try Executable.run(command)
            #expect(faults(of: outcome.output) == [], "\(command.prefix(4))")
            #expect(faults(of: outcome.errors) == [], "\(command.prefix(4))")
            #expect(outcome.status >= 0 && outcome.status != 70 && !(outcome.output + outcome.errors).isEmpty, "\(command.prefix(4))")
        }
    }

    @Test func jsonHoldsTheExactNames() throws {
        let space = try Workspace()
        try makeFiles(space)
        let pair = ["--base", space.path("base"), "--adapter", space.path("adapter")]
        for command in [
            ["inspect", "--json", space.path("base")], ["diff", "--json", space.path("base"), space.path("merged")],
            ["verify", "--json"] + pair + ["--merged", space.path("merged")], ["merge", "--json"] + pair + ["--out", space.path("m")],
            ["merge", "--dry-run", "--json"] + pair + ["--out", space.path("n")],
            ["resize", space.path("adapter"), "--rank", "1", "--json", "--out", space.path("r")],
        ] {
            let output = try Executable.run(command).output
            #expect(faults(of: output) == [], "\(command.prefix(2))")
            func strings(_ value: JSONValue) -> [String] {
                (value.stringValue.map { [$0] } ?? []) + (value.arrayValue ?? []).flatMap(strings)
                    + (value.objectValue ?? [:]).flatMap { [$0.key] + strings($0.value) }
            }
            #expect(strings(try JSONValue(parsing: output)).contains { $0.contains(Self.name) }, "\(command.prefix(2)): \(output)")
        }
    }

    /// Only the program's own annotations are commands, and what they say is encoded.
    @Test func annotationsAreOneCommandEach() throws {
        let space = try Workspace()
        try makeFiles(space)
        try FileSystem.rename(space.path("merged"), to: space.path("100%,a:b"))
        let outcome = try Executable.run(
            ["verify", "--github", "--base", space.path("base"), "--adapter", space.path("adapter"), "--merged", space.path("100%,a:b")])
        let commands = outcome.lines.filter { $0.hasPrefix("::") }
        #expect(commands.count == 1 && outcome.status == 1, "\(outcome.output)")
        #expect(commands.first?.hasPrefix("::error file=\(space.path("100%25%2Ca%3Ab")),title=oplora%3A ") == true, "\(outcome.output)")
        #expect(faults(of: outcome.lines.filter { !$0.hasPrefix("::error file=/") }.joined(separator: "\n")) == [])
    }

    @Test func reportsHoldNoMarkup() throws {
        let space = try Workspace()
        try makeFiles(space)
        let files = ["junit", "sarif", "html"].flatMap { ["--\($0)", space.path("verify." + $0)] }
        _ = try Executable.run(
            ["verify", "--quiet", "--base", space.path("base"), "--adapter", space.path("adapter"), "--merged", space.path("merged")] + files)
        func text(_ kind: String) throws -> String { String(decoding: try readAll(space.path("verify." + kind)), as: UTF8.self) }
        for kind in ["junit", "sarif", "html"] {
            let text = try text(kind)
            let hidden = text.unicodeScalars.filter {
                $0 != "\n" && [.control, .format, .lineSeparator, .paragraphSeparator].contains($0.properties.generalCategory)
            }
            #expect(hidden.isEmpty, "\(kind): \(hidden.map { String($0.value, radix: 16) })")
            #expect(kind == "sarif" || !text.contains("<b>bold"), "\(kind)")
        }
        let result = try JSONValue(parsing: try text("sarif"))["runs"]?.arrayValue?.first?["results"]?.arrayValue?.first
        let message = try #require(result?["message"]?["text"]?.stringValue)
        // In a message brackets before a parenthesis are a link, and braces an argument.
        #expect(!message.contains("](") && message.contains("{{0}}"), "\(message)")
        let place = result?["locations"]?.arrayValue?.first?["logicalLocations"]?.arrayValue?.first
        #expect(place?["fullyQualifiedName"]?.stringValue?.hasPrefix(Self.name) == true)
    }
}
