import CZlib
import Tensors
import TestSupport
import Testing

@testable import NativeCheckpoint

/// A raw DEFLATE stream of `bytes` by zlib; `nil` when it takes more than `limit` bytes.
private func deflated(_ bytes: [UInt8], strategy: Int32 = Z_HUFFMAN_ONLY, limit: Int = .max) -> [UInt8]? {
    var stream = unsafe z_stream()
    var output = [UInt8](repeating: 0, count: min(limit, bytes.count * 2 + 1000))
    var input = bytes
    guard
        unsafe deflateInit2_(&stream, 1, Z_DEFLATED, -15, 9, strategy, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK
    else { return nil }
    defer { unsafe deflateEnd(&stream) }
    // Sound: zlib keeps to the counts and the pointers are used only in here.
    let size: Int? = unsafe input.withUnsafeMutableBufferPointer { input in
        unsafe output.withUnsafeMutableBufferPointer { output in
            unsafe stream.next_in = input.baseAddress
            unsafe stream.avail_in = UInt32(input.count)
            unsafe stream.next_out = output.baseAddress
            unsafe stream.avail_out = UInt32(output.count)
            guard unsafe deflate(&stream, Z_FINISH) == Z_STREAM_END else { return nil }
            return unsafe output.count - Int(stream.avail_out)
        }
    }
    return size.map { Array(output[0..<$0]) }
}

/// A payload of method 2, cut as chapter 5.3 of the specification says.
private struct Payload {
    var shared: [UInt8] = []
    var parts: [[UInt8]]

    var starts: [Int] { parts.reduce(into: [0]) { $0.append($0.last! + $1.count) } }
    var joined: [UInt8] { Array(parts.joined()) }
}

extension Payload {
    init(parsing bytes: [UInt8], streams: Int) {
        let lengths = streams == 1 ? 0 : 2 + Int(bytes[0]) + Int(bytes[1]) << 8
        shared = streams == 1 ? [] : Array(bytes[2..<lengths])
        parts = []
        var position = lengths + 4 * (streams - 1)
        for part in 0..<streams {
            let length = (0..<4).reduce(0) { $0 | Int(bytes[min(lengths + 4 * part + $1, bytes.count - 1)]) << (8 * $1) }
            let end = part < streams - 1 ? position + length : bytes.count
            parts.append(Array(bytes[position..<end]))
            position = end
        }
    }

    /// What the kernel makes of it; `nil` when it leaves it to zlib.
    func decoded(_ count: Int, by decoder: HuffmanDecoder) -> [UInt8]? {
        unsafe run(count) { payload, shared, plane in unsafe decoder.decode(payload, shared: shared, starts: starts, into: plane) }
    }

    /// What zlib makes of it; `nil` when it is wrong.
    func inflated(_ count: Int, by inflater: Inflater) -> [UInt8]? {
        unsafe run(count) { payload, shared, plane in unsafe inflater.decompress(payload, shared: shared, starts: starts, into: plane) }
    }

    private func run(
        _ count: Int, _ decode: (UnsafeRawBufferPointer, UnsafeRawBufferPointer, UnsafeMutableRawBufferPointer) -> Bool
    ) -> [UInt8]? {
        var plane = [UInt8](repeating: 0xAA, count: count)
        let isDecoded = unsafe joined.withUnsafeBytes { payload in
            unsafe shared.withUnsafeBytes { shared in
                unsafe plane.withUnsafeMutableBytes { unsafe decode(payload, shared, $0) }
            }
        }
        return isDecoded ? plane : nil
    }
}

private func encoded(_ plane: [UInt8], streams: Int, by encoder: HuffmanEncoder) throws -> Payload {
    _ = encoder.count(plane.rawBytes)
    let most = encoder.largestPayload(length: plane.count, streams: streams)
    // What stands before must stay.
    var bytes: [UInt8] = [1, 2, 3]
    let size = try #require(encoder.appendPayload(of: plane.rawBytes, to: &bytes))
    #expect(bytes.count == 3 + size && bytes.starts(with: [1, 2, 3]) && (most - streams...most).contains(size))
    return Payload(parsing: Array(bytes[3...]), streams: streams)
}

enum Distribution: CaseIterable {
    case uniform, constant, twoSymbols, geometric, everyByteOnce, normal, fibonacci, rare

    func bytes(_ count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
        switch self {
        case .uniform: return generator.bytes(count)
        case .constant: return [UInt8](repeating: UInt8(truncatingIfNeeded: generator.next()), count: count)
        case .twoSymbols: return (0..<count).map { _ in generator.next() % 5 == 0 ? 17 : 255 }
        case .geometric: return (0..<count).map { _ in UInt8(generator.next().trailingZeroBitCount) }
        case .everyByteOnce: return (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 83) }
        case .normal: return (0..<count).map { _ in UInt8(truncatingIfNeeded: Int(generator.normal() * 5)) }
        case .fibonacci:
            // Frequencies 1, 1, 2, 3, 5 … ask for the longest codes that there are, far above the limit.
            var bytes: [UInt8] = []
            var (frequency, next, symbol) = (1, 1, UInt8(0))
            while bytes.count < count {
                bytes += [UInt8](repeating: symbol, count: min(frequency, count - bytes.count))
                (frequency, next) = (next, frequency + next)
                symbol &+= 37
            }
            bytes.shuffle(using: &generator)
            return bytes
        case .rare:
            // One byte nearly always, and every other one once in a while: long codes beside one of a single bit.
            return (0..<count).map { _ in generator.next() % 400 == 0 ? UInt8(truncatingIfNeeded: generator.next()) : 126 }
        }
    }
}

