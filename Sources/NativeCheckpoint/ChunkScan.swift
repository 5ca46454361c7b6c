internal import FileIO

/// A chunk whose own checksum holds.
struct FoundChunk: Sendable {
    let record: ChunkRecord
    /// Its number inside the tensor.
    let index: UInt32
    let descriptorLength: UInt32

    /// Where in the file the descriptor lies.
    var descriptorRange: Range<Int> {
        let start = record.offset + Format.chunkHeaderSize
        return start..<(start + Int(descriptorLength))
    }
}

/// The search for chunks in a file whose footer is lost: by their marker, each believed for its checksum and nothing else.
///
/// What a search costs is bounded, whatever the file: `maximumChunks`, `maximumDescriptorBytes`, and a few times the file's length
/// in checksums. With as many chunks as are allowed, or a million tensors of a byte, a salvage takes 1.1 GB of memory, pages of
/// the file included; a file of honest chunks takes a hundred bytes for each.
struct ChunkScan {
    /// In the order of the file.
    private(set) var chunks: [FoundChunk] = []
    /// Whether the file went beyond what a search may cost, so that there may be more.
    private(set) var isCutShort = false

    static let maximumChunks = 1 << 22
    static let maximumDescriptorBytes = 1 << 28

    init(_ file: RawSpan) {
        // An honest file has few markers that no chunk follows; one made of markers could keep a search busy for days.
        var vainBytes = 4 * file.byteCount + 1 << 26
        var descriptorBytes = 0
        var position = Format.prologueSize
        while let marker = Self.nextMarker(in: file, from: position) {
            guard let chunk = Self.header(in: file, at: marker) else {
                position = marker + 1
                continue
            }
            guard chunk.record.end <= file.byteCount else {
                // The file ends inside this chunk. What looks like chunks in it are those of an .opck file that is packed.
                if marker == chunks.last?.record.end ?? Format.prologueSize { return }
                position = marker + 1
                continue
            }
            guard !Self.isWhole(chunk, in: file) else {
                descriptorBytes += Int(chunk.descriptorLength)
                guard chunks.count < Self.maximumChunks, descriptorBytes <= Self.maximumDescriptorBytes else {
                    isCutShort = true
                    return
                }
                chunks.append(chunk)
                position = chunk.record.end
                continue
            }
            vainBytes -= 2 * chunk.record.storedLength
            guard vainBytes >= 0 else {
                isCutShort = true
                return
            }
            // A damaged chunk whose length is right is passed over whole: chunks inside would be those of a packed file.
            let next = Self.header(in: file, at: chunk.record.end)
            let isLengthRight = next.map { $0.record.end <= file.byteCount && Self.isWhole($0, in: file) } ?? false
            position = isLengthRight ? chunk.record.end : marker + 1
        }
    }

    private static func nextMarker(in file: RawSpan, from start: Int) -> Int? {
        // Sound: four bytes are read from places that have four bytes left.
        unsafe file.withUnsafeBytes { bytes in
            var position = start
            while position <= bytes.count - 4 {
                if unsafe bytes[position] == UInt8(truncatingIfNeeded: Format.chunkMarker),
                    unsafe UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt32.self)) == Format.chunkMarker
                {
                    return position
                }
                position += 1
            }
            return nil
        }
    }

    /// What the header at `position` says, if it says nothing impossible; the chunk may end beyond the file.
    private static func header(in file: RawSpan, at position: Int) -> FoundChunk? {
        guard position <= file.byteCount - Format.chunkHeaderSize, file.integer(at: position, as: UInt32.self) == Format.chunkMarker,
            file.integer(at: position + 22, as: UInt16.self) == 0
        else { return nil }
        func field(_ offset: Int) -> UInt32 { file.integer(at: position + offset) }
        let (stored, raw, tensor, index, descriptor) = (Int(field(4)), Int(field(8)), Int(field(12)), field(16), field(24))
        let codec: UInt8 = file.integer(at: position + 20)
        let width: UInt8 = file.integer(at: position + 21)
        guard PlaneLayout.Arrangement(rawValue: codec) != nil, [1, 2, 4, 8].contains(width), raw > 0, raw <= Format.maximumChunkSize,
            raw % Int(width) == 0, tensor < CheckpointLimits.format.tensors, (index == 0) == (descriptor > 0),
            descriptor <= TensorDescriptor.maximumLength
        else { return nil }
        // No plane is longer than its bytes.
        let fixed = Format.chunkHeaderSize + Int(descriptor) + Int(width) * Format.planeHeaderSize + Format.checksumSize
        guard stored > fixed, stored <= fixed + raw else { return nil }
        let end = position + stored
        let checksum: UInt32 = end <= file.byteCount ? file.integer(at: end - Format.checksumSize) : 0
        return FoundChunk(
            record: ChunkRecord(
                offset: position, storedLength: stored, rawLength: raw, tensorIndex: tensor, checksum: checksum, rawChecksum: field(28),
                codec: codec, width: width),
            index: index, descriptorLength: descriptor)
    }

    private static func isWhole(_ chunk: FoundChunk, in file: RawSpan) -> Bool {
        checksum(file.extracting(chunk.record.offset..<(chunk.record.end - Format.checksumSize))) == chunk.record.checksum
    }
}
