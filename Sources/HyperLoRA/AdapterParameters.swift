public import Kernels

/// A linear layer that is adapted: W [out, in] becomes W + s·B·A.
public struct AdaptedModule: Sendable, Equatable {
    public let name: String
    public let out: Int
    public let input: Int

    public init(name: String, out: Int, input: Int) {
        self.name = name
        self.out = out
        self.input = input
    }

    /// Numbers in A and B together.
    func factorCount(rank: Int) -> Int { rank * (input + out) }
}

/// A trainable tensor by name, with its optimiser moments.
public struct ParameterTensor: Sendable {
    public let name: String
    public let shape: [Int]
    public let state: AdamWState
}

/// Something that has parameters, makes the factors A and B of every adapted module from them, and learns from the
/// gradients of the factors.
public protocol AdapterParameters: Sendable {
    var modules: [AdaptedModule] { get }
    /// A, B and their gradients, one for each module.
    var updates: [LowRankUpdate] { get }
    /// Every trainable tensor, in a fixed order.
    var tensors: [ParameterTensor] { get }

    /// Makes A and B from the parameters: after initialisation, and after the parameters were read from a file.
    func produceFactors()
    /// ‖gradient of all parameters‖², for the factors' gradients as they stand.
    func gradientNormSquared() -> Double
    /// One optimiser step; A and B follow the new parameters.
    func step(_ step: AdamWStep)
}

extension AdapterParameters {
    public var parameterCount: Int { tensors.reduce(0) { $0 + $1.state.parameters.count } }

    public func zeroGradients() {
        for update in updates {
            update.gradientA.fill(0)
            update.gradientB.fill(0)
        }
    }
}

/// The factors of all modules, and their gradients, in two allocations. A module's A and B lie one after the other, as
/// the output v of its hypernetwork does.
struct FactorStorage: Sendable {
    /// v of each module: A as [rank, in], then B as [out, rank].
    let factors: [FloatView]
    let gradients: [FloatView]
    let updates: [LowRankUpdate]

    init(modules: [AdaptedModule], rank: Int, scale: Float) {
        let counts = modules.map { $0.factorCount(rank: rank) }
        let (factors, gradients) = (FloatArena(counts: counts).views, FloatArena(counts: counts).views)
        updates = zip(modules, zip(factors, gradients)).map { module, views in
            let split = rank * module.input
            let end = views.0.count
            return LowRankUpdate(
                rank: rank, scale: scale, a: views.0[0..<split], b: views.0[split..<end], gradientA: views.1[0..<split],
                gradientB: views.1[split..<end])
        }
        (self.factors, self.gradients) = (factors, gradients)
    }
}
