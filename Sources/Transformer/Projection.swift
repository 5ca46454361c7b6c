/// The seven linear layers of a block, in the order in which they run.
public enum Projection: Int, CaseIterable, Sendable {
    case query, key, value, output, gate, up, down

    /// The module's last name, by which people choose targets.
    public var suffix: String {
        switch self {
        case .query: "q_proj"
        case .key: "k_proj"
        case .value: "v_proj"
        case .output: "o_proj"
        case .gate: "gate_proj"
        case .up: "up_proj"
        case .down: "down_proj"
        }
    }

    /// The module's path inside the model, without `.weight`.
    public func module(layer: Int) -> String {
        let part =
            switch self {
            case .query, .key, .value, .output: "self_attn"
            case .gate, .up, .down: "mlp"
            }
        return "model.layers.\(layer).\(part).\(suffix)"
    }

    /// The shape of the weight: [out, in].
    public func shape(in configuration: TransformerConfiguration) -> (out: Int, input: Int) {
        switch self {
        case .query: (configuration.queryWidth, configuration.hiddenSize)
        case .key, .value: (configuration.keyWidth, configuration.hiddenSize)
        case .output: (configuration.hiddenSize, configuration.queryWidth)
        case .gate, .up: (configuration.intermediateSize, configuration.hiddenSize)
        case .down: (configuration.hiddenSize, configuration.intermediateSize)
        }
    }
}
