internal import Adapters
internal import FileIO
internal import Kernels
internal import Safetensors
internal import Synchronization
internal import Tensors
internal import Weights

/// Rows of a tensor that the same updates meet, and from where they come.
struct MergeWork: Sendable {
    let name: String
    /// What the rows are before the update.
    let source: StoredWeight
    let merged: StoredWeight
    let updates: [TensorUpdate]
    /// What reports call the module, when an adapter names the tensor.
    let module: ModulePath?
    /// Rows of the matrix; any other tensor is cut by elements.
    let rows: Range<Int>
    let columns: Int
    /// A row of an adapter that takes the place of the one row of this work: its number there.
    let replacement: Int?
    /// Whether the values are an adapter's own and not the base's.
    let isReplaced: Bool
    /// How many elements later the rows are in the merged model's tensor than in the base's.
    let shift: Int
    /// Whether the merged model's tensor is not the base's as a whole.
    let isOfOtherLayout: Bool

    var isConverted: Bool { source.dtype != merged.dtype }
    /// Whether the merged bytes must be the source's.
    var isCopy: Bool { updates.isEmpty && !isConverted }
    var elementCount: Int { rows.count * columns }
    var label: String { module?.text ?? name }

    /// Where elements of a tensor are in the merged model.
    struct Target {
        let merged: StoredWeight
        let elements: Range<Int>
        let start: Int

        init(_ merged: StoredWeight, elements: Range<Int>, start: Int) {
            (self.merged, self.elements, self.start) = (merged, elements, start)
        }
    }

    /// A tensor, cut where other updates begin, where an adapter brings whole rows, and where the merged model has it in another tensor.
    static func parts(of tensor: AdaptedModel.Tensor, merged targets: [Target]) -> [MergeWork] {
        let active = tensor.updates.filter { !$0.isZero }
        let columns = active.first?.columns ?? (tensor.rows.isEmpty && tensor.source.isPlain ? 1 : tensor.shape.last ?? 1)
        let count = tensor.source.elementCount
        return targets.flatMap { target in
            let rows = target.elements.lowerBound / max(columns, 1)..<target.elements.upperBound / max(columns, 1)
            var cuts = Set(active.flatMap { [$0.rows.lowerBound, $0.rows.upperBound] })
            for row in tensor.rows.keys { cuts.formUnion([row, row + 1]) }
            cuts = cuts.filter(rows.contains).union([rows.lowerBound, rows.upperBound])
            let bounds = cuts.sorted()
            return zip(bounds, bounds.dropFirst()).map { low, high in
                let row = tensor.rows[low]
                return MergeWork(
                    name: tensor.name, source: (row?.values ?? tensor.source).defined, merged: target.merged,
                    updates: active.filter { $0.rows.contains(low) },
                    module: tensor.updates.first { $0.rows.contains(low) }?.module, rows: low..<high, columns: columns, replacement: row?.row,
                    isReplaced: row != nil || !tensor.isOfBase, shift: target.start - target.elements.lowerBound,
                    isOfOtherLayout: target.elements.count != count || target.merged.elementCount != count)
            }
        }
    }

    /// The bytes that some of its rows take in the source and in the merged tensor, counted from the first of each.
    func byteRanges(_ range: Range<Int>) -> (source: Range<Int>, merged: Range<Int>) {
        func bytes(of weight: StoredWeight, _ rows: Range<Int>, shift: Int = 0) -> Range<Int> {
            weight.bytes(of: rows.lowerBound * columns + shift..<rows.upperBound * columns + shift)
        }
        return (bytes(of: source, replacement.map { $0..<$0 + range.count } ?? range), bytes(of: merged, range, shift: shift))
    }

    /// Reads some of its rows of both models.
    func read(_ range: Range<Int>, into buffers: inout RowBuffers) throws(FileError) {
        let (from, to) = byteRanges(range)
        try buffers.source.read(source, from)
        try buffers.merged.read(merged, to)
    }

    /// Elements that are measured in one go, about.
    static let pieceElements = 1 << 17
}

/// What was found of a work.
enum WorkOutcome: Sendable {
    case measured(VerificationTally)
    /// Bytes that differ: how many elements, and the first.
    case compared(differing: Int, first: Int)

    /// Whether bytes that should be equal are not.
    var differs: Bool { if case .compared(let differing, _) = self { differing > 0 } else { false } }
}

extension MergeWork {
    /// Which ways of merging a work is held against.
    enum Recipes: Sendable {
        /// Those that programs use by default: most files are explained by one of them.
        case likely
        case all
    }

    /// The ways of merging that may have made it.
    func recipes(_ recipes: Recipes) -> Set<MergeRecipe> {
        guard updates.count == 1, updates[0].magnitude == nil, updates[0].lowRank != nil else { return [.plain] }
        switch (recipes, merged.dtype) {
        case (.all, _): return Set(MergeRecipe.allCases)
        case (.likely, .bf16): return [.plain, .updateInBF16]
        case (.likely, .f16): return [.plain, .updateInF16]
        case (.likely, _): return [.plain]
        }
    }

