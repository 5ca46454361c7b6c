internal import Tensors

/// W + diag(b)·B·diag(d)·A, with one frozen random A and B for all modules, of which each takes the first columns of A and the first rows
/// of B, and two trained vectors for each. As a LoRA it has the factors diag(d)·A and diag(b)·B and the scale one.
///
/// Source: Kopiczko, Blankevoort & Asano 2023, section 3; PEFT 0.21, `tuners/vera`.
public struct VeRA: UpdateMethod {
    public static let name = "VeRA"
    public static let parts = ["vera_lambda_d", "vera_lambda_b"]
    public static let sharedParts = ["vera_A", "vera_B"]
    public static let peft: PEFTFields? = PEFTFields(
        type: "VERA", alpha: nil, free: ["projection_prng_key", "save_projection", "vera_dropout", "d_initial", "init_weights"])

    /// [1, rank] and [1, outputs].
    private let d: FactorMatrix
    private let b: FactorMatrix
    /// [rank, inputs of the widest module] and [outputs of the highest one, rank].
    private let sharedA: FactorMatrix
    private let sharedB: FactorMatrix
    /// Of the weight; `nil` until it is known.
    private let width: Int?
    private let isTransposed: Bool

    private init(_ other: VeRA, width: Int?, isTransposed: Bool) {
        (d, b, sharedA, sharedB) = (other.d, other.b, other.sharedA, other.sharedB)
        (self.width, self.isTransposed) = (width, isTransposed)
    }

    public init(_ parts: UpdateParts) throws(UpdateFault) {
        for part in Self.sharedParts where parts[part] == nil {
            throw UpdateFault(
                .missing, part,
                "the file does not hold the frozen vera_A and vera_B, which only PEFT's random numbers could give back; save the adapter with save_projection"
            )
        }
        let (sharedA, sharedB) = (try parts.required("vera_A"), try parts.required("vera_B"))
        try self.init(
            d: try parts.required("vera_lambda_d"), b: try parts.required("vera_lambda_b"), sharedA: sharedA, sharedB: sharedB,
            module: parts.module)
    }

    /// - Parameters:
    ///   - d: [1, rank].
    ///   - b: [1, outputs].
    public init(d: FactorMatrix, b: FactorMatrix, sharedA: FactorMatrix, sharedB: FactorMatrix, module: String) throws(UpdateFault) {
        let (rank, outputs) = (sharedA.rows, b.columns)
        guard sharedA.tensorShape.count == 2, sharedB.tensorShape.count == 2, d.rows == 1, b.rows == 1, d.columns == rank, sharedB.columns == rank,
            outputs <= sharedB.rows, rank > 0, sharedA.columns > 0,
            outputs > 0
        else {
            throw UpdateFault(
                .shape, module,
                "vectors of \(d.columns) and \(outputs) elements do not fit the shared A \(describe(shape: sharedA.shape)) and B \(describe(shape: sharedB.shape))"
            )
        }
        (self.d, self.b, self.sharedA, self.sharedB) = (d, b, sharedA, sharedB)
        (width, isTransposed) = (nil, false)
    }

    public var outputs: Int { isTransposed ? width ?? sharedA.columns : b.columns }
    public var inputs: Int { isTransposed ? b.columns : width ?? sharedA.columns }
    public var rank: Int? { sharedA.rows }
    public var matrices: [FactorMatrix] { [d, b, sharedA, sharedB] }
    public var transposed: VeRA { VeRA(self, width: width, isTransposed: !isTransposed) }
    public var isZero: Bool { b.isZero }
    public var isAsWideAsWeight: Bool { width != nil }

    /// Products of two binary32 numbers are exact in binary64.
    public var form: UpdateForm {
        let a = sharedA.columns(from: 0, count: width ?? sharedA.columns).scaled(rows: d.doubles())
        let factors = LowRankFactors(a: a, b: sharedB.rows(from: 0, count: b.columns).scaled(rows: b.doubles()))
        return .lowRank(isTransposed ? factors.transposed : factors)
    }

    public func fitting(outputs: Int, inputs: Int) -> (any UpdateMethod)? {
        let (high, wide) = isTransposed ? (inputs, outputs) : (outputs, inputs)
        guard high == b.columns, wide <= width ?? sharedA.columns else { return nil }
        return VeRA(self, width: wide, isTransposed: isTransposed)
    }
}
