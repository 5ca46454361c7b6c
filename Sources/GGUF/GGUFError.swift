/// Why a file is not the GGUF file that it should be.
public struct GGUFError: Error, Sendable, Equatable {
    /// One code for each way in which a file can be wrong; scripts may rely on the names.
    public enum Code: String, Sendable, CaseIterable {
        /// The file does not begin with `GGUF`.
        case notGGUF
        /// A version that is not read, or numbers in the other byte order.
        case unsupportedVersion
        /// The header goes past the end of the file.
        case headerPastEnd
        /// More tensors, fields or elements than the rest of the file can hold.
        case countTooLarge
        /// A key, a name or a text that is not UTF-8.
        case invalidText
        /// A key or a name that occurs twice.
        case duplicate
        /// A field of a type that the format does not have, or a list of lists.
        case unknownValueType
        /// `general.alignment` is not a power of two, or not an unsigned integer.
        case invalidAlignment
        /// A tensor of a type that is not known.
        case unknownTensorType
        /// A tensor of more than four dimensions, or whose rows do not hold whole blocks.
        case invalidShape
        /// The product of a shape, or its size in bytes, does not fit.
        case sizeOverflow
        /// Data that is not aligned, or lies on that of another tensor.
        case invalidOffset
        /// Tensor data goes past the end of the file.
        case dataPastEnd
    }

    public let code: Code
    public let path: String
    /// The key or tensor that is at fault.
    public let subject: String?
    /// Byte offset into the file.
    public let offset: Int?
    public let message: String

    public init(_ code: Code, path: String, subject: String? = nil, offset: Int? = nil, _ message: String) {
        self.code = code
        self.path = path
        self.subject = subject
        self.offset = offset
        self.message = message
    }
}

extension GGUFError: CustomStringConvertible {
    public var description: String {
        var place = path
        if let subject { place += ", \(subject)" }
        if let offset { place += ", byte \(offset)" }
        return "\(place): \(message)"
    }
}
