public import FileIO
internal import JSON
internal import OrderedCollections
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
    ///   `.duplicateTensor` for a name given twice, and `.invalidTensor` for a name that no reader would take for one.
    public init(path: String, entries: [Entry], metadata: [String: String], replacing: Bool, keepsOrder: Bool = false) throws {
        let sorted = keepsOrder ? entries : entries.sorted(by: Self.precedes)
        var header: OrderedDictionary<String, JSONValue> = [:]
        if !metadata.isEmpty {
            header[SafetensorsHeader.metadataName] = .object(
                OrderedDictionary(uniqueKeysWithValues: metadata.sorted { $0.key < $1.key }.map { ($0.key, .string($0.value)) }))
        }
        var offset = 0
        for entry in sorted {
            guard entry.name != SafetensorsHeader.metadataName, !entry.name.utf8.contains(0) else {
                throw SafetensorsError(.invalidTensor, path: path, tensor: entry.name, "the format does not allow a tensor of this name")
            }
            // Room is left for the header, so that no place in the file leaves `Int`.
            guard let size = CheckedSize.byteCount(of: entry.shape, dtype: entry.dtype), size < Int.max / 2 - offset else {
                throw SafetensorsError(
                    .sizeOverflow, path: path, tensor: entry.name,
                    "no file can hold shape \(describe(shape: entry.shape)) in \(entry.dtype) after \(offset) bytes of other tensors")
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

    /// The order of the reference library: `DType` lists the element types as its enumeration does.
    private static func precedes(_ first: Entry, _ second: Entry) -> Bool {
        guard first.dtype == second.dtype else { return rank[first.dtype, default: 0] > rank[second.dtype, default: 0] }
        return first.name.utf8.lexicographicallyPrecedes(second.name.utf8)
    }

    private static let rank = Dictionary(uniqueKeysWithValues: zip(DType.allCases, DType.allCases.indices))

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
