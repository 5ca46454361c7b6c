internal import Adapters
internal import ArgumentParser
internal import Execution
internal import FileIO
internal import HTML
internal import JSON
internal import Kernels
internal import Verification

struct VerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Prove that a merged model is base + adapter, or that an adapter is what its run gives.",
        usage: """
            oplora verify --base <dir> --adapter <adapter> ... --merged <dir>
            oplora verify --run <run.opck> --adapter <adapter>
            oplora verify --receipt <file> [--merged <dir>]
            """,
        discussion: """
            Examples:
              oplora verify --base SmolLM2 --adapter adapter --merged merged
              oplora verify --base base --adapter adapter --merged merged --html page.html
              oplora verify --base base --adapter adapter --merged merged --prompts p.txt
              oplora verify --run run.opck --adapter adapter
              oplora verify --receipt merged/oplora-merge.json

            Computes every merged weight from the definition, in arithmetic that shares nothing with merge, and accounts for every tensor of \
            base, adapter and merged model. Merges by other programs pass when a known way of merging gives their bits, or when they are off \
            by no more than roundings explain. Exit code 0: all of it holds; 1: it does not, with the reason; 3: an update is smaller than \
            the rounding, so the files cannot tell. --prompts also runs base + adapter and the merged model side by side (Llama family). \
            --receipt compares hashes alone, for merges made with --hash.
            """)

    @Option(help: ArgumentHelp("Folder or file of the base model.", valueName: "dir"), completion: .file()) var base: String?
    @Option(help: ArgumentHelp("An adapter, with a weight if not 1; may be repeated.", valueName: "adapter[:weight]"))
    var adapter: [AdapterArgument] = []
    @Option(help: ArgumentHelp("Folder or file of the merged model.", valueName: "dir"), completion: .file()) var merged: String?
    @Option(
        name: .customLong("run"), help: ArgumentHelp("A training run, to check a collapsed adapter against.", valueName: "run.opck"),
        completion: .file())
    var runPath: String?
    @Option(
        help: ArgumentHelp("The receipt of a merge with --hash, to check the merged model's bytes against.", valueName: "file"), completion: .file())
    var receipt: String?
    @Option(choice: "Element type that the merged weights should have", valueName: "type") var dtype = KeptType.keep
    @Option(
        help: ArgumentHelp("Compare what both models say to these texts, one a line, or to input_ids in safetensors.", valueName: "file"),
        completion: .file())
    var prompts: String?
    @OptionGroup var reading: AdapterReadingOptions
    @OptionGroup(title: "Limits") var limits: VerifyLimits
    @OptionGroup(title: "Reports") var reports: VerifyReports
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: ReportOptions

    func validate() throws {
        let isOfMerge = prompts != nil || limits.areAny || reports.areAny
        guard receipt == nil else {
            if base != nil || runPath != nil || !adapter.isEmpty || isOfMerge || !reading.alpha.isEmpty || !reading.component.isEmpty
                || dtype != .keep
            {
                throw ValidationError("--receipt compares hashes; only --merged, --threads, --json and --quiet go with it")
            }
            return
        }
        if adapter.isEmpty { throw ValidationError("verify needs --base, --adapter and --merged; or --run and --adapter; or --receipt") }
        if runPath != nil {
            if base != nil || merged != nil { throw ValidationError("--run checks a collapse; --base and --merged do not go with it") }
            if adapter.count != 1 { throw ValidationError("--run checks one adapter") }
            if isOfMerge { throw ValidationError("--prompts, --junit, --sarif, --html, --github and the limits go with --merged") }
        } else if base == nil || merged == nil {
            throw ValidationError(
                "\(base == nil ? merged == nil ? "--base and --merged are" : "--base is" : "--merged is") needed beside --adapter, or --run")
        }
        if limits.minArgmaxAgreement != nil, prompts == nil { throw ValidationError("--min-argmax-agreement is a limit for what --prompts finds") }
        if reports.github, output.isJSONOnStandardOutput {
            throw ValidationError("--github and --json both are standard output; name a file for --json")
        }
        let files = (reports.files + (output.jsonFile.map { [$0] } ?? [])).filter { ByteStream(path: $0) == nil }
        if Set(files).count < files.count { throw ValidationError("two reports cannot be one file; name another for each") }
    }

    func run() throws {
        if let receipt { return try reportReceipt(receipt) }
        if let runPath {
            try output.refuseUnwritable(replacing: reports.force, inputs: try [.run(runPath)] + reading.inputs(adapter))
            return try reportCollapse(try CollapsedRun(path: runPath).verify(adapter: try reading.read(adapter)[0].adapter))
        }
        guard let base, let merged else { return }
        // What cannot be written is said before the work is done.
        let inputs =
            try [.model(base), Input(merged) { _ = try MergeVerifier.open(merged: merged, base: base) }] + reading.inputs(adapter)
            + [prompts].compactMap(\.self).map(Input.file)
        try output.refuseUnwritable(reports.files, replacing: reports.force, inputs: inputs)
        let adapters = try reading.read(adapter)
        let function = try prompts.map { try PromptRun(path: $0, base: base, merged: merged, adapters: adapters, compute: try threads.makeCompute()) }
        var verdict = try MergeVerifier.verify(
            base: base, adapters: adapters, merged: merged,
            options: MergeVerifier.Options(
                threads: threads.count, dtype: dtype.dtype, gates: limits.gates, examinesRows: reports.html != nil))
        if let function {
            do {
                verdict.add(try function.compare(merged: merged), minArgmaxAgreement: limits.minArgmaxAgreement)
            } catch let error as MergeError {
                throw error
            } catch {
                // Whatever keeps the merged model from running is a thing to know beside the other faults.
                verdict.addNotRunnable(Remedy.sentence(on: error))
            }
        }
        verdict.add(remedies: Remedy.clause)
        if let type = verdict.typeOfReceipt { verdict.add(remark: Remedy.remark(onTypeOfReceipt: type)) }
        try reports.write(verdict, merged: merged, base: base, adapters: adapter.map(\.path))
        try output.write(verdict.json, replacing: reports.force)
        let summary = VerifySummary(verdict)
        if reports.github {
            for line in verdict.githubAnnotations(merged: merged, advice: Remedy.advice) { Terminal.command(line) }
        } else if !output.isJSONOnStandardOutput {
            for line in summary.failures { Terminal.error(line) }
        }
        // GitHub takes a line as a command that begins with two colons after any spaces, and a module may be called so.
        for line in summary.lines { output.say((reports.github ? "| " : "") + line) }
        switch verdict.outcome {
        case .pass: return
        case .inconclusive: throw Verdict(status: .undecided)
        case .fail: throw Verdict(status: .checkFailed)
        }
    }

    private func reportReceipt(_ receipt: String) throws {
        try output.refuseUnwritable(replacing: false, inputs: [.file(receipt)] + [merged].compactMap(\.self).map(Input.file))
        let verdict = try ReceiptVerifier.verify(
            receipt: receipt, merged: merged, threads: threads.count)
        try output.write(verdict.json, replacing: false)
        if !output.isJSONOnStandardOutput { printFaults(verdict.faults) }
        guard verdict.passes else { throw Verdict(status: .checkFailed) }
        output.say("pass: \(verdict.tensorCount) tensors have the hashes of the receipt")
    }

    private func reportCollapse(_ verdict: CollapseVerdict) throws {
        try output.write(verdict.json, replacing: reports.force)
        if !output.isJSONOnStandardOutput { printFaults(verdict.faults) }
        guard verdict.passes else { throw Verdict(status: .checkFailed) }
        output.say(verdict.summary)
    }
}

