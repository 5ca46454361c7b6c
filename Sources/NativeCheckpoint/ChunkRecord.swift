internal import Tensors

/// What the file's index says of one chunk: a row of the table, and what follows from the rows and tensors before it.
struct ChunkRecord: Equatable, Sendable {
    let offset: Int
    /// Bytes in the file, header and checksum included.
    let storedLength: Int
    /// Bytes of the tensor that the chunk holds.
    let rawLength: Int
    let tensorIndex: Int
    /// The CRC-32 of the chunk.
    let checksum: UInt32
    /// The CRC-32 of the raw bytes.
    let rawChecksum: UInt32
    let codec: UInt8
    let width: UInt8

    var end: Int { offset + storedLength }

    /// Appends the row of the table.
    func encode(into bytes: inout [UInt8]) {
        bytes.append(integer: UInt32(storedLength))
        bytes.append(integer: checksum)
        bytes.append(integer: rawChecksum)
        bytes.append(codec)
        bytes.append(width)
        bytes.append(integer: UInt16(0))
    }
}

extension ChunkRecord {
    /// Reads the row at `position`, which lies inside `bytes`, and checks what needs no tensor.
    ///
    /// - Parameters:
    ///   - start: where the previous chunk ends, and this one begins.
    ///   - footerOffset: where the last chunk ends.
    init(
        parsing bytes: RawSpan, at position: Int, start: Int, footerOffset: Int, rawLength: Int, tensorIndex: Int
    ) throws(CheckpointError) {
        offset = start
        self.rawLength = rawLength
        self.tensorIndex = tensorIndex
        storedLength = Int(bytes.integer(at: position, as: UInt32.self))
        checksum = bytes.integer(at: position + 4)
        rawChecksum = bytes.integer(at: position + 8)
        codec = bytes.integer(at: position + 12)
        width = bytes.integer(at: position + 13)
        guard bytes.integer(at: position + 14, as: UInt16.self) == 0 else {
            throw CheckpointError(
                .reservedNotZero, at: position + 14, "a reserved field of the chunk table is not zero; the file breaks the format")
        }
        let least = Format.chunkHeaderSize + Format.planeHeaderSize + Format.checksumSize
        guard storedLength >= least, storedLength <= footerOffset - start else {
            throw CheckpointError(
                .chunkLength, at: position, "a chunk of \(storedLength) bytes does not fit its place; the file breaks the format")
        }
    }
}

/// What the first chunk of a tensor says of the tensor, so that a file without its footer can be salvaged.
struct TensorDescriptor: Hashable, Sendable {
    let name: String
    let dtype: DType
    let shape: [Int]
    /// The number of the packed file that the tensor belongs to.
    let file: Int?
    /// The path of this file, in the descriptor of its first tensor.
    let path: String?

    /// Stands for no file.
    static let noFile = UInt32.max

    /// The rank is at most 32, name and path at most 65,535 bytes.
    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(integer: UInt16(name.utf8.count))
        bytes.append(contentsOf: name.utf8)
        bytes.append(UInt8(dtype.rawValue.utf8.count))
        bytes.append(contentsOf: dtype.rawValue.utf8)
        bytes.append(UInt8(shape.count))
        for dimension in shape { bytes.append(integer: UInt64(dimension)) }
        bytes.append(integer: file.map(UInt32.init) ?? Self.noFile)
        bytes.append(integer: UInt16(path?.utf8.count ?? 0))
        bytes.append(contentsOf: (path ?? "").utf8)
        return bytes
    }
}

extension TensorDescriptor {
    /// The longest one that is read: name and path of 65,535 bytes each, a type of 255 and 32 dimensions.
    static let maximumLength = 2 + 65_535 + 1 + 255 + 1 + 8 * 32 + 4 + 2 + 65_535

    /// Reads a descriptor that takes all of `bytes`; `nil` for what version 1 does not have.
    init?(parsing bytes: RawSpan) {
        var position = 0
        func take<Value: FixedWidthInteger & BitwiseCopyable>(_ type: Value.Type) -> Value? {
            guard bytes.byteCount - position >= MemoryLayout<Value>.size else { return nil }
            defer { position += MemoryLayout<Value>.size }
            return bytes.integer(at: position, as: type)
        }
        func takeText(_ count: Int) -> String? {
            guard bytes.byteCount - position >= count else { return nil }
            defer { position += count }
            return String(validating: bytes.extracting(position..<(position + count)).array(), as: UTF8.self)
        }
        guard let nameLength = take(UInt16.self), let name = takeText(Int(nameLength)), Format.isName(name),
            let typeLength = take(UInt8.self), let dtype = takeText(Int(typeLength)).flatMap(DType.init(rawValue:)),
            let rank = take(UInt8.self), rank <= CheckpointLimits.format.rank
        else { return nil }
        var shape: [Int] = []
        for _ in 0..<rank {
            guard let dimension = take(UInt64.self).flatMap(Int.init(exactly:)) else { return nil }
            shape.append(dimension)
        }
        guard let file = take(UInt32.self), let pathLength = take(UInt16.self), let path = takeText(Int(pathLength)),
            position == bytes.byteCount
        else { return nil }
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.file = file == Self.noFile ? nil : Int(file)
        self.path = path.isEmpty ? nil : path
    }
}
