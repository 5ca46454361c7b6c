internal import FileIO
internal import Hashing
internal import Kernels
internal import Methods
internal import Safetensors
internal import Synchronization
internal import Tensors
internal import Weights

/// The making of one shard: pieces are computed side by side and written one after the other.
final class ShardRun: @unchecked Sendable {
    // Sound: `writer`, `sums`, `written` and what has changed are touched only by the worker whose turn it is, and by the caller
    // after all workers have ended.
    let jobs: [TensorJob]
    private let writer: SafetensorsWriter
    private let output: String
    let options: MergePlan.RunOptions
    private let pieces: [Piece]
    private var written: Int
    private let total: Int
    /// By the jobs' numbers.
    let columnRatios = Mutex<[Int: [Double]]>([:])
    private let ready = Mutex<[ReadyUpdates]>([])
    private(set) var sums: [ModulePath: MergeSums] = [:]
    /// The numbers of the jobs, and the modules, of which a byte is not the base's.
    private(set) var changedJobs: Set<Int> = []
    private(set) var changedModules: Set<ModulePath> = []
    /// The SHA-256 of each tensor, if they are asked for.
    private(set) var hashes: [String: String] = [:]
    private var digest = SHA256Digest()
    /// The number of pieces of each job that are not written yet.
    private var piecesLeft: [Int]

    /// A part of a tensor that one worker makes in one go.
    private struct Piece {
        let job: Int
        /// Rows of the tensor seen as a matrix; for a copy its bytes, for a conversion its elements.
        let range: Range<Int>
        let work: Work
    }

    private enum Work {
        case copy
        case convert
        /// Rows whose values an adapter may bring.
        case assemble
        /// The numbers of the updates that meet the rows.
        case merge([Int])
    }

    init(jobs: [TensorJob], writer: SafetensorsWriter, output: String, options: MergePlan.RunOptions, done: Int, total: Int) {
        self.jobs = jobs
        self.output = output
        self.writer = writer
        self.options = options
        self.written = done
        self.total = total
        pieces = jobs.indices.flatMap { Self.pieces(of: jobs[$0], number: $0) }
        piecesLeft = jobs.map { _ in 0 }
        for piece in pieces { piecesLeft[piece.job] += 1 }
        if options.hashesTensors {
            for job in jobs where job.elementCount == 0 { hashes[job.tensor.name] = SHA256Digest().finishHex() }
        }
    }

    private static func pieces(of job: TensorJob, number: Int) -> [Piece] {
        var pieces: [Piece] = []
        func add(_ range: Range<Int>, _ step: Int, _ work: Work) {
            for start in stride(from: range.lowerBound, to: range.upperBound, by: step) {
                pieces.append(Piece(job: number, range: start..<min(start + step, range.upperBound), work: work))
            }
        }
        /// Elements that no adapter touches.
        func addUntouched(_ elements: Range<Int>) {
            let width = job.source.dtype.bitWidth
            if job.keepsType {
                add(elements.lowerBound * width / 8..<(elements.upperBound * width + 7) / 8, 2 * MergePlan.pieceBytes, .copy)
            } else {
                // Rows that are decoded come whole.
                let width = job.source.isPlain ? 1 : max(1, job.source.shape.last ?? 1)
                add(elements, max(width, MergePlan.pieceBytes / 4 / width * width), .convert)
            }
        }
        let columns = job.columns
        // As many rows as the kernel computes at once, or a multiple; the last piece of a matrix takes what is left.
        let step = max(12, MergePlan.pieceBytes / max(1, columns * job.dtype.bitWidth / 8) / 12 * 12)
        if job.elementCount == 0 { return [] }
        if !job.tensor.rows.isEmpty {
            add(0..<job.elementCount / columns, step, .assemble)
            return pieces
        }
        for (rows, updates) in job.runs {
            if updates.isEmpty {
                addUntouched(rows.lowerBound * columns..<rows.upperBound * columns)
            } else {
                add(rows, step, .merge(updates))
            }
        }
        return pieces
    }

    func execute() throws {
        try ThreadPool.runInOrder(pieces.count, threads: options.threads) {
            Workspace()
        } make: { [self] number, workspace in
            guard !options.isCancelled() else { throw MergeError.interrupted(output) }
            workspace.sums = try make(pieces[number], &workspace)
            workspace.isChanged = isChanged(pieces[number], workspace)
        } hand: { [self] number, workspace in
            let piece = pieces[number]
            try write(piece, workspace.buffer)
            if workspace.isChanged { changedJobs.insert(piece.job) }
            if case .merge(let updates) = piece.work {
                for module in Set(updates.map({ jobs[piece.job].updates[$0].module })) {
                    sums[module, default: MergeSums()].add(workspace.sums)
                    if workspace.isChanged { changedModules.insert(module) }
                }
            }
            options.progress?(written, total)
        }
    }

