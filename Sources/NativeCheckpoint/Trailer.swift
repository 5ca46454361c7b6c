/// The last 72 bytes of a file: where the footer lies, its hash, and the end magic that says the file is whole.
struct Trailer: Equatable, Sendable {
    /// Where the footer's text begins, which is where the chunks end.
    let footerOffset: Int
    let textLength: Int
    let chunkCount: Int
    let hash: [UInt8]

    /// Where the chunk table begins.
    var tableOffset: Int { footerOffset + textLength }
    /// Where the trailer begins.
    var offset: Int { tableOffset + chunkCount * Format.tableRowSize }

    /// The fields that the hash covers.
    static func lengths(footerOffset: Int, textLength: Int, chunkCount: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(integer: UInt64(footerOffset))
        bytes.append(integer: UInt64(textLength))
        bytes.append(integer: UInt64(chunkCount))
        bytes.append(integer: UInt64(footerOffset + textLength + chunkCount * Format.tableRowSize + Format.trailerSize))
        return bytes
    }

    /// Reads and checks the trailer of a whole file, apart from the hash.
    init(parsing bytes: RawSpan, limits: CheckpointLimits) throws(CheckpointError) {
        let size = bytes.byteCount
        guard size >= Format.prologueSize + Format.trailerSize else {
            throw CheckpointError(.fileTooShort, at: size, "the file is too short to have a trailer; it is cut short, copy it again")
        }
        let start = size - Format.trailerSize
        guard bytes.holds(Format.endMagic, at: size - Format.endMagic.count) else {
            throw CheckpointError(
                .trailerMissing, at: size - Format.endMagic.count,
                "the file does not end with the end mark: it is cut short, was never finished, or something was appended; copy it again")
        }
        // The fields are unsigned, and one beyond Int can only be wrong.
        func field(_ offset: Int) throws(CheckpointError) -> Int {
            guard let value = Int(exactly: bytes.integer(at: start + offset, as: UInt64.self)) else {
                throw CheckpointError(.trailerInvalid, at: start + offset, "a length in the trailer is impossible; the file is damaged")
            }
            return value
        }
        footerOffset = try field(0)
        textLength = try field(8)
        chunkCount = try field(16)
        guard try field(24) == size else {
            throw CheckpointError(
                .trailerInvalid, at: start + 24,
                "the trailer gives another length than the \(size) bytes of the file; bytes were lost or added, copy it again")
        }
        guard textLength <= min(limits.footerBytes, CheckpointLimits.format.footerBytes) else {
            throw CheckpointError(.limitFooter, at: start + 8, "the footer's text has \(textLength) bytes, more than is allowed")
        }
        guard chunkCount <= min(limits.chunks, CheckpointLimits.format.chunks) else {
            throw CheckpointError(.limitChunks, at: start + 16, "the file has \(chunkCount) chunks, more than is allowed")
        }
        // No overflow: the length and the count have just been bounded, and the offset is compared, not added to.
        guard footerOffset >= Format.prologueSize,
            footerOffset == start - textLength - chunkCount * Format.tableRowSize
        else {
            throw CheckpointError(
                .trailerInvalid, at: start, "footer, chunk table and trailer do not fill the file to its end; the file is damaged")
        }
        hash = bytes.extracting((start + 32)..<(start + 64)).array()
    }
}
