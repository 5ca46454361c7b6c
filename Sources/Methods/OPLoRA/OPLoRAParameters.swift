public import Kernels

/// How the hypernetworks of OP-LoRA start. The paper leaves the size and the spread of z open.
public struct HypernetworkInitialization: Sendable, Equatable {
    /// Standard deviation of z.
    public var zStandardDeviation: Double
    /// W1 is uniform within gain/√e, and the rows of W2 that make A within gain/√k (Kaiming-uniform with a = √5 at 1).
    public var w1Gain: Double
    public var w2Gain: Double
    /// c1 is uniform within this; zero in the paper.
    public var hiddenBias: Double

    public init(zStandardDeviation: Double, w1Gain: Double = 1, w2Gain: Double = 1, hiddenBias: Double = 0) {
        self.zStandardDeviation = zStandardDeviation
        self.w1Gain = w1Gain
        self.w2Gain = w2Gain
        self.hiddenBias = hiddenBias
    }
}

/// The hypernetwork of one module (OP-LoRA, section 3):
///
///     u = W1·z + c1        z [e], W1 [k, e], c1 [k]
///     v = W2·relu(u) + c2  W2 [p, k], c2 [p], p = r·(in + out)
///
/// v is A [r, in] and then B [out, r]. It depends on no input: after training v is all that remains.
struct ModuleHypernetwork: Sendable {
    let z, w1, c1, w2, c2: ParameterState
    /// v, and dL/dv.
    let factors, gradient: FloatView
    /// h = relu(u), and the gradients of u and z.
    let hidden, dHidden, dz: FloatView
    let partials: FloatView
    let embedding: Int
    let width: Int

    static func counts(factors p: Int, embedding e: Int, width k: Int) -> [Int] { [e, k * e, k, p * k, p] }

    init(states: [ParameterState], factors: FloatView, gradient: FloatView, embedding: Int, width: Int) {
        (z, w1, c1, w2, c2) = (states[0], states[1], states[2], states[3], states[4])
        (self.factors, self.gradient) = (factors, gradient)
        (self.embedding, self.width) = (embedding, width)
        let views = FloatArena(counts: [width, width, embedding, 16 * max(embedding, width)]).views
        (hidden, dHidden, dz, partials) = (views[0], views[1], views[2], views[3])
    }

    /// ΔW is zero at the start: the rows of W2 that make B are zero, and so is c2.
    func initialize(_ initialization: HypernetworkInitialization, split: Int, random: inout RandomSource) {
        for i in 0..<embedding { z.parameters[i] = Float(random.normal() * initialization.zStandardDeviation) }
        let w1Bound = initialization.w1Gain / Double(embedding).squareRoot()
        for i in 0..<width * embedding { w1.parameters[i] = random.uniform(within: w1Bound) }
        for i in 0..<width { c1.parameters[i] = random.uniform(within: initialization.hiddenBias) }
        let w2Bound = initialization.w2Gain / Double(width).squareRoot()
        for i in 0..<split * width { w2.parameters[i] = random.uniform(within: w2Bound) }
    }

    /// hidden = relu(W1·z + c1)
    func computeHidden(_ compute: Compute) {
        compute.affine(hidden, matrix: w1.parameters, x: z.parameters, bias: c1.parameters)
        for i in 0..<width { hidden[i] = max(0, hidden[i]) }
    }

    /// v = W2·hidden + c2
    func produce(_ compute: Compute) {
        computeHidden(compute)
        compute.affine(factors, matrix: w2.parameters, x: hidden, bias: c2.parameters)
    }

    /// From dL/dv: the gradients of u and z, kept for the step, and the square of the norm of all gradients. dW2 is the
    /// outer product of dL/dv and h, and dW1 that of du and z: their norms follow without either being stored.
    func backward(_ compute: Compute) -> Double {
        compute.transposedProduct(dHidden, matrix: w2.parameters, x: gradient, partials: partials)
        for i in 0..<width where hidden[i] <= 0 { dHidden[i] = 0 }
        compute.transposedProduct(dz, matrix: w1.parameters, x: dHidden, partials: partials)
        let ofFactors = compute.sumOfSquares(gradient) * (1 + compute.sumOfSquares(hidden))
        let ofHidden = compute.sumOfSquares(dHidden) * (1 + compute.sumOfSquares(z.parameters))
        return ofFactors + ofHidden + compute.sumOfSquares(dz)
    }

