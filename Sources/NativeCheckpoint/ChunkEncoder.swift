/// How one plane is stored.
enum PlaneMethod: UInt8 {
    /// The bytes as they are.
    case stored = 0
    /// One byte, which all bytes of the plane are equal to.
    case constant = 1
    /// A raw DEFLATE stream.
    case deflate = 2
}

/// What identifies a chunk: everything its header says.
struct ChunkHeader {
    let storedLength: Int
    let rawLength: Int
    let tensorIndex: Int
    /// The chunk's number inside its tensor.
    let index: Int
    let layout: PlaneLayout
    let descriptorLength: Int

    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Format.chunkHeaderSize)
        bytes.append(integer: Format.chunkMarker)
        bytes.append(integer: UInt32(storedLength))
        bytes.append(integer: UInt32(rawLength))
        bytes.append(integer: UInt32(tensorIndex))
        bytes.append(integer: UInt32(index))
        bytes.append(layout.codec)
        bytes.append(UInt8(layout.width))
        bytes.append(integer: UInt16(0))
        bytes.append(integer: UInt32(descriptorLength))
        return bytes
    }
}

/// Turns raw bytes of a tensor into stored chunks.
///
/// What it does with a plane depends on the plane's bytes alone and uses integers only, so the same input gives the same
/// file on any machine (with the same zlib).
struct ChunkEncoder: ~Copyable {
    private let huffman = Deflater(.huffman)
    private let matching = Deflater(.matching)
    private var planes: [UInt8] = []
    /// The planes' records of the chunk in the making.
    private var body: [UInt8] = []

    /// A plane shorter than this is stored or constant: a DEFLATE stream with its own code is hardly shorter.
    private static let shortestCoded = 32
    /// How much of a plane is looked at to see whether it repeats itself: this many pieces, evenly spread, because a few
    /// rows of zeros in one place say nothing about the rest.
    private static let probePieces = 16
    private static let probePieceLength = 256

    /// The chunk that holds `raw`, ready to be written: header, descriptor, planes, checksum.
    mutating func encode(
        _ raw: RawSpan, layout: PlaneLayout, tensorIndex: Int, index: Int, descriptor: [UInt8]
    ) -> (bytes: [UInt8], checksum: UInt32) {
        body.removeAll(keepingCapacity: true)
        let count = raw.byteCount / layout.width
        if layout.width == 1 {
            appendPlane(raw)
        } else {
            if planes.count < raw.byteCount { planes = [UInt8](repeating: 0, count: raw.byteCount) }
            BytePlanes.split(raw, into: &planes, layout: layout)
            // Taken out while its parts are read, so that no part of `self` is read and changed at once.
            let split = planes
            planes = []
            for plane in 0..<layout.width { appendPlane(split.rawBytes.extracting((plane * count)..<((plane + 1) * count))) }
            planes = split
        }
        let storedLength = Format.chunkHeaderSize + descriptor.count + body.count + Format.checksumSize
        let header = ChunkHeader(
            storedLength: storedLength, rawLength: raw.byteCount, tensorIndex: tensorIndex, index: index, layout: layout,
            descriptorLength: descriptor.count)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(storedLength)
        bytes += header.encoded
        bytes += descriptor
        bytes += body
        let sum = checksum(bytes.rawBytes)
        bytes.append(integer: sum)
        return (bytes, sum)
    }

    private mutating func appendPlane(_ plane: RawSpan) {
        let length = plane.byteCount
        let histogram = ByteHistogram(plane)
        if histogram.isConstant {
            appendHeader(.constant, length: 1)
            body.append(plane.integer(at: 0))
            return
        }
        // Less than an eighth is not worth the time of coding and decoding: zlib does some 0.4 GB/s, storing costs nothing.
        let limit = length - max(1, length / 8)
        if length >= Self.shortestCoded {
            if repeats(plane), let coded = matching.compress(plane, limit: limit) {
                appendHeader(.deflate, length: coded)
                matching.appendStream(length: coded, to: &body)
                return
            }
            if histogram.savesAnEighth, let coded = huffman.compress(plane, limit: limit) {
                appendHeader(.deflate, length: coded)
                huffman.appendStream(length: coded, to: &body)
                return
            }
        }
        appendHeader(.stored, length: length)
        body.append(bytes: plane)
    }

