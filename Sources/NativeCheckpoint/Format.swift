internal import Tensors

/// Sizes and constants of version 1 of the format; the words are explained in `formats/native-checkpoint.md`.
enum Format {
    static let magic: [UInt8] = [0x89, 0x4F, 0x50, 0x43, 0x4B, 0x0D, 0x0A, 0x1A, 0x0A, 0x00]
    static let endMagic: [UInt8] = [0x89, 0x4F, 0x50, 0x43, 0x4B, 0x45, 0x4E, 0x44]
    static let chunkMarker: UInt32 = 0x4B48_438B
    static let version: UInt16 = 1

    static let prologueSize = 32
    static let trailerSize = 72
    static let chunkHeaderSize = 32
    static let checksumSize = 4
    static let planeHeaderSize = 4
    static let tableRowSize = 16

    /// Streams that a plane may be cut into.
    static let maximumStreams = 16
    /// Bytes of the number of shared bytes.
    static let sharedSize = 2
    /// Bytes of the length of a stream's own part.
    static let partLengthSize = 4

    /// Where part `index` of a plane of `count` bytes begins, when it is cut into `streams`.
    static func partStart(_ index: Int, of count: Int, streams: Int) -> Int {
        index * count / streams
    }

    /// Raw bytes in every chunk of a tensor but the last.
    static let defaultChunkSize = 1 << 19
    static let maximumChunkSize = 1 << 20
    static let chunkSizeUnit = 64
    static let maximumNameBytes = 65_535

    /// Whether `size` may be a file's chunk size.
    static func isChunkSize(_ size: Int) -> Bool {
        size >= chunkSizeUnit && size <= maximumChunkSize && size % chunkSizeUnit == 0
    }

    /// The kinds of packed files: one file, and a folder.
    static let fileKind = "file"
    static let folderKind = "folder"

    /// Whether `kind` is 1 to 64 of `a`–`z`, `0`–`9`, `.` and `-`.
    static func isKind(_ kind: String) -> Bool {
        (1...64).contains(kind.utf8.count)
            && kind.utf8.allSatisfy {
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
                    || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-")
            }
    }

    /// Whether `name` may name a tensor: at most 65,535 bytes and no NUL, which C programs would stop at.
    static func isName(_ name: String) -> Bool {
        name.utf8.count <= maximumNameBytes && !name.utf8.contains(0)
    }
}

extension Format {
    /// Whether `path` may name a packed file: relative, its components neither empty nor "." or "..", without NUL. An empty
    /// folder's name ends with a slash.
    static func isPath(_ path: String) -> Bool {
        var components = path.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).map { Array($0) }
        if components.count > 1, components.last == [] { components.removeLast() }
        return path.utf8.count <= maximumNameBytes && !path.utf8.contains(0)
            && components.allSatisfy { !$0.isEmpty && $0 != [UInt8(ascii: ".")] && $0 != [UInt8(ascii: "."), UInt8(ascii: ".")] }
    }
}

/// How the elements of a type are arranged before coding: split into bytes of equal significance, floats with the sign
/// rotated to the low end first, so that the top plane is the whole exponent.
struct PlaneLayout: Equatable, Sendable {
    enum Arrangement: UInt8, Sendable {
        case plain = 1
        /// Rotated left by one bit.
        case rotated = 2
        /// The difference to the base's element, its sign at the low end.
        case difference = 3
    }

    let arrangement: Arrangement
    /// Bytes of an element, which is the number of planes.
    let width: Int

    /// The number by which files name the arrangement.
    var codec: UInt8 { arrangement.rawValue }

    /// The layout of a type's own bytes.
    init(_ dtype: DType) {
        switch dtype {
        case .bool, .f4, .f6E2M3, .f6E3M2, .u8, .i8, .f8E5M2, .f8E4M3, .f8E5M2FNUZ, .f8E4M3FNUZ, .f8E8M0: (arrangement, width) = (.plain, 1)
        case .i16, .u16: (arrangement, width) = (.plain, 2)
        case .i32, .u32: (arrangement, width) = (.plain, 4)
        case .i64, .u64: (arrangement, width) = (.plain, 8)
        case .f16, .bf16: (arrangement, width) = (.rotated, 2)
        // A complex number is a pair of floats, and its planes are those of the floats.
        case .f32, .c64: (arrangement, width) = (.rotated, 4)
        case .f64: (arrangement, width) = (.rotated, 8)
        }
    }

    private init(_ arrangement: Arrangement, width: Int) {
        self.arrangement = arrangement
        self.width = width
    }

    /// The layout of differences to a base of the same type.
    var ofDifferences: PlaneLayout { PlaneLayout(.difference, width: width) }
}

extension RawSpan {
    /// The little-endian integer at `offset`, which the caller has checked to lie inside.
    func integer<Value: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: Value.Type = Value.self) -> Value {
        // Sound: every bit pattern is an integer; the bounds are checked by the call itself.
        Value(littleEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: Value.self))
    }

    /// A copy of the bytes.
    func array() -> [UInt8] {
        unsafe withUnsafeBytes { unsafe Array($0) }
    }

    /// Whether the bytes from `offset` on begin with `pattern`.
    func holds(_ pattern: [UInt8], at offset: Int) -> Bool {
        offset >= 0 && offset <= byteCount - pattern.count
            && pattern.indices.allSatisfy { integer(at: offset + $0, as: UInt8.self) == pattern[$0] }
    }
}

extension [UInt8] {
    /// Appends an integer, little end first.
    mutating func append(integer value: some FixedWidthInteger) {
        var rest = value
        for _ in 0..<(value.bitWidth / 8) {
            append(UInt8(truncatingIfNeeded: rest))
            rest >>= 8
        }
    }

    /// Appends the bytes of a span.
    mutating func append(bytes: RawSpan) {
        unsafe bytes.withUnsafeBytes { unsafe append(contentsOf: $0) }
    }

    /// The array as raw bytes.
    var rawBytes: RawSpan {
        // Sound: every bit pattern of a byte may be read as a raw byte.
        @_lifetime(borrow self) get { unsafe _overrideLifetime(span.bytes, borrowing: self) }
    }
}