    /// Every parameter takes its step, with the gradients of `backward`; v follows.
    func step(_ step: some OptimizerStep, oldHidden: FloatView, oldZ: FloatView, _ compute: Compute) {
        oldHidden.copy(from: hidden)
        oldZ.copy(from: z.parameters)
        step.apply(to: z, gradient: dz, compute)
        step.apply(to: c1, gradient: dHidden, compute)
        // dW1 = du · zᵀ with z as it was; the product with the new z is the new u.
        step.apply(to: w1, left: dHidden, right: oldZ, product: hidden, vector: z.parameters, bias: c1.parameters, compute)
        for i in 0..<width { hidden[i] = max(0, hidden[i]) }
        step.apply(to: c2, gradient: gradient, compute)
        step.apply(to: w2, left: gradient, right: oldHidden, product: factors, vector: hidden, bias: c2.parameters, compute)
    }
}

/// The settings of hypernetworks.
public struct HypernetworkSettings: Sendable {
    /// The size of z, and the hidden units.
    public let embedding: Int
    public let width: Int
    public let initialization: HypernetworkInitialization

    public init(embedding: Int, width: Int, initialization: HypernetworkInitialization) {
        (self.embedding, self.width, self.initialization) = (embedding, width, initialization)
    }
}

/// OP-LoRA: one hypernetwork for each module, nothing shared.
public final class OPLoRAParameters: TrainableMethod {
    public static let name = "op-lora"
    public static let hasHypernetworks = true

    public let modules: [AdaptedModule]
    public let updates: [LowRankUpdate]
    public let tensors: [ParameterTensor]
    private let networks: [ModuleHypernetwork]
    private let compute: Compute
    private let oldHidden: FloatView
    private let oldZ: FloatView

    /// The names of a hypernetwork's tensors, after the module's name.
    public static let tensorNames = ["z", "W1", "c1", "W2", "c2"]

    public init(_ settings: MethodSettings) {
        let (modules, rank) = (settings.modules, settings.rank)
        let (embedding, width) = (settings.hypernetwork.embedding, settings.hypernetwork.width)
        let storage = FactorStorage(modules: modules, rank: rank, scale: settings.scale)
        let counts = modules.map { ModuleHypernetwork.counts(factors: $0.factorCount(rank: rank), embedding: embedding, width: width) }
        let states = parameterStates(counts.flatMap(\.self), moments: settings.moments)
        let perModule = Self.tensorNames.count
        networks = modules.indices.map { index in
            ModuleHypernetwork(
                states: Array(states[index * perModule..<(index + 1) * perModule]), factors: storage.factors[index],
                gradient: storage.gradients[index], embedding: embedding, width: width)
        }
        var tensors: [ParameterTensor] = []
        for (index, module) in modules.enumerated() {
            var random = RandomSource(seed: settings.seed, stream: UInt64(index))
            networks[index].initialize(settings.hypernetwork.initialization, split: rank * module.input, random: &random)
            let p = module.factorCount(rank: rank)
            let shapes = [[embedding], [width, embedding], [width], [p, width], [p]]
            for (offset, (name, shape)) in zip(Self.tensorNames, shapes).enumerated() {
                tensors.append(ParameterTensor(name: "\(module.name).hypernetwork.\(name)", shape: shape, state: states[index * perModule + offset]))
            }
        }
        self.modules = modules
        compute = settings.compute
        self.tensors = tensors
        updates = storage.updates
        oldHidden = FloatBuffer(count: width).view
        oldZ = FloatBuffer(count: embedding).view
        produceFactors()
    }

    public func produceFactors() {
        for network in networks { network.produce(compute) }
    }

    public func backward() -> Double {
        networks.reduce(0) { $0 + $1.backward(compute) }
    }

    public func step(_ step: some OptimizerStep) {
        for network in networks { network.step(step, oldHidden: oldHidden, oldZ: oldZ, compute) }
    }
}
