internal import ArgumentParser
internal import FileIO
internal import JSON
internal import LanguageModel
internal import Methods
internal import NativeCheckpoint
internal import Training
internal import VisibleText

struct TrainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "train",
        abstract: "Train an OP-LoRA or another adapter against base weights on disk.",
        discussion: """
            Example:
              oplora train --base SmolLM2 --data train.txt --out run.opck --steps 100

            The data is UTF-8 text, encoded with the base model's tokenizer.json, or a .safetensors file with a tensor input_ids of \
            token ids. The run is written as a checkpoint that `oplora collapse` turns into an ordinary LoRA and that --resume goes on \
            from: a resumed run ends in the same bytes as one that was never interrupted.
            """)

    @Option(help: ArgumentHelp("Folder of the base model.", valueName: "dir"), completion: .directory) var base: String
    @Option(help: ArgumentHelp("Text or token ids to train on.", valueName: "file"), completion: .file()) var data: String
    @Option(help: ArgumentHelp("Where the run is written.", valueName: "run.opck"), completion: .file()) var out: String
    @OptionGroup var settings: TrainingOptions
    @Option(help: "Optimizer steps; 100 without this and --epochs.") var steps: Int?
    @Option(help: "Passes over the data, in place of --steps.") var epochs: Double?
    @Option(help: ArgumentHelp("Held-out text or token ids.", valueName: "file"), completion: .file()) var evalData: String?
    @Option(help: "Steps between held-out losses; 0 for only before and after. (default: 0)") var evalEvery: Int?
    @Option(help: "Steps between checkpoints; 0 for only at the end.") var saveEvery = 0
    @Option(
        help: ArgumentHelp(
            "Go on from a run. It keeps its options: others that are given must be the same, but for those of measuring and saving.",
            valueName: "run.opck"), completion: .file())
    var resume: String?
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if steps != nil, epochs != nil { throw ValidationError("--steps and --epochs exclude each other") }
        if let epochs, !(epochs > 0 && epochs <= 1e6) { throw ValidationError("--epochs must be above 0 and at most 1000000") }
        if saveEvery < 0 { throw ValidationError("--save-every must be 0 (off) or more") }
        if let method = settings.method, !method.type.hasHypernetworks, let option = settings.ofHypernetworks.first {
            throw ValidationError("\(option) is of the hypernetworks of op-lora, and --method \(method.rawValue) has none; leave it out")
        }
        do {
            try configuration(of: TrainingConfiguration()).validate()
        } catch let error as TrainingError {
            throw ValidationError(Remedy.sentence(on: error))
        }
    }

    /// A configuration with everything in it that was given.
    private func configuration(of original: TrainingConfiguration) throws -> TrainingConfiguration {
        var configuration = original
        for setting in settings.given { try setting.apply(&configuration) }
        if let steps { configuration.steps = steps }
        if let evalEvery { configuration.evaluationInterval = evalEvery }
        return configuration
    }

    /// What a run goes on with: its own options, and those given that do not change what it computes.
    private func configuration(goingOnFrom run: TrainingCheckpoint) throws -> TrainingConfiguration {
        let own = run.subject.configuration
        let others = try settings.given.filter { setting in
            var changed = own
            try setting.apply(&changed)
            return changed != own
        }
        guard others.isEmpty else {
            let names = others.map(\.option).joined(separator: ", ")
            throw UsageError(
                "\(run.file.path): the run was started with another value of \(names), and a run goes on as it began; leave \(others.count == 1 ? "it" : "them") out, or start a new run"
            )
        }
        return try configuration(of: own)
    }

    func run() throws {
        let resuming = try resume.map { try TrainingCheckpoint(path: $0) }
        let replacing = force || (resume.map { isSameFile($0, out) } ?? false)
        let requested = try resuming.map(configuration(goingOnFrom:)) ?? configuration(of: TrainingConfiguration())
        let inputs = [requireTargets(requested.targets), .file(data)] + [evalData].compactMap(\.self).map(Input.file)
        guard ByteStream(path: out) == nil else {
            throw UsageError("\(out): a run is written several times, which only a file can be; name one", status: .cannotCreateOutput)
        }
        try refuseUnwritableFile(out, as: .file(ending: ".opck"), replacing: replacing, inputs: inputs)
        let trainer = try Trainer(
            configuration: requested, epochs: epochs, base: base, dataPath: data, evaluationPath: evalData, resuming: resuming,
            compute: try threads.makeCompute(precision: requested.precision))
        let configuration = trainer.subject.configuration
        output.say(
            "\(configuration.method.rawValue): rank \(configuration.rank), scale \(Format.fixed(configuration.scale, 3)), \(trainer.modules.count) modules, \(Format.count(trainer.parameters.parameterCount)) trainable parameters"
        )
        if let resuming, resuming.progress.step == configuration.steps {
            output.say(
                "\(resuming.file.path): the run was finished already, all \(Format.count(configuration.steps, "step")) of it, so nothing is trained")
        }
        let shown = output
        let printer = TrainingPrinter(steps: configuration.steps, output: shown)
        Interruption.awaitRequests()
        do {
            try trainer.run(
                output: out, saveInterval: saveEvery, replacing: replacing, report: { printer.print($0) }, isInterrupted: { Interruption.isRequested }
            )
        } catch let error as TrainingError where error.code == .interrupted && trainer.progress.step > 0 {
            throw TrainingError(.interrupted, "\(error.message); go on with: \(goingOn)")
        }
        printer.finish(trainer.progress)
    }

    /// The model, if it has the layers that are to be adapted.
    private func requireTargets(_ targets: [String]) -> Input {
        Input(base, isRequirement: true) {
            try Input.transformer(base).requireReadable()
            _ = try TargetSelection(targets, configuration: TransformerConfiguration(folder: base))
        }
    }

    /// The command that finishes the run that `out` holds now: with the options that the run does not keep.
    private var goingOn: ShellCommand {
        var command = ShellCommand(CommandLine.arguments[0], "train")
        for (option, value) in [("--base", base), ("--data", data), ("--eval-data", evalData), ("--resume", out), ("--out", out)] {
            if let value { command.add(option, value) }
        }
        if saveEvery > 0 { command.add("--save-every", saveEvery) }
        if let threads = threads.threads { command.add("--threads", threads) }
        if output.quiet { command.add(flag: "--quiet") }
        if output.json { command.add(flag: "--json") }
        return command
    }
}

