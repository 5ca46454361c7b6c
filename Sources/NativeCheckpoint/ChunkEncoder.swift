internal import CKernels

/// How one plane is stored.
enum PlaneMethod: UInt8 {
    /// The bytes as they are.
    case stored = 0
    /// One byte, which all bytes of the plane are equal to.
    case constant = 1
    /// Raw DEFLATE streams.
    case deflate = 2
    /// Two, four or sixteen values, and for each byte its number among them.
    case packed = 3
}

/// What identifies a chunk: everything its header says.
struct ChunkHeader: Equatable {
    var storedLength: Int
    let rawLength: Int
    let tensorIndex: Int
    /// The chunk's number inside its tensor.
    let index: Int
    var layout: PlaneLayout
    let descriptorLength: Int
    /// The CRC-32 of the raw bytes.
    var rawChecksum: UInt32

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
        bytes.append(integer: rawChecksum)
        return bytes
    }
}

/// Turns raw bytes of a tensor into stored chunks.
///
/// What it does with a plane depends on the plane's bytes alone and uses integers only, so the same input gives the same
/// file on any machine (with the same zlib, which codes planes that repeat themselves).
final class ChunkEncoder {
    /// A chunk in the making.
    private struct Draft {
        /// A stretch of the chunk and where its bytes are.
        enum Part {
            case made(Range<Int>)
            /// A plane that is stored as it is, which is not worth a copy.
            case plane(Range<Int>)
        }

        /// The planes one after the other.
        var planes: [UInt8] = []
        /// Header, descriptor, the planes' records and what they are coded to.
        var made: [UInt8] = []
        var parts: [Part] = []

        var byteCount: Int {
            parts.reduce(0) { sum, part in
                switch part {
                case .made(let range), .plane(let range): sum + range.count
                }
            }
        }

        /// Puts what was made since the last part into one.
        mutating func endPart() {
            var start = 0
            for case .made(let range) in parts { start = range.upperBound }
            if start < made.count { parts.append(.made(start..<made.count)) }
        }

        mutating func append(plane: Range<Int>) {
            endPart()
            parts.append(.plane(plane))
        }

        func forEachPart<Failure>(_ body: (RawSpan) throws(Failure) -> Void) throws(Failure) {
            for part in parts {
                switch part {
                case .made(let range): try body(made.rawBytes.extracting(range))
                case .plane(let range): try body(planes.rawBytes.extracting(range))
                }
            }
        }
    }

    private let huffman = HuffmanEncoder()
    /// Codes samples only, so that what `huffman` has counted stays.
    private let sampler = HuffmanEncoder()
    private let matching = Deflater()
    private var draft = Draft()
    /// Another way to store the same chunk.
    private var other = Draft()

    /// A plane shorter than this is stored or constant: a DEFLATE stream with its own code is hardly shorter.
    private static let shortestCoded = 32
    /// How much of a plane is looked at first: this many pieces, evenly spread, because a few rows of zeros in one place
    /// say nothing about the rest.
    private static let samplePieces = 16
    private static let samplePieceLength = 256

    /// Makes the chunk that holds `raw`; `forEachPart` has its bytes.
    ///
    /// - Parameter base: as many bytes of the base; the chunk holds the differences when they take less room than the bytes.
    /// - Returns: what the table says of the chunk, its place apart.
    func encode(
        _ raw: RawSpan, base: RawSpan? = nil, layout: PlaneLayout, tensorIndex: Int, index: Int, descriptor: [UInt8]
    ) -> (header: ChunkHeader, checksum: UInt32) {
        var header = ChunkHeader(
            storedLength: 0, rawLength: raw.byteCount, tensorIndex: tensorIndex, index: index, layout: layout,
            descriptorLength: descriptor.count, rawChecksum: 0)
        header.rawChecksum = makeDraft(raw, base: nil, layout: layout, descriptor: descriptor)
        if let base {
            swap(&draft, &other)
            _ = makeDraft(raw, base: base, layout: layout.ofDifferences, descriptor: descriptor)
            if draft.byteCount < other.byteCount { header.layout = layout.ofDifferences } else { swap(&draft, &other) }
        }
        header.storedLength = draft.byteCount + Format.checksumSize
        for (place, byte) in header.encoded.enumerated() { draft.made[place] = byte }
        var sum: UInt32 = 0
        draft.forEachPart { sum = checksum($0, continuing: sum) }
        draft.made.append(integer: sum)
        draft.endPart()
        return (header, sum)
    }

