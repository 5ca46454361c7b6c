import Adapters
import FileIO
import JSON
import TestModels
import TestSupport
import Testing
import Training
import Verification

@testable import Commands

/// What to do about errors, in the words of the command line.
struct RemedyTests {
    private static let table = Repository.path("Sources/Commands/Remedy.swift")

    /// The options of each command, with their dashes.
    private static func options() throws -> [String: Set<String>] {
        let root = try JSONValue(parsing: try Executable.run("--experimental-dump-help").output)
        var options: [String: Set<String>] = [:]
        for command in root["command"]?["subcommands"]?.arrayValue ?? [] {
            let names = (command["arguments"]?.arrayValue ?? []).compactMap { $0["preferredName"]?["name"]?.stringValue }
            options[command["commandName"]?.stringValue ?? ""] = Set(names.map { "--" + $0 })
        }
        return options
    }

    /// The program has every option that the table names, but for those of other programs, which stand in commands of theirs.
    @Test func remediesNameOptionsThatThereAre() throws {
        let known = try Self.options().values.reduce(into: Set<String>()) { $0.formUnion($1) }
        let text = String(decoding: try readAll(Self.table), as: UTF8.self).replacing(/`hf [^`]*`/, with: "")
        let named = Set(text.matches(of: /--[a-z][a-z0-9-]*/).map { String($0.output) })
        #expect(named.count > 40 && named.isSubset(of: known), "\(named.subtracting(known))")
    }

    /// Every case of the table is one that a library throws.
    @Test func remediesAreOfErrorsThatThereAre() throws {
        let cases = Set(String(decoding: try readAll(Self.table), as: UTF8.self).matches(of: /case (?:let \w+ as )?\.(\w+)/).map { String($0.1) })
        var left = cases
        func search(_ folder: String) throws {
            for name in try FileSystem.names(in: folder) where name != "Commands" {
                let path = FileSystem.join(folder, name)
                if FileSystem.isFolder(path) {
                    try search(path)
                } else if name.hasSuffix(".swift") {
                    let text = String(decoding: try readAll(path), as: UTF8.self)
                    left = left.filter { !text.contains(".\($0)") }
                }
            }
        }
        try search(Repository.path("Sources"))
        // Its error is that of the command which knows the run.
        #expect(cases.count > 40 && left == ["otherWeights"], "\(left)")
    }

    @Test func settingsAreOptionsOfTrain() throws {
        let known = try #require(try Self.options()["train"])
        #expect(TrainingConfiguration.Setting.allCases.allSatisfy { known.contains($0.option) })
        let error = TrainingError(.invalidOption, setting: .sequenceLength, "must be from 1 to 1000000")
        #expect("\(error)" == "sequenceLength must be from 1 to 1000000" && Remedy.sentence(on: error) == "--seq-len must be from 1 to 1000000")
    }

    @Test(arguments: [
        (FileError.exists(path: "a") as any Error, "a: the output exists already; choose another name or allow replacing it with --force"),
        (FileError.truncated(path: "a", offset: 1, wanted: 2), "\(FileError.truncated(path: "a", offset: 1, wanted: 2))"),
        (
            FileError.missing(path: "no-owner/name"),
            "no-owner/name: there is no such file or folder, and nothing is downloaded; if this is the name of a repository on the Hugging Face Hub, fetch it first with `hf download no-owner/name --local-dir name` and name that folder"
        ),
        (AdapterError(.unsupportedFeature, path: "a", subject: "m", "why"), "a, m: why"),
        (
            AdapterError(.unsupportedFeature, path: "a", "why", cause: .hasUnsettledAlpha(noted: "8")),
            "a: why; say --alpha rank for the scale 1, which ComfyUI and diffusers take, or --alpha 8"
        ),
        (MergeError(.notInReceipt, path: "a", "why", cause: .otherWeight(0.5)), "a: why; name it as a:0.5"),
        (MergeError(.overflow, path: "a", tensor: "t", "why", cause: .tooLargeForType), "a, tensor t: why; choose --dtype f32 or a smaller weight"),
    ])
    func sentences(error: any Error, sentence: String) {
        #expect(Remedy.sentence(on: error) == sentence)
    }

    @Test func clausesOfFaults() {
        let error = MergeError(.unsupportedCombination, path: "a", "why", cause: .needsComponent)
        for (cause, clause) in [
            (Fault.Cause.maxUlp(0), "--max-ulp allows 0"), (.minSurvival(0.5), "--min-survival asks for 0.5"),
            (.minArgmaxAgreement(0.99), "--min-argmax-agreement asks for 0.99"), (.merge(error), "say it with --component"),
        ] {
            #expect(Remedy.clause(for: Fault(.gate, "m", "why", cause: cause)) == clause)
        }
        #expect(Remedy.clause(for: Fault(.gate, "m", "why")) == nil)
    }

    /// What the terminal says of a fault, its reports say, too.
    @Test func reportsSayTheSame() throws {
        let space = try Workspace()
        try space.makeMerged()
        let files = ["junit", "sarif", "html", "json"].map { space.path($0) }
        let outcome = try Executable.run(
            ["verify", "--base", Repository.tinyLlama, "--adapter", space.path("adapter"), "--merged", space.path("merged"), "--min-survival", "1"]
                + ["--junit", files[0], "--sarif", files[1], "--html", files[2], "--json", files[3]])
        #expect(outcome.status == 1 && outcome.errors.contains("--min-survival asks for 1.0"), "\(outcome.errors)")
        for file in files {
            let text = String(decoding: try readAll(file), as: UTF8.self)
            #expect(text.contains("of the update; --min-survival asks for 1.0"), "\(file)")
        }
        for file in files.dropLast() { #expect(String(decoding: try readAll(file), as: UTF8.self).contains(Remedy.advice(on: .gate)), "\(file)") }
    }
}
