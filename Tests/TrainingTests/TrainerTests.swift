import Kernels
import LanguageModel
import Methods
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

@testable import Training

/// Short runs on the small model.
struct TrainerTests {
    private let compute: Compute
    private let folder: TemporaryFolder
    private let ids: [Int32]

    init() throws {
        compute = Compute(pool: try #require(ThreadPool(threads: 2)))
        folder = try TemporaryFolder()
        var random = SeededGenerator(seed: 31)
        // Eleven windows of eight tokens, and some tokens more.
        ids = (0..<95).map { _ in Int32.random(in: 0..<1024, using: &random) }
        try writeIDs(ids, "data")
    }

    private func writeIDs(_ ids: [Int32], _ name: String) throws {
        let bytes = ids.flatMap { id in (0..<4).map { UInt8(truncatingIfNeeded: id >> (8 * Int32($0))) } }
        try writeSafetensors([TestTensor("input_ids", .i32, [ids.count], bytes: bytes)], to: folder.path("\(name).safetensors"))
    }

    private static var configuration: TrainingConfiguration {
        var configuration = TrainingConfiguration()
        (configuration.method, configuration.rank, configuration.targets) = (.lora, 2, ["q_proj", "down_proj"])
        (configuration.steps, configuration.batchSize, configuration.sequenceLength, configuration.learningRate) = (4, 2, 8, 1e-2)
        return configuration
    }

    private func trainer(
        _ configuration: TrainingConfiguration, epochs: Double? = nil, heldOut: String? = nil, resuming: TrainingCheckpoint? = nil
    ) throws -> Trainer {
        try Trainer(
            configuration: configuration, epochs: epochs, base: Repository.tinyLlama, dataPath: folder.path("data.safetensors"),
            evaluationPath: heldOut.map { folder.path("\($0).safetensors") }, resuming: resuming, compute: compute)
    }

    /// Runs to the end, or until told to stop, and returns what was reported.
    @discardableResult
    private func run(_ trainer: Trainer, to name: String = "run.opck", saveInterval: Int = 0, stopAfter steps: Int = .max) throws -> [TrainingEvent] {
        var events: [TrainingEvent] = []
        try trainer.run(output: folder.path(name), saveInterval: saveInterval, replacing: true, report: { events.append($0) }) {
            trainer.progress.step >= steps
        }
        return events
    }

    private func parameters(_ trainer: Trainer) -> [[Float]] { trainer.parameters.tensors.map(\.state.parameters.array) }

    // MARK: Steps

    @Test func aRunReportsTheStepsThatItKeeps() throws {
        let trainer = try trainer(Self.configuration)
        var reported: [[Float]] = []
        for event in try run(trainer) {
            guard case .step(let step, let loss, let rate, let norm, _, _) = event else { continue }
            reported.append([Float(step), Float(loss), Float(rate), Float(norm)])
        }
        let progress = trainer.progress
        #expect(progress.step == 4 && reported.count == 4)
        #expect(
            reported
                == progress.losses.indices.map {
                    [Float($0 + 1), progress.losses[$0], progress.learningRates[$0], progress.gradientNorms[$0]]
                })
        #expect(progress.learningRates == (0..<4).map { Float(Self.configuration.learningRate(atStep: $0)) })
        #expect(try TrainingCheckpoint(path: folder.path("run.opck")).progress == progress)
    }

    /// The samples are the same, and gradients are means.
    @Test func accumulatedBatchesAreOneLargeBatch() throws {
        var large = Self.configuration
        (large.batchSize, large.schedule, large.warmupRatio, large.epsilon) = (4, .constant, 0, 1e-2)
        var parts = large
        (parts.batchSize, parts.accumulation) = (1, 4)
        let (one, several) = (try trainer(large), try trainer(parts))
        try run(one, to: "one.opck")
        try run(several, to: "several.opck")
        func agree(_ x: [Float], _ y: [Float]) -> Bool { zip(x, y).allSatisfy { abs($0 - $1) <= 1e-4 * max(1, abs($0)) } }
        #expect(agree(one.progress.losses, several.progress.losses), "\(one.progress.losses) \(several.progress.losses)")
        #expect(agree(one.progress.gradientNorms, several.progress.gradientNorms))
        #expect(zip(parameters(one), parameters(several)).allSatisfy(agree))
        #expect(parameters(one) != parameters(try trainer(large)), "something was learned")
    }

