/// Where one plane of a chunk is and how it is stored.
private struct PlaneRecord {
    let method: PlaneMethod
    let payload: Range<Int>
    /// Bytes at the beginning of the payload that every stream begins with.
    let shared: Int
    /// Where the streams' own parts begin, from the beginning of the payload, and where the last one ends.
    let starts: [Int]
}

/// Turns stored chunks back into raw bytes.
struct ChunkDecoder: ~Copyable {
    private lazy var inflater = Inflater()
    private lazy var huffman = HuffmanDecoder()
    private var scratch: [UInt8] = []

    /// Decodes one chunk after checking its checksum, its header and every length in it.
    ///
    /// - Parameters:
    ///   - stored: the chunk's bytes, as long as its record says.
    ///   - record: its row of the table; codec, width and raw length have been checked against the tensor.
    ///   - raw: where the raw bytes go, as long as the record says. (A pointer, because the compiler takes a span that is
    ///     passed beside a mutable one as kept in it.)
    mutating func decode(
        _ stored: RawSpan, record: ChunkRecord, index: Int, layout: PlaneLayout, descriptor: [UInt8],
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
            descriptorLength: descriptor.count)
        guard stored.holds(header.encoded + descriptor, at: 0) else {
            throw CheckpointError(
                .chunkHeader, at: record.offset, "the header of a chunk says something else than the footer; the file breaks the format")
        }
        precondition(raw.count == record.rawLength)
        let count = record.rawLength / layout.width
        if scratch.count < record.rawLength, layout.width > 1 { scratch = [UInt8](repeating: 0, count: record.rawLength) }

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
        let failed = unsafe expand(stored, planes: planes, count: count, layout: layout, into: raw)
        if let failed {
            throw CheckpointError(
                .planeStream, at: record.offset + planes[failed].payload.lowerBound,
                "a DEFLATE stream of a plane is not valid or does not fill its part of it; the file breaks the format")
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
        guard let method = PlaneMethod(rawValue: stored.integer(at: position)) else {
            throw CheckpointError(
                .planeInvalid, at: chunk + position, "a plane is stored by a method that version 1 does not have; use a newer program")
        }
        let streams = Int(stored.integer(at: position + 1, as: UInt8.self))
        let shared = Int(stored.integer(at: position + 2, as: UInt16.self))
        let isCut = streams > 1
        guard isCut ? method == .deflate && streams <= min(Format.maximumStreams, count) : streams == 1 && shared == 0 else {
            throw CheckpointError(
                .planeInvalid, at: chunk + position + 1,
                "a plane has \(streams) streams that share \(shared) bytes, which is not possible there; the file breaks the format")
        }
        let length = Int(stored.integer(at: position + 4, as: UInt32.self))
        let isRight =
            switch method {
            case .stored: length == count
            case .constant: length == 1
            case .deflate: length > 0 && length < count
            }
        guard isRight, length <= end - start else {
            throw CheckpointError(
                .planeInvalid, at: chunk + position + 4,
                "the length of a plane (\(length)) is not possible there; the file breaks the format")
        }
        let payload = start..<(start + length)
        let first = shared + Format.partLengthSize * (streams - 1)
        var starts = [first]
        for part in 0..<(streams - 1) {
            // The lengths lie inside the payload, or `first` is beyond it already.
            guard first <= length else { break }
            let size = Int(stored.integer(at: start + shared + Format.partLengthSize * part, as: UInt32.self))
            starts.append(starts[part] + size)
        }
        starts.append(length)
        guard starts.count == streams + 1, (0..<streams).allSatisfy({ starts[$0] < starts[$0 + 1] }) else {
            throw CheckpointError(
                .planeInvalid, at: chunk + start + min(shared, length),
                "the lengths of a plane's streams do not fit into the plane; the file breaks the format")
        }
        return PlaneRecord(method: method, payload: payload, shared: shared, starts: starts)
    }

    /// Expands the planes and joins them; the number of the first whose stream is wrong.
    private mutating func expand(
        _ stored: RawSpan, planes: [PlaneRecord], count: Int, layout: PlaneLayout,
        into raw: UnsafeMutableRawBufferPointer
    ) -> Int? {
        let (huffman, inflater) = (self.huffman, self.inflater)
        // Sound: `raw` and `scratch` have count × width bytes, every payload lies inside `stored`, and every pointer is
        // used only in here. A stored plane is joined from where it lies.
        return unsafe stored.withUnsafeBytes { source in
            unsafe scratch.withUnsafeMutableBytes { scratch in
                guard let target = raw.baseAddress, let source = source.baseAddress else { return nil }
                // One plane needs no joining and goes where it belongs at once.
                let room = unsafe layout.width == 1 ? target : scratch.baseAddress!
                var sources: [UnsafeRawPointer] = unsafe []
                for (number, plane) in planes.enumerated() {
                    let payload = unsafe UnsafeRawBufferPointer(start: source + plane.payload.lowerBound, count: plane.payload.count)
                    let place = unsafe UnsafeMutableRawBufferPointer(start: room + number * count, count: count)
                    switch plane.method {
                    case .stored: unsafe sources.append(payload.baseAddress!)
                    case .constant:
                        unsafe place.initializeMemory(as: UInt8.self, repeating: payload[0])
                        unsafe sources.append(UnsafeRawPointer(place.baseAddress!))
                    case .deflate:
                        // Streams of literals alone are most of them; zlib takes what is not, and has the last word.
                        let shared = unsafe UnsafeRawBufferPointer(rebasing: payload[0..<plane.shared])
                        let isDecoded =
                            unsafe huffman.decode(payload, shared: shared, starts: plane.starts, into: place)
                            || inflater.decompress(payload, shared: shared, starts: plane.starts, into: place)
                        guard isDecoded else { return number }
                        unsafe sources.append(UnsafeRawPointer(place.baseAddress!))
                    }
                }
                unsafe BytePlanes.join(sources, into: target, count: count, layout: layout)
                return nil
            }
        }
    }
}
