public import JSON
internal import OrderedCollections

/// What a merge did.
public struct MergeReport: Sendable {
    /// One adapted weight.
    public struct Module: Sendable {
        public let path: ModulePath
        /// What multiplied B·A, one number for each adapter that has the module, in their order.
        public let scales: [Double]
        /// How much of the update the stored weight holds: ⟨ΔW, W′ − W⟩ / ‖ΔW‖², where ΔW = Σ s·acc in binary64 and W′ is
        /// the weight as stored. 1 where nothing was lost to rounding, 0 where all of it was. `nil` for an update that is
        /// zero everywhere.
        public let survival: Double?
    }

    /// Sorted by path.
    public let modules: [Module]
    /// Tensors that were computed: merged, or converted to another element type.
    public let tensorsChanged: Int
    /// Tensors that were copied byte for byte.
    public let tensorsCopied: Int
    /// Bytes of the weight files.
    public let bytes: Int
    /// The other files that were copied, as paths in the folder.
    public let filesCopied: [String]
    /// The other files of the base that were left out, as paths in the folder.
    public let filesLeftOut: [String]
    /// What somebody who uses the model should know, each one sentence.
    public let remarks: [String]

    /// The module with the least survival; `nil` when no module has any.
    public var minimumSurvival: (survival: Double, module: ModulePath)? {
        modules.compactMap { module in module.survival.map { ($0, module.path) } }.min { $0.0 < $1.0 }
    }

    /// The report that `oplora merge --json` prints.
    public var json: JSONValue {
        let survival: JSONValue =
            minimumSurvival.map { ["minimum": .real($0.survival), "module": .string($0.module.text)] } ?? .null
        return [
            "schema": "oplora.merge/1", "modules": .integer(modules.count), "tensorsChanged": .integer(tensorsChanged),
            "tensorsCopied": .integer(tensorsCopied), "bytes": .integer(bytes), "survival": survival,
            "filesCopied": .array(filesCopied.map { .string($0) }), "filesLeftOut": .array(filesLeftOut.map { .string($0) }),
            "remarks": .array(remarks.map { .string($0) }),
        ]
    }
}
