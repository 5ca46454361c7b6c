internal import CKernels

/// The low-rank update of one linear layer, s·B·A, as the layer's forward and backward passes need it.
public struct LowRankUpdate: Sendable {
    public let rank: Int
    public let scale: Float
    /// [rank, in]
    public let a: FloatView
    /// [out, rank]
    public let b: FloatView
    /// Gradients are added to these; shapes as `a` and `b`.
    public let gradientA: FloatView
    public let gradientB: FloatView
    /// Where the columns of the output are scaled (DoRA).
    public let magnitude: MagnitudeUpdate?

    public init(rank: Int, scale: Float, a: FloatView, b: FloatView, gradientA: FloatView, gradientB: FloatView, magnitude: MagnitudeUpdate? = nil) {
        precondition(a.count == gradientA.count && b.count == gradientB.count)
        self.rank = rank
        self.scale = scale
        self.a = a
        self.b = b
        self.gradientA = gradientA
        self.gradientB = gradientB
        self.magnitude = magnitude
    }
}

/// What a weight-decomposed update does to the output of a layer (DoRA, arXiv 2402.09353): y = (m/‖W + s·B·A‖)·(W + s·B·A)·x, the
/// norms taken of rows. As in the paper, section 4.3, no gradient flows through the norms.
public struct MagnitudeUpdate: Sendable {
    /// [out]: m, and ‖W + s·B·A‖ of each row, and their ratio.
    public let magnitudes, norms, factors: FloatView
    /// [out]: the gradient of m is added to it.
    public let gradient: FloatView

    public init(magnitudes: FloatView, norms: FloatView, factors: FloatView, gradient: FloatView) {
        (self.magnitudes, self.norms, self.factors, self.gradient) = (magnitudes, norms, factors, gradient)
    }
}

/// Dropout on the input of the low-rank path: which elements fall depends on `seed` and their index alone.
public struct Dropout: Sendable {
    public let rate: Float
    public let seed: UInt64
    /// As large as the largest input; holds the thinned input for a moment.
    public let buffer: FloatView

    public init(rate: Float, seed: UInt64, buffer: FloatView) {
        self.rate = rate
        self.seed = seed
        self.buffer = buffer
    }
}

extension Compute {
    /// The largest part of a weight matrix that a worker converts at a time, in elements (4 MiB in F32).
    private static let panelElements = 1 << 20

    /// y[m,out] = x[m,in] · Wᵀ + bias + s·(x Aᵀ) Bᵀ
    ///
    /// The weight stays in its own type (see `multiply`).
    ///
    /// - Parameters:
    ///   - weight: [out, in]
    ///   - bias: [out]
    ///   - xa: [m, rank], where x·Aᵀ is kept for the backward pass; needed with `update`.
    public func linear(
        y: FloatView, x: FloatView, rows m: Int, weight: WeightMatrix, bias: FloatView? = nil, update: LowRankUpdate? = nil,
        xa: FloatView? = nil, dropout: Dropout? = nil
    ) {
        let (out, input) = (weight.rows, weight.columns)
        precondition(x.count == m * input && y.count == m * out && bias?.count ?? out == out)
        if let update, let xa {
            precondition(update.a.count == update.rank * input && update.b.count == out * update.rank && xa.count == m * update.rank)
            multiplyByA(xa, thinned(x, rows: m, dropout), update, rows: m, input: input)
        }
        let inputs = prepared(x, columns: input)
        let grid = grid(rows: m, columns: out, depth: input)
        pool.run(grid.count) { [self] index, worker in
            let (rows, columns) = grid[index]
            let target = unsafe y.pointer + rows.lowerBound * out + columns.lowerBound
            unsafe multiply(
                worker, inputs, row: rows.lowerBound, m: rows.count, weight: weight, rows: columns, columns: 0..<input, isTransposed: true,
                into: target, stride: out)
            if let bias { unsafe kernels.add_bias(target, bias.pointer + columns.lowerBound, rows.count, columns.count, out) }
            if let update, let xa {
                let rank = update.rank
                unsafe sgemm(
                    false, true, rows.count, columns.count, rank, update.scale, xa.pointer + rows.lowerBound * rank, rank,
                    update.b.pointer + columns.lowerBound * rank, rank, 1, target, out)
            }
        }
    }