private let lengths = [
    0, 1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 63, 64, 65, 100, 255, 256, 257, 1000, 4095, 4096, 4097, 16_384, 32_767, 32_768, 65_535, 65_536,
    70_000,
]

@Suite struct HuffmanTests {
    @Test(arguments: Distribution.allCases, [UInt64(1), 2]) func streamsOfEveryKindComeBack(_ distribution: Distribution, seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let (encoder, decoder, inflater) = (HuffmanEncoder(), HuffmanDecoder(), Inflater())
        for count in lengths {
            let plane = distribution.bytes(count, &generator)
            for streams in [1, 4] where count >= streams || streams == 1 {
                let payload = try encoded(plane, streams: streams, by: encoder)
                #expect(payload.parts.count == streams && !payload.parts.contains([]))
                #expect(payload.inflated(count, by: inflater) == plane, "zlib, \(count) bytes in \(streams)")
                #expect(payload.decoded(count, by: decoder) == plane, "kernel, \(count) bytes in \(streams)")
                // No other length passes.
                if count > 4 { #expect(payload.decoded(count - 1, by: decoder) == nil) }
                #expect(payload.decoded(count + 1, by: decoder) == nil)
            }
            // zlib stores what does not shrink; that is left to it. All else is decoded, several blocks among it.
            let other = Payload(parts: [try #require(deflated(plane))])
            let result = other.decoded(count, by: decoder)
            #expect(result == plane || (result == nil && distribution != .normal && distribution != .fibonacci))
        }
    }

    /// The limit on the code's length costs little, and one code for the whole plane too.
    @Test func sizesAreNearThoseOfZlib() throws {
        var generator = SeededGenerator(seed: 3)
        for distribution in [Distribution.geometric, .normal, .fibonacci, .rare] {
            let plane = distribution.bytes(300_000, &generator)
            let encoder = HuffmanEncoder()
            _ = encoder.count(plane.rawBytes)
            let other = try #require(deflated(plane)).count
            #expect(Double(encoder.largestPayload(length: plane.count)) < 1.01 * Double(other) + 100, "\(distribution)")
        }
    }

    @Test func sameBytesWhateverCameBefore() throws {
        var generator = SeededGenerator(seed: 4)
        let plane = Distribution.normal.bytes(20_000, &generator)
        let used = HuffmanEncoder()
        for distribution in Distribution.allCases { _ = try encoded(distribution.bytes(9000, &generator), streams: 4, by: used) }
        let (fresh, later) = (try encoded(plane, streams: 4, by: HuffmanEncoder()), try encoded(plane, streams: 4, by: used))
        #expect(fresh.parts == later.parts && fresh.shared == later.shared)
    }

    /// The loops for some processors write what the portable one does.
    @Test(arguments: Distribution.allCases, [false, true]) func portableBytesAreTheSame(_ distribution: Distribution, samples: Bool) {
        var generator = SeededGenerator(seed: 5)
        let (encoder, portable) = (HuffmanEncoder(), HuffmanEncoder(isPortable: true))
        for count in lengths + [300_000] {
            let plane = distribution.bytes(count, &generator)
            for longest in [11, 12] {
                var payloads: [[UInt8]] = []
                for encoder in [encoder, portable] {
                    _ = encoder.count(plane.rawBytes, samples: samples)
                    _ = encoder.largestPayload(length: count, longest: longest)
                    var payload: [UInt8] = []
                    _ = encoder.appendPayload(of: plane.rawBytes, to: &payload)
                    payloads.append(payload)
                }
                #expect(payloads[0] == payloads[1], "\(count) bytes, codes of \(longest) bits")
            }
        }
    }

    /// A sample has all bytes of the plane, those too that lie outside of it, and its code is nearly as good.
    @Test(arguments: Distribution.allCases) func aSampleStandsForItsPlane(_ distribution: Distribution) throws {
        var generator = SeededGenerator(seed: 10)
        let (encoder, decoder) = (HuffmanEncoder(), HuffmanDecoder())
        for count in [32_767, 32_768, 50_001, 262_144, 300_000] {
            var plane = distribution.bytes(count, &generator)
            // Every value once at most, anywhere.
            for value in 0..<256 where value % 3 == 0 { plane[Int(generator.next() % UInt64(count))] = UInt8(value) }
            let exact = encoder.count(plane.rawBytes)
            let exactSize = encoder.largestPayload(length: count)
            let sampled = encoder.count(plane.rawBytes, samples: true)
            #expect(sampled.values == exact.values && exact.values == Array(Set(plane)).sorted())
            _ = encoder.largestPayload(length: count)
            var bytes: [UInt8] = []
            let size = try #require(encoder.appendPayload(of: plane.rawBytes, to: &bytes))
            #expect(Double(size) < 1.01 * Double(exactSize) + 10, "\(count) bytes")
            let payload = Payload(parsing: bytes, streams: 4)
            #expect(payload.decoded(count, by: decoder) == plane)
        }
    }

    /// A plane whose sampled blocks are unlike the others is refused with the sample's code, and takes that of all bytes.
    @Test func aMisleadingSampleIsNotTaken() throws {
        var generator = SeededGenerator(seed: 11)
        var plane = Distribution.geometric.bytes(262_144, &generator)
        let encoder = HuffmanEncoder()
        // The rare values where a sample does not look: found by asking which blocks a count of zeros sees.
        for block in 0..<512 {
            var marked = [UInt8](repeating: 0, count: 262_144)
            for index in (512 * block)..<(512 * (block + 1)) { marked[index] = 1 }
            _ = encoder.count(marked.rawBytes, samples: true)
            if encoder.counts[1] == 1 {
                for index in (512 * block)..<(512 * (block + 1)) { plane[index] = 20 + plane[index] }
            }
        }
        _ = encoder.count(plane.rawBytes, samples: true)
        _ = encoder.largestPayload(length: plane.count)
        var bytes: [UInt8] = []
        #expect(encoder.appendPayload(of: plane.rawBytes, to: &bytes) == nil && bytes.isEmpty)
        let chunks = ChunkEncoder()
        let chunk = chunks.encode(plane.rawBytes, layout: PlaneLayout(.u8), tensorIndex: 0, index: 0, descriptor: [])
        _ = encoder.count(plane.rawBytes)
        #expect(abs(chunk.header.storedLength - encoder.largestPayload(length: plane.count)) < 200)
    }

    /// A plane with bytes that the plan has no code for gives bytes that mean nothing, inside the room.
    @Test(arguments: [false, true]) func aPlaneThatWasNotCountedStaysInsideTheRoom(isPortable: Bool) throws {
        var generator = SeededGenerator(seed: 5)
        let encoder = HuffmanEncoder(isPortable: isPortable)
        for (counted, written) in [(Distribution.geometric, Distribution.uniform), (.twoSymbols, .normal), (.uniform, .rare)] {
            for streams in [1, 4] {
                _ = encoder.count(counted.bytes(30_000, &generator).rawBytes)
                let most = encoder.largestPayload(length: 30_000, streams: streams)
                var bytes: [UInt8] = []
                let size = encoder.appendPayload(of: written.bytes(30_000, &generator).rawBytes, to: &bytes)
                #expect(size ?? 0 <= most && bytes.count == size ?? 0)
            }
        }
    }

    /// What the kernel takes, zlib takes too and to the same bytes; it never takes more. (The chunk's CRC-32 is what
    /// notices a changed stream that is still a stream.)
    private func agree(_ payload: Payload, _ count: Int, _ decoder: HuffmanDecoder, _ inflater: Inflater, _ what: String) {
        if let result = payload.decoded(count, by: decoder) {
            #expect(payload.inflated(count, by: inflater) == result, "\(what)")
        }
    }

    @Test(arguments: [1, 4]) func damagedStreamsAreReadAsByZlibOrRefused(streams: Int) throws {
        var generator = SeededGenerator(seed: 6)
        let (encoder, decoder, inflater) = (HuffmanEncoder(), HuffmanDecoder(), Inflater())
        let plane = Distribution.normal.bytes(400, &generator)
        let payload = try encoded(plane, streams: streams, by: encoder)
        for part in 0..<streams {
            for length in 0..<payload.parts[part].count {
                var cut = payload
                cut.parts[part].removeSubrange(length...)
                #expect(cut.decoded(400, by: decoder) == nil)
            }
            for bit in 0..<(8 * payload.parts[part].count) {
                var flipped = payload
                flipped.parts[part][bit / 8] ^= 1 << UInt8(bit % 8)
                agree(flipped, 400, decoder, inflater, "part \(part), bit \(bit)")
            }
        }
        for length in payload.shared.indices {
            var cut = payload
            cut.shared.removeSubrange(length...)
            agree(cut, 400, decoder, inflater, "\(length) shared")
        }
        for bit in 0..<(8 * payload.shared.count) {
            var flipped = payload
            flipped.shared[bit / 8] ^= 1 << UInt8(bit % 8)
            agree(flipped, 400, decoder, inflater, "shared bit \(bit)")
        }
        // Too many or too few bytes, and nothing at all.
        var longer = payload
        longer.parts[streams - 1].append(0)
        #expect(longer.decoded(400, by: decoder) == nil)
        #expect(Payload(parts: [[UInt8]](repeating: [], count: streams)).decoded(400, by: decoder) == nil)
    }

    @Test(arguments: [UInt64(7), 8]) func randomBytesAreReadAsByZlibOrRefused(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let (decoder, inflater) = (HuffmanDecoder(), Inflater())
        for round in 0..<3000 {
            let streams = round % 2 == 0 ? 1 : 4
            var payload = Payload(parts: (0..<streams).map { _ in generator.bytes(Int(generator.next() % 90)) })
            if streams > 1 { payload.shared = generator.bytes(Int(generator.next() % 700)) }
            // Half of them begin like a last block with a code of its own, or the fixed one.
            if round % 4 < 2 {
                let start: UInt8 = generator.next() % 4 == 0 ? 3 : 5
                if let byte = payload.shared.first {
                    payload.shared[0] = start | byte & 0xF8
                } else if let byte = payload.parts[0].first {
                    payload.parts[0][0] = start | byte & 0xF8
                }
            }
            agree(payload, Int(generator.next() % 200), decoder, inflater, "round \(round)")
        }
    }

    /// Matches and stored blocks are left to zlib, whatever else the stream holds.
    @Test func otherStreamsAreLeftAlone() throws {
        var generator = SeededGenerator(seed: 9)
        let decoder = HuffmanDecoder()
        let repeating = [[UInt8]](repeating: Distribution.normal.bytes(3000, &generator), count: 20).flatMap { $0 }
        #expect(Payload(parts: [try #require(deflated(repeating, strategy: Z_DEFAULT_STRATEGY))]).decoded(60_000, by: decoder) == nil)
        let random = generator.bytes(5000)
        #expect(Payload(parts: [try #require(deflated(random))]).decoded(5000, by: decoder) == nil)
    }
}
