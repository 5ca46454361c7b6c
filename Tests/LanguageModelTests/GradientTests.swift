import Families
import JSON
import Kernels
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

@testable import LanguageModel

/// Every family that runs, held to what its parts promise: the gradient is the slope of the loss.
struct GradientTests {
    private static let vocabulary = 17
    private static let (batch, sequence, rank) = (2, 9, 3)

    /// Small sizes, of which no two are the same where they may differ.
    private static func configuration(_ type: String) throws -> TransformerConfiguration {
        try TransformerConfiguration(
            json: [
                "model_type": .string(type), "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 6, "vocab_size": .integer(vocabulary), "rms_norm_eps": 1e-5,
            ], path: "config.json")
    }

    /// A model with random weights, norms that are not one, and biases.
    private static func weights(_ configuration: TransformerConfiguration, _ random: inout SeededGenerator, _ compute: Compute) throws
        -> TransformerWeights
    {
        let folder = try TemporaryFolder()
        var shapes: [(String, [Int])] = [
            ("model.embed_tokens.weight", [vocabulary, configuration.hiddenSize]), ("lm_head.weight", [vocabulary, configuration.hiddenSize]),
            ("model.norm.weight", [configuration.hiddenSize]),
        ]
        for layer in 0..<configuration.layers {
            for shape in configuration.linears {
                shapes += [(shape.path(layer: layer) + ".weight", [shape.out, shape.input]), (shape.path(layer: layer) + ".bias", [shape.out])]
            }
            shapes += configuration.norms.map { ("model.layers.\(layer).\($0.module).weight", [$0.size]) }
        }
        let tensors = shapes.map { name, shape in
            let isNorm = name.contains("norm")
            return TestTensor(name, .f32, shape, values: random.values(shape.reduce(1, *), spread: 0.6).map { isNorm ? 1 + $0 : $0 })
        }
        try writeSafetensors(tensors, to: folder.path("model.safetensors"))
        return try TransformerWeights(
            configuration: configuration, files: try ModelWeights(path: folder.path("model.safetensors")), compute: compute)
    }

    @Test(arguments: ModelFamilies.running, [1, 2]) func theGradientIsTheSlope(type: String, threads: Int) throws {
        let seed: UInt64 = 11
        var random = SeededGenerator(seed: seed)
        let compute = Compute(pool: try #require(ThreadPool(threads: threads)))
        let configuration = try Self.configuration(type)
        let weights = try Self.weights(configuration, &random, compute)
        let model = try Transformer(
            weights: weights, compute: compute, batch: Self.batch, sequence: Self.sequence, maximumRank: Self.rank, training: true)
        let linears = configuration.linears
        // One layer without an adapter, so that gradients pass through it alone.
        var all: [LowRankUpdate?] = []
        for place in 0..<configuration.layers * linears.count {
            let shape = linears[place % linears.count]
            let views = FloatArena(counts: [Self.rank * shape.input, shape.out * Self.rank, Self.rank * shape.input, shape.out * Self.rank]).views
            for view in views[0..<2] { view.copy(from: random.values(view.count, spread: 0.5)) }
            all.append(
                place == linears.count + 1
                    ? nil : LowRankUpdate(rank: Self.rank, scale: 0.7, a: views[0], b: views[1], gradientA: views[2], gradientB: views[3]))
        }
        let updates = LowRankUpdates(layers: configuration.layers, linears: linears.count) { all[$0 * linears.count + $1] }
        let count = Self.batch * Self.sequence
        let tokens = (0..<count).map { _ in Int32.random(in: 0..<Int32(Self.vocabulary), using: &random) }
        let targets = (0..<count).map { _ in Int32.random(in: 0..<Int32(Self.vocabulary), using: &random) }
        _ = model.lossAndGradients(tokens: tokens, targets: targets, updates: updates)
        let parameters = all.compactMap { $0 }.flatMap { [($0.a, $0.gradientA.array), ($0.b, $0.gradientB.array)] }
        func mean() -> Double { model.losses(tokens: tokens, targets: targets, updates: updates).reduce(0) { $0 + Double($1) } / Double(count) }
        // Along each parameter's own gradient, where the slope is steepest.
        for (number, (view, gradient)) in parameters.enumerated() {
            let square = gradient.reduce(0.0) { $0 + Double($1) * Double($1) }
            guard square > 1e-10 else {
                Issue.record("parameter \(number) has no gradient, seed \(seed)")
                continue
            }
            let (start, step) = (view.array, 4e-3 / square.squareRoot())
            func loss(_ factor: Double) -> Double {
                view.copy(from: zip(start, gradient).map { Float(Double($0) + factor * step * Double($1)) })
                return mean()
            }
            let slope = (loss(1) - loss(-1)) / (2 * step)
            view.copy(from: start)
            #expect(abs(slope / square - 1) < 0.02, "\(type), parameter \(number), seed \(seed)")
        }
    }
}