    /// What reaches x when dy reaches y, and the gradients of A and B.
    ///
    ///     dB += s·dyᵀ(x Aᵀ)      dA += s·(dy B)ᵀ x      dx (+)= dy W + s·(dy B) A
    ///
    /// - Parameters:
    ///   - dx: [m, in]; `nil` where nothing below needs it.
    ///   - accumulate: whether dx is added to or replaced.
    ///   - dyb: [m, rank], scratch.
    public func linearBackward(
        dx: FloatView?, accumulate: Bool, dy: FloatView, x: FloatView, rows m: Int, weight: WeightMatrix, update: LowRankUpdate? = nil,
        xa: FloatView? = nil, dyb: FloatView? = nil, dropout: Dropout? = nil
    ) {
        let (out, input) = (weight.rows, weight.columns)
        precondition(dy.count == m * out && x.count == m * input && dx?.count ?? x.count == x.count)
        var thinnedX = x
        if let update, let xa, let dyb {
            precondition(update.a.count == update.rank * input && update.b.count == out * update.rank)
            precondition(xa.count == m * update.rank && dyb.count == xa.count)
            thinnedX = thinned(x, rows: m, dropout)
            let rank = update.rank
            let rowTiles = Tiles(m), outTiles = Tiles(out)
            pool.run(rowTiles.count + outTiles.count) { index, _ in
                if index < rowTiles.count {
                    let rows = rowTiles[index]
                    unsafe sgemm(
                        false, false, rows.count, rank, out, update.scale, dy.pointer + rows.lowerBound * out, out, update.b.pointer, rank, 0,
                        dyb.pointer + rows.lowerBound * rank, rank)
                } else {
                    let columns = outTiles[index - rowTiles.count]
                    unsafe sgemm(
                        true, false, columns.count, rank, m, update.scale, dy.pointer + columns.lowerBound, out, xa.pointer, rank, 1,
                        update.gradientB.pointer + columns.lowerBound * rank, rank)
                }
            }
        }
        let forA = thinnedX
        guard dx != nil || update != nil else { return }
        let gradients = dx.map { _ in prepared(dy, columns: out) }
        let grid = grid(rows: m, columns: input, depth: out)
        let aTiles = Tiles(update == nil ? 0 : input)
        pool.run(aTiles.count + (dx == nil ? 0 : grid.count)) { [self] index, worker in
            if index < aTiles.count {
                // dA sums over all rows, so its tiles are of columns alone.
                guard let update, let dyb else { return }
                let (columns, rank) = (aTiles[index], update.rank)
                return unsafe sgemm(
                    true, false, rank, columns.count, m, 1, dyb.pointer, rank, forA.pointer + columns.lowerBound, input, 1,
                    update.gradientA.pointer + columns.lowerBound, input)
            }
            guard let dx, let gradients else { return }
            let (rows, columns) = grid[index - aTiles.count]
            let start = rows.lowerBound * input + columns.lowerBound
            let target = unsafe dx.pointer + start
            unsafe multiply(
                worker, gradients, row: rows.lowerBound, m: rows.count, weight: weight, rows: 0..<out, columns: columns, isTransposed: false,
                into: target, stride: input, accumulates: accumulate)
            guard let update, let dyb else { return }
            let rank = update.rank
            let left = unsafe dyb.pointer + rows.lowerBound * rank, right = unsafe update.a.pointer + columns.lowerBound
            guard let dropout, dropout.rate > 0 else {
                return unsafe sgemm(false, false, rows.count, columns.count, rank, 1, left, rank, right, input, 1, target, input)
            }
            // The dropout's two arrays may not overlap: one more row at the end takes its results.
            let part = unsafe scratch(worker, count: (rows.count + 1) * columns.count)
            let line = unsafe part + rows.count * columns.count
            unsafe sgemm(false, false, rows.count, columns.count, rank, 1, left, rank, right, input, 0, part, columns.count)
            for row in 0..<rows.count {
                unsafe kernels.dropout(line, part + row * columns.count, columns.count, dropout.seed, UInt64(start + row * input), dropout.rate)
                unsafe kernels.axpy(target + row * input, 1, line, columns.count)
            }
        }
    }

    /// The tiles of a product [rows, columns] with a weight, `depth` products to each element.
    private func grid(rows: Int, columns: Int, depth: Int) -> Grid {
        Grid(rows: Tiles(rows, pieces: 4), columns: Tiles(columns, pieces: 4, limit: Self.panelElements / depth))
    }

    /// xa[m,rank] = x[m,in] · Aᵀ
    private func multiplyByA(_ xa: FloatView, _ x: FloatView, _ update: LowRankUpdate, rows m: Int, input: Int) {
        let tiles = Tiles(m)
        let rank = update.rank
        pool.run(tiles.count) { index, _ in
            let rows = tiles[index]
            unsafe sgemm(
                false, true, rows.count, rank, input, 1, x.pointer + rows.lowerBound * input, input, update.a.pointer, input, 0,
                xa.pointer + rows.lowerBound * rank, rank)
        }
    }

    /// x with dropout, in the dropout's buffer; x itself without.
    private func thinned(_ x: FloatView, rows m: Int, _ dropout: Dropout?) -> FloatView {
        guard let dropout, dropout.rate > 0 else { return x }
        let target = dropout.buffer[0..<x.count]
        let columns = x.count / max(m, 1)
        forRows(m) { [self] rows in
            let first = rows.lowerBound * columns
            unsafe kernels.dropout(
                target.pointer + first, x.pointer + first, rows.count * columns, dropout.seed, UInt64(first), dropout.rate)
        }
        return target
    }
}
