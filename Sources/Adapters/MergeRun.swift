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
        for input in [base.path, FileSystem.isFolder(base.path) ? base.path : FileSystem.parent(of: base.path)] + model.adapters.map(\.adapter.path)
        where FileSystem.areSame(output, input) {
            throw MergeError(.outputIsInput, path: output, "the output is one of the inputs; choose another name")
        }
        let folder = try AtomicFolder(path: output, replacing: options.isReplacing)
        let total = byteCount
        var done = 0
        var bytes = 0
        var sums: [ModulePath: MergeSums] = [:]
        let files = try folder.fill {
            for (number, shard) in base.shards.enumerated() {
                let shardJobs = jobs.filter { $0.tensor.shard == number }
                let writer = try SafetensorsWriter(
                    path: folder.path(of: FileSystem.lastComponent(shard.path)),
                    entries: shardJobs.map { .init(name: $0.tensor.name, dtype: $0.dtype, shape: $0.tensor.shape) },
                    metadata: Dictionary(uniqueKeysWithValues: shard.metadata.map { ($0.key, $0.value) }), replacing: false, keepsOrder: true)
                let run = ShardRun(jobs: shardJobs, writer: writer, output: output, options: options, done: done, total: total)
                try run.execute()
                try writer.publish(durable: options.isDurable)
                for (module, sum) in run.sums { sums[module, default: MergeSums()].add(sum) }
                done += shardJobs.reduce(0) { $0 + $1.outputByteCount }
                bytes += writer.order.last?.byteRange.upperBound ?? 0
            }
            return try writeOtherFiles(in: folder, options: options)
        }
        if options.isCancelled() { throw MergeError.interrupted(output) }
        try folder.publish(durable: options.isDurable)
        var scales: [ModulePath: [Double]] = [:]
        for item in model.adapters {
            for module in item.adapter.modules { scales[module.label, default: []].append(module.scale * item.weight) }
        }
        let modules = scales.keys.sorted().map { path in
            let sum = sums[path] ?? MergeSums()
            return MergeReport.Module(
                path: path, scales: scales[path] ?? [], survival: sum.updateSquared > 0 ? sum.updateTimesChange / sum.updateSquared : nil)
        }
        return MergeReport(
            modules: modules, tensorsChanged: jobs.count { !$0.isCopied || !$0.tensor.isOfBase },
            tensorsCopied: jobs.count { $0.isCopied && $0.tensor.isOfBase }, bytes: bytes, filesCopied: files.copied, filesLeftOut: files.leftOut,
            remarks: model.remarks)
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
            let added = jobs.filter { base.tensors[$0.tensor.name] == nil }
            if index["metadata"]?["total_size"]?.integerValue == byteCount, added.isEmpty {
                try ModelFolder.copy(source, to: folder.path(of: WeightFiles.indexName), isDurable: options.isDurable)
            } else {
                var members = index.objectValue ?? [:]
                var metadata = members["metadata"]?.objectValue ?? [:]
                metadata["total_size"] = .integer(byteCount)
                members["metadata"] = .object(metadata)
                var map = members["weight_map"]?.objectValue ?? [:]
                for job in added { map[job.tensor.name] = .string(FileSystem.lastComponent(base.shards[job.tensor.shard].path)) }
                members["weight_map"] = .object(map)
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
            if name == BaseModel.configurationName, let configuration {
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
                model.adapters.map { item in
                    let hash = item.adapter.weightsPath.flatMap { try? MappedFile(path: $0) }.map { SHA256Digest.hex(of: $0.bytes) }
                    return [
                        "name": .string(FileSystem.lastComponent(item.adapter.path)), "weight": .real(item.weight),
                        "sha256": hash.map { .string($0) } ?? .null,
                        "modules": .array(
                            item.adapter.modules.map { module in
                                [
                                    "module": .string(module.label.text), "rank": .integer(module.rank),
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
    /// By the jobs' numbers.
    private let columnRatios = Mutex<[Int: [Double]]>([:])
    private(set) var sums: [ModulePath: MergeSums] = [:]

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

    /// About as many bytes as a piece gives; small enough for the caches to help, large enough for few system calls.
    private static let pieceBytes = 1 << 20

    init(jobs: [TensorJob], writer: SafetensorsWriter, output: String, options: MergePlan.RunOptions, done: Int, total: Int) {
        self.jobs = jobs
        self.output = output
        self.writer = writer
        self.options = options
        self.written = done
        self.total = total
        pieces = jobs.indices.flatMap { Self.pieces(of: jobs[$0], number: $0) }
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
            let width = job.source.info.dtype.bitWidth
            if job.keepsType {
                add(elements.lowerBound * width / 8..<(elements.upperBound * width + 7) / 8, 4 * pieceBytes, .copy)
            } else {
                add(elements, pieceBytes / 4, .convert)
            }
        }
        let columns = job.columns
        // Whole tiles of the kernel, the last piece of a matrix excepted.
        let step = max(6, pieceBytes / max(1, columns * job.dtype.bitWidth / 8) / 48 * 48)
        if job.elementCount == 0 { return [] }
        if !job.tensor.rows.isEmpty {
            add(0..<job.elementCount / columns, step, .assemble)
            return pieces
        }
        // Each run of rows that the same updates meet; a stack of experts has one for each expert.
        var cuts = Set(job.updates.flatMap { [$0.rows.lowerBound, $0.rows.upperBound] })
        cuts.formUnion([0, job.elementCount / columns])
        let bounds = cuts.sorted()
        for (low, high) in zip(bounds, bounds.dropFirst()) {
            let updates = job.updates.indices.filter { job.updates[$0].rows.contains(low) }
            if updates.isEmpty {
                addUntouched(low * columns..<high * columns)
            } else {
                add(low..<high, step, .merge(updates))
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
        } hand: { [self] number, workspace in
            let piece = pieces[number]
            try write(piece, workspace.buffer)
            if case .merge(let updates) = piece.work {
                for module in Set(updates.map({ jobs[piece.job].updates[$0].module })) { sums[module, default: MergeSums()].add(workspace.sums) }
            }
            options.progress?(written, total)
        }
    }

    /// What a piece is made in, and the next one after it.
    private struct Workspace {
        var buffer: [UInt8] = []
        /// The sums of a weight and its update in binary64, where a magnitude scales them.
        var wide: [Double] = []
        var recent = RecentFactors()
        var sums = MergeSums()
    }

    /// Computes the piece; a copy needs no computing.
    private func make(_ piece: Piece, _ workspace: inout Workspace) throws -> MergeSums {
        let job = jobs[piece.job]
        switch piece.work {
        case .copy:
            break
        case .convert:
            let result = compute(job, rows: 0..<1, columns: piece.range.count, start: piece.range.lowerBound, factors: [], into: &workspace.buffer)
            if result.isNotFinite { try checkConversion(job.source, piece.range, to: job.dtype, workspace.buffer) }
        case .assemble:
            try assemble(job, piece.range, into: &workspace.buffer)
        case .merge(let updates):
            return try mergeRows(piece.job, piece.range, updates, &workspace)
        }
        return MergeSums()
    }

    /// The factors that were at work last, where there was no room to keep those of all tensors.
    private struct RecentFactors {
        var job = -1
        var updates: [Int] = []
        var factors: [MergeFactors] = []
    }

    private func factors(_ number: Int, _ updates: [Int], _ recent: inout RecentFactors) throws(MergeError) -> [MergeFactors] {
        let job = jobs[number]
        if let kept = job.keptFactors { return updates.map { kept[$0] } }
        if recent.job != number || recent.updates != updates {
            recent = RecentFactors(
                job: number, updates: updates, factors: try updates.map { update throws(MergeError) in try job.updates[update].factors() })
        }
        return recent.factors
    }

    private func mergeRows(_ number: Int, _ rows: Range<Int>, _ updates: [Int], _ workspace: inout Workspace) throws -> MergeSums {
        let job = jobs[number]
        let columns = job.columns
        let start = rows.lowerBound * columns
        let factors = try factors(number, updates, &workspace.recent)
        let sums: MergeSums
        if let update = updates.lazy.map({ job.updates[$0] }).first(where: { $0.magnitude != nil }) {
            sums = try scaleRows(number, rows, update, factors, &workspace)
        } else {
            sums = compute(job, rows: rows, columns: columns, start: start, factors: factors, into: &workspace.buffer)
        }
        guard !sums.isNotFinite else { throw fault(job, start: start, count: rows.count * columns, workspace.buffer) }
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
        let file = job.source.file.file
        let range = sourceRange(job.source.info, start..<start + count)
        let sums = MergeKernel.mergeRows(
            weights: file.bytes(in: range), weightType: job.source.info.dtype, into: &target, mergedType: job.dtype, rows: rows,
            columns: columns, factors: factors)
        file.release(range)
        return sums
    }

    // MARK: Magnitudes

    /// W + s·acc of some rows, in binary64.
    private func addUpdates(_ job: TensorJob, rows: Range<Int>, factors: [MergeFactors], into wide: inout [Double]) {
        let columns = job.columns
        let count = rows.count * columns
        if wide.count < count { wide = [Double](repeating: 0, count: count) }
        var span = wide.mutableSpan
        // Sound: every bit pattern of a number may be written as raw bytes.
        var target = unsafe span.mutableBytes
        let file = job.source.file.file
        let range = sourceRange(job.source.info, rows.lowerBound * columns..<rows.upperBound * columns)
        _ = MergeKernel.mergeRows(
            weights: file.bytes(in: range), weightType: job.source.info.dtype, into: &target, mergedType: .f64, rows: rows,
            columns: columns, factors: factors)
    }

    private func scaleRows(
        _ number: Int, _ rows: Range<Int>, _ update: TensorUpdate, _ factors: [MergeFactors], _ workspace: inout Workspace
    ) throws -> MergeSums {
        let job = jobs[number]
        let columns = job.columns
        let size = rows.count * columns * job.dtype.bitWidth / 8
        if workspace.buffer.count < size { workspace.buffer = [UInt8](repeating: 0, count: size) }
        let range = sourceRange(job.source.info, rows.lowerBound * columns..<rows.upperBound * columns)
        let file = job.source.file.file
        defer { file.release(range) }
        let weights = file.bytes(in: range)
        var ratios: [Double] = []
        var magnitudes: [Double] = []
        switch update.magnitude {
        case .ofColumns(let values)?: ratios = try self.ratios(number, magnitudes: values, factors, &workspace.wide)
        case .ofRows(let values)?:
            magnitudes = Array(values.doubles()[rows.lowerBound - update.rows.lowerBound..<rows.upperBound - update.rows.lowerBound])
        case nil: preconditionFailure("the update has no magnitude")
        }
        addUpdates(job, rows: rows, factors: factors, into: &workspace.wide)
        let wide = workspace.wide
        var span = workspace.buffer.mutableSpan
        // Sound: every bit pattern of a byte may be written.
        var target = unsafe span.mutableBytes
        if magnitudes.isEmpty {
            return MagnitudeKernel.scaleColumns(
                wide, by: ratios.span, weights: weights, weightType: job.source.info.dtype, into: &target, mergedType: job.dtype,
                rows: rows.count)
        }
        return MagnitudeKernel.scaleRows(
            wide, to: magnitudes.span, weights: weights, weightType: job.source.info.dtype, into: &target, mergedType: job.dtype,
            columns: columns)
    }

    /// m/‖u‖ of the columns of a weight. The first worker that needs them computes them over all rows; the others wait.
    private func ratios(_ number: Int, magnitudes: FactorMatrix, _ factors: [MergeFactors], _ wide: inout [Double]) throws -> [Double] {
        let job = jobs[number]
        let columns = job.columns
        var spare = wide
        let ratios = columnRatios.withLock { known in
            if let ratios = known[number] { return ratios }
            var lanes = [Double](repeating: 0, count: 8 * columns)
            let step = max(1, Self.pieceBytes / 8 / columns)
            for start in stride(from: 0, to: job.elementCount / columns, by: step) {
                let rows = start..<min(start + step, job.elementCount / columns)
                addUpdates(job, rows: rows, factors: factors, into: &spare)
                MagnitudeKernel.addSquares(of: spare, rows: rows, columns: columns, to: &lanes)
            }
            let ratios = MagnitudeKernel.columnRatios(lanes: lanes, magnitudes: magnitudes.doubles())
            known[number] = ratios
            return ratios
        }
        wide = spare
        return ratios
    }

    // MARK: Rows of adapters

    /// Rows of the source, those excepted that an adapter brings.
    private func assemble(_ job: TensorJob, _ rows: Range<Int>, into buffer: inout [UInt8]) throws {
        let columns = job.columns
        let elements = rows.lowerBound * columns..<rows.upperBound * columns
        if job.keepsType {
            let file = job.source.file.file
            let range = sourceRange(job.source.info, elements)
            // Sound: the bytes are copied before the call returns.
            buffer = unsafe file.bytes(in: range).withUnsafeBytes { unsafe Array($0) }
            file.release(range)
        } else {
            let result = compute(job, rows: 0..<1, columns: elements.count, start: elements.lowerBound, factors: [], into: &buffer)
            if result.isNotFinite { try checkConversion(job.source, elements, to: job.dtype, buffer) }
        }
        let size = columns * job.dtype.bitWidth / 8
        for row in rows {
            guard let source = job.tensor.rows[row] else { continue }
            let elements = source.row * columns..<(source.row + 1) * columns
            let range = sourceRange(source.values.info, elements)
            let file = source.values.file.file
            let values = file.bytes(in: range)
            let first = (row - rows.lowerBound) * size
            var span = buffer.mutableSpan
            // Sound: every bit pattern of a byte may be written.
            var bytes = unsafe span.mutableBytes
            var target = bytes._mutatingExtracting(first..<first + size)
            let sums = MergeKernel.mergeRows(
                weights: values, weightType: source.values.info.dtype, into: &target, mergedType: job.dtype, rows: 0..<1, columns: columns,
                factors: [])
            if sums.isNotFinite { try checkConversion(source.values, elements, to: job.dtype, Array(buffer[first..<first + size])) }
        }
    }

    // MARK: Writing

    private func write(_ piece: Piece, _ buffer: [UInt8]) throws {
        let job = jobs[piece.job]
        let size: Int
        switch piece.work {
        case .copy:
            size = piece.range.count
            let start = job.source.info.byteRange.lowerBound
            let range = start + piece.range.lowerBound..<start + piece.range.upperBound
            let file = job.source.file.file
            try writer.write(file.bytes(in: range))
            file.release(range)
        case .convert, .merge, .assemble:
            let elements = if case .convert = piece.work { piece.range.count } else { piece.range.count * job.columns }
            size = elements * job.dtype.bitWidth / 8
            // Sound: every bit pattern of a byte may be read as a raw byte.
            try writer.write(unsafe buffer.span.bytes.extracting(0..<size))
        }
        written += size
    }

    /// Where elements of a tensor lie in its file.
    private func sourceRange(_ info: TensorInfo, _ elements: Range<Int>) -> Range<Int> {
        let width = info.dtype.bitWidth / 8
        let start = info.byteRange.lowerBound
        return start + elements.lowerBound * width..<start + elements.upperBound * width
    }

    // MARK: Faults

    /// Why an element of the result is not finite: the base's own element, or the sum.
    private func fault(_ job: TensorJob, start: Int, count: Int, _ buffer: [UInt8]) -> MergeError {
        let info = job.source.info
        let path = job.source.file.path
        let file = job.source.file.file
        let weights = file.bytes(in: sourceRange(info, start..<start + count))
        func place(_ index: Int) -> String { "[\((start + index) / job.columns),\((start + index) % job.columns)]" }
        if let index = (0..<count).first(where: { !Self.value(weights, info.dtype, $0).isFinite }) {
            return MergeError(
                .baseNotFinite, path: path, tensor: job.tensor.name,
                "element \(place(index)) of the base is infinite or no number, so the merge has no result")
        }
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let result = unsafe buffer.span.bytes
        let index = (0..<count).first { !Self.value(result, job.dtype, $0).isFinite } ?? 0
        let isScaled = job.updates.contains { $0.magnitude != nil }
        return MergeError(
            .overflow, path: path, tensor: job.tensor.name,
            isScaled
                ? "element \(place(index)) becomes infinite or no number, because a magnitude is not finite, or the norm that it takes the place of is zero"
                : "element \(place(index)) becomes too large for \(job.dtype); choose a larger element type or a smaller weight")
    }

    /// A conversion may keep an infinity of the base, as masks hold them, but not make one, and no NaN passes.
    private func checkConversion(_ source: WeightFiles.Location, _ elements: Range<Int>, to dtype: DType, _ buffer: [UInt8]) throws(MergeError) {
        let file = source.file.file
        let weights = file.bytes(in: sourceRange(source.info, elements))
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let result = unsafe buffer.span.bytes
        for index in 0..<elements.count {
            let before = Self.value(weights, source.info.dtype, index)
            if before.isNaN {
                throw MergeError(
                    .baseNotFinite, path: source.file.path, tensor: source.info.name,
                    "element \(elements.lowerBound + index) is no number and cannot be converted")
            }
            if before.isFinite, !Self.value(result, dtype, index).isFinite {
                throw MergeError(
                    .overflow, path: source.file.path, tensor: source.info.name,
                    "element \(elements.lowerBound + index) is too large for \(dtype); choose a larger element type")
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

extension MergeSums {
    fileprivate mutating func add(_ other: MergeSums) {
        updateSquared += other.updateSquared
        updateTimesChange += other.updateTimesChange
        isNotFinite = isNotFinite || other.isNotFinite
    }
}
