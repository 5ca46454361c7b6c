public import FileIO
internal import JSON
public import OrderedCollections
public import Tensors

/// One safetensors file, mapped into memory: its header parsed and checked, its tensors readable in place.
///
/// Layout: a little-endian 64-bit header length N, N bytes of JSON, then the tensors' bytes without gaps.
public final class SafetensorsFile: Sendable {
    /// The longest header that the reference library accepts, in bytes.
    public static let maximumHeaderBytes = 100_000_000

    public let file: MappedFile
    /// The tensors in the order of their bytes.
    public let tensors: OrderedDictionary<String, TensorInfo>
    /// `__metadata__`, in the order of the header.
    public let metadata: OrderedDictionary<String, String>

    public var path: String { file.path }

    /// Opens and checks a file; the tensors' bytes themselves are not read.
    public init(path: String) throws {
        let mapped = try MappedFile(path: path)
        do {
            (tensors, metadata) = try SafetensorsHeader.parse(mapped.bytes, path: path)
        } catch {
            throw error.explained()
        }
        file = mapped
    }

    private init(file: MappedFile, tensors: OrderedDictionary<String, TensorInfo>, metadata: OrderedDictionary<String, String>) {
        (self.file, self.tensors, self.metadata) = (file, tensors, metadata)
    }

    /// The same file with other names for its tensors; of those that get the same name the first is kept.
    public func renaming(_ rename: (String) -> String) -> SafetensorsFile {
        let renamed = tensors.values.map { TensorInfo(name: rename($0.name), dtype: $0.dtype, shape: $0.shape, byteRange: $0.byteRange) }
        return SafetensorsFile(
            file: file, tensors: OrderedDictionary(renamed.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first }), metadata: metadata)
    }

    /// Calls `body` with the bytes of a tensor of this file, in place.
    public func withBytes<Result>(of tensor: TensorInfo, _ body: (RawSpan) throws -> Result) rethrows -> Result {
        let mapped = file
        return try body(mapped.bytes(in: tensor.byteRange))
    }
}

/// Parsing of the header.
enum SafetensorsHeader {
    /// The key of the header that is not a tensor's name.
    static let metadataName = "__metadata__"

    typealias Content = (tensors: OrderedDictionary<String, TensorInfo>, metadata: OrderedDictionary<String, String>)

