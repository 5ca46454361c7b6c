/// Why a text is not the JSON that this project accepts.
public struct JSONError: Error, Sendable, Equatable {
    public enum Code: String, Sendable {
        case empty, unexpectedCharacter, unterminated, badNumber, integerOutOfRange, badString, badUTF8, duplicateKey, tooDeep, tooMany,
            trailingText, wrongType, missingKey
    }

    public let code: Code
    /// Byte offset into the text; `nil` where the fault has no single place.
    public let offset: Int?
    public let message: String

    public init(_ code: Code, at offset: Int? = nil, _ message: String) {
        self.code = code
        self.offset = offset
        self.message = message
    }
}

extension JSONError: CustomStringConvertible {
    public var description: String {
        guard let offset else { return message }
        return "\(message) at byte \(offset)"
    }
}
