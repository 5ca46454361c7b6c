internal import Tensors

/// One row of the chunk table.
struct ChunkRecord: Equatable, Sendable {
    let offset: Int
    /// Bytes in the file, header and checksum included.
    let storedLength: Int
    /// Bytes of the tensor that the chunk holds.
    let rawLength: Int
    let checksum: UInt32
    let tensorIndex: Int
    let codec: UInt8
    let width: UInt8
    /// The CRC-32 of the raw bytes.
    let rawChecksum: UInt32

    var end: Int { offset + storedLength }

    func encode(into bytes: inout [UInt8]) {
        bytes.append(integer: UInt64(offset))
        bytes.append(integer: UInt32(storedLength))
        bytes.append(integer: UInt32(rawLength))
        bytes.append(integer: checksum)
        bytes.append(integer: UInt32(tensorIndex))
        bytes.append(codec)
        bytes.append(width)
        bytes.append(integer: UInt16(0))
        bytes.append(integer: rawChecksum)
    }
}

extension ChunkRecord {
    /// Reads the row at `position`, which lies inside `bytes`, and checks what needs no other row than the previous one.
    ///
    /// - Parameters:
    ///   - start: where the previous chunk ends, and this one must begin.
    ///   - footerOffset: where the last chunk ends.
    init(parsing bytes: RawSpan, at position: Int, start: Int, footerOffset: Int) throws(CheckpointError) {
        let place = bytes.integer(at: position, as: UInt64.self)
        guard place >= UInt64(start) else {
            throw CheckpointError(
                .chunkOverlap, at: position, "a chunk begins before the end of the one before it; the file breaks the format")
        }
        guard place == UInt64(start) else {
            throw CheckpointError(.chunkGap, at: position, "there is a gap before a chunk; the file breaks the format")
        }
        offset = start
        storedLength = Int(bytes.integer(at: position + 8, as: UInt32.self))
        rawLength = Int(bytes.integer(at: position + 12, as: UInt32.self))
        checksum = bytes.integer(at: position + 16)
        tensorIndex = Int(bytes.integer(at: position + 20, as: UInt32.self))
        codec = bytes.integer(at: position + 24)
        width = bytes.integer(at: position + 25)
        rawChecksum = bytes.integer(at: position + 28)
        guard bytes.integer(at: position + 26, as: UInt16.self) == 0 else {
            throw CheckpointError(
                .reservedNotZero, at: position + 26, "a reserved field of the chunk table is not zero; the file breaks the format")
        }
        let least = Format.chunkHeaderSize + Format.planeHeaderSize + Format.checksumSize
        guard storedLength >= least, storedLength <= footerOffset - start else {
            throw CheckpointError(
                .chunkLength, at: position + 8, "a chunk of \(storedLength) bytes does not fit its place; the file breaks the format")
        }
    }
}

/// What the first chunk of a tensor says of the tensor, so that a file without its footer can be salvaged.
struct TensorDescriptor: Equatable {
    let name: String
    let dtype: DType
    let shape: [Int]
    /// The packed file that the tensor belongs to.
    let path: String?

    /// The rank is at most 32, name and path at most 65,535 bytes.
    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(integer: UInt16(name.utf8.count))
        bytes.append(contentsOf: name.utf8)
        bytes.append(UInt8(dtype.rawValue.utf8.count))
        bytes.append(contentsOf: dtype.rawValue.utf8)
        bytes.append(UInt8(shape.count))
        for dimension in shape { bytes.append(integer: UInt64(dimension)) }
        bytes.append(integer: UInt16(path?.utf8.count ?? 0))
        bytes.append(contentsOf: (path ?? "").utf8)
        return bytes
    }
}