    /// What a piece is made in, and the next one after it.
    struct Workspace {
        /// The bytes of the base that the piece is made from.
        var source: [UInt8] = []
        var buffer: [UInt8] = []
        /// The sums of a weight and its update in binary64, where a magnitude scales them.
        var wide: [Double] = []
        var sums = MergeSums()
        /// Whether the piece is not what the base has there, byte for byte.
        var isChanged = false
    }

    /// Where the base's bytes are in the cache they are compared there: most pieces differ in their first elements.
    private func isChanged(_ piece: Piece, _ workspace: Workspace) -> Bool {
        let job = jobs[piece.job]
        guard let original = job.original else { return true }
        let (start, count) = bytes(of: piece)
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let buffer = workspace.buffer
        let result = unsafe buffer.span.bytes.extracting(0..<count)
        switch piece.work {
        case .copy where job.tensor.isOfBase: return false
        case .merge where job.tensor.isOfBase:
            let source = workspace.source
            let before = unsafe source.span.bytes.extracting(0..<count)
            return !ElementComparison.areEqual(result, before)
        case .assemble where job.tensor.isOfBase:
            let size = job.columns * job.dtype.bitWidth / 8
            for row in piece.range where job.tensor.rows[row] != nil {
                let first = (row - piece.range.lowerBound) * size
                if differs(result.extracting(first..<first + size), from: original, at: start + first) { return true }
            }
            return false
        default: return differs(result, from: original, at: start)
        }
    }

    private func differs(_ bytes: RawSpan, from original: StoredWeight, at start: Int) -> Bool {
        // Only a plain tensor is the original of anything.
        guard let all = original.plainRange else { return true }
        let first = all.lowerBound + start
        let range = first..<first + bytes.byteCount
        let file = original.file
        let areEqual = ElementComparison.areEqual(bytes, file.bytes(in: range))
        file.release(range)
        return !areEqual
    }

    /// Where the bytes of a piece begin in its tensor, and how many they are.
    private func bytes(of piece: Piece) -> (start: Int, count: Int) {
        let job = jobs[piece.job]
        let width =
            switch piece.work {
            case .copy: 1
            case .convert: job.dtype.bitWidth / 8
            case .merge, .assemble: job.columns * job.dtype.bitWidth / 8
            }
        return (piece.range.lowerBound * width, piece.range.count * width)
    }

    /// Computes the piece.
    private func make(_ piece: Piece, _ workspace: inout Workspace) throws -> MergeSums {
        let job = jobs[piece.job]
        switch piece.work {
        case .copy:
            try job.source.read(bytes: piece.range, into: &workspace.buffer)
        case .convert:
            let result = try compute(job, rows: 0..<1, columns: piece.range.count, start: piece.range.lowerBound, factors: [], &workspace)
            if result.isNotFinite { try checkConversion(job.source, piece.range, to: job.dtype, workspace.buffer) }
        case .assemble:
            try assemble(job, piece.range, &workspace)
        case .merge(let updates):
            return try mergeRows(piece.job, piece.range, updates, &workspace)
        }
        return MergeSums()
    }

    /// The updates of some rows of a tensor, as they are computed.
    private struct ReadyUpdates {
        let job: Int
        let updates: [Int]
        let ready: [ReadyUpdate]
    }

    /// The updates of the rows of a piece. The first worker that needs them makes them; they are kept while others may be at the
    /// same rows or at those before.
    private func ready(_ number: Int, _ updates: [Int]) throws -> [ReadyUpdate] {
        try ready.withLock { ready in
            if let known = ready.first(where: { $0.job == number && $0.updates == updates }) { return known.ready }
            let made = try updates.map { try jobs[number].updates[$0].ready() }
            ready.append(ReadyUpdates(job: number, updates: updates, ready: made))
            if ready.count > options.threads + 1 { ready.removeFirst() }
            return made
        }
    }

