internal import Kernels
internal import Tensors

/// W + s·(B₁·A₁ ∘ B₂·A₂): the elementwise product of two low-rank matrices, which has the rank r² at most.
///
/// The tensors are `hada_w1_a` [outputs, r], `hada_w1_b` [r, inputs], and `hada_w2_a`, `hada_w2_b` likewise. Of a convolution
/// `hada_w1_b` is [r, inputs·positions], or there is a core `hada_t1` [r, r, …] with the kernel, between `hada_w1_a` [r, outputs] and
/// `hada_w1_b` [r, inputs].
///
/// Source: Hyeon-Woo, Ye-Bin & Oh 2021 (FedPara), proposition 1; lycoris-lora 4.1, `functional/loha.py`; PEFT 0.21, `tuners/loha`.
public struct LoHa: UpdateMethod {
    public static let name = "LoHa"
    public static let parts = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"]
    public static let peft: PEFTFields? = PEFTFields(
        type: "LOHA", alpha: "alpha", free: ["rank_dropout", "module_dropout", "use_effective_conv2d", "init_weights"])

    /// Of W as it is updated.
    let first: LowRankFactors
    let second: LowRankFactors
    private let stored: [FactorMatrix]
    private let isOfKernel: Bool

    private init(first: LowRankFactors, second: LowRankFactors, stored: [FactorMatrix], isOfKernel: Bool) {
        (self.first, self.second, self.stored, self.isOfKernel) = (first, second, stored, isOfKernel)
    }

    public init(_ parts: UpdateParts) throws(UpdateFault) {
        first = try Self.factors("1", of: parts)
        second = try Self.factors("2", of: parts)
        guard first.b.rows == second.b.rows, first.a.columns == second.a.columns else {
            throw UpdateFault(
                .shape, first.b.name,
                "the products of \(parts.module) are \(describe(shape: [first.b.rows, first.a.columns])) and \(describe(shape: [second.b.rows, second.a.columns])), and cannot be multiplied element by element"
            )
        }
        stored = Self.parts.compactMap { parts[$0] }
        isOfKernel = true
    }

    private static func factors(_ number: String, of parts: UpdateParts) throws(UpdateFault) -> LowRankFactors {
        let (a, b) = (try parts.required("hada_w\(number)_a"), try parts.required("hada_w\(number)_b"))
        guard let core = parts["hada_t\(number)"] else { return try LowRankFactors(left: a, right: b) }
        return try LowRankFactors(left: a.transposed, right: try FactorMatrix.composed(core: core, inner: b))
    }

    public var outputs: Int { first.b.rows }
    public var inputs: Int { first.a.columns }
    public var rank: Int? { first.rank }
    public var matrices: [FactorMatrix] { stored }
    public var transposed: LoHa { LoHa(first: first.transposed, second: second.transposed, stored: stored, isOfKernel: false) }
    public var isZero: Bool { [first, second].contains { $0.a.isZero || $0.b.isZero } }
    public var mayBeOfConvolution: Bool { isOfKernel }
    public var form: UpdateForm { .evaluated(self) }
}

/// y = W + (s·(acc₁·acc₂)), each operation rounded to binary64; acc₁ and acc₂ are the sums of the products over the rank in ascending
/// order, as those of a LoRA are.
extension LoHa: EvaluatedUpdate {
    public func prepared(scale: Double) throws(UpdateFault) -> any PreparedUpdate {
        Prepared(first: try first.merged(), second: try second.merged(), scale: scale)
    }

    private struct Prepared: PreparedUpdate {
        let first: MergeFactors
        let second: MergeFactors
        let scale: Double

        func apply(to rows: inout [Double], _ range: Range<Int>) {
            let count = range.count * first.inputs
            let (one, two) = (first.product(rows: range), second.product(rows: range))
            for place in 0..<count { rows[place] += scale * (one[place] * two[place]) }
        }
    }
}
