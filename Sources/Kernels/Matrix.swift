/// A dense matrix in binary64, row-major, with the factorisations that low-rank algebra needs. Sums have one order, so that the same
/// matrix gives the same bits on every machine.
public struct Matrix: Sendable, Equatable {
    public let rows: Int
    public let columns: Int
    public private(set) var values: [Double]

    /// - Precondition: there are rows · columns values.
    public init(rows: Int, columns: Int, values: [Double]) {
        precondition(values.count == rows * columns)
        self.rows = rows
        self.columns = columns
        self.values = values
    }

    public init(zeros rows: Int, _ columns: Int) {
        self.init(rows: rows, columns: columns, values: [Double](repeating: 0, count: rows * columns))
    }

    public subscript(row: Int, column: Int) -> Double {
        get { values[row * columns + column] }
        set { values[row * columns + column] = newValue }
    }

    public var transposed: Matrix {
        var result = Matrix(zeros: columns, rows)
        for row in 0..<rows { for column in 0..<columns { result[column, row] = self[row, column] } }
        return result
    }

    /// The first columns.
    public func prefix(columns count: Int) -> Matrix { Matrix(unpadding: values, rows: rows, columns: count, width: columns) }

    /// The matrix with other columns behind its own.
    public func appending(columns other: Matrix) -> Matrix {
        precondition(rows == other.rows)
        var result: [Double] = []
        result.reserveCapacity(values.count + other.values.count)
        for row in 0..<rows {
            result += values[row * columns..<(row + 1) * columns]
            result += other.values[row * other.columns..<(row + 1) * other.columns]
        }
        return Matrix(rows: rows, columns: columns + other.columns, values: result)
    }

    /// Each column multiplied by its factor.
    public func scaled(columns factors: [Double]) -> Matrix {
        precondition(factors.count == columns)
        var result = self
        for row in 0..<rows { for column in 0..<columns { result[row, column] *= factors[column] } }
        return result
    }

    /// Each element multiplied by a number.
    public func scaled(by factor: Double) -> Matrix { Matrix(rows: rows, columns: columns, values: values.map { $0 * factor }) }

    public static func + (left: Matrix, right: Matrix) -> Matrix {
        precondition(left.rows == right.rows && left.columns == right.columns)
        return Matrix(rows: left.rows, columns: left.columns, values: zip(left.values, right.values).map { $0 + $1 })
    }

    /// The values with zeros behind each row, up to a width that the kernels take.
    public var padded: (values: [Double], width: Int) {
        let width = (columns + PanelKernel.lanes - 1) / PanelKernel.lanes * PanelKernel.lanes
        guard width != columns else { return (values, width) }
        var padded = [Double](repeating: 0, count: rows * width)
        for row in 0..<rows { for column in 0..<columns { padded[row * width + column] = self[row, column] } }
        return (padded, width)
    }

    /// The matrix [rows, columns] of padded values.
    public init(unpadding values: [Double], rows: Int, columns: Int, width: Int) {
        precondition(values.count == rows * width && columns <= width)
        guard width != columns else {
            self.init(rows: rows, columns: columns, values: values)
            return
        }
        var kept: [Double] = []
        kept.reserveCapacity(rows * columns)
        for row in 0..<rows { kept += values[row * width..<row * width + columns] }
        self.init(rows: rows, columns: columns, values: kept)
    }

    public static func * (left: Matrix, right: Matrix) -> Matrix {
        precondition(left.columns == right.rows)
        let (values, width) = right.padded
        var result = [Double](repeating: 0, count: left.rows * width)
        PanelKernel.addProduct(left.values.span, rows: left.rows, columns: left.columns, values.span, width: width, to: &result)
        return Matrix(unpadding: result, rows: left.rows, columns: right.columns, width: width)
    }

    // MARK: QR

    /// The thin factorisation A = Q·R by Householder's reflections: Q [rows, columns] with orthonormal columns, whatever the rank of A,
    /// and R [columns, columns], upper triangular.
    ///
    /// - Precondition: there are at least as many rows as columns.
    public func qr() -> (q: Matrix, r: Matrix) {
        precondition(rows >= columns)
        var work = self
        var reflections: [(vector: [Double], weight: Double)] = []
        for pivot in 0..<columns {
            let reflection = work.reflection(pivot)
            Self.apply(reflection, to: &work.values, from: pivot, count: columns)
            reflections.append(reflection)
        }
        var r = Matrix(zeros: columns, columns)
        for row in 0..<columns { for column in row..<columns { r[row, column] = work[row, column] } }
        var q = Matrix(zeros: rows, columns)
        for column in 0..<columns { q[column, column] = 1 }
        for pivot in (0..<columns).reversed() { Self.apply(reflections[pivot], to: &q.values, from: pivot, count: columns) }
        return (q, r)
    }