    private func mergeRows(_ number: Int, _ rows: Range<Int>, _ updates: [Int], _ workspace: inout Workspace) throws -> MergeSums {
        let job = jobs[number]
        let columns = job.columns
        let start = rows.lowerBound * columns
        let ready = try ready(number, updates)
        let scaled = updates.lazy.map { job.updates[$0] }.first { $0.magnitude != nil }
        let sums: MergeSums
        if scaled == nil, let factors = ready.kernels {
            sums = try compute(job, rows: rows, columns: columns, start: start, factors: factors, &workspace)
        } else {
            let magnitude = scaled.flatMap { update in update.magnitude.map { ($0, update.rows.lowerBound) } }
            sums = try mergeWideRows(number, rows, ready, magnitude: magnitude, &workspace)
        }
        guard !sums.isNotFinite else { throw fault(job, start: start, count: rows.count * columns, workspace.buffer) }
        return sums
    }

    /// Fills the workspace's buffer with the merged rows, the first of which begins at element `start` of the tensor.
    func compute(
        _ job: TensorJob, rows: Range<Int>, columns: Int, start: Int, factors: [MergeFactors], _ workspace: inout Workspace
    ) throws -> MergeSums {
        let count = rows.count * columns
        try readElements(start..<start + count, of: job.source, into: &workspace.source)
        Self.grow(&workspace.buffer, to: count * job.dtype.bitWidth / 8)
        let source = workspace.source
        // Sound: every bit pattern of a byte may be read and written.
        let weights = unsafe source.span.bytes.extracting(0..<count * job.source.dtype.bitWidth / 8)
        var span = workspace.buffer.mutableSpan
        var target = unsafe span.mutableBytes
        return MergeKernel.mergeRows(
            weights: weights, weightType: job.source.dtype, into: &target, mergedType: job.dtype, rows: rows, columns: columns, factors: factors,
            path: options.path)
    }

    static func grow(_ buffer: inout [UInt8], to size: Int) {
        if buffer.count < size { buffer = [UInt8](repeating: 0, count: size) }
    }

    func readElements(_ elements: Range<Int>, of weight: StoredWeight, into buffer: inout [UInt8]) throws(FileError) {
        try weight.read(bytes: weight.bytes(of: elements), into: &buffer)
    }

    // MARK: Rows of adapters

    /// Rows of the source, those excepted that an adapter brings.
    private func assemble(_ job: TensorJob, _ rows: Range<Int>, _ workspace: inout Workspace) throws {
        let columns = job.columns
        let elements = rows.lowerBound * columns..<rows.upperBound * columns
        if job.keepsType {
            try readElements(elements, of: job.source, into: &workspace.buffer)
        } else {
            let result = try compute(job, rows: 0..<1, columns: elements.count, start: elements.lowerBound, factors: [], &workspace)
            if result.isNotFinite { try checkConversion(job.source, elements, to: job.dtype, workspace.buffer) }
        }
        let size = columns * job.dtype.bitWidth / 8
        for row in rows {
            guard let replacement = job.tensor.rows[row] else { continue }
            let elements = replacement.row * columns..<(replacement.row + 1) * columns
            try readElements(elements, of: replacement.values, into: &workspace.source)
            let first = (row - rows.lowerBound) * size
            // Sound: every bit pattern of a byte may be read and written.
            let source = workspace.source
            let values = unsafe source.span.bytes.extracting(0..<columns * replacement.values.dtype.bitWidth / 8)
            var span = workspace.buffer.mutableSpan
            var bytes = unsafe span.mutableBytes
            var target = bytes._mutatingExtracting(first..<first + size)
            let sums = MergeKernel.mergeRows(
                weights: values, weightType: replacement.values.dtype, into: &target, mergedType: job.dtype, rows: 0..<1, columns: columns,
                factors: [], path: options.path)
            if sums.isNotFinite { try checkConversion(replacement.values, elements, to: job.dtype, Array(workspace.buffer[first..<first + size])) }
        }
    }

    // MARK: Writing

    private func write(_ piece: Piece, _ buffer: [UInt8]) throws {
        let size = bytes(of: piece).count
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let bytes = unsafe buffer.span.bytes.extracting(0..<size)
        try writer.write(bytes)
        if options.hashesTensors { hash(bytes, of: piece.job) }
        written += size
    }

    private func hash(_ bytes: RawSpan, of job: Int) {
        digest.update(bytes)
        piecesLeft[job] -= 1
        guard piecesLeft[job] == 0 else { return }
        var finished = SHA256Digest()
        swap(&finished, &digest)
        hashes[jobs[job].tensor.name] = finished.finishHex()
    }
}
