import ArgumentParser
import FileIO
import Foundation
import JSON
import TestModels
import TestSupport
import Testing

@testable import Commands

/// What is said of arguments, and in which order: usage, inputs, output.
struct UsageTests {
    // MARK: Options

    /// Every option of every command, its last letter doubled, beside nothing that the command needs.
    @Test func mistypedOptionsAreNamed() throws {
        let root = try JSONValue(parsing: try Executable.run("--experimental-dump-help").output)
        let commands = try #require(root["command"]?["subcommands"]?.arrayValue)
        var count = 0
        for command in commands {
            let name = try #require(command["commandName"]?.stringValue)
            guard name != "help" else { continue }
            for argument in command["arguments"]?.arrayValue ?? [] {
                guard argument["kind"] != "positional", let option = argument["preferredName"]?["name"]?.stringValue else { continue }
                let typed = "--" + option + option.suffix(1)
                let message = Arguments([name, typed, "value"]).unknownOption() ?? ""
                #expect(message.contains("\(name) has no option '\(typed)'. Did you mean '--\(option)'?"), "\(message)")
                #expect(message.contains("Usage: oplora \(name) "), "\(message)")
                count += 1
            }
            let outcome = try Executable.run(name, "--frobnicated")
            #expect(outcome.status == 64 && outcome.errors.contains("\(name) has no option '--frobnicated'"), "\(outcome.errors)")
        }
        #expect(commands.count > 18 && count > 150)
    }

    @Test(arguments: [
        (["merge", "--base", "b", "--adaptor", "a", "--out", "o"], "merge has no option '--adaptor'. Did you mean '--adapter'?"),
        (["merge", "--base=b", "--adaptor=a", "--out=o"], "merge has no option '--adaptor'. Did you mean '--adapter'?"),
        (["convert", "a", "--too", "peft", "--out", "o"], "convert has no option '--too'. Did you mean '--to'?"),
        (["merge", "--base", "b", "--adapter", "a", "--output", "o"], "merge has no option '--output'. Did you mean '--out'?"),
        (["merge", "-out", "o"], "merge has no option '-out'. Did you mean '--out'?"),
        (["verify", "--jsno"], "verify has no option '--jsno'. Did you mean '--json'?"),
        (["lint", "a", "--frobnicate"], "lint has no option '--frobnicate'\n"),
        (["merge", "--base", "b", "--base=c", "--adapter", "a", "--out", "o"], "--base is given twice, and merge takes one"),
        (["resize", "a", "--rank", "1", "--out", "o", "--rank", "2"], "--rank is given twice"),
        (["train", "--base", "b", "--data", "d", "--out", "o", "--method", "lora", "--width", "8"], "--width is of the hypernetworks"),
        (["help", "mrege"], "Did you mean 'merge'?"),
        (["verify"], "oplora verify --run"), (["verify"], "oplora verify --receipt"), (["verify"], "--merged"),
    ])
    func optionsThatThereAreNot(arguments: [String], words: String) throws {
        let outcome = try Executable.run(arguments)
        #expect(outcome.status == 64 && outcome.output.isEmpty && outcome.errors.contains(words), "\(outcome.errors)")
    }

    /// What follows `--` is no option.
    @Test func namesThatBeginWithADashFollowTwo() throws {
        let outcome = try Executable.run("inspect", "--", "--adaptor")
        #expect(outcome.status == 66 && outcome.errors.contains("--adaptor"), "\(outcome.errors)")
    }

