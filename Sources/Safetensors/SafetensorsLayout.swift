internal import JSON
internal import OrderedCollections
internal import Tensors

/// Where everything lies in a file that is to be written.
struct SafetensorsLayout {
    /// The file's first bytes: the length of the header, the header, its padding.
    let header: [UInt8]
    /// The tensors in the order of their bytes.
    let order: [TensorInfo]

    /// - Throws: `SafetensorsError` with the codes of `SafetensorsWriter`.
    init(
        path: String, entries: [SafetensorsWriter.Entry], metadata: [String: String], keepsOrder: Bool = false,
        maximumHeaderBytes: Int = SafetensorsFile.maximumHeaderBytes
    ) throws(SafetensorsError) {
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
        guard text.count <= maximumHeaderBytes else {
            throw SafetensorsError(
                .headerTooLarge, path: path,
                "its header would have \(text.count) bytes, more than the format's limit of \(maximumHeaderBytes); write several files")
        }
        offset = 8 + text.count
        var order: [TensorInfo] = []
        for entry in sorted {
            let size = CheckedSize.byteCount(of: entry.shape, dtype: entry.dtype) ?? 0
            order.append(TensorInfo(name: entry.name, dtype: entry.dtype, shape: entry.shape, byteRange: offset..<offset + size))
            offset += size
        }
        self.order = order
        self.header = (0..<8).map { UInt8(truncatingIfNeeded: text.count >> (8 * $0)) } + text
    }

    /// The order of the reference library: `DType` lists the element types as its enumeration does.
    private static func precedes(_ first: SafetensorsWriter.Entry, _ second: SafetensorsWriter.Entry) -> Bool {
        guard first.dtype == second.dtype else { return rank[first.dtype, default: 0] > rank[second.dtype, default: 0] }
        return first.name.utf8.lexicographicallyPrecedes(second.name.utf8)
    }

    private static let rank = Dictionary(uniqueKeysWithValues: zip(DType.allCases, DType.allCases.indices))
}
