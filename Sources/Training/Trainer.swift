internal import FileIO
internal import Hashing
public import Kernels
internal import LanguageModel
public import Methods
internal import OrderedCollections
internal import Safetensors
public import Weights

/// What a run tells while it goes.
public enum TrainingEvent: Sendable {
    /// A step is done. The loss is the mean over its batch, before the step.
    case step(step: Int, loss: Double, learningRate: Double, gradientNorm: Double, tokensPerSecond: Double, secondsLeft: Double)
    case evaluation(Evaluation)
    case checkpoint(step: Int, path: String)
}

/// Trains an adapter on a base model.
public final class Trainer {
    public let subject: TrainingSubject
    public private(set) var progress: TrainingProgress
    public let parameters: any AdapterParameters
    public var modules: [AdaptedModule] { parameters.modules }

    private var configuration: TrainingConfiguration { subject.configuration }
    private let model: Transformer
    private let updates: LowRankUpdates
    private let data: TokenData
    private let evaluationData: TokenData?
    private var order: SampleOrder
    private var tokens: TokenBatch

    /// Sets a run up: opens the base model, reads the data, takes all memory.
    ///
    /// - Parameters:
    ///   - configuration: of the run. That of a run that is resumed must be its own but for the number of steps and the interval of
    ///     measurements.
    ///   - epochs: in place of `configuration.steps`, where given.
    ///   - resuming: the run to continue; its base and data must be the same.
    /// - Throws: the errors of the model, the data and the checkpoint; `TrainingError` for options out of range.
    public init(
        configuration requested: TrainingConfiguration, epochs: Double? = nil, base: String, dataPath: String, evaluationPath: String?,
        resuming: TrainingCheckpoint?, compute: Compute
    ) throws {
        var configuration = requested
        // First the weights, which say what the folder is where it is no model's.
        let files = try ModelWeights(path: base)
        let model = try TransformerConfiguration(folder: base)
        let data = try TokenData(path: dataPath, modelFolder: base, vocabularySize: model.vocabularySize)
        let evaluationData = try evaluationPath.map { try TokenData(path: $0, modelFolder: base, vocabularySize: model.vocabularySize) }
        let windows = data.windowCount(length: configuration.sequenceLength)
        for (data, code) in [(data, TrainingError.Code.tooLittleData), (evaluationData, .tooLittleEvaluationData)] {
            guard let data, data.windowCount(length: configuration.sequenceLength) == 0 else { continue }
            throw TrainingError(
                code,
                "\(data.path): \(data.tokens.count) tokens are not enough for one sequence of \(configuration.sequenceLength) and its next token"
            )
        }
        if let epochs {
            let perStep = configuration.batchSize * configuration.accumulation
            configuration.steps = max(1, Int((epochs * Double(windows) / Double(perStep)).rounded(.up)))
        }
        try configuration.validate()
        subject = TrainingSubject(
            configuration: configuration, baseName: FileSystem.lastComponent(base), baseFingerprint: Self.fingerprint(of: files),
            dataFingerprint: data.fingerprint, evaluationFingerprint: evaluationData?.fingerprint)
        if let resuming { try subject.check(continues: resuming) }

        let weights = try TransformerWeights(configuration: model, files: files, compute: compute)
        let targets = try TargetSelection(configuration.targets, configuration: model)
        self.model = try Transformer(
            weights: weights, compute: compute, batch: configuration.batchSize, sequence: configuration.sequenceLength,
            maximumRank: configuration.rank, training: true, keepsOutputs: configuration.method.type.scalesOutputs)
        parameters = configuration.makeParameters(
            modules: targets.modules, weights: targets.places.map { weights.linear(layer: $0.layer, $0.linear) }, compute: compute)
        updates = targets.updates(of: parameters, layers: model.layers)
        self.data = data
        self.evaluationData = evaluationData
        order = SampleOrder(windows: windows, seed: UInt64(configuration.seed))
        tokens = TokenBatch(capacity: configuration.batchSize * configuration.sequenceLength)
        progress = resuming?.progress ?? TrainingProgress()
        try resuming?.restore(into: parameters)
    }

    /// The held-out loss, in nats a token, over every whole window of the held-out text.
    public func evaluate() -> Double? {
        guard let evaluationData else { return nil }
        return evaluate(on: evaluationData, updates) { false }
    }

    /// `nil` when interrupted.
    private func evaluate(on data: TokenData, _ updates: LowRankUpdates, isInterrupted: () -> Bool) -> Double? {
        let length = configuration.sequenceLength
        let windows = data.windowCount(length: length)
        var sum = 0.0
        for start in stride(from: 0, to: windows, by: configuration.batchSize) {
            guard !isInterrupted() else { return nil }
            let count = min(configuration.batchSize, windows - start)
            tokens.removeAll()
            for place in 0..<configuration.batchSize {
                // A last batch that is not full is filled up with its first window, whose second loss is not counted.
                tokens.append(data.window(place < count ? start + place : start, length: length))
            }
            sum += model.losses(tokens: tokens.inputs, targets: tokens.targets, updates: updates).prefix(count * length).reduce(0) { $0 + Double($1) }
        }
        return sum / Double(windows * length)
    }

