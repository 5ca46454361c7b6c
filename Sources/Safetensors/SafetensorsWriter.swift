public import FileIO
public import Tensors

/// Writes one safetensors file, tensor by tensor, without holding it in memory.
///
/// The bytes are the same for the same content: metadata sorted by key, tensors as the reference library orders them
/// (by element type, the larger first, then by the bytes of the name), the header padded with spaces to a multiple of
/// eight bytes.
public final class SafetensorsWriter {
    /// A tensor to be written.
    public struct Entry: Sendable {
        public let name: String
        public let dtype: DType
        public let shape: [Int]

        public init(name: String, dtype: DType, shape: [Int]) {
            self.name = name
            self.dtype = dtype
            self.shape = shape
        }
    }

    /// The tensors in the order in which their bytes must be written.
    public let order: [TensorInfo]
    private let file: AtomicFile

    /// Begins the file and writes its header.
    ///
    /// - Parameter keepsOrder: whether to write the tensors in the order of `entries`, as for a file made after another.
    /// - Throws: `FileError` from the file; `SafetensorsError.sizeOverflow` for shapes that no file can hold,
    ///   `.headerTooLarge` for a header that no reader would take, `.duplicateTensor` for a name given twice, and
    ///   `.invalidTensor` for a name that no reader would take for one.
    public convenience init(
        path: String, entries: [Entry], metadata: [String: String], replacing: Bool, keepsOrder: Bool = false
    ) throws {
        let layout = try SafetensorsLayout(path: path, entries: entries, metadata: metadata, keepsOrder: keepsOrder)
        try self.init(path: path, layout: layout, replacing: replacing)
    }

    init(path: String, layout: SafetensorsLayout, replacing: Bool) throws(FileError) {
        order = layout.order
        file = try AtomicFile(path: path, replacing: replacing)
        try file.reserve(order.last?.byteRange.upperBound ?? 0)
        try file.write(layout.header)
    }

    /// Appends bytes of the tensors, in `order`; a tensor may come in several pieces.
    public func write(_ bytes: RawSpan) throws(FileError) {
        try file.write(bytes)
    }

    /// Publishes the file. Everything announced in `order` must have been written.
    public func publish(durable: Bool = true) throws(FileError) {
        precondition(file.position == order.last?.byteRange.upperBound ?? file.position, "a tensor was left unwritten")
        try file.publish(durable: durable)
    }
}