    /// Hands over the chunk that was made last, from the header to the checksum.
    func forEachPart<Failure>(_ body: (RawSpan) throws(Failure) -> Void) throws(Failure) { try draft.forEachPart(body) }

    /// Makes all of the chunk but the header, for which it leaves room, and the checksum.
    ///
    /// - Returns: the CRC-32 of `raw`.
    private func makeDraft(_ raw: RawSpan, base: RawSpan?, layout: PlaneLayout, descriptor: [UInt8]) -> UInt32 {
        // Taken out while its planes are read, so that no part of `self` is read and changed at once.
        var planes = draft.planes
        draft.planes = []
        if planes.count < raw.byteCount { planes = [UInt8](repeating: 0, count: raw.byteCount) }
        // A mapped file may be changed by another program at any time. What follows sees one state of it, in this copy.
        let sum = BytePlanes.split(raw, base: base, into: &planes, layout: layout)
        draft.made.removeAll(keepingCapacity: true)
        draft.parts.removeAll(keepingCapacity: true)
        draft.made.append(contentsOf: repeatElement(0, count: Format.chunkHeaderSize))
        draft.made += descriptor
        // Where a coded plane is a small part of the bytes, its decoding is a small part of the time.
        let longest = layout.width >= 4 ? 12 : 11
        let count = raw.byteCount / layout.width
        for plane in 0..<layout.width {
            let range = (plane * count)..<((plane + 1) * count)
            if !appendCoded(planes.rawBytes.extracting(range), longest: longest) {
                appendRecord(.stored, length: count)
                draft.append(plane: range)
            }
        }
        draft.endPart()
        draft.planes = planes
        return sum
    }

    /// Appends a plane if it is worth coding.
    ///
    /// - Parameter longest: bits of the longest Huffman code.
    private func appendCoded(_ plane: RawSpan, longest: Int) -> Bool {
        let sample = Self.sample(of: plane)
        let histogram = sampler.count(sample.rawBytes)
        // Matches hardly ever save a fifth unless whole words repeat, and looking for those is far faster than zlib.
        let isRepeating = HuffmanEncoder.repeatedWords(sample.rawBytes) >= sample.count / 16
        // Most planes are random mantissas. They are told by the sample, as counting all bytes takes longer than storing them.
        guard isRepeating || histogram.mayBeWorthCoding else { return false }
        return appendStructured(plane, longest: longest, sample: isRepeating ? sample : nil, isLevel: histogram.isConstant)
    }

    /// Appends a plane that may be worth coding, if it is.
    ///
    /// - Parameters:
    ///   - sample: what to try matching on, if anything.
    ///   - isLevel: whether all of the sample is one value, so that there are long runs.
    private func appendStructured(_ plane: RawSpan, longest: Int, sample: [UInt8]?, isLevel: Bool) -> Bool {
        let length = plane.byteCount
        let histogram = huffman.count(plane, samples: true)
        if histogram.isConstant {
            appendRecord(.constant, length: 1)
            draft.made.append(plane.integer(at: 0))
            return true
        }
        // Less than an eighth is not worth the time of coding and decoding; storing costs nothing.
        var limit = length - max(1, length / 8)
        // Symbols take a bit each at least and some for the end of the block, so few values are better off by their numbers.
        let packing = PackedPlane(histogram.values, length: length).flatMap { $0.byteCount <= limit ? $0 : nil }
        if let packing { limit = packing.byteCount - 1 }
        if length >= Self.shortestCoded {
            if isLevel || sample.map({ gainsByMatching($0) }) ?? false, let coded = matching.compress(plane, limit: limit) {
                appendRecord(.deflate, length: coded, number: 1)
                matching.appendStream(length: coded, to: &draft.made)
                return true
            }
            if histogram.savesAnEighth, appendSymbols(plane, longest: longest, limit: limit) { return true }
        }
        guard let packing else { return false }
        appendRecord(.packed, length: packing.byteCount, number: packing.bits)
        packing.append(plane, to: &draft.made)
        return true
    }

