internal import OrderedCollections
internal import Tensors

/// The parsed front of a GGUF file.
struct GGUFHeader {
    let version: Int
    let alignment: Int
    let metadata: OrderedDictionary<String, GGUFValue>
    let tensors: OrderedDictionary<String, GGUFTensor>

    private static let defaultAlignment = 32
    /// The most dimensions that ggml gives a tensor.
    private static let maximumRank = 4
    /// What the shortest field takes: a key's length, a type and one byte; and the shortest entry of the tensor table.
    private static let leastFieldBytes = 8 + 4 + 1, leastTensorBytes = 8 + 4 + 4 + 8

    init(parsing bytes: RawSpan, path: String) throws(GGUFError) {
        var cursor = GGUFCursor(bytes, path: path)
        let counts = try Self.counts(&cursor)
        version = counts.version
        metadata = try Self.fields(counts.fields, &cursor)
        alignment = try Self.alignment(metadata, path: path)
        let entries = try Self.tensorTable(counts.tensors, &cursor)
        tensors = try Self.place(entries, after: cursor.position, alignment: alignment, end: bytes.byteCount, path: path)
    }

    private static func counts(_ cursor: inout GGUFCursor) throws(GGUFError) -> (version: Int, tensors: Int, fields: Int) {
        for byte in GGUFFile.magic {
            guard cursor.remaining > 0, try cursor.integer(UInt8.self) == byte else {
                throw cursor.fault(.notGGUF, nil, at: 0, "the file does not begin with \"GGUF\"; it is of another kind")
            }
        }
        let version = try cursor.integer(UInt32.self)
        guard version == 2 || version == 3 else {
            let isSwapped = (1...3).contains(version.byteSwapped)
            throw cursor.fault(
                .unsupportedVersion, nil, at: 4,
                isSwapped
                    ? "the file is for big-endian machines, which is not read; convert it with gguf_convert_endian.py"
                    : "the file is of GGUF version \(version), and 2 and 3 are read; convert the model again with a current llama.cpp")
        }
        let tensors = try cursor.count(of: "tensors", atLeast: leastTensorBytes)
        return (Int(version), tensors, try cursor.count(of: "fields", atLeast: leastFieldBytes))
    }

    // MARK: Metadata

    private static func fields(_ count: Int, _ cursor: inout GGUFCursor) throws(GGUFError) -> OrderedDictionary<String, GGUFValue> {
        var fields: OrderedDictionary<String, GGUFValue> = [:]
        for _ in 0..<count {
            let start = cursor.position
            let key = try cursor.string("a key of the metadata")
            let value = try value(of: key, &cursor)
            guard fields.updateValue(value, forKey: key) == nil else { throw cursor.fault(.duplicate, key, at: start, "the key occurs twice") }
        }
        return fields
    }

    private static func value(of key: String, _ cursor: inout GGUFCursor) throws(GGUFError) -> GGUFValue {
        let kind = try kind(of: key, &cursor)
        guard kind == .array else { return try scalar(kind, key, &cursor) }
        let elementKind = try Self.kind(of: key, &cursor)
        guard elementKind != .array else { throw cursor.fault(.unknownValueType, key, "a list of lists is not read") }
        let count = try cursor.count(of: "elements", key, atLeast: elementKind.leastBytes)
        var first: [GGUFValue] = []
        for _ in 0..<min(count, GGUFArray.keptCount) { first.append(try scalar(elementKind, key, &cursor)) }
        let rest = count - first.count
        if elementKind == .string {
            for _ in 0..<rest { try cursor.skipString(key) }
        } else {
            // Sound: `count` has been checked against what is left of the file.
            try cursor.skip(rest * elementKind.leastBytes)
        }
        return .array(GGUFArray(count: count, first: first))
    }

    /// The types of the metadata, by their numbers in the format.
    private enum Kind: UInt32 {
        case u8, i8, u16, i16, u32, i32, f32, bool, string, array, u64, i64, f64

        /// The bytes that a value takes; for a string, those of its length.
        var leastBytes: Int {
            switch self {
            case .u8, .i8, .bool: 1
            case .u16, .i16: 2
            case .u32, .i32, .f32, .array: 4
            case .u64, .i64, .f64, .string: 8
            }
        }
    }

    private static func kind(of key: String, _ cursor: inout GGUFCursor) throws(GGUFError) -> Kind {
        let number = try cursor.integer(UInt32.self)
        guard let kind = Kind(rawValue: number) else {
            throw cursor.fault(
                .unknownValueType, key, at: cursor.position - 4, "its type has the number \(number), and those of the format end with 12")
        }
        return kind
    }