extension TrainCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { [NamedPath("--base", base)] }
    var adapters: [NamedPath] { [] }
}

/// Shows a run while it goes: a line that renews itself on a terminal, some lines in a file, JSON for scripts.
private struct TrainingPrinter {
    let steps: Int
    let output: OutputOptions

    func print(_ event: TrainingEvent) {
        if output.json { return Terminal.json(json(event)) }
        guard !output.quiet else { return }
        switch event {
        case .step(let step, let loss, let rate, let norm, let speed, let left):
            let text =
                "step \(step)/\(steps)  loss \(Format.fixed(loss, 4))  lr \(Format.scientific(rate))  grad \(Format.scientific(norm))  \(Format.fixed(speed, 0)) tokens/s  \(Format.duration(left)) left"
            if Terminal.errorIsTerminal {
                Terminal.progress(step == steps ? "" : text)
            } else if step == 1 || step == steps || step % max(1, steps / 10) == 0 {
                Terminal.error(text)
            }
        case .evaluation(let evaluation):
            clearProgress()
            Terminal.line("held-out loss after \(evaluation.step) steps: \(Format.fixed(evaluation.loss, 4)) nats a token")
        case .checkpoint(let step, let path):
            clearProgress()
            Terminal.line("wrote \(path) after step \(step)")
        }
    }

    func finish(_ progress: TrainingProgress) {
        if output.json {
            return Terminal.json(["event": "done", "step": .integer(progress.step), "loss": progress.losses.last.map { .real(Double($0)) } ?? .null])
        }
        guard let before = progress.evaluations.first, let after = progress.evaluations.last, before.step < after.step else { return }
        output.say(
            "held-out loss: \(Format.fixed(before.loss, 4)) before, \(Format.fixed(after.loss, 4)) after, \(Format.fixed(before.loss - after.loss, 4)) nats a token lower"
        )
    }

    private func clearProgress() {
        if Terminal.errorIsTerminal { Terminal.progress("") }
    }

    private func json(_ event: TrainingEvent) -> JSONValue {
        switch event {
        case .step(let step, let loss, let rate, let norm, let speed, _):
            [
                "event": "step", "step": .integer(step), "loss": .real(loss), "learningRate": .real(rate), "gradientNorm": .real(norm),
                "tokensPerSecond": .real(speed),
            ]
        case .evaluation(let evaluation): ["event": "eval", "step": .integer(evaluation.step), "loss": .real(evaluation.loss)]
        case .checkpoint(let step, let path): ["event": "checkpoint", "step": .integer(step), "path": .string(path)]
        }
    }
}
