public import Adapters
internal import FileIO
public import Kernels
internal import LanguageModel
internal import Safetensors
internal import Weights

/// Runs base + adapter, the base and the merged model side by side.
///
/// Base + adapter is not merged: low-rank updates of linear layers run beside the weight. What cannot run so (magnitudes, embeddings,
/// norms, whole values) is computed in this module's own arithmetic and kept in F32.
public final class FunctionVerifier {
    private let compute: Compute
    private let adapted: AdaptedWeights
    private let base: TransformerWeights

    /// Rows of logits that are compared at once.
    private static let blockRows = 32

    /// Of the adapted model, whose vocabulary may have grown.
    public var vocabularySize: Int { adapted.weights.configuration.vocabularySize }
    /// The most tokens that a prompt may have.
    public var maximumTokens: Int { min(base.configuration.maximumPositions, base.configuration.slidingWindow ?? .max) }

    /// - Parameter base: the folder of a Llama-family model.
    /// - Throws: `TransformerError` for a model that does not run here; what `MergeVerifier.verify` throws.
    public init(base path: String, adapters: [WeightedAdapter], compute: Compute) throws {
        self.compute = compute
        let model = try AdaptedModel(base: try BaseModel(path: path), adapters: adapters, codes: .decoded)
        base = try TransformerWeights(
            configuration: try TransformerConfiguration(folder: path), files: try ModelWeights(path: path), compute: compute)
        adapted = try AdaptedWeights(model, folder: path, compute: compute)
    }

    /// - Parameters:
    ///   - merged: the folder of the merged model.
    ///   - prompts: token ids below the vocabulary's size; none empty or longer than `maximumTokens`.
    ///   - isCancelled: asked before each prompt.
    /// - Throws: `TransformerError` for a merged model that does not run; `MergeError.interrupted`.
    public func compare(merged path: String, prompts: [[Int32]], isCancelled: () -> Bool = { false }) throws -> FunctionComparison {
        let merged = try TransformerWeights(
            configuration: try TransformerConfiguration(folder: path), files: try ModelWeights(path: path), compute: compute)
        guard merged.configuration.vocabularySize == adapted.weights.configuration.vocabularySize else {
            throw TransformerError(
                .wrongShape, path: path, tensor: merged.head.name,
                "the merged model has \(merged.configuration.vocabularySize) tokens and should have \(adapted.weights.configuration.vocabularySize)")
        }
        // A base with a smaller vocabulary has no logits to hold against.
        let hasBase = base.configuration.vocabularySize == adapted.weights.configuration.vocabularySize
        var (ofMerged, ofBase): ([[LogitDifference]], [[LogitDifference]]) = ([], [])
        for tokens in prompts {
            guard !isCancelled() else { throw MergeError(.interrupted, path: path, "the verification was interrupted") }
            let right = try run(adapted.weights, tokens, adapted.updates, rank: adapted.maximumRank)
            ofMerged.append(try compare(right, try run(merged, tokens), count: tokens.count))
            if hasBase { ofBase.append(try compare(right, try run(base, tokens), count: tokens.count)) }
        }
        return FunctionComparison(merged: ofMerged, base: hasBase ? ofBase : nil)
    }

    /// What a model has in its last layer: its head, and the normed states [tokens, hidden].
    private struct Run {
        let head: WeightMatrix
        let states: FloatView
    }

    private func run(_ weights: TransformerWeights, _ tokens: [Int32], _ updates: LowRankUpdates = .none, rank: Int = 0) throws -> Run {
        let model = try Transformer(
            weights: weights, compute: compute, batch: 1, sequence: tokens.count, maximumRank: rank, training: false)
        return Run(head: weights.head, states: model.finalStates(tokens: tokens, updates: updates))
    }

    /// The logits of a long prompt would fill the memory, so they are made and compared some rows at a time.
    private func compare(_ right: Run, _ other: Run, count: Int) throws -> [LogitDifference] {
        let vocabulary = right.head.rows
        let block = min(Self.blockRows, count)
        let buffers = FloatArena(counts: [block * vocabulary, block * vocabulary]).views
        return stride(from: 0, to: count, by: block).flatMap { start in
            let rows = min(block, count - start)
            func logits(_ run: Run, _ buffer: FloatView) -> FloatView {
                let target = buffer[0..<rows * vocabulary]
                // The merged model may be of another width.
                let hidden = run.head.columns
                compute.logits(target, hidden: run.states[start * hidden..<(start + rows) * hidden], head: run.head)
                return target
            }
            return compute.compareLogits(logits(right, buffers[0]), logits(other, buffers[1]), rows: rows)
        }
    }
}
