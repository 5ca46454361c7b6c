internal import Kernels

/// What the verifier multiplies the columns of W + ΔW by. Lane j of eight takes the rows i ≡ j mod 8 in their order; the lanes of the
/// columns with one norm are added in the columns' order.
public struct ColumnScalingCheck: Sendable {
    private let columns: Int
    private var lanes: [[Double]]

    public init(columns: Int) {
        self.columns = columns
        lanes = [[Double]](repeating: [Double](repeating: 0, count: columns), count: 8)
    }

    /// - Parameters:
    ///   - row: of W + ΔW.
    ///   - number: counted from the first that has the norms.
    public mutating func add(_ row: ArraySlice<Double>, number: Int) {
        for (column, value) in row.enumerated() { lanes[number % 8][column] += value * value }
    }

    /// The ratio of each column; `magnitudes` are each for one column or for as many as there are positions in a kernel.
    public func ratios(to magnitudes: FactorMatrix) -> [Double] {
        let values = magnitudes.doubles()
        let group = columns / values.count
        return values.indices.flatMap { input in
            let norm = VerificationKernel.norm(
                lanes.map { lane in (1..<group).reduce(lane[input * group]) { $0 + lane[input * group + $1] } })
            return [Double](repeating: values[input] / norm, count: group)
        }
    }
}
