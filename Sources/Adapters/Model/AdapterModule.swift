/// One adapted parameter of a module: W′ = W + scale·B·A, or with a magnitude m (DoRA) W′ = (m/‖W + scale·B·A‖)·(W + scale·B·A).
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

    /// A [rank, in] and B [out, rank].
    public struct Factors: Sendable {
        public let a: FactorMatrix
        public let b: FactorMatrix

        /// - Precondition: the ranks are the same.
        public init(a: FactorMatrix, b: FactorMatrix) {
            precondition(a.rows == b.columns)
            self.a = a
            self.b = b
        }
    }

    /// The norms that take the place of those of W + scale·B·A.
    public enum Magnitude: Sendable {
        /// [1, out]: of what makes one output.
        case ofOutputs(FactorMatrix)
        /// [1, in]: of what one input is multiplied by.
        case ofInputs(FactorMatrix)

        public var values: FactorMatrix {
            switch self {
            case .ofOutputs(let values), .ofInputs(let values): values
            }
        }
    }

    /// The part of a pipeline that has the module: `unet`, `transformer`, `text_encoder`, `text_encoder_2`; `nil` for a model
    /// that is no pipeline.
    public internal(set) var component: String?
    /// As the adapter names it; see `Adapter.namesAreFlattened`.
    public internal(set) var path: ModulePath
    /// The name of the parameter in the module: `weight`, or that of a bare parameter such as `gate_up_proj`.
    public internal(set) var parameter: String
    public internal(set) var kind: Kind
    /// One, or for a stack of experts one for each; all of the same shapes.
    public internal(set) var factors: [Factors]
    public internal(set) var alpha: Double
    /// What multiplies B·A: alpha/rank, or alpha/√rank for a rank-stabilised adapter, rounded in binary64.
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
    /// Whether A is one that modules share and of which this one takes the first columns, as many as its weight has inputs (VeRA).
    public internal(set) var sharesInputs: Bool

    /// How many numbers it consists of.
    public var parameterCount: Int {
        (factors.flatMap { [$0.a, $0.b] } + [magnitude?.values, bias].compactMap(\.self)).reduce(0) { $0 + $1.rows * $1.columns }
    }

    /// - Precondition: there are factors.
    public init(
        component: String? = nil, path: ModulePath, parameter: String = "weight", kind: Kind, factors: [Factors], alpha: Double, scale: Double,
        magnitude: Magnitude? = nil, bias: FactorMatrix? = nil, kernel: [Int] = [], isInterleaved: Bool = false,
        sharesInputs: Bool = false
    ) {
        precondition(!factors.isEmpty)
        self.component = component
        self.path = path
        self.parameter = parameter
        self.kind = kind
        self.factors = factors
        self.alpha = alpha
        self.scale = scale
        self.magnitude = magnitude
        self.bias = bias
        self.kernel = kernel
        self.isInterleaved = isInterleaved
        self.sharesInputs = sharesInputs
    }

    public init(path: ModulePath, kind: Kind, loraA: FactorMatrix, loraB: FactorMatrix, alpha: Double, scale: Double) {
        self.init(path: path, kind: kind, factors: [Factors(a: loraA, b: loraB)], alpha: alpha, scale: scale)
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
            magnitude = .ofOutputs(FactorMatrix(name: "\(path).magnitude", rows: 1, columns: magnitudes.count, values: magnitudes))
        }
    }

    /// A [rank, in]; of a stack of experts that of the first.
    public var loraA: FactorMatrix { factors[0].a }
    /// B [out, rank]; of a stack of experts that of the first.
    public var loraB: FactorMatrix { factors[0].b }
    public var rank: Int { loraA.rows }
    public var inputs: Int { loraA.columns }
    public var outputs: Int { loraB.rows }
    /// The name of the parameter in a model's files.
    public var parameterName: String { "\(place).\(parameter)" }
    /// What reports call it: the module, or the parameter where it is not the module's weight.
    public var label: ModulePath { parameter == "weight" ? place : place.appending(parameter) }
    /// The alpha that gives the scale where the scale is alpha/rank.
    var plainAlpha: Double { scale == alpha / Double(rank) ? alpha : scale * Double(rank) }
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
