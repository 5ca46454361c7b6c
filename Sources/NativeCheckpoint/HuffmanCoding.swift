internal import CKernels

/// Writes planes as DEFLATE streams of literals alone, for planes whose bytes are skewed and otherwise random, such as
/// exponents. The memory is used again for each plane.
@safe final class HuffmanEncoder {
    private let memory: OpaquePointer
    private(set) var counts = [UInt32](repeating: 0, count: 256)
    private var plan = oplora_huffman_plan()

    /// A plane shorter than this is not cut: it takes no time either way, and a cut costs some 20 bytes.
    private static let shortestCut = 4096

    /// - Parameter isPortable: whether to do without what some processors have. The bytes are the same.
    init(isPortable: Bool = false) {
        guard let memory = unsafe oplora_huffman_encoder_create(isPortable) else { preconditionFailure("there is no memory for an encoder") }
        unsafe self.memory = memory
    }

    deinit {
        unsafe oplora_huffman_encoder_destroy(memory)
    }

    /// The streams that the payload is cut into.
    var streamCount: Int { Int(plan.streams) }

    /// Counts the bytes of a plane. The next two calls are about this plane.
    ///
    /// - Parameter samples: whether a quarter of a long plane, in pieces from all over it, is enough, with a count of one for each
    ///   byte that occurs elsewhere alone. That is faster.
    func count(_ plane: RawSpan, samples: Bool = false) -> ByteHistogram {
        // Sound: `counts` has 256 places, and the plane is alive. No bytes have no address, and none is looked at then.
        unsafe plane.withUnsafeBytes { source in
            unsafe counts.withUnsafeMutableBufferPointer { counts in
                unsafe oplora_huffman_count(
                    memory, source.bindMemory(to: UInt8.self).baseAddress, source.count, samples, counts.baseAddress)
            }
        }
        return ByteHistogram(counts)
    }

    /// Makes the code for a plane of `length` bytes.
    ///
    /// - Parameter longest: bits of the longest code, 11 or 12: 12 saves a thousandth and costs a sixth of the decoder's speed.
    /// - Returns: the most bytes that the payload may take: a few more than it does, or a sixty-fourth more than a sample lets
    ///   expect.
    func largestPayload(length: Int, streams: Int? = nil, longest: Int = 11) -> Int {
        let streams = streams ?? (length < Self.shortestCut ? 1 : oplora_huffman_streams)
        precondition(streams == 1 || streams == oplora_huffman_streams)
        // Sound: `counts` is as long as the kernel asks for.
        unsafe counts.withUnsafeBufferPointer { counts in
            unsafe oplora_huffman_make_plan(counts.baseAddress, length, streams, Int32(longest), &plan)
        }
        return Int(plan.most)
    }

    /// Appends the payload of the plane that was counted and given a code.
    ///
    /// - Returns: how many bytes it has. `nil`, with nothing appended, when that is more than `largestPayload`: the plane was
    ///   sampled, and its sample is not like the rest.
    func appendPayload(of plane: RawSpan, to bytes: inout [UInt8]) -> Int? {
        let room = Int(plan.most)
        let before = bytes.count
        // Sound: the kernel writes at most `room` bytes, which are there, and says how many; nothing before them is touched.
        unsafe plane.withUnsafeBytes { source in
            bytes.append(addingCapacity: room) { output in
                unsafe output.withUnsafeMutableBufferPointer { target, count in
                    count = Int(
                        unsafe oplora_huffman_encode(
                            memory, &plan, source.bindMemory(to: UInt8.self).baseAddress, source.count, target.baseAddress, room))
                }
            }
        }
        return bytes.count > before ? bytes.count - before : nil
    }

    /// How many words of 8 bytes at even places of `bytes` occur at one before. There are at most 65,535 bytes.
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
