import Kernels
import LanguageModel
import Methods
import OrderedCollections
import Safetensors
import TestSupport
import Testing
import Weights

@testable import Training

/// Everything here is compared with what torch computed, in F32, from the same weights: fixtures/generate.py made the
/// dumps.
@Suite struct GoldenParityTests {
    let compute: Compute
    let model: TransformerConfiguration
    let weights: TransformerWeights
    let batch: SafetensorsFile

    init() throws {
        compute = Compute(pool: try #require(ThreadPool(threads: 2)))
        model = try TransformerConfiguration(folder: Repository.tinyLlama)
        weights = try TransformerWeights(configuration: model, files: try ModelWeights(path: Repository.tinyLlama), compute: compute)
        batch = try SafetensorsFile(path: Repository.golden("batch.safetensors"))
    }

    private func transformer(rank: Int) throws -> Transformer {
        try Transformer(weights: weights, compute: compute, batch: 2, sequence: 48, maximumRank: rank, training: true)
    }

    @Test func logitsAndLossOfTheBaseModelAreThoseOfTorch() throws {
        let expected = try SafetensorsFile(path: Repository.golden("forward.safetensors"))
        let transformer = try transformer(rank: 0)
        let logits = transformer.logits(tokens: try batch.integers("input_ids")).array
        let worst = zip(logits, try expected.floats("logits")).map { abs($0 - $1) }.max() ?? .infinity
        #expect(worst <= 1e-4, "largest difference of a logit")
        let losses = transformer.losses(tokens: try batch.integers("input_ids"), targets: try batch.integers("targets"))
        let mean = losses.reduce(0) { $0 + Double($1) } / Double(losses.count)
        #expect(abs(mean - Double(try expected.floats("loss")[0])) <= 1e-5)
    }

    @Test(arguments: [
        (TrainingMethod.lora, "lora.safetensors", ["lora_A", "lora_B"], 2e-3),
        (.opLoRA, "op-lora.safetensors", OPLoRAParameters.tensorNames, 1e-3),
    ])
    func gradientsAndTwentyStepsAreThoseOfTorch(method: TrainingMethod, dump: String, names: [String], learningRate: Double) throws {
        let golden = try SafetensorsFile(path: Repository.golden(dump))
        var configuration = TrainingConfiguration()
        configuration.method = method
        (configuration.rank, configuration.alpha, configuration.width, configuration.embedding) = (4, 8, 8, 16)
        (configuration.steps, configuration.warmupRatio, configuration.learningRate) = (20, 0.1, learningRate)
        (configuration.batchSize, configuration.sequenceLength, configuration.weightDecay) = (2, 48, 0.01)
        let targets = try TargetSelection(configuration.targets, configuration: model)
        let parameters = configuration.makeParameters(modules: targets.modules, compute: compute)
        for tensor in parameters.tensors {
            tensor.state.parameters.copy(from: try golden.floats("init." + tensor.goldenName))
        }
        parameters.produceFactors()
        let updates = targets.updates(of: parameters, layers: model.layers)
        let transformer = try transformer(rank: 4)

        // A hypernetwork's largest gradients are never stored, so all are read off the first moment: after one step from
        // zero it is (1 − beta1) · gradient.
        parameters.zeroGradients()
        let loss = transformer.lossAndGradients(
            tokens: try batch.integers("input_ids"), targets: try batch.integers("targets"), updates: updates)
        #expect(abs(loss - Double(try golden.floats("loss")[0])) <= 1e-5)
        _ = parameters.backward()
        parameters.step(
            AdamWStep(learningRate: 0, beta1: 0, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, step: 1, gradientScale: 1))
        for tensor in parameters.tensors {
            let difference = relativeDifference(tensor.state.moments[0].array, try golden.floats("grad." + tensor.goldenName))
            #expect(difference <= 1e-4, "relative difference of the gradient of \(tensor.name)")
            tensor.state.moments[0].fill(0)
            tensor.state.moments[1].fill(0)
        }

        // Twenty steps with warm-up, clipping and decay.
        let inputs = try batch.integers("steps.input_ids"), labels = try batch.integers("steps.targets")
        let losses = try golden.floats("losses")
        for step in 0..<20 {
            let range = step * 96..<(step + 1) * 96
            parameters.zeroGradients()
            let loss = transformer.lossAndGradients(tokens: Array(inputs[range]), targets: Array(labels[range]), updates: updates)
            #expect(abs(loss - Double(losses[step])) <= 1e-4, "loss before step \(step + 1)")
            let norm = parameters.backward().squareRoot()
            parameters.step(
                AdamWStep(
                    learningRate: Float(configuration.learningRate(atStep: step)), beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01,
                    step: step + 1, gradientScale: Float(min(1, 1 / (norm + 1e-6)))))
        }
    }

    /// ‖a − b‖ / ‖b‖
    private func relativeDifference(_ a: [Float], _ b: [Float]) -> Double {
        let difference = zip(a, b).reduce(0.0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) }
        let size = b.reduce(0.0) { $0 + Double($1) * Double($1) }
        return (difference / max(size, 1e-30)).squareRoot()
    }
}

extension ParameterTensor {
    /// The dumps call a hypernetwork's tensors `<module>.z` and so on.
    fileprivate var goldenName: String { name.replacing(".hypernetwork.", with: ".") }
}