    /// Help is read in terminals of 80 columns, and its examples are copied from there.
    @Test func helpIsAsWideAsATerminal() throws {
        let root = try JSONValue(parsing: try Executable.run("--experimental-dump-help").output)
        for command in root["command"]?["subcommands"]?.arrayValue ?? [] {
            guard let name = command["commandName"]?.stringValue, name != "help" else { continue }
            let help = try Executable.run(name, "--help").output
            let lines = help.split(separator: "\n", omittingEmptySubsequences: false)
            for line in lines { #expect(line.count <= 80, "\(name): \(line)") }
            let start = try #require(lines.firstIndex { $0.hasPrefix("Example") }, "\(name)")
            let examples = lines[(start + 1)...].prefix { !$0.isEmpty }
            #expect(!examples.isEmpty && examples.allSatisfy { $0.hasPrefix("  ") && $0.contains("oplora \(name) ") }, "\(name): \(examples)")
            let usage = lines.drop { !$0.hasPrefix("USAGE: ") }.prefix { !$0.isEmpty }.joined(separator: " ")
            #expect(usage.contains("oplora \(name) "), "\(usage)")
        }
        let merge = try Executable.run("merge", "--help").output
        for word in ["PEFT", "kohya", "mlx-lm", "GGUF", ".opck", "negative"] { #expect(merge.contains(word)) }
    }

    // MARK: Numbers

    private static let train = ["train", "--base", "b", "--data", "d", "--out", "o"]
    private static let merge = ["merge", "--base", "b", "--adapter", "a", "--out", "o"]
    private static let verify = ["verify", "--base", "b", "--adapter", "a", "--merged", "m"]

    /// Numbers that are out of range, each with the values that are tried.
    private static let ranges: [(command: [String], option: String, values: [String])] =
        ["rank", "width", "embedding", "steps", "batch-size", "seq-len", "grad-accumulation"].map { (train, $0, ["0", "-1"]) }
        + ["alpha", "z-std", "lr", "epochs", "epsilon"].map { (train, $0, ["0", "-1", "-0.5", "nan", "inf", "-inf"]) }
        + ["w1-gain", "w2-gain", "hidden-bias", "warmup-ratio", "beta1", "beta2", "weight-decay", "max-grad-norm", "dropout"]
        .map { (train, $0, ["-1", "nan", "inf", "-inf"]) }
        + ["seed", "eval-every", "save-every"].map { (train, $0, ["-1"]) }
        + [
            (merge, "min-survival", ["2", "-1", "nan", "inf"]), (merge, "threads", ["0", "-1", "4096"]), (merge, "alpha", ["nan", "inf"]),
            (verify, "min-survival", ["2", "-0.1", "nan"]), (verify, "min-argmax-agreement", ["2", "-0.1", "nan"]), (verify, "max-ulp", ["-1"]),
            (["diff", "a", "b"], "rtol", ["-1", "nan", "inf"]), (["diff", "a", "b"], "atol", ["-1e-3", "nan", "inf"]),
            (["resize", "a", "--out", "o"], "rank", ["0", "-3"]), (["extract", "--base", "b", "--tuned", "t", "--out", "o"], "rank", ["0"]),
            (["resize", "a", "--out", "o"], "energy", ["0", "-0.5", "1.5", "nan"]), (["collapse", "a", "--out", "o"], "alpha", ["nan", "-inf"]),
            (["logits", "--base", "b", "--data", "d", "--out", "o"], "seq-len", ["0", "-1"]),
        ]

    @Test func numbersOutOfRangeAreNamed() throws {
        for (command, option, values) in Self.ranges {
            for value in values {
                let error = #expect(throws: (any Error).self, "--\(option) \(value)") {
                    try RootCommand.parseAsRoot(Arguments(command + ["--\(option)", value]).words)
                }
                guard let error else { continue }
                let line = RootCommand.message(for: error).split(separator: "\n").first ?? ""
                #expect(RootCommand.exitCode(for: error).rawValue == 64, "--\(option) \(value): \(line)")
                #expect(line.contains("--\(option)") && (line.contains("must be") || line.contains(" is a ")), "--\(option) \(value): \(line)")
            }
        }
        for weight in ["nan", "inf", "1e400"] {
            let outcome = try Executable.run("merge", "--base", "b", "--adapter", "a:\(weight)", "--out", "o")
            #expect(outcome.status == 64 && outcome.errors.contains("a: the weight of an adapter is a finite number"), "\(outcome.errors)")
        }
    }

    @Test func negativeNumbersAreTakenWhereTheyMeanSomething() throws {
        let space = try Workspace()
        try space.makeMerged()
        let merge = ["merge", "--base", Repository.tinyLlama, "--adapter", space.path("adapter") + ":-0.5", "--no-fsync", "--out"]
        try space.succeed(merge + [space.path("without")])
        let other = try Executable.run(merge + [space.path("other"), "--alpha", "-8"])
        // It is read as a number, and the adapter has one of its own.
        #expect(other.status == 65 && other.errors.contains("and -8 is asked for; leave --alpha out"), "\(other.errors)")
        let strict = try Executable.run(merge + [space.path("other"), "--min-survival", "1"])
        #expect(
            strict.status == 1 && strict.errors.firstMatch(of: /leaves \d+(\.\d{1,2})?% of the update, less than the 100% that/) != nil,
            "\(strict.errors)")
    }

