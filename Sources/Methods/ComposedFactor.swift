internal import Tensors

extension FactorMatrix {
    /// The most elements that a factor with a core in it may have; half a gigabyte.
    private static let maximumCount = 1 << 26

    /// A factor of a convolution that is stored in two parts, as CP-decomposed layers have it:
    /// A[m, (i, p)] = Σₙ core[m, n, p]·inner[n, i], p being a position of the kernel; n ascending, in binary64.
    ///
    /// - Parameters:
    ///   - core: [outer, rank, …], the kernel's dimensions last.
    ///   - inner: [rank, inputs].
    /// - Throws: `UpdateFault.shape`.
    public static func composed(core: FactorMatrix, inner: FactorMatrix) throws(UpdateFault) -> FactorMatrix {
        let shape = core.tensorShape
        let (outer, rank, inputs) = (core.rows, inner.rows, inner.columns)
        guard shape.count >= 3, shape[1] == rank, !shape.contains(0), inputs > 0 else {
            throw UpdateFault(.shape, core.name, "its shape \(describe(shape: shape)) does not fit \(inner.name) \(describe(shape: inner.shape))")
        }
        let positions = shape.dropFirst(2).reduce(1, &*)
        guard let count = CheckedSize.elementCount(of: [outer, inputs, positions]), count <= maximumCount else {
            throw UpdateFault(
                .shape, core.name,
                "\(describe(shape: shape)) and \(describe(shape: inner.shape)) make a factor that is larger than any convolution's")
        }
        let (coreValues, innerValues) = (core.doubles(), inner.doubles())
        var values = [Double](repeating: 0, count: count)
        for m in 0..<outer {
            for n in 0..<rank {
                for p in 0..<positions {
                    let factor = coreValues[(m * rank + n) * positions + p]
                    for i in 0..<inputs { values[(m * inputs + i) * positions + p] += factor * innerValues[n * inputs + i] }
                }
            }
        }
        return FactorMatrix(name: core.name, rows: outer, columns: inputs * positions, values: values)
    }
}
