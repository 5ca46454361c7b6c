internal import Kernels

/// The largest singular values and vectors of a matrix that is only seen through products with narrow ones.
///
/// Block power iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4) with a basis a little wider than what is asked for, until
/// what the values have of ‖ΔW‖² stands still; then the small matrix in that basis is decomposed. The start is fixed, so that the
/// same weights give the same factors.
struct TruncatedSVD {
    /// [rows, rank].
    let u: Matrix
    /// In descending order.
    let values: [Double]
    /// [columns, rank].
    let v: Matrix

    /// How much wider than what is kept the basis is.
    private static let surplus = 8
    private static let maximumPasses = 40
    /// A change of the energy, as a share of ‖ΔW‖², below which it stands still.
    private static let tolerance = 0x1p-44

    /// - Parameter total: ‖ΔW‖², which is not zero.
    init(_ difference: some StreamedMatrix, choice: RankChoice, total: Double) {
        let limit = min(difference.rows, difference.columns)
        var width = min(limit, min(choice.rank ?? 16, limit) + Self.surplus)
        var basis = Self.start(rows: difference.columns, columns: width)
        while true {
            let found = Self.iterate(difference, basis: basis, kept: min(width, choice.rank ?? width), total: total)
            let count = choice.count(of: found.values, total: total)
            let energy = found.values.prefix(count).reduce(0) { $0 + $1 * $1 }
            let isEnough = choice.rank != nil || width == limit || energy >= (choice.energy ?? 0) * total && count + Self.surplus / 2 <= width
            guard !isEnough else {
                u = found.u.prefix(columns: count)
                values = Array(found.values.prefix(count))
                v = found.v.prefix(columns: count)
                return
            }
            // More values are needed: the ones that are known go on.
            let wider = min(limit, 2 * width)
            basis = found.v.appending(columns: Self.start(rows: difference.columns, columns: wider - width)).qr().q
            width = wider
        }
    }

    private static func start(rows: Int, columns: Int) -> Matrix {
        var random = RandomSource(seed: 0, stream: 0)
        return Matrix(rows: rows, columns: columns, values: (0..<rows * columns).map { _ in 2 * random.uniform() - 1 })
    }

    private static func iterate(
        _ difference: some StreamedMatrix, basis: Matrix, kept: Int, total: Double
    ) -> (u: Matrix, values: [Double], v: Matrix) {
        var right = basis
        var energy = -1.0
        var pass = 0
        while true {
            let left = difference.times(right).qr().q
            // ΔW is about left·(right·r)ᵀ.
            let (q, r) = difference.transposedTimes(left).qr()
            right = q
            pass += 1
            let small = r.svd()
            let now = small.s.prefix(kept).reduce(0) { $0 + $1 * $1 }
            guard abs(now - energy) <= tolerance * total || pass == maximumPasses else {
                energy = now
                continue
            }
            // rᵀ = V·S·Uᵀ of r = U·S·Vᵀ.
            return (left * small.v, small.s, right * small.u)
        }
    }
}
