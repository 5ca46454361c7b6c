internal import CKernels

/// One adapter's update of the rows of a weight as the verifier takes it: d = scale·(left·right), all in binary64.
public struct VerificationUpdate: Sendable {
    public let firstRow: Int
    public let rank: Int
    public let scale: Double
    public let columns: Int
    /// [rows, rank].
    public let left: [Double]
    /// [rank, columns] in panels of 16 columns.
    let packed: [Double]
    let productsAreExact: Bool
    /// What d of row r and column i is off by in binary32, at most, is rowErrors[r]·columnNorms[i].
    let rowErrors: [Double]
    let columnNorms: [Double]
    /// What `rowErrors` has of each norm of a row of `left`.
    private let relativeError: Double
    /// `packed` and the norms, rounded up, in binary32; empty where factors are not finite in binary32.
    let packedNarrow: [Float]
    let columnNormsNarrow: [Float]
    let largestNorm: Float

    /// - Parameters:
    ///   - right: [rank, columns], row-major.
    ///   - productsAreExact: whether no factor has more than 24 significant bits.
    public init(firstRow: Int, left: [Double], right: [Double], rank: Int, scale: Double, columns: Int, productsAreExact: Bool) {
        precondition(rank > 0 && left.count % rank == 0 && right.count == rank * columns)
        self.firstRow = firstRow
        self.rank = rank
        self.scale = scale
        self.columns = columns
        self.left = left
        self.productsAreExact = productsAreExact
        let panel = Int(oplora_verify_panel)
        let padded = (columns + panel - 1) / panel * panel
        var packed = [Double](repeating: 0, count: padded * rank)
        // Sound: the sizes have been checked, and the pointers are used only during the call.
        unsafe right.withUnsafeBufferPointer { from in
            unsafe packed.withUnsafeMutableBufferPointer { to in unsafe oplora_verify_pack(from.baseAddress, rank, columns, to.baseAddress) }
        }
        self.packed = packed
        // A chain of r terms in binary32 and two more roundings, of the scale and of the product with it.
        let error = Double(rank + 4) * 0x1p-24 * 1.01 * scale.magnitude
        relativeError = error
        rowErrors = (0..<left.count / rank).map { row in
            var square = 0.0
            for k in row * rank..<(row + 1) * rank { square += left[k] * left[k] }
            return error * square.squareRoot()
        }
        var squares = [Double](repeating: 0, count: padded)
        for k in 0..<rank { for column in 0..<columns { squares[column] += right[k * columns + column] * right[k * columns + column] } }
        columnNorms = squares.map { $0.squareRoot() }
        packedNarrow = productsAreExact ? packed.map { Float($0) } : []
        columnNormsNarrow = productsAreExact ? columnNorms.map { Float($0).nextUp } : []
        largestNorm = columnNormsNarrow.max() ?? 0
    }

    /// Calls `body` with the factors in binary32, or with nothing where they are none of its numbers.
    func withNarrowFactors(_ body: (_ right: UnsafePointer<Float>?, _ norms: UnsafePointer<Float>?) -> Void) {
        guard productsAreExact else { return body(nil, nil) }
        // Sound: the pointers are used only during the call.
        unsafe packedNarrow.withUnsafeBufferPointer { right in
            unsafe columnNormsNarrow.withUnsafeBufferPointer { norms in unsafe body(right.baseAddress, norms.baseAddress) }
        }
    }

    /// A row of d.
    ///
    /// - Parameter row: its number in the weight.
    public func row(_ row: Int, path: MergePath = .best) -> [Double] {
        let panel = Int(oplora_verify_panel)
        let padded = (columns + panel - 1) / panel * panel
        let zeros = [Double](repeating: 0, count: padded)
        var total = zeros
        let start = (row - firstRow) * rank
        precondition(start >= 0 && start + rank <= left.count)
        // Sound: the sizes have been checked, and the pointers are used only during the call.
        unsafe left.withUnsafeBufferPointer { left in
            unsafe packed.withUnsafeBufferPointer { right in
                var description = unsafe oplora_verify_update(
                    left: left.baseAddress.unsafelyUnwrapped + start, right: right.baseAddress, rank: rank, scale: scale,
                    products_are_exact: productsAreExact ? 1 : 0, right_narrow: nil, norms_narrow: nil, largest_norm: 0)
                unsafe zeros.withUnsafeBufferPointer { weights in
                    unsafe total.withUnsafeMutableBufferPointer { total in
                        unsafe oplora_verify_sums(
                            path.rawValue, &description, 1, 1, 0, columns, padded, weights.baseAddress, total.baseAddress, nil)
                    }
                }
            }
        }
        return total
    }

    /// What d is off by where it is computed in binary32, at most.
    public func error(row: Int, column: Int) -> Double { rowErrors[row - firstRow] * columnNorms[column] }

    /// What an element of left·right, and any part of its sum, is not larger than: the norm of the row of `left` times that of the column
    /// of `right`.
    public func size(row: Int, column: Int) -> Double {
        relativeError > 0 ? rowErrors[row - firstRow] / relativeError * columnNorms[column] : 0
    }

    /// right [rank, columns], row-major, as it was given.
    public var right: [Double] {
        let panel = Int(oplora_verify_panel)
        var result = [Double](repeating: 0, count: rank * columns)
        for k in 0..<rank {
            for column in 0..<columns { result[k * columns + column] = packed[(column / panel * rank + k) * panel + column % panel] }
        }
        return result
    }
}
