internal import Adapters
internal import Kernels
internal import Methods
internal import Tensors

/// Finds the name of what is wrong with a weight that no rounding explains: what else than the update may be in it.
struct FaultSearch {
    let work: MergeWork
    let tally: VerificationTally
    let updates: [MeasuredUpdate]
    private let hasMagnitude: Bool
    /// Whether what the updates add to the weight is known without the weight.
    private let areSums: Bool

    init(_ work: MergeWork, _ tally: VerificationTally) {
        self.work = work
        self.tally = tally
        updates = work.updates.map { MeasuredUpdate($0) }
        hasMagnitude = work.updates.contains { $0.magnitude != nil }
        areSums = work.updates.allSatisfy(\.update.isSum)
    }

    private var projection: Double { tally.updateTimesChange / tally.updateSquared }
    /// How much of the update the correctly rounded weight keeps.
    private var survival: Double { tally.updateTimesExpected / tally.updateSquared }

    /// - Parameter others: all works of the model, one of whose updates may be in this one.
    func fault(among others: [MergeWork]) throws -> Fault {
        func fault(_ code: Fault.Code, _ message: String) -> Fault { Fault(code, work.label, message + work.example(tally)) }
        if let factor = explainingFactor {
            let text = "the update is in it \(Self.text(factor)) times (projection \(Self.text(projection)))"
            if (factor + 1).magnitude < 0.02 { return fault(.wrongSign, "the update was subtracted (projection \(Self.text(projection)))") }
            if (factor - 2).magnitude < 0.02 { return fault(.mergedTwice, text) }
            if (factor - 1).magnitude > 0.0005 {
                // What lacks some components looks like one that is smaller as a whole.
                return try missingComponents() ?? fault(.wrongScale, text + nameOfScale(factor))
            }
        }
        if !hasMagnitude, areSums {
            let transposed = try confirmed { rows in
                try transposedProjection(rows).flatMap { $0 > 0.5 * survival && $0 > 2 * projection.magnitude ? $0 : nil }
            }
            if let transposed {
                return fault(
                    .transposed,
                    "the change is the transpose of the update (projection \(Self.text(projection)), of the transpose \(Self.text(transposed)))")
            }
            if let missing = try missingComponents() { return missing }
            if let other = try owner(among: others) {
                // The weights of one module's experts are works of their own.
                let isSameModule = other.label == work.label
                let isExpert = isSameModule && (!work.isOfOtherLayout || work.name.split(separator: ".").contains("experts"))
                let owner = isSameModule ? (other.name == work.name ? "its rows from \(other.rows.lowerBound) on" : other.name) : other.label
                return fault(
                    isExpert ? .expertsPermuted : .swappedModules, "the update in it is that of \(owner) (projection \(Self.text(projection)))")
            }
        }
        return fault(
            .wrongUpdate,
            "\(tally.differing) of \(work.elementCount) elements are not the correctly rounded ones (projection \(Self.text(projection)))")
    }

    static func text(_ value: Double) -> String {
        let rounded = (value * 1e6).rounded() / 1e6
        return rounded == rounded.rounded() && rounded.magnitude < 1e6 ? "\(Int(rounded))" : "\(rounded)"
    }

    // MARK: Scale and sign

    /// What the change is a multiple of the update by, when it is nothing but that.
    private var explainingFactor: Double? {
        let unexplained = tally.changeSquared - projection * tally.updateTimesChange
        let allowance = 4 * tally.roundingSquared + 0.01 * tally.changeSquared
        guard unexplained <= allowance, survival > 0.1,
            tally.updateTimesChange * tally.updateTimesChange > 0.01 * tally.updateSquared * tally.changeSquared
        else { return nil }
        return projection / survival
    }

    private func nameOfScale(_ factor: Double) -> String {
        guard work.updates.count == 1, !hasMagnitude, areSums, work.updates[0].rank > 0 else { return "" }
        let rank = Double(work.updates[0].rank)
        let scale = work.updates[0].scale
        let names: [(value: Double, meaning: String)] = [
            (1 / scale, "the scale was ignored, B·A was added as it is"),
            (1 / (scale * rank), "alpha was ignored, the scale is one over the rank"),
            (rank, "alpha was not divided by the rank"),
            (rank.squareRoot(), "alpha was divided by the root of the rank instead of the rank"),
            (1 / rank.squareRoot(), "alpha was divided by the rank instead of its root"),
            (scale, "the scale was applied twice"),
        ]
        // In 16-bit types the factor is known to a percent or so.
        guard let name = names.filter({ ($0.value - 1).magnitude > 0.02 && (factor / $0.value - 1).magnitude < 0.02 }).first else { return "" }
        return ": " + name.meaning
    }

