/// Why a merge was not made. Nothing has been published when one is thrown.
public struct MergeError: Error, Sendable, Equatable {
    /// One code for each reason; scripts may rely on the names.
    public enum Code: String, Sendable, CaseIterable {
        /// An adapter names a module whose weight the base does not hold.
        case moduleNotInBase
        /// The factors of a module do not fit its weight.
        case shapeMismatch
        /// A weight is in an element type in which it cannot be merged.
        case unsupportedDType
        /// A weight is stored as codes with scales.
        case quantizedBase
        /// Embedding and head share one matrix and cannot be separated.
        case tiedWeights
        /// Adapters that cannot be merged together, or not with this weight.
        case unsupportedCombination
        /// Alpha, rank and weight give no finite scale.
        case invalidScale
        /// An element of a factor is infinite or NaN.
        case factorNotFinite
        /// An element of the base's weight is infinite or NaN.
        case baseNotFinite
        /// An element of the result is too large for its element type.
        case overflow
        /// An adapter that says that it was trained on another base.
        case otherBase
        /// Rounding left less of an update than was asked for.
        case survivalTooLow
        /// The output is one of the inputs, or lies in one.
        case outputIsInput
        /// No adapter was given, or one with no module.
        case nothingToMerge
        /// `config.json` of the base is not what it should be.
        case invalidConfiguration
        /// A receipt that is none, or holds no hashes.
        case invalidReceipt
        /// An adapter that is in the model already.
        case alreadyMerged
        /// An adapter that is given twice in one merge.
        case givenTwice
        /// An adapter that is to be taken out and that the model's receipt does not have.
        case notInReceipt
        /// An adapter brings a part of a tokenizer that means nothing alone.
        case incompleteTokenizer
        /// A pointer of Git LFS, or what a download that failed has left, lies in the place of a file that comes along.
        case fileNotFetched
        /// What is given as a model holds the factors of an adapter.
        case notAModel
        /// Somebody asked to stop.
        case interrupted
    }

    /// What whoever asks for the merge can decide, or ask for otherwise.
    public enum Cause: Sendable, Equatable {
        /// The adapter names another base, which may be the same weights under another name.
        case otherBaseNamed
        /// The base has other weights than those that the adapter was trained on.
        case otherWeights
        /// Of which component of the base the adapter is, only somebody who knows it tells.
        case needsComponent
        /// The adapter brings files of a tokenizer that cannot be taken.
        case bringsTokenizer
        /// The adapter is given twice, which may be meant.
        case givenTwice
        /// The adapter is in the model, and may be meant to be in it twice.
        case alreadyMerged
        /// The receipt does not have the adapter, which may be in the model all the same.
        case notInReceipt
        /// The receipt has the adapter with this weight.
        case otherWeight(Double)
        /// A sum is too large for an element type that is not the widest.
        case tooLargeForType
        /// An element of the base is too large for the type that is asked for.
        case tooLargeToConvert
        /// The receipt is of a merge that was asked for no hashes.
        case noHashes
    }

    public let code: Code
    /// The file or folder at fault.
    public let path: String
    /// The tensor or module at fault.
    public let tensor: String?
    public let message: String
    public let cause: Cause?

    public init(_ code: Code, path: String, tensor: String? = nil, _ message: String, cause: Cause? = nil) {
        self.code = code
        self.path = path
        self.tensor = tensor
        self.message = message
        self.cause = cause
    }
}

extension MergeError: CustomStringConvertible {
    public var description: String {
        guard let tensor else { return "\(path): \(message)" }
        return "\(path), tensor \(tensor): \(message)"
    }
}
