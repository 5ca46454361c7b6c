internal import CKernels
public import Tensors

/// What a magnitude does to rows of W + d before they are rounded.
public enum VerificationMagnitude: Sendable {
    /// The norm that each row gets, from the update's first row on.
    case ofRows([Double])
    /// What each column is multiplied by: the norm that it gets, divided by the one that it has.
    case ofColumns([Double])
}

/// Compares rows of a merged weight with their definition y, in binary64 and by distances: an element is the correctly rounded one
/// if y is nearer to it than half a step. Between 16-bit types a first look in binary32 decides most elements, by a bound, and sums of
/// their rows are as precise as that. Every instruction set finds the same elements.
public enum VerificationKernel {
    /// What rows are widened into; kept from call to call.
    public struct Workspace: Sendable {
        fileprivate var weights: [Double] = []
        fileprivate var merged: [Double] = []
        fileprivate var total: [Double] = []
        fileprivate var result: [Double] = []
        fileprivate var factors = [Double](repeating: 1, count: VerificationKernel.tile)
        fileprivate var bound: [Double] = []

        public init() {}

        fileprivate mutating func grow(to count: Int) {
            guard weights.count < count else { return }
            weights = [Double](repeating: 0, count: count)
            (merged, total, result) = (weights, weights, weights)
        }
    }

    /// - Parameters:
    ///   - base: the rows of W [rows, columns]; `merged` those of W′.
    ///   - rows: their numbers in the whole matrix.
    ///   - index: the number of their first element in the tensor, if it is not that of a matrix with these rows.
    ///   - updates: the adapters in order; none where the tensor is only converted.
    ///   - magnitude: goes with one update only.
    ///   - recipes: the ways of merging that elements are held against beside the plain one; with one update and no magnitude.
    ///   - isThorough: whether every element is held against the recipes; otherwise only those around some that are not the correctly
    ///     rounded ones.
    public static func measure(
        base: RawSpan, baseType: DType, merged: RawSpan, mergedType: DType, rows: Range<Int>, columns: Int, index: Int? = nil,
        updates: [VerificationUpdate], magnitude: VerificationMagnitude? = nil, recipes: Set<MergeRecipe> = [], isThorough: Bool = false,
        workspace: inout Workspace,
        tally: inout VerificationTally,
        path: MergePath = .best
    ) {
        let (from, to) = (baseType.floatElement, mergedType.floatElement)
        precondition(path.isSupported && base.byteCount == rows.count * columns * baseType.bitWidth / 8)
        precondition(merged.byteCount == rows.count * columns * mergedType.bitWidth / 8)
        precondition(updates.allSatisfy { $0.columns == columns && $0.firstRow <= rows.lowerBound })
        precondition(updates.allSatisfy { rows.upperBound <= $0.firstRow + $0.left.count / $0.rank })
        precondition(magnitude == nil || updates.count == 1)
        precondition(recipes.isSubset(of: [.plain]) || updates.count == 1 && magnitude == nil)
        if updates.count == 1, magnitude == nil {
            return measure(base, from, merged, to, rows: rows, updates[0], Self.bits(recipes), isThorough: isThorough, &tally, path)
        }
        // As many columns as leave all arrays of a tile in the first-level cache; a magnitude needs whole rows.
        let chunk = magnitude == nil ? min(columns, 96) : columns
        let stride = (chunk + 15) / 16 * 16
        workspace.grow(to: tile * stride)
        let shape = Block(
            type: to, stride: stride, columns: columns, offset: index.map { $0 - rows.lowerBound * columns } ?? 0, isScaled: magnitude != nil,
            isThorough: isThorough, path: path)
        for first in Swift.stride(from: rows.lowerBound, to: rows.upperBound, by: tile) {
            let count = min(tile, rows.upperBound - first)
            for column in Swift.stride(from: 0, to: columns, by: max(chunk, 1)) {
                let width = min(chunk, columns - column)
                let start = (first - rows.lowerBound) * columns + column
                widen(base, from, start, rows: count, columns, width, stride, into: &workspace.weights, path)
                widen(merged, to, start, rows: count, columns, width, stride, into: &workspace.merged, path)
                if updates.isEmpty {
                    for i in 0..<tile * stride { (workspace.total[i], workspace.result[i]) = (0, workspace.weights[i]) }
                } else {
                    sums(updates, rows: first..<first + count, column: column, width: width, stride: stride, &workspace, path)
                }
                if let magnitude {
                    for row in 0..<count {
                        workspace.factors[row] = scale(
                            row: first + row, at: row * stride, width: width, magnitude, firstRow: updates[0].firstRow, &workspace)
                    }
                }
                judge(shape, rows: first..<first + count, column: column, width: width, updates, &workspace, &tally)
            }
        }
    }

