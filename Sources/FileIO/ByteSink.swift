/// Where the bytes of a file in the making go.
public protocol ByteSink: AnyObject {
    /// What messages call it.
    var path: String { get }
    /// Bytes written so far.
    var position: Int { get }

    /// Appends bytes.
    func write(_ bytes: RawSpan) throws(FileError)

    /// Makes the file whole and visible; nothing is written after it.
    func publish(durable: Bool) throws(FileError)
}

extension ByteSink {
    public func write(_ bytes: [UInt8]) throws(FileError) {
        // Sound: every bit pattern of a byte may be read as a raw byte.
        try write(unsafe bytes.span.bytes)
    }
}
