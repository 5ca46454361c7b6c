internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// What a merged model without its adapter again is worth: rounding has taken bits that nobody can give back.
public struct Unmerging: Sendable {
    /// One tensor from which an update was taken away.
    public struct Module: Sendable {
        public let tensor: String
        public let elements: Int
        /// Elements of which several values would have become the merged one.
        public let uncertain: Int
        /// How far off such an element may be: half a unit in the last place of the merged one, and half of its own.
        public let maximumError: Double
    }

    public let report: MergeReport
    /// In the order of the files.
    public let modules: [Module]

    public var elements: Int { modules.reduce(0) { $0 + $1.elements } }
    public var uncertain: Int { modules.reduce(0) { $0 + $1.uncertain } }
    public var maximumError: Double { modules.map(\.maximumError).max() ?? 0 }

    /// Takes adapters out of a merged model: W = round(W′ − s·B·A), in the merge's arithmetic.
    ///
    /// W′ was rounded to its type's place; where W is smaller than W′, so that its own places are finer, more than one W gives this W′.
    ///
    /// - Parameter adapters: with the weights with which they were merged.
    /// - Throws: as `MergePlan`; `.unsupportedCombination` for what cannot be taken out: magnitudes, whose old norms are gone, and
    ///   whole tensors and rows.
    public init(merged: String, adapters: [WeightedAdapter], to output: String, options: MergePlan.RunOptions) throws {
        for item in adapters {
            if let module = item.adapter.modules.first(where: { $0.magnitude != nil }) {
                throw MergeError(
                    .unsupportedCombination, path: item.adapter.path, tensor: module.parameterName,
                    "the norms that the weight had before its magnitude (DoRA) came are gone, and no file says what they were; take the base instead")
            }
            if let replacement = item.adapter.replacements.first {
                throw MergeError(
                    .unsupportedCombination, path: item.adapter.path, tensor: replacement.tensor,
                    "the adapter put whole values in the place of the base's, which are gone; take the base instead")
            }
        }
        let plan = try MergePlan(base: merged, adapters: adapters.map { WeightedAdapter($0.adapter, weight: -$0.weight) })
        report = try plan.run(to: output, options: options)
        let isFile = plan.base.shards.count == 1 && plan.base.shards[0].path == merged
        let result = try WeightFiles(path: isFile ? output + "/" + (merged.split(separator: "/").last.map(String.init) ?? "") : output)
        modules = plan.jobs.filter(\.isChanged).compactMap { job in
            result.tensors[job.tensor.name].map { Module(job.tensor.name, before: job.source, after: $0) }
        }
    }
}

extension Unmerging.Module {
    /// Compares the places of the merged and of the unmerged elements.
    fileprivate init(_ name: String, before: WeightFiles.Location, after: WeightFiles.Location) {
        let merged = FactorMatrix(before.info, in: before.file)
        let unmerged = FactorMatrix(after.info, in: after.file)
        let digits = Self.digits(after.info.dtype)
        var (uncertain, largest) = (0, 0.0)
        // In pieces, so that a large tensor is never whole in memory.
        let step = max(1, MergePlan.pieceBytes / max(1, merged.columns))
        for first in stride(from: 0, to: merged.rows, by: step) {
            let count = min(step, merged.rows - first)
            let old = merged.rows(from: first, count: count).doubles()
            let new = unmerged.rows(from: first, count: count).doubles()
            for place in old.indices where old[place] != 0 && (new[place] == 0 || new[place].exponent < old[place].exponent) {
                uncertain += 1
                func half(_ value: Double) -> Double { value == 0 ? 0 : Double(sign: .plus, exponent: Int(value.exponent) - digits, significand: 1) }
                largest = max(largest, half(old[place]) + half(new[place]))
            }
        }
        self.init(tensor: name, elements: merged.rows * merged.columns, uncertain: uncertain, maximumError: largest)
    }

    /// The binary digits of a number's significand.
    private static func digits(_ dtype: DType) -> Int {
        switch dtype {
        case .bf16: 8
        case .f16: 11
        case .f32: 24
        default: 53
        }
    }
}
