internal import FileIO
internal import Kernels
internal import Tensors

/// The coding of some tensors: chunks are made side by side and written one after the other.
final class AppendRun: @unchecked Sendable {
    // Sound: `sink`, `table` and `holdsDifferences` are touched only by the worker whose turn it is, and by the caller after
    // all workers have ended.

    /// A chunk to be made.
    struct Piece {
        let tensor: Int
        /// Its number inside the tensor.
        let index: Int
        let range: Range<Int>
    }

    /// What is to be written.
    struct Plan {
        /// The number that the first of the tensors has in the file.
        let firstTensor: Int
        let chunkSize: Int
        private(set) var tensors: [TensorContent] = []
        private(set) var descriptors: [[UInt8]] = []
        private(set) var pieces: [Piece] = []

        init(firstTensor: Int, chunkSize: Int) {
            self.firstTensor = firstTensor
            self.chunkSize = chunkSize
        }

        /// - Parameter path: that of the packed file, for the first tensor of one.
        mutating func add(_ tensor: TensorContent, path: String?) {
            for (index, start) in stride(from: 0, to: tensor.bytes.byteCount, by: chunkSize).enumerated() {
                pieces.append(Piece(tensor: tensors.count, index: index, range: start..<min(start + chunkSize, tensor.bytes.byteCount)))
            }
            tensors.append(tensor)
            descriptors.append(TensorDescriptor(name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, file: tensor.file, path: path).encoded)
        }
    }

    private let plan: Plan
    private let sink: any ByteSink
    private let isCancelled: @Sendable () -> Bool
    /// The chunks' rows of the table.
    private(set) var table: [UInt8] = []
    /// For each tensor, whether a chunk of it holds differences to its base.
    private(set) var holdsDifferences: [Bool]

    init(plan: Plan, sink: any ByteSink, isCancelled: @escaping @Sendable () -> Bool) {
        self.plan = plan
        self.sink = sink
        self.isCancelled = isCancelled
        holdsDifferences = plan.tensors.map { _ in false }
    }

    /// What a chunk is made in, and the next one after it.
    private struct Workspace {
        let encoder = ChunkEncoder()
        var made: (header: ChunkHeader, checksum: UInt32)?
    }

    func execute(threads: Int) throws {
        try ThreadPool.runInOrder(plan.pieces.count, threads: threads) {
            Workspace()
        } make: { [self] number, workspace in
            guard !isCancelled() else { throw CancellationError() }
            workspace.made = try encode(plan.pieces[number], workspace.encoder)
        } hand: { [self] number, workspace in
            guard let made = workspace.made else { return }
            try write(workspace.encoder, header: made.header, checksum: made.checksum, of: plan.pieces[number])
        }
    }

    private func encode(_ piece: Piece, _ encoder: ChunkEncoder) throws -> (header: ChunkHeader, checksum: UInt32)? {
        let tensor = plan.tensors[piece.tensor]
        let descriptor = piece.index == 0 ? plan.descriptors[piece.tensor] : []
        let (layout, number) = (PlaneLayout(tensor.dtype), plan.firstTensor + piece.tensor)
        var made: (header: ChunkHeader, checksum: UInt32)?
        try tensor.bytes.withBytes(in: piece.range) { raw in
            guard let base = tensor.base?.bytes else {
                made = encoder.encode(raw, layout: layout, tensorIndex: number, index: piece.index, descriptor: descriptor)
                return
            }
            try base.withBytes(in: piece.range) { base in
                made = encoder.encode(raw, base: base, layout: layout, tensorIndex: number, index: piece.index, descriptor: descriptor)
            }
        }
        return made
    }

    private func write(_ chunk: ChunkEncoder, header: ChunkHeader, checksum: UInt32, of piece: Piece) throws {
        ChunkRecord(
            offset: sink.position, storedLength: header.storedLength, rawLength: header.rawLength, tensorIndex: header.tensorIndex,
            checksum: checksum, rawChecksum: header.rawChecksum, codec: header.layout.codec, width: UInt8(header.layout.width)
        ).encode(into: &table)
        if header.layout.arrangement == .difference { holdsDifferences[piece.tensor] = true }
        try chunk.forEachPart { try sink.write($0) }
        plan.tensors[piece.tensor].bytes.release(piece.range)
        plan.tensors[piece.tensor].base?.bytes.release(piece.range)
    }
}