    private mutating func appendHeader(_ method: PlaneMethod, length: Int) {
        body.append(method.rawValue)
        // One stream, no bytes that streams share.
        body.append(1)
        body.append(integer: UInt16(0))
        body.append(integer: UInt32(length))
    }

    /// Whether a sample of the plane gets shorter by a quarter when matches are allowed, against symbols alone. Matching
    /// is many times slower than symbols, except where it finds much.
    private mutating func repeats(_ plane: RawSpan) -> Bool {
        var probe: [UInt8] = []
        if plane.byteCount <= Self.probePieces * Self.probePieceLength {
            probe.append(bytes: plane)
        } else {
            let distance = plane.byteCount / Self.probePieces
            for piece in 0..<Self.probePieces {
                probe.append(bytes: plane.extracting((piece * distance)..<(piece * distance + Self.probePieceLength)))
            }
        }
        let plain = huffman.compress(probe.rawBytes, limit: probe.count) ?? probe.count
        return matching.compress(probe.rawBytes, limit: plain - plain / 4) != nil
    }
}

/// How often each byte value occurs in a plane.
struct ByteHistogram {
    private let total: Int
    private let largest: Int
    /// The order-0 entropy of all bytes together, in bits × 256.
    private let entropy: Int

    init(_ bytes: RawSpan) {
        // Four tables, because equal neighbours would otherwise wait for each other's store.
        var counts = [UInt32](repeating: 0, count: 4 * 256)
        let length = bytes.byteCount
        // Sound: indices stay below `length` and below 1,024.
        unsafe bytes.withUnsafeBytes { source in
            unsafe counts.withUnsafeMutableBufferPointer { table in
                var index = 0
                while index + 8 <= length {
                    let word = unsafe source.loadUnaligned(fromByteOffset: index, as: UInt64.self)
                    unsafe table[Int(truncatingIfNeeded: word & 255)] &+= 1
                    unsafe table[256 | Int(truncatingIfNeeded: word &>> 8 & 255)] &+= 1
                    unsafe table[512 | Int(truncatingIfNeeded: word &>> 16 & 255)] &+= 1
                    unsafe table[768 | Int(truncatingIfNeeded: word &>> 24 & 255)] &+= 1
                    unsafe table[Int(truncatingIfNeeded: word &>> 32 & 255)] &+= 1
                    unsafe table[256 | Int(truncatingIfNeeded: word &>> 40 & 255)] &+= 1
                    unsafe table[512 | Int(truncatingIfNeeded: word &>> 48 & 255)] &+= 1
                    unsafe table[768 | Int(truncatingIfNeeded: word &>> 56)] &+= 1
                    index += 8
                }
                while index < length {
                    unsafe table[Int(source[index])] &+= 1
                    index += 1
                }
            }
        }
        var largest = 0
        var entropy = 0
        let whole = Self.logarithm(length)
        for value in 0..<256 {
            let count = Int(counts[value]) + Int(counts[256 + value]) + Int(counts[512 + value]) + Int(counts[768 + value])
            largest = max(largest, count)
            if count > 0 { entropy += count * (whole - Self.logarithm(count)) }
        }
        total = length
        self.largest = largest
        self.entropy = entropy
    }

    /// The binary logarithm × 256, the fraction interpolated: at most 0.09 too small. Integers, so that no mathematics
    /// library decides how a plane is stored.
    private static func logarithm(_ value: Int) -> Int {
        guard value > 0 else { return 0 }
        let exponent = Int.bitWidth - 1 - value.leadingZeroBitCount
        return (exponent << 8) + ((value << 8) >> exponent) - 256
    }

    var isConstant: Bool { largest == total }

    /// Whether symbols alone are likely to need no more than 7 bits each.
    var savesAnEighth: Bool { entropy <= total * 7 * 256 }
}
