internal import FileIO
public import Kernels
internal import Safetensors
internal import Tensors
internal import Weights

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
    /// weights in other formats, training states and adapter files do not. Memory stays within a few pieces and the factors of
    /// the tensors that are at work.
    ///
    /// - Precondition: the plan was made with the factors read.
    ///
    /// - Returns: the same report and the same bytes, whatever the number of threads.
    /// - Throws: `MergeError` (`.interrupted` when cancelled, `.baseNotFinite`, `.overflow`), `SafetensorsError` or
    ///   `FileError`; the output is then as it was before.
    public func run(to output: String, options: RunOptions = RunOptions()) throws -> MergeReport {
        requireChecked()
        for input in [base.path, FileSystem.isFolder(base.path) ? base.path : FileSystem.parent(of: base.path)] + model.adapters.map(\.adapter.path)
        where FileSystem.areSame(output, input) {
            throw MergeError(.outputIsInput, path: output, "the output is one of the inputs; choose another name")
        }
        let folder = try AtomicFolder(path: output, replacing: options.isReplacing)
        let total = byteCount
        var done = 0
        var bytes = 0
        var sums: [ModulePath: MergeSums] = [:]
        var result = MergeResult()
        let files = try folder.fill {
            for (number, shard) in base.shards.enumerated() {
                let shardJobs = jobs.filter { $0.tensor.shard == number }
                let part = base.part(ofShard: number)
                if number == part.shards.lowerBound, !part.name.isEmpty { try FileSystem.createFolder(folder.path(of: part.name)) }
                let writer = try SafetensorsWriter(
                    path: folder.path(of: part.path(of: FileSystem.lastComponent(shard.path))),
                    entries: shardJobs.map {
                        .init(name: String($0.tensor.name.dropFirst(part.prefix.count)), dtype: $0.dtype, shape: $0.tensor.shape)
                    },
                    metadata: Dictionary(uniqueKeysWithValues: shard.metadata.map { ($0.key, $0.value) }), replacing: false, keepsOrder: true)
                let run = ShardRun(jobs: shardJobs, writer: writer, output: output, options: options, done: done, total: total)
                try run.execute()
                try writer.publish(durable: options.isDurable)
                for (module, sum) in run.sums { sums[module, default: MergeSums()].add(sum) }
                result.add(run, part: shardJobs)
                done += shardJobs.reduce(0) { $0 + $1.outputByteCount }
                bytes += writer.order.last?.byteRange.upperBound ?? 0
            }
            try checkSurvival(sums, minimum: options.minimumSurvival)
            result.withoutEffect = scales.keys.filter { !result.changedModules.contains($0) && !model.following.contains($0) }.sorted()
            return try writeOtherFiles(in: folder, result, options: options)
        }
        if options.isCancelled() { throw MergeError.interrupted(output) }
        try folder.publish(durable: options.isDurable)
        let modules = scales.keys.sorted().map { path in
            MergeReport.Module(
                path: path, scales: scales[path] ?? [], survival: sums[path]?.survival, isChanged: result.changedModules.contains(path))
        }
        return MergeReport(
            modules: modules, tensorsChanged: result.changed.count, tensorsCopied: jobs.count - result.changed.count, bytes: bytes,
            filesCopied: files.copied, filesLeftOut: files.leftOut, tokenizer: files.tokenizer,
            remarks: model.remarks + remarks(modules) + files.remarks)
    }

    /// What is to be said of modules that were merged and have changed nothing.
    private func remarks(_ modules: [MergeReport.Module]) -> [String] {
        func list(_ modules: [MergeReport.Module]) -> String {
            let names = modules.prefix(3).map(\.path.text).joined(separator: ", ")
            return modules.count > 3 ? "\(names) and \(modules.count - 3) more" : names
        }
        func count(_ modules: [MergeReport.Module]) -> String { "\(modules.count) module\(modules.count == 1 ? "" : "s")" }
        let unmoved = modules.filter { !$0.isChanged && $0.survival == nil && !model.following.contains($0.path) }
        let effective = unmoved.isEmpty ? [] : Set(jobs.flatMap(\.tensor.updates).filter(\.isEffective).map(\.module))
        let zero = unmoved.filter { !effective.contains($0.path) }
        let canceled = unmoved.filter { effective.contains($0.path) }
        let erased = modules.filter { !$0.isChanged && $0.survival != nil }
        var remarks: [String] = []
        if !erased.isEmpty {
            let names = Set(erased.map(\.path))
            let isNarrow = jobs.contains { job in
                job.dtype.bitWidth < 32 && job.tensor.updates.contains { names.contains($0.module) }
            }
            remarks.append(
                "rounding erased the update of \(count(erased)), whose weights are the base's: \(list(erased))"
                    + (isNarrow ? "; a wider type may keep it" : ""))
        }
        if !zero.isEmpty {
            remarks.append("the update of \(count(zero)) is zero (weight, alpha, A or B) and changed nothing: \(list(zero))")
        }
        if !canceled.isEmpty {
            remarks.append("the terms of the update of \(count(canceled)) cancel out and changed nothing: \(list(canceled))")
        }
        return remarks
    }

    /// What multiplies B·A of each module, one number for each adapter that has it.
    private var scales: [ModulePath: [Double]] {
        var scales: [ModulePath: [Double]] = [:]
        for item in model.adapters {
            for module in item.adapter.modules { scales[module.label, default: []].append(module.scale * item.weight) }
        }
        return scales
    }

    /// A share that is rounded down, so that it reads as less than the one that it is less than.
    private static func percent(_ share: Double) -> String { "\(((share * 10_000).rounded(.down) / 100).plain)%" }

    private func checkSurvival(_ sums: [ModulePath: MergeSums], minimum: Double?) throws(MergeError) {
        guard let minimum else { return }
        let least = sums.compactMap { path, sum in sum.survival.map { (path, $0) } }.min { ($0.1, $0.0) < ($1.1, $1.0) }
        guard let (module, survival) = least, survival < minimum else { return }
        let kind = dtype ?? jobs.first { $0.tensor.updates.contains { $0.module == module } }?.dtype
        throw MergeError(
            .survivalTooLow, path: base.path, tensor: module.text,
            "rounding to \(kind?.rawValue ?? "the stored type") leaves \(Self.percent(survival)) of the update, less than the \(((minimum * 1e8).rounded() / 1e6).plain)% that were asked for; choose a larger element type"
        )
    }
}

