/// Where one plane of a chunk is and how it is stored.
private struct PlaneRecord {
    let method: PlaneMethod
    let payload: Range<Int>
    /// Streams of a DEFLATE plane, bits of a packed one.
    let number: Int
    /// The bytes that every stream begins with, from the beginning of the payload.
    let shared: Range<Int>
    /// Where the streams' own parts begin, from the beginning of the payload, and where the last one ends.
    let starts: [Int]
}

/// Turns stored chunks back into raw bytes.
final class ChunkDecoder {
    private lazy var inflater = Inflater()
    private lazy var huffman = HuffmanDecoder()
    private var scratch: [UInt8] = []

    /// Decodes one chunk after checking its checksum, its header and every length in it.
    ///
    /// - Parameters:
    ///   - stored: the chunk's bytes, as long as its record says.
    ///   - record: its row of the table; codec, width and raw length have been checked against the tensor.
    ///   - base: as many bytes of the base, for a chunk of differences. Without it the chunk is checked and `raw` means nothing.
    ///   - raw: where the raw bytes go, as long as the record says. (A pointer, because the compiler takes a span that is
    ///     passed beside a mutable one as kept in it.)
    func decode(
        _ stored: RawSpan, record: ChunkRecord, index: Int, layout: PlaneLayout, descriptor: [UInt8], base: RawSpan?,
        into raw: UnsafeMutableRawBufferPointer
    ) throws(CheckpointError) {
        let end = stored.byteCount - Format.checksumSize
        let sum = checksum(stored.extracting(0..<end))
        guard sum == record.checksum, stored.integer(at: end, as: UInt32.self) == sum else {
            throw CheckpointError(
                .chunkChecksum, at: record.offset,
                "the checksum of a chunk is wrong; the file is damaged, copy it again or go back to an older one")
        }
        let header = ChunkHeader(
            storedLength: record.storedLength, rawLength: record.rawLength, tensorIndex: record.tensorIndex, index: index, layout: layout,
            descriptorLength: descriptor.count, rawChecksum: record.rawChecksum)
        guard stored.holds(header.encoded + descriptor, at: 0) else {
            throw CheckpointError(
                .chunkHeader, at: record.offset, "the header of a chunk says something else than the footer; the file breaks the format")
        }
        precondition(raw.count == record.rawLength)
        let count = record.rawLength / layout.width

        var position = Format.chunkHeaderSize + descriptor.count
        var planes: [PlaneRecord] = []
        for _ in 0..<layout.width {
            let plane = try Self.plane(stored, at: position, end: end, count: count, chunk: record.offset)
            planes.append(plane)
            position = plane.payload.upperBound
        }
        guard position == end else {
            throw CheckpointError(
                .planeInvalid, at: record.offset + position, "bytes follow the last plane of a chunk; the file breaks the format")
        }
        let rawSum: UInt32
        switch unsafe expand(stored, planes: planes, count: count, layout: layout, base: base, into: raw) {
        case .checksum(let found): rawSum = found
        case .faultyPlane(let number):
            throw CheckpointError(
                .planeStream, at: record.offset + planes[number].payload.lowerBound,
                "a DEFLATE stream of a plane is not valid or does not fill its part of it; the file breaks the format")
        }
        // Of differences without their base there is nothing more to check.
        guard layout.arrangement != .difference || base != nil else { return }
        guard rawSum == record.rawChecksum else {
            throw CheckpointError(
                .chunkContent, at: record.offset,
                "what a chunk decodes to has another checksum than what was written; the file was made by a faulty machine or program")
        }
    }

