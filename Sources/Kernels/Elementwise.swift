internal import CKernels

extension Compute {
    /// y[rows,dim] = x · rsqrt(mean(x²) + epsilon) · weight; the rsqrt of each row goes to `scales` [rows].
    public func rmsNorm(y: FloatView, scales: FloatView, x: FloatView, weight: FloatView, epsilon: Float) {
        let dim = weight.count, rows = scales.count
        precondition(x.count == rows * dim && y.count == x.count)
        forRows(rows) { [self] range in
            let start = range.lowerBound * dim
            unsafe kernels.rms_norm(
                y.pointer + start, scales.pointer + range.lowerBound, x.pointer + start, weight.pointer, range.count, dim, epsilon)
        }
    }

    /// The result of `rmsNorm` again, from the scales that it kept.
    public func rmsNormAgain(y: FloatView, scales: FloatView, x: FloatView, weight: FloatView) {
        let dim = weight.count, rows = scales.count
        precondition(x.count == rows * dim && y.count == x.count)
        forRows(rows) { [self] range in
            let start = range.lowerBound * dim
            unsafe kernels.rms_norm_again(
                y.pointer + start, scales.pointer + range.lowerBound, x.pointer + start, weight.pointer, range.count, dim)
        }
    }

    /// dx += the gradient through `rmsNorm`.
    public func rmsNormBackward(dx: FloatView, dy: FloatView, x: FloatView, scales: FloatView, weight: FloatView) {
        let dim = weight.count, rows = scales.count
        precondition(x.count == rows * dim && dy.count == x.count && dx.count == x.count)
        forRows(rows) { [self] range in
            let start = range.lowerBound * dim
            unsafe kernels.rms_norm_backward(
                dx.pointer + start, dy.pointer + start, x.pointer + start, scales.pointer + range.lowerBound, weight.pointer, range.count, dim)
        }
    }

    /// a = silu(gate) ⊙ up
    public func swiglu(a: FloatView, gate: FloatView, up: FloatView) {
        precondition(a.count == gate.count && gate.count == up.count)
        forRows(a.count, pieces: 16) { [self] range in
            let start = range.lowerBound
            unsafe kernels.swiglu(a.pointer + start, gate.pointer + start, up.pointer + start, range.count)
        }
    }

    /// From da: dgate, dup, and a once more.
    public func swigluBackward(dgate: FloatView, dup: FloatView, a: FloatView, da: FloatView, gate: FloatView, up: FloatView) {
        precondition(
            dgate.count == gate.count && dup.count == gate.count && a.count == gate.count && da.count == gate.count && up.count == gate.count)
        forRows(gate.count, pieces: 16) { [self] range in
            let start = range.lowerBound
            unsafe kernels.swiglu_backward(
                dgate.pointer + start, dup.pointer + start, a.pointer + start, da.pointer + start, gate.pointer + start, up.pointer + start,
                range.count)
        }
    }

    /// y += x
    public func add(_ x: FloatView, to y: FloatView) {
        precondition(x.count == y.count)
        forRows(y.count) { [self] range in
            unsafe kernels.axpy(y.pointer + range.lowerBound, 1, x.pointer + range.lowerBound, range.count)
        }
    }

    /// y[rows, columns] = the rows of `table` [vocabulary, columns] that `tokens` name, in F32.
    public func gather(_ y: FloatView, table: WeightMatrix, tokens: [Int32]) {
        let dim = table.columns
        precondition(y.count == tokens.count * dim && tokens.allSatisfy { $0 >= 0 && Int($0) < table.rows })
        forRows(tokens.count) { [self] range in
            for row in range {
                unsafe kernels.widen(y.pointer + row * dim, table.address(row: Int(tokens[row]), column: 0), table.element, 1, dim, dim)
            }
        }
    }

    /// Σ x², in pieces whose sums are added in order.
    public func sumOfSquares(_ x: FloatView) -> Double {
        let tiles = Tiles(x.count, pieces: Self.reductionPieces, multiple: 1024)
        pool.run(tiles.count) { [self] index, _ in
            let range = tiles[index]
            // Sound: each iteration writes its own number, and the loop ends before they are read.
            unsafe partialSums[index] = kernels.sum_of_squares(x.pointer + range.lowerBound, range.count)
        }
        return (0..<tiles.count).reduce(0) { unsafe $0 + partialSums[$1] }
    }
}
