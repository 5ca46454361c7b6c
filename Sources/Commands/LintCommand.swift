internal import Adapters
internal import ArgumentParser
internal import JSON

struct LintCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lint",
        abstract: "Say which serving programs take an adapter as it is.",
        discussion: """
            Example:
              oplora lint adapter --for vllm

            Answers for vLLM, llama.cpp, mlx-lm and diffusers: whether they take the file, and if not, or not rightly, why and what to do. \
            With --for, the exit code is 1 if one of those named does not take it.
            """)

    @Argument(help: ArgumentHelp("The adapter: a PEFT or mlx-lm folder, or a safetensors or GGUF file.", valueName: "adapter"), completion: .file())
    var adapter: String
    @Option(name: .customLong("for"), choice: "A program that must take it", valueName: "program") var programs: [ServingStack] = []
    @OptionGroup var reading: AdapterReadingOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let argument = AdapterArgument(argument: adapter)
        guard argument.weight == 1 else {
            throw UsageError("\(adapter): an adapter to be looked at has no weight", status: .usage)
        }
        let read = try reading.read([argument])[0].adapter
        let verdicts = (programs.isEmpty ? ServingStack.allCases : programs).map { $0.verdict(on: read) }
        if output.json {
            Terminal.json([
                "schema": "oplora.lint/1", "dialect": .string(read.dialect.rawValue),
                "programs": .array(
                    verdicts.map { verdict in
                        [
                            "program": .string(verdict.stack.rawValue), "takes": .bool(verdict.isTaken),
                            "reasons": .array(verdict.reasons.map { .string($0) }),
                            "remedy": verdict.conversion.map { .string(Remedy.command(for: $0)) } ?? .null,
                            "notes": .array(Self.notes(verdict).map { .string($0) }),
                        ]
                    }),
            ])
        } else {
            for verdict in verdicts {
                output.say("\(verdict.stack.rawValue): \(verdict.isTaken ? "yes" : "no")")
                for reason in verdict.reasons { output.say("  \(reason)") }
                if let conversion = verdict.conversion { output.say("  " + Remedy.command(for: conversion)) }
                for note in Self.notes(verdict) { output.say("  \(note)") }
            }
        }
        if !programs.isEmpty, verdicts.contains(where: { !$0.isTaken }) { throw Verdict(status: .checkFailed) }
    }

    private static func notes(_ verdict: ServingStack.Verdict) -> [String] {
        verdict.notes + (verdict.startRank.map { ["start it with --max-lora-rank \($0)"] } ?? [])
    }
}

extension LintCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { [] }
    var adapters: [NamedPath] { [NamedPath("", adapter)] }
}
