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
        /// Whether a byte of its weights is not the base's.
        public let isChanged: Bool
    }

    /// Whose tokenizer the merged folder has, file by file.
    public struct Tokenizer: Sendable {
        /// The name of the adapter that brings files; `nil` where none does.
        public let adapter: String?
        public let fromAdapter: [String]
        public let fromBase: [String]

        var json: JSONValue {
            func names(_ list: [String]) -> JSONValue { .array(list.map { .string($0) }) }
            return ["adapter": adapter.map { .string($0) } ?? .null, "fromAdapter": names(fromAdapter), "fromBase": names(fromBase)]
        }
    }

    /// Sorted by path.
    public let modules: [Module]
    /// Tensors that are not the base's byte for byte.
    public let tensorsChanged: Int
    /// All others.
    public let tensorsCopied: Int
    /// Bytes of the weight files.
    public let bytes: Int
    /// The other files that were copied, as paths in the folder.
    public let filesCopied: [String]
    /// The other files of the base that were left out, as paths in the folder, and those of an adapter's tokenizer, with its name in front.
    public let filesLeftOut: [String]
    public let tokenizer: Tokenizer
    /// What somebody who uses the model should know, each one sentence.
    public let remarks: [String]

    /// Modules whose weights are the base's all the same.
    public var modulesWithoutEffect: [Module] { modules.filter { !$0.isChanged } }

    /// The module with the least survival; `nil` when no module has any.
    public var minimumSurvival: (survival: Double, module: ModulePath)? {
        modules.compactMap { module in module.survival.map { ($0, module.path) } }.min { $0.0 < $1.0 }
    }

    /// The report that `oplora merge --json` prints.
    public var json: JSONValue {
        let survival: JSONValue =
            minimumSurvival.map { ["minimum": .real($0.survival), "module": .string($0.module.text)] } ?? .null
        return [
            "schema": "oplora.merge/1", "modules": .integer(modules.count),
            "modulesWithoutEffect": .array(modulesWithoutEffect.map { .string($0.path.text) }), "tensorsChanged": .integer(tensorsChanged),
            "tensorsCopied": .integer(tensorsCopied), "bytes": .integer(bytes), "survival": survival,
            "filesCopied": .array(filesCopied.map { .string($0) }), "filesLeftOut": .array(filesLeftOut.map { .string($0) }),
            "tokenizer": tokenizer.json, "remarks": .array(remarks.map { .string($0) }),
        ]
    }
}
