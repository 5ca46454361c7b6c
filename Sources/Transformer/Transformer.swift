public import Kernels

/// A Llama-family model that runs forward and backward on batches of one fixed shape.
///
/// Forward, for each block, with N = batch · sequence rows:
///
///     n1 = rmsNorm(x)                        x [N,hidden]
///     q, k, v = n1 Wqᵀ, n1 Wkᵀ, n1 Wvᵀ       q and k rotated
///     x' = x + attention(q, k, v) Woᵀ
///     n2 = rmsNorm(x')
///     x'' = x' + (silu(n2 Wgᵀ) ⊙ n2 Wuᵀ) Wdᵀ
///
/// Kept for the backward pass: x, q, k, v, attention output, x', gate and up, and the norms' scales; all else is
/// computed again. All memory is taken at the start.
public final class Transformer {
    public let weights: TransformerWeights
    public let batch: Int
    public let sequence: Int
    private let compute: Compute
    private let shape: AttentionShape
    private let rotary: RotaryTable
    private let kept: [BlockActivations]
    private let scratch: BlockScratch
    /// The output of the last block, and the scales of the final norm.
    private let last: FloatView
    private let lastScales: FloatView
    private let outputLayer: CrossEntropyWorkspace

    public var configuration: TransformerConfiguration { weights.configuration }
    private var rows: Int { batch * sequence }

    /// - Parameters:
    ///   - maximumRank: the largest rank of an adapter that will run on this model.
    ///   - training: whether backward passes will be run; without, one block's memory serves all blocks.
    /// - Throws: `TransformerError.sequenceTooLong` when the model has fewer positions.
    public init(weights: TransformerWeights, compute: Compute, batch: Int, sequence: Int, maximumRank: Int, training: Bool) throws(TransformerError) {
        let configuration = weights.configuration
        guard sequence <= min(configuration.maximumPositions, configuration.slidingWindow ?? .max) else {
            throw TransformerError(
                .sequenceTooLong, path: TransformerConfiguration.fileName,
                "a sequence of \(sequence) tokens is longer than the \(min(configuration.maximumPositions, configuration.slidingWindow ?? .max)) that the model handles; choose a shorter --seq-len"
            )
        }
        self.weights = weights
        self.compute = compute
        self.batch = batch
        self.sequence = sequence
        shape = AttentionShape(
            batch: batch, sequence: sequence, heads: configuration.heads, groups: configuration.keyValueHeads,
            headDimension: configuration.headDimension)
        rotary = RotaryTable(configuration: configuration, positions: sequence)
        let blocks = training ? configuration.layers : 1
        kept = (0..<blocks).map { _ in BlockActivations(configuration, batch: batch, sequence: sequence, rank: maximumRank) }
        scratch = BlockScratch(configuration, rows: batch * sequence, rank: maximumRank, training: training)
        last = FloatBuffer(count: batch * sequence * configuration.hiddenSize).view
        lastScales = FloatBuffer(count: batch * sequence).view
        outputLayer = CrossEntropyWorkspace(rows: batch * sequence, vocabulary: configuration.vocabularySize, dimension: configuration.hiddenSize)
    }

    /// The cross-entropy at every position, in nats.
    ///
    /// - Parameters:
    ///   - tokens, targets: [batch · sequence], sequence by sequence
    ///   - updates: the adapter
    public func losses(tokens: [Int32], targets: [Int32], updates: LowRankUpdates = .none) -> [Float] {
        forward(tokens, updates, dropout: nil)
        _ = compute.crossEntropy(
            hidden: scratch.normed, head: weights.head, targets: targets, dHidden: nil, gradientScale: 0, workspace: outputLayer)
        return outputLayer.losses.array
    }

    /// What the head makes logits of, [batch · sequence, hidden]; valid until the next pass.
    public func finalStates(tokens: [Int32], updates: LowRankUpdates = .none) -> FloatView {
        forward(tokens, updates, dropout: nil)
        return scratch.normed
    }

    /// The logits of every position, [batch · sequence, vocabulary].
    public func logits(tokens: [Int32], updates: LowRankUpdates = .none) -> FloatView {
        let logits = FloatBuffer(count: rows * configuration.vocabularySize).view
        compute.logits(logits, hidden: finalStates(tokens: tokens, updates: updates), head: weights.head)
        return logits
    }

