internal import Adapters
internal import ArgumentParser
internal import FileIO
internal import JSON
internal import Verification

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Prove that a merged model is base + adapter, or that an adapter is what its hypernetworks give.",
        discussion: """
            Examples:
              oplora verify --base SmolLM2 --adapter adapter --merged merged
              oplora verify --base SmolLM2 --adapter adapter --merged merged --junit verify.xml --max-ulp 0
              oplora verify --run run.opck --adapter adapter
              oplora verify --receipt merged/oplora-merge.json

            Computes every merged weight from the definition, in arithmetic that shares nothing with merge, and accounts for every tensor of \
            base, adapter and merged model. Merges by other programs pass when a known way of merging gives their bits, or when they are off \
            by no more than roundings explain. Exit code 0: all of it holds; 1: it does not, with the reason; 3: an update is smaller than \
            the rounding, so the files cannot tell. --receipt compares hashes alone, for merges made with --hash.
            """)

    @Option(help: ArgumentHelp("Folder or file of the base model.", valueName: "dir")) var base: String?
    @Option(help: ArgumentHelp("An adapter, with a weight if not 1; may be repeated.", valueName: "adapter[:weight]"))
    var adapter: [AdapterArgument] = []
    @Option(help: ArgumentHelp("Folder or file of the merged model.", valueName: "dir")) var merged: String?
    @Option(name: .customLong("run"), help: ArgumentHelp("A training run, to check a collapsed adapter against.", valueName: "run.opck"))
    var runPath: String?
    @Option(help: ArgumentHelp("The receipt of a merge with --hash, to check the merged model's bytes against.", valueName: "file"))
    var receipt: String?
    @Option(help: ArgumentHelp("Element type that the merged weights should have: keep, f32, bf16 or f16.", valueName: "type")) var dtype = "keep"
    @Option(help: ArgumentHelp("Fail if an element is further from the correctly rounded one; 0 asks for the defined merge.", valueName: "steps"))
    var maxUlp: Int?
    @Option(help: ArgumentHelp("Fail if rounding leaves less than this share of an update, 0 to 1.", valueName: "share")) var minSurvival: Double?
    @Option(help: ArgumentHelp("Write the verdict as a JUnit file, one case for each module.", valueName: "file")) var junit: String?
    @Option(help: ArgumentHelp("Write the verdict as a SARIF 2.1.0 file.", valueName: "file")) var sarif: String?
    @Flag(help: "Print the verdict as annotations of GitHub Actions.") var github = false
    @Flag(help: "Replace reports that exist.") var force = false
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard receipt == nil else {
            if base != nil || runPath != nil || !adapter.isEmpty || junit != nil || sarif != nil || github || maxUlp != nil || minSurvival != nil {
                throw ValidationError("--receipt compares hashes; only --merged, --threads, --json and --quiet go with it")
            }
            return
        }
        if adapter.isEmpty { throw ValidationError("--adapter is needed") }
        if runPath != nil {
            if base != nil || merged != nil { throw ValidationError("--run checks a collapse; --base and --merged do not go with it") }
            if adapter.count != 1 { throw ValidationError("--run checks one adapter") }
            if junit != nil || sarif != nil || github || maxUlp != nil || minSurvival != nil {
                throw ValidationError("--junit, --sarif, --github, --max-ulp and --min-survival go with --merged")
            }
        } else if base == nil || merged == nil {
            throw ValidationError("--base and --merged are needed, or --run")
        }
        if github, output.json { throw ValidationError("--github and --json both are standard output; ask for one of them") }
        if let maxUlp, maxUlp < 0 { throw ValidationError("--max-ulp is a number of steps, 0 or more") }
        if let minSurvival, !(0...1).contains(minSurvival) { throw ValidationError("--min-survival is a share between 0 and 1") }
        _ = try elementType(dtype, allowingKeep: true)
    }

    func run() throws {
        if let receipt {
            return try reportReceipt(
                try ReceiptVerifier.verify(
                    receipt: receipt, merged: merged, threads: threads.count, isCancelled: { Interruption.isRequested }))
        }
        if let runPath {
            return try report(try CollapsedRun(path: runPath).verify(adapter: try adapter[0].read().adapter), output: output)
        }
        guard let base, let merged else { return }
        // What cannot be written is said before the work is done.
        for path in [junit, sarif].compactMap({ $0 }) {
            try refuseUnwritableFile(path, replacing: force, inputs: [base, merged] + adapter.map(\.path))
        }
        let verdict = try MergeVerifier.verify(
            base: base, adapters: try adapter.map { try $0.read() }, merged: merged,
            options: MergeVerifier.Options(
                threads: threads.count, dtype: try elementType(dtype, allowingKeep: true),
                gates: MergeVerifier.Gates(maxUlp: maxUlp, minSurvival: minSurvival), isCancelled: { Interruption.isRequested }))
        if let junit { try writeReport(verdict.junit(merged: merged), to: junit, replacing: force) }
        if let sarif {
            try writeReport(verdict.sarif(merged: merged, version: Program.version).serialized() + "\n", to: sarif, replacing: force)
        }
        if github {
            for line in verdict.githubAnnotations(merged: merged) { Terminal.line(line) }
        } else if output.json {
            Terminal.line(verdict.json.serialized())
        } else {
            printFaults(verdict.faults, output: output)
            for doubt in verdict.doubts { Terminal.error("undecided: \(doubt.module): \(doubt.message)") }
            if verdict.outcome != .fail { output.say(verdict.summary) }
        }
        switch verdict.outcome {
        case .pass: return
        case .inconclusive: throw Verdict(status: .undecided)
        case .fail: throw Verdict(status: .checkFailed)
        }
    }
}

extension VerifyCommand {
    private func reportReceipt(_ verdict: ReceiptVerifier.Verdict) throws {
        if output.json {
            Terminal.line(verdict.json.serialized())
        } else {
            printFaults(verdict.faults, output: output)
            if verdict.passes { output.say("pass: \(verdict.tensorCount) tensors have the hashes of the receipt") }
        }
        if !verdict.passes { throw Verdict(status: .checkFailed) }
    }
}

/// Prints what the verification of a collapse found.
///
/// - Parameter quietJSON: print nothing where JSON was asked for, because another report has been printed.
/// - Throws: `Verdict` when it does not hold.
func report(_ verdict: CollapseVerdict, output: OutputOptions, quietJSON: Bool = false) throws {
    if output.json, !quietJSON {
        Terminal.line(
            ([
                "schema": "oplora.verify/1", "verdict": .string(verdict.passes ? "pass" : "fail"), "faults": .array(verdict.faults.map(\.json)),
                "modules": .array(
                    verdict.modules.map {
                        ["module": .string($0.path.text), "worstDifference": .real($0.worstDifference), "shareOfBound": .real($0.worstShareOfBound)]
                    }
                ),
            ] as JSONValue).serialized())
    } else {
        printFaults(verdict.faults, output: output)
        if verdict.passes {
            let worst = verdict.modules.map(\.worstShareOfBound).max() ?? 0
            output.say(
                "pass: \(verdict.modules.count) modules are what their hypernetworks give, at most \(Format.fixed(worst * 100, 1))% of the rounding bound off"
            )
        }
    }
    if !verdict.passes { throw Verdict(status: .checkFailed) }
}

private func printFaults(_ faults: [Fault], output: OutputOptions) {
    guard !output.json else { return }
    for fault in faults {
        Terminal.error("fail: \(fault.code.rawValue): \(fault.module.isEmpty ? "" : fault.module + ": ")\(fault.message)")
    }
}
