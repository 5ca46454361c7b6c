internal import CKernels

extension Compute {
    /// y[rows, out] = x ⊙ factors + bias, column by column.
    ///
    /// - Parameters:
    ///   - factors: [out]
    ///   - bias: [out]
    public func scaleColumns(y: FloatView, x: FloatView, factors: FloatView, bias: FloatView? = nil) {
        let columns = factors.count
        precondition(x.count == y.count && y.count % columns == 0 && bias?.count ?? columns == columns)
        forRows(y.count / columns) { [self] rows in
            let start = rows.lowerBound * columns
            unsafe kernels.scale_columns(y.pointer + start, x.pointer + start, factors.pointer, bias?.pointer, rows.count, columns)
        }
    }

    /// The gradient of magnitudes: Σ over rows of dy ⊙ x, divided by the norms, is added to `gradient`.
    ///
    /// - Parameters:
    ///   - x: [rows, out], the output before it was scaled.
    ///   - scratch: [out]
    public func addMagnitudeGradient(_ magnitude: MagnitudeUpdate, dy: FloatView, x: FloatView, scratch: FloatView) {
        let columns = magnitude.gradient.count
        precondition(dy.count == x.count && dy.count % columns == 0 && scratch.count == columns)
        scratch.fill(0)
        let tiles = Tiles(columns)
        pool.run(tiles.count) { [self] index, _ in
            let range = tiles[index]
            unsafe kernels.add_column_products(
                scratch.pointer + range.lowerBound, dy.pointer + range.lowerBound, x.pointer + range.lowerBound, dy.count / columns, range.count,
                columns)
            for column in range { magnitude.gradient[column] += scratch[column] / magnitude.norms[column] }
        }
    }

    /// ‖W + s·B·A‖ of each row of a weight [out, in], a tile of rows at a time.
    public func rowNorms(_ norms: FloatView, of weight: WeightMatrix, update: LowRankUpdate) {
        let (out, input, rank) = (weight.rows, weight.columns, update.rank)
        precondition(norms.count == out && update.a.count == rank * input && update.b.count == out * rank)
        let tiles = Tiles(out, pieces: 16, multiple: 1, limit: max(1, (1 << 18) / input))
        pool.run(tiles.count) { [self] index, worker in
            let rows = tiles[index]
            let sums = unsafe scratch(worker, count: rows.count * input)
            unsafe kernels.widen(sums, weight.address(row: rows.lowerBound, column: 0), weight.element, rows.count, input, input)
            unsafe sgemm(
                false, false, rows.count, input, rank, update.scale, update.b.pointer + rows.lowerBound * rank, rank, update.a.pointer, input, 1,
                sums, input)
            for row in rows {
                norms[row] = Float(unsafe kernels.sum_of_squares(sums + (row - rows.lowerBound) * input, input).squareRoot())
            }
        }
    }
}
