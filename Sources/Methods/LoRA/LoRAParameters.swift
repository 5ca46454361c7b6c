public import Kernels

/// LoRA as Hu et al. 2021 have it: the factors are the parameters. A is Kaiming-uniform with a = √5, which is uniform
/// within 1/√in; B is zero.
public final class LoRAParameters: TrainableMethod {
    public static let name = "lora"

    public let modules: [AdaptedModule]
    public let updates: [LowRankUpdate]
    public let tensors: [ParameterTensor]
    private let gradients: [FloatView]
    private let compute: Compute

    public init(_ settings: MethodSettings) {
        let storage = FactorStorage(modules: settings.modules, rank: settings.rank, scale: settings.scale)
        modules = settings.modules
        compute = settings.compute
        tensors = Self.tensors(storage, settings)
        updates = storage.updates
        gradients = updates.flatMap { [$0.gradientA, $0.gradientB] }
    }

    /// A and B of each module as parameters, as they start.
    static func tensors(_ storage: FactorStorage, _ settings: MethodSettings) -> [ParameterTensor] {
        let moments = (0..<settings.moments).map { _ in FloatArena(counts: storage.factors.map(\.count)).views }
        return settings.modules.enumerated().flatMap { index, module in
            var random = RandomSource(seed: settings.seed, stream: UInt64(index))
            let bound = 1 / Double(module.input).squareRoot()
            let split = settings.rank * module.input
            let v = storage.factors[index]
            for i in 0..<split { v[i] = random.uniform(within: bound) }
            let state = ParameterState(parameters: v, moments: moments.map { $0[index] })
            return [
                ParameterTensor(name: "\(module.name).lora_A", shape: [settings.rank, module.input], state: state[0..<split]),
                ParameterTensor(name: "\(module.name).lora_B", shape: [module.out, settings.rank], state: state[split..<v.count]),
            ]
        }
    }

    public func produceFactors() {}

    public func backward() -> Double { gradients.reduce(0) { $0 + compute.sumOfSquares($1) } }

    public func step(_ step: some OptimizerStep) {
        for (tensor, gradient) in zip(tensors, gradients) { step.apply(to: tensor.state, gradient: gradient, compute) }
    }
}
