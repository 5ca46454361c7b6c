public import Adapters
public import JSON
internal import OrderedCollections

/// One thing that is wrong with a merged model or a collapsed adapter.
public struct Fault: Sendable, Equatable {
    /// One code for each kind of fault; scripts may rely on the names.
    public enum Code: String, Sendable, CaseIterable {
        /// A tensor of the base that the merged model does not hold.
        case missingTensor
        /// A tensor of the merged model that the base does not hold.
        case extraTensor
        case shapeMismatch
        case dtypeMismatch
        /// A tensor that no adapter names and that is not the base's.
        case baseChangedWithoutAdapter
        /// A module of an adapter that the base does not hold.
        case adapterUnused
        /// A tensor, or a row of one, that is not the one that an adapter puts in the base's place.
        case wrongReplacement
        /// Elements that are infinite or no number.
        case notFinite
        /// The weight is the base's: the update was never added.
        case notMerged
        /// The update was subtracted.
        case wrongSign
        /// The update was added with another scale.
        case wrongScale
        /// The transpose of the update was added.
        case transposed
        /// A few elements are not the result.
        case elementsDiffer
        /// Elements that are off by no more than the rounding of another order or precision of summation.
        case notCorrectlyRounded
        /// The weight is something else.
        case wrongUpdate
        /// A field of `config.json` that describes the architecture has another value.
        case configurationDiffers
        /// Files of an adapter lie in the merged folder, and loaders would apply them once more.
        case leftoverAdapter
        /// A collapsed factor is not what the hypernetwork gives.
        case factorDiffers
        /// A collapsed module's scale is not that of the run.
        case scaleDiffers
        /// A module of the run that the adapter does not hold.
        case missingModule
        /// A module of the adapter that the run does not hold.
        case extraModule
    }

    public let code: Code
    /// The module or tensor; the field, for a fault of the configuration.
    public let module: String
    /// One sentence: what, where, and how far off.
    public let message: String

    public init(_ code: Code, _ module: String, _ message: String) {
        self.code = code
        self.module = module
        self.message = message
    }

    public var json: JSONValue {
        ["code": .string(code.rawValue), "module": .string(module), "message": .string(message)]
    }
}

/// What the verification of a merged model found.
public struct MergeVerdict: Sendable {
    /// One adapted weight, measured. ΔW is the update in binary64, W the base's weight and W′ the merged one.
    public struct Module: Sendable {
        public let path: ModulePath
        /// ⟨ΔW, W′ − W⟩ / ‖ΔW‖²: 1 for the update as it should be, 0 for none, −1 for one that was subtracted. `nil` for an
        /// update that is zero.
        public let projection: Double?
        /// ‖W′ − W − ΔW‖ / ‖ΔW‖. `nil` for an update that is zero.
        public let relativeResidual: Double?
        /// The largest distance of an element from the correctly rounded one, in steps of the stored type.
        public let maxUlp: Int
        /// The projection that the correctly rounded weight has: how much of the update the stored type can hold. `nil` for
        /// an update that is zero.
        public let survival: Double?
        /// Elements that are not the correctly rounded ones.
        public let differingElements: Int
        /// Whether rounding erased the whole update, so that merged and not merged look the same.
        public let isErased: Bool
    }

    public struct Coverage: Sendable, Equatable {
        /// Modules of an adapter that the base does not hold.
        public var adapterUnused: [String] = []
        public var baseChangedWithoutAdapter: [String] = []
        /// Tensors of the base that the merged model does not hold.
        public var missing: [String] = []
        /// Tensors of the merged model that the base does not hold.
        public var extra: [String] = []

        public init() {}
    }

    public let faults: [Fault]
    public let modules: [Module]
    public let coverage: Coverage

    public var passes: Bool { faults.isEmpty }

    /// Whether the files cannot tell a merged model from one that was not: every update was erased by rounding.
    public var isUndecidable: Bool {
        let updated = modules.filter { $0.survival != nil }
        return passes && !updated.isEmpty && updated.allSatisfy(\.isErased)
    }

    /// The report that `oplora verify --json` prints.
    public var json: JSONValue {
        func number(_ value: Double?) -> JSONValue { value.map { .real($0) } ?? .null }
        func names(_ list: [String]) -> JSONValue { .array(list.map { .string($0) }) }
        return [
            "schema": "oplora.verify/1",
            "verdict": .string(passes ? "pass" : "fail"),
            "faults": .array(faults.map(\.json)),
            "modules": .array(
                modules.map { module in
                    [
                        "module": .string(module.path.text), "projection": number(module.projection),
                        "relativeResidual": number(module.relativeResidual), "maxUlp": .integer(module.maxUlp),
                        "survival": number(module.survival), "differingElements": .integer(module.differingElements),
                        "erased": .bool(module.isErased),
                    ]
                }),
            "coverage": [
                "adapterUnused": names(coverage.adapterUnused),
                "baseChangedWithoutAdapter": names(coverage.baseChangedWithoutAdapter), "missing": names(coverage.missing),
                "extra": names(coverage.extra),
            ],
        ]
    }
}
