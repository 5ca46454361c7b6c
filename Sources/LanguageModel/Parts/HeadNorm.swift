internal import Kernels

/// The norm of each head of queries or keys [N, heads·d], with one weight [d] for all heads.
struct HeadNorm: Sendable {
    private let context: PartContext
    private let weight: FloatView
    private let kept: Kept

    struct Kept: Sendable {
        /// [N, heads·d], before the norm, and [N·heads]: the norm's factors.
        let input, scales: FloatView

        init(_ context: PartContext, heads: Int) {
            let rows = context.rows * heads
            let views = FloatArena(counts: [rows * context.configuration.headDimension, rows]).views
            (input, scales) = (views[0], views[1])
        }
    }

    init(_ context: PartContext, weight: FloatView, kept: Kept) { (self.context, self.weight, self.kept) = (context, weight, kept) }

    /// Where what is to be normed is written.
    var input: FloatView { kept.input }

    func forward(y: FloatView) {
        context.compute.rmsNorm(y: y, scales: kept.scales, x: kept.input, weight: weight, epsilon: context.configuration.normEpsilon)
    }

    /// Turns the gradient of the normed heads into that of the heads, in place.
    ///
    /// - Parameter scratch: at least as large.
    func backward(_ gradient: FloatView, scratch: FloatView) {
        let dx = scratch[0..<gradient.count]
        dx.fill(0)
        context.compute.rmsNormBackward(dx: dx, dy: gradient, x: kept.input, scales: kept.scales, weight: weight)
        gradient.copy(from: dx)
    }
}
