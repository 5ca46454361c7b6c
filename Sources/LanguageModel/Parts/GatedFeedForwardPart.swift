internal import Kernels

/// y = (silu(x Wgᵀ) ⊙ x Wuᵀ) Wdᵀ. Kept: gate and up; their product is computed again.
struct GatedFeedForwardPart: BlockPart {
    private let context: PartContext
    private let gate, up, down: PartContext.Linear
    private let kept: Kept
    private let scratch: Scratch

    struct Kept: Sendable {
        /// [N, intermediate]
        let gate, up: FloatView
        /// Of the three linear layers.
        let linears: [PartContext.Linear.Kept]

        init(_ context: PartContext) {
            let shape = context.configuration
            let count = context.rows * shape.intermediateSize
            let views = FloatArena(counts: [count, count]).views
            (gate, up) = (views[0], views[1])
            linears = context.linearMemory(outputs: [shape.intermediateSize, shape.intermediateSize, shape.hiddenSize])
        }
    }

    /// What all blocks share, [N, intermediate] each.
    struct Scratch: Sendable {
        let inner, dInner, dGate, dUp: FloatView

        init(_ context: PartContext) {
            let width = context.configuration.intermediateSize
            let (count, gradients) = (context.rows * width, context.gradientRows * width)
            let views = FloatArena(counts: [count, gradients, gradients, gradients]).views
            (inner, dInner, dGate, dUp) = (views[0], views[1], views[2], views[3])
        }
    }

    init(_ context: PartContext, _ weights: BlockWeights, layer: Int, first: Int, kept: Kept, scratch: Scratch) {
        (self.context, self.kept, self.scratch) = (context, kept, scratch)
        func linear(_ number: Int) -> PartContext.Linear { weights.linear(first + number, layer: layer, kept: kept.linears[number]) }
        (gate, up, down) = (linear(0), linear(1), linear(2))
    }

    func forward(_ pass: Pass, x: FloatView, y: FloatView) {
        context.forward(gate, pass, x: x, y: kept.gate)
        context.forward(up, pass, x: x, y: kept.up)
        context.compute.swiglu(a: scratch.inner, gate: kept.gate, up: kept.up)
        context.forward(down, pass, x: scratch.inner, y: y)
    }

    func backward(_ pass: Pass, x: FloatView, dy: FloatView, dx: FloatView?) {
        let (compute, s) = (context.compute, scratch)
        compute.swiglu(a: s.inner, gate: kept.gate, up: kept.up)
        context.backward(down, pass, x: s.inner, dy: dy, dx: s.dInner)
        compute.swigluBackward(dgate: s.dGate, dup: s.dUp, a: s.inner, da: s.dInner, gate: kept.gate, up: kept.up)
        context.backward(gate, pass, x: x, dy: s.dGate, dx: dx)
        context.backward(up, pass, x: x, dy: s.dUp, dx: dx, accumulate: true)
    }
}
