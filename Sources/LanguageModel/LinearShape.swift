internal import Families

/// A linear layer of a block: its module in the block and the shape of its weight [out, in].
public struct LinearShape: Sendable, Equatable {
    /// `self_attn.q_proj`.
    public let module: String
    public let out: Int
    public let input: Int

    /// The module's last name, by which people choose targets.
    public var suffix: String { module.split(separator: ".").last.map(String.init) ?? module }

    /// The module's path inside the model, without `.weight`.
    public func path(layer: Int) -> String { "\(TransformerConfiguration.layers).\(layer).\(module)" }
}

extension TransformerConfiguration {
    static let layers = "model.layers"

    /// The linear layers of each block, in the order in which they run.
    public var linears: [LinearShape] {
        block.halves.flatMap { half -> [LinearShape] in
            switch half.body {
            case .attention(let attention):
                let module = attention.module
                return [
                    LinearShape(module: "\(module).q_proj", out: queryWidth, input: hiddenSize),
                    LinearShape(module: "\(module).k_proj", out: keyWidth, input: hiddenSize),
                    LinearShape(module: "\(module).v_proj", out: keyWidth, input: hiddenSize),
                    LinearShape(module: "\(module).o_proj", out: hiddenSize, input: queryWidth),
                ]
            case .gatedFeedForward(let module):
                return [
                    LinearShape(module: "\(module).gate_proj", out: intermediateSize, input: hiddenSize),
                    LinearShape(module: "\(module).up_proj", out: intermediateSize, input: hiddenSize),
                    LinearShape(module: "\(module).down_proj", out: hiddenSize, input: intermediateSize),
                ]
            }
        }
    }

    /// The norms of each block and the sizes of their weights, in the order in which they run.
    var norms: [(module: String, size: Int)] {
        block.halves.flatMap { half -> [(String, Int)] in
            guard case .attention(let attention) = half.body, attention.hasHeadNorms else { return [(half.norm, hiddenSize)] }
            return [
                (half.norm, hiddenSize), ("\(attention.module).q_norm", headDimension), ("\(attention.module).k_norm", headDimension),
            ]
        }
    }
}
