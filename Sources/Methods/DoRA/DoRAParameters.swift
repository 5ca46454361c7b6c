public import Kernels

/// DoRA as Liu et al. 2024 have it: A and B as in LoRA, and a magnitude for each output, which takes the place of the norm of
/// its row of W + s·B·A. The magnitudes start as the norms of the base's rows, so that nothing changes at first.
public final class DoRAParameters: TrainableMethod {
    public static let name = "dora"
    /// PEFT thins the input of the base's own product, too, which this does not.
    public static let takesDropout = false
    public static let scalesOutputs = true

    public let modules: [AdaptedModule]
    public let updates: [LowRankUpdate]
    public let tensors: [ParameterTensor]
    private let gradients: [FloatView]
    private let weights: [WeightMatrix]?
    private let compute: Compute

    public init(_ settings: MethodSettings) {
        let counts = settings.modules.map(\.out)
        let states = parameterStates(counts, moments: settings.moments)
        let (norms, factors, gradients) = (FloatArena(counts: counts).views, FloatArena(counts: counts).views, FloatArena(counts: counts).views)
        let magnitudes = counts.indices.map {
            MagnitudeUpdate(magnitudes: states[$0].parameters, norms: norms[$0], factors: factors[$0], gradient: gradients[$0])
        }
        let storage = FactorStorage(modules: settings.modules, rank: settings.rank, scale: settings.scale, magnitudes: magnitudes)
        let factorTensors = LoRAParameters.tensors(storage, settings)
        tensors = settings.modules.indices.flatMap { index in
            let module = settings.modules[index]
            return factorTensors[2 * index...2 * index + 1]
                + [ParameterTensor(name: "\(module.name).magnitude", shape: [module.out], state: states[index])]
        }
        modules = settings.modules
        updates = storage.updates
        self.gradients = updates.enumerated().flatMap { [$1.gradientA, $1.gradientB, gradients[$0]] }
        (weights, compute) = (settings.weights, settings.compute)
        // B is zero, so the norms are those of the base.
        for (update, weight) in zip(updates, settings.weights ?? []) {
            guard let magnitude = update.magnitude else { continue }
            compute.rowNorms(magnitude.magnitudes, of: weight, update: update)
        }
        produceFactors()
    }

    /// The norms follow A and B, and the factors of the outputs all three.
    public func produceFactors() {
        for (update, weight) in zip(updates, weights ?? []) {
            guard let magnitude = update.magnitude else { continue }
            compute.rowNorms(magnitude.norms, of: weight, update: update)
            for row in 0..<magnitude.norms.count { magnitude.factors[row] = magnitude.magnitudes[row] / magnitude.norms[row] }
        }
    }

    public func backward() -> Double { gradients.reduce(0) { $0 + compute.sumOfSquares($1) } }

    public func step(_ step: some OptimizerStep) {
        for (tensor, gradient) in zip(tensors, gradients) { step.apply(to: tensor.state, gradient: gradient, compute) }
        produceFactors()
    }
}
