import JSON
import Kernels
import Methods
import OrderedCollections
import TestModels
import TestSupport
import Testing

@testable import Training

/// Which runs may go on, and with what.
struct ResumingTests {
    private let compute: Compute
    private let folder: TemporaryFolder

    init() throws {
        compute = Compute(pool: try #require(ThreadPool(threads: 1)))
        folder = try TemporaryFolder()
    }

    /// The error of going on with a run that has done three of nine steps, or as many as `run` says.
    ///
    /// - Parameters:
    ///   - run: changes the run before it is written.
    ///   - change: changes what it is to go on with.
    private func fault(run prepare: (inout SmallRun) -> Void = { _ in }, _ change: (inout TrainingSubject) throws -> Void) throws -> TrainingError? {
        var run = SmallRun(.opLoRA, compute: compute)
        prepare(&run)
        return try fault(of: run, as: try run.opened(in: folder), change)
    }

    private func fault(
        of run: SmallRun, as checkpoint: TrainingCheckpoint, _ change: (inout TrainingSubject) throws -> Void
    ) throws -> TrainingError? {
        var subject = run.subject
        try change(&subject)
        do throws(TrainingError) {
            try subject.check(continues: checkpoint)
            return nil
        } catch {
            return error
        }
    }

    @Test func aRunGoesOnWithWhatItWasStartedWith() throws {
        #expect(try fault { _ in } == nil)
    }

    /// Every field that a configuration has, also those that it will have; the number of steps has a rule of its own.
    @Test func noOptionMayChangeThatDecidesWhatIsComputed() throws {
        let other: OrderedDictionary<String, JSONValue> = [
            "method": "lora", "rank": 3, "alpha": 5.5, "rankStabilized": true, "width": 7, "embedding": 9, "zStd": 0.5, "w1Gain": 2, "w2Gain": 3,
            "hiddenBias": 0.25, "targets": ["q_proj"], "steps": 11, "batchSize": 2, "sequenceLength": 33, "gradientAccumulation": 4,
            "learningRate": 0.125, "schedule": "cosine", "warmupRatio": 0.5, "beta1": 0.75, "beta2": 0.5, "epsilon": 1e-3, "weightDecay": 0.5,
            "maxGradientNorm": 2, "dropout": 0.25, "seed": 6, "precision": "bf16", "evaluationInterval": 3,
        ]
        let run = SmallRun(.opLoRA, compute: compute)
        let checkpoint = try run.opened(in: folder)
        let fields = try #require(run.subject.configuration.json.objectValue)
        // One optimizer is all there is.
        #expect(fields.keys.filter { other[$0] == nil } == ["optimizer"], "the test changes every other field")
        for (key, value) in other {
            var changed = fields
            changed[key] = value
            #expect(changed != fields)
            let error = try fault(of: run, as: checkpoint) { $0.configuration = try TrainingConfiguration(json: .object(changed)) }
            #expect((error == nil) == ["steps", "evaluationInterval"].contains(key), "\(key): \(String(describing: error))")
            #expect(error?.code == .invalidOption || error == nil)
        }
    }

    @Test func anotherBaseIsRefusedByTheNameOfTheFirst() throws {
        let error = try fault { $0.baseFingerprint = "b1" }
        #expect(error?.code == .otherBase && error?.message.contains("a model called a base") == true)
        #expect(try fault { $0.baseName = "a copy of it" } == nil, "a name is no base")
    }

    @Test func otherDataIsRefused() throws {
        #expect(try fault { $0.dataFingerprint = "d1" }?.code == .otherData)
        let other = try fault { $0.evaluationFingerprint = "e1" }
        #expect(other?.code == .otherEvaluationData && other?.message.contains("other held-out data") == true)
        let none = try fault { $0.evaluationFingerprint = nil }
        #expect(none?.code == .otherEvaluationData && none?.message.contains("none is given") == true)
    }

    @Test func aRunMayBeginToMeasure() throws {
        #expect(try fault(run: { $0.subject.evaluationFingerprint = nil }) { $0.evaluationFingerprint = "e1" } == nil)
    }

    @Test func aConstantRateAllowsAnyNumberOfStepsFromTheDoneOnesOn() throws {
        for steps in [3, 4, 8, 100] { #expect(try fault { $0.configuration.steps = steps } == nil, "\(steps) steps") }
        for steps in [1, 2] {
            let error = try fault { $0.configuration.steps = steps }
            #expect(error?.code == .invalidOption && error?.message.contains("has done 3 steps, and \(steps) are asked for") == true)
        }
    }

    /// Steps of a warm-up are the same for numbers of steps that have the same warm-up.
    @Test(arguments: [TrainingConfiguration.Schedule.linear, .cosine])
    func otherStepsAreTakenWhereTheRatesOfTheDoneOnesStay(schedule: TrainingConfiguration.Schedule) throws {
        func fault(warmup: Double, done: Int, asked: Int) throws -> TrainingError? {
            try self.fault(run: { run in
                let configuration = {
                    var configuration = run.subject.configuration
                    (configuration.schedule, configuration.warmupRatio, configuration.steps) = (schedule, warmup, 10)
                    return configuration
                }()
                run.subject.configuration = configuration
                run.progress.step = done
                run.progress.learningRates = (0..<done).map { Float(configuration.learningRate(atStep: $0)) }
                (run.progress.losses, run.progress.gradientNorms) = ([Float](repeating: 1, count: done), [Float](repeating: 1, count: done))
            }) { $0.configuration.steps = asked }
        }
        // Nothing is done, or one step at the rate that every number of steps begins with.
        #expect(try fault(warmup: 0, done: 0, asked: 20) == nil && fault(warmup: 0, done: 1, asked: 20) == nil)
        // The second step is where they part.
        let parted = try fault(warmup: 0, done: 2, asked: 20)
        #expect(parted?.code == .otherSteps && parted?.message.contains("in step 2, which is done") == true, "\(String(describing: parted))")
        // A warm-up of five steps for nine and for ten.
        #expect(try fault(warmup: 0.5, done: 5, asked: 9) == nil && fault(warmup: 0.5, done: 6, asked: 9) == nil)
        #expect(try fault(warmup: 0.5, done: 7, asked: 9) != nil && fault(warmup: 0.5, done: 5, asked: 12) != nil)
        // The rate that is not the run's is named, and so is the number of steps that it was started for.
        #expect(parted?.message.contains("was started for 10 steps") == true)
    }
}
