internal import Hashing
internal import JSON
internal import OrderedCollections

/// All that a file says of itself, read and checked: everything but the chunks' content.
struct CheckpointIndex: Sendable {
    let prologue: Prologue
    let kind: String
    let metadata: OrderedDictionary<String, JSONValue>
    let chunkSize: Int
    let files: [PackedFile]?
    /// By label.
    let tensors: OrderedDictionary<String, CheckpointTensor>
    let chunks: [ChunkRecord]

    /// Reads the index of a whole file.
    init(parsing file: RawSpan, limits: CheckpointLimits) throws(CheckpointError) {
        prologue = try Prologue(parsing: file)
        let trailer = try Trailer(parsing: file, limits: limits)
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

        (tensors, chunks) = try Self.layOut(footer, in: file, trailer)
        kind = footer.kind
        metadata = footer.metadata
        chunkSize = footer.chunkSize
        files = footer.files
    }

    /// Gives each tensor its chunks, in order, and each chunk its place.
    private static func layOut(
        _ footer: Footer, in file: RawSpan, _ trailer: Trailer
    ) throws(CheckpointError) -> (OrderedDictionary<String, CheckpointTensor>, [ChunkRecord]) {
        var tensors = OrderedDictionary<String, CheckpointTensor>(minimumCapacity: footer.entries.count)
        var chunks: [ChunkRecord] = []
        chunks.reserveCapacity(trailer.chunkCount)
        var start = Format.prologueSize
        var files = (footer.files ?? []).enumerated().flatMap { number, file in
            (0..<file.tensors).map { (number: number, path: file.path, isFirst: $0 == 0) }
        }.makeIterator()
        for (index, entry) in footer.entries.enumerated() {
            let packedFile = files.next()
            // Rounded up; no overflow, because the raw bytes have been bounded.
            let needed = (entry.byteCount + footer.chunkSize - 1) / footer.chunkSize
            guard needed <= trailer.chunkCount - chunks.count else {
                throw CheckpointError(
                    .chunkRange, tensor: entry.name, at: trailer.tableOffset,
                    "the tensors need more chunks than the table's \(trailer.chunkCount); the file breaks the format")
            }
            let layout = PlaneLayout(entry.dtype)
            let first = chunks.count
            for number in 0..<needed {
                let row = trailer.tableOffset + chunks.count * Format.tableRowSize
                let chunk = try ChunkRecord(
                    parsing: file, at: row, start: start, footerOffset: trailer.footerOffset,
                    rawLength: min(footer.chunkSize, entry.byteCount - number * footer.chunkSize), tensorIndex: index)
                let isDifference = entry.base != nil && chunk.codec == layout.ofDifferences.codec
                guard chunk.codec == layout.codec || isDifference, Int(chunk.width) == layout.width else {
                    throw CheckpointError(
                        .chunkCodec, tensor: entry.name, at: row + 12,
                        "a chunk of it is arranged in another way than \(entry.dtype) is; the file breaks the format")
                }
                start = chunk.end
                chunks.append(chunk)
            }
            let tensor = CheckpointTensor(
                name: entry.name, dtype: entry.dtype, shape: entry.shape, path: packedFile?.path, base: entry.base, byteCount: entry.byteCount,
                sha256: entry.sha256, storedByteCount: start - (chunks.count > first ? chunks[first].offset : start),
                descriptor: TensorDescriptor(
                    name: entry.name, dtype: entry.dtype, shape: entry.shape, file: packedFile?.number,
                    path: packedFile?.isFirst == true ? packedFile?.path : nil),
                index: index, chunks: first..<chunks.count)
            tensors[tensor.label] = tensor
        }
        guard chunks.count == trailer.chunkCount else {
            throw CheckpointError(
                .chunkRange, at: trailer.tableOffset + chunks.count * Format.tableRowSize,
                "a chunk belongs to no tensor; the file breaks the format")
        }
        guard start == trailer.footerOffset else {
            throw CheckpointError(.chunkLength, at: start, "bytes lie between the last chunk and the footer; the file breaks the format")
        }
        return (tensors, chunks)
    }
}
