import Foundation
import TestSupport
import Testing

@testable import Training

/// The learning rate of each step.
struct LearningRateTests {
    private static func configuration(
        _ schedule: TrainingConfiguration.Schedule, steps: Int, warmup: Double, rate: Double = 1
    ) -> TrainingConfiguration {
        var configuration = TrainingConfiguration()
        (configuration.schedule, configuration.steps, configuration.warmupRatio, configuration.learningRate) = (schedule, steps, warmup, rate)
        return configuration
    }

    /// The rates of transformers' `get_scheduler`, written down.
    @Test func schedulesAreThoseOfTransformers() {
        func rates(_ schedule: TrainingConfiguration.Schedule, steps: Int, warmup: Double) -> [Double] {
            (0..<steps).map { Self.configuration(schedule, steps: steps, warmup: warmup).learningRate(atStep: $0) }
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

    /// The functions that `get_scheduler` makes, for any settings.
    @Test(arguments: TrainingConfiguration.Schedule.allCases, [1, .random(in: 0 ... .max)] as [UInt64])
    func everyRateIsThatOfTheFormula(schedule: TrainingConfiguration.Schedule, seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<60 {
            let steps = Int.random(in: 1...150, using: &random)
            let ratio = [0, 1, Double.random(in: 0...1, using: &random)].randomElement(using: &random) ?? 0
            let peak = Double.random(in: 1e-6...10, using: &random)
            let configuration = Self.configuration(schedule, steps: steps, warmup: ratio, rate: peak)
            let warmup = ceil(ratio * Double(steps))
            for step in 0..<steps {
                let (t, end) = (Double(step), Double(steps))
                let share: Double
                if t < warmup {
                    share = t / warmup
                } else {
                    share =
                        switch schedule {
                        case .constant: 1
                        case .linear: max(0, (end - t) / max(1, end - warmup))
                        case .cosine: max(0, 0.5 + 0.5 * cos(Double.pi / max(1, end - warmup) * (t - warmup)))
                        }
                }
                let found = configuration.learningRate(atStep: step)
                #expect(abs(found - share * peak) <= 1e-12 * peak, "step \(step) of \(steps), warm-up \(ratio), seed \(seed)")
            }
        }
    }

    /// From 0 up to the rate, which is reached once, and never up again after that.
    @Test(arguments: TrainingConfiguration.Schedule.allCases, [0, 0.03, 0.5, 1])
    func ratesRiseToTheirPeakAndThenOnlyFall(schedule: TrainingConfiguration.Schedule, warmup: Double) {
        let configuration = Self.configuration(schedule, steps: 200, warmup: warmup, rate: 0.25)
        let rates = (0...200).map { configuration.learningRate(atStep: $0) }
        let first = Int(200 * warmup)
        #expect(rates[first] == 0.25 && rates.allSatisfy { (0...0.25).contains($0) })
        #expect(zip(rates[..<first], rates[..<first].dropFirst()).allSatisfy { $0 < $1 } && (first == 0 || rates[0] == 0))
        let rest = rates[first...]
        #expect(zip(rest, rest.dropFirst()).allSatisfy { schedule == .constant ? $0 == $1 : $0 > $1 })
        #expect(schedule == .constant || warmup == 1 || abs(rates[200]) < 1e-15, "it ends at zero")
    }

    /// A run that did all its steps asks for no more of them, but what plans one may.
    @Test(arguments: TrainingConfiguration.Schedule.allCases)
    func aRunWithoutStepsHasARateToo(schedule: TrainingConfiguration.Schedule) {
        for warmup in [0, 0.5, 1] {
            #expect(Self.configuration(schedule, steps: 0, warmup: warmup, rate: 0.25).learningRate(atStep: 0) == 0.25)
        }
    }
}
