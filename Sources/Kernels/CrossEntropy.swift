internal import CKernels

/// Memory for the output layer: logits of a block of tokens, and partial sums of their gradient.
public struct CrossEntropyWorkspace: Sendable {
    /// Tokens that are taken at a time.
    let block: Int
    let logits: FloatView
    let partials: FloatView
    /// The loss at each row, after `crossEntropy`.
    public let losses: FloatView
    static let parts = 8
    /// The logits of a block take at most this many numbers (64 MiB).
    static let logitsLimit = 1 << 24

    public init(rows: Int, vocabulary: Int, dimension: Int) {
        block = min(rows, max(32, Self.logitsLimit / vocabulary / 32 * 32))
        let views = FloatArena(counts: [block * vocabulary, Self.parts * block * dimension, rows]).views
        (logits, partials, losses) = (views[0], views[1], views[2])
    }
}

extension Compute {
    /// The cross-entropy of the next token, and what flows back into the hidden states.
    ///
    /// Logits exist for a block of tokens at a time and turn into their own gradients in place. Blocks of tokens rather
    /// than of vocabulary, because the softmax of a block is then complete at once and the output matrix need not be
    /// multiplied a second time.
    ///
    /// - Parameters:
    ///   - hidden: [rows, dim], after the last norm
    ///   - head: [vocabulary, dim]
    ///   - targets: [rows], each below `vocabulary`
    ///   - dHidden: [rows, dim], replaced by the gradient times `gradientScale`; `nil` for the loss alone
    /// - Returns: the sum of the losses of all rows, in nats.
    public func crossEntropy(
        hidden: FloatView, head: WeightMatrix, targets: [Int32], dHidden: FloatView?, gradientScale: Float, workspace: CrossEntropyWorkspace
    ) -> Double {
        let (dim, vocabulary, rows) = (head.columns, head.rows, targets.count)
        precondition(hidden.count == rows * dim && dHidden?.count ?? hidden.count == hidden.count)
        precondition(targets.allSatisfy { $0 >= 0 && Int($0) < vocabulary })
        precondition(workspace.losses.count >= rows && workspace.partials.count >= CrossEntropyWorkspace.parts * workspace.block * dim)
        for start in stride(from: 0, to: rows, by: workspace.block) {
            let block = start..<min(rows, start + workspace.block)
            let logits = workspace.logits[0..<block.count * vocabulary]
            self.logits(logits, hidden: hidden[start * dim..<block.upperBound * dim], head: head)
            forRows(block.count) { [self] range in
                unsafe targets.withUnsafeBufferPointer { all in
                    guard let first = all.baseAddress else { return }
                    unsafe kernels.cross_entropy(
                        logits.pointer + range.lowerBound * vocabulary, workspace.losses.pointer + start + range.lowerBound,
                        first + start + range.lowerBound, range.count, vocabulary, dHidden == nil ? 0 : gradientScale)
                }
            }
            if let dHidden, gradientScale != 0 {
                multiplyByHead(
                    dHidden[start * dim..<block.upperBound * dim], logits, head: head, rows: block.count, partials: workspace.partials)
            }
        }
        // Without a scale the logits have stayed logits.
        if gradientScale == 0 { dHidden?.fill(0) }
        return (0..<rows).reduce(0) { $0 + Double(workspace.losses[$1]) }
    }

    /// logits[rows, vocabulary] = hidden[rows, dim] · headᵀ
    public func logits(_ logits: FloatView, hidden: FloatView, head: WeightMatrix) {
        let (dim, vocabulary) = (head.columns, head.rows)
        let rows = hidden.count / dim
        precondition(logits.count == rows * vocabulary)
        let inputs = prepared(hidden, columns: dim)
        let tiles = Tiles(vocabulary, pieces: 64)
        pool.run(tiles.count) { [self] index, worker in
            let columns = tiles[index]
            unsafe multiply(
                worker, inputs, row: 0, m: rows, weight: head, rows: columns, columns: 0..<dim, isTransposed: true,
                into: logits.pointer + columns.lowerBound, stride: vocabulary)
        }
    }

    /// dHidden[rows, dim] = dLogits[rows, vocabulary] · head. The vocabulary is cut into a fixed number of parts whose
    /// products are added in order.
    private func multiplyByHead(_ dHidden: FloatView, _ dLogits: FloatView, head: WeightMatrix, rows: Int, partials: FloatView) {
        let (dim, vocabulary) = (head.columns, head.rows)
        let gradients = prepared(dLogits, columns: vocabulary)
        let tiles = Tiles(vocabulary, pieces: CrossEntropyWorkspace.parts)
        pool.run(tiles.count) { [self] index, worker in
            let part = tiles[index]
            let target = unsafe partials.pointer + index * rows * dim
            let step = max(16, min(512, (1 << 20) / dim / 16 * 16))
            for start in stride(from: part.lowerBound, to: part.upperBound, by: step) {
                let count = min(part.upperBound, start + step) - start
                unsafe multiply(
                    worker, gradients, row: 0, column: start, m: rows, weight: head, rows: start..<start + count, columns: 0..<dim,
                    isTransposed: false, into: target, stride: dim, accumulates: start != part.lowerBound)
            }
        }
        forRows(rows) { [self] range in
            let (first, count) = (range.lowerBound * dim, range.count * dim)
            let target = unsafe dHidden.pointer + first
            unsafe target.update(repeating: 0, count: count)
            for index in 0..<tiles.count { unsafe kernels.axpy(target, 1, partials.pointer + index * rows * dim + first, count) }
        }
    }
}