    // MARK: Other updates

    /// Rows that are enough to see that something is not in the change; all of them where there are no more.
    private static let fewRows = 192

    /// Rows of the work, spread over it.
    private func rows(atMost count: Int) -> [Int] {
        guard work.rows.count > count else { return Array(work.rows) }
        return (0..<count).map { work.rows.lowerBound + $0 * work.rows.count / count }
    }

    /// What `find` finds in all rows, if it finds something in a few of them.
    private func confirmed<Found>(_ find: (_ rows: [Int]) throws -> Found?) throws -> Found? {
        let few = rows(atMost: Self.fewRows)
        guard let found = try find(few) else { return nil }
        return few.count == work.rows.count ? found : try find(Array(work.rows))
    }

    /// ⟨ΔWᵀ, W′ − W⟩ / ‖ΔWᵀ‖², over rows of a square weight that one update meets whole.
    private func transposedProjection(_ rows: [Int]) throws -> Double? {
        guard work.rows == 0..<work.columns, work.updates.count == 1, work.updates[0].rows == work.rows, work.updates[0].firstRow == 0 else {
            return nil
        }
        let transpose = MeasuredUpdate(work.updates[0].transposed)
        var (numerator, square) = (0.0, 0.0)
        try forEachChange(of: rows) { row, change in
            let update = transpose.row(row)
            for i in 0..<work.columns {
                numerator += update[i] * change[i]
                square += update[i] * update[i]
            }
        }
        return square > 0 ? numerator / square : nil
    }

    private func missingComponents() throws -> Fault? {
        guard !hasMagnitude, let (kept, rank) = try confirmed(truncation) else { return nil }
        return Fault(
            .truncatedRank, work.label,
            "only \(kept) of the update's \(rank) components are in it (projection \(Self.text(projection)))" + work.example(tally))
    }

    /// Solves for what each component of the update is in the change times, over some rows; if all are in it once or not at all, how many
    /// are.
    private func truncation(_ rows: [Int]) throws -> (kept: Int, rank: Int)? {
        guard updates.count == 1, case .kernel(let update) = updates[0].form else { return nil }
        let rank = update.rank
        let right = update.right
        let firstRow = update.firstRow
        // ⟨component k, component l⟩ = (leftᵀ·left ∘ right·rightᵀ)[k,l]·s².
        var products = [[Double]](repeating: [Double](repeating: 0, count: rank), count: rank)
        for k in 0..<rank {
            for l in 0..<rank {
                let lefts = rows.reduce(0.0) { $0 + update.left[($1 - firstRow) * rank + k] * update.left[($1 - firstRow) * rank + l] }
                let rights = (0..<work.columns).reduce(0.0) { $0 + right[k * work.columns + $1] * right[l * work.columns + $1] }
                products[k][l] = lefts * rights * update.scale * update.scale
            }
        }
        var changes = [Double](repeating: 0, count: rank)
        try forEachChange(of: rows) { row, change in
            for k in 0..<rank {
                var sum = 0.0
                for i in 0..<work.columns { sum += right[k * work.columns + i] * change[i] }
                changes[k] += update.scale * update.left[(row - firstRow) * rank + k] * sum
            }
        }
        guard let shares = Self.solve(products, changes) else { return nil }
        // A few rows know the shares less well.
        let isAll = rows.count == work.rows.count
        let tolerance = isAll ? 0.15 : 0.4
        let kept = shares.count { ($0 - 1).magnitude < tolerance }
        let left = shares.count { $0.magnitude < tolerance }
        guard kept > 0, left > 0, kept + left == rank else { return nil }
        guard isAll else { return (kept, rank) }
        // What the kept components leave of the change must be rounding.
        let explained = zip(shares, changes).reduce(0.0) { $0 + $1.0 * $1.1 }
        guard tally.changeSquared - explained <= 4 * tally.roundingSquared + 0.02 * tally.changeSquared else { return nil }
        return (kept, rank)
    }

