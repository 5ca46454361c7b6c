internal import Tensors

/// W + s·B·A.
///
/// Source: Hu et al. 2021, section 4.1.
public struct LoRA: UpdateMethod {
    public static let name = "LoRA"
    public static let parts: [String] = []

    /// Of W as the adapter has it.
    private let factors: LowRankFactors
    private let isTransposed: Bool

    public init(_ factors: LowRankFactors) { self.init(factors, isTransposed: false) }

    private init(_ factors: LowRankFactors, isTransposed: Bool) { (self.factors, self.isTransposed) = (factors, isTransposed) }

    public init(_ parts: UpdateParts) throws(UpdateFault) {
        throw UpdateFault(.missing, parts.module, "each dialect names the factors of a LoRA otherwise")
    }

    public var outputs: Int { isTransposed ? factors.a.columns : factors.b.rows }
    public var inputs: Int { isTransposed ? factors.b.rows : factors.a.columns }
    public var rank: Int? { factors.a.rows }
    public var matrices: [FactorMatrix] { [factors.a, factors.b] }
    public var transposed: LoRA { LoRA(factors, isTransposed: !isTransposed) }
    /// Not where A is zero: −0 + 0 is another number.
    public var isZero: Bool { factors.b.isZero }
    public var form: UpdateForm { .lowRank(isTransposed ? factors.transposed : factors) }

    public func rows(_ range: Range<Int>) -> LoRA? {
        guard range != 0..<outputs else { return self }
        return isTransposed ? nil : LoRA(LowRankFactors(a: factors.a, b: factors.b.rows(from: range.lowerBound, count: range.count)))
    }
}

/// B·A.
public struct LowRankFactors: Sendable {
    /// [rank, inputs].
    public let a: FactorMatrix
    /// [outputs, rank].
    public let b: FactorMatrix

    /// - Precondition: the ranks are the same.
    public init(a: FactorMatrix, b: FactorMatrix) {
        precondition(a.rows == b.columns)
        (self.a, self.b) = (a, b)
    }

    /// - Throws: `UpdateFault.shape` for tensors that are no matrices, or cannot be multiplied.
    init(left: FactorMatrix, right: FactorMatrix) throws(UpdateFault) {
        guard left.tensorShape.count >= 2, right.tensorShape.count >= 2, left.columns == right.rows, left.rows > 0, left.columns > 0,
            right.columns > 0
        else {
            throw UpdateFault(
                .shape, left.name,
                "\(describe(shape: left.tensorShape)) and \(right.name) \(describe(shape: right.tensorShape)) cannot be multiplied")
        }
        self.init(a: right, b: left)
    }

    public var rank: Int { a.rows }
    /// (B·A)ᵀ.
    public var transposed: LowRankFactors { LowRankFactors(a: b.transposed, b: a.transposed) }
}
