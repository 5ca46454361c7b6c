/// The value of a field of a GGUF file's metadata.
public enum GGUFValue: Sendable, Equatable {
    case unsigned(UInt64)
    case signed(Int64)
    case real(Double)
    case bool(Bool)
    case string(String)
    case array(GGUFArray)

    public var stringValue: String? {
        guard case .string(let value) = self else { return nil }
        return value
    }

    /// A whole number of either kind that fits.
    public var integerValue: Int? {
        switch self {
        case .unsigned(let value): Int(exactly: value)
        case .signed(let value): Int(value)
        default: nil
        }
    }

    /// The value as a number, whether it is whole or not.
    public var doubleValue: Double? {
        switch self {
        case .unsigned(let value): Double(value)
        case .signed(let value): Double(value)
        case .real(let value): value
        default: nil
        }
    }
}

/// A list in the metadata. Vocabularies have a hundred thousand entries, so only the first ones are kept.
public struct GGUFArray: Sendable, Equatable {
    /// The most elements that are kept.
    public static let keptCount = 8

    /// How many elements the file has.
    public let count: Int
    /// The first elements, none of them a list.
    public let first: [GGUFValue]
}
