internal import CKernels

/// Writes planes as DEFLATE streams of literals alone, for planes whose bytes are skewed and otherwise random, such as
/// exponents. The memory is used again for each plane.
@safe final class HuffmanEncoder {
    private let memory: OpaquePointer
    private var counts = [UInt32](repeating: 0, count: oplora_huffman_streams * 256)
    private var plan = oplora_huffman_plan()
    private var streams = 1

    /// A plane shorter than this is not cut: it takes no time either way, and a cut costs some 20 bytes.
    private static let shortestCut = 4096

    init() {
        guard let memory = unsafe oplora_huffman_encoder_create() else { preconditionFailure("there is no memory for an encoder") }
        unsafe self.memory = memory
    }

    deinit {
        unsafe oplora_huffman_encoder_destroy(memory)
    }

    /// The streams that a plane is cut into.
    var streamCount: Int { streams }

    /// Bytes that the streams share.
    var sharedCount: Int { Int(plan.shared) }

    /// Counts the bytes of a plane. The next two calls are about this plane.
    func count(_ plane: RawSpan, streams: Int? = nil) -> ByteHistogram {
        let streams = streams ?? (plane.byteCount < Self.shortestCut ? 1 : oplora_huffman_streams)
        precondition(streams == 1 || streams == oplora_huffman_streams)
        self.streams = streams
        // Sound: `counts` has 256 places for each of the streams that there may be, and the plane is alive.
        unsafe plane.withUnsafeBytes { source in
            unsafe counts.withUnsafeMutableBufferPointer { counts in
                // No bytes have no address, and none is looked at then.
                unsafe oplora_huffman_count(
                    source.bindMemory(to: UInt8.self).baseAddress, source.count, streams, counts.baseAddress)
            }
        }
        return ByteHistogram(counts, total: plane.byteCount)
    }

    /// Makes the code; how many bytes the plane's payload takes.
    func payloadSize() -> Int {
        // Sound: `counts` is as long as the kernel asks for.
        unsafe counts.withUnsafeBufferPointer { counts in
            unsafe oplora_huffman_make_plan(counts.baseAddress, streams, &plan)
        }
        return Int(plan.payload)
    }

    /// Appends the payload of the plane that was counted and given a code. False, with as many bytes appended that mean
    /// nothing, when the plane has changed since: it may lie in a mapped file that another program writes to.
    func appendPayload(of plane: RawSpan, to bytes: inout [UInt8]) -> Bool {
        let start = bytes.count
        let size = Int(plan.payload)
        bytes.append(contentsOf: repeatElement(0, count: size))
        // Sound: the kernel writes `size` bytes, for which there is room behind `start`, and checks that itself.
        return unsafe plane.withUnsafeBytes { source in
            unsafe bytes.withUnsafeMutableBufferPointer { target in
                unsafe oplora_huffman_encode(
                    memory, &plan, source.bindMemory(to: UInt8.self).baseAddress, source.count, target.baseAddress! + start, size)
            }
        }
    }

    /// How many words of 8 bytes occur earlier in `bytes`, of which there are at most 65,535.
    static func repeatedWords(_ bytes: RawSpan) -> Int {
        // Sound: the kernel reads within the given count.
        unsafe bytes.withUnsafeBytes { source in
            Int(unsafe oplora_huffman_repeats(source.bindMemory(to: UInt8.self).baseAddress, source.count))
        }
    }
}

/// Reads planes from DEFLATE streams of literals alone; the memory is used again for each plane.
@safe final class HuffmanDecoder {
    private let memory: OpaquePointer

    init() {
        guard let memory = unsafe oplora_huffman_decoder_create() else { preconditionFailure("there is no memory for a decoder") }
        unsafe self.memory = memory
    }

    deinit {
        unsafe oplora_huffman_decoder_destroy(memory)
    }

    /// Decodes a plane. Stream i is `shared` and then `bytes` from `starts[i]` up to `starts[i + 1]`.
    ///
    /// Returns false when the streams are not of literals alone, be they valid or not, or when they are not as many as the
    /// kernel decodes side by side.
    func decode(
        _ bytes: UnsafeRawBufferPointer, shared: UnsafeRawBufferPointer, starts: [Int], into plane: UnsafeMutableRawBufferPointer
    ) -> Bool {
        precondition(starts.count >= 2 && starts[0] >= 0 && starts[starts.count - 1] <= bytes.count)
        for index in 1..<starts.count { precondition(starts[index - 1] <= starts[index]) }
        let places = starts.map { UInt($0) }
        // Sound: the parts lie inside `bytes`, checked above; the kernel keeps to the sizes that it is given.
        return unsafe places.withUnsafeBufferPointer { places in
            unsafe oplora_huffman_decode(
                memory, shared.bindMemory(to: UInt8.self).baseAddress, shared.count, bytes.bindMemory(to: UInt8.self).baseAddress,
                places.baseAddress, places.count - 1, plane.bindMemory(to: UInt8.self).baseAddress, plane.count)
        }
    }
}
