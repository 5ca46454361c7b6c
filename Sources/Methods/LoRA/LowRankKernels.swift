public import Kernels
internal import Tensors

extension LowRankFactors {
    /// The factors as the merge's kernel takes them.
    ///
    /// - Parameter firstRow: the row of the weight that takes the first row of B·A.
    /// - Throws: `UpdateFault.notFinite`.
    public func merged(scale: Double = 1, firstRow: Int = 0) throws(UpdateFault) -> MergeFactors {
        let made = a.withBytes { bytes in
            b.withBytes { others in
                try? MergeFactors(
                    loraA: bytes, typeA: a.dtype, loraB: others, typeB: b.dtype, outputs: b.rows, inputs: a.columns, rank: rank, scale: scale,
                    firstRow: firstRow)
            }
        }
        if let made { return made }
        try a.requireFinite()
        try b.requireFinite()
        throw UpdateFault(.notFinite, a.name, "it has changed while it was read")
    }
}

extension FactorMatrix {
    /// - Throws: `UpdateFault.notFinite`.
    public func requireFinite() throws(UpdateFault) {
        guard let (row, column) = firstNotFinite else { return }
        throw UpdateFault(.notFinite, name, "element \(place(row: row, column: column)) is infinite or NaN")
    }
}

extension MergeFactors {
    /// Rows of B·A, without the scale: the sums of the products over the rank in ascending order, from +0.
    func product(rows: Range<Int>) -> [Double] {
        precondition(scale == 1)
        let count = rows.count * inputs
        let zeros = [Double](repeating: 0, count: count)
        var result = zeros
        var span = result.mutableSpan
        // Sound: every bit pattern of a number may be read and written as raw bytes.
        var target = unsafe span.mutableBytes
        _ = MergeKernel.mergeRows(
            weights: unsafe zeros.span.bytes, weightType: .f64, into: &target, mergedType: .f64, rows: rows, columns: inputs, factors: [self])
        return result
    }
}
