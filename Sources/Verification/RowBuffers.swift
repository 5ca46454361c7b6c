internal import FileIO

/// Bytes of a file, in memory that is kept from one reading to the next.
struct ByteBuffer {
    private var storage: [UInt8] = []
    private var count = 0

    mutating func read(_ file: MappedFile, _ range: Range<Int>) throws(FileError) {
        if storage.count < range.count { storage = [UInt8](repeating: 0, count: range.count) }
        count = range.count
        var span = storage.mutableSpan
        // Sound: every bit pattern of a byte may be written.
        var target = unsafe span.mutableBytes
        try file.copyBytes(in: range, to: &target)
    }

    var bytes: RawSpan {
        @_lifetime(borrow self) get {
            // Sound: every bit pattern of a byte may be read.
            let span = storage.span
            return unsafe _overrideLifetime(unsafe span.bytes.extracting(0..<count), borrowing: self)
        }
    }
}

/// The same rows of the base and of the merged model.
struct RowBuffers {
    var source = ByteBuffer()
    var merged = ByteBuffer()
}
