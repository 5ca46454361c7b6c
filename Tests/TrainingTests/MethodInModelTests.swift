import Kernels
import LanguageModel
import Methods
import TestSupport
import Testing
import Weights

@testable import Training

/// Every method that is trained, in a whole model.
struct MethodInModelTests {
    private static let (batch, sequence) = (2, 8)

    private let weights: TransformerWeights
    private let targets: TargetSelection
    private let compute: Compute
    private let tokens: [Int32]
    private let labels: [Int32]

    init() throws {
        compute = Compute(pool: try #require(ThreadPool(threads: 2)))
        let configuration = try TransformerConfiguration(folder: Repository.tinyLlama)
        weights = try TransformerWeights(configuration: configuration, files: try ModelWeights(path: Repository.tinyLlama), compute: compute)
        targets = try TargetSelection(["v_proj", "down_proj"], configuration: configuration)
        var random = SeededGenerator(seed: 21)
        let ids = (0..<2 * Self.batch * Self.sequence).map { _ in Int32.random(in: 0..<1024, using: &random) }
        (tokens, labels) = (Array(ids[..<(ids.count / 2)]), Array(ids[(ids.count / 2)...]))
    }

    private func make(_ method: TrainingMethod) throws -> (model: Transformer, parameters: any AdapterParameters, updates: LowRankUpdates) {
        var configuration = TrainingConfiguration()
        (configuration.method, configuration.rank, configuration.width, configuration.embedding) = (method, 4, 8, 16)
        let model = try Transformer(
            weights: weights, compute: compute, batch: Self.batch, sequence: Self.sequence, maximumRank: 4, training: true,
            keepsOutputs: method.type.scalesOutputs)
        let parameters = configuration.makeParameters(
            modules: targets.modules, weights: targets.places.map { weights.linear(layer: $0.layer, $0.linear) }, compute: compute)
        return (model, parameters, targets.updates(of: parameters, layers: weights.configuration.layers))
    }

    /// Not a bit of any logit.
    @Test(arguments: TrainingMethod.allCases) func theStartChangesNoLogit(method: TrainingMethod) throws {
        let (model, parameters, updates) = try make(method)
        let base = model.logits(tokens: tokens).array
        #expect(model.logits(tokens: tokens, updates: updates).array == base)
        // The test sees an adapter that changes something.
        for update in parameters.updates { update.b.fill(0.01) }
        #expect(model.logits(tokens: tokens, updates: updates).array != base)
    }

    /// From the loss through the model and the factors to the parameters: what `backward` gives is the slope of the loss, along the
    /// gradient of all parameters and along that of each kind of them.
    @Test(arguments: TrainingMethod.allCases) func theGradientOfTheParametersIsTheSlopeOfTheLoss(method: TrainingMethod) throws {
        let (model, parameters, updates) = try make(method)
        var random = SeededGenerator(seed: 22)
        // Away from the start, where B is zero.
        for tensor in parameters.tensors {
            let noise = random.values(tensor.state.parameters.count, spread: 0.05)
            tensor.state.parameters.copy(from: zip(tensor.state.parameters.array, noise).map { $0 + $1 })
        }
        parameters.produceFactors()
        parameters.zeroGradients()
        _ = model.lossAndGradients(tokens: tokens, targets: labels, updates: updates)
        let norm = parameters.backward()
        // With beta1 = 0 the first moments are the gradients.
        parameters.step(AdamWStep(learningRate: 0, beta1: 0, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, step: 1, gradientScale: 1))
        let tensors = parameters.tensors
        let gradients = tensors.map { $0.state.moments[0].array }
        let squares = gradients.map { $0.reduce(0.0) { $0 + Double($1) * Double($1) } }
        #expect(abs(norm / squares.reduce(0, +) - 1) < 1e-4)

        let starts = tensors.map(\.state.parameters.array)
        func loss(_ moved: [Int], _ factor: Double) -> Double {
            for index in moved {
                tensors[index].state.parameters.copy(from: zip(starts[index], gradients[index]).map { Float(Double($0) + factor * Double($1)) })
            }
            parameters.produceFactors()
            let losses = model.losses(tokens: tokens, targets: labels, updates: updates)
            for index in moved { tensors[index].state.parameters.copy(from: starts[index]) }
            return losses.reduce(0) { $0 + Double($1) } / Double(losses.count)
        }
        let kinds = Dictionary(grouping: tensors.indices) { tensors[$0].name.split(separator: ".").last ?? "" }
        for (kind, indices) in kinds.sorted(by: { $0.key < $1.key }) + [("all", Array(tensors.indices))] {
            let square = indices.reduce(0) { $0 + squares[$1] }
            // As far as changes the loss by four thousandths, which is far from its last digit.
            let factor = 2e-3 / square
            let slope = (loss(indices, factor) - loss(indices, -factor)) / (2 * factor)
            #expect(abs(slope / square - 1) < 0.03, "\(kind)")
        }
    }
}
