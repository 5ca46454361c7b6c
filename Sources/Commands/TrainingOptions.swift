internal import ArgumentParser
internal import Kernels
internal import Methods
internal import Training

/// The options that decide what a run computes. None has a value of its own, so that a run that is resumed knows which were given.
struct TrainingOptions: ParsableArguments {
    private static let defaults = TrainingConfiguration()
    private static func text(_ text: String, _ standard: Any) -> String { "\(text) (default: \(standard))" }
    private static func help(_ text: String, _ standard: Any) -> ArgumentHelp { ArgumentHelp(stringLiteral: Self.text(text, standard)) }

    @Option(choice: "What is trained", standard: defaults.method, valueName: "method") var method: TrainingMethod?
    @Option(help: help("Rank of the update.", defaults.rank)) var rank: Int?
    @Option(help: help("The update is scaled by alpha/rank.", defaults.alpha)) var alpha: Double?
    @Flag(name: .customLong("rslora"), help: "Scale by alpha/√rank instead.") var rankStabilized = false
    @Option(help: help("Hidden units of each hypernetwork.", defaults.width)) var width: Int?
    @Option(help: help("Size of the learned input z of each hypernetwork.", defaults.embedding)) var embedding: Int?
    @Option(name: .customLong("z-std"), help: help("Standard deviation of z at the start.", defaults.initialization.zStandardDeviation))
    var zStandardDeviation: Double?
    @Option(
        name: .customLong("w1-gain"), help: help("Initial spread of W1: uniform within gain/√embedding.", defaults.initialization.w1Gain))
    var w1Gain: Double?
    @Option(
        name: .customLong("w2-gain"), help: help("Initial spread of W2's rows for A: uniform within gain/√width.", defaults.initialization.w2Gain))
    var w2Gain: Double?
    @Option(help: help("Initial spread of the hidden biases.", defaults.initialization.hiddenBias)) var hiddenBias: Double?
    @Option(help: ArgumentHelp("Layers to adapt: ends of names, such as q_proj,v_proj, or all-linear. (default: all-linear)", valueName: "list"))
    var targets: String?
    @Option(help: help("Sequences in a batch.", defaults.batchSize)) var batchSize: Int?
    @Option(name: .customLong("seq-len"), help: help("Tokens in a sequence.", defaults.sequenceLength)) var sequenceLength: Int?
    @Option(name: .customLong("grad-accumulation"), help: help("Batches to a step.", defaults.accumulation)) var accumulation: Int?
    @Option(name: .customLong("lr"), help: help("Learning rate after warm-up.", defaults.learningRate)) var learningRate: Double?
    @Option(choice: "How the learning rate falls after warm-up", standard: defaults.schedule, valueName: "schedule")
    var schedule: TrainingConfiguration.Schedule?
    @Option(help: help("Share of the steps in which the rate rises from 0.", defaults.warmupRatio)) var warmupRatio: Double?
    @Option(choice: "The optimizer", standard: defaults.optimizer, valueName: "optimizer") var optimizer: TrainingConfiguration.Optimizer?
    @Option(help: help("AdamW's decay of the first moment.", defaults.beta1)) var beta1: Double?
    @Option(help: help("AdamW's decay of the second moment.", defaults.beta2)) var beta2: Double?
    @Option(help: help("AdamW's term against division by zero.", defaults.epsilon)) var epsilon: Double?
    @Option(help: help("Decoupled weight decay.", defaults.weightDecay)) var weightDecay: Double?
    @Option(help: help("Gradients with a larger norm are scaled down to it; 0 for never.", defaults.maximumGradientNorm)) var maxGradNorm: Double?
    @Option(help: help("Dropout on the input of the low-rank path.", defaults.dropout)) var dropout: Double?
    @Option(help: help("Seed of everything random.", defaults.seed)) var seed: Int?
    @Option(
        choice: "Input type of the products with base weights, bf16 only where the processor has it", standard: defaults.precision, valueName: "type")
    var precision: Precision?

    /// What stands between commas, whatever blanks are around it.
    private static func list(_ text: String) -> [String] {
        text.split(separator: ",").map { $0.split(whereSeparator: \.isWhitespace).joined(separator: " ") }.filter { !$0.isEmpty }
    }

    /// An option that was given, and what it does to a configuration.
    struct Setting {
        let option: String
        let apply: (inout TrainingConfiguration) throws -> Void
    }

    /// What was given of the options that only hypernetworks have.
    var ofHypernetworks: [String] {
        let names = ["--width", "--embedding", "--z-std", "--w1-gain", "--w2-gain", "--hidden-bias"]
        return given.map(\.option).filter(names.contains)
    }

    /// The options that were given, in the order of the help.
    var given: [Setting] {
        func setting<Value>(_ option: String, _ value: Value?, _ field: WritableKeyPath<TrainingConfiguration, Value>) -> Setting? {
            value.map { value in Setting(option: "--\(option)") { $0[keyPath: field] = value } }
        }
        let settings: [Setting?] = [
            setting("method", method, \.method), setting("rank", rank, \.rank), setting("alpha", alpha, \.alpha),
            setting("rslora", rankStabilized ? true : nil, \.rankStabilized), setting("width", width, \.width),
            setting("embedding", embedding, \.embedding), setting("z-std", zStandardDeviation, \.initialization.zStandardDeviation),
            setting("w1-gain", w1Gain, \.initialization.w1Gain), setting("w2-gain", w2Gain, \.initialization.w2Gain),
            setting("hidden-bias", hiddenBias, \.initialization.hiddenBias),
            setting("targets", targets.map(Self.list), \.targets),
            setting("batch-size", batchSize, \.batchSize), setting("seq-len", sequenceLength, \.sequenceLength),
            setting("grad-accumulation", accumulation, \.accumulation), setting("lr", learningRate, \.learningRate),
            setting("schedule", schedule, \.schedule), setting("warmup-ratio", warmupRatio, \.warmupRatio),
            setting("optimizer", optimizer, \.optimizer),
            setting("beta1", beta1, \.beta1), setting("beta2", beta2, \.beta2), setting("epsilon", epsilon, \.epsilon),
            setting("weight-decay", weightDecay, \.weightDecay), setting("max-grad-norm", maxGradNorm, \.maximumGradientNorm),
            setting("dropout", dropout, \.dropout), setting("seed", seed, \.seed), setting("precision", precision, \.precision),
        ]
        return settings.compactMap(\.self)
    }
}
