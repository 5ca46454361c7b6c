internal import Families
internal import Kernels

/// One block of a model: halves that each norm their input, run a part on it, and add what came in.
///
///     y = x + part(rmsNorm(x))
struct Block: Sendable {
    private struct Half: Sendable {
        let norm: FloatView
        /// [N, hidden]: what comes in, and [N]: the norm's factors.
        let input, scales: FloatView
        let body: any BlockPart
    }

    private let context: PartContext
    private let halves: [Half]
    private let scratch: Scratch

    /// What one block keeps of its forward pass.
    struct Kept: Sendable {
        /// Of each half: [N, hidden] and [N].
        fileprivate let inputs: [(states: FloatView, scales: FloatView)]
        fileprivate let bodies: [Body]

        fileprivate enum Body: Sendable {
            case attention(AttentionPart.Kept)
            case gatedFeedForward(GatedFeedForwardPart.Kept)
        }

        init(_ context: PartContext) {
            inputs = context.configuration.block.halves.map { _ in
                let views = FloatArena(counts: [context.rows * context.configuration.hiddenSize, context.rows]).views
                return (views[0], views[1])
            }
            bodies = context.configuration.block.halves.map { half in
                switch half.body {
                case .attention(let description): .attention(AttentionPart.Kept(context, hasHeadNorms: description.hasHeadNorms))
                case .gatedFeedForward: .gatedFeedForward(GatedFeedForwardPart.Kept(context))
                }
            }
        }

        /// Where the block's input lies, [N, hidden].
        var input: FloatView { inputs[0].states }
    }

    /// What all blocks share: nothing in it outlives a block's pass but `dx`.
    struct Scratch: Sendable {
        /// [N, hidden]
        let normed, dNormed, dx: FloatView
        fileprivate let attention: AttentionPart.Scratch
        fileprivate let gatedFeedForward: GatedFeedForwardPart.Scratch

        init(_ context: PartContext) {
            let width = context.configuration.hiddenSize
            let (count, gradients) = (context.rows * width, context.gradientRows * width)
            let views = FloatArena(counts: [count, gradients, gradients]).views
            (normed, dNormed, dx) = (views[0], views[1], views[2])
            let hasHeadNorms = context.configuration.block.halves.contains { half in
                if case .attention(let description) = half.body { description.hasHeadNorms } else { false }
            }
            attention = AttentionPart.Scratch(context, hasHeadNorms: hasHeadNorms)
            gatedFeedForward = GatedFeedForwardPart.Scratch(context)
        }
    }

    init(_ context: PartContext, _ weights: BlockWeights, layer: Int, kept: Kept, scratch: Scratch) {
        (self.context, self.scratch) = (context, scratch)
        var first = 0
        halves = zip(context.configuration.block.halves, zip(kept.inputs, kept.bodies)).map { half, memory in
            let body: any BlockPart
            switch (half.body, memory.1) {
            case (.attention(let description), .attention(let kept)):
                body = AttentionPart(context, description, weights, layer: layer, first: first, kept: kept, scratch: scratch.attention)
                first += 4
            case (_, .gatedFeedForward(let kept)):
                body = GatedFeedForwardPart(context, weights, layer: layer, first: first, kept: kept, scratch: scratch.gatedFeedForward)
                first += 3
            case (.gatedFeedForward, _): preconditionFailure("the memory was made for the same block")
            }
            return Half(norm: weights.norm(half.norm), input: memory.0.states, scales: memory.0.scales, body: body)
        }
    }

    /// - Parameter output: [N, hidden]; it may be the block's own input.
    func forward(_ pass: Pass, output: FloatView) {
        let epsilon = context.configuration.normEpsilon
        for number in halves.indices {
            let half = halves[number]
            // Written to the block's input only at the end: with one block's memory for all, the output is the input.
            let target = number + 1 < halves.count ? halves[number + 1].input : output
            context.compute.rmsNorm(y: scratch.normed, scales: half.scales, x: half.input, weight: half.norm, epsilon: epsilon)
            half.body.forward(pass, x: scratch.normed, y: target)
            context.compute.add(half.input, to: target)
        }
    }

    /// On entry `scratch.dx` is the gradient of the block's output; on exit that of its input, unless nothing needs it.
    func backward(_ pass: Pass, needsInput: Bool) {
        for number in halves.indices.reversed() {
            let half = halves[number]
            context.compute.rmsNormAgain(y: scratch.normed, scales: half.scales, x: half.input, weight: half.norm)
            let dNormed = number == 0 && !needsInput ? nil : scratch.dNormed
            half.body.backward(pass, x: scratch.normed, dy: scratch.dx, dx: dNormed)
            guard let dNormed else { continue }
            context.compute.rmsNormBackward(dx: scratch.dx, dy: dNormed, x: half.input, scales: half.scales, weight: half.norm)
        }
    }
}