    private static func bits(_ recipes: Set<MergeRecipe>) -> Int32 { recipes.reduce(0) { $0 | 1 << Int32($1.rawValue) } }

    /// One update without a magnitude, by far the most frequent case.
    private static func measure(
        _ base: RawSpan, _ baseType: oplora_element, _ merged: RawSpan, _ mergedType: oplora_element, rows: Range<Int>, _ update: VerificationUpdate,
        _ recipes: Int32, isThorough: Bool, _ tally: inout VerificationTally, _ path: MergePath
    ) {
        let first = rows.lowerBound - update.firstRow
        // Sound: `measure` has checked the sizes; the arrays outlive the call.
        unsafe update.left.withUnsafeBufferPointer { left in
            unsafe update.packed.withUnsafeBufferPointer { right in
                unsafe update.rowErrors.withUnsafeBufferPointer { errors in
                    unsafe update.columnNorms.withUnsafeBufferPointer { norms in
                        unsafe update.withNarrowFactors { narrow, narrowNorms in
                            var description = unsafe oplora_verify_update(
                                left: left.baseAddress.unsafelyUnwrapped + first * update.rank, right: right.baseAddress, rank: update.rank,
                                scale: update.scale, products_are_exact: update.productsAreExact ? 1 : 0, right_narrow: narrow,
                                norms_narrow: narrowNorms, largest_norm: update.largestNorm)
                            var bounds = unsafe oplora_verify_bounds(
                                errors: errors.baseAddress.unsafelyUnwrapped + first, norms: norms.baseAddress, relative: 0x1p-23, factors: nil,
                                scale: update.scale, recipes: recipes, roundings: 1, is_thorough: isThorough ? 1 : 0, coarse: 0)
                            unsafe base.withUnsafeBytes { from in
                                unsafe merged.withUnsafeBytes { to in
                                    unsafe oplora_verify_rows(
                                        path.rawValue, from.baseAddress, baseType, to.baseAddress, mergedType, rows.count, update.columns,
                                        &description, &bounds, Int64(rows.lowerBound * update.columns), &tally.storage)
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Rows that are measured at once.
    public static let tile = 6

    private struct Block {
        let type: oplora_element
        let stride: Int
        let columns: Int
        /// What is added to the number of an element in the matrix.
        let offset: Int
        let isScaled: Bool
        let isThorough: Bool
        let path: MergePath
    }

    /// Computes rows of y, one after the other: of W + d, and of what a magnitude makes of them.
    ///
    /// - Parameters:
    ///   - updates: at least one.
    ///   - magnitude: goes with one update only.
    public static func forEachUpdatedRow(
        base: RawSpan, baseType: DType, rows: Range<Int>, updates: [VerificationUpdate], magnitude: VerificationMagnitude? = nil,
        workspace: inout Workspace, path: MergePath = .best, _ body: (_ row: Int, _ result: ArraySlice<Double>) -> Void
    ) {
        precondition(!updates.isEmpty && (magnitude == nil || updates.count == 1))
        let columns = updates[0].columns
        precondition(path.isSupported && base.byteCount == rows.count * columns * baseType.bitWidth / 8)
        for update in updates {
            precondition(update.columns == columns && update.firstRow <= rows.lowerBound)
            precondition(rows.upperBound <= update.firstRow + update.left.count / update.rank)
        }
        workspace.grow(to: (columns + 15) / 16 * 16)
        for row in rows {
            widen(base, baseType.floatElement, (row - rows.lowerBound) * columns, rows: 1, columns, columns, columns, into: &workspace.weights, path)
            sums(updates, rows: row..<row + 1, column: 0, width: columns, stride: columns, &workspace, path)
            if let magnitude { _ = scale(row: row, at: 0, width: columns, magnitude, firstRow: updates[0].firstRow, &workspace) }
            body(row, workspace.result[0..<columns])
        }
    }

    /// What the updates of a weight make of a row of it, which is W at first.
    ///
    /// `errors` takes, for each element, what the row may be off by where it is computed in binary32.
    public typealias Evaluation = (_ row: Int, _ result: inout [Double], _ errors: inout [Double]) -> Void

    /// Measures rows whose updates are evaluated one row after the other.
    ///
    /// - Parameters:
    ///   - firstRow: the row that takes the first magnitude.
    ///   - adapters: how many updates there are.
    public static func measure(
        base: RawSpan, baseType: DType, merged: RawSpan, mergedType: DType, rows: Range<Int>, columns: Int, index: Int? = nil,
        magnitude: VerificationMagnitude? = nil, firstRow: Int, adapters: Int, workspace: inout Workspace, tally: inout VerificationTally,
        path: MergePath = .best, evaluate: Evaluation
    ) {
        let (from, to) = (baseType.floatElement, mergedType.floatElement)
        precondition(path.isSupported && base.byteCount == rows.count * columns * baseType.bitWidth / 8)
        precondition(merged.byteCount == rows.count * columns * mergedType.bitWidth / 8)
        let stride = (columns + 15) / 16 * 16
        workspace.grow(to: stride)
        if workspace.bound.count < columns { workspace.bound = [Double](repeating: 0, count: columns) }
        let shape = Block(
            type: to, stride: stride, columns: columns, offset: index.map { $0 - rows.lowerBound * columns } ?? 0, isScaled: magnitude != nil,
            isThorough: false, path: path)
        let one = [1.0]
        for row in rows {
            let start = (row - rows.lowerBound) * columns
            widen(base, from, start, rows: 1, columns, columns, stride, into: &workspace.weights, path)
            widen(merged, to, start, rows: 1, columns, columns, stride, into: &workspace.merged, path)
            evaluateRow(row, columns, magnitude, firstRow: firstRow, &workspace, evaluate)
            call(
                shape, rows: row..<row + 1, at: 0, column: 0, width: columns, one.span, workspace.bound.span, scale: 0, roundings: adapters,
                workspace,
                &tally)
        }
    }

    /// Computes rows of y whose updates are evaluated, one after the other.
    public static func forEachEvaluatedRow(
        base: RawSpan, baseType: DType, rows: Range<Int>, columns: Int, magnitude: VerificationMagnitude? = nil, firstRow: Int,
        workspace: inout Workspace, path: MergePath = .best, evaluate: Evaluation, _ body: (_ row: Int, _ result: ArraySlice<Double>) -> Void
    ) {
        precondition(path.isSupported && base.byteCount == rows.count * columns * baseType.bitWidth / 8)
        workspace.grow(to: (columns + 15) / 16 * 16)
        if workspace.bound.count < columns { workspace.bound = [Double](repeating: 0, count: columns) }
        for row in rows {
            widen(base, baseType.floatElement, (row - rows.lowerBound) * columns, rows: 1, columns, columns, columns, into: &workspace.weights, path)
            evaluateRow(row, columns, magnitude, firstRow: firstRow, &workspace, evaluate)
            body(row, workspace.result[0..<columns])
        }
    }

    /// y of a row that is in `weights`, what it is above W, and the bound of both.
    private static func evaluateRow(
        _ row: Int, _ columns: Int, _ magnitude: VerificationMagnitude?, firstRow: Int, _ workspace: inout Workspace, _ evaluate: Evaluation
    ) {
        for i in 0..<columns { (workspace.result[i], workspace.bound[i]) = (workspace.weights[i], 0) }
        evaluate(row, &workspace.result, &workspace.bound)
        if let magnitude {
            workspace.factors[0] = scale(row: row, at: 0, width: columns, magnitude, firstRow: firstRow, &workspace)
        } else {
            workspace.factors[0] = 1
            for i in 0..<columns { workspace.total[i] = workspace.result[i] - workspace.weights[i] }
        }
    }

    private static func widen(
        _ bytes: RawSpan, _ type: oplora_element, _ start: Int, rows: Int, _ columns: Int, _ width: Int, _ stride: Int, into target: inout [Double],
        _ path: MergePath
    ) {
        let size = type == oplora_element_f64 ? 8 : type == oplora_element_f32 ? 4 : 2
        // Sound: the caller has checked that the elements are there and that the target holds them.
        unsafe bytes.extracting(start * size..<(start + (rows - 1) * columns + width) * size).withUnsafeBytes { from in
            unsafe target.withUnsafeMutableBufferPointer { to in
                unsafe oplora_verify_widen(path.rawValue, from.baseAddress, type, rows, columns, width, stride, to.baseAddress)
            }
        }
    }

    private static func sums(
        _ updates: [VerificationUpdate], rows: Range<Int>, column: Int, width: Int, stride: Int, _ workspace: inout Workspace, _ path: MergePath
    ) {
        // One after the other, since each borrows its arrays: the first writes the sums, the others add to them.
        for (number, update) in updates.enumerated() {
            let start = (rows.lowerBound - update.firstRow) * update.rank
            // Sound: `measure` has checked the sizes; the arrays outlive the call.
            unsafe update.left.withUnsafeBufferPointer { left in
                unsafe update.packed.withUnsafeBufferPointer { right in
                    var description = unsafe oplora_verify_update(
                        left: left.baseAddress.unsafelyUnwrapped + start, right: right.baseAddress, rank: update.rank, scale: update.scale,
                        products_are_exact: update.productsAreExact ? 1 : 0, right_narrow: nil, norms_narrow: nil, largest_norm: 0)
                    unsafe workspace.weights.withUnsafeBufferPointer { weights in
                        unsafe workspace.total.withUnsafeMutableBufferPointer { total in
                            unsafe workspace.result.withUnsafeMutableBufferPointer { result in
                                unsafe oplora_verify_sums(
                                    path.rawValue, &description, number == 0 ? 1 : 0, rows.count, column, width, stride, weights.baseAddress,
                                    total.baseAddress, result.baseAddress)
                            }
                        }
                    }
                }
            }
        }
    }

    /// Brings a row of u = W + d to its magnitude; d becomes what it then is above W.
    ///
    /// - Returns: by how much y moves for what u is off by, at most.
    private static func scale(
        row: Int, at start: Int, width: Int, _ magnitude: VerificationMagnitude, firstRow: Int, _ workspace: inout Workspace
    ) -> Double {
        var largest = 0.0
        switch magnitude {
        case .ofRows(let magnitudes):
            var lanes = [Double](repeating: 0, count: 8)
            for column in 0..<width {
                let u = workspace.result[start + column]
                lanes[column % 8] += u * u
            }
            let ratio = magnitudes[row - firstRow] / norm(lanes)
            for column in 0..<width { workspace.result[start + column] *= ratio }
            largest = ratio.magnitude
        case .ofColumns(let ratios):
            for column in 0..<width { workspace.result[start + column] *= ratios[column] }
            largest = ratios.lazy.map(\.magnitude).max() ?? 0
        }
        for column in 0..<width { workspace.total[start + column] = workspace.result[start + column] - workspace.weights[start + column] }
        return largest
    }

    /// The root of the sum of eight lanes, added pairwise.
    public static func norm(_ lanes: [Double]) -> Double {
        (((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))).squareRoot()
    }

    private static func judge(
        _ block: Block, rows: Range<Int>, column: Int, width: Int, _ updates: [VerificationUpdate], _ workspace: inout Workspace,
        _ tally: inout VerificationTally
    ) {
        guard updates.count != 1 else {
            let update = updates[0]
            call(
                block, rows: rows, at: 0, column: column, width: width,
                update.rowErrors.span.extracting(droppingFirst: rows.lowerBound - update.firstRow),
                update.columnNorms.span.extracting(droppingFirst: column), scale: block.isScaled ? 0 : update.scale, roundings: 1, workspace,
                &tally)
            return
        }
        if workspace.bound.count < width { workspace.bound = [Double](repeating: 0, count: width) }
        let one = [1.0]
        for row in rows {
            for i in 0..<width {
                workspace.bound[i] = updates.reduce(0.0) { $0 + $1.rowErrors[row - $1.firstRow] * $1.columnNorms[column + i] }
            }
            call(
                block, rows: row..<row + 1, at: (row - rows.lowerBound) * block.stride, column: column, width: width, one.span,
                workspace.bound.span, scale: 0, roundings: max(1, updates.count), workspace, &tally)
        }
    }

    private static func call(
        _ block: Block, rows: Range<Int>, at start: Int, column: Int, width: Int, _ errors: Span<Double>, _ norms: Span<Double>, scale: Double,
        roundings: Int, _ workspace: borrowing Workspace, _ tally: inout VerificationTally
    ) {
        // A norm of n elements in binary32, and the division by it.
        let relative = block.isScaled ? Double(block.columns + 16) * 0x1p-24 : 0x1p-23
        // Sound: `measure` has checked the sizes; the arrays outlive the call.
        unsafe errors.withUnsafeBufferPointer { errors in
            unsafe norms.withUnsafeBufferPointer { norms in
                unsafe workspace.factors.withUnsafeBufferPointer { factors in
                    var bounds = unsafe oplora_verify_bounds(
                        errors: errors.baseAddress, norms: norms.baseAddress, relative: relative, factors: factors.baseAddress, scale: scale,
                        recipes: 0, roundings: Double(roundings), is_thorough: block.isThorough ? 1 : 0, coarse: block.isScaled ? 4 * 0x1p-9 : 0)
                    unsafe workspace.weights.withUnsafeBufferPointer { weights in
                        unsafe workspace.merged.withUnsafeBufferPointer { merged in
                            unsafe workspace.total.withUnsafeBufferPointer { total in
                                unsafe workspace.result.withUnsafeBufferPointer { result in
                                    unsafe oplora_verify_judge(
                                        block.path.rawValue, block.type, rows.count, width, block.stride,
                                        weights.baseAddress.unsafelyUnwrapped + start, merged.baseAddress.unsafelyUnwrapped + start,
                                        total.baseAddress.unsafelyUnwrapped + start, result.baseAddress.unsafelyUnwrapped + start, &bounds,
                                        Int64(block.offset + rows.lowerBound * block.columns + column), block.columns, &tally.storage)
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