    private static func scalar(_ kind: Kind, _ key: String, _ cursor: inout GGUFCursor) throws(GGUFError) -> GGUFValue {
        switch kind {
        case .u8: .unsigned(UInt64(try cursor.integer(UInt8.self)))
        case .i8: .signed(Int64(try cursor.integer(Int8.self)))
        case .u16: .unsigned(UInt64(try cursor.integer(UInt16.self)))
        case .i16: .signed(Int64(try cursor.integer(Int16.self)))
        case .u32: .unsigned(UInt64(try cursor.integer(UInt32.self)))
        case .i32: .signed(Int64(try cursor.integer(Int32.self)))
        case .u64: .unsigned(try cursor.integer(UInt64.self))
        case .i64: .signed(try cursor.integer(Int64.self))
        case .f32: .real(Double(Float(bitPattern: try cursor.integer(UInt32.self))))
        case .f64: .real(Double(bitPattern: try cursor.integer(UInt64.self)))
        case .bool: .bool(try cursor.integer(UInt8.self) != 0)
        case .string: .string(try cursor.string(key))
        case .array: throw cursor.fault(.unknownValueType, key, "a list of lists is not read")
        }
    }

    private static func alignment(_ metadata: OrderedDictionary<String, GGUFValue>, path: String) throws(GGUFError) -> Int {
        let key = "general.alignment"
        guard let value = metadata[key] else { return defaultAlignment }
        guard case .unsigned(let number) = value, number.nonzeroBitCount == 1, number <= 1 << 30 else {
            throw GGUFError(.invalidAlignment, path: path, subject: key, "the alignment must be a power of two, at most 2³⁰")
        }
        return Int(number)
    }

    // MARK: Tensors

    /// A tensor with its place counted from the start of the data.
    private struct Entry {
        let name: String
        let type: GGMLType
        let shape: [Int]
        let byteCount: Int
        let offset: Int
    }

    private static func tensorTable(_ count: Int, _ cursor: inout GGUFCursor) throws(GGUFError) -> [Entry] {
        var entries: [Entry] = []
        entries.reserveCapacity(count)
        for _ in 0..<count {
            let start = cursor.position
            let name = try cursor.string("a tensor's name")
            let rank = try cursor.integer(UInt32.self)
            guard rank <= maximumRank else {
                throw cursor.fault(.invalidShape, name, at: start, "the tensor has \(rank) dimensions, and ggml's have at most \(maximumRank)")
            }
            var shape: [Int] = []
            for _ in 0..<rank {
                guard let size = Int(exactly: try cursor.integer(UInt64.self)) else {
                    throw cursor.fault(.sizeOverflow, name, at: start, "a dimension of the tensor is beyond what a file can have")
                }
                shape.insert(size, at: 0)
            }
            let number = try cursor.integer(UInt32.self)
            guard let type = GGMLType(rawValue: number) else {
                throw cursor.fault(
                    .unknownTensorType, name, at: start, "the tensor's type has the number \(number), which is withdrawn or not known here")
            }
            guard (shape.last ?? 1) % type.blockElements == 0 else {
                throw cursor.fault(
                    .invalidShape, name, at: start, "rows of \(shape.last ?? 1) elements do not hold whole blocks of \(type.blockElements) (\(type))")
            }
            guard let byteCount = type.byteCount(of: shape), let offset = Int(exactly: try cursor.integer(UInt64.self)) else {
                throw cursor.fault(
                    .sizeOverflow, name, at: start, "the size of shape \(describe(shape: shape)) in \(type) is beyond what a file can have")
            }
            entries.append(Entry(name: name, type: type, shape: shape, byteCount: byteCount, offset: offset))
        }
        return entries
    }

    /// Turns places in the data into places in the file, and checks that tensors lie apart and inside of it.
    private static func place(
        _ entries: [Entry], after headerEnd: Int, alignment: Int, end: Int, path: String
    ) throws(GGUFError) -> OrderedDictionary<String, GGUFTensor> {
        // The header is part of a file, so this cannot overflow.
        let dataStart = (headerEnd + alignment - 1) / alignment * alignment
        var tensors = OrderedDictionary<String, GGUFTensor>(minimumCapacity: entries.count)
        for entry in entries {
            func fault(_ code: GGUFError.Code, _ message: String) -> GGUFError { GGUFError(code, path: path, subject: entry.name, message) }
            guard entry.offset % alignment == 0 else {
                throw fault(.invalidOffset, "its data begins at \(entry.offset), which is not a multiple of the alignment \(alignment)")
            }
            let (start, first) = dataStart.addingReportingOverflow(entry.offset)
            let (stop, second) = start.addingReportingOverflow(entry.byteCount)
            guard !first, !second, stop <= end else {
                throw fault(
                    .dataPastEnd, "its \(entry.byteCount) bytes at \(entry.offset) go past the end of the file; it is cut short, fetch it again")
            }
            let tensor = GGUFTensor(name: entry.name, type: entry.type, shape: entry.shape, byteRange: start..<stop)
            guard tensors.updateValue(tensor, forKey: entry.name) == nil else { throw fault(.duplicate, "the name occurs twice") }
        }
        var position = dataStart
        for tensor in tensors.values.sorted(by: {
            ($0.byteRange.lowerBound, $0.byteRange.upperBound) < ($1.byteRange.lowerBound, $1.byteRange.upperBound)
        }) {
            guard tensor.byteRange.lowerBound >= position else {
                throw GGUFError(.invalidOffset, path: path, subject: tensor.name, "its data lies on that of another tensor")
            }
            position = tensor.byteRange.upperBound
        }
        return tensors
    }
}
