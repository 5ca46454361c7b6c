public import Kernels

/// LoRA as Hu et al. 2021 have it: the factors are the parameters. A is Kaiming-uniform with a = √5, which is uniform
/// within 1/√in; B is zero.
public final class PlainLoRA: AdapterParameters {
    public let modules: [AdaptedModule]
    public let updates: [LowRankUpdate]
    public let tensors: [ParameterTensor]
    private let gradients: [FloatView]
    private let compute: Compute

    public init(modules: [AdaptedModule], rank: Int, scale: Float, seed: UInt64, compute: Compute) {
        let storage = FactorStorage(modules: modules, rank: rank, scale: scale)
        let counts = storage.factors.map(\.count)
        let (first, second) = (FloatArena(counts: counts).views, FloatArena(counts: counts).views)
        var tensors: [ParameterTensor] = []
        for (index, module) in modules.enumerated() {
            var random = RandomSource(seed: seed, stream: UInt64(index))
            let bound = 1 / Double(module.input).squareRoot()
            let split = rank * module.input
            let v = storage.factors[index]
            for i in 0..<split { v[i] = random.uniform(within: bound) }
            for (suffix, shape, range) in [("lora_A", [rank, module.input], 0..<split), ("lora_B", [module.out, rank], split..<v.count)] {
                tensors.append(
                    ParameterTensor(
                        name: "\(module.name).\(suffix)", shape: shape,
                        state: AdamWState(parameters: v[range], first: first[index][range], second: second[index][range])))
            }
        }
        self.modules = modules
        self.compute = compute
        self.tensors = tensors
        updates = storage.updates
        gradients = updates.flatMap { [$0.gradientA, $0.gradientB] }
    }

    public func produceFactors() {}

    public func gradientNormSquared() -> Double {
        gradients.reduce(0) { $0 + compute.sumOfSquares($1) }
    }

    public func step(_ step: AdamWStep) {
        for (tensor, gradient) in zip(tensors, gradients) { compute.adamW(tensor.state, gradient: gradient, step: step) }
    }
}
