public import Kernels

/// The low-rank updates of a model's linear layers.
public struct LowRankUpdates: Sendable {
    /// Layer by layer, in the order of `TransformerConfiguration.linears`; empty for none at all.
    private let updates: [LowRankUpdate?]
    private let linears: Int

    /// The base model alone.
    public static let none = LowRankUpdates(layers: 0, linears: 1) { _, _ in nil }

    /// - Parameter linears: the linear layers of a block.
    public init(layers: Int, linears: Int, _ update: (_ layer: Int, _ linear: Int) -> LowRankUpdate?) {
        self.linears = linears
        updates = (0..<layers).flatMap { layer in (0..<linears).map { update(layer, $0) } }
    }

    subscript(layer: Int, linear: Int) -> LowRankUpdate? { updates.isEmpty ? nil : updates[layer * linears + linear] }

    /// The first block with an adapted layer: the backward pass ends there.
    var lowestLayer: Int? { updates.firstIndex { $0 != nil }.map { $0 / linears } }
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

    /// - Parameter module: the number of the linear layer in the model.
    func dropout(_ module: Int, buffer: FloatView) -> Dropout {
        Dropout(rate: rate, seed: seed ^ (UInt64(module + 1) &* 0xD6E8_FEB8_6659_FD93), buffer: buffer)
    }
}
