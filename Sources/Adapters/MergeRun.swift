internal import FileIO
internal import Hashing
internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Synchronization
internal import Tensors

extension MergePlan {
    /// How a merge is carried out; nothing here changes a byte of the weights.
    public struct RunOptions: Sendable {
        public var threads: Int
        /// Whether a folder that is there may be replaced.
        public var isReplacing: Bool
        /// Whether to wait until the disk holds the folder.
        public var isDurable: Bool
        /// Asked before each block of rows; true stops the merge and leaves nothing.
        public var isCancelled: @Sendable () -> Bool
        /// Told the bytes written so far and the bytes in all.
        public var progress: (@Sendable (_ done: Int, _ total: Int) -> Void)?

        public init(
            threads: Int = 1, isReplacing: Bool = false, isDurable: Bool = true, isCancelled: @escaping @Sendable () -> Bool = { false },
            progress: (@Sendable (_ done: Int, _ total: Int) -> Void)? = nil
        ) {
            self.threads = threads
            self.isReplacing = isReplacing
            self.isDurable = isDurable
            self.isCancelled = isCancelled
            self.progress = progress
        }
    }

    /// Makes the merged model folder, which appears under its name only when it is whole.
    ///
    /// Shards are named and split as the base's, tensors in the base's order. The other files of a model folder come along;
    /// weights in other formats, training states and adapter files do not. Memory stays within the mapped pages of a few
    /// blocks of rows and the factors.
    ///
    /// - Returns: the same report and the same bytes, whatever the number of threads.
    /// - Throws: `MergeError` (`.interrupted` when cancelled, `.baseNotFinite`, `.overflow`), `SafetensorsError` or
    ///   `FileError`; the output is then as it was before.
    public func run(to output: String, options: RunOptions = RunOptions()) throws -> MergeReport {
        for input in [base.path, FileSystem.isFolder(base.path) ? base.path : FileSystem.parent(of: base.path)] + adapters.map(\.adapter.path)
        where FileSystem.areSame(output, input) {
            throw MergeError(.outputIsInput, path: output, "the output is one of the inputs; choose another name")
        }
        let folder = try AtomicFolder(path: output, replacing: options.isReplacing)
        let total = byteCount
        var done = 0
        var bytes = 0
        var sums: [String: MergeSums] = [:]
        let files = try folder.fill {
            for shard in base.shards {
                let shardJobs = jobs.filter { $0.location.file === shard }
                let writer = try SafetensorsWriter(
                    path: folder.path(of: FileSystem.lastComponent(shard.path)),
                    entries: shardJobs.map { .init(name: $0.info.name, dtype: $0.dtype, shape: $0.info.shape) },
                    metadata: Dictionary(uniqueKeysWithValues: shard.metadata.map { ($0.key, $0.value) }), replacing: false, keepsOrder: true)
                let run = ShardRun(jobs: shardJobs, writer: writer, output: output, options: options, done: done, total: total)
                try run.execute()
                try writer.publish(durable: options.isDurable)
                for (job, sum) in zip(shardJobs, run.sums) where !job.named.isEmpty { sums[job.info.name] = sum }
                done += shardJobs.reduce(0) { $0 + $1.outputByteCount }
                bytes += writer.order.last?.byteRange.upperBound ?? 0
            }
            return try writeOtherFiles(in: folder, options: options)
        }
        if options.isCancelled() { throw MergeError.interrupted(output) }
        try folder.publish(durable: options.isDurable)
        let modules = jobs.filter { !$0.named.isEmpty }.map { job in
            let sum = sums[job.info.name] ?? MergeSums()
            return MergeReport.Module(
                path: job.named[0].module.path, scales: job.named.map(\.scale),
                survival: sum.updateSquared > 0 ? sum.updateTimesChange / sum.updateSquared : nil)
        }
        return MergeReport(
            modules: modules.sorted { $0.path < $1.path }, tensorsChanged: jobs.count { !$0.isCopied },
            tensorsCopied: jobs.count { $0.isCopied }, bytes: bytes, filesCopied: files.copied, filesLeftOut: files.leftOut)
    }

