public import FileIO
internal import JSON
internal import OrderedCollections
public import Tensors

/// Writes one safetensors file, tensor by tensor, without holding it in memory.
///
/// The bytes are the same for the same content: metadata sorted by key, tensors as the reference library orders them
/// (larger element types first, then by name), the header padded with spaces to a multiple of eight bytes.
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
    /// - Throws: `FileError` from the file; `SafetensorsError.sizeOverflow` for a shape that no file can hold, and
    ///   `.duplicateTensor` for a name given twice.
    public init(path: String, entries: [Entry], metadata: [String: String], replacing: Bool, keepsOrder: Bool = false) throws {
        let sorted =
            keepsOrder
            ? entries
            : entries.sorted {
                ($1.dtype.bitWidth, $0.name) < ($0.dtype.bitWidth, $1.name)
            }
        var header: OrderedDictionary<String, JSONValue> = [:]
        if !metadata.isEmpty {
            header["__metadata__"] = .object(
                OrderedDictionary(uniqueKeysWithValues: metadata.sorted { $0.key < $1.key }.map { ($0.key, .string($0.value)) }))
        }
        var offset = 0
        for entry in sorted {
            guard let size = CheckedSize.byteCount(of: entry.shape, dtype: entry.dtype) else {
                throw SafetensorsError(
                    .sizeOverflow, path: path, tensor: entry.name, "no file can hold shape \(describe(shape: entry.shape)) in \(entry.dtype)")
            }
            let fields: JSONValue = [
                "dtype": .string(entry.dtype.rawValue), "shape": .array(entry.shape.map { .integer($0) }),
                "data_offsets": [.integer(offset), .integer(offset + size)],
            ]
            guard header.updateValue(fields, forKey: entry.name) == nil else {
                throw SafetensorsError(.duplicateTensor, path: path, tensor: entry.name, "the tensor is to be written twice")
            }
            offset += size
        }
        var text = Array(JSONValue.object(header).serialized().utf8)
        text += Array(repeating: UInt8(ascii: " "), count: (8 - text.count % 8) % 8)
        let dataStart = 8 + text.count
        offset = dataStart
        var order: [TensorInfo] = []
        for entry in sorted {
            let size = CheckedSize.byteCount(of: entry.shape, dtype: entry.dtype) ?? 0
            order.append(TensorInfo(name: entry.name, dtype: entry.dtype, shape: entry.shape, byteRange: offset..<offset + size))
            offset += size
        }
        self.order = order
        file = try AtomicFile(path: path, replacing: replacing)
        try file.write(littleEndianBytes(UInt64(text.count)))
        try file.write(text)
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

private func littleEndianBytes(_ value: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
}
