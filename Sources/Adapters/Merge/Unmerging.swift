internal import JSON
internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// What a merged model without its adapter again is worth: rounding has taken bits that nobody can give back.
public struct Unmerging: Sendable {
    /// One tensor from which an update was taken away.
    public struct Module: Sendable {
        public let tensor: String
        public let elements: Int
        /// Elements of which several values would have become the merged one, or may have.
        public let uncertain: Int
        /// How far off such an element may be: half a unit in the last place of the merged one, and half of its own.
        public let maximumError: Double
    }

    public let report: MergeReport
    /// What somebody who uses the model should know, each one sentence.
    public let remarks: [String]
    /// In the order of the files.
    public let modules: [Module]

    public var elements: Int { modules.reduce(0) { $0 + $1.elements } }
    public var uncertain: Int { modules.reduce(0) { $0 + $1.uncertain } }
    public var maximumError: Double { modules.map(\.maximumError).max() ?? 0 }

    /// Takes adapters out of a merged model: W = round(W′ − s·B·A), in the merge's arithmetic.
    ///
    /// W′ was rounded to its type's place. Where W is smaller than W′, so that its own places are finer, or W′ − s·B·A lies half-way between
    /// two, more than one W gives this W′; all this for a base in the type of the merged model, as without `--dtype`.
    ///
    /// The merged model's receipt, where there is one, says whether the adapters are in it; the new receipt says that they were taken out.
    ///
    /// - Parameters:
    ///   - adapters: with the weights with which they were merged.
    ///   - takesAnyAdapter: whether an adapter is taken out that the receipt does not have.
    /// - Throws: as `MergePlan`; `.notInReceipt`; `.unsupportedCombination` for what cannot be taken out: magnitudes, whose old norms are gone, and
    ///   whole tensors and rows.
    public init(
        merged: String, adapters: [WeightedAdapter], takesAnyAdapter: Bool = false, to output: String, options: MergePlan.RunOptions
    ) throws {
        for item in adapters {
            if let module = item.adapter.modules.first(where: { $0.magnitude != nil }) {
                throw MergeError(
                    .unsupportedCombination, path: item.adapter.path, tensor: module.parameterName,
                    "the norms that the weight had before its magnitude (DoRA) came are gone, and no file says what they were; take the base instead")
            }
            if let replacement = item.adapter.replacements.first(where: { !$0.isOfAdaptedLayer }) {
                throw MergeError(
                    .unsupportedCombination, path: item.adapter.path, tensor: replacement.tensor,
                    "the adapter put whole values in the place of the base's, which are gone; take the base instead")
            }
        }
        let plan = try MergePlan(
            base: merged,
            adapters: adapters.map { WeightedAdapter($0.adapter.with(modules: $0.adapter.modules, replacements: []), weight: -$0.weight) },
            dtype: nil, takesAnyBase: true,
            mergesAgain: true, keepsTokenizer: true, readsFactors: true, isTaking: true)
        if plan.model.decodes {
            throw MergeError(
                .quantizedBase, path: merged,
                "the model is quantized, and its codes are not the numbers that an update was added to; take the base instead")
        }
        if !takesAnyAdapter { try plan.receipt?.requireMerged(adapters.map { ($0, MergeReceipt.entry(of: $0)) }) }
        let kept = adapters.flatMap(\.adapter.replacements).map(\.tensor)
        let own =
            kept.isEmpty
            ? []
            : [
                "\(kept.joined(separator: ", ")): what the layer has itself stays as the adapter has it, which is not the base's where the adapter was trained on a grown or changed vocabulary"
            ]
        remarks = Self.remarks(merged, plan.receipt) + own
        report = try plan.run(to: output, options: options)
        let isFile = plan.base.shards.count == 1 && plan.base.shards[0].path == merged
        let result = try ModelWeights(path: isFile ? output + "/" + (merged.split(separator: "/").last.map(String.init) ?? "") : output)
        modules = try plan.jobs.filter(\.mayChange).compactMap { job in
            try result.tensors[job.tensor.name].map { try Module(job, after: $0) }
        }
    }
}