/// What a team asks of a merge beyond being right.
struct VerifyLimits: ParsableArguments {
    @Option(help: ArgumentHelp("Fail if an element is further from the correctly rounded one; 0 asks for the defined merge.", valueName: "steps"))
    var maxUlp: Int?
    @Option(help: ArgumentHelp("Fail if rounding leaves less than this share of an update, 0 to 1.", valueName: "share")) var minSurvival: Double?
    @Option(help: ArgumentHelp("Fail if the most likely next token is the same after less than this share of tokens, 0 to 1.", valueName: "share"))
    var minArgmaxAgreement: Double?

    var areAny: Bool { maxUlp != nil || minSurvival != nil || minArgmaxAgreement != nil }
    var gates: MergeVerifier.Gates { MergeVerifier.Gates(maxUlp: maxUlp, minSurvival: minSurvival) }

    func validate() throws {
        if let maxUlp, maxUlp < 0 { throw ValidationError("--max-ulp is a number of steps, 0 or more") }
        for (name, share) in [("--min-survival", minSurvival), ("--min-argmax-agreement", minArgmaxAgreement)] {
            if let share, !(0...1).contains(share) { throw ValidationError("\(name) is a share between 0 and 1") }
        }
    }
}

/// The reports that are written beside what is printed.
struct VerifyReports: ParsableArguments {
    @Option(help: ArgumentHelp("Write the verdict as a JUnit file, one case for each module.", valueName: "file"), completion: .file()) var junit:
        String?
    @Option(help: ArgumentHelp("Write the verdict as a SARIF 2.1.0 file.", valueName: "file"), completion: .file()) var sarif: String?
    @Option(help: ArgumentHelp("Write the verdict as a page with a map of modules and layers.", valueName: "file"), completion: .file()) var html:
        String?
    @Flag(help: "Print the verdict as annotations of GitHub Actions.") var github = false
    @Flag(help: "Replace reports that exist.") var force = false

    var areAny: Bool { github || !files.isEmpty }
    var files: [String] { [junit, sarif, html].compactMap { $0 } }

    func write(_ verdict: MergeVerdict, merged: String, base: String, adapters: [String]) throws {
        if let junit { try writeReport(verdict.junit(merged: merged, advice: Remedy.advice), to: junit, replacing: force) }
        if let sarif {
            let report = verdict.sarif(merged: merged, version: Program.version, advice: Remedy.advice)
            try writeReport(report.reported() + "\n", to: sarif, replacing: force)
        }
        if let html {
            try writeReport(VerdictPage(verdict, merged: merged, base: base, adapters: adapters).page.html, to: html, replacing: force)
        }
    }
}

/// Prints what the verification of a collapse or of hashes found.
func printFaults(_ faults: [Fault]) {
    for fault in faults { Terminal.error(VerifySummary.line(fault)) }
}

extension VerifyCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { [("--base", base), ("--merged", merged)].compactMap { name, path in path.map { NamedPath(name, $0) } } }
    var adapters: [NamedPath] { adapter.map { NamedPath("--adapter", $0.path) } }
}
