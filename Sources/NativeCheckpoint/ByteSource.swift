public import FileIO
internal import Hashing
public import Tensors

/// Bytes that are looked at piece by piece, from several threads: those of a tensor, wherever they lie.
public protocol ByteSource: Sendable {
    var byteCount: Int { get }

    /// Calls `body` with a part of the bytes, which lives during the call.
    func withBytes(in range: Range<Int>, _ body: (RawSpan) throws -> Void) throws

    /// Says that a part will not be looked at again.
    func release(_ range: Range<Int>)
}

extension ByteSource {
    public func release(_ range: Range<Int>) {}

    /// The SHA-256 of all bytes, in 64 lower-case hexadecimal digits.
    func sha256() throws -> String {
        var digest = SHA256Digest()
        for start in stride(from: 0, to: byteCount, by: Format.defaultChunkSize) {
            let range = start..<min(start + Format.defaultChunkSize, byteCount)
            try withBytes(in: range) { digest.update($0) }
            release(range)
        }
        return digest.finishHex()
    }
}

/// A part of a mapped file.
public struct MappedBytes: ByteSource {
    public let file: MappedFile
    public let range: Range<Int>

    /// The range lies inside the file.
    public init(_ file: MappedFile, _ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= file.count)
        self.file = file
        self.range = range
    }

    public var byteCount: Int { range.count }

    public func withBytes(in part: Range<Int>, _ body: (RawSpan) throws -> Void) throws {
        let file = file
        try body(file.bytes(in: place(part)))
    }

    public func release(_ part: Range<Int>) { file.release(place(part)) }

    private func place(_ part: Range<Int>) -> Range<Int> { range.lowerBound + part.lowerBound..<range.lowerBound + part.upperBound }
}

/// Bytes in memory.
public struct MemoryBytes: ByteSource {
    public let bytes: [UInt8]

    public init(_ bytes: [UInt8]) { self.bytes = bytes }

    public var byteCount: Int { bytes.count }

    public func withBytes(in part: Range<Int>, _ body: (RawSpan) throws -> Void) throws { try body(bytes.rawBytes.extracting(part)) }
}

/// The tensors of a file or folder that others are stored as differences to.
public protocol BaseTensors: Sendable {
    /// What the base is called in messages.
    var path: String { get }

    /// The bytes of the tensor of this name; `nil` where there is none, or one of another type or shape.
    func source(name: String, dtype: DType, shape: [Int]) throws -> (any ByteSource)?
}

/// Bytes that the caller lends for the time of a call.
@safe struct LentBytes: ByteSource, @unchecked Sendable {
    // Sound: whoever makes one keeps the bytes alive and unchanged while it is used.
    private nonisolated(unsafe) let bytes: UnsafeRawBufferPointer

    init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

    var byteCount: Int { unsafe bytes.count }

    func withBytes(in part: Range<Int>, _ body: (RawSpan) throws -> Void) throws {
        try body(unsafe UnsafeRawBufferPointer(rebasing: bytes[part]).bytes)
    }
}