    /// After one step from zero the first moment is (1 − beta1) · gradient.
    @Test(arguments: [0, 1e-3, 1e3]) func largeGradientsAreScaledDownToTheLimit(limit: Double) throws {
        var configuration = Self.configuration
        (configuration.steps, configuration.beta1, configuration.maximumGradientNorm) = (1, 0.5, limit)
        let trainer = try trainer(configuration)
        try run(trainer)
        let norm = Double(trainer.progress.gradientNorms[0])
        #expect(norm > 1e-2 && norm < 1e3, "the limits lie on both sides of it")
        let moments = trainer.parameters.tensors.flatMap { $0.state.moments[0].array }
        let kept = 2 * moments.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
        let expected = limit > 0 ? min(limit, norm) : norm
        #expect(abs(kept / expected - 1) < 1e-3, "\(kept) of \(norm)")
    }

    /// Two steps with one window and the rate 0 in the first of them: only dropout can make them differ.
    @Test func dropoutThinsEachStepInAWayOfItsOwn() throws {
        try writeIDs(Array(ids.prefix(9)), "data")
        var configuration = Self.configuration
        (configuration.batchSize, configuration.warmupRatio, configuration.steps) = (1, 1, 2)
        let plain = try trainer(configuration)
        configuration.dropout = 0.5
        let (thinned, again) = (try trainer(configuration), try trainer(configuration))
        for (trainer, name) in [(plain, "plain"), (thinned, "thinned"), (again, "again")] { try run(trainer, to: name) }
        // B is zero at first, so that the losses are the base's; the gradients are not.
        #expect(plain.progress.losses == thinned.progress.losses && plain.progress.losses[0] == plain.progress.losses[1])
        #expect(plain.progress.gradientNorms[0] == plain.progress.gradientNorms[1])
        #expect(Set(thinned.progress.gradientNorms + [plain.progress.gradientNorms[0]]).count == 3)
        #expect(parameters(thinned) != parameters(plain) && parameters(thinned) == parameters(again))
    }

    @Test func aLossThatIsNotFiniteEndsTheRunAndNothingIsWritten() throws {
        var configuration = Self.configuration
        configuration.alpha = .greatestFiniteMagnitude
        let trainer = try trainer(configuration)
        let error = #expect(throws: TrainingError.self) { try run(trainer) }
        #expect(error?.code == .diverged && error?.message.contains("at step 1") == true && trainer.progress.step == 0)
        #expect(throws: (any Error).self) { try readAll(folder.path("run.opck")) }
    }

    // MARK: Epochs

    @Test func epochsAreCountedInWindows() throws {
        var configuration = Self.configuration
        // Eleven windows.
        for (epochs, batch, accumulation, steps) in [(1.0, 2, 1, 6), (2, 2, 1, 11), (1, 2, 2, 3), (0.001, 2, 1, 1), (1, 11, 1, 1), (0.5, 1, 1, 6)] {
            (configuration.batchSize, configuration.accumulation) = (batch, accumulation)
            let found = try trainer(configuration, epochs: epochs).subject.configuration.steps
            #expect(found == steps, "\(epochs) epochs of \(batch) × \(accumulation)")
        }
    }

    // MARK: Held-out data

    /// Also where the last batch is not full.
    @Test(arguments: [1, 2, 4]) func theHeldOutLossIsTheMeanOverEveryWholeWindow(batch: Int) throws {
        var configuration = Self.configuration
        configuration.batchSize = batch
        // Five windows.
        let heldOut = Array(ids.reversed().prefix(44))
        try writeIDs(heldOut, "held")
        let found = try #require(try trainer(configuration, heldOut: "held").evaluate())
        let model = try Transformer(
            weights: try TransformerWeights(
                configuration: try TransformerConfiguration(folder: Repository.tinyLlama), files: try ModelWeights(path: Repository.tinyLlama),
                compute: compute), compute: compute, batch: 5, sequence: 8, maximumRank: 2, training: false)
        // An adapter at its start is the base.
        let losses = model.losses(tokens: Array(heldOut[..<40]), targets: Array(heldOut[1...40]))
        let expected = losses.reduce(0) { $0 + Double($1) } / 40
        #expect(losses.count == 40 && abs(found - expected) < 1e-5)
    }

