public import Kernels
internal import Tensors

extension LowRankFactors {
    /// The factors as the verifier's kernel takes them.
    ///
    /// - Parameter firstRow: the row of the weight that takes the first row of B·A.
    public func verified(scale: Double = 1, firstRow: Int = 0) -> VerificationUpdate {
        VerificationUpdate(
            firstRow: firstRow, left: b.doubles(), right: a.doubles(), rank: rank, scale: scale, columns: a.columns,
            productsAreExact: b.dtype != .f64 && a.dtype != .f64)
    }
}