/// What the shards of a merge have told.
struct MergeResult {
    /// By the tensors' names.
    private(set) var hashes: [String: String] = [:]
    /// Tensors that are not the base's byte for byte.
    private(set) var changed: Set<String> = []
    private(set) var changedModules: Set<ModulePath> = []
    /// Modules of the adapters whose weights are the base's.
    var withoutEffect: [ModulePath] = []

    mutating func add(_ run: ShardRun, part jobs: [TensorJob]) {
        hashes.merge(run.hashes) { $1 }
        changedModules.formUnion(run.changedModules)
        for (number, job) in jobs.enumerated() where run.changedJobs.contains(number) || job.original == nil { changed.insert(job.tensor.name) }
    }
}

extension MergeError {
    static func interrupted(_ path: String) -> MergeError {
        MergeError(.interrupted, path: path, "the merge was interrupted; nothing was published")
    }
}

extension MergeSums {
    /// ⟨ΔW, W′ − W⟩ / ‖ΔW‖²; `nil` for an update that is zero.
    var survival: Double? { updateSquared > 0 ? updateTimesChange / updateSquared : nil }

    mutating func add(_ other: MergeSums) {
        updateSquared += other.updateSquared
        updateTimesChange += other.updateTimesChange
        isNotFinite = isNotFinite || other.isNotFinite
    }
}
