/// How one plane is stored.
enum PlaneMethod: UInt8 {
    /// The bytes as they are.
    case stored = 0
    /// One byte, which all bytes of the plane are equal to.
    case constant = 1
    /// Raw DEFLATE streams.
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
/// file on any machine (with the same zlib, which codes planes that repeat themselves).
struct ChunkEncoder: ~Copyable {
    private let huffman = HuffmanEncoder()
    /// Codes samples only, so that what `huffman` has counted stays.
    private let sampler = HuffmanEncoder()
    private let matching = Deflater()
    private var planes: [UInt8] = []
    /// The planes' records of the chunk in the making.
    private var body: [UInt8] = []

    /// A plane shorter than this is stored or constant: a DEFLATE stream with its own code is hardly shorter.
    private static let shortestCoded = 32
    /// How much of a plane is looked at first: this many pieces, evenly spread, because a few rows of zeros in one place
    /// say nothing about the rest.
    private static let samplePieces = 16
    private static let samplePieceLength = 256

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
        let sample = Self.sample(of: plane)
        let histogram = sampler.count(sample.rawBytes, streams: 1)
        // Matches hardly ever save a fifth unless whole words repeat, and looking for those is far faster than zlib.
        let isRepeating = HuffmanEncoder.repeatedWords(sample.rawBytes) >= sample.count / 8
        // Most planes are random mantissas. They are told by the sample, as counting all bytes takes longer than storing them.
        if !isRepeating, !histogram.mayBeWorthCoding {
            appendHeader(.stored, length: length)
            body.append(bytes: plane)
            return
        }
        appendStructured(plane, sample: isRepeating ? sample : nil, isLevel: histogram.isConstant)
    }

    /// Appends a plane that may be worth coding.
    ///
    /// - Parameters:
    ///   - sample: what to try matching on, if anything.
    ///   - isLevel: whether all of the sample is one value, so that there are long runs.
    private mutating func appendStructured(_ plane: RawSpan, sample: [UInt8]?, isLevel: Bool) {
        let length = plane.byteCount
        let histogram = huffman.count(plane)
        if histogram.isConstant {
            appendHeader(.constant, length: 1)
            body.append(plane.integer(at: 0))
            return
        }
        // Less than an eighth is not worth the time of coding and decoding; storing costs nothing.
        let limit = length - max(1, length / 8)
        if length >= Self.shortestCoded {
            if isLevel || sample.map({ gainsByMatching($0) }) ?? false, let coded = matching.compress(plane, limit: limit) {
                appendHeader(.deflate, length: coded)
                matching.appendStream(length: coded, to: &body)
                return
            }
            if histogram.savesAnEighth {
                let size = huffman.payloadSize()
                if size <= limit {
                    let start = body.count
                    appendHeader(.deflate, length: size, streams: huffman.streamCount, shared: huffman.sharedCount)
                    if huffman.appendPayload(of: plane, to: &body) { return }
                    body.removeSubrange(start...)
                }
            }
        }
        appendHeader(.stored, length: length)
        body.append(bytes: plane)
    }

    private mutating func appendHeader(_ method: PlaneMethod, length: Int, streams: Int = 1, shared: Int = 0) {
        body.append(method.rawValue)
        body.append(UInt8(streams))
        body.append(integer: UInt16(shared))
        body.append(integer: UInt32(length))
    }

    /// All of a short plane, or pieces from all over a longer one.
    private static func sample(of plane: RawSpan) -> [UInt8] {
        var sample: [UInt8] = []
        if plane.byteCount <= samplePieces * samplePieceLength {
            sample.append(bytes: plane)
        } else {
            sample.reserveCapacity(samplePieces * samplePieceLength)
            let distance = plane.byteCount / samplePieces
            for piece in 0..<samplePieces {
                sample.append(bytes: plane.extracting((piece * distance)..<(piece * distance + samplePieceLength)))
            }
        }
        return sample
    }

    /// Whether the sample, which `sampler` has counted, gets shorter by a fifth when matches are allowed, against symbols
    /// alone. Matching is many times slower than symbols, except where it finds much.
    private mutating func gainsByMatching(_ sample: [UInt8]) -> Bool {
        let plain = min(sampler.payloadSize(), sample.count)
        return matching.compress(sample.rawBytes, limit: plain - plain / 5) != nil
    }
}

/// How often each byte value occurs in a plane.
struct ByteHistogram {
    private let total: Int
    private let largest: Int
    /// The order-0 entropy of all bytes together, in bits × 256.
    private let entropy: Int

    /// counts is (parts, 256), `total` their sum.
    init(_ counts: [UInt32], total: Int) {
        var largest = 0
        var entropy = 0
        let whole = Self.logarithm(total)
        for value in 0..<256 {
            var count = 0
            for part in stride(from: value, to: counts.count, by: 256) { count += Int(counts[part]) }
            largest = max(largest, count)
            if count > 0 { entropy += count * (whole - Self.logarithm(count)) }
        }
        self.total = total
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

    /// Whether a sample with these counts may be from a plane that symbols save an eighth of: with a quarter of a bit for
    /// what a sample misses.
    var mayBeWorthCoding: Bool { 4 * entropy <= total * 29 * 256 }
}
