/// The layout of a family's experts, if their stacks are not [experts, out, in] with the rows of the gate first.
public struct ExpertFacts: Sendable, Equatable {
    /// The order of the two dimensions of one expert's matrix.
    ///
    /// PEFT takes the first dimension for the inputs only where the class of the experts has `is_transposed`.
    /// Otherwise it takes the last one, whatever the class means. `Tests/interop/experts.py` compares with the
    /// installed releases.
    public enum Order: Sendable, Equatable {
        /// [out, in].
        case plain
        /// [in, out], and the class says so.
        case marked
        /// [in, out], and the class does not say so: A lies beside the outputs.
        case unmarked
        /// [out, in] in memory. transformers transposes files of the other order.
        case loadedTransposed
    }

    public let order: Order
    /// Whether the rows of gate and up projection alternate.
    public let interleavesGate: Bool
    /// Names in the targets of an adapter that PEFT takes for layers of experts, whatever other layers have them.
    ///
    /// Source: PEFT 0.21, `_convert_peft_config_moe`, with transformers 5.24, `_MODEL_TO_CONVERSION_PATTERN`.
    public let targets: Set<String>

    public init(_ order: Order = .plain, interleavesGate: Bool = false, targets: Set<String> = []) {
        (self.order, self.interleavesGate, self.targets) = (order, interleavesGate, targets)
    }

    /// Experts whose layers once had these names.
    public static let gated = ExpertFacts(targets: ["gate", "gate_proj", "up_proj", "down_proj"])
    public static let numbered = ExpertFacts(targets: ["gate", "w1", "w2", "w3"])
}