    /// Reads one plane's record and checks it.
    private static func plane(
        _ stored: RawSpan, at position: Int, end: Int, count: Int, chunk: Int
    ) throws(CheckpointError) -> PlaneRecord {
        let start = position + Format.planeHeaderSize
        guard start <= end else {
            throw CheckpointError(.planeInvalid, at: chunk + position, "a chunk ends before its last plane; the file breaks the format")
        }
        let word = stored.integer(at: position, as: UInt32.self)
        guard let method = PlaneMethod(rawValue: UInt8(word >> 29)) else {
            throw CheckpointError(
                .planeInvalid, at: chunk + position, "a plane is stored by a method that version 1 does not have; use a newer program")
        }
        let (length, number) = (Int(word & 0xFF_FFFF), Int(word >> 24 & 31))
        let isPossible =
            switch method {
            case .stored: number == 0 && length == count
            case .constant: number == 0 && length == 1
            case .deflate: number >= 1 && number <= min(Format.maximumStreams, count) && length > 0 && length < count
            case .packed: [1, 2, 4].contains(number) && length < count && length == PackedPlane.byteCount(bits: number, length: count)
            }
        guard isPossible, length <= end - start else {
            throw CheckpointError(
                .planeInvalid, at: chunk + position,
                "a plane of \(length) stored bytes with \(number) streams or bits is not possible there; the file breaks the format")
        }
        // What is left of the last byte has one value, so that a plane has one form.
        if method == .packed, count * number % 8 != 0 {
            guard stored.integer(at: start + length - 1, as: UInt8.self) >> UInt8(count * number % 8) == 0 else {
                throw CheckpointError(
                    .planeInvalid, at: chunk + start + length - 1,
                    "bits after the last number of a packed plane are not zero; the file breaks the format")
            }
        }
        let payload = start..<(start + length)
        guard method == .deflate, number > 1 else {
            return PlaneRecord(method: method, payload: payload, number: number, shared: 0..<0, starts: [0, length])
        }
        let shared = length < Format.sharedSize ? length : Int(stored.integer(at: start, as: UInt16.self))
        let lengths = Format.sharedSize + shared
        let first = lengths + Format.partLengthSize * (number - 1)
        var starts = [first]
        for part in 0..<(number - 1) {
            // The lengths lie inside the payload, or `first` is beyond it already.
            guard first <= length else { break }
            let size = Int(stored.integer(at: start + lengths + Format.partLengthSize * part, as: UInt32.self))
            starts.append(starts[part] + size)
        }
        starts.append(length)
        guard starts.count == number + 1, (0..<number).allSatisfy({ starts[$0] < starts[$0 + 1] }) else {
            throw CheckpointError(
                .planeInvalid, at: chunk + start,
                "the lengths of a plane's streams do not fit into the plane; the file breaks the format")
        }
        return PlaneRecord(method: method, payload: payload, number: number, shared: Format.sharedSize..<lengths, starts: starts)
    }

    private enum Expansion {
        /// The CRC-32 of the raw bytes.
        case checksum(UInt32)
        /// The number of the first plane whose stream is wrong.
        case faultyPlane(Int)
    }

    /// Expands the planes and joins them.
    private func expand(
        _ stored: RawSpan, planes: [PlaneRecord], count: Int, layout: PlaneLayout, base: RawSpan?,
        into raw: UnsafeMutableRawBufferPointer
    ) -> Expansion {
        let (huffman, inflater) = (self.huffman, self.inflater)
        // One plane that needs no joining goes where it belongs at once.
        let isDirect = layout.width == 1 && layout.arrangement == .plain
        if !isDirect, scratch.count < raw.count { scratch = [UInt8](repeating: 0, count: raw.count) }
        // Sound: `raw` and `scratch` have count × width bytes, every payload lies inside `stored`, and every pointer is
        // used only in here. A stored plane is joined from where it lies.
        return unsafe stored.withUnsafeBytes { source in
            unsafe scratch.withUnsafeMutableBytes { scratch in
                let room = unsafe isDirect ? raw : scratch
                var sources: [UnsafePointer<UInt8>?] = unsafe []
                for (number, plane) in planes.enumerated() {
                    let payload = unsafe UnsafeRawBufferPointer(rebasing: source[plane.payload])
                    let place = unsafe UnsafeMutableRawBufferPointer(rebasing: room[(number * count)..<((number + 1) * count)])
                    switch plane.method {
                    case .stored:
                        if isDirect { unsafe place.copyMemory(from: payload) }
                        unsafe sources.append(payload.bindMemory(to: UInt8.self).baseAddress)
                        continue
                    case .constant:
                        _ = unsafe place.initializeMemory(as: UInt8.self, repeating: payload[0])
                    case .packed:
                        unsafe PackedPlane.unpack(payload, bits: plane.number, into: place)
                    case .deflate:
                        // Streams of literals alone are most of them; zlib takes what is not, and has the last word.
                        let shared = unsafe UnsafeRawBufferPointer(rebasing: payload[plane.shared])
                        let isDecoded =
                            unsafe huffman.decode(payload, shared: shared, starts: plane.starts, into: place)
                            || inflater.decompress(payload, shared: shared, starts: plane.starts, into: place)
                        guard isDecoded else { return .faultyPlane(number) }
                    }
                    unsafe sources.append(UnsafePointer(place.bindMemory(to: UInt8.self).baseAddress))
                }
                if isDirect { return unsafe .checksum(checksum(UnsafeRawBufferPointer(raw).bytes)) }
                guard layout.arrangement != .difference || base != nil else { return .checksum(0) }
                return unsafe .checksum(BytePlanes.join(sources, base: base, into: raw, layout: layout))
            }
        }
    }
}
