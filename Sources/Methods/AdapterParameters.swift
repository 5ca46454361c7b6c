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

/// A trainable tensor by name, with the moments of its optimizer.
public struct ParameterTensor: Sendable {
    public let name: String
    public let shape: [Int]
    public let state: ParameterState
}

/// Something that has parameters, makes the factors A and B of every adapted module from them, and learns from the
/// gradients of the factors.
public protocol AdapterParameters: Sendable {
    var modules: [AdaptedModule] { get }
    /// A, B and their gradients, one for each module.
    var updates: [LowRankUpdate] { get }
    /// Every trainable tensor, in a fixed order.
    var tensors: [ParameterTensor] { get }

    /// Makes A and B from the parameters: after initialization, and after the parameters were read from a file.
    func produceFactors()
    /// From the gradients of the factors those of all parameters, which the next step takes.
    ///
    /// - Returns: ‖gradient of all parameters‖².
    func backward() -> Double
    /// One optimizer step; A and B follow the new parameters.
    func step(_ step: some OptimizerStep)
}

extension AdapterParameters {
    public var parameterCount: Int { tensors.reduce(0) { $0 + $1.state.parameters.count } }

    public func zeroGradients() {
        for update in updates {
            update.gradientA.fill(0)
            update.gradientB.fill(0)
            update.magnitude?.gradient.fill(0)
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

    /// - Parameter magnitudes: of each module; empty for none.
    init(modules: [AdaptedModule], rank: Int, scale: Float, magnitudes: [MagnitudeUpdate] = []) {
        let counts = modules.map { $0.factorCount(rank: rank) }
        let (factors, gradients) = (FloatArena(counts: counts).views, FloatArena(counts: counts).views)
        updates = modules.indices.map { index in
            let (v, dv) = (factors[index], gradients[index])
            let split = rank * modules[index].input
            let end = v.count
            return LowRankUpdate(
                rank: rank, scale: scale, a: v[0..<split], b: v[split..<end], gradientA: dv[0..<split], gradientB: dv[split..<end],
                magnitude: magnitudes.isEmpty ? nil : magnitudes[index])
        }
        (self.factors, self.gradients) = (factors, gradients)
    }
}

/// Parameters of these sizes with the moments of an optimizer.
func parameterStates(_ counts: [Int], moments: Int) -> [ParameterState] {
    let parameters = FloatArena(counts: counts).views
    let moments = (0..<moments).map { _ in FloatArena(counts: counts).views }
    return counts.indices.map { index in ParameterState(parameters: parameters[index], moments: moments.map { $0[index] }) }
}