extension Unmerging {
    /// What of the base cannot be given back, as far as the receipt tells.
    private static func remarks(_ merged: String, _ receipt: MergeReceipt?) -> [String] {
        guard let last = receipt?.steps.last else {
            return ["there is no receipt in \(merged), so nothing says that these adapters were merged into it with these weights"]
        }
        var remarks: [String] = []
        if let dtype = last["dtype"]?.stringValue, dtype != "keep" {
            remarks.append("the merge made the weights \(dtype); if the base had another element type, its own bits cannot be given back")
        }
        if let names = last["coverage"]?["added"]?.arrayValue?.compactMap(\.stringValue), !names.isEmpty {
            remarks.append("\(names.joined(separator: ", ")) came to be with the merge and stays, without the update")
        }
        if let names = last["tokenizer"]?["fromAdapter"]?.arrayValue?.compactMap(\.stringValue), !names.isEmpty {
            remarks.append("\(names.joined(separator: ", ")) came from the adapter and stay, because the merged folder does not hold the base's")
        }
        return remarks
    }
}

extension Unmerging.Module {
    /// Looks for every element whether a neighbour of the unmerged value would have become the merged one, too.
    fileprivate init(_ job: TensorJob, after: StoredWeight) throws {
        let merged = FactorMatrix(job.source)
        let unmerged = FactorMatrix(after)
        let ready = try job.updates.map { try $0.ready() }
        let (columns, dtype) = (job.columns, after.dtype)
        let rows = job.elementCount / max(1, columns)
        let (old, new) = (merged.reshaped(rows: rows, columns: columns), unmerged.reshaped(rows: rows, columns: columns))
        var (uncertain, largest) = (0, 0.0)
        // In pieces, so that a large tensor is never whole in memory.
        let step = max(1, MergePlan.pieceBytes / 8 / max(1, columns))
        let pieces = job.runs.flatMap { run in
            stride(from: run.rows.lowerBound, to: run.rows.upperBound, by: step).map { ($0..<min($0 + step, run.rows.upperBound), run.updates) }
        }
        for (range, updates) in pieces where !updates.isEmpty {
            let (before, after) = (
                old.rows(from: range.lowerBound, count: range.count).doubles(), new.rows(from: range.lowerBound, count: range.count).doubles()
            )
            // W′ − s·B·A in binary64.
            var exact = before
            // Sound: every bit pattern of a number may be read as raw bytes.
            updates.map { ready[$0] }.apply(to: unsafe before.span.bytes, .f64, into: &exact, rows: range, columns: columns)
            for place in before.indices where before[place] != 0 || after[place] != 0 {
                let half = Self.place(before[place], dtype) / 2
                // W′ − s·B·A, seen from the value that it was rounded to.
                let rest = exact[place] - after[place]
                let up = Self.place(after[place], dtype)
                let isPower = after[place] != 0 && abs(after[place].significand) == 1
                let down = isPower ? up / 2 : up
                // Towards zero the next value may be nearer.
                let (above, below) = after[place] < 0 ? (down, up) : (up, down)
                let reach = half * (1 + 0x1p-20)
                guard abs(rest - above) <= reach || abs(rest + below) <= reach else { continue }
                uncertain += 1
                largest = max(largest, half + up / 2)
            }
        }
        self.init(tensor: job.tensor.name, elements: rows * columns, uncertain: uncertain, maximumError: largest)
    }

    /// A unit in the last place of a number in an element type.
    private static func place(_ value: Double, _ dtype: DType) -> Double {
        // The binary digits of a significand, and the exponent of the least number.
        let (digits, least) =
            switch dtype {
            case .bf16: (8, -133)
            case .f16: (11, -24)
            case .f32: (24, -149)
            default: (53, -1074)
            }
        return Double(sign: .plus, exponent: value == 0 ? least : max(least, Int(value.exponent) - digits + 1), significand: 1)
    }
}
