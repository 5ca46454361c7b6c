public import Adapters
public import JSON

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
        /// Most tensors are unlike the base: the model was made from another one.
        case wrongBase
        /// A module of an adapter that the base does not hold.
        case adapterUnused
        /// A tensor, or a row of one, that is not the one that an adapter puts in the base's place.
        case wrongReplacement
        /// Elements that are infinite or NaN.
        case notFinite
        /// The weight is the base's: the update was never added.
        case notMerged
        /// The update was added twice.
        case mergedTwice
        /// The update was subtracted.
        case wrongSign
        /// The update was added with another scale.
        case wrongScale
        /// The transpose of the update was added.
        case transposed
        /// The update of another module was added.
        case swappedModules
        /// The experts of a layer have each other's updates.
        case expertsPermuted
        /// Only some of the update's components were added.
        case truncatedRank
        /// The update of a matrix that embedding and head share is in both, where the adapter changes one.
        case tiedHeadOverwritten
        /// A few elements are not the result.
        case elementsDiffer
        /// The weight is something else.
        case wrongUpdate
        /// Rounding erased the update, so merged and not merged look the same.
        case roundedAway
        /// A tensor whose name in the layout of the other model is not known, so that nothing can be held against it.
        case unknownName
        /// The base's weight is stored as codes with scales, and nothing can be held against it.
        case quantizedBase
        /// The merged model does not run in the forward pass that base + adapter runs in.
        case notRunnable
        /// A value that was asked to stay within a limit does not.
        case gate
        /// A tensor's bytes have another hash than the receipt says.
        case hashDiffers
        /// A field of `config.json` that describes the architecture has another value.
        case configurationDiffers
        /// What `config.json` says of codes is not what the weights are.
        case quantizationDiffers
        /// Files of an adapter lie in the merged folder, and loaders would apply them once more.
        case leftoverAdapter
        /// A file of the merged model is not there itself: a pointer of Git LFS, or what a download that failed has left.
        case fileNotFetched
        /// A collapsed factor is not what the hypernetwork gives.
        case factorDiffers
        /// A collapsed module's scale is not that of the run.
        case scaleDiffers
        /// A module of the run that the adapter does not hold.
        case missingModule
        /// A module of the adapter that the run does not hold.
        case extraModule
    }

    /// What a fault comes from, where whoever asked for the verification can change it.
    public enum Cause: Sendable, Equatable {
        /// Why adapter and base do not fit.
        case merge(MergeError)
        /// A limit of `MergeVerifier.Gates`: steps of the stored type.
        case maxUlp(Int)
        /// Another: the share of an update.
        case minSurvival(Double)
        /// The share of tokens after which both models find the same next one most likely.
        case minArgmaxAgreement(Double)
    }

    public let code: Code
    /// The module or tensor; the field, for a fault of the configuration.
    public let module: String
    /// One sentence: what, where, and how far off.
    public internal(set) var message: String
    public let cause: Cause?

    public init(_ code: Code, _ module: String, _ message: String, cause: Cause? = nil) {
        self.code = code
        self.module = module
        self.message = message
        self.cause = cause
    }

    /// Why something does not fit the base.
    init(_ code: Code, _ module: String, _ error: MergeError) { self.init(code, module, error.message, cause: .merge(error)) }

    mutating func add(_ remedy: (Fault) -> String?) { if let clause = remedy(self) { message += "; " + clause } }

    public var json: JSONValue {
        ["code": .string(code.rawValue), "module": .string(module), "message": .string(message)]
    }
}
