import CZlib
import Hashing

/// Makes the checksums of an .opck file fit whatever it holds, as a stranger can, so that inputs get past them.
///
/// All that the fuzz targets know of the format's layout is here: chapters 2 to 4 of `formats/native-checkpoint.md`.
enum CheckpointSeal {
    private static let prologueSize = 32
    private static let trailerSize = 72
    private static let tableRowSize = 16
    private static let leastChunk = 40

    /// `nil` where too little is there to have checksums.
    static func sealed(_ bytes: [UInt8]) -> [UInt8]? {
        guard bytes.count >= prologueSize + trailerSize else { return nil }
        var bytes = bytes
        put(UInt64(checksum(bytes[0..<28])), 4, at: 28, in: &bytes)
        let trailer = bytes.count - trailerSize
        guard let length = integer(at: trailer + 8, in: bytes), let chunks = integer(at: trailer + 16, in: bytes),
            chunks <= (trailer - prologueSize) / tableRowSize, length <= trailer - prologueSize - chunks * tableRowSize
        else { return bytes }
        // Where the text begins and where the file ends, should bytes have come or gone.
        let text = trailer - chunks * tableRowSize - length
        put(UInt64(text), 8, at: trailer, in: &bytes)
        put(UInt64(bytes.count), 8, at: trailer + 24, in: &bytes)
        var start = prologueSize
        for chunk in 0..<chunks {
            let row = text + length + chunk * tableRowSize
            let size = Int((0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[row + $1]) << UInt32(8 * $1) })
            guard size >= leastChunk, size <= text - start else { break }
            let sum = checksum(bytes[start..<(start + size - 4)])
            put(UInt64(sum), 4, at: start + size - 4, in: &bytes)
            put(UInt64(sum), 4, at: row + 4, in: &bytes)
            start += size
        }
        var digest = SHA256Digest()
        // Sound: every bit pattern of a byte may be read as a raw byte.
        digest.update(unsafe bytes.span.bytes.extracting(0..<32))
        digest.update(unsafe bytes.span.bytes.extracting(text..<(trailer + 32)))
        bytes.replaceSubrange((trailer + 32)..<(trailer + 64), with: digest.finish())
        return bytes
    }

    private static func checksum(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        // Sound: zlib reads as many bytes as the slice has.
        unsafe bytes.withUnsafeBytes { unsafe UInt32(crc32_z(0, $0.bindMemory(to: UInt8.self).baseAddress, $0.count)) }
    }

    private static func put(_ value: UInt64, _ count: Int, at offset: Int, in bytes: inout [UInt8]) {
        for byte in 0..<count { bytes[offset + byte] = UInt8(truncatingIfNeeded: value >> (8 * byte)) }
    }

    private static func integer(at offset: Int, in bytes: [UInt8]) -> Int? {
        Int(exactly: (0..<8).reduce(UInt64(0)) { $0 | UInt64(bytes[offset + $1]) << UInt64(8 * $1) })
    }
}
