public import FileIO

/// Why a tokenizer cannot be used, or a text cannot be encoded.
public struct TokenizerError: Error, Sendable, Equatable {
    /// One code for each way in which things can be wrong; scripts may rely on the names.
    public enum Code: String, Sendable, CaseIterable {
        /// The file is missing, too large or cannot be read.
        case unreadable
        /// The file is not JSON.
        case invalidJSON
        /// A field is missing or of the wrong type.
        case invalidField
        /// The file is of a version that is not known here.
        case unsupportedVersion
        /// The model is not byte-level BPE.
        case unsupportedModel
        /// An option of the model is not supported.
        case unsupportedOption
        case unsupportedNormalizer
        case unsupportedPreTokenizer
        /// A pre-tokenizer uses a regular expression that is not known here.
        case unsupportedPattern
        case unsupportedDecoder
        /// An id that is negative or beyond `Tokenizer.maximumID`.
        case idOutOfRange
        /// Two tokens have the same id.
        case duplicateID
        /// The vocabulary has no token for a byte that every text contains.
        case missingByte
        /// A merge is not a pair of tokens.
        case invalidMerge
        /// A merge names a token, or makes one, that the vocabulary does not have.
        case unknownMergeToken
        /// An added token is empty, too long or there twice.
        case invalidAddedToken
        /// An added token has another id than the reference library would give it.
        case contradictoryID
        /// A text is not valid UTF-8.
        case invalidUTF8
    }

    public let code: Code
    /// The file in which the fault is.
    public let path: String
    /// Byte offset into the file.
    public let offset: Int?
    public let message: String
    /// The file system's own error, for the code `unreadable`.
    public let fileError: FileError?

    public init(_ code: Code, path: String, offset: Int? = nil, _ message: String) {
        self.code = code
        self.path = path
        self.offset = offset
        self.message = message
        fileError = nil
    }

    init(_ error: FileError, path: String) {
        code = .unreadable
        self.path = path
        offset = nil
        message = error.description
        fileError = error
    }
}

extension TokenizerError: CustomStringConvertible {
    public var description: String {
        // A file error's own sentence begins with the path.
        guard fileError == nil else { return message }
        guard let offset else { return "\(path): \(message)" }
        return "\(path), byte \(offset): \(message)"
    }
}
