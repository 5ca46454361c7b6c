internal import FileIO
internal import Weights

/// Bytes of a weight, in memory that is kept from one reading to the next.
struct ByteBuffer {
    private var storage: [UInt8] = []
    private var count = 0

    /// Reads bytes of the elements of a weight, counted from the first.
    mutating func read(_ weight: StoredWeight, _ range: Range<Int>) throws(FileError) {
        count = range.count
        try weight.read(bytes: range, into: &storage)
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
