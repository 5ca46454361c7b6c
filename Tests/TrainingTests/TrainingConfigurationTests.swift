import JSON
import Kernels
import Methods
import OrderedCollections
import TestSupport
import Testing

@testable import Training

struct TrainingConfigurationTests {
    /// Every field has another value than by default.
    private static var changed: TrainingConfiguration {
        var c = TrainingConfiguration()
        (c.method, c.rank, c.alpha, c.rankStabilized, c.width, c.embedding) = (.lora, 3, 5.5, true, 7, 9)
        c.initialization = HypernetworkInitialization(zStandardDeviation: 0.5, w1Gain: 2, w2Gain: 3, hiddenBias: 0.25)
        (c.targets, c.steps, c.batchSize, c.sequenceLength, c.accumulation) = (["q_proj", "mlp.down_proj"], 11, 2, 33, 4)
        (c.learningRate, c.schedule, c.warmupRatio, c.beta1, c.beta2, c.epsilon) = (0.125, .cosine, 0.5, 0.75, 0.5, 1e-3)
        (c.weightDecay, c.maximumGradientNorm, c.dropout, c.seed, c.precision, c.evaluationInterval) = (0.5, 2, 0.25, 6, .bf16, 3)
        return c
    }

    @Test func aConfigurationComesBack() throws {
        for configuration in [TrainingConfiguration(), Self.changed] {
            #expect(try TrainingConfiguration(json: configuration.json) == configuration)
            // Also through text, as a checkpoint has it.
            #expect(try TrainingConfiguration(json: try JSONValue(parsing: Array(configuration.json.serialized().utf8))) == configuration)
        }
        let (standard, changed) = (TrainingConfiguration().json.objectValue ?? [:], Self.changed.json.objectValue ?? [:])
        // One optimizer is all there is.
        let same = standard.keys.filter { standard[$0] == changed[$0] }
        #expect(same == ["optimizer"], "the test changes every other field")
    }

    /// A checkpoint of another version is refused by the field that it lacks.
    @Test func everyFieldIsNeeded() throws {
        let whole = try #require(Self.changed.json.objectValue)
        for key in whole.keys {
            var fields = whole
            fields[key] = nil
            do throws(TrainingError) {
                _ = try TrainingConfiguration(json: .object(fields))
                Issue.record("it was read without \(key)")
            } catch {
                #expect(error.code == .invalidCheckpoint && error.message.contains("\"\(key)\""), "\(error)")
            }
        }
    }

    private typealias Range<Value> = (
        setting: TrainingConfiguration.Setting, field: WritableKeyPath<TrainingConfiguration, Value>, outside: [Value], inside: [Value]
    )

    @Test func wholeNumbersHaveRanges() {
        let rows: [Range<Int>] = [
            (.rank, \.rank, [0, 1025], [1, 1024]), (.width, \.width, [0, 4097], [1, 4096]), (.embedding, \.embedding, [0, 65537], [1, 65536]),
            (.steps, \.steps, [0, 100_000_001], [1, 100_000_000]), (.batchSize, \.batchSize, [0, 4097], [1, 4096]),
            (.sequenceLength, \.sequenceLength, [0, 1_000_001], [1, 1_000_000]), (.gradientAccumulation, \.accumulation, [0, 65537], [1, 65536]),
            (.seed, \.seed, [-1], [0, .max]), (.evaluationInterval, \.evaluationInterval, [-1], [0, .max]),
        ]
        for row in rows { for value in row.inside + row.outside { expect(row.setting, row.field, value, isInside: row.inside.contains(value)) } }
    }

    @Test func realNumbersHaveRanges() {
        let rows: [Range<Double>] = [
            (.alpha, \.alpha, [0, -1, .infinity, .nan], [1e-3]), (.learningRate, \.learningRate, [0, 10.1, .nan], [10, 1e-9]),
            (.warmupRatio, \.warmupRatio, [-0.1, 1.1, .nan], [0, 1]), (.beta1, \.beta1, [-0.1, 1, .nan], [0, 0.999]),
            (.beta2, \.beta2, [1, .nan], [0]),
            (.epsilon, \.epsilon, [0, 1, .nan], [1e-12]), (.weightDecay, \.weightDecay, [-1, 10.1, .nan], [0, 10]),
            (.maxGradientNorm, \.maximumGradientNorm, [-1, .infinity, .nan], [0, 5]), (.dropout, \.dropout, [-0.1, 1, .nan], [0, 0.99]),
        ]
        for row in rows { for value in row.inside + row.outside { expect(row.setting, row.field, value, isInside: row.inside.contains(value)) } }
    }

    private func expect<Value>(
        _ setting: TrainingConfiguration.Setting, _ field: WritableKeyPath<TrainingConfiguration, Value>, _ value: Value, isInside: Bool
    ) {
        var configuration = TrainingConfiguration()
        configuration[keyPath: field] = value
        let error = Self.fault(configuration)
        #expect(error?.setting == (isInside ? nil : setting), "\(setting) \(value): \(error as Any)")
    }

    private static func fault(_ configuration: TrainingConfiguration) -> TrainingError? {
        do throws(TrainingError) {
            try configuration.validate()
            return nil
        } catch {
            return error
        }
    }

    // MARK: Schedules

    /// The rates of transformers' `get_scheduler`, written down.
    @Test func schedulesAreThoseOfTransformers() {
        func rates(_ schedule: TrainingConfiguration.Schedule, steps: Int, warmup: Double) -> [Double] {
            var configuration = TrainingConfiguration()
            (configuration.schedule, configuration.steps, configuration.warmupRatio, configuration.learningRate) = (schedule, steps, warmup, 1)
            return (0..<steps).map { configuration.learningRate(atStep: $0) }
        }
        func expect(_ found: [Double], _ expected: [Double]) {
            #expect(found.count == expected.count && zip(found, expected).allSatisfy { abs($0 - $1) < 1e-12 }, "\(found)")
        }
        expect(rates(.constant, steps: 4, warmup: 0), [1, 1, 1, 1])
        expect(rates(.constant, steps: 5, warmup: 0.4), [0, 0.5, 1, 1, 1])
        expect(rates(.linear, steps: 4, warmup: 0), [1, 0.75, 0.5, 0.25])
        expect(rates(.linear, steps: 6, warmup: 1.0 / 3), [0, 0.5, 1, 0.75, 0.5, 0.25])
        expect(rates(.cosine, steps: 4, warmup: 0), [1, 0.5 + 0.125.squareRoot(), 0.5, 0.5 - 0.125.squareRoot()])
        // A part of a step of warm-up is a whole one, and all of them may be.
        expect(rates(.linear, steps: 3, warmup: 0.1), [0, 1, 0.5])
        expect(rates(.cosine, steps: 2, warmup: 1), [0, 0.5])
    }

    @Test func theScaleOfRank() {
        var configuration = TrainingConfiguration()
        (configuration.rank, configuration.alpha) = (16, 8)
        #expect(configuration.scale == 0.5)
        configuration.rankStabilized = true
        #expect(configuration.scale == 2)
    }
}