    /// The index, the configuration, the receipt, and the files that are copied.
    private func writeOtherFiles(in folder: AtomicFolder, options: RunOptions) throws -> (copied: [String], leftOut: [String]) {
        func write(_ value: JSONValue, _ name: String) throws {
            let file = try AtomicFile(path: folder.path(of: name), replacing: false)
            try file.write(Array(value.serialized(pretty: true).utf8))
            try file.publish(durable: options.isDurable)
        }
        try write(receipt, ModelFolder.receiptName)
        guard FileSystem.isFolder(base.path) else { return ([], []) }
        if let index = base.index {
            let source = FileSystem.join(base.path, WeightFiles.indexName)
            if index["metadata"]?["total_size"]?.integerValue == byteCount {
                try ModelFolder.copy(source, to: folder.path(of: WeightFiles.indexName), isDurable: options.isDurable)
            } else {
                var members = index.objectValue ?? [:]
                var metadata = members["metadata"]?.objectValue ?? [:]
                metadata["total_size"] = .integer(byteCount)
                members["metadata"] = .object(metadata)
                try write(.object(members), WeightFiles.indexName)
            }
        }
        let others = try ModelFolder(path: base.path)
        var made: Set<String> = []
        for name in others.copied {
            var parents: [String] = []
            for component in name.split(separator: "/").dropLast() {
                parents.append(String(component))
                let parent = parents.joined(separator: "/")
                if made.insert(parent).inserted { try FileSystem.createFolder(folder.path(of: parent)) }
            }
            if name == Self.configurationName, let configuration {
                try write(configuration, name)
            } else {
                try ModelFolder.copy(FileSystem.join(base.path, name), to: folder.path(of: name), isDurable: options.isDurable)
            }
        }
        let shards = Set(base.shards.map { FileSystem.lastComponent($0.path) } + [WeightFiles.indexName])
        return (others.copied, others.leftOut.filter { !shards.contains($0) })
    }

    /// What was merged into what, without times and places, so that the same merge gives the same bytes.
    private var receipt: JSONValue {
        [
            "schema": "oplora.merge-receipt/1",
            "base": .string(FileSystem.lastComponent(base.path)),
            "dtype": dtype.map { .string($0.rawValue) } ?? "keep",
            "adapters": .array(
                adapters.map { item in
                    let hash = item.adapter.weightsPath.flatMap { try? MappedFile(path: $0) }.map { SHA256Digest.hex(of: $0.bytes) }
                    return [
                        "name": .string(FileSystem.lastComponent(item.adapter.path)), "weight": .real(item.weight),
                        "sha256": hash.map { .string($0) } ?? .null,
                        "modules": .array(
                            item.adapter.modules.map { module in
                                [
                                    "module": .string(module.path.text), "rank": .integer(module.rank),
                                    "scale": .real(module.scale * item.weight),
                                ]
                            }),
                    ]
                }),
        ]
    }
}

extension MergeError {
    static func interrupted(_ path: String) -> MergeError {
        MergeError(.interrupted, path: path, "the merge was interrupted; nothing was published")
    }
}

/// The making of one shard: pieces are computed side by side and written one after the other.
private final class ShardRun: @unchecked Sendable {
    // Sound: `writer`, `sums` and `written` are touched only by the worker whose turn it is, and by the caller
    // after all workers have ended.
    private let jobs: [TensorJob]
    private let writer: SafetensorsWriter
    private let output: String
    private let options: MergePlan.RunOptions
    private let pieces: [Piece]
    private var written: Int
    private let total: Int
    /// One for each job.
    private(set) var sums: [MergeSums]

    /// A part of a tensor that one worker makes in one go.
    private struct Piece {
        let job: Int
        let work: Work
    }

    private enum Work {
        /// Bytes of the tensor, counted from its start.
        case copy(Range<Int>)
        /// Rows of the weight.
        case merge(Range<Int>)
        /// Elements of the tensor.
        case convert(Range<Int>)
    }

    /// About as many bytes as a piece gives; small enough for the caches to help, large enough for few system calls.
    private static let pieceBytes = 1 << 20

