internal import CZlib

/// Writes raw DEFLATE streams (RFC 1951) with matches, at zlib's fastest level, for planes that repeat themselves. One
/// zlib state is used again for each stream.
@safe final class Deflater {
    // zlib keeps a pointer back to the stream, so it may not move: it lives on the heap.
    private let stream: UnsafeMutablePointer<z_stream>
    private var output: [UInt8] = []

    init() {
        unsafe stream = .allocate(capacity: 1)
        unsafe stream.initialize(to: z_stream())
        let status = unsafe deflateInit2_(
            stream, 1, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY, ZLIB_VERSION,
            Int32(MemoryLayout<z_stream>.size))
        // Only a lack of memory or a zlib of another major version gets here, and neither is the data's fault.
        precondition(status == Z_OK, "zlib cannot start a stream")
    }

    deinit {
        unsafe deflateEnd(stream)
        unsafe stream.deinitialize(count: 1)
        unsafe stream.deallocate()
    }

    /// Compresses `input`; the length of the stream, or `nil` if it would take more than `limit` bytes.
    func compress(_ input: RawSpan, limit: Int) -> Int? {
        guard limit > 0 else { return nil }
        if output.count < limit { output = [UInt8](repeating: 0, count: limit) }
        unsafe deflateReset(stream)
        var length = 0
        // Sound: zlib reads and writes within the given counts, during the call only; it does not write to its input
        // although the type says so.
        let status = unsafe input.withUnsafeBytes { source in
            unsafe output.withUnsafeMutableBufferPointer { target in
                unsafe stream.pointee.next_in = UnsafeMutablePointer(mutating: source.bindMemory(to: UInt8.self).baseAddress)
                unsafe stream.pointee.avail_in = UInt32(source.count)
                unsafe stream.pointee.next_out = target.baseAddress
                unsafe stream.pointee.avail_out = UInt32(limit)
                let status = unsafe deflate(stream, Z_FINISH)
                length = unsafe limit - Int(stream.pointee.avail_out)
                return status
            }
        }
        guard status == Z_STREAM_END else { return nil }
        return length
    }

    /// Appends the stream that the last call of `compress` made.
    func appendStream(length: Int, to bytes: inout [UInt8]) {
        bytes += output[0..<length]
    }
}
