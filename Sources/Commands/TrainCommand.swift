internal import ArgumentParser
internal import HyperLoRA
internal import JSON
internal import Training

struct TrainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "train",
        abstract: "Train an OP-LoRA or LoRA adapter against base weights on disk.",
        discussion: """
            Example:
              oplora train --base SmolLM2 --data train.txt --eval-data heldout.txt --out run.opck --steps 100

            The data is UTF-8 text, encoded with the base model's tokenizer.json, or a .safetensors file with a tensor input_ids of \
            token ids. The run is written as a checkpoint that `oplora collapse` turns into an ordinary LoRA and that --resume goes on \
            from: a resumed run ends in the same bytes as one that was never interrupted.
            """)

    @Option(help: ArgumentHelp("Folder of the base model.", valueName: "dir")) var base: String
    @Option(help: ArgumentHelp("Text or token ids to train on.", valueName: "file")) var data: String
    @Option(help: ArgumentHelp("Where the run is written.", valueName: "run.opck")) var out: String
    @Option(help: ArgumentHelp("op-lora or lora.", valueName: "method")) var method = "op-lora"
    @Option(help: "Rank of the update.") var rank = 16
    @Option(help: "The update is scaled by alpha/rank.") var alpha = 32.0
    @Flag(name: .customLong("rslora"), help: "Scale by alpha/√rank instead.") var rankStabilized = false
    @Option(help: "Hidden units of each hypernetwork.") var width = 32
    @Option(help: "Size of the learned input z of each hypernetwork.") var embedding = 128
    @Option(name: .customLong("z-std"), help: "Standard deviation of z at the start.") var zStandardDeviation = 0.1
    @Option(name: .customLong("w1-gain"), help: "Initial spread of W1: uniform within gain/√embedding.") var w1Gain = 1.0
    @Option(name: .customLong("w2-gain"), help: "Initial spread of W2's rows for A: uniform within gain/√width.") var w2Gain = 1.0
    @Option(help: "Initial spread of the hidden biases.") var hiddenBias = 0.0
    @Option(help: ArgumentHelp("Module suffixes, comma-separated, or all-linear.", valueName: "list")) var targets = "all-linear"
    @Option(help: "Optimiser steps; 100 without this and --epochs.") var steps: Int?
    @Option(help: "Passes over the data, in place of --steps.") var epochs: Double?
    @Option(help: "Sequences in a batch.") var batchSize = 4
    @Option(name: .customLong("seq-len"), help: "Tokens in a sequence.") var sequenceLength = 256
    @Option(name: .customLong("grad-accumulation"), help: "Batches to a step.") var accumulation = 1
    @Option(name: .customLong("lr"), help: "Learning rate after warm-up.") var learningRate = 2e-4
    @Option(help: "constant, linear or cosine.") var schedule = "linear"
    @Option(help: "Share of the steps in which the rate rises from 0.") var warmupRatio = 0.03
    @Option(help: "adamw.") var optimizer = "adamw"
    @Option(help: "AdamW's decay of the first moment.") var beta1 = 0.9
    @Option(help: "AdamW's decay of the second moment.") var beta2 = 0.999
    @Option(help: "AdamW's term against division by zero.") var epsilon = 1e-8
    @Option(help: "Decoupled weight decay.") var weightDecay = 0.0
    @Option(help: "Gradients with a larger norm are scaled down to it; 0 for never.") var maxGradNorm = 1.0
    @Option(help: "Dropout on the input of the low-rank path.") var dropout = 0.0
    @Option(help: "Seed of everything random.") var seed = 0
    @Option(help: ArgumentHelp("Input type of the products with base weights: f32, or bf16 where the processor has it.", valueName: "type"))
    var precision = "f32"
    @Option(help: ArgumentHelp("Held-out text or token ids.", valueName: "file")) var evalData: String?
    @Option(help: "Steps between held-out losses; 0 for only before and after.") var evalEvery = 0
    @Option(help: "Steps between checkpoints; 0 for only at the end.") var saveEvery = 0
    @Option(help: ArgumentHelp("Go on from a run; its own options count.", valueName: "run.opck")) var resume: String?
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if steps != nil, epochs != nil { throw ValidationError("--steps and --epochs exclude each other") }
        if let epochs, !(epochs > 0 && epochs <= 1e6) { throw ValidationError("--epochs must be above 0 and at most 1000000") }
        if saveEvery < 0 { throw ValidationError("--save-every must be 0 (off) or more") }
        _ = try requestedConfiguration()
    }

    private func requestedConfiguration() throws -> TrainingConfiguration {
        func choice<Choice: RawRepresentable & CaseIterable>(_ text: String, _ option: String) throws -> Choice where Choice.RawValue == String {
            guard let value = Choice(rawValue: text) else {
                throw ValidationError("--\(option) is \"\(text)\" and must be one of \(Choice.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            return value
        }
        guard optimizer == "adamw" else { throw ValidationError("--optimizer is \"\(optimizer)\" and must be adamw") }
        var configuration = TrainingConfiguration()
        configuration.method = try choice(method, "method")
        configuration.schedule = try choice(schedule, "schedule")
        configuration.rank = rank
        configuration.alpha = alpha
        configuration.rankStabilized = rankStabilized
        configuration.width = width
        configuration.embedding = embedding
        configuration.initialization = HyperNetworkInitialization(
            zStandardDeviation: zStandardDeviation, w1Gain: w1Gain, w2Gain: w2Gain, hiddenBias: hiddenBias)
        configuration.targets = targets.split(separator: ",").map(String.init)
        configuration.steps = steps ?? 100
        configuration.batchSize = batchSize
        configuration.sequenceLength = sequenceLength
        configuration.accumulation = accumulation
        configuration.learningRate = learningRate
        configuration.warmupRatio = warmupRatio
        configuration.beta1 = beta1
        configuration.beta2 = beta2
        configuration.epsilon = epsilon
        configuration.weightDecay = weightDecay
        configuration.maximumGradientNorm = maxGradNorm
        configuration.dropout = dropout
        configuration.seed = seed
        configuration.precision = try choice(precision, "precision")
        configuration.evaluationInterval = evalEvery
        do {
            try configuration.validate()
        } catch {
            throw ValidationError(error.message)
        }
        return configuration
    }

    func run() throws {
        let resuming = try resume.map { try TrainingCheckpoint(path: $0) }
        let replacing = force || (resume.map { isSameFile($0, out) } ?? false)
        try refuseUnwritableFile(out, replacing: replacing, inputs: [base, data] + [evalData].compactMap(\.self))
        let requested = try requestedConfiguration()
        let trainer = try Trainer(
            configuration: requested, epochs: epochs, base: base, dataPath: data, evaluationPath: evalData, resuming: resuming,
            compute: try threads.makeCompute(precision: resuming?.subject.configuration.precision ?? requested.precision))
        let configuration = trainer.subject.configuration
        output.say(
            "\(configuration.method.rawValue): rank \(configuration.rank), scale \(Format.fixed(configuration.scale, 3)), \(trainer.modules.count) modules, \(Format.count(trainer.parameters.parameterCount)) trainable parameters"
        )
        let shown = output
        let printer = TrainingPrinter(steps: configuration.steps, output: shown)
        try trainer.run(
            output: out, saveInterval: saveEvery, replacing: replacing, report: { printer.print($0) }, isInterrupted: { Interruption.isRequested })
        printer.finish(trainer.progress)
    }
}

/// Shows a run while it goes: a line that renews itself on a terminal, some lines in a file, JSON for scripts.
private struct TrainingPrinter {
    let steps: Int
    let output: OutputOptions

    func print(_ event: TrainingEvent) {
        if output.json { return Terminal.line(json(event).serialized()) }
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
            return Terminal.line(
                (["event": "done", "step": .integer(progress.step), "loss": progress.losses.last.map { .real(Double($0)) } ?? .null] as JSONValue)
                    .serialized())
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
