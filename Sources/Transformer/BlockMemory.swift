internal import Kernels

/// What one block keeps of its forward pass. N = batch · sequence.
struct BlockActivations: Sendable {
    /// [N, hidden]: the block's input, and the sum after attention.
    let x, middle: FloatView
    /// [N]: the norms' factors.
    let scales, middleScales: FloatView
    /// [N, heads·d], [N, groups·d], [N, groups·d]; q and k rotated.
    let q, k, v: FloatView
    /// [N, heads·d], and [batch, heads, sequence].
    let attended, logSums: FloatView
    /// [N, intermediate]
    let gate, up: FloatView
    /// [N, rank] for each projection: its input times Aᵀ.
    let xa: [FloatView]

    init(_ configuration: TransformerConfiguration, batch: Int, sequence: Int, rank: Int) {
        let n = batch * sequence
        let (hidden, inner) = (configuration.hiddenSize, configuration.intermediateSize)
        let counts =
            [n * hidden, n * hidden, n, n, n * configuration.queryWidth, n * configuration.keyWidth, n * configuration.keyWidth]
            + [n * configuration.queryWidth, n * configuration.heads, n * inner, n * inner]
        let views = FloatArena(counts: counts + Projection.allCases.map { _ in n * rank }).views
        (x, middle, scales, middleScales) = (views[0], views[1], views[2], views[3])
        (q, k, v, attended, logSums) = (views[4], views[5], views[6], views[7], views[8])
        (gate, up) = (views[9], views[10])
        xa = Array(views[counts.count...])
    }
}

/// What all blocks share: nothing in it outlives a block's pass but `dx`.
struct BlockScratch: Sendable {
    /// [N, hidden]
    let normed, dNormed, dx: FloatView
    /// [N, intermediate]
    let inner, dInner, dGate, dUp: FloatView
    /// As q, k, v and the attention's output.
    let dq, dk, dv, dAttended: FloatView
    /// [N, rank]
    let dyb: FloatView
    /// [N, widest input], for dropout.
    let thinned: FloatView

    init(_ configuration: TransformerConfiguration, rows n: Int, rank: Int, training: Bool) {
        let (hidden, inner) = (configuration.hiddenSize, configuration.intermediateSize)
        let g = training ? n : 0
        let views = FloatArena(counts: [
            n * hidden, g * hidden, g * hidden, n * inner, g * inner, g * inner, g * inner,
            g * configuration.queryWidth, g * configuration.keyWidth, g * configuration.keyWidth, g * configuration.queryWidth,
            g * rank, g * max(hidden, inner, configuration.queryWidth),
        ]).views
        (normed, dNormed, dx) = (views[0], views[1], views[2])
        (self.inner, dInner, dGate, dUp) = (views[3], views[4], views[5], views[6])
        (dq, dk, dv, dAttended) = (views[7], views[8], views[9], views[10])
        (dyb, thinned) = (views[11], views[12])
    }
}