    init(jobs: [TensorJob], writer: SafetensorsWriter, output: String, options: MergePlan.RunOptions, done: Int, total: Int) {
        self.jobs = jobs
        self.output = output
        self.writer = writer
        self.options = options
        self.written = done
        self.total = total
        sums = Array(repeating: MergeSums(), count: jobs.count)
        var pieces: [Piece] = []
        for (number, job) in jobs.enumerated() {
            func add(_ count: Int, _ step: Int, _ work: (Range<Int>) -> Work) {
                for start in stride(from: 0, to: count, by: step) {
                    pieces.append(Piece(job: number, work: work(start..<min(start + step, count))))
                }
            }
            if job.isCopied {
                add(job.info.byteCount, 4 * Self.pieceBytes) { .copy($0) }
            } else if job.parts.isEmpty {
                add(job.info.elementCount, Self.pieceBytes / 4) { .convert($0) }
            } else {
                let rowBytes = max(1, job.outputByteCount / job.info.shape[0])
                // Whole tiles of the kernel, the last piece of a matrix excepted.
                add(job.info.shape[0], max(6, Self.pieceBytes / rowBytes / 48 * 48)) { .merge($0) }
            }
        }
        self.pieces = pieces
    }

    func execute() throws {
        try ThreadPool.runInOrder(pieces.count, threads: options.threads) {
            Workspace()
        } make: { [self] number, workspace in
            guard !options.isCancelled() else { throw MergeError.interrupted(output) }
            workspace.sums = try make(pieces[number], &workspace.recent, into: &workspace.buffer)
        } hand: { [self] number, workspace in
            let piece = pieces[number]
            try write(piece, workspace.buffer)
            sums[piece.job].updateSquared += workspace.sums.updateSquared
            sums[piece.job].updateTimesChange += workspace.sums.updateTimesChange
            options.progress?(written, total)
        }
    }

    /// What a piece is made in, and the next one after it.
    private struct Workspace {
        var buffer: [UInt8] = []
        var recent = RecentFactors()
        var sums = MergeSums()
    }

    /// Computes the piece; a copy needs no computing.
    private func make(_ piece: Piece, _ recent: inout RecentFactors, into buffer: inout [UInt8]) throws -> MergeSums {
        let job = jobs[piece.job]
        switch piece.work {
        case .copy: return MergeSums()
        case .merge(let rows): return try mergeRows(piece.job, rows, &recent, into: &buffer)
        case .convert(let elements):
            let result = compute(job, rows: 0..<1, columns: elements.count, start: elements.lowerBound, factors: [], into: &buffer)
            if result.isNotFinite { try checkConversion(job, elements, buffer) }
            return MergeSums()
        }
    }

    /// The factors of the tensor that was at work last, where there was no room to keep those of all tensors.
    private struct RecentFactors {
        var job = -1
        var factors: [MergeFactors] = []
    }

    private func mergeRows(_ number: Int, _ rows: Range<Int>, _ recent: inout RecentFactors, into buffer: inout [UInt8]) throws -> MergeSums {
        let job = jobs[number]
        let columns = job.info.shape[1]
        if job.keptFactors == nil, recent.job != number {
            recent = RecentFactors(job: number, factors: try job.parts.map { part throws(MergeError) in try part.factors() })
        }
        let factors = job.keptFactors ?? recent.factors
        let sums = compute(job, rows: rows, columns: columns, start: rows.lowerBound * columns, factors: factors, into: &buffer)
        guard !sums.isNotFinite else { throw fault(job, start: rows.lowerBound * columns, count: rows.count * columns, buffer) }
        return sums
    }

    /// Fills `buffer` with the merged rows, the first of which begins at element `start` of the tensor.
    private func compute(
        _ job: TensorJob, rows: Range<Int>, columns: Int, start: Int, factors: [MergeFactors], into buffer: inout [UInt8]
    ) -> MergeSums {
        let count = rows.count * columns
        let size = count * job.dtype.bitWidth / 8
        if buffer.count < size { buffer = [UInt8](repeating: 0, count: size) }
        var span = buffer.mutableSpan
        // Sound: every bit pattern of a byte may be written.
        var target = unsafe span.mutableBytes
        let file = job.location.file.file
        let range = sourceRange(job, start..<start + count)
        let sums = MergeKernel.mergeRows(
            weights: file.bytes(in: range), weightType: job.info.dtype, into: &target, mergedType: job.dtype, rows: rows, columns: columns,
            factors: factors)
        file.release(range)
        return sums
    }

