public import JSON
public import Kernels
public import Methods
internal import OrderedCollections

/// Everything that decides what a run computes. Two runs with equal configurations, base weights and data write the
/// same bytes.
public struct TrainingConfiguration: Sendable, Equatable {
    public enum Optimizer: String, Sendable, CaseIterable {
        case adamw

        /// What it keeps of each parameter, by the names in checkpoints.
        var moments: [String] {
            switch self {
            case .adamw: AdamWStep.moments
            }
        }
    }

    public enum Schedule: String, Sendable, CaseIterable {
        case constant, linear, cosine
    }

    /// A value that can be out of its range, under its name in a checkpoint.
    public enum Setting: String, Sendable, CaseIterable {
        case rank, alpha, width, embedding, zStd, w1Gain, w2Gain, hiddenBias, targets, steps, batchSize, sequenceLength, gradientAccumulation,
            learningRate, warmupRatio, beta1, beta2, epsilon, weightDecay, maxGradientNorm, dropout, seed, evaluationInterval
    }

    public var method: TrainingMethod = .opLoRA
    public var rank = 16
    public var alpha = 32.0
    /// Scale alpha/√r in place of alpha/r.
    public var rankStabilized = false
    public var width = 32
    public var embedding = 128
    public var initialization = HypernetworkInitialization(zStandardDeviation: 0.1)
    /// Module suffixes, or `all-linear`.
    public var targets: [String] = [TargetSelection.allLinear]
    public var steps = 100
    public var batchSize = 4
    public var sequenceLength = 256
    public var accumulation = 1
    public var learningRate = 2e-4
    public var schedule: Schedule = .linear
    public var optimizer: Optimizer = .adamw
    public var warmupRatio = 0.03
    public var beta1 = 0.9
    public var beta2 = 0.999
    public var epsilon = 1e-8
    public var weightDecay = 0.0
    /// Gradients with a larger norm are scaled down to it; 0 for never.
    public var maximumGradientNorm = 1.0
    public var dropout = 0.0
    public var seed = 0
    /// The input type of the products with base weights.
    public var precision: Precision = .f32
    /// Steps between measurements of the held-out loss; 0 for only before and after.
    public var evaluationInterval = 0

    public init() {}

    /// s in W + s·B·A.
    public var scale: Double {
        rankStabilized ? alpha / Double(rank).squareRoot() : alpha / Double(rank)
    }

    /// Checks every value that a person can set.
    ///
    /// - Throws: `TrainingError.invalidOption` naming the setting and its range.
    public func validate() throws(TrainingError) {
        func check(_ holds: Bool, _ setting: Setting, _ range: String) throws(TrainingError) {
            guard holds else { throw TrainingError(.invalidOption, setting: setting, "must be \(range)") }
        }
        try check((1...1024).contains(rank), .rank, "from 1 to 1024")
        try check(alpha > 0 && alpha.isFinite, .alpha, "a positive number")
        try check((1...4096).contains(width), .width, "from 1 to 4096")
        try check((1...65536).contains(embedding), .embedding, "from 1 to 65536")
        try check(initialization.zStandardDeviation > 0 && initialization.zStandardDeviation <= 1e3, .zStd, "above 0 and at most 1000")
        try check((0...100).contains(initialization.w1Gain), .w1Gain, "from 0 to 100")
        try check((0...100).contains(initialization.w2Gain), .w2Gain, "from 0 to 100")
        try check((0...100).contains(initialization.hiddenBias), .hiddenBias, "from 0 to 100")
        try check((1...100_000_000).contains(steps), .steps, "from 1 to 100000000")
        try check((1...4096).contains(batchSize), .batchSize, "from 1 to 4096")
        try check((1...1_000_000).contains(sequenceLength), .sequenceLength, "from 1 to 1000000")
        try check((1...65536).contains(accumulation), .gradientAccumulation, "from 1 to 65536")
        try check(learningRate > 0 && learningRate <= 10, .learningRate, "above 0 and at most 10")
        try check((0...1).contains(warmupRatio), .warmupRatio, "from 0 to 1")
        try check((0..<1).contains(beta1), .beta1, "from 0 to below 1")
        try check((0..<1).contains(beta2), .beta2, "from 0 to below 1")
        try check(epsilon > 0 && epsilon < 1, .epsilon, "above 0 and below 1")
        try check((0...10).contains(weightDecay), .weightDecay, "from 0 to 10")
        try check(maximumGradientNorm >= 0 && maximumGradientNorm.isFinite, .maxGradientNorm, "0 (off) or a positive number")
        try check((0...0.99).contains(dropout), .dropout, "from 0 to 0.99")
        try check(dropout == 0 || method.type.takesDropout, .dropout, "0 with the method \(method.rawValue), which has none here")
        try check(seed >= 0, .seed, "0 or more")
        try check(evaluationInterval >= 0, .evaluationInterval, "0 (off) or more")
    }

    /// The learning rate of a step (counted from 0): warm-up from 0, then the schedule; the formulas of transformers'
    /// `get_scheduler`.
    public func learningRate(atStep step: Int) -> Double {
        let warmup = Int((Double(steps) * warmupRatio).rounded(.up))
        if step < warmup { return learningRate * Double(step) / Double(max(1, warmup)) }
        let progress = Double(step - warmup) / Double(max(1, steps - warmup))
        switch schedule {
        case .constant: return learningRate
        case .linear: return learningRate * max(0, 1 - progress)
        case .cosine: return learningRate * max(0, 0.5 * (1 + cosine(.pi * progress)))
        }
    }
}

