/// The first 32 bytes of a file.
///
/// Its layout is the same in every version, so that any reader can tell what it cannot read.
struct Prologue: Equatable, Sendable {
    var version = Format.version
    /// Features that a reader must know.
    var readFeatures: UInt32 = 0
    /// Features that a program must know which changes or extends a file; readers need not.
    var writeFeatures: UInt32 = 0
    /// Features that anyone may ignore.
    var optionalFeatures: UInt32 = 0

    /// The features of each class that this code knows: none so far.
    static let knownReadFeatures: UInt32 = 0
    static let knownWriteFeatures: UInt32 = 0

    var encoded: [UInt8] {
        var bytes = Format.magic
        bytes.append(integer: version)
        bytes.append(integer: readFeatures)
        bytes.append(integer: writeFeatures)
        bytes.append(integer: optionalFeatures)
        bytes.append(integer: UInt32(0))
        bytes.append(integer: checksum(bytes.rawBytes))
        return bytes
    }

    init() {}

    /// Reads and checks the prologue of a file of which `bytes` are all or at least the first 32.
    init(parsing bytes: RawSpan) throws(CheckpointError) {
        try Self.checkMagic(bytes)
        guard bytes.byteCount >= Format.prologueSize else {
            throw CheckpointError(
                .fileTooShort, at: bytes.byteCount, "the file ends inside its first 32 bytes; it is cut short, copy it again")
        }
        guard bytes.integer(at: 28, as: UInt32.self) == checksum(bytes.extracting(0..<28)) else {
            throw CheckpointError(
                .prologueDamaged, at: 0, "the checksum of the first 32 bytes is wrong; the file is damaged, copy it again")
        }
        version = bytes.integer(at: 10)
        guard version == Format.version else {
            throw CheckpointError(
                .versionUnsupported, at: 10,
                "the file has format version \(version) and this program reads version \(Format.version); use a newer program")
        }
        readFeatures = bytes.integer(at: 12)
        writeFeatures = bytes.integer(at: 16)
        optionalFeatures = bytes.integer(at: 20)
        let unknown = readFeatures & ~Self.knownReadFeatures
        guard unknown == 0 else {
            throw CheckpointError(
                .featureUnsupported, at: 12,
                "the file needs feature \(unknown.trailingZeroBitCount), which this program does not know; use a newer program")
        }
        guard bytes.integer(at: 24, as: UInt32.self) == 0 else {
            throw CheckpointError(.reservedNotZero, at: 24, "a reserved field of the prologue is not zero; the file breaks the format")
        }
    }

    private static func checkMagic(_ bytes: RawSpan) throws(CheckpointError) {
        guard bytes.byteCount > 0 else {
            throw CheckpointError(.fileTooShort, at: 0, "the file is empty; write it again")
        }
        let present = min(bytes.byteCount, Format.magic.count)
        guard !bytes.holds(Array(Format.magic[0..<present]), at: 0) else { return }
        // What is left of the magic after the usual accidents: the high bit stripped, the first byte turned into two or
        // three by a change of encoding, line ends changed.
        let letters = Array(Format.magic[1..<5])
        if (1...3).contains(where: { bytes.holds(letters, at: $0) }) {
            throw CheckpointError(
                .magicDamaged, at: 0, "the file went through a transfer that changes text; copy it again in binary mode")
        }
        throw CheckpointError(.notCheckpoint, at: 0, "this is not an .opck file; check the path")
    }
}
