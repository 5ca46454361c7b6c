internal import Tensors

/// The checks of the reference library, in its order.
///
/// It reads a header more freely than the format is written down: the last of several equal names counts, unknown
/// fields of a tensor and a `__metadata__` of null are passed over, a tensor may be the list [dtype, shape, data_offsets],
/// and a dtype may be an object whose one key is its name.
struct ReferenceHeader {
    let path: String

    /// A tensor's entry. Sizes are those of the reference library, which no Swift `Int` need hold.
    private struct Tensor {
        let name: String
        let dtype: DType
        let shape: [UInt64]
        let begin: UInt64
        let end: UInt64
    }

    func check(_ bytes: RawSpan) throws(SafetensorsError) {
        let text = try SafetensorsHeader.text(bytes, path: path)
        guard String(validating: text, as: UTF8.self) != nil else {
            throw SafetensorsError(.invalidHeader, path: path, offset: 8, "the header is not valid UTF-8")
        }
        let root: ReferenceJSON
        do {
            root = try ReferenceJSON(parsing: text)
        } catch {
            throw SafetensorsError(.invalidHeader, path: path, offset: 8 + error.offset, "the header is not valid: \(error.message)")
        }
        try checkLayout(try tensors(root), dataSize: UInt64(bytes.byteCount - 8 - text.count))
    }

    private func tensors(_ root: ReferenceJSON) throws(SafetensorsError) -> [Tensor] {
        guard case .object(let members) = root else {
            throw SafetensorsError(.invalidHeader, path: path, offset: 8, "the header must be an object")
        }
        var hasMetadata = false
        // By the bytes of the name: Swift's strings are equal where Unicode calls them so.
        var last: [[UInt8]: (name: String, value: ReferenceJSON)] = [:]
        for (name, value) in members {
            guard name == SafetensorsHeader.metadataName else {
                last[Array(name.utf8)] = (name, value)
                continue
            }
            guard !hasMetadata else { throw SafetensorsError(.invalidMetadata, path: path, "__metadata__ is there twice") }
            hasMetadata = true
            try checkMetadata(value)
        }
        // An entry that a later one replaces must still be one.
        for (name, value) in members where name != SafetensorsHeader.metadataName { _ = try tensor(name, value) }
        var tensors: [Tensor] = []
        for (name, value) in last.values { tensors.append(try tensor(name, value)) }
        return tensors
    }

    private func checkMetadata(_ value: ReferenceJSON) throws(SafetensorsError) {
        switch value {
        case .null: return
        case .object(let members):
            for (key, value) in members {
                guard case .string = value else {
                    throw SafetensorsError(.invalidMetadata, path: path, "__metadata__ holds something else than a string under \"\(key)\"")
                }
            }
        default: throw SafetensorsError(.invalidMetadata, path: path, "__metadata__ must be a map from strings to strings")
        }
    }

    private func tensor(_ name: String, _ value: ReferenceJSON) throws(SafetensorsError) -> Tensor {
        func fault(_ message: String) -> SafetensorsError { SafetensorsError(.invalidTensor, path: path, tensor: name, message) }
        var dtype: ReferenceJSON?
        var shape: ReferenceJSON?
        var offsets: ReferenceJSON?
        func set(_ field: inout ReferenceJSON?, _ value: ReferenceJSON, _ key: String) throws(SafetensorsError) {
            guard field == nil else { throw fault("its field \(key) is there twice") }
            field = value
        }
        switch value {
        case .object(let members):
            for (key, value) in members {
                switch key {
                case "dtype": try set(&dtype, value, key)
                case "shape": try set(&shape, value, key)
                case "data_offsets": try set(&offsets, value, key)
                default: break
                }
            }
        case .array(let elements):
            guard elements.count == 3 else { throw fault("its entry must have dtype, shape and data_offsets") }
            (dtype, shape, offsets) = (elements[0], elements[1], elements[2])
        default: throw fault("its entry in the header must be an object")
        }
        guard let dtype, case .array(let shapeList)? = shape, case .array(let offsetList)? = offsets else {
            throw fault("its entry in the header needs dtype, shape and data_offsets")
        }
        func sizes(_ list: [ReferenceJSON]) throws(SafetensorsError) -> [UInt64] {
            var sizes: [UInt64] = []
            for element in list {
                guard case .unsigned(let size) = element else {
                    throw fault("its shape and data_offsets must be whole numbers that are not negative")
                }
                sizes.append(size)
            }
            return sizes
        }
        let (dimensions, place) = (try sizes(shapeList), try sizes(offsetList))
        guard place.count == 2 else { throw fault("its data_offsets must be two numbers") }
        return Tensor(name: name, dtype: try self.dtype(dtype, tensor: name), shape: dimensions, begin: place[0], end: place[1])
    }

    private func dtype(_ value: ReferenceJSON, tensor: String) throws(SafetensorsError) -> DType {
        let name: String?
        switch value {
        case .string(let text): name = text
        case .object(let members):
            if members.count == 1, case .null = members[0].value { name = members[0].key } else { name = nil }
        default: name = nil
        }
        guard let name, let dtype = DType(rawValue: name) else {
            throw SafetensorsError(.unknownDType, path: path, tensor: tensor, "its dtype is not one of the format's")
        }
        return dtype
    }

    private func checkLayout(_ tensors: [Tensor], dataSize: UInt64) throws(SafetensorsError) {
        var position: UInt64 = 0
        let sorted = tensors.sorted {
            ($0.begin, $0.end) == ($1.begin, $1.end) ? $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) : ($0.begin, $0.end) < ($1.begin, $1.end)
        }
        for tensor in sorted {
            guard tensor.begin == position, tensor.end >= tensor.begin else {
                throw SafetensorsError(
                    .invalidOffset, path: path, tensor: tensor.name,
                    "its data is from \(tensor.begin) to \(tensor.end) and the tensor before it ends at \(position)")
            }
            position = tensor.end
            var bits: UInt64? = 1
            for factor in tensor.shape + [UInt64(tensor.dtype.bitWidth)] {
                bits = bits.flatMap { product in
                    let (result, overflow) = product.multipliedReportingOverflow(by: factor)
                    return overflow ? nil : result
                }
            }
            guard let bits, bits % 8 == 0 else {
                throw SafetensorsError(.sizeOverflow, path: path, tensor: tensor.name, "its size is not a whole number of bytes that a file can have")
            }
            guard tensor.end - tensor.begin == bits / 8 else {
                throw SafetensorsError(
                    .sizeMismatch, path: path, tensor: tensor.name,
                    "its data_offsets span \(tensor.end - tensor.begin) bytes where shape and \(tensor.dtype) take \(bits / 8)")
            }
        }
        guard position == dataSize else {
            throw SafetensorsError(
                position < dataSize ? .trailingBytes : .dataPastEnd, path: path,
                "the tensors take \(position) bytes and the file holds \(dataSize)")
        }
    }
}
