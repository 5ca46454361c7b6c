internal import Kernels

/// The norms that take the place of those of W + ΔW, as weight decomposition has them: W′ = (m/‖W + ΔW‖)·(W + ΔW).
///
/// Source: Liu et al. 2024 (DoRA), equation 5.
public enum Magnitude: Sendable {
    /// [1, rows]: of what makes one output, where rows are outputs.
    case ofRows(FactorMatrix)
    /// [1, columns], of what one input is multiplied by, where columns are inputs; or [1, inputs] for a convolution, each the norm of all
    /// columns of the input.
    case ofColumns(FactorMatrix)

    public var values: FactorMatrix {
        switch self {
        case .ofRows(let values), .ofColumns(let values): values
        }
    }

    /// Of Wᵀ.
    public var transposed: Magnitude {
        switch self {
        case .ofRows(let values): .ofColumns(values)
        case .ofColumns(let values): .ofRows(values)
        }
    }
}

/// What the merge multiplies the columns of W + ΔW by to bring them to their magnitudes, from all rows.
public struct ColumnScaling: Sendable {
    private let columns: Int
    /// [8, columns].
    private var lanes: [Double]

    public init(columns: Int) {
        self.columns = columns
        lanes = [Double](repeating: 0, count: 8 * columns)
    }

    /// - Parameters:
    ///   - wide: rows of W + ΔW.
    ///   - rows: their numbers; each row of the weight is added once, in ascending order.
    public mutating func add(_ wide: [Double], rows: Range<Int>) {
        MagnitudeKernel.addSquares(of: wide, rows: rows, columns: columns, to: &lanes)
    }

    /// m/‖u‖ of each column.
    public func ratios(to magnitudes: FactorMatrix) -> [Double] {
        let values = magnitudes.doubles()
        let ratios = MagnitudeKernel.columnRatios(lanes: gathered(into: values.count), magnitudes: values)
        guard ratios.count != columns else { return ratios }
        return (0..<columns).map { ratios[$0 / (columns / ratios.count)] }
    }

    /// The lanes of groups of columns with one norm each, those of a kernel's positions: the columns of a group one after another.
    private func gathered(into groups: Int) -> [Double] {
        guard groups != columns else { return lanes }
        let width = columns / groups
        return (0..<8 * groups).map { group in lanes[group * width + 1..<(group + 1) * width].reduce(lanes[group * width], +) }
    }
}
