internal import CKernels

/// The sizes of a causal attention with grouped queries.
public struct AttentionShape: Sendable {
    public let batch: Int
    public let sequence: Int
    public let heads: Int
    /// Key-value heads; `heads` is a multiple of it.
    public let groups: Int
    public let headDimension: Int

    public init(batch: Int, sequence: Int, heads: Int, groups: Int, headDimension: Int) {
        precondition(heads % groups == 0)
        self.batch = batch
        self.sequence = sequence
        self.heads = heads
        self.groups = groups
        self.headDimension = headDimension
    }

    var rows: Int { batch * sequence }
    var queryWidth: Int { heads * headDimension }
    var keyWidth: Int { groups * headDimension }
    var scale: Float { 1 / Float(headDimension).squareRoot() }
    /// Queries are taken this many rows at a time, against the keys up to the last of them.
    static let block = 128
    var blocks: Int { (sequence + Self.block - 1) / Self.block }

    /// The rows of a query block.
    func queries(_ block: Int) -> Range<Int> { block * Self.block..<min(sequence, (block + 1) * Self.block) }
}

extension Compute {
    /// o = softmax(q kᵀ/√d + causal mask) v for each sequence and head.
    ///
    /// - Parameters:
    ///   - o: [batch·sequence, heads·d]
    ///   - logSums: [batch, heads, sequence], kept for the backward pass
    ///   - q: [batch·sequence, heads·d], rotated
    ///   - k: [batch·sequence, groups·d], rotated
    ///   - v: [batch·sequence, groups·d]
    public func attention(o: FloatView, logSums: FloatView, q: FloatView, k: FloatView, v: FloatView, shape: AttentionShape) {
        let (s, d, width, keyWidth) = (shape.sequence, shape.headDimension, shape.queryWidth, shape.keyWidth)
        precondition(o.count == shape.rows * width && q.count == o.count && k.count == shape.rows * keyWidth && v.count == k.count)
        precondition(logSums.count == shape.batch * shape.heads * s)
        pool.run(shape.batch * shape.heads) { [self] index, worker in
            let (sequence, head) = (index / shape.heads, index % shape.heads)
            let queryStart = sequence * s * width + head * d
            let keyStart = sequence * s * keyWidth + head / (shape.heads / shape.groups) * d
            let scores = unsafe scratch(worker, count: AttentionShape.block * s)
            for block in 0..<shape.blocks {
                let rows = shape.queries(block)
                let seen = rows.upperBound
                let query = queryStart + rows.lowerBound * width
                unsafe sgemm(false, true, rows.count, seen, d, 1, q.pointer + query, width, k.pointer + keyStart, keyWidth, 0, scores, seen)
                unsafe kernels.causal_softmax(scores, logSums.pointer + index * s + rows.lowerBound, rows.count, seen, rows.lowerBound, shape.scale)
                unsafe sgemm(false, false, rows.count, d, seen, 1, scores, seen, v.pointer + keyStart, keyWidth, 0, o.pointer + query, width)
            }
        }
    }

    /// The gradients of q, k and v from the gradient of o; the probabilities are computed again, never kept.
    ///
    /// With P the probabilities: dv = Pᵀ do, dP = do vᵀ, dS = P ⊙ (dP − rowsum(do ⊙ o))/√d, dq = dS k, dk = dSᵀ q.
    public func attentionBackward(
        dq: FloatView, dk: FloatView, dv: FloatView, gradient: FloatView, o: FloatView, logSums: FloatView, q: FloatView, k: FloatView, v: FloatView,
        shape: AttentionShape
    ) {
        let (s, d, width, keyWidth) = (shape.sequence, shape.headDimension, shape.queryWidth, shape.keyWidth)
        precondition(q.count == shape.rows * width && k.count == shape.rows * keyWidth && v.count == k.count && o.count == q.count)
        precondition(dq.count == q.count && dk.count == k.count && dv.count == v.count && gradient.count == o.count)
        precondition(logSums.count == shape.batch * shape.heads * s)
        let perGroup = shape.heads / shape.groups
        // One piece of work owns one key-value head, so the sums over its query heads have one writer and one order.
        pool.run(shape.batch * shape.groups) { [self] index, worker in
            let (sequence, group) = (index / shape.groups, index % shape.groups)
            let keyStart = sequence * s * keyWidth + group * d
            let space = unsafe scratch(worker, count: 2 * AttentionShape.block * s + AttentionShape.block)
            let (p, ds, means) = unsafe (space, space + AttentionShape.block * s, space + 2 * AttentionShape.block * s)
            for row in 0..<s {
                unsafe (dk.pointer + keyStart + row * keyWidth).update(repeating: 0, count: d)
                unsafe (dv.pointer + keyStart + row * keyWidth).update(repeating: 0, count: d)
            }
            for head in group * perGroup..<(group + 1) * perGroup {
                let queryStart = sequence * s * width + head * d
                for block in 0..<shape.blocks {
                    let rows = shape.queries(block)
                    let (n, seen) = (rows.count, rows.upperBound)
                    let query = queryStart + rows.lowerBound * width
                    let logs = unsafe logSums.pointer + (sequence * shape.heads + head) * s + rows.lowerBound
                    unsafe sgemm(false, true, n, seen, d, 1, q.pointer + query, width, k.pointer + keyStart, keyWidth, 0, p, seen)
                    unsafe kernels.causal_softmax_again(p, logs, n, seen, rows.lowerBound, shape.scale)
                    unsafe sgemm(true, false, seen, d, n, 1, p, seen, gradient.pointer + query, width, 1, dv.pointer + keyStart, keyWidth)
                    unsafe sgemm(false, true, n, seen, d, 1, gradient.pointer + query, width, v.pointer + keyStart, keyWidth, 0, ds, seen)
                    for row in 0..<n {
                        unsafe means[row] = kernels.dot(gradient.pointer + query + row * width, o.pointer + query + row * width, d)
                    }
                    unsafe kernels.softmax_backward(ds, p, means, n, seen, shape.scale)
                    unsafe sgemm(false, false, n, d, seen, 1, ds, seen, k.pointer + keyStart, keyWidth, 0, dq.pointer + query, width)
                    unsafe sgemm(true, false, seen, d, n, 1, ds, seen, q.pointer + query, width, 1, dk.pointer + keyStart, keyWidth)
                }
            }
        }
    }

    /// Rotates the heads of x [batch·sequence, heads·d] by their positions, or back with `direction` −1.
    ///
    /// - Parameters:
    ///   - cosines, sines: [positions, d/2]
    public func rotate(_ x: FloatView, heads: Int, shape: AttentionShape, cosines: FloatView, sines: FloatView, direction: Float = 1) {
        let (s, d) = (shape.sequence, shape.headDimension)
        precondition(x.count == shape.rows * heads * d && cosines.count >= s * d / 2 && sines.count >= s * d / 2)
        let tiles = Tiles(s, pieces: 4, multiple: 8)
        pool.run(shape.batch * tiles.count) { [self] index, _ in
            let rows = tiles[index % tiles.count]
            let start = (index / tiles.count * s + rows.lowerBound) * heads * d
            unsafe kernels.rotate(
                x.pointer + start, rows.count, heads, d, cosines.pointer, sines.pointer, rows.lowerBound, direction)
        }
    }
}
