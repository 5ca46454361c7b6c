public import JSON
internal import OrderedCollections
public import Tensors

/// What a merge would do, for people and programs that ask before it does.
extension MergePlan {
    /// What an adapter does to one tensor.
    public struct Step: Sendable {
        public let tensor: String
        /// Of the tensor, as it will be written.
        public let shape: [Int]
        public let dtype: DType
        /// The module; `nil` where an adapter puts values in the place of the base's.
        public let module: ModulePath?
        public let rank: Int
        public let scale: Double
        /// Whether a magnitude scales the result (DoRA).
        public let hasMagnitude: Bool
    }

    /// The tensors that the adapters change, in the order in which they are written; one that several modules meet is named for
    /// each of them.
    public var steps: [Step] {
        jobs.flatMap { job -> [Step] in
            let tensor = job.tensor
            func step(_ update: TensorUpdate?) -> Step {
                Step(
                    tensor: tensor.name, shape: tensor.shape, dtype: job.dtype, module: update?.module, rank: update?.rank ?? 0,
                    scale: update?.scale ?? 0, hasMagnitude: update?.magnitude != nil)
            }
            var seen: Set<ModulePath> = []
            let replaced = tensor.isOfBase && tensor.rows.isEmpty ? [] : [step(nil)]
            return replaced + tensor.updates.filter { seen.insert($0.module).inserted }.map(step)
        }
    }

    /// About the memory that the merge takes, in bytes: the pieces that are in the making, and the factors of the largest tensors.
    public func memoryEstimate(threads: Int) -> Int {
        let factors = jobs.map { $0.updates.reduce(0) { $0 + $1.rank * (8 * $1.rows.count + 12 * $1.columns) } }.max() ?? 0
        // Two workspaces a thread, of source and result, and of binary64 where a magnitude is.
        return 2 * threads * 4 * MergePlan.pieceBytes + (threads + 1) * factors
    }

    /// The report that `oplora merge --dry-run --json` prints.
    ///
    /// - Parameter freeBytes: where the result would be written; `nil` where the system does not say.
    /// Whether so many free bytes are enough for the weights; what is replaced stays until the end.
    public func fits(in freeBytes: Int) -> Bool { byteCount <= freeBytes }

    public func json(threads: Int, freeBytes: Int?) -> JSONValue {
        [
            "schema": "oplora.merge-plan/1", "modules": .integer(moduleCount), "tensors": .integer(model.tensors.count),
            "bytes": .integer(byteCount), "freeBytes": freeBytes.map { .integer($0) } ?? .null,
            "fits": freeBytes.map { .bool(fits(in: $0)) } ?? .null,
            "memory": .integer(memoryEstimate(threads: threads)), "remarks": .array(model.remarks.map { .string($0) }),
            "steps": .array(
                steps.map { step in
                    [
                        "tensor": .string(step.tensor), "shape": .array(step.shape.map { .integer($0) }), "dtype": .string(step.dtype.rawValue),
                        "module": step.module.map { .string($0.text) } ?? .null, "rank": .integer(step.rank), "scale": .real(step.scale),
                        "magnitude": .bool(step.hasMagnitude),
                    ]
                }),
        ]
    }
}
