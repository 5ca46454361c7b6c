public import Tensors

/// What a checkpoint says of one tensor.
public struct CheckpointTensor: Sendable, Hashable {
    /// The tensor that a tensor's chunks may hold differences to.
    public struct Base: Sendable, Hashable {
        public let name: String
        /// The SHA-256 of its bytes, in 64 lower-case hexadecimal digits.
        public let sha256: String
    }

    /// The tensor's own name; empty for bytes of a packed file that are no tensor's.
    public let name: String
    public let dtype: DType
    /// Dimensions, outermost first; empty for a scalar.
    public let shape: [Int]
    /// The packed file that the tensor belongs to, as a path inside the pack.
    public let path: String?
    public let base: Base?
    /// Bytes of the tensor when decoded.
    public let byteCount: Int
    /// The SHA-256 of these bytes, in 64 lower-case hexadecimal digits, where the writer took one.
    public let sha256: String?
    /// Bytes that the tensor's chunks take in the file.
    public let storedByteCount: Int
    let descriptor: TensorDescriptor
    /// The tensor's number in the file.
    let index: Int
    /// Its chunks' rows in the table.
    let chunks: Range<Int>

    /// The number of elements.
    public var elementCount: Int { shape.reduce(1, &*) }

    /// What no other tensor of the file is called.
    public var label: String { Self.label(name: name, path: path) }

    static func label(name: String, path: String?) -> String { path.map { $0 + ":" + name } ?? name }
}