    /// Appends a plane, which `huffman` has sampled, as symbols alone, if that takes `limit` bytes at most.
    private func appendSymbols(_ plane: RawSpan, longest: Int, limit: Int) -> Bool {
        guard huffman.largestPayload(length: plane.byteCount, longest: longest) <= limit else { return false }
        let start = draft.made.count
        appendRecord(.deflate, length: 0)
        var size = huffman.appendPayload(of: plane, to: &draft.made)
        if size == nil {
            // The sample is not like the rest.
            _ = huffman.count(plane)
            if huffman.largestPayload(length: plane.byteCount, longest: longest) <= limit {
                size = huffman.appendPayload(of: plane, to: &draft.made)
            }
        }
        guard let size else {
            draft.made.removeSubrange(start...)
            return false
        }
        let end = draft.made.count
        appendRecord(.deflate, length: size, number: huffman.streamCount)
        for byte in 0..<Format.planeHeaderSize { draft.made[start + byte] = draft.made[end + byte] }
        draft.made.removeSubrange(end...)
        return true
    }

    /// - Parameter number: streams of a DEFLATE plane, bits of a packed one, else 0.
    private func appendRecord(_ method: PlaneMethod, length: Int, number: Int = 0) {
        draft.made.append(integer: UInt32(length) | UInt32(number) << 24 | UInt32(method.rawValue) << 29)
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
    private func gainsByMatching(_ sample: [UInt8]) -> Bool {
        let plain = min(sampler.largestPayload(length: sample.count, streams: 1), sample.count)
        return matching.compress(sample.rawBytes, limit: plain - plain / 5) != nil
    }
}

/// How often each byte value occurs in a plane, or in a sample of it.
struct ByteHistogram {
    private let total: Int
    private let largest: Int
    /// The bytes that occur, from the smallest up.
    let values: [UInt8]
    /// The order-0 entropy of all bytes together, in bits × 256.
    private let entropy: Int

    /// counts is (256).
    init(_ counts: [UInt32]) {
        let total = counts.reduce(0) { $0 + Int($1) }
        var largest = 0
        var entropy = 0
        let whole = Self.logarithm(total)
        var values: [UInt8] = []
        for value in 0..<256 {
            let count = Int(counts[value])
            largest = max(largest, count)
            guard count > 0 else { continue }
            values.append(UInt8(value))
            entropy += count * (whole - Self.logarithm(count))
        }
        self.total = total
        self.largest = largest
        self.entropy = entropy
        self.values = values
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

/// A plane of at most sixteen values as their numbers: 1, 2 or 4 bits for each byte.
struct PackedPlane {
    private let values: [UInt8]
    /// Bits of a number.
    let bits: Int
    /// Bytes of the values and the numbers.
    let byteCount: Int

    /// - Parameter values: those that occur; `nil` is given for more than sixteen.
    init?(_ values: [UInt8], length: Int) {
        guard let bits = [1, 2, 4].first(where: { values.count <= 1 << $0 }) else { return nil }
        self.values = values + [UInt8](repeating: values.last ?? 0, count: 1 << bits - values.count)
        self.bits = bits
        byteCount = Self.byteCount(bits: bits, length: length)
    }

    static func byteCount(bits: Int, length: Int) -> Int { 1 << bits + (length * bits + 7) / 8 }

    func append(_ plane: RawSpan, to bytes: inout [UInt8]) {
        bytes += values
        var numbers = [UInt8](repeating: 0, count: 256)
        for (number, value) in values.enumerated().reversed() { numbers[Int(value)] = UInt8(number) }
        let start = bytes.count
        bytes.append(contentsOf: repeatElement(0, count: byteCount - values.count))
        // Sound: the kernel writes what was appended, and no more; every byte has a number.
        unsafe plane.withUnsafeBytes { source in
            unsafe bytes.withUnsafeMutableBufferPointer { target in
                unsafe oplora_planes_pack(
                    source.bindMemory(to: UInt8.self).baseAddress, source.count, UInt32(bits), numbers, target.baseAddress! + start)
            }
        }
    }

    /// Fills a plane from a payload whose length is that of `bits` and the plane.
    static func unpack(_ payload: UnsafeRawBufferPointer, bits: Int, into plane: UnsafeMutableRawBufferPointer) {
        let bytes = unsafe payload.bindMemory(to: UInt8.self)
        // Sound: the payload has 2^bits values and the numbers of all bytes of the plane, checked by the caller.
        unsafe oplora_planes_unpack(
            bytes.baseAddress! + 1 << bits, plane.count, UInt32(bits), bytes.baseAddress, plane.bindMemory(to: UInt8.self).baseAddress)
    }
}
