public import Tensors

/// What a checkpoint says of one tensor.
public struct CheckpointTensor: Sendable, Hashable {
    public let name: String
    public let dtype: DType
    /// Dimensions, outermost first; empty for a scalar.
    public let shape: [Int]
    /// Bytes of the tensor when decoded.
    public let byteCount: Int
    /// The SHA-256 of these bytes, in 64 lower-case hexadecimal digits.
    public let sha256: String
    /// Bytes that the tensor's chunks take in the file.
    public let storedByteCount: Int
    /// The tensor's number in the file.
    let index: Int
    /// Its chunks' rows in the table.
    let chunks: Range<Int>

    /// The number of elements.
    public var elementCount: Int { shape.reduce(1, &*) }
}