    /// The reflection I − weight·v·vᵀ that takes a column's part from the diagonal on to a multiple of the first unit vector; v begins
    /// with one. The weight is zero where nothing is to be reflected.
    private func reflection(_ pivot: Int) -> (vector: [Double], weight: Double) {
        var vector = (pivot..<rows).map { self[$0, pivot] }
        // Scaled, so that no square leaves the range of numbers.
        let largest = vector.reduce(0) { max($0, abs($1)) }
        guard largest > 0 else { return (vector, 0) }
        let norm = largest * vector.reduce(0) { $0 + $1 / largest * ($1 / largest) }.squareRoot()
        let head = vector[0] + (vector[0] < 0 ? -norm : norm)
        vector[0] = 1
        for place in vector.indices.dropFirst() { vector[place] /= head }
        return (vector, 2 / vector.reduce(0) { $0 + $1 * $1 })
    }

    /// Applies a reflection to the columns from `first` on of rows with `count` elements; it meets the last of the rows.
    private static func apply(_ reflection: (vector: [Double], weight: Double), to target: inout [Double], from first: Int, count: Int) {
        let (vector, weight) = reflection
        guard weight != 0 else { return }
        let start = target.count - vector.count * count
        var products = [Double](repeating: 0, count: count)
        for (row, factor) in vector.enumerated() {
            for column in first..<count { products[column] += factor * target[start + row * count + column] }
        }
        for (row, factor) in vector.enumerated() {
            for column in first..<count { target[start + row * count + column] -= weight * factor * products[column] }
        }
    }

    // MARK: Singular values

    /// The singular value decomposition A = U·diag(s)·Vᵀ of a matrix with at least as many rows as columns, the largest value first:
    /// U [rows, columns], V [columns, columns].
    ///
    /// One-sided Jacobi rotations (Hestenes), which find small values as exactly as large ones. The columns of U that belong to
    /// values of zero are zero.
    public func svd() -> (u: Matrix, s: [Double], v: Matrix) {
        precondition(rows >= columns)
        // Columns lie one after the other, as the rotations take them.
        var work = transposed
        var v = Matrix(zeros: columns, columns)
        for column in 0..<columns { v[column, column] = 1 }
        for _ in 0..<60 {
            var isDone = true
            for p in 0..<columns {
                for q in p + 1..<max(columns, p + 1) {
                    guard let (cosine, sine) = work.rotation(p, q) else { continue }
                    isDone = false
                    work.rotate(p, q, cosine, sine)
                    v.rotate(p, q, cosine, sine)
                }
            }
            if isDone { break }
        }
        let norms = (0..<columns).map { work.norm(ofRow: $0) }
        let order = (0..<columns).sorted { norms[$0] != norms[$1] ? norms[$0] > norms[$1] : $0 < $1 }
        var u = Matrix(zeros: rows, columns)
        var right = Matrix(zeros: columns, columns)
        for (place, column) in order.enumerated() {
            for row in 0..<rows where norms[column] > 0 { u[row, place] = work[column, row] / norms[column] }
            for row in 0..<columns { right[row, place] = v[column, row] }
        }
        return (u, order.map { norms[$0] }, right)
    }

    private func norm(ofRow row: Int) -> Double {
        var largest = 0.0
        for column in 0..<columns { largest = max(largest, abs(self[row, column])) }
        guard largest > 0 else { return 0 }
        var sum = 0.0
        for column in 0..<columns { sum += self[row, column] / largest * (self[row, column] / largest) }
        return largest * sum.squareRoot()
    }

    /// The rotation that makes two rows orthogonal; `nil` where they are.
    private func rotation(_ p: Int, _ q: Int) -> (cosine: Double, sine: Double)? {
        var (pp, qq, pq) = (0.0, 0.0, 0.0)
        for column in 0..<columns {
            let (x, y) = (values[p * columns + column], values[q * columns + column])
            pp += x * x
            qq += y * y
            pq += x * y
        }
        guard abs(pq) > 0x1p-52 * (pp * qq).squareRoot(), pq != 0 else { return nil }
        let zeta = (qq - pp) / (2 * pq)
        let tangent = (zeta < 0 ? -1 : 1) / (abs(zeta) + (1 + zeta * zeta).squareRoot())
        let cosine = 1 / (1 + tangent * tangent).squareRoot()
        return (cosine, cosine * tangent)
    }

    private mutating func rotate(_ p: Int, _ q: Int, _ cosine: Double, _ sine: Double) {
        for column in 0..<columns {
            let (x, y) = (values[p * columns + column], values[q * columns + column])
            values[p * columns + column] = cosine * x - sine * y
            values[q * columns + column] = sine * x + cosine * y
        }
    }
}
