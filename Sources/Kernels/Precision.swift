internal import CKernels

/// The type of the numbers that go into the products of activations with base weights. Sums are F32 in both.
public enum Precision: String, Sendable, CaseIterable {
    case f32
    /// Activations, their gradients and the weights rounded to BF16, for processors that multiply it faster.
    case bf16

    /// Whether this processor has products of the type.
    public var isSupported: Bool { self == .f32 || oplora_has_bf16_products() }
}