    /// The mean loss, with the gradients of A and B added to those of `updates`. Requires `training`.
    public func lossAndGradients(tokens: [Int32], targets: [Int32], updates: LowRankUpdates, dropout: DropoutPlan? = nil) -> Double {
        precondition(kept.count == configuration.layers, "this model was made without memory for a backward pass")
        forward(tokens, updates, dropout: dropout)
        let sum = compute.crossEntropy(
            hidden: scratch.normed, head: weights.head, targets: targets, dHidden: scratch.dNormed, gradientScale: 1 / Float(rows),
            workspace: outputLayer)
        let dx = scratch.dx
        dx.fill(0)
        compute.rmsNormBackward(dx: dx, dy: scratch.dNormed, x: last, scales: lastScales, weight: weights.finalNorm)
        let lowest = updates.lowestLayer ?? configuration.layers
        for layer in stride(from: configuration.layers - 1, through: lowest, by: -1) {
            backward(layer: layer, updates, dropout: dropout, isLowest: layer == lowest)
        }
        return sum / Double(rows)
    }

    // MARK: Forward

    private func forward(_ tokens: [Int32], _ updates: LowRankUpdates, dropout: DropoutPlan?) {
        precondition(tokens.count == rows)
        compute.gather(input(of: 0), table: weights.embedding, tokens: tokens)
        for layer in 0..<configuration.layers { forward(layer: layer, updates, dropout: dropout) }
        compute.rmsNorm(y: scratch.normed, scales: lastScales, x: last, weight: weights.finalNorm, epsilon: configuration.normEpsilon)
    }

    private func activations(_ layer: Int) -> BlockActivations { kept[kept.count == 1 ? 0 : layer] }

    /// Where a block's input lies; the last block writes to `last`.
    private func input(of layer: Int) -> FloatView { layer == configuration.layers ? last : activations(layer).x }

    private func forward(layer: Int, _ updates: LowRankUpdates, dropout: DropoutPlan?) {
        let block = weights.layers[layer], kept = activations(layer), s = scratch
        func linear(_ projection: Projection, _ y: FloatView, _ x: FloatView) {
            let update = updates[layer, projection]
            compute.linear(
                y: y, x: x, rows: rows, weight: block.projections[projection.rawValue], bias: block.biases[projection.rawValue], update: update,
                xa: update.map { kept.xa[projection.rawValue][0..<rows * $0.rank] }, dropout: dropout?.dropout(layer, projection, buffer: s.thinned))
        }
        compute.rmsNorm(y: s.normed, scales: kept.scales, x: kept.x, weight: block.inputNorm, epsilon: configuration.normEpsilon)
        linear(.query, kept.q, s.normed)
        linear(.key, kept.k, s.normed)
        linear(.value, kept.v, s.normed)
        compute.rotate(kept.q, heads: configuration.heads, shape: shape, cosines: rotary.cosines, sines: rotary.sines)
        compute.rotate(kept.k, heads: configuration.keyValueHeads, shape: shape, cosines: rotary.cosines, sines: rotary.sines)
        compute.attention(o: kept.attended, logSums: kept.logSums, q: kept.q, k: kept.k, v: kept.v, shape: shape)
        linear(.output, kept.middle, kept.attended)
        compute.add(kept.x, to: kept.middle)
        compute.rmsNorm(y: s.normed, scales: kept.middleScales, x: kept.middle, weight: block.postAttentionNorm, epsilon: configuration.normEpsilon)
        linear(.gate, kept.gate, s.normed)
        linear(.up, kept.up, s.normed)
        compute.swiglu(a: s.inner, gate: kept.gate, up: kept.up)
        // Written to the next block's input only now: with one block's memory for all, that is this block's own.
        linear(.down, input(of: layer + 1), s.inner)
        compute.add(kept.middle, to: input(of: layer + 1))
    }

    // MARK: Backward