extension TrainingConfiguration {
    /// A step of the optimizer.
    ///
    /// - Parameters:
    ///   - number: 1, 2, 3 …
    ///   - gradientScale: multiplied into each gradient first.
    func optimizerStep(_ number: Int, learningRate: Double, gradientScale: Double) -> any OptimizerStep {
        switch optimizer {
        case .adamw:
            AdamWStep(
                learningRate: Float(learningRate), beta1: Float(beta1), beta2: Float(beta2), epsilon: Float(epsilon), weightDecay: Float(weightDecay),
                step: number, gradientScale: Float(gradientScale))
        }
    }

    /// As it is kept in a checkpoint.
    public var json: JSONValue {
        [
            "method": .string(method.rawValue), "rank": .integer(rank), "alpha": .real(alpha), "rankStabilized": .bool(rankStabilized),
            "width": .integer(width), "embedding": .integer(embedding), "zStd": .real(initialization.zStandardDeviation),
            "w1Gain": .real(initialization.w1Gain), "w2Gain": .real(initialization.w2Gain), "hiddenBias": .real(initialization.hiddenBias),
            "targets": .array(targets.map { .string($0) }), "steps": .integer(steps), "batchSize": .integer(batchSize),
            "sequenceLength": .integer(sequenceLength), "gradientAccumulation": .integer(accumulation), "learningRate": .real(learningRate),
            "schedule": .string(schedule.rawValue), "warmupRatio": .real(warmupRatio), "optimizer": .string(optimizer.rawValue),
            "beta1": .real(beta1),
            "beta2": .real(beta2), "epsilon": .real(epsilon), "weightDecay": .real(weightDecay), "maxGradientNorm": .real(maximumGradientNorm),
            "dropout": .real(dropout), "seed": .integer(seed), "precision": .string(precision.rawValue),
            "evaluationInterval": .integer(evaluationInterval),
        ]
    }

    /// Reads a configuration back.
    ///
    /// - Throws: `TrainingError.invalidCheckpoint` naming the field that is missing, wrong or not known: it may decide what the run computes.
    public init(json: JSONValue) throws(TrainingError) {
        func wrong(_ key: String) -> TrainingError {
            TrainingError(.invalidCheckpoint, "the checkpoint's configuration has no usable \"\(key)\"; it was written by another version")
        }
        func integer(_ key: String) throws(TrainingError) -> Int {
            guard let value = json[key]?.integerValue else { throw wrong(key) }
            return value
        }
        func number(_ key: String) throws(TrainingError) -> Double {
            guard let value = json[key]?.doubleValue else { throw wrong(key) }
            return value
        }
        self.init()
        let known = self.json
        if let key = json.objectValue?.keys.first(where: { known[$0] == nil }) {
            throw TrainingError(
                .invalidCheckpoint,
                "the checkpoint's configuration has a field \"\(key)\", which is not known here; it was written by another version")
        }
        guard let method = json["method"]?.stringValue.flatMap(TrainingMethod.init(rawValue:)) else { throw wrong("method") }
        guard let schedule = json["schedule"]?.stringValue.flatMap(Schedule.init(rawValue:)) else { throw wrong("schedule") }
        guard let rankStabilized = json["rankStabilized"]?.boolValue else { throw wrong("rankStabilized") }
        guard let list = json["targets"]?.arrayValue else { throw wrong("targets") }
        let targets = list.compactMap(\.stringValue)
        guard targets.count == list.count else { throw wrong("targets") }
        guard let optimizer = json["optimizer"]?.stringValue.flatMap(Optimizer.init(rawValue:)) else { throw wrong("optimizer") }
        guard let precision = json["precision"]?.stringValue.flatMap(Precision.init(rawValue:)) else { throw wrong("precision") }
        (self.method, self.schedule, self.rankStabilized, self.targets) = (method, schedule, rankStabilized, targets)
        (self.optimizer, self.precision) = (optimizer, precision)
        rank = try integer("rank")
        alpha = try number("alpha")
        width = try integer("width")
        embedding = try integer("embedding")
        initialization = HypernetworkInitialization(
            zStandardDeviation: try number("zStd"), w1Gain: try number("w1Gain"), w2Gain: try number("w2Gain"), hiddenBias: try number("hiddenBias"))
        steps = try integer("steps")
        batchSize = try integer("batchSize")
        sequenceLength = try integer("sequenceLength")
        accumulation = try integer("gradientAccumulation")
        learningRate = try number("learningRate")
        warmupRatio = try number("warmupRatio")
        beta1 = try number("beta1")
        beta2 = try number("beta2")
        epsilon = try number("epsilon")
        weightDecay = try number("weightDecay")
        maximumGradientNorm = try number("maxGradientNorm")
        dropout = try number("dropout")
        seed = try integer("seed")
        evaluationInterval = try integer("evaluationInterval")
        do {
            try validate()
        } catch {
            // Nobody has given this option: the file is at fault.
            throw TrainingError(.invalidCheckpoint, "the checkpoint's configuration is out of its range: \(error)")
        }
    }
}
