public import Kernels

/// A language model that runs forward and backward on batches of one fixed shape: the embedding, blocks of the parts that
/// the family lists, the last norm, and the head. All memory is taken at the start.
public final class Transformer {
    public let weights: TransformerWeights
    public let batch: Int
    public let sequence: Int
    private let compute: Compute
    private let blocks: [Block]
    /// Where the blocks' inputs lie, [N, hidden] each.
    private let inputs: [FloatView]
    private let scratch: Block.Scratch
    private let isTraining: Bool
    /// The output of the last block, and the scales of the final norm.
    private let last: FloatView
    private let lastScales: FloatView
    private let outputLayer: CrossEntropyWorkspace

    public var configuration: TransformerConfiguration { weights.configuration }
    private var rows: Int { batch * sequence }

    /// - Parameters:
    ///   - maximumRank: the largest rank of an adapter that will run on this model.
    ///   - training: whether backward passes will be run; without, one block's memory serves all blocks.
    ///   - keepsOutputs: whether adapters will scale the outputs of layers.
    /// - Throws: `TransformerError.sequenceTooLong` when the model has fewer positions.
    public init(
        weights: TransformerWeights, compute: Compute, batch: Int, sequence: Int, maximumRank: Int, training: Bool, keepsOutputs: Bool = false
    ) throws(TransformerError) {
        let configuration = weights.configuration
        guard sequence <= min(configuration.maximumPositions, configuration.slidingWindow ?? .max) else {
            throw TransformerError(
                .sequenceTooLong, path: TransformerConfiguration.fileName,
                "a sequence of \(sequence) tokens is longer than the \(min(configuration.maximumPositions, configuration.slidingWindow ?? .max)) that the model handles"
            )
        }
        self.weights = weights
        self.compute = compute
        self.batch = batch
        self.sequence = sequence
        isTraining = training
        let shape = AttentionShape(
            batch: batch, sequence: sequence, heads: configuration.heads, groups: configuration.keyValueHeads,
            headDimension: configuration.headDimension)
        let context = PartContext(configuration, compute: compute, shape: shape, rank: maximumRank, isTraining: training, keepsOutputs: keepsOutputs)
        let shared = training ? nil : Block.Kept(context)
        let kept = (0..<configuration.layers).map { _ in shared ?? Block.Kept(context) }
        let scratch = Block.Scratch(context)
        self.scratch = scratch
        inputs = kept.map(\.input)
        blocks = weights.blocks.enumerated().map { Block(context, $1, layer: $0, kept: kept[$0], scratch: scratch) }
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
        precondition(isTraining, "this model was made without memory for a backward pass")
        forward(tokens, updates, dropout: dropout)
        let sum = compute.crossEntropy(
            hidden: scratch.normed, head: weights.head, targets: targets, dHidden: scratch.dNormed, gradientScale: 1 / Float(rows),
            workspace: outputLayer)
        let dx = scratch.dx
        dx.fill(0)
        compute.rmsNormBackward(dx: dx, dy: scratch.dNormed, x: last, scales: lastScales, weight: weights.finalNorm)
        let lowest = updates.lowestLayer ?? configuration.layers
        // Below the lowest adapted block nothing needs a gradient.
        let pass = Pass(updates: updates, dropout: dropout)
        for layer in stride(from: configuration.layers - 1, through: lowest, by: -1) {
            blocks[layer].backward(pass, needsInput: layer > lowest)
        }
        return sum / Double(rows)
    }

    private func forward(_ tokens: [Int32], _ updates: LowRankUpdates, dropout: DropoutPlan?) {
        precondition(tokens.count == rows)
        let pass = Pass(updates: updates, dropout: dropout)
        compute.gather(inputs.first ?? last, table: weights.embedding, tokens: tokens)
        for (layer, block) in blocks.enumerated() {
            block.forward(pass, output: layer + 1 < blocks.count ? inputs[layer + 1] : last)
        }
        compute.rmsNorm(y: scratch.normed, scales: lastScales, x: last, weight: weights.finalNorm, epsilon: configuration.normEpsilon)
    }
}
