internal import Adapters
internal import Kernels
internal import OrderedCollections
internal import Synchronization

/// Finds the rows of the worst modules that are furthest off.
enum RowSearch {
    /// How many modules are looked at, and how many rows of each are kept.
    private static let modules = 12, rows = 4

    /// - Parameter works: the parts of each module.
    static func examine(
        _ verdict: inout MergeVerdict, works: OrderedDictionary<ModulePath, [MergeWork]>, options: MergeVerifier.Options
    ) throws {
        let worst = verdict.worstFirst.filter { $0.differingElements > 0 }.prefix(modules).map(\.path)
        let found = Mutex<[ModulePath: [MergeVerdict.Row]]>([:])
        try ThreadPool.forEach(worst.count, threads: options.threads) { number in
            guard !options.isCancelled() else { throw MergeError(.interrupted, path: "verify", "the verification was interrupted") }
            let rows = try worstRows(works[worst[number]] ?? [])
            found.withLock { $0[worst[number]] = rows }
        }
        let rows = found.withLock { $0 }
        for index in verdict.modules.indices { verdict.modules[index].worstRows = rows[verdict.modules[index].path] ?? [] }
    }

    private static func worstRows(_ works: [MergeWork]) throws -> [MergeVerdict.Row] {
        var found: [MergeVerdict.Row] = []
        for work in works {
            try work.forEachMeasuredRow { row, tally in
                guard tally.differing > 0 else { return }
                found.append(
                    MergeVerdict.Row(
                        row: row, differingElements: tally.differing, maxUlp: tally.largestSteps,
                        relativeResidual: tally.updateSquared > 0 ? (tally.residualSquared / tally.updateSquared).squareRoot() : nil))
            }
        }
        return Array(
            found.sorted { ($1.maxUlp, $1.differingElements, $0.row) < ($0.maxUlp, $0.differingElements, $1.row) }.prefix(rows))
    }
}
