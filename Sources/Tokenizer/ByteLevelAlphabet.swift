/// The alphabet in which byte-level vocabularies are written: a printable character for each of the 256 bytes.
///
/// Printable ASCII and the printable part of Latin-1 stand for themselves; the other 68 bytes, in ascending order, are
/// U+0100 to U+0143 (a space is U+0120, `Ġ`).
enum ByteLevelAlphabet {
    /// The character of each byte.
    static let scalars: [Unicode.Scalar] = {
        var next: UInt32 = 0x100
        return (0...255).map { (byte: UInt8) in
            switch byte {
            case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: return Unicode.Scalar(byte)
            default:
                defer { next += 1 }
                return Unicode.Scalar(next)!
            }
        }
    }()

    /// The byte of each character up to U+0143, or -1.
    private static let bytes: [Int16] = {
        var bytes = [Int16](repeating: -1, count: 0x144)
        for (byte, scalar) in scalars.enumerated() { bytes[Int(scalar.value)] = Int16(byte) }
        return bytes
    }()

    /// Appends the bytes that `text` stands for.
    ///
    /// - Returns: whether `text` is written in the alphabet; if not, `output` may hold a part of it.
    static func decode(_ text: Span<UInt8>, into output: inout [UInt8]) -> Bool {
        let bytes = bytes
        var position = 0
        while position < text.count {
            var scalar = Int(text[position])
            position += 1
            if scalar >= 0x80 {
                // All of the alphabet outside ASCII takes two bytes of UTF-8.
                guard (0xC2...0xC5).contains(scalar) else { return false }
                scalar = (scalar & 0x1F) << 6 | Int(text[position] & 0x3F)
                position += 1
            }
            guard scalar < bytes.count, bytes[scalar] >= 0 else { return false }
            output.append(UInt8(bytes[scalar]))
        }
        return true
    }
}