    @Test func blanksBetweenTargetsDoNotMatter() throws {
        let space = try Workspace()
        try space.succeed(space.trainArguments(out: "a", "--targets", "q_proj,v_proj"))
        try space.succeed(space.trainArguments(out: "b", "--targets", " q_proj , v_proj"))
        #expect(try readAll(space.path("a")) == readAll(space.path("b")))
    }

    // MARK: Receipts

    /// What is said of a model that was merged before: its receipt is kept, as the history of the new one, and what was taken out is not in it.
    @Test func receiptsAreKeptAsAHistory() throws {
        let space = try Workspace()
        try space.makeMerged()
        let adapter = space.path("adapter")
        let twice = try space.succeed([
            "merge", "--base", space.path("merged"), "--adapter", adapter + ":0.5", "--again", "--out", space.path("twice"), "--no-fsync",
        ])
        #expect(!twice.output.contains("left out"), "\(twice.output)")
        #expect(try JSONValue(parsing: readAll(space.path("twice/oplora-merge.json")))["history"]?.arrayValue?.count == 1)
        try space.succeed(["unmerge", "--merged", space.path("twice"), "--adapter", adapter + ":0.5", "--out", space.path("once"), "--no-fsync"])
        let output = try space.succeed(["inspect", space.path("once")]).output
        #expect(output.contains("an unmerge, as its oplora-merge.json says: 0.5000 × adapter (peft) taken out of twice"), "\(output)")
        #expect(!output.contains("-0.5"), "\(output)")
    }

    // MARK: Order

    /// A command that writes, whose last argument is the output.
    private struct Writing {
        let arguments: [String]
        /// Places of arguments that are inputs.
        let inputs: [Int]
        /// An option with a value that it cannot have.
        let wrong: [String]

        init(_ arguments: [String], inputs: [Int], wrong: [String] = []) {
            (self.arguments, self.inputs, self.wrong) = (arguments, inputs, wrong)
        }
    }