    /// The solution of a symmetric system by elimination with pivots; `nil` where it has none of its own.
    private static func solve(_ matrix: [[Double]], _ values: [Double]) -> [Double]? {
        var (a, b) = (matrix, values)
        let count = b.count
        let least = 1e-10 * (0..<count).reduce(0.0) { max($0, matrix[$1][$1]) }
        for column in 0..<count {
            guard let pivot = (column..<count).max(by: { a[$0][column].magnitude < a[$1][column].magnitude }), a[pivot][column].magnitude > least
            else { return nil }
            a.swapAt(column, pivot)
            b.swapAt(column, pivot)
            for row in column + 1..<count {
                let factor = a[row][column] / a[column][column]
                for i in column..<count { a[row][i] -= factor * a[column][i] }
                b[row] -= factor * b[column]
            }
        }
        for column in stride(from: count - 1, through: 0, by: -1) {
            for i in column + 1..<count { b[column] -= a[column][i] * b[i] }
            b[column] /= a[column][column]
        }
        return b
    }

    /// The work whose update the change is.
    ///
    /// The products of the change and of each candidate with a few random vectors are compared first, which takes no candidate's ΔW.
    private func owner(among others: [MergeWork]) throws -> MergeWork? {
        let candidates = others.filter {
            ($0.name, $0.rows) != (work.name, work.rows) && $0.rows.count == work.rows.count && $0.columns == work.columns && $0.updates.count == 1
                && $0.updates[0].magnitude == nil && $0.updates[0].update.isSum
        }
        guard !candidates.isEmpty else { return nil }
        let count = 8
        // Noise makes the likeness of other updates as large as one over the root of rows times vectors.
        let rows = rows(atMost: 2 * Self.fewRows)
        var random = RandomSource(seed: 1, stream: 0)
        // [columns, count] of ±1.
        let signs = (0..<work.columns * count).map { _ in random.next() & 1 == 0 ? 1.0 : -1.0 }
        var sketch: [Double] = []
        try forEachChange(of: rows) { row, change in
            let start = sketch.count
            sketch += [Double](repeating: 0, count: count)
            for i in 0..<work.columns { for v in 0..<count { sketch[start + v] += change[i] * signs[i * count + v] } }
        }
        /// Of an update that is evaluated row by row.
        func ownLikeness(_ candidate: MergeWork) -> Double {
            let update = MeasuredUpdate(candidate.updates[0])
            var (product, square, own) = (0.0, 0.0, 0.0)
            for (number, row) in rows.enumerated() {
                let values = update.row(candidate.rows.lowerBound + row - work.rows.lowerBound)
                for v in 0..<count {
                    let value = (0..<work.columns).reduce(0.0) { $0 + values[$1] * signs[$1 * count + v] }
                    product += value * sketch[number * count + v]
                    square += value * value
                    own += sketch[number * count + v] * sketch[number * count + v]
                }
            }
            return square > 0 && own > 0 ? product / (square * own).squareRoot() : 0
        }
        func likeness(_ candidate: MergeWork) -> Double {
            let update = candidate.updates[0]
            guard let factors = update.lowRank else { return ownLikeness(candidate) }
            let (left, right, rank) = (factors.b.doubles(), factors.a.doubles(), factors.rank)
            var inner = [Double](repeating: 0, count: rank * count)
            for k in 0..<rank {
                for i in 0..<work.columns {
                    let factor = right[k * work.columns + i]
                    for v in 0..<count { inner[k * count + v] += factor * signs[i * count + v] }
                }
            }
            let first = candidate.rows.lowerBound - update.rows.lowerBound
            var (product, square, own) = (0.0, 0.0, 0.0)
            for (number, row) in rows.enumerated() {
                let place = first + row - work.rows.lowerBound
                for v in 0..<count {
                    var value = 0.0
                    for k in 0..<rank { value += left[place * rank + k] * inner[k * count + v] }
                    value *= update.scale
                    product += value * sketch[number * count + v]
                    square += value * value
                    own += sketch[number * count + v] * sketch[number * count + v]
                }
            }
            // The cosine: noise of rounding and of the few vectors makes it smaller, never larger.
            return square > 0 && own > 0 ? product / (square * own).squareRoot() : 0
        }
        let best = candidates.map { ($0, likeness($0)) }.max { $0.1 < $1.1 }
        guard let (candidate, likeness) = best, likeness > 0.5 * max(survival, 0.2) else { return nil }
        return candidate
    }

    /// Calls `body` with rows of W′ − W, which are given in their order.
    private func forEachChange(of rows: [Int], _ body: (_ row: Int, _ change: [Double]) -> Void) throws {
        try work.forEachRow(of: rows) { row, weights, merged in
            body(
                row,
                zip(weights, merged).map { before, after in
                    let change = after - before
                    return change.isFinite ? change : 0
                })
        }
    }
}
