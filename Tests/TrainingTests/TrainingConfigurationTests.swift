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

    // MARK: Ranges

    struct Limits<Value: Sendable>: CustomTestStringConvertible, Sendable {
        let setting: TrainingConfiguration.Setting
        let field: any WritableKeyPath<TrainingConfiguration, Value> & Sendable
        let inside: [Value]
        let outside: [Value]

        init(
            _ setting: TrainingConfiguration.Setting, _ field: any WritableKeyPath<TrainingConfiguration, Value> & Sendable, inside: [Value],
            outside: [Value]
        ) {
            (self.setting, self.field, self.inside, self.outside) = (setting, field, inside, outside)
        }

        var testDescription: String { setting.rawValue }
    }

    static let wholeNumbers: [Limits<Int>] = [
        Limits(.rank, \.rank, inside: [1, 1024], outside: [0, 1025]), Limits(.width, \.width, inside: [1, 4096], outside: [0, 4097]),
        Limits(.embedding, \.embedding, inside: [1, 65536], outside: [0, 65537]),
        Limits(.steps, \.steps, inside: [1, 100_000_000], outside: [0, 100_000_001]),
        Limits(.batchSize, \.batchSize, inside: [1, 4096], outside: [0, 4097]),
        Limits(.sequenceLength, \.sequenceLength, inside: [1, 1_000_000], outside: [0, 1_000_001]),
        Limits(.gradientAccumulation, \.accumulation, inside: [1, 65536], outside: [0, 65537]),
        Limits(.seed, \.seed, inside: [0, .max], outside: [-1, .min]),
        Limits(.evaluationInterval, \.evaluationInterval, inside: [0, .max], outside: [-1, .min]),
    ]

    /// Those that are nearest to an open end, and those that stand at a closed one.
    static let realNumbers: [Limits<Double>] = [
        Limits(.alpha, \.alpha, inside: [.leastNonzeroMagnitude, 1e-3, .greatestFiniteMagnitude], outside: [0, -1, .infinity, .nan]),
        Limits(.zStd, \.initialization.zStandardDeviation, inside: [.leastNonzeroMagnitude, 1e3], outside: [0, -1, 1e3.nextUp, .nan]),
        Limits(.w1Gain, \.initialization.w1Gain, inside: [0, 100], outside: [-0.1, 100.0.nextUp, .nan]),
        Limits(.w2Gain, \.initialization.w2Gain, inside: [0, 100], outside: [-0.1, 100.0.nextUp, .nan]),
        Limits(.hiddenBias, \.initialization.hiddenBias, inside: [0, 100], outside: [-0.1, 100.0.nextUp, .nan]),
        Limits(.learningRate, \.learningRate, inside: [.leastNonzeroMagnitude, 1e-9, 10], outside: [0, 10.0.nextUp, .nan]),
        Limits(.warmupRatio, \.warmupRatio, inside: [0, 1], outside: [-0.1, 1.0.nextUp, .nan]),
        Limits(.beta1, \.beta1, inside: [0, 1.0.nextDown], outside: [-0.1, 1, .nan]),
        Limits(.beta2, \.beta2, inside: [0, 1.0.nextDown], outside: [-0.1, 1, .nan]),
        Limits(.epsilon, \.epsilon, inside: [.leastNonzeroMagnitude, 1e-12, 1.0.nextDown], outside: [0, 1, .nan]),
        Limits(.weightDecay, \.weightDecay, inside: [0, 10], outside: [-1, 10.0.nextUp, .nan]),
        Limits(.maxGradientNorm, \.maximumGradientNorm, inside: [0, 5, .greatestFiniteMagnitude], outside: [-1, .infinity, .nan]),
        Limits(.dropout, \.dropout, inside: [0, 0.99], outside: [-0.1, 0.99.nextUp, 1, .nan]),
    ]

    @Test(arguments: wholeNumbers) func wholeNumbersHaveRanges(limits: Limits<Int>) { expectRange(limits) }

    @Test(arguments: realNumbers) func realNumbersHaveRanges(limits: Limits<Double>) { expectRange(limits) }

    private func expectRange<Value>(_ limits: Limits<Value>) {
        for value in limits.inside { expect(limits.setting, limits.field, value, isInside: true) }
        for value in limits.outside { expect(limits.setting, limits.field, value, isInside: false) }
    }

    // MARK: There and back

    /// A configuration as it comes back from the text of a checkpoint.
    private static func thereAndBack(_ configuration: TrainingConfiguration) throws -> TrainingConfiguration {
        try TrainingConfiguration(json: try JSONValue(parsing: Array(configuration.json.serialized().utf8)))
    }

    @Test(arguments: TrainingMethod.allCases) func everyLimitComesBackToTheBit(method: TrainingMethod) throws {
        var configuration = TrainingConfiguration()
        configuration.method = method
        func expect<Value: Equatable>(_ limits: Limits<Value>) throws {
            for value in limits.inside {
                var changed = configuration
                changed[keyPath: limits.field] = value
                guard changed.dropout == 0 || method.type.takesDropout else { continue }
                #expect(try Self.thereAndBack(changed) == changed, "\(limits.setting) \(value)")
            }
        }
        for limits in Self.wholeNumbers { try expect(limits) }
        for limits in Self.realNumbers { try expect(limits) }
    }

    @Test(arguments: TrainingMethod.allCases) func everyChoiceComesBack(method: TrainingMethod) throws {
        for schedule in TrainingConfiguration.Schedule.allCases {
            for precision in Precision.allCases {
                for targets in [["all-linear"], ["q_proj", "model.layers.0.mlp.up_proj"]] {
                    var configuration = Self.changed
                    (configuration.method, configuration.schedule, configuration.precision) = (method, schedule, precision)
                    (configuration.targets, configuration.dropout) = (targets, 0)
                    #expect(try Self.thereAndBack(configuration) == configuration)
                }
            }
        }
    }

    /// Numbers of all sizes, with all their digits.
    @Test(arguments: [1, .random(in: 0 ... .max)] as [UInt64]) func anyNumberComesBackToTheBit(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<40 {
            var configuration = TrainingConfiguration()
            configuration.alpha = Double(
                sign: .plus, exponent: .random(in: -1022...1023, using: &random), significand: .random(in: 1..<2, using: &random))
            configuration.learningRate = .random(in: 1e-9...10, using: &random)
            configuration.beta2 = 1 - .random(in: 1e-9...1, using: &random)
            configuration.epsilon = Double(
                sign: .plus, exponent: .random(in: -1022 ... -1, using: &random), significand: .random(in: 1..<2, using: &random))
            configuration.seed = .random(in: 0 ... .max, using: &random)
            #expect(try Self.thereAndBack(configuration) == configuration, "seed \(seed)")
        }
    }

    /// The error of a configuration in which fields are replaced.
    private static func fault(replacing fields: OrderedDictionary<String, JSONValue>) throws -> TrainingError? {
        var all = try #require(changed.json.objectValue)
        for (key, value) in fields { all[key] = value }
        do throws(TrainingError) {
            _ = try TrainingConfiguration(json: .object(all))
            return nil
        } catch {
            return error
        }
    }

    @Test func aFieldOfAnotherTypeIsNamed() throws {
        for key in try #require(Self.changed.json.objectValue).keys {
            for value in [JSONValue.null, [:], .string("x")] {
                let error = try Self.fault(replacing: [key: value])
                #expect(error?.code == .invalidCheckpoint && error?.message.contains("\"\(key)\"") == true, "\(key): \(String(describing: error))")
            }
        }
        // A list of targets with something else in it is none.
        let error = try Self.fault(replacing: ["targets": ["q_proj", 1]])
        #expect(error?.code == .invalidCheckpoint && error?.message.contains("\"targets\"") == true)
    }

    /// It may decide what the run computes.
    @Test(arguments: ["momentum", "Rank", "rank ", ""]) func aFieldThatIsNotKnownIsNamed(key: String) throws {
        let error = try Self.fault(replacing: [key: 1])
        #expect(error?.code == .invalidCheckpoint && error?.message.contains("\"\(key)\"") == true, "\(String(describing: error))")
    }

    @Test(arguments: ["rank", "dropout", "seed"]) func aNumberOutOfItsRangeIsNamed(key: String) throws {
        let error = try Self.fault(replacing: [key: -1])
        #expect(error?.code == .invalidCheckpoint && error?.message.contains("\(key) must be") == true, "\(String(describing: error))")
    }

    @Test(arguments: TrainingMethod.allCases) func dropoutIsRefusedWhereTheMethodHasNone(method: TrainingMethod) {
        var configuration = TrainingConfiguration()
        (configuration.method, configuration.dropout) = (method, 0.5)
        let fault = Self.fault(configuration)
        #expect((fault == nil) == method.type.takesDropout && fault?.message.contains("the method \(method.rawValue)") ?? true)
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

    @Test func theScaleIsAlphaOverTheRankOrItsRoot() {
        var configuration = TrainingConfiguration()
        (configuration.rank, configuration.alpha) = (16, 8)
        #expect(configuration.scale == 0.5)
        configuration.rankStabilized = true
        #expect(configuration.scale == 2)
    }
}