    @Test func theLossIsMeasuredBeforeAfterAndAtTheInterval() throws {
        try writeIDs(Array(ids.prefix(20)), "held")
        var configuration = Self.configuration
        for (interval, expected) in [(0, [0, 4]), (1, [0, 1, 2, 3, 4]), (3, [0, 3, 4]), (4, [0, 4]), (9, [0, 4])] {
            configuration.evaluationInterval = interval
            let trainer = try trainer(configuration, heldOut: "held")
            try run(trainer)
            #expect(trainer.progress.evaluations.map(\.step) == expected, "interval \(interval)")
        }
    }

    @Test func aCheckpointIsWrittenAtTheIntervalAndAtTheEnd() throws {
        for (interval, expected) in [(0, [4]), (1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4])] {
            let events = try run(try trainer(Self.configuration), saveInterval: interval)
            let steps = events.compactMap { event -> Int? in if case .checkpoint(let step, _) = event { step } else { nil } }
            #expect(steps == expected, "interval \(interval)")
        }
    }

    // MARK: Resuming

    /// With everything that depends on the place in the run: the rate, the order of samples over the ends of epochs, dropout,
    /// accumulation, held-out losses.
    @Test(arguments: TrainingMethod.allCases) func aRunThatIsStoppedGoesOnAsIfItHadNotBeen(method: TrainingMethod) throws {
        let stop = 3
        try writeIDs(Array(ids.prefix(20)), "held")
        var configuration = Self.configuration
        (configuration.method, configuration.width, configuration.embedding) = (method, 4, 6)
        (configuration.steps, configuration.accumulation, configuration.schedule, configuration.warmupRatio) = (6, 2, .cosine, 0.3)
        (configuration.weightDecay, configuration.evaluationInterval) = (0.1, 2)
        if method.type.takesDropout { configuration.dropout = 0.2 }
        try run(try trainer(configuration, heldOut: "held"), to: "whole.opck")
        let error = #expect(throws: TrainingError.self) {
            try run(try trainer(configuration, heldOut: "held"), to: "part.opck", stopAfter: stop)
        }
        #expect(error?.code == .interrupted && error?.message.contains("after step 3 of 6") == true)
        let part = try TrainingCheckpoint(path: folder.path("part.opck"))
        #expect(part.progress.step == stop)
        try run(try trainer(configuration, heldOut: "held", resuming: part), to: "rest.opck")
        #expect(try readAll(folder.path("rest.opck")) == readAll(folder.path("whole.opck")))
    }

    @Test func aRunThatIsStoppedBeforeItsFirstStepHasNothingToSave() throws {
        let error = #expect(throws: TrainingError.self) { try run(try trainer(Self.configuration), stopAfter: 0) }
        #expect(error?.code == .interrupted && error?.message.contains("nothing to save") == true)
        #expect(throws: (any Error).self) { try readAll(folder.path("run.opck")) }
    }

    @Test func tooLittleDataIsRefusedByItsKind() throws {
        try writeIDs(Array(ids.prefix(8)), "held")
        let heldOut = #expect(throws: TrainingError.self) { try trainer(Self.configuration, heldOut: "held") }
        #expect(heldOut?.code == .tooLittleEvaluationData && heldOut?.message.contains("8 tokens are not enough") == true)
        var configuration = Self.configuration
        configuration.sequenceLength = 95
        let data = #expect(throws: TrainingError.self) { try trainer(configuration) }
        #expect(data?.code == .tooLittleData && data?.message.contains("tokens are not enough") == true)
        configuration.sequenceLength = 94
        #expect(throws: Never.self) { try trainer(configuration) }
    }
}
