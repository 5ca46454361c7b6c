internal import Tensors

/// A place in the header of a GGUF file; nothing is read that is not there.
struct GGUFCursor: ~Escapable {
    private let bytes: RawSpan
    private let path: String
    private(set) var position = 0

    @_lifetime(copy bytes)
    init(_ bytes: RawSpan, path: String) {
        self.bytes = bytes
        self.path = path
    }

    var remaining: Int { bytes.byteCount - position }

    func fault(_ code: GGUFError.Code, _ subject: String? = nil, at offset: Int? = nil, _ message: String) -> GGUFError {
        GGUFError(code, path: path, subject: subject, offset: offset ?? position, message)
    }

    private func endsInside() -> GGUFError { fault(.headerPastEnd, nil, "the file ends inside its header; it is cut short, fetch it again") }

    @_lifetime(self: copy self)
    mutating func integer<Number: FixedWidthInteger & BitwiseCopyable>(_ type: Number.Type) throws(GGUFError) -> Number {
        let size = MemoryLayout<Number>.size
        guard remaining >= size else { throw endsInside() }
        defer { position += size }
        // Sound: the bytes are there, and every bit pattern is an integer.
        return Number(littleEndian: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: position, as: Number.self))
    }

    /// A number of things, of which the rest of the file has to hold `least` bytes each.
    @_lifetime(self: copy self)
    mutating func count(of things: String, _ subject: String? = nil, atLeast least: Int) throws(GGUFError) -> Int {
        let number = try integer(UInt64.self)
        guard number <= UInt64(remaining / least) else {
            throw fault(.countTooLarge, subject, at: position - 8, "\(number) \(things) are more than the \(remaining) bytes that follow can hold")
        }
        return Int(number)
    }

    /// - Parameter subject: what it is, for errors.
    @_lifetime(self: copy self)
    mutating func string(_ subject: String) throws(GGUFError) -> String {
        let length = try stringLength(subject)
        let text = Span<UInt8>(_bytes: bytes.extracting(position..<position + length))
        guard let valid = try? UTF8Span(validating: text) else { throw fault(.invalidText, subject, "the text is not UTF-8") }
        position += length
        return String(copying: valid)
    }

    @_lifetime(self: copy self)
    mutating func skipString(_ subject: String) throws(GGUFError) { position += try stringLength(subject) }

    @_lifetime(self: copy self)
    mutating func skip(_ count: Int) throws(GGUFError) {
        guard remaining >= count else { throw endsInside() }
        position += count
    }

    @_lifetime(self: copy self)
    private mutating func stringLength(_ subject: String) throws(GGUFError) -> Int {
        let length = try integer(UInt64.self)
        guard length <= UInt64(remaining) else {
            throw fault(
                .headerPastEnd, subject, at: position - 8, "a text of \(length) bytes goes past the end of the file; it is cut short, fetch it again")
        }
        return Int(length)
    }
}