    /// Where the header ends, its length checked against the format's limit and the file.
    static func dataStart(_ bytes: RawSpan, path: String) throws(SafetensorsError) -> Int {
        guard bytes.byteCount >= 8 else {
            throw SafetensorsError(
                .headerTooSmall, path: path,
                "the file has \(bytes.byteCount) bytes and a safetensors header needs at least 8; the file is cut short or of another kind")
        }
        // Sound: eight bytes are there, and every bit pattern is an integer.
        let length = UInt64(littleEndian: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 0, as: UInt64.self))
        guard length <= UInt64(SafetensorsFile.maximumHeaderBytes) else {
            throw SafetensorsError(
                .headerTooLarge, path: path, offset: 0,
                "the header claims \(length) bytes, more than the format's limit of \(SafetensorsFile.maximumHeaderBytes); this is not a safetensors file"
            )
        }
        let dataStart = 8 + Int(length)
        guard dataStart <= bytes.byteCount else {
            throw SafetensorsError(
                .headerPastEnd, path: path, offset: 0,
                "the header claims \(length) bytes and only \(bytes.byteCount - 8) follow; the file is cut short, fetch it again")
        }
        return dataStart
    }

    /// The bytes of the header.
    static func text(_ bytes: RawSpan, path: String) throws(SafetensorsError) -> [UInt8] {
        let dataStart = try dataStart(bytes, path: path)
        return unsafe bytes.extracting(8..<dataStart).withUnsafeBytes { unsafe Array($0) }
    }

    static func parse(_ bytes: RawSpan, path: String) throws(SafetensorsError) -> Content {
        let dataStart = try dataStart(bytes, path: path)
        if let content = HeaderScanner.read(bytes.extracting(8..<dataStart), dataStart: dataStart, end: bytes.byteCount) { return content }
        return try parseThroughJSON(bytes, dataStart: dataStart, path: path)
    }

    /// The whole of what a header may and may not hold; `HeaderScanner` is a shorter way through what is sound.
    static func parseThroughJSON(_ bytes: RawSpan, dataStart: Int, path: String) throws(SafetensorsError) -> Content {
        let text = unsafe bytes.extracting(8..<dataStart).withUnsafeBytes { unsafe Array($0) }
        guard text.first == UInt8(ascii: "{") else {
            throw SafetensorsError(.invalidHeaderStart, path: path, offset: 8, "the header does not start with '{'; this is not a safetensors file")
        }
        let root: JSONValue
        do {
            root = try JSONValue(parsing: text)
        } catch {
            throw SafetensorsError(.invalidHeader, path: path, offset: error.offset.map { $0 + 8 }, "the header is not valid: \(error.message)")
        }
        guard let members = root.objectValue else {
            throw SafetensorsError(.invalidHeader, path: path, offset: 8, "the header is \(root.kind) and must be an object")
        }
        var tensors: [TensorInfo] = []
        var metadata: OrderedDictionary<String, String> = [:]
        for (name, entry) in members {
            if name == metadataName {
                metadata = try parseMetadata(entry, path: path)
            } else {
                tensors.append(try parseTensor(name, entry, dataStart: dataStart, path: path))
            }
        }
        try checkLayout(&tensors, dataStart: dataStart, end: bytes.byteCount, path: path)
        return (OrderedDictionary(uniqueKeysWithValues: tensors.map { ($0.name, $0) }), metadata)
    }

    /// The format wants spaces between the end of the JSON text and the data. Files are read all the same, for nothing
    /// depends on it.
    static func checkPadding(_ bytes: RawSpan, path: String) throws(SafetensorsError) {
        let text = try text(bytes, path: path)
        guard let end = text.lastIndex(of: UInt8(ascii: "}")), let index = text[(end + 1)...].firstIndex(where: { $0 != UInt8(ascii: " ") }) else {
            return
        }
        throw SafetensorsError(
            .invalidPadding, path: path, offset: 8 + index, "the header is filled up with the byte \(text[index]) and may be only with spaces")
    }

    /// The format wants a map under `__metadata__`, or no such key. mlx writes null where there are no metadata, and the reference
    /// library takes it; files are read all the same, for nothing depends on it.
    static func checkMetadata(_ bytes: RawSpan, _ content: Content, path: String) throws(SafetensorsError) {
        guard content.metadata.isEmpty, let root = try? JSONValue(parsing: try text(bytes, path: path)), let entry = root[metadataName] else {
            return
        }
        guard !entry.isNull else {
            throw SafetensorsError(.invalidMetadata, path: path, "__metadata__ is null and must be a map from strings to strings, or left out")
        }
    }

    private static func parseMetadata(_ entry: JSONValue, path: String) throws(SafetensorsError) -> OrderedDictionary<String, String> {
        if entry.isNull { return [:] }
        guard let members = entry.objectValue else {
            throw SafetensorsError(.invalidMetadata, path: path, "__metadata__ is \(entry.kind) and must be a map from strings to strings")
        }
        var metadata: OrderedDictionary<String, String> = [:]
        for (key, value) in members {
            guard let text = value.stringValue else {
                throw SafetensorsError(.invalidMetadata, path: path, "__metadata__ holds \(value.kind) under \"\(key)\" and may hold strings only")
            }
            metadata[key] = text
        }
        return metadata
    }

    private static func parseTensor(_ name: String, _ entry: JSONValue, dataStart: Int, path: String) throws(SafetensorsError) -> TensorInfo {
        func fault(_ code: SafetensorsError.Code, _ message: String) -> SafetensorsError {
            SafetensorsError(code, path: path, tensor: name, message)
        }
        guard let members = entry.objectValue else { throw fault(.invalidTensor, "its entry in the header is \(entry.kind) and must be an object") }
        guard let dtypeName = members["dtype"]?.stringValue, let shapeList = members["shape"]?.arrayValue,
            let offsetList = members["data_offsets"]?.arrayValue
        else { throw fault(.invalidTensor, "its entry in the header needs dtype, shape and data_offsets") }
        if let extra = members.keys.first(where: { !["dtype", "shape", "data_offsets"].contains($0) }) {
            throw fault(.invalidTensor, "its entry in the header has an unknown field \"\(extra)\"")
        }
        guard let dtype = DType(rawValue: dtypeName) else { throw fault(.unknownDType, "the dtype \"\(dtypeName)\" is not one of the format's") }
        let shape = shapeList.compactMap(\.integerValue)
        let offsets = offsetList.compactMap(\.integerValue)
        guard shape.count == shapeList.count, shape.allSatisfy({ $0 >= 0 }) else {
            throw fault(.invalidTensor, "its shape must be a list of sizes that are not negative")
        }
        guard offsets.count == 2, offsetList.count == 2, offsets.allSatisfy({ $0 >= 0 }) else {
            throw fault(.invalidTensor, "its data_offsets must be two numbers that are not negative")
        }
        guard offsets[0] <= offsets[1] else { throw fault(.invalidOffset, "its data ends (\(offsets[1])) before it begins (\(offsets[0]))") }
        guard let size = CheckedSize.byteCount(of: shape, dtype: dtype) else {
            throw fault(.sizeOverflow, "the size of shape \(describe(shape: shape)) in \(dtype) is not a whole number of bytes that a file can have")
        }
        guard offsets[1] - offsets[0] == size else {
            throw fault(
                .sizeMismatch,
                "its data_offsets span \(offsets[1] - offsets[0]) bytes where shape \(describe(shape: shape)) in \(dtype) takes \(size)")
        }
        let (end, overflow) = offsets[1].addingReportingOverflow(dataStart)
        guard !overflow else { throw fault(.sizeOverflow, "its data_offsets are beyond what a file can have") }
        return TensorInfo(name: name, dtype: dtype, shape: shape, byteRange: (offsets[0] + dataStart)..<end)
    }

    /// Sorts the tensors by place and checks that they cover the data exactly: no gap, no overlap, nothing left.
    private static func checkLayout(_ tensors: inout [TensorInfo], dataStart: Int, end: Int, path: String) throws(SafetensorsError) {
        tensors.sort { ($0.byteRange.lowerBound, $0.byteRange.upperBound) < ($1.byteRange.lowerBound, $1.byteRange.upperBound) }
        var position = dataStart
        for tensor in tensors {
            guard tensor.byteRange.lowerBound == position else {
                throw SafetensorsError(
                    .invalidOffset, path: path, tensor: tensor.name, offset: tensor.byteRange.lowerBound,
                    "its data begins at \(tensor.byteRange.lowerBound - dataStart) and the tensor before it ends at \(position - dataStart)")
            }
            position = tensor.byteRange.upperBound
        }
        guard position <= end else {
            throw SafetensorsError(
                .dataPastEnd, path: path, tensor: tensors.last { $0.byteRange.upperBound > end }?.name, offset: end,
                "the tensors take \(position - dataStart) bytes and the file holds \(end - dataStart); it is cut short, fetch it again")
        }
        guard position == end else {
            throw SafetensorsError(.trailingBytes, path: path, offset: position, "\(end - position) bytes follow the last tensor and belong to none")
        }
    }
}
