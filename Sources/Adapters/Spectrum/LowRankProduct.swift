internal import Kernels
internal import Methods
internal import Tensors

/// s·B·A, as it is reduced to fewer singular values without ever being multiplied out.
struct LowRankProduct {
    /// [out, rank], with the scale in it.
    let b: Matrix
    /// [rank, in].
    let a: Matrix

    init(b: Matrix, a: Matrix) {
        precondition(b.columns == a.rows)
        self.b = b
        self.a = a
    }

    init(_ factors: LowRankFactors, scale: Double) {
        self.init(
            b: Matrix(rows: factors.b.rows, columns: factors.b.columns, values: factors.b.doubles().map { $0 * scale }),
            a: Matrix(rows: factors.a.rows, columns: factors.a.columns, values: factors.a.doubles()))
    }

    /// The sum of products, as one of the sum of their ranks.
    static func sum(_ parts: [LowRankProduct]) -> LowRankProduct {
        precondition(!parts.isEmpty)
        let b = parts.dropFirst().reduce(parts[0].b) { $0.appending(columns: $1.b) }
        return LowRankProduct(
            b: b, a: Matrix(rows: b.columns, columns: parts[0].a.columns, values: parts.flatMap(\.a.values)))
    }

    /// U, the singular values in descending order, and V, of B·A: thin QR of both factors, then the decomposition of the small
    /// matrix R_B·R_Aᵀ.
    private var decomposition: (u: Matrix, values: [Double], v: Matrix) {
        let left = Self.orthogonal(b)
        let right = Self.orthogonal(a.transposed)
        let core = left.r * right.r.transposed
        // The decomposition wants at least as many rows as columns.
        guard core.rows < core.columns else {
            let small = core.svd()
            return (left.q * small.u, small.s, right.q * small.v)
        }
        let small = core.transposed.svd()
        return (left.q * small.v, small.s, right.q * small.u)
    }

    /// ‖B·A‖², that of R_B·R_Aᵀ.
    var squaredNorm: Double {
        (Self.orthogonal(b).r * Self.orthogonal(a.transposed).r.transposed).values.reduce(0) { $0 + $1 * $1 }
    }

    /// The sum of ‖bᵢ‖·‖aᵢ‖, which ‖B·A‖ would be at most.
    private var sizeOfTerms: Double {
        var (columns, rows) = ([Double](repeating: 0, count: b.columns), [Double](repeating: 0, count: b.columns))
        for row in 0..<b.rows { for term in columns.indices { columns[term] += b[row, term] * b[row, term] } }
        for term in rows.indices { for column in 0..<a.columns { rows[term] += a[term, column] * a[term, column] } }
        return zip(columns, rows).reduce(0) { $0 + ($1.0 * $1.1).squareRoot() }
    }

    /// Q·R of a matrix, which may be wider than it is high: then Q is the unit matrix.
    private static func orthogonal(_ matrix: Matrix) -> (q: Matrix, r: Matrix) {
        guard matrix.rows < matrix.columns else { return matrix.qr() }
        var unit = Matrix(zeros: matrix.rows, matrix.rows)
        for place in 0..<matrix.rows { unit[place, place] = 1 }
        return (unit, matrix)
    }

    /// The largest singular values as factors.
    ///
    /// - Parameters:
    ///   - path: the adapter, and
    ///   - name: the module, for errors.
    /// - Throws: `AdapterError.notFinite` where the squares leave the range of numbers.
    func truncated(_ choice: RankChoice, path: String, name: String) throws(AdapterError) -> LowRankProduct {
        let (u, values, v) = decomposition
        let total = values.reduce(0) { $0 + $1 * $1 }
        guard total.isFinite else {
            throw AdapterError(.notFinite, path: path, subject: name, "its update is too large to be decomposed, or NaN")
        }
        let count = choice.count(of: values, total: total)
        return Self.balanced(u: u.prefix(columns: count), values: Array(values.prefix(count)), v: v.prefix(columns: count))
    }

    /// 1 − ‖ΔW − B·A‖² / ‖ΔW‖² for another product ΔW; one where that is zero, or so near it that its terms cancel but for rounding.
    func energy(of target: LowRankProduct) -> Double {
        let total = target.squaredNorm
        guard !(total.squareRoot() <= 0x1p-46 * target.sizeOfTerms) else { return 1 }
        return 1 - LowRankProduct.sum([target, LowRankProduct(b: b.scaled(by: -1), a: a)]).squaredNorm / total
    }

    /// Factors of products that make one stack, in memory: they have one rank, and zeros up to it.
    ///
    /// - Parameters:
    ///   - name: the module, and
    ///   - path: the adapter, for errors.
    /// - Throws: `AdapterError.notFinite`.
    static func factors(
        of products: [LowRankProduct], name: String, dtypes: (a: DType, b: DType), path: String
    ) throws -> [LowRankFactors] {
        let rank = products.map(\.b.columns).max() ?? 0
        return try products.map { product in
            let missing = rank - product.b.columns
            let b = product.b.appending(columns: Matrix(zeros: product.b.rows, missing))
            let a = product.a.transposed.appending(columns: Matrix(zeros: product.a.columns, missing)).transposed
            return .init(
                a: try FactorMatrix(name: name + ".lora_A", a, dtype: dtypes.a, path: path),
                b: try FactorMatrix(name: name + ".lora_B", b, dtype: dtypes.b, path: path))
        }
    }

    /// B = U·√S and A = √S·Vᵀ: both of the same size, as element types of few bits want it.
    static func balanced(u: Matrix, values: [Double], v: Matrix) -> LowRankProduct {
        let roots = values.map { $0.squareRoot() }
        return LowRankProduct(b: u.scaled(columns: roots), a: v.scaled(columns: roots).transposed)
    }
}

extension FactorMatrix {
    /// A matrix in memory, each element rounded once to the type.
    ///
    /// - Throws: `AdapterError.notFinite`.
    init(name: String, _ matrix: Matrix, dtype: DType, path: String) throws {
        let exact = FactorMatrix(name: name, rows: matrix.rows, columns: matrix.columns, values: matrix.values)
        var bytes: [UInt8] = []
        try OutputTensor(name, [matrix.rows, matrix.columns], exact).withBytes(as: dtype, path: path) { span in
            // Sound: the buffer is the span's own, for as long as it is asked for.
            unsafe span.withUnsafeBytes { unsafe bytes.append(contentsOf: $0) }
        }
        self.init(name: name, dtype: dtype, rows: matrix.rows, columns: matrix.columns, bytes: bytes)
    }

    var matrix: Matrix { Matrix(rows: rows, columns: columns, values: doubles()) }
}