    /// On entry `scratch.dx` is the gradient of the block's output; on exit that of its input.
    private func backward(layer: Int, _ updates: LowRankUpdates, dropout: DropoutPlan?, isLowest: Bool) {
        let block = weights.layers[layer], kept = activations(layer), s = scratch
        func linear(_ projection: Projection, _ dx: FloatView?, accumulate: Bool = false, dy: FloatView, _ x: FloatView) {
            let update = updates[layer, projection]
            compute.linearBackward(
                dx: dx, accumulate: accumulate, dy: dy, x: x, rows: rows, weight: block.projections[projection.rawValue], update: update,
                xa: update.map { kept.xa[projection.rawValue][0..<rows * $0.rank] }, dyb: update.map { s.dyb[0..<rows * $0.rank] },
                dropout: dropout?.dropout(layer, projection, buffer: s.thinned))
        }
        // The feed-forward half.
        compute.swiglu(a: s.inner, gate: kept.gate, up: kept.up)
        linear(.down, s.dInner, dy: s.dx, s.inner)
        compute.swigluBackward(dgate: s.dGate, dup: s.dUp, a: s.inner, da: s.dInner, gate: kept.gate, up: kept.up)
        compute.rmsNormAgain(y: s.normed, scales: kept.middleScales, x: kept.middle, weight: block.postAttentionNorm)
        linear(.gate, s.dNormed, dy: s.dGate, s.normed)
        linear(.up, s.dNormed, accumulate: true, dy: s.dUp, s.normed)
        compute.rmsNormBackward(dx: s.dx, dy: s.dNormed, x: kept.middle, scales: kept.middleScales, weight: block.postAttentionNorm)
        // The attention half.
        linear(.output, s.dAttended, dy: s.dx, kept.attended)
        compute.attentionBackward(
            dq: s.dq, dk: s.dk, dv: s.dv, gradient: s.dAttended, o: kept.attended, logSums: kept.logSums, q: kept.q, k: kept.k, v: kept.v,
            shape: shape)
        compute.rotate(s.dq, heads: configuration.heads, shape: shape, cosines: rotary.cosines, sines: rotary.sines, direction: -1)
        compute.rotate(s.dk, heads: configuration.keyValueHeads, shape: shape, cosines: rotary.cosines, sines: rotary.sines, direction: -1)
        compute.rmsNormAgain(y: s.normed, scales: kept.scales, x: kept.x, weight: block.inputNorm)
        // Below the lowest adapted block nothing needs a gradient.
        let dNormed = isLowest ? nil : s.dNormed
        linear(.query, dNormed, dy: s.dq, s.normed)
        linear(.key, dNormed, accumulate: true, dy: s.dk, s.normed)
        linear(.value, dNormed, accumulate: true, dy: s.dv, s.normed)
        if let dNormed { compute.rmsNormBackward(dx: s.dx, dy: dNormed, x: kept.x, scales: kept.scales, weight: block.inputNorm) }
    }
}

/// The low-rank updates of a model's linear layers.
public struct LowRankUpdates: Sendable {
    /// Layer by layer, in the order of `Projection`; empty for none at all.
    private let updates: [LowRankUpdate?]

    /// The base model alone.
    public static let none = LowRankUpdates(layers: 0) { _, _ in nil }

    public init(layers: Int, _ update: (Int, Projection) -> LowRankUpdate?) {
        updates = (0..<layers).flatMap { layer in Projection.allCases.map { update(layer, $0) } }
    }

    subscript(layer: Int, projection: Projection) -> LowRankUpdate? {
        updates.isEmpty ? nil : updates[layer * Projection.allCases.count + projection.rawValue]
    }

    /// The first block with an adapted layer: the backward pass ends there.
    var lowestLayer: Int? { updates.firstIndex { $0 != nil }.map { $0 / Projection.allCases.count } }
}

/// Dropout of a training step: each module of each step thins its input in a way of its own.
public struct DropoutPlan: Sendable {
    public let rate: Float
    /// Differs from step to step.
    public let seed: UInt64

    public init(rate: Float, seed: UInt64) {
        self.rate = rate
        self.seed = seed
    }

    func dropout(_ layer: Int, _ projection: Projection, buffer: FloatView) -> Dropout {
        let module = UInt64(layer * Projection.allCases.count + projection.rawValue + 1)
        return Dropout(rate: rate, seed: seed ^ (module &* 0xD6E8_FEB8_6659_FD93), buffer: buffer)
    }
}
