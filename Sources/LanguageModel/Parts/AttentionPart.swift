internal import Families
internal import Kernels

/// Causal attention with rotary positions and grouped keys and values:
///
///     q, k, v = x Wqᵀ, x Wkᵀ, x Wvᵀ       q and k normed by head where the family does it, then rotated
///     y = attention(q, k, v) Woᵀ
///
/// Kept: q, k, v, the attention's output and its sums; and q and k as they were before their norms.
struct AttentionPart: BlockPart {
    private let context: PartContext
    private let query, key, value, output: PartContext.Linear
    private let queryNorm, keyNorm: HeadNorm?
    private let kept: Kept
    private let scratch: Scratch

    /// What one block keeps of its forward pass.
    struct Kept: Sendable {
        /// [N, heads·d], [N, groups·d], [N, groups·d]; q and k rotated.
        let q, k, v: FloatView
        /// [N, heads·d], and [batch, heads, sequence].
        let attended, logSums: FloatView
        /// Of the four linear layers.
        let linears: [PartContext.Linear.Kept]
        let queryNorm, keyNorm: HeadNorm.Kept?

        init(_ context: PartContext, hasHeadNorms: Bool) {
            let (n, shape) = (context.rows, context.configuration)
            let counts = [n * shape.queryWidth, n * shape.keyWidth, n * shape.keyWidth, n * shape.queryWidth, n * shape.heads]
            let views = FloatArena(counts: counts).views
            (q, k, v, attended, logSums) = (views[0], views[1], views[2], views[3], views[4])
            linears = context.linearMemory(outputs: [shape.queryWidth, shape.keyWidth, shape.keyWidth, shape.hiddenSize])
            queryNorm = hasHeadNorms ? HeadNorm.Kept(context, heads: shape.heads) : nil
            keyNorm = hasHeadNorms ? HeadNorm.Kept(context, heads: shape.keyValueHeads) : nil
        }
    }

    /// What all blocks share.
    struct Scratch: Sendable {
        /// As q, k, v and the attention's output.
        let dq, dk, dv, dAttended: FloatView
        /// As q, for the gradients of what is normed by head.
        let dNormed: FloatView

        init(_ context: PartContext, hasHeadNorms: Bool) {
            let (n, shape) = (context.gradientRows, context.configuration)
            let views = FloatArena(counts: [
                n * shape.queryWidth, n * shape.keyWidth, n * shape.keyWidth, n * shape.queryWidth, hasHeadNorms ? n * shape.queryWidth : 0,
            ]).views
            (dq, dk, dv, dAttended, dNormed) = (views[0], views[1], views[2], views[3], views[4])
        }
    }

    /// - Parameters:
    ///   - weights: of the block; `first` is the number of the first of the part's linear layers among them.
    init(_ context: PartContext, _ description: AttentionDescription, _ weights: BlockWeights, layer: Int, first: Int, kept: Kept, scratch: Scratch) {
        (self.context, self.kept, self.scratch) = (context, kept, scratch)
        func linear(_ number: Int) -> PartContext.Linear { weights.linear(first + number, layer: layer, kept: kept.linears[number]) }
        (query, key, value, output) = (linear(0), linear(1), linear(2), linear(3))
        func norm(_ name: String, _ kept: HeadNorm.Kept?) -> HeadNorm? {
            guard let kept, let weight = weights.norms["\(description.module).\(name)"] else { return nil }
            return HeadNorm(context, weight: weight, kept: kept)
        }
        (queryNorm, keyNorm) = (norm("q_norm", kept.queryNorm), norm("k_norm", kept.keyNorm))
    }

    func forward(_ pass: Pass, x: FloatView, y: FloatView) {
        let (compute, shape) = (context.compute, context.configuration)
        context.forward(query, pass, x: x, y: queryNorm?.input ?? kept.q)
        context.forward(key, pass, x: x, y: keyNorm?.input ?? kept.k)
        context.forward(value, pass, x: x, y: kept.v)
        queryNorm?.forward(y: kept.q)
        keyNorm?.forward(y: kept.k)
        let rotary = context.rotary
        compute.rotate(kept.q, heads: shape.heads, shape: context.shape, cosines: rotary.cosines, sines: rotary.sines)
        compute.rotate(kept.k, heads: shape.keyValueHeads, shape: context.shape, cosines: rotary.cosines, sines: rotary.sines)
        compute.attention(o: kept.attended, logSums: kept.logSums, q: kept.q, k: kept.k, v: kept.v, shape: context.shape)
        context.forward(output, pass, x: kept.attended, y: y)
    }

    func backward(_ pass: Pass, x: FloatView, dy: FloatView, dx: FloatView?) {
        let (compute, shape, s) = (context.compute, context.configuration, scratch)
        context.backward(output, pass, x: kept.attended, dy: dy, dx: s.dAttended)
        compute.attentionBackward(
            dq: s.dq, dk: s.dk, dv: s.dv, gradient: s.dAttended, o: kept.attended, logSums: kept.logSums, q: kept.q, k: kept.k, v: kept.v,
            shape: context.shape)
        let rotary = context.rotary
        compute.rotate(s.dq, heads: shape.heads, shape: context.shape, cosines: rotary.cosines, sines: rotary.sines, direction: -1)
        compute.rotate(s.dk, heads: shape.keyValueHeads, shape: context.shape, cosines: rotary.cosines, sines: rotary.sines, direction: -1)
        queryNorm?.backward(s.dq, scratch: s.dNormed)
        keyNorm?.backward(s.dk, scratch: s.dNormed)
        context.backward(query, pass, x: x, dy: s.dq, dx: dx)
        context.backward(key, pass, x: x, dy: s.dk, dx: dx, accumulate: true)
        context.backward(value, pass, x: x, dy: s.dv, dx: dx, accumulate: true)
    }
}
