public import FileIO
public import OrderedCollections

/// Writes one GGUF file, version 3, tensor by tensor, without holding it in memory.
public final class GGUFWriter {
    /// A tensor to be written.
    public struct Entry: Sendable {
        public let name: String
        public let type: GGMLType
        /// Dimensions, outermost first; the file has them the other way round.
        public let shape: [Int]

        public init(name: String, type: GGMLType, shape: [Int]) {
            self.name = name
            self.type = type
            self.shape = shape
        }
    }

    private static let alignment = 32
    private static let version: UInt32 = 3

    private let file: AtomicFile
    /// The bytes of each tensor that is still to come, the next one last.
    private var missing: [Int]

    /// Begins the file and writes its header.
    ///
    /// - Parameter metadata: whole numbers are written in 32 bits where they fit, others as F32; no lists.
    /// - Throws: `FileError`.
    /// - Precondition: the shapes have one to four dimensions and are sizes that exist, and no name is given twice.
    public init(path: String, metadata: OrderedDictionary<String, GGUFValue>, tensors: [Entry], replacing: Bool) throws(FileError) {
        var header = GGUFFile.magic
        func append(_ number: some FixedWidthInteger) {
            for byte in 0..<number.bitWidth / 8 { header.append(UInt8(truncatingIfNeeded: number >> (8 * byte))) }
        }
        func append(_ text: String) {
            append(UInt64(text.utf8.count))
            header += Array(text.utf8)
        }
        append(Self.version)
        append(UInt64(tensors.count))
        append(UInt64(metadata.count))
        for (key, value) in metadata {
            append(key)
            switch value {
            case .unsigned(let number):
                let isShort = number <= UInt64(UInt32.max)
                append(UInt32(isShort ? 4 : 10))
                if isShort { append(UInt32(number)) } else { append(number) }
            case .signed(let number):
                append(UInt32(11))
                append(number)
            case .real(let number):
                append(UInt32(6))
                append(Float(number).bitPattern)
            case .bool(let flag):
                append(UInt32(7))
                append(UInt8(flag ? 1 : 0))
            case .string(let text):
                append(UInt32(8))
                append(text)
            case .array: preconditionFailure("a list of which only the beginning was kept cannot be written")
            }
        }
        var offset = 0
        var sizes: [Int] = []
        for tensor in tensors {
            guard let size = tensor.type.byteCount(of: tensor.shape), (1...4).contains(tensor.shape.count) else {
                preconditionFailure("\(tensor.name) has a shape that no file can hold")
            }
            append(tensor.name)
            append(UInt32(tensor.shape.count))
            for dimension in tensor.shape.reversed() { append(UInt64(dimension)) }
            append(tensor.type.rawValue)
            append(UInt64(offset))
            offset += Self.aligned(size)
            sizes.append(size)
        }
        header += [UInt8](repeating: 0, count: Self.aligned(header.count) - header.count)
        missing = sizes.reversed()
        file = try AtomicFile(path: path, replacing: replacing)
        try file.write(header)
    }

    private static func aligned(_ count: Int) -> Int { (count + alignment - 1) / alignment * alignment }

    /// Appends the bytes of the next tensor, all of them.
    public func write(_ bytes: RawSpan) throws(FileError) {
        guard let size = missing.popLast(), size == bytes.byteCount else { preconditionFailure("the bytes are not those of the next tensor") }
        try file.write(bytes)
        try file.write([UInt8](repeating: 0, count: Self.aligned(size) - size))
    }

    /// Publishes the file. All tensors must have been written.
    public func publish(durable: Bool = true) throws(FileError) {
        precondition(missing.isEmpty, "a tensor was left unwritten")
        try file.publish(durable: durable)
    }
}
