internal import CZlib

/// Reads raw DEFLATE streams (RFC 1951) with one zlib state, used again for each stream.
@safe final class Inflater {
    // zlib keeps a pointer back to the stream, so it may not move: it lives on the heap.
    private let stream: UnsafeMutablePointer<z_stream>

    init() {
        unsafe stream = .allocate(capacity: 1)
        unsafe stream.initialize(to: z_stream())
        let status = unsafe inflateInit2_(stream, -15, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        // Only a lack of memory or a zlib of another major version gets here, and neither is the data's fault.
        precondition(status == Z_OK, "zlib cannot start a stream")
    }

    deinit {
        unsafe inflateEnd(stream)
        unsafe stream.deinitialize(count: 1)
        unsafe stream.deallocate()
    }

    /// Decodes a stream; whether it was valid, ended with the last byte of `input` and filled `output` exactly.
    func decompress(_ input: UnsafeRawBufferPointer, into output: UnsafeMutableRawBufferPointer) -> Bool {
        unsafe inflateReset(stream)
        // zlib does not write to its input although the type says so.
        unsafe stream.pointee.next_in = UnsafeMutablePointer(mutating: input.bindMemory(to: UInt8.self).baseAddress)
        unsafe stream.pointee.avail_in = UInt32(input.count)
        unsafe stream.pointee.next_out = output.bindMemory(to: UInt8.self).baseAddress
        unsafe stream.pointee.avail_out = UInt32(output.count)
        let status = unsafe inflate(stream, Z_FINISH)
        return unsafe status == Z_STREAM_END && stream.pointee.avail_in == 0 && stream.pointee.avail_out == 0
    }

    /// Decodes the streams of a plane one after the other; whether all were valid and each filled its part. Stream i is
    /// `shared` and then `payload` from `starts[i]` up to `starts[i + 1]`.
    func decompress(
        _ payload: UnsafeRawBufferPointer, shared: UnsafeRawBufferPointer, starts: [Int], into plane: UnsafeMutableRawBufferPointer
    ) -> Bool {
        let streams = starts.count - 1
        for index in 0..<streams {
            let part = unsafe UnsafeRawBufferPointer(rebasing: payload[starts[index]..<starts[index + 1]])
            let (start, end) = (
                Format.partStart(index, of: plane.count, streams: streams), Format.partStart(index + 1, of: plane.count, streams: streams)
            )
            let place = unsafe UnsafeMutableRawBufferPointer(rebasing: plane[start..<end])
            if unsafe shared.isEmpty {
                guard unsafe decompress(part, into: place) else { return false }
            } else {
                // Put together, because a stream may pass from the one to the other anywhere.
                let stream = unsafe Array(shared) + Array(part)
                guard unsafe stream.withUnsafeBytes({ unsafe decompress($0, into: place) }) else { return false }
            }
        }
        return true
    }
}
