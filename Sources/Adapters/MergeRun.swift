internal import FileIO
internal import Hashing
internal import JSON
public import Kernels
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
        /// The least survival that each update must have, or nothing is published.
        public var minimumSurvival: Double?
        /// Whether the receipt holds the SHA-256 of each tensor.
        public var hashesTensors: Bool
        /// The instructions that compute; all give the same bytes.
        public var path: MergePath
        /// Asked before each block of rows; true stops the merge and leaves nothing.
        public var isCancelled: @Sendable () -> Bool
        /// Told the bytes written so far and the bytes in all.
        public var progress: (@Sendable (_ done: Int, _ total: Int) -> Void)?

        public init(
            threads: Int = 1, isReplacing: Bool = false, isDurable: Bool = true, minimumSurvival: Double? = nil, hashesTensors: Bool = false,
            path: MergePath = .best, isCancelled: @escaping @Sendable () -> Bool = { false },
            progress: (@Sendable (_ done: Int, _ total: Int) -> Void)? = nil
        ) {
            self.threads = threads
            self.isReplacing = isReplacing
            self.isDurable = isDurable
            self.minimumSurvival = minimumSurvival
            self.hashesTensors = hashesTensors
            self.path = path
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
        var hashes: [String: String] = [:]
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
                hashes.merge(run.hashes) { $1 }
                done += shardJobs.reduce(0) { $0 + $1.outputByteCount }
                bytes += writer.order.last?.byteRange.upperBound ?? 0
            }
            try checkSurvival(sums, minimum: options.minimumSurvival)
            return try writeOtherFiles(in: folder, hashes: hashes, options: options)
        }
        if options.isCancelled() { throw MergeError.interrupted(output) }
        try folder.publish(durable: options.isDurable)
        let modules = scales.keys.sorted().map { path in
            MergeReport.Module(path: path, scales: scales[path] ?? [], survival: sums[path]?.survival)
        }
        return MergeReport(
            modules: modules, tensorsChanged: jobs.count { !$0.isCopied || !$0.tensor.isOfBase },
            tensorsCopied: jobs.count { $0.isCopied && $0.tensor.isOfBase }, bytes: bytes, filesCopied: files.copied, filesLeftOut: files.leftOut,
            remarks: model.remarks)
    }

    /// What multiplies B·A of each module, one number for each adapter that has it.
    private var scales: [ModulePath: [Double]] {
        var scales: [ModulePath: [Double]] = [:]
        for item in model.adapters {
            for module in item.adapter.modules { scales[module.label, default: []].append(module.scale * item.weight) }
        }
        return scales
    }

    private func checkSurvival(_ sums: [ModulePath: MergeSums], minimum: Double?) throws(MergeError) {
        guard let minimum else { return }
        let least = sums.compactMap { path, sum in sum.survival.map { (path, $0) } }.min { ($0.1, $0.0) < ($1.1, $1.0) }
        guard let (module, survival) = least, survival < minimum else { return }
        let kind = dtype ?? jobs.first { $0.tensor.updates.contains { $0.module == module } }?.dtype
        throw MergeError(
            .survivalTooLow, path: base.path, tensor: module.text,
            "rounding to \(kind?.rawValue ?? "the stored type") leaves \(survival) of the update, less than \(minimum); choose a larger element type")
    }

    /// The index, the configuration, the receipt, and the files that are copied.
    private func writeOtherFiles(in folder: AtomicFolder, hashes: [String: String], options: RunOptions) throws -> (
        copied: [String], leftOut: [String]
    ) {
        func write(_ value: JSONValue, _ name: String) throws {
            let file = try AtomicFile(path: folder.path(of: name), replacing: false)
            try file.write(Array(value.serialized(pretty: true).utf8))
            try file.publish(durable: options.isDurable)
        }
        try write(receipt(hashes: hashes), ModelFolder.receiptName)
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
    private func receipt(hashes: [String: String]) -> JSONValue {
        let changed = jobs.filter { !$0.isCopied || !$0.tensor.isOfBase }
        var members: OrderedDictionary<String, JSONValue> = [
            "schema": "oplora.merge-receipt/1",
            "base": .string(FileSystem.lastComponent(base.path)),
            "dtype": dtype.map { .string($0.rawValue) } ?? "keep",
            "adapters": .array(model.adapters.map { receipt(of: $0) }),
            "coverage": [
                "tensors": .integer(jobs.count), "changed": .integer(changed.count),
                "added": .array(jobs.filter { base.tensors[$0.tensor.name] == nil }.map { .string($0.tensor.name) }),
            ],
            "configuration": .object(OrderedDictionary(uniqueKeysWithValues: model.changedConfiguration.sorted { $0.key < $1.key })),
        ]
        if !hashes.isEmpty {
            members["sha256"] = .object(OrderedDictionary(uniqueKeysWithValues: jobs.map { ($0.tensor.name, .string(hashes[$0.tensor.name] ?? "")) }))
        }
        return .object(members)
    }

    private func receipt(of item: WeightedAdapter) -> JSONValue {
        let hash = item.adapter.weightsPath.flatMap { try? MappedFile(path: $0) }.map { file in
            var digest = SHA256Digest()
            for start in stride(from: 0, to: file.count, by: Self.pieceBytes) {
                let range = start..<min(start + Self.pieceBytes, file.count)
                digest.update(file.bytes(in: range))
                file.release(range)
            }
            return digest.finishHex()
        }
        return [
            "name": .string(FileSystem.lastComponent(item.adapter.path)), "dialect": .string(item.adapter.dialect.rawValue),
            "weight": .real(item.weight), "sha256": hash.map { .string($0) } ?? .null,
            "modules": .array(
                item.adapter.modules.map { module in
                    [
                        "module": .string(module.label.text), "kind": .string(module.kind.rawValue), "rank": .integer(module.rank),
                        "scale": .real(module.scale * item.weight), "magnitude": .bool(module.magnitude != nil),
                    ]
                }),
            "replaced": .array(item.adapter.replacements.map { .string($0.tensor) }),
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
    private let ready = Mutex<[ReadyFactors]>([])
    private(set) var sums: [ModulePath: MergeSums] = [:]
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
            let width = job.source.info.dtype.bitWidth
            if job.keepsType {
                add(elements.lowerBound * width / 8..<(elements.upperBound * width + 7) / 8, 2 * MergePlan.pieceBytes, .copy)
            } else {
                add(elements, MergePlan.pieceBytes / 4, .convert)
            }
        }
        let columns = job.columns
        // Whole tiles of the kernel, the last piece of a matrix excepted.
        let step = max(6, MergePlan.pieceBytes / max(1, columns * job.dtype.bitWidth / 8) / 48 * 48)
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
        /// The bytes of the base that the piece is made from.
        var source: [UInt8] = []
        var buffer: [UInt8] = []
        /// The sums of a weight and its update in binary64, where a magnitude scales them.
        var wide: [Double] = []
        var sums = MergeSums()
    }

    /// Computes the piece.
    private func make(_ piece: Piece, _ workspace: inout Workspace) throws -> MergeSums {
        let job = jobs[piece.job]
        switch piece.work {
        case .copy:
            let start = job.source.info.byteRange.lowerBound
            try read(job.source, start + piece.range.lowerBound..<start + piece.range.upperBound, into: &workspace.buffer)
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

    /// The factors of some rows of a tensor, as the kernel takes them.
    private struct ReadyFactors {
        let job: Int
        let updates: [Int]
        let factors: [MergeFactors]
    }

    /// The factors of the rows of a piece. The first worker that needs them makes them; they are kept while others may be at the
    /// same rows or at those before.
    private func factors(_ number: Int, _ updates: [Int]) throws -> [MergeFactors] {
        try ready.withLock { ready in
            if let known = ready.first(where: { $0.job == number && $0.updates == updates }) { return known.factors }
            let made = try updates.map { try jobs[number].updates[$0].factors() }
            ready.append(ReadyFactors(job: number, updates: updates, factors: made))
            if ready.count > options.threads + 1 { ready.removeFirst() }
            return made
        }
    }

    private func mergeRows(_ number: Int, _ rows: Range<Int>, _ updates: [Int], _ workspace: inout Workspace) throws -> MergeSums {
        let job = jobs[number]
        let columns = job.columns
        let start = rows.lowerBound * columns
        let factors = try factors(number, updates)
        let sums: MergeSums
        if let update = updates.lazy.map({ job.updates[$0] }).first(where: { $0.magnitude != nil }) {
            sums = try scaleRows(number, rows, update, factors, &workspace)
        } else {
            sums = try compute(job, rows: rows, columns: columns, start: start, factors: factors, &workspace)
        }
        guard !sums.isNotFinite else { throw fault(job, start: start, count: rows.count * columns, workspace.buffer) }
        return sums
    }

    /// Fills the workspace's buffer with the merged rows, the first of which begins at element `start` of the tensor.
    private func compute(
        _ job: TensorJob, rows: Range<Int>, columns: Int, start: Int, factors: [MergeFactors], _ workspace: inout Workspace
    ) throws -> MergeSums {
        let count = rows.count * columns
        try readElements(start..<start + count, of: job.source, into: &workspace.source)
        Self.grow(&workspace.buffer, to: count * job.dtype.bitWidth / 8)
        let source = workspace.source
        // Sound: every bit pattern of a byte may be read and written.
        let weights = unsafe source.span.bytes.extracting(0..<count * job.source.info.dtype.bitWidth / 8)
        var span = workspace.buffer.mutableSpan
        var target = unsafe span.mutableBytes
        return MergeKernel.mergeRows(
            weights: weights, weightType: job.source.info.dtype, into: &target, mergedType: job.dtype, rows: rows, columns: columns, factors: factors,
            path: options.path)
    }

    private static func grow(_ buffer: inout [UInt8], to size: Int) {
        if buffer.count < size { buffer = [UInt8](repeating: 0, count: size) }
    }

    /// Puts bytes of the file that holds a tensor at the start of `buffer`.
    private func read(_ location: WeightFiles.Location, _ range: Range<Int>, into buffer: inout [UInt8]) throws(FileError) {
        Self.grow(&buffer, to: range.count)
        var span = buffer.mutableSpan
        // Sound: every bit pattern of a byte may be written.
        var target = unsafe span.mutableBytes
        try location.file.file.copyBytes(in: range, to: &target)
    }

    private func readElements(_ elements: Range<Int>, of location: WeightFiles.Location, into buffer: inout [UInt8]) throws(FileError) {
        try read(location, sourceRange(location.info, elements), into: &buffer)
    }

    // MARK: Magnitudes

    /// W + s·acc of some rows, in binary64.
    private func addUpdates(_ job: TensorJob, rows: Range<Int>, factors: [MergeFactors], _ source: inout [UInt8], into wide: inout [Double]) throws {
        let columns = job.columns
        let count = rows.count * columns
        try readElements(rows.lowerBound * columns..<rows.upperBound * columns, of: job.source, into: &source)
        if wide.count < count { wide = [Double](repeating: 0, count: count) }
        // Sound: every bit pattern of a number may be read and written as raw bytes.
        let weights = unsafe source.span.bytes.extracting(0..<count * job.source.info.dtype.bitWidth / 8)
        var span = wide.mutableSpan
        var target = unsafe span.mutableBytes
        _ = MergeKernel.mergeRows(
            weights: weights, weightType: job.source.info.dtype, into: &target, mergedType: .f64, rows: rows, columns: columns, factors: factors,
            path: options.path)
    }

    private func scaleRows(
        _ number: Int, _ rows: Range<Int>, _ update: TensorUpdate, _ factors: [MergeFactors], _ workspace: inout Workspace
    ) throws -> MergeSums {
        let job = jobs[number]
        let columns = job.columns
        var ratios: [Double] = []
        var magnitudes: [Double] = []
        switch update.magnitude {
        case .ofColumns(let values)?: ratios = try self.ratios(number, magnitudes: values, factors)
        case .ofRows(let values)?:
            magnitudes = Array(values.doubles()[rows.lowerBound - update.rows.lowerBound..<rows.upperBound - update.rows.lowerBound])
        case nil: preconditionFailure("the update has no magnitude")
        }
        try addUpdates(job, rows: rows, factors: factors, &workspace.source, into: &workspace.wide)
        let count = rows.count * columns
        Self.grow(&workspace.buffer, to: count * job.dtype.bitWidth / 8)
        let (wide, source) = (workspace.wide, workspace.source)
        let weights = unsafe source.span.bytes.extracting(0..<count * job.source.info.dtype.bitWidth / 8)
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
    private func ratios(_ number: Int, magnitudes: FactorMatrix, _ factors: [MergeFactors]) throws -> [Double] {
        let job = jobs[number]
        let columns = job.columns
        return try columnRatios.withLock { known in
            if let ratios = known[number] { return ratios }
            var source: [UInt8] = []
            var wide: [Double] = []
            var lanes = [Double](repeating: 0, count: 8 * columns)
            let step = max(1, MergePlan.pieceBytes / 8 / columns)
            for start in stride(from: 0, to: job.elementCount / columns, by: step) {
                let rows = start..<min(start + step, job.elementCount / columns)
                try addUpdates(job, rows: rows, factors: factors, &source, into: &wide)
                MagnitudeKernel.addSquares(of: wide, rows: rows, columns: columns, to: &lanes)
            }
            let ratios = MagnitudeKernel.columnRatios(lanes: lanes, magnitudes: magnitudes.doubles())
            known[number] = ratios
            return ratios
        }
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
            let values = unsafe source.span.bytes.extracting(0..<columns * replacement.values.info.dtype.bitWidth / 8)
            var span = workspace.buffer.mutableSpan
            var bytes = unsafe span.mutableBytes
            var target = bytes._mutatingExtracting(first..<first + size)
            let sums = MergeKernel.mergeRows(
                weights: values, weightType: replacement.values.info.dtype, into: &target, mergedType: job.dtype, rows: 0..<1, columns: columns,
                factors: [])
            if sums.isNotFinite { try checkConversion(replacement.values, elements, to: job.dtype, Array(workspace.buffer[first..<first + size])) }
        }
    }

    // MARK: Writing

    private func write(_ piece: Piece, _ buffer: [UInt8]) throws {
        let job = jobs[piece.job]
        let size =
            switch piece.work {
            case .copy: piece.range.count
            case .convert: piece.range.count * job.dtype.bitWidth / 8
            case .merge, .assemble: piece.range.count * job.columns * job.dtype.bitWidth / 8
            }
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
    /// ⟨ΔW, W′ − W⟩ / ‖ΔW‖²; `nil` for an update that is zero.
    fileprivate var survival: Double? { updateSquared > 0 ? updateTimesChange / updateSquared : nil }

    fileprivate mutating func add(_ other: MergeSums) {
        updateSquared += other.updateSquared
        updateTimesChange += other.updateTimesChange
        isNotFinite = isNotFinite || other.isNotFinite
    }
}
