/// What a file says of one tensor: its name, element type, shape, and where its bytes lie.
public struct TensorInfo: Sendable, Hashable {
    public let name: String
    public let dtype: DType
    /// Dimensions, outermost first; empty for a scalar.
    public let shape: [Int]
    /// Bytes of the tensor, counted from the start of the file that holds it.
    public let byteRange: Range<Int>

    public init(name: String, dtype: DType, shape: [Int], byteRange: Range<Int>) {
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.byteRange = byteRange
    }

    public var byteCount: Int { byteRange.count }

    /// The number of elements. The reader that made this value has checked that the product does not overflow.
    public var elementCount: Int { shape.reduce(1, &*) }
}

/// Arithmetic on sizes that come from files, where an overflow is an attack and not an accident.
public enum CheckedSize {
    /// The product of all dimensions, or `nil` when one is negative or the product leaves `Int`.
    @inlinable
    public static func elementCount(of shape: some Sequence<Int>) -> Int? {
        var product = 1
        for dimension in shape {
            guard dimension >= 0 else { return nil }
            let (next, overflow) = product.multipliedReportingOverflow(by: dimension)
            guard !overflow else { return nil }
            product = next
        }
        return product
    }

    /// The bytes that a tensor takes, or `nil` when the product overflows or sub-byte elements leave a byte unfilled.
    @inlinable
    public static func byteCount(of shape: some Sequence<Int>, dtype: DType) -> Int? {
        guard let elements = elementCount(of: shape) else { return nil }
        let (bits, overflow) = elements.multipliedReportingOverflow(by: dtype.bitWidth)
        guard !overflow, bits % 8 == 0 else { return nil }
        return bits / 8
    }
}

/// A shape as people write it: `[576,1536]`.
public func describe(shape: [Int]) -> String {
    "[" + shape.map(String.init).joined(separator: ",") + "]"
}
