internal import Kernels

/// What a pass through the model is about.
struct Pass {
    let updates: LowRankUpdates
    let dropout: DropoutPlan?
}

/// A part of a block that turns states [N, in] into states [N, out], where N = batch · sequence, and owns the memory that
/// its backward pass needs.
protocol BlockPart: Sendable {
    /// Computes y from x.
    func forward(_ pass: Pass, x: FloatView, y: FloatView)

    /// Computes the gradient of x from that of y, and adds the gradients of adapters.
    ///
    /// - Parameters:
    ///   - x: as it was in the forward pass.
    ///   - dx: `nil` where nothing below needs it.
    func backward(_ pass: Pass, x: FloatView, dy: FloatView, dx: FloatView?)
}

/// What the parts of all blocks share: sizes, kernels, and memory that outlives no part's pass.
struct PartContext: Sendable {
    let configuration: TransformerConfiguration
    let compute: Compute
    let shape: AttentionShape
    let rotary: RotaryTable
    /// The largest rank of an adapter.
    let rank: Int
    /// Whether backward passes are run.
    let isTraining: Bool
    /// The linear layers of a block.
    private let linearCount: Int
    /// [N, rank]
    private let dyb: FloatView
    /// [N, widest input], for dropout.
    private let thinned: FloatView
    /// [N, widest output] and [widest output], for outputs that are scaled.
    private let scaled, columnSums: FloatView
    /// Whether adapters scale the outputs of layers, which are kept as they were before.
    private let keepsOutputs: Bool

    var rows: Int { shape.batch * shape.sequence }
    /// As `rows`, of memory that only backward passes need.
    var gradientRows: Int { isTraining ? rows : 0 }

    init(_ configuration: TransformerConfiguration, compute: Compute, shape: AttentionShape, rank: Int, isTraining: Bool, keepsOutputs: Bool) {
        self.configuration = configuration
        (self.compute, self.shape, self.rank, self.isTraining) = (compute, shape, rank, isTraining)
        rotary = RotaryTable(configuration: configuration, positions: shape.sequence)
        let rows = isTraining ? shape.batch * shape.sequence : 0
        let linears = configuration.linears
        linearCount = linears.count
        let widest = linears.map(\.input).max() ?? 0
        self.keepsOutputs = keepsOutputs
        let widestOutput = keepsOutputs ? linears.map(\.out).max() ?? 0 : 0
        let views = FloatArena(counts: [rows * rank, rows * widest, rows * widestOutput, widestOutput]).views
        (dyb, thinned, scaled, columnSums) = (views[0], views[1], views[2], views[3])
    }

    /// A linear layer with its weight and its memory.
    struct Linear: Sendable {
        /// Among the linear layers of its block.
        let number: Int
        let layer: Int
        let weight: WeightMatrix
        let bias: FloatView?
        let kept: Kept

        /// What a layer keeps of its forward pass.
        struct Kept: Sendable {
            /// [N, rank]: x·Aᵀ.
            let xa: FloatView
            /// [N, out]: the output before it is scaled, where adapters do that.
            let plain: FloatView?
        }
    }

    /// The memory of some linear layers.
    ///
    /// - Parameter outputs: how many each has.
    func linearMemory(outputs: [Int]) -> [Linear.Kept] {
        let views = FloatArena(counts: outputs.flatMap { [rows * rank, keepsOutputs ? rows * $0 : 0] }).views
        return outputs.indices.map { Linear.Kept(xa: views[2 * $0], plain: keepsOutputs ? views[2 * $0 + 1] : nil) }
    }

    private func module(_ linear: Linear) -> Int { linear.layer * linearCount + linear.number }

    /// y [N, out] of x [N, in].
    func forward(_ linear: Linear, _ pass: Pass, x: FloatView, y: FloatView) {
        let update = pass.updates[linear.layer, linear.number]
        let plain = update?.magnitude == nil ? nil : linear.kept.plain
        compute.linear(
            y: plain ?? y, x: x, rows: rows, weight: linear.weight, bias: plain == nil ? linear.bias : nil, update: update,
            xa: update.map { linear.kept.xa[0..<rows * $0.rank] }, dropout: pass.dropout?.dropout(module(linear), buffer: thinned))
        guard let plain, let magnitude = update?.magnitude else { return }
        compute.scaleColumns(y: y, x: plain, factors: magnitude.factors, bias: linear.bias)
    }

    /// The gradients of x and of the adapter from that of y.
    func backward(_ linear: Linear, _ pass: Pass, x: FloatView, dy: FloatView, dx: FloatView?, accumulate: Bool = false) {
        let update = pass.updates[linear.layer, linear.number]
        var dy = dy
        if let magnitude = update?.magnitude, let plain = linear.kept.plain {
            let out = linear.weight.rows
            compute.addMagnitudeGradient(magnitude, dy: dy, x: plain, scratch: columnSums[0..<out])
            let target = scaled[0..<rows * out]
            compute.scaleColumns(y: target, x: dy, factors: magnitude.factors)
            dy = target
        }
        compute.linearBackward(
            dx: dx, accumulate: accumulate, dy: dy, x: x, rows: rows, weight: linear.weight, update: update,
            xa: update.map { linear.kept.xa[0..<rows * $0.rank] }, dyb: update.map { dyb[0..<rows * $0.rank] },
            dropout: pass.dropout?.dropout(module(linear), buffer: thinned))
    }
}