    /// Measures works, several at once.
    ///
    /// - Parameter recipes: the ways of merging that elements are held against.
    /// - Parameter isThorough: whether every element is held against the ways of merging, and not only those around some that are not
    ///   the correctly rounded ones.
    /// - Throws: `FileError`; `MergeError.interrupted`.
    static func measure(
        _ works: [MergeWork], recipes: Recipes = .likely, isThorough: Bool = false, threads: Int, isCancelled: @escaping @Sendable () -> Bool
    ) throws -> [WorkOutcome] {
        struct Piece: Sendable {
            let work: Int
            let range: Range<Int>
        }
        var pieces: [Piece] = []
        for (number, work) in works.enumerated() {
            // Whole tiles of the kernel.
            let tile = work.updates.isEmpty ? 1 : VerificationKernel.tile
            let step = max(1, pieceElements / max(work.columns, 1) / tile) * tile
            for start in stride(from: work.rows.lowerBound, to: work.rows.upperBound, by: step) {
                pieces.append(Piece(work: number, range: start..<min(start + step, work.rows.upperBound)))
            }
        }
        let list = pieces
        let results = Mutex([WorkOutcome?](repeating: nil, count: list.count))
        let ready = ReadyUpdates(limit: threads + 1)
        try ThreadPool.forEach(list.count, threads: threads) {
            (buffers: RowBuffers(), kernel: VerificationKernel.Workspace())
        } _: { number, workspace in
            guard !isCancelled() else { throw MergeError(.interrupted, path: "verify", "the verification was interrupted") }
            let piece = list[number]
            let work = works[piece.work]
            try work.read(piece.range, into: &workspace.buffers)
            let updates = try ready.updates(of: work, number: piece.work)
            let outcome = try work.measure(piece.range, updates, recipes, isThorough: isThorough, workspace.buffers, &workspace.kernel)
            results.withLock { $0[number] = outcome }
        }
        var totals: [WorkOutcome] = works.map { $0.isCopy ? .compared(differing: 0, first: 0) : .measured(VerificationTally()) }
        let found = results.withLock { $0 }
        // In the order of the pieces, so that the sums do not depend on who was first.
        for (piece, result) in zip(list, found) {
            switch (totals[piece.work], result) {
            case (.measured(var sum), .measured(let tally)?):
                sum.add(tally)
                totals[piece.work] = .measured(sum)
            case (.compared(let count, let first), .compared(let differing, let place)?):
                totals[piece.work] = .compared(differing: count + differing, first: count > 0 ? first : place)
            default:
                break
            }
        }
        return totals
    }

    /// - Parameter recipes: `nil` where elements are held against none.
    func measure(
        _ range: Range<Int>, _ updates: [MeasuredUpdate], _ recipes: Recipes?, isThorough: Bool, _ buffers: RowBuffers,
        _ workspace: inout VerificationKernel.Workspace
    ) throws -> WorkOutcome {
        if isCopy {
            return Self.compare(
                buffers.source.bytes, buffers.merged.bytes, width: max(1, source.dtype.bitWidth / 8), start: range.lowerBound * columns)
        }
        var tally = VerificationTally()
        let magnitude = updates.first?.magnitude
        guard let kernels = updates.kernels else {
            VerificationKernel.measure(
                base: buffers.source.bytes, baseType: source.dtype, merged: buffers.merged.bytes, mergedType: merged.dtype, rows: range,
                columns: columns, index: range.lowerBound * columns, magnitude: magnitude, firstRow: updates[0].firstRow, adapters: updates.count,
                workspace: &workspace, tally: &tally, evaluate: updates.evaluate)
            return .measured(tally)
        }
        // What is only converted is one row.
        let isRow = updates.isEmpty
        VerificationKernel.measure(
            base: buffers.source.bytes, baseType: source.dtype, merged: buffers.merged.bytes, mergedType: merged.dtype,
            rows: isRow ? 0..<1 : range, columns: isRow ? range.count * columns : columns, index: range.lowerBound * columns,
            updates: kernels, magnitude: magnitude, recipes: recipes.map(self.recipes) ?? [],
            isThorough: isThorough,
            workspace: &workspace, tally: &tally)
        return .measured(tally)
    }

    private static func compare(_ a: RawSpan, _ b: RawSpan, width: Int, start: Int) -> WorkOutcome {
        guard !ElementComparison.areEqual(a, b) else { return .compared(differing: 0, first: 0) }
        var differing = 0
        var first = 0
        var last = -1
        // Sound: within both spans, which are equally long; every bit pattern is a byte.
        for byte in 0..<a.byteCount
        where unsafe a.unsafeLoad(fromByteOffset: byte, as: UInt8.self) != b.unsafeLoad(fromByteOffset: byte, as: UInt8.self) {
            guard byte / width != last else { continue }
            last = byte / width
            if differing == 0 { first = start + last }
            differing += 1
        }
        return .compared(differing: differing, first: first)
    }
}

/// Updates made ready by the first worker that needs them, and kept while others may be at the same work.
private final class ReadyUpdates: Sendable {
    private let limit: Int
    private let ready = Mutex<[(work: Int, updates: [MeasuredUpdate])]>([])

    init(limit: Int) {
        self.limit = limit
    }

    func updates(of work: MergeWork, number: Int) throws -> [MeasuredUpdate] {
        guard !work.updates.isEmpty else { return [] }
        return try ready.withLock { ready in
            if let known = ready.first(where: { $0.work == number }) { return known.updates }
            let made = try work.updates.map { try MeasuredUpdate($0, of: work) }
            ready.append((number, made))
            if ready.count > limit { ready.removeFirst() }
            return made
        }
    }
}
