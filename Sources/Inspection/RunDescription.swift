package import JSON
internal import Methods
package import Training
internal import VisibleText

/// What a training run is and how far it has come.
package struct RunDescription {
    private let run: TrainingCheckpoint

    package init(_ run: TrainingCheckpoint) { self.run = run }

    private var configuration: TrainingConfiguration { run.subject.configuration }

    package var facts: [String] {
        let c = configuration
        var facts = [
            "\(c.method.rawValue) run on \(run.subject.baseName), step \(run.progress.step) of \(c.steps)",
            "rank \(c.rank), alpha \(Format.fixed(c.alpha, 2)), scale \(Format.fixed(c.scale, 4)), \(run.modules.count) modules, targets \(c.targets.joined(separator: ","))",
        ]
        if c.method.type.hasHypernetworks {
            facts.append("hypernetworks: width \(c.width), embedding \(c.embedding), z-std \(Format.scientific(c.initialization.zStandardDeviation))")
        }
        facts.append(
            "batch \(c.batchSize) × \(c.sequenceLength) tokens, learning rate \(Format.scientific(c.learningRate)) \(c.schedule.rawValue), seed \(c.seed)"
        )
        if let loss = run.progress.losses.last { facts.append("last training loss \(Format.fixed(Double(loss), 4)) nats a token") }
        if let first = run.progress.evaluations.first, let last = run.progress.evaluations.last {
            let measured = [first, last].prefix(first.step == last.step ? 1 : 2)
            facts.append("held-out loss " + measured.map { "\(Format.fixed($0.loss, 4)) at step \($0.step)" }.joined(separator: ", "))
        }
        return facts
    }

    package var json: JSONValue {
        let c = configuration
        return [
            "method": .string(c.method.rawValue), "base": .string(run.subject.baseName), "step": .integer(run.progress.step),
            "steps": .integer(c.steps), "rank": .integer(c.rank), "alpha": .real(c.alpha), "scale": .real(c.scale),
            "targets": .array(c.targets.map { .string($0) }), "modules": .integer(run.modules.count),
            "loss": run.progress.losses.last.map { .real(Double($0)) } ?? .null,
            "evaluations": .array(run.progress.evaluations.map { ["step": .integer($0.step), "loss": .real($0.loss)] }),
        ]
    }
}
