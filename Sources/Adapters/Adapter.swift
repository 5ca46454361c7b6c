internal import FileIO
public import Safetensors

/// An adapter, whatever dialect it was stored in: low-rank updates of modules, and whatever was trained whole beside them.
public struct Adapter: Sendable {
    /// The dialects that are read.
    public enum Dialect: String, Sendable {
        case peft
        /// mlx-lm.
        case mlx
        /// A training run of this project, collapsed in memory.
        case opck
    }

    /// The file or folder that was opened.
    public let path: String
    public let dialect: Dialect
    /// The safetensors file that holds the factors; `nil` for an adapter made in memory.
    public let weightsPath: String?
    /// The model that the adapter says it was trained on: a hub name or a path.
    public let baseModel: String?
    /// The modules that the configuration says it adapts, as written there: names, or one regular expression.
    public let targets: [String]
    /// The adapted modules, sorted by path; none twice.
    public let modules: [AdapterModule]
    /// Tensors, or rows of them, that take the place of the base's, sorted by the tensor's name.
    public let replacements: [Replacement]
    /// Oddities that change nothing, each one sentence.
    public let remarks: [String]

    public init(
        path: String, dialect: Dialect, weightsPath: String?, baseModel: String?, targets: [String], modules: [AdapterModule],
        replacements: [Replacement] = [], remarks: [String] = []
    ) {
        self.path = path
        self.dialect = dialect
        self.weightsPath = weightsPath
        self.baseModel = baseModel
        self.targets = targets
        self.modules = modules.sorted { ($0.path, $0.parameter) < ($1.path, $1.parameter) }
        self.replacements = replacements.sorted { $0.tensor.utf8.lexicographicallyPrecedes($1.tensor.utf8) }
        self.remarks = remarks
    }

    /// The safetensors file that holds the factors of the adapter at `path`; `nil` where there is none.
    ///
    /// - Parameter path: as for `read`.
    public static func weightsPath(at path: String) -> String? {
        let names = [MLX.weightsName, PEFT.weightsName]
        guard FileSystem.isFolder(path) else { return names.contains(FileSystem.lastComponent(path)) ? path : nil }
        let folder = (try? PEFT.adapterFolder(in: path)) ?? path
        return names.map { FileSystem.join(folder, $0) }.first(where: FileSystem.exists)
    }

    /// Opens an adapter of any dialect that is read.
    ///
    /// - Parameter path: a folder of PEFT or mlx-lm, or the safetensors file in it.
    /// - Throws: `AdapterError`, `SafetensorsError` or `FileError`.
    public static func read(path: String) throws -> Adapter {
        try MLX.claims(path) ? MLX.read(path: path) : PEFT.read(path: path)
    }
}

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

    public let path: ModulePath
    /// The name of the parameter in the module: `weight`, or that of a bare parameter such as `gate_up_proj`.
    public let parameter: String
    public let kind: Kind
    /// One, or for a stack of experts one for each; all of the same shapes.
    public let factors: [Factors]
    public let alpha: Double
    /// What multiplies B·A: alpha/rank, or alpha/√rank for a rank-stabilised adapter, rounded in binary64.
    public let scale: Double
    /// m [1, out] of a weight-decomposed adapter (DoRA).
    public let magnitude: FactorMatrix?
    /// What is added to the module's bias, times the scale: [1, out].
    public let bias: FactorMatrix?

    /// - Precondition: there are factors.
    public init(
        path: ModulePath, parameter: String = "weight", kind: Kind, factors: [Factors], alpha: Double, scale: Double,
        magnitude: FactorMatrix? = nil, bias: FactorMatrix? = nil
    ) {
        precondition(!factors.isEmpty)
        self.path = path
        self.parameter = parameter
        self.kind = kind
        self.factors = factors
        self.alpha = alpha
        self.scale = scale
        self.magnitude = magnitude
        self.bias = bias
    }

    public init(path: ModulePath, kind: Kind, loraA: FactorMatrix, loraB: FactorMatrix, alpha: Double, scale: Double) {
        self.init(path: path, kind: kind, factors: [Factors(a: loraA, b: loraB)], alpha: alpha, scale: scale)
    }

    /// A [rank, in]; of a stack of experts that of the first.
    public var loraA: FactorMatrix { factors[0].a }
    /// B [out, rank]; of a stack of experts that of the first.
    public var loraB: FactorMatrix { factors[0].b }
    public var rank: Int { loraA.rows }
    public var inputs: Int { loraA.columns }
    public var outputs: Int { loraB.rows }
    /// The name of the parameter in a model's files.
    public var parameterName: String { "\(path).\(parameter)" }
    /// What reports call it: the module, or the parameter where it is not the module's weight.
    public var label: ModulePath { parameter == "weight" ? path : path.appending(parameter) }
}

/// Values that take the place of the base's.
public struct Replacement: Sendable {
    /// The tensor's name in a model's files.
    public let tensor: String
    /// The values: the whole tensor, or one row for each of `rows`.
    public let values: WeightFiles.Location
    /// The rows that they replace; `nil` for the whole tensor.
    public let rows: [Int]?

    public init(tensor: String, values: WeightFiles.Location, rows: [Int]? = nil) {
        self.tensor = tensor
        self.values = values
        self.rows = rows
    }
}