    private func write(_ piece: Piece, _ buffer: [UInt8]) throws {
        let job = jobs[piece.job]
        let size: Int
        switch piece.work {
        case .copy(let bytes):
            size = bytes.count
            let file = job.location.file.file
            let range = job.info.byteRange.lowerBound + bytes.lowerBound..<job.info.byteRange.lowerBound + bytes.upperBound
            try writer.write(file.bytes(in: range))
            file.release(range)
        case .merge(let rows):
            size = rows.count * job.info.shape[1] * job.dtype.bitWidth / 8
        case .convert(let elements):
            size = elements.count * job.dtype.bitWidth / 8
        }
        if case .copy = piece.work {
        } else {
            // Sound: every bit pattern of a byte may be read as a raw byte.
            try writer.write(unsafe buffer.span.bytes.extracting(0..<size))
        }
        written += size
    }

    /// Where elements of a tensor lie in its file.
    private func sourceRange(_ job: TensorJob, _ elements: Range<Int>) -> Range<Int> {
        let width = job.info.dtype.bitWidth / 8
        let start = job.info.byteRange.lowerBound
        return start + elements.lowerBound * width..<start + elements.upperBound * width
    }

    // MARK: Faults

    /// Why an element of the result is not finite: the base's own element, or the sum.
    private func fault(_ job: TensorJob, start: Int, count: Int, _ buffer: [UInt8]) -> MergeError {
        let file = job.location.file.file
        let weights = file.bytes(in: sourceRange(job, start..<start + count))
        let columns = job.info.shape.last ?? 1
        func place(_ index: Int) -> String { "[\((start + index) / columns),\((start + index) % columns)]" }
        if let index = (0..<count).first(where: { !Self.value(weights, job.info.dtype, $0).isFinite }) {
            return MergeError(
                .baseNotFinite, path: job.location.file.path, tensor: job.info.name,
                "element \(place(index)) of the base is infinite or no number, so the merge has no result")
        }
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let result = unsafe buffer.span.bytes
        let index = (0..<count).first { !Self.value(result, job.dtype, $0).isFinite } ?? 0
        return MergeError(
            .overflow, path: job.location.file.path, tensor: job.info.name,
            "element \(place(index)) becomes too large for \(job.dtype); choose a larger element type or a smaller weight")
    }

    /// A conversion may keep an infinity of the base, as masks hold them, but not make one, and no NaN passes.
    private func checkConversion(_ job: TensorJob, _ elements: Range<Int>, _ buffer: [UInt8]) throws(MergeError) {
        let file = job.location.file.file
        let weights = file.bytes(in: sourceRange(job, elements))
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let result = unsafe buffer.span.bytes
        for index in 0..<elements.count {
            let before = Self.value(weights, job.info.dtype, index)
            if before.isNaN {
                throw MergeError(
                    .baseNotFinite, path: job.location.file.path, tensor: job.info.name,
                    "element \(elements.lowerBound + index) of the base is no number and cannot be converted")
            }
            if before.isFinite, !Self.value(result, job.dtype, index).isFinite {
                throw MergeError(
                    .overflow, path: job.location.file.path, tensor: job.info.name,
                    "element \(elements.lowerBound + index) is too large for \(job.dtype); choose a larger element type")
            }
        }
    }

    private static func value(_ bytes: RawSpan, _ dtype: DType, _ index: Int) -> Double {
        // Sound: the element is there, and every bit pattern is a number.
        switch dtype {
        case .f64: Double(bitPattern: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 8 * index, as: UInt64.self))
        case .f32: Double(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 4 * index, as: Float.self))
        default: MergeReference.value(of: UInt64(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)), in: dtype)
        }
    }
}
