internal import Kernels
internal import Tensors

/// W + s·(w₁ ⊗ w₂), a Kronecker product: element [i·k + q, j·n + p] of it is w₁[i, j]·w₂[q, p], for w₂ of k rows and n columns.
///
/// Either matrix is whole, `lokr_w1` and `lokr_w2`, or a product: `lokr_w1_a` [rows, r] and `lokr_w1_b` [r, columns], likewise of the
/// second. Of a convolution `lokr_w2` has the kernel as its last dimensions, `lokr_w2_b` as part of its columns, or a core `lokr_t2`
/// [r, r, …] stands between `lokr_w2_a` [r, rows] and `lokr_w2_b` [r, columns].
///
/// Source: Edalati et al. 2022 (KronA), section 3; Yeh et al. 2023 (LyCORIS), section 3.3; lycoris-lora 4.1, `functional/lokr.py`; PEFT
/// 0.21, `tuners/lokr`.
public struct LoKr: UpdateMethod {
    public static let name = "LoKr"
    public static let parts = ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"]
    public static let peft: PEFTFields? = PEFTFields(
        type: "LOKR", alpha: "alpha",
        free: [
            "rank_dropout", "module_dropout", "use_effective_conv2d", "decompose_both", "decompose_factor", "rank_dropout_scale", "init_weights",
        ])

    /// One of the two matrices.
    enum Factor: Sendable {
        case whole(FactorMatrix)
        case product(LowRankFactors)

        var rows: Int {
            switch self {
            case .whole(let matrix): matrix.rows
            case .product(let factors): factors.b.rows
            }
        }
        var columns: Int {
            switch self {
            case .whole(let matrix): matrix.columns
            case .product(let factors): factors.a.columns
            }
        }
        var rank: Int? { if case .product(let factors) = self { factors.rank } else { nil } }
        var isZero: Bool {
            switch self {
            case .whole(let matrix): matrix.isZero
            case .product(let factors): factors.a.isZero || factors.b.isZero
            }
        }
        var transposed: Factor {
            switch self {
            case .whole(let matrix): .whole(matrix.transposed)
            case .product(let factors): .product(factors.transposed)
            }
        }
    }

    /// Of W as it is updated.
    let first: Factor
    let second: Factor
    private let stored: [FactorMatrix]
    private let isOfKernel: Bool

    private init(first: Factor, second: Factor, stored: [FactorMatrix], isOfKernel: Bool) {
        (self.first, self.second, self.stored, self.isOfKernel) = (first, second, stored, isOfKernel)
    }

    public init(_ parts: UpdateParts) throws(UpdateFault) {
        first = try Self.factor("1", of: parts)
        second = try Self.factor("2", of: parts)
        let (rows, overflows) = first.rows.multipliedReportingOverflow(by: second.rows)
        let (columns, overflow) = first.columns.multipliedReportingOverflow(by: second.columns)
        guard !overflows, !overflow, rows > 0, columns > 0 else {
            throw UpdateFault(.shape, parts.module, "its Kronecker product is larger than any weight, or empty")
        }
        stored = Self.parts.compactMap { parts[$0] }
        isOfKernel = true
    }

    private static func factor(_ number: String, of parts: UpdateParts) throws(UpdateFault) -> Factor {
        let products = ["lokr_w\(number)_a", "lokr_w\(number)_b", "lokr_t\(number)"]
        if let whole = parts["lokr_w\(number)"] {
            if let other = products.lazy.compactMap({ parts[$0] }).first {
                throw UpdateFault(.shape, other.name, "the module \(parts.module) has \(whole.name), too, and only one of the two can be meant")
            }
            // A vector is no matrix: which of its dimensions is missing is not said.
            guard whole.tensorShape.count >= 2 else {
                throw UpdateFault(.shape, whole.name, "its shape \(describe(shape: whole.tensorShape)) is not that of a matrix")
            }
            return .whole(whole)
        }
        let (a, b) = (try parts.required(products[0]), try parts.required(products[1]))
        guard let core = parts[products[2]] else { return .product(try LowRankFactors(left: a, right: b)) }
        return .product(try LowRankFactors(left: a.transposed, right: try FactorMatrix.composed(core: core, inner: b)))
    }

    public var outputs: Int { first.rows * second.rows }
    public var inputs: Int { first.columns * second.columns }
    public var rank: Int? { first.rank ?? second.rank }
    public var matrices: [FactorMatrix] { stored }
    public var transposed: LoKr { LoKr(first: first.transposed, second: second.transposed, stored: stored, isOfKernel: false) }
    public var isZero: Bool { first.isZero || second.isZero }
    public var mayBeOfConvolution: Bool { isOfKernel }
    public var form: UpdateForm { .evaluated(self) }
}

/// y = W + (s·(w₁·w₂)), each operation rounded to binary64; an element of a matrix that is a product is the sum over the rank in
/// ascending order.
extension LoKr: EvaluatedUpdate {
    public func prepared(scale: Double) throws(UpdateFault) -> any PreparedUpdate {
        Prepared(first: try Rows(first), second: try Rows(second), scale: scale)
    }

    /// A matrix of which single rows are asked for: a product is never whole in memory.
    private enum Rows: Sendable {
        case whole([Double], rows: Int, columns: Int)
        case product(MergeFactors)

        init(_ factor: Factor) throws(UpdateFault) {
            switch factor {
            case .whole(let matrix):
                try matrix.requireFinite()
                self = .whole(matrix.doubles(), rows: matrix.rows, columns: matrix.columns)
            case .product(let factors): self = .product(try factors.merged())
            }
        }

        var rows: Int {
            switch self {
            case .whole(_, let rows, _): rows
            case .product(let factors): factors.outputs
            }
        }
        var columns: Int {
            switch self {
            case .whole(_, _, let columns): columns
            case .product(let factors): factors.inputs
            }
        }

        subscript(_ row: Int) -> ArraySlice<Double> {
            switch self {
            case .whole(let values, _, let columns): values[row * columns..<(row + 1) * columns]
            case .product(let factors): factors.product(rows: row..<row + 1)[...]
            }
        }
    }

    private struct Prepared: PreparedUpdate {
        let first: Rows
        let second: Rows
        let scale: Double

        func apply(to rows: inout [Double], _ range: Range<Int>) {
            var place = 0
            for row in range {
                let (left, right) = (first[row / second.rows], second[row % second.rows])
                for one in left {
                    for two in right {
                        rows[place] += scale * (one * two)
                        place += 1
                    }
                }
            }
        }
    }
}