    /// Runs the steps that are left, and writes the run to `output` at the end and at intervals.
    ///
    /// - Parameters:
    ///   - saveInterval: steps between checkpoints; 0 for only at the end.
    ///   - replacing: whether a file at `output` may be replaced by the first checkpoint.
    ///   - report: told of each step, measurement and checkpoint.
    ///   - isInterrupted: asked after each step and each batch of an evaluation; when true, a checkpoint is written and the run ends
    ///     with `TrainingError.interrupted`. An evaluation that was cut off is made when the run goes on.
    /// - Throws: `TrainingError.diverged` when a loss or gradient is not finite: nothing is written then, and the last
    ///   checkpoint stays.
    public func run(
        output: String, saveInterval: Int, replacing: Bool, report: (TrainingEvent) -> Void, isInterrupted: () -> Bool = { false }
    ) throws {
        var mayReplace = replacing
        func save() throws {
            try TrainingCheckpoint.write(to: output, replacing: mayReplace, subject: subject, progress: progress, parameters: parameters)
            mayReplace = true
            report(.checkpoint(step: progress.step, path: output))
        }
        func stopIfInterrupted() throws {
            guard isInterrupted() else { return }
            guard progress.step > 0 else { throw TrainingError(.interrupted, "interrupted before the first step; there is nothing to save") }
            try save()
            throw TrainingError(
                .interrupted, "interrupted after step \(progress.step) of \(configuration.steps), and saved as \(output)")
        }
        evaluateIfDue(report, isInterrupted)
        try stopIfInterrupted()
        let clock = ContinuousClock()
        let started = clock.now
        let firstStep = progress.step
        while progress.step < configuration.steps {
            let stepStarted = clock.now
            let (loss, rate, norm) = try step()
            let now = clock.now
            let tokens = Double(configuration.batchSize * configuration.accumulation * configuration.sequenceLength)
            let perStep = seconds(now - started) / Double(progress.step - firstStep)
            report(
                .step(
                    step: progress.step, loss: loss, learningRate: rate, gradientNorm: norm, tokensPerSecond: tokens / seconds(now - stepStarted),
                    secondsLeft: perStep * Double(configuration.steps - progress.step)))
            let isLast = progress.step == configuration.steps
            evaluateIfDue(report, isInterrupted)
            if !isLast, saveInterval > 0, progress.step % saveInterval == 0 { try save() }
            if !isLast || isEvaluationDue { try stopIfInterrupted() }
        }
        try save()
    }

    /// Whether the held-out loss of this step is to be known, and is not yet.
    private var isEvaluationDue: Bool {
        guard evaluationData != nil, progress.evaluations.last?.step != progress.step else { return false }
        let interval = configuration.evaluationInterval
        return progress.step == 0 || progress.step == configuration.steps || interval > 0 && progress.step % interval == 0
    }

    private func evaluateIfDue(_ report: (TrainingEvent) -> Void, _ isInterrupted: () -> Bool) {
        guard isEvaluationDue, let evaluationData, let loss = evaluate(on: evaluationData, updates, isInterrupted: isInterrupted) else { return }
        let evaluation = Evaluation(step: progress.step, loss: loss)
        progress.evaluations.append(evaluation)
        report(.evaluation(evaluation))
    }

    /// One optimizer step over `accumulation` batches.
    private func step() throws(TrainingError) -> (loss: Double, learningRate: Double, gradientNorm: Double) {
        let number = progress.step
        parameters.zeroGradients()
        var loss = 0.0
        for part in 0..<configuration.accumulation {
            let first = (number * configuration.accumulation + part) * configuration.batchSize
            tokens.removeAll()
            for sample in first..<first + configuration.batchSize {
                tokens.append(data.window(order.window(ofSample: sample), length: configuration.sequenceLength))
            }
            let dropout = configuration.dropout > 0 ? dropoutPlan(step: number, part: part) : nil
            loss += model.lossAndGradients(tokens: tokens.inputs, targets: tokens.targets, updates: updates, dropout: dropout)
        }
        loss /= Double(configuration.accumulation)
        let mean = 1 / Double(configuration.accumulation)
        let norm = parameters.backward().squareRoot() * mean
        guard loss.isFinite, norm.isFinite else {
            throw TrainingError(
                .diverged,
                "the \(loss.isFinite ? "gradient" : "loss") is no longer finite at step \(number + 1), and nothing was written since the last checkpoint"
            )
        }
        let limit = configuration.maximumGradientNorm
        let clip = limit > 0 ? min(1, limit / (norm + 1e-6)) : 1
        let rate = configuration.learningRate(atStep: number)
        parameters.step(configuration.optimizerStep(number + 1, learningRate: rate, gradientScale: clip * mean))
        progress.step += 1
        progress.losses.append(Float(loss))
        progress.learningRates.append(Float(rate))
        progress.gradientNorms.append(Float(norm))
        return (loss, rate, norm)
    }

    private func dropoutPlan(step: Int, part: Int) -> DropoutPlan {
        var random = RandomSource(seed: UInt64(configuration.seed), stream: 1 << 41 + UInt64(step * configuration.accumulation + part))
        return DropoutPlan(rate: Float(configuration.dropout), seed: random.next())
    }

    /// SHA-256 over the weight files in the order of their names, and over what decides the meaning of codes beside them: what a run records of its base.
    public static func fingerprint(of files: ModelWeights) -> String {
        var digest = SHA256Digest()
        for shard in files.shards {
            let mapped = shard.file
            digest.update(mapped.bytes)
        }
        // The bytes of codes do not say alone what they stand for.
        for (name, weight) in files.tensors {
            if let encoded = weight.encoded { let line = Array("\(name): \(encoded.meaning)\n".utf8); digest.update(unsafe line.span.bytes) }
        }
        return digest.finishHex()
    }
}

private func seconds(_ duration: Duration) -> Double {
    Double(duration.components.seconds) + Double(duration.components.attoseconds) * 1e-18
}