    /// What is wrong is said in one order, whatever else is wrong, too.
    @Test func usageThenInputsThenOutput() throws {
        let space = try Workspace()
        try space.makeMerged()
        try space.succeed(["pack", space.path("merged"), "--out", space.path("merged.opck")])
        let (base, run, adapter, merged, pack) = (
            Repository.tinyLlama, space.path("run.opck"), space.path("adapter"), space.path("merged"), space.path("merged.opck")
        )
        let (text, page) = (Repository.fixture("texts/adapt-heldout.txt"), try space.makeFile("page.safetensors", "<!DOCTYPE html><html></html>"))
        let (out, new) = (try space.makeFile("there", "mine"), space.path("new"))
        let commands = [
            Writing(["train", "--base", base, "--data", text, "--out"], inputs: [2, 4], wrong: ["--rank", "0"]),
            Writing(["train", "--base", base, "--data", text, "--resume", run, "--out"], inputs: [2, 4, 6], wrong: ["--save-every", "-1"]),
            Writing(["train", "--base", base, "--data", text, "--targets", "q_pro", "--out"], inputs: [2], wrong: ["--steps", "0"]),
            Writing(["collapse", run, "--out"], inputs: [1], wrong: ["--dtype", "f8"]),
            Writing(["merge", "--base", base, "--adapter", adapter, "--out"], inputs: [2, 4], wrong: ["--component", "unett"]),
            Writing(["merge", "--base", base, "--adapter", run, "--out"], inputs: [2, 4], wrong: ["--min-survival", "2"]),
            Writing(["unmerge", "--merged", merged, "--adapter", adapter, "--out"], inputs: [2, 4], wrong: ["--threads", "0"]),
            Writing(["convert", adapter, "--to", "kohya", "--base", base, "--out"], inputs: [1, 5], wrong: ["--component", "x"]),
            Writing(["extract", "--base", base, "--tuned", merged, "--rank", "1", "--out"], inputs: [2, 4], wrong: ["--energy", "2"]),
            Writing(["resize", adapter, "--rank", "1", "--base", base, "--out"], inputs: [1, 5], wrong: ["--energy", "2"]),
            Writing(["combine", "--adapter", adapter, "--adapter", run, "--out"], inputs: [2, 4], wrong: ["--rank", "2"]),
            Writing(["pack", merged, "--against", base, "--out"], inputs: [1, 3], wrong: ["--threads", "0"]),
            Writing(["unpack", pack, "--out"], inputs: [1], wrong: ["--threads", "0"]),
            Writing(["salvage", pack, "--out"], inputs: [1], wrong: ["--frobnicate"]),
            Writing(["logits", "--base", base, "--adapter", adapter, "--data", text, "--out"], inputs: [2, 4, 6], wrong: ["--seq-len", "0"]),
            Writing(["inspect", base, "--html"], inputs: [1], wrong: ["--filter", "("]),
            Writing(["diff", base, base, "--json"], inputs: [1, 2], wrong: ["--rtol", "-1"]),
            Writing(["verify", "--base", base, "--adapter", adapter, "--merged", merged, "--html"], inputs: [2, 4, 6], wrong: ["--max-ulp", "-1"]),
            Writing(["verify", "--base", base, "--adapter", adapter, "--merged", merged, "--json"], inputs: [2, 4, 6], wrong: ["--max-ulp", "-1"]),
            Writing(["verify", "--run", run, "--adapter", adapter, "--json"], inputs: [2, 4], wrong: ["--threads", "0"]),
        ]
        for command in commands {
            func status(_ arguments: [String], _ what: String, _ expected: Int32) throws {
                let outcome = try Executable.run(arguments)
                #expect(outcome.status == expected, "\(command.arguments) with \(what): \(outcome.status) \(outcome.errors)")
            }
            /// An input's fault is the same whether or not the output exists, and before there is any work.
            func fault(_ arguments: [String], _ what: String, _ expected: Int32) throws {
                let outcomes = try [out, new].map { try Executable.run(arguments + [$0]) }
                #expect(
                    outcomes.allSatisfy { $0.status == expected } && outcomes[0].errors == outcomes[1].errors,
                    "\(command.arguments) with \(what): \(outcomes.map(\.status)) \(outcomes.map(\.errors))")
                #expect(!FileSystem.exists(new), "\(command.arguments) with \(what)")
            }
            let isMistaken = command.arguments.contains("q_pro")
            try status(command.arguments + [out], "an output that exists", isMistaken ? 64 : 73)
            for place in command.inputs {
                var missing = command.arguments
                missing[place] = space.path("nothing")
                try fault(missing, "a missing \(command.arguments[place])", 66)
                try status(missing + [out] + command.wrong, "wrong usage and a missing \(command.arguments[place])", 64)
                // Text is data as it stands, and anything can be packed; a damaged file is what salvage is for.
                guard command.arguments[place] != text, command.arguments[0] != "salvage", command.arguments[0] != "pack" || place != 1 else {
                    continue
                }
                missing[place] = page
                try fault(missing, "a page in the place of \(command.arguments[place])", 65)
            }
        }
        #expect(try readAll(out) == Array("mine".utf8))
        // Two that were given in each other's place.
        let swapped = try Executable.run("merge", "--base", adapter, "--adapter", base, "--out", out)
        #expect(swapped.status == 65 && swapped.errors.contains("is an adapter, not a model"), "\(swapped.status) \(swapped.errors)")
    }
}
