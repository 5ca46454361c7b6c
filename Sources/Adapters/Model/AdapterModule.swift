public import Methods

/// One adapted parameter of a module: what its method makes of W, for most W′ = W + scale·B·A, and with a magnitude m (DoRA)
/// (m/‖W′‖)·W′.
public struct AdapterModule: Sendable {
    /// What kind of parameter it is, and so how it is stored and how B·A meets it.
    public enum Kind: String, Sendable {
        /// W [out, in].
        case linear
        /// W [in, out], as GPT-2's Conv1D has it: it takes (B·A)ᵀ.
        case transposedLinear
        /// W [in, out], in being the vocabulary: it takes (B·A)ᵀ.
        case embedding
        /// W [out, in, height, width], with in·height·width columns of A for each output; one or three dimensions likewise.
        case convolution
        /// A stack of matrices, each with factors of its own.
        case experts
    }

    /// The part of a pipeline that has the module: `unet`, `transformer`, `text_encoder`, `text_encoder_2`; `nil` for a model
    /// that is no pipeline.
    public internal(set) var component: String?
    /// As the adapter names it; see `Adapter.namesAreFlattened`.
    public internal(set) var path: ModulePath
    /// The name of the parameter in the module: `weight`, or that of a bare parameter such as `gate_up_proj`.
    public internal(set) var parameter: String
    public internal(set) var kind: Kind
    /// One, or for a stack of experts one for each; all of the same method and shapes.
    public internal(set) var updates: [any UpdateMethod]
    public internal(set) var alpha: Double
    /// What multiplies the update: alpha/rank, or alpha/√rank for a rank-stabilised adapter, rounded in binary64.
    public internal(set) var scale: Double
    /// m of a weight-decomposed adapter (DoRA).
    public internal(set) var magnitude: Magnitude?
    /// What is added to the module's bias, times the scale: [1, out].
    public internal(set) var bias: FactorMatrix?
    /// The dimensions of the kernel of a convolution, such as [3, 3]; empty for every other kind.
    public internal(set) var kernel: [Int]
    /// Whether the rows of B are in the order in which ggml keeps the query or key projections of some families: the two
    /// halves of each head are interleaved.
    public internal(set) var isInterleaved: Bool

    /// How many numbers it consists of.
    public var parameterCount: Int { matrices.reduce(0) { $0 + $1.rows * $1.columns } }

    /// Everything that the adapter stores for it.
    public var matrices: [FactorMatrix] { updates.flatMap(\.matrices) + [magnitude?.values, bias].compactMap(\.self) }

    /// - Precondition: there are updates.
    public init(
        component: String? = nil, path: ModulePath, parameter: String = "weight", kind: Kind, updates: [any UpdateMethod], alpha: Double,
        scale: Double, magnitude: Magnitude? = nil, bias: FactorMatrix? = nil, kernel: [Int] = [], isInterleaved: Bool = false
    ) {
        precondition(!updates.isEmpty)
        self.component = component
        self.path = path
        self.parameter = parameter
        self.kind = kind
        self.updates = updates
        self.alpha = alpha
        self.scale = scale
        self.magnitude = magnitude
        self.bias = bias
        self.kernel = kernel
        self.isInterleaved = isInterleaved
    }

    /// A LoRA.
    ///
    /// - Precondition: there are factors.
    public init(
        component: String? = nil, path: ModulePath, parameter: String = "weight", kind: Kind, factors: [LowRankFactors], alpha: Double,
        scale: Double, magnitude: Magnitude? = nil, bias: FactorMatrix? = nil, kernel: [Int] = [], isInterleaved: Bool = false
    ) {
        self.init(
            component: component, path: path, parameter: parameter, kind: kind, updates: factors.map { LoRA($0) }, alpha: alpha, scale: scale,
            magnitude: magnitude, bias: bias, kernel: kernel, isInterleaved: isInterleaved)
    }

    public init(path: ModulePath, kind: Kind, loraA: FactorMatrix, loraB: FactorMatrix, alpha: Double, scale: Double) {
        self.init(path: path, kind: kind, factors: [LowRankFactors(a: loraA, b: loraB)], alpha: alpha, scale: scale)
    }

    /// A linear module in memory.
    ///
    /// - Parameters:
    ///   - loraA: A [rank, in], row-major.
    ///   - loraB: B [out, rank], row-major.
    ///   - scale: alpha/rank if none is given.
    ///   - magnitudes: m [out] of a weight-decomposed adapter.
    /// - Precondition: both factors hold whole rows of the rank.
    public init(
        path: ModulePath, rank: Int, alpha: Double, scale: Double? = nil, loraA: [Float], loraB: [Float], magnitudes: [Float]? = nil
    ) {
        precondition(rank > 0 && loraA.count % rank == 0 && loraB.count % rank == 0 && !loraA.isEmpty && !loraB.isEmpty)
        self.init(
            path: path, kind: .linear,
            loraA: FactorMatrix(name: "\(path).lora_A", rows: rank, columns: loraA.count / rank, values: loraA),
            loraB: FactorMatrix(name: "\(path).lora_B", rows: loraB.count / rank, columns: rank, values: loraB), alpha: alpha,
            scale: scale ?? alpha / Double(rank))
        if let magnitudes {
            magnitude = .ofRows(FactorMatrix(name: "\(path).magnitude", rows: 1, columns: magnitudes.count, values: magnitudes))
        }
    }

    /// What it is as its method has it; of a stack of experts that of the first.
    public var update: any UpdateMethod { updates[0] }
    /// The factors of low-rank updates; none where the method is another.
    public internal(set) var factors: [LowRankFactors] {
        get { updates.compactMap(\.lowRank) }
        set { updates = newValue.map { LoRA($0) } }
    }
    public var methodName: String { type(of: update).name }
    /// A [rank, in] of a low-rank update; of a stack of experts that of the first.
    ///
    /// - Precondition: it is low-rank.
    public var loraA: FactorMatrix { factors[0].a }
    /// B [out, rank], likewise.
    public var loraB: FactorMatrix { factors[0].b }
    public var isLowRank: Bool { update.lowRank != nil }
    /// Zero where the method has none.
    public var rank: Int { update.rank ?? 0 }
    public var inputs: Int { update.inputs }
    public var outputs: Int { update.outputs }
    /// Whether how many inputs it has is only told by the weight.
    public var takesInputsOfWeight: Bool { (update as? VeRA)?.isAsWideAsWeight == false }
    /// The name of the parameter in a model's files.
    public var parameterName: String { "\(place).\(parameter)" }
    /// What reports call it: the module, or the parameter where it is not the module's weight.
    public var label: ModulePath { parameter == "weight" ? place : place.appending(parameter) }
    /// The alpha that gives the scale where the scale is alpha/rank.
    var plainAlpha: Double { scale == alpha / Double(max(rank, 1)) ? alpha : scale * Double(max(rank, 1)) }
    /// The path of the parameter in its model, or the module's where it is the module's weight.
    var pathOfParameter: ModulePath { parameter == "weight" ? path : path.appending(parameter) }
    /// The module with something in it changed.
    func changing(_ change: (inout AdapterModule) -> Void) -> AdapterModule {
        var copy = self
        change(&copy)
        return copy
    }

    /// The path with the component in front.
    var place: ModulePath { component.map { path.prefixed(by: $0) } ?? path }
}
