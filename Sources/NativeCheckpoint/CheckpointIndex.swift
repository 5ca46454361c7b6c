internal import Hashing
internal import JSON
internal import OrderedCollections

/// All that a file says of itself, read and checked: everything but the chunks' content.
struct CheckpointIndex: Sendable {
    let prologue: Prologue
    let footerHash: [UInt8]
    let kind: String
    let metadata: OrderedDictionary<String, JSONValue>
    let chunkSize: Int
    let files: [String]?
    /// By label.
    let tensors: OrderedDictionary<String, CheckpointTensor>
    let chunks: [ChunkRecord]

    /// Reads the index of a whole file.
    init(parsing file: RawSpan, limits: CheckpointLimits) throws(CheckpointError) {
        prologue = try Prologue(parsing: file)
        let trailer = try Trailer(parsing: file, limits: limits)
        footerHash = trailer.hash
        var digest = SHA256Digest()
        digest.update(file.extracting(0..<Format.prologueSize))
        digest.update(file.extracting(trailer.footerOffset..<(trailer.offset + 32)))
        guard digest.finish() == trailer.hash else {
            throw CheckpointError(
                .footerDamaged, at: trailer.footerOffset,
                "the hash of the footer is wrong; the file is damaged, copy it again or go back to an older one")
        }
        let text = file.extracting(trailer.footerOffset..<trailer.tableOffset).array()
        let footer = try Footer(parsing: text, at: trailer.footerOffset, limits: limits)

        var chunks: [ChunkRecord] = []
        chunks.reserveCapacity(trailer.chunkCount)
        var start = Format.prologueSize
        for row in 0..<trailer.chunkCount {
            let chunk = try ChunkRecord(
                parsing: file, at: trailer.tableOffset + row * Format.tableRowSize, start: start, footerOffset: trailer.footerOffset)
            start = chunk.end
            chunks.append(chunk)
        }
        guard start == trailer.footerOffset else {
            throw CheckpointError(.chunkGap, at: start, "there is a gap between the last chunk and the footer; the file breaks the format")
        }
        tensors = try Self.tensors(of: footer, chunks: chunks, tableOffset: trailer.tableOffset)
        self.chunks = chunks
        kind = footer.kind
        metadata = footer.metadata
        chunkSize = footer.chunkSize
        files = footer.files
    }

    /// Checks that the tensors share the chunks out among them in order, and that each chunk is what its tensor needs.
    private static func tensors(
        of footer: Footer, chunks: [ChunkRecord], tableOffset: Int
    ) throws(CheckpointError) -> OrderedDictionary<String, CheckpointTensor> {
        var tensors = OrderedDictionary<String, CheckpointTensor>(minimumCapacity: footer.entries.count)
        var next = 0
        for (index, entry) in footer.entries.enumerated() {
            // Rounded up; no overflow, because the raw bytes have been bounded.
            let needed = (entry.byteCount + footer.chunkSize - 1) / footer.chunkSize
            guard entry.firstChunk == next, entry.chunkCount == needed, needed <= chunks.count - next else {
                throw CheckpointError(
                    .chunkRange, tensor: entry.name, at: tableOffset,
                    "its chunks are not the \(needed) that its size needs, from chunk \(next) on; the file breaks the format")
            }
            let layout = PlaneLayout(entry.dtype)
            var rest = entry.byteCount
            var stored = 0
            for number in next..<(next + needed) {
                let chunk = chunks[number]
                let row = tableOffset + number * Format.tableRowSize
                guard chunk.tensorIndex == index else {
                    throw CheckpointError(
                        .chunkRange, tensor: entry.name, at: row + 20, "one of its chunks names another tensor; the file breaks the format")
                }
                guard chunk.rawLength == min(rest, footer.chunkSize) else {
                    throw CheckpointError(
                        .chunkLength, tensor: entry.name, at: row + 12,
                        "a chunk of it has \(chunk.rawLength) raw bytes, which is not its share; the file breaks the format")
                }
                let isDifference = entry.base != nil && chunk.codec == layout.ofDifferences.codec
                guard chunk.codec == layout.codec || isDifference, Int(chunk.width) == layout.width else {
                    throw CheckpointError(
                        .chunkCodec, tensor: entry.name, at: row + 24,
                        "a chunk of it is arranged in another way than \(entry.dtype) is; the file breaks the format")
                }
                rest -= chunk.rawLength
                stored += chunk.storedLength
            }
            let tensor = CheckpointTensor(
                name: entry.name, dtype: entry.dtype, shape: entry.shape, path: entry.file.flatMap { footer.files?[$0] }, base: entry.base,
                byteCount: entry.byteCount, sha256: entry.sha256, storedByteCount: stored, index: index, chunks: next..<(next + needed))
            tensors[tensor.label] = tensor
            next += needed
        }
        guard next == chunks.count else {
            throw CheckpointError(
                .chunkRange, at: tableOffset + next * Format.tableRowSize, "a chunk belongs to no tensor; the file breaks the format")
        }
        return tensors
    }
}
