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

    var rows: Int { shape.batch * shape.sequence }
    /// As `rows`, of memory that only backward passes need.
    var gradientRows: Int { isTraining ? rows : 0 }

    init(_ configuration: TransformerConfiguration, compute: Compute, shape: AttentionShape, rank: Int, isTraining: Bool) {
        self.configuration = configuration
        (self.compute, self.shape, self.rank, self.isTraining) = (compute, shape, rank, isTraining)
        rotary = RotaryTable(configuration: configuration, positions: shape.sequence)
        let rows = isTraining ? shape.batch * shape.sequence : 0
        let linears = configuration.linears
        linearCount = linears.count
        let widest = linears.map(\.input).max() ?? 0
        let views = FloatArena(counts: [rows * rank, rows * widest]).views
        (dyb, thinned) = (views[0], views[1])
    }

    /// A linear layer with its weight, its adapter and [N, rank] of memory: x·Aᵀ.
    struct Linear: Sendable {
        /// Among the linear layers of its block.
        let number: Int
        let layer: Int
        let weight: WeightMatrix
        let bias: FloatView?
        let xa: FloatView
    }

    private func module(_ linear: Linear) -> Int { linear.layer * linearCount + linear.number }

    /// y [N, out] of x [N, in].
    func forward(_ linear: Linear, _ pass: Pass, x: FloatView, y: FloatView) {
        let update = pass.updates[linear.layer, linear.number]
        compute.linear(
            y: y, x: x, rows: rows, weight: linear.weight, bias: linear.bias, update: update,
            xa: update.map { linear.xa[0..<rows * $0.rank] }, dropout: pass.dropout?.dropout(module(linear), buffer: thinned))
    }

    /// The gradients of x and of the adapter from that of y.
    func backward(_ linear: Linear, _ pass: Pass, x: FloatView, dy: FloatView, dx: FloatView?, accumulate: Bool = false) {
        let update = pass.updates[linear.layer, linear.number]
        compute.linearBackward(
            dx: dx, accumulate: accumulate, dy: dy, x: x, rows: rows, weight: linear.weight, update: update,
            xa: update.map { linear.xa[0..<rows * $0.rank] }, dyb: update.map { dyb[0..<rows * $0.rank] },
            dropout: pass.dropout?.dropout(module(linear), buffer: thinned))
    }
}
