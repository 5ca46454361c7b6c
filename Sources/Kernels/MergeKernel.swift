internal import CKernels
public import Tensors

/// The instruction sets that the merge is written for. All give the same bytes.
public enum MergePath: Int32, CaseIterable, Sendable {
    case portable = 0
    case avx2 = 1
    case avx512 = 2

    /// Whether this machine can run it.
    public var isSupported: Bool { oplora_merge_supports(rawValue) != 0 }

    /// The widest path that this machine can run.
    public static let best = allCases.last { $0.isSupported } ?? .portable
}

/// One adapter's factors for one matrix W [out, in], widened to binary64 once and laid out for the kernel.
@safe public final class MergeFactors: Sendable {
    /// The rows of the weight that the update meets begin here; there are `outputs`.
    public let firstRow: Int
    public let outputs: Int
    public let inputs: Int
    public let rank: Int
    /// What multiplies B·A.
    public let scale: Double
    /// A [rank, in] in panels of 16 columns, then B [out, rank].
    private nonisolated(unsafe) let storage: UnsafeMutablePointer<Double>
    private let paddedInputs: Int
    private let packedCount: Int
    private let productsAreExact: Bool
    /// What an estimate in binary32 needs: A once more, the norms of its columns, and a bound for each row of B.
    private nonisolated(unsafe) let floats: UnsafeMutablePointer<Float>
    private let isEstimated: Bool

    /// Why factors cannot be used: an element that is infinite or NaN.
    public struct NotFinite: Error, Equatable, Sendable {
        /// Whether it is in B; otherwise it is in A.
        public let isInB: Bool
        /// Its place in the row-major matrix.
        public let index: Int

        public init(isInB: Bool, index: Int) {
            self.isInB = isInB
            self.index = index
        }
    }

    /// - Parameters:
    ///   - loraA: A [rank, in], row-major, in F32, BF16, F16 or F64.
    ///   - loraB: B [out, rank], likewise.
    ///   - firstRow: the row of the weight that takes the first row of B·A.
    /// - Throws: `NotFinite` for the first element that is infinite or NaN, those of A first.
    public init(
        loraA: RawSpan, typeA: DType, loraB: RawSpan, typeB: DType, outputs: Int, inputs: Int, rank: Int, scale: Double, firstRow: Int = 0
    ) throws(NotFinite) {
        let a = typeA.floatElement
        let b = typeB.floatElement
        precondition(loraA.byteCount == rank * inputs * typeA.bitWidth / 8 && loraB.byteCount == outputs * rank * typeB.bitWidth / 8)
        self.firstRow = firstRow
        self.outputs = outputs
        self.inputs = inputs
        self.rank = rank
        self.scale = scale
        let panel = Int(oplora_merge_panel)
        paddedInputs = (inputs + panel - 1) / panel * panel
        packedCount = paddedInputs * rank
        productsAreExact = typeA != .f64 && typeB != .f64
        let numbers = UnsafeMutablePointer<Double>.allocate(capacity: max(packedCount + outputs * rank, 1))
        unsafe storage = numbers
        unsafe floats = .allocate(capacity: max(packedCount + paddedInputs + outputs, 1))
        let wideB = unsafe numbers + packedCount
        // Sound: the sizes have been checked above and the pointers are used only during the calls.
        let faultInA = unsafe withUnsafeTemporaryAllocation(of: Double.self, capacity: max(rank * inputs, 1)) { wide in
            let fault = unsafe loraA.withUnsafeBytes { unsafe oplora_merge_widen($0.baseAddress, a, rank * inputs, wide.baseAddress) }
            unsafe oplora_merge_pack(wide.baseAddress, rank, inputs, numbers)
            return fault
        }
        let faultInB = unsafe loraB.withUnsafeBytes { unsafe oplora_merge_widen($0.baseAddress, b, outputs * rank, wideB) }
        if productsAreExact, faultInA < 0, faultInB < 0 {
            let norms = unsafe floats + packedCount
            isEstimated = unsafe oplora_merge_estimate(numbers, wideB, rank, inputs, outputs, scale, floats, norms, norms + paddedInputs) != 0
        } else {
            isEstimated = false
        }
        if faultInA >= 0 { throw NotFinite(isInB: false, index: faultInA) }
        if faultInB >= 0 { throw NotFinite(isInB: true, index: faultInB) }
    }

    deinit {
        unsafe storage.deallocate()
        unsafe floats.deallocate()
    }

    /// The view that the kernel takes, from a row of the weight on; valid as long as `self`.
    @unsafe fileprivate func view(from row: Int) -> oplora_merge_factors {
        let norms = unsafe floats + packedCount
        return unsafe oplora_merge_factors(
            a: storage, b: storage + packedCount + (row - firstRow) * rank, rank: rank, scale: scale,
            products_are_exact: productsAreExact ? 1 : 0, is_estimated: isEstimated ? 1 : 0, a_floats: floats, column_norms: norms,
            row_errors: norms + paddedInputs + (row - firstRow))
    }
}

/// What the merge of some rows found out beside the rows themselves. The update of an element is d = Σ s·acc.
public struct MergeSums: Sendable, Equatable {
    /// Σ d².
    public var updateSquared: Double
    /// Σ d·(W′ − W), where W′ is the stored element.
    public var updateTimesChange: Double
    /// Whether an element of the result is infinite or NaN; the other sums mean nothing then.
    public var isNotFinite: Bool

    public init(updateSquared: Double = 0, updateTimesChange: Double = 0, isNotFinite: Bool = false) {
        self.updateSquared = updateSquared
        self.updateTimesChange = updateTimesChange
        self.isNotFinite = isNotFinite
    }
}

/// The merge W′ = round(W + s·B·A), as it is defined: acc = Σ over k ascending of B[o,k]·A[k,i] in binary64 from +0;
/// y = W + (s·acc), each operation rounded, adapters in order; W′ is y rounded once to nearest even into the stored type.
public enum MergeKernel {
    /// What the elements of a factor are like, which may have any number of dimensions.
    ///
    /// - Returns: the index of the first element that is infinite or NaN, and whether all elements before it are zero.
    public static func scan(_ elements: RawSpan, of dtype: DType) -> (firstNotFinite: Int?, isZero: Bool) {
        let type = dtype.floatElement
        var isZero: Int32 = 1
        // Sound: the pointer is used only during the call.
        let index = unsafe elements.withUnsafeBytes {
            unsafe oplora_merge_scan($0.baseAddress, type, $0.count / (dtype.bitWidth / 8), &isZero)
        }
        return (index < 0 ? nil : index, isZero != 0)
    }

    /// Merges a block of rows of W [out, in].
    ///
    /// - Parameters:
    ///   - weights: the rows, row-major, in `weightType`.
    ///   - merged: takes as many elements in `mergedType`.
    ///   - rows: the numbers of these rows in the whole matrix.
    ///   - columns: `in`.
    ///   - factors: the adapters in order; none converts from one type to the other.
    /// - Returns: sums that depend on the block and not on the path.
    public static func mergeRows(
        weights: RawSpan, weightType: DType, into merged: inout MutableRawSpan, mergedType: DType, rows: Range<Int>, columns: Int,
        factors: [MergeFactors], path: MergePath = .best
    ) -> MergeSums {
        let source = weightType.floatElement
        let target = mergedType.floatElement
        precondition(path.isSupported)
        precondition(weights.byteCount == rows.count * columns * weightType.bitWidth / 8)
        precondition(merged.byteCount >= rows.count * columns * mergedType.bitWidth / 8)
        precondition(
            factors.allSatisfy { $0.inputs == columns && $0.firstRow <= rows.lowerBound && rows.upperBound <= $0.firstRow + $0.outputs })
        let views = unsafe factors.map { unsafe $0.view(from: rows.lowerBound) }
        // Sound: the sizes have been checked, and `factors` keeps what the views point at alive.
        let sums = unsafe weights.withUnsafeBytes { from in
            unsafe merged.withUnsafeMutableBytes { to in
                unsafe views.withUnsafeBufferPointer { list in
                    unsafe oplora_merge_rows(
                        path.rawValue, from.baseAddress, source, to.baseAddress, target, rows.count, columns,
                        list.baseAddress, list.count)
                }
            }
        }
        withExtendedLifetime(factors) {}
        return MergeSums(
            updateSquared: sums.update_squared, updateTimesChange: sums.update_times_change, isNotFinite: sums.not_finite != 0)
    }
}

extension MergeKernel {
    /// Rounds rows of y, which updates have made of W in binary64, into the stored type.
    ///
    /// - Parameters:
    ///   - wide: y [rows, columns], row-major.
    ///   - weights: the rows of W, for the sums that are returned, in which d is y − W.
    public static func round(
        _ wide: [Double], weights: RawSpan, weightType: DType, into merged: inout MutableRawSpan, mergedType: DType, rows: Int, columns: Int
    ) -> MergeSums {
        // A product with one is the number itself.
        let ones = [Double](repeating: 1, count: columns)
        return MagnitudeKernel.scaleColumns(
            wide, by: ones.span, weights: weights, weightType: weightType, into: &merged, mergedType: mergedType, rows: rows)
    }
}

/// The merge with a magnitude (DoRA): W′ = round((m/‖u‖)·u) with u = W + s·B·A in binary64, the norms taken of rows or of
/// columns. The squares of a norm are added in eight lanes, lane j taking the elements i ≡ j mod 8 in ascending order, then
/// the lanes pairwise.
///
/// u is what `MergeKernel.mergeRows` gives in F64.
public enum MagnitudeKernel {
    /// Scales rows to the norms `magnitudes`.
    ///
    /// - Parameters:
    ///   - sums: u [rows, columns], row-major.
    ///   - magnitudes: m [rows].
    ///   - weights: the rows of W, for the sums that are returned.
    public static func scaleRows(
        _ sums: [Double], to magnitudes: Span<Double>, weights: RawSpan, weightType: DType, into merged: inout MutableRawSpan, mergedType: DType,
        columns: Int
    ) -> MergeSums {
        unsafe scale(
            sums, magnitudes, weights, weightType, into: &merged, mergedType, rows: magnitudes.count, columns: columns, oplora_merge_scale_rows)
    }

    /// Scales columns by `ratios` [columns].
    public static func scaleColumns(
        _ sums: [Double], by ratios: Span<Double>, weights: RawSpan, weightType: DType, into merged: inout MutableRawSpan, mergedType: DType,
        rows: Int
    ) -> MergeSums {
        unsafe scale(sums, ratios, weights, weightType, into: &merged, mergedType, rows: rows, columns: ratios.count, oplora_merge_scale_columns)
    }

    /// Adds the squares of rows of u to the lanes of its columns.
    ///
    /// - Parameters:
    ///   - rows: the numbers of these rows in the whole matrix.
    ///   - lanes: [8, columns].
    public static func addSquares(of sums: [Double], rows: Range<Int>, columns: Int, to lanes: inout [Double]) {
        precondition(sums.count >= rows.count * columns && lanes.count == 8 * columns)
        // Sound: the sizes have been checked and the pointers are used only during the call.
        unsafe sums.withUnsafeBufferPointer { from in
            unsafe lanes.withUnsafeMutableBufferPointer { to in
                unsafe oplora_merge_add_squares(from.baseAddress, rows.count, columns, rows.lowerBound, to.baseAddress)
            }
        }
    }

    /// m/‖u‖ for each column, from the lanes [8, columns] of all rows.
    public static func columnRatios(lanes: [Double], magnitudes: [Double]) -> [Double] {
        precondition(lanes.count == 8 * magnitudes.count)
        var ratios = [Double](repeating: 0, count: magnitudes.count)
        // Sound: the sizes have been checked and the pointers are used only during the call.
        unsafe lanes.withUnsafeBufferPointer { lanes in
            unsafe magnitudes.withUnsafeBufferPointer { magnitudes in
                unsafe ratios.withUnsafeMutableBufferPointer { ratios in
                    unsafe oplora_merge_column_ratios(lanes.baseAddress, magnitudes.baseAddress, magnitudes.count, ratios.baseAddress)
                }
            }
        }
        return ratios
    }

    @unsafe private typealias Function =
        @convention(c) (
            UnsafePointer<Double>?, UnsafePointer<Double>?, UnsafeRawPointer?, oplora_element, UnsafeMutableRawPointer?, oplora_element, Int, Int
        ) -> oplora_merge_sums

    @unsafe private static func scale(
        _ sums: [Double], _ numbers: Span<Double>, _ weights: RawSpan, _ weightType: DType, into merged: inout MutableRawSpan, _ mergedType: DType,
        rows: Int, columns: Int, _ function: Function
    ) -> MergeSums {
        let source = weightType.floatElement
        let target = mergedType.floatElement
        precondition(sums.count >= rows * columns && weights.byteCount == rows * columns * weightType.bitWidth / 8)
        precondition(merged.byteCount >= rows * columns * mergedType.bitWidth / 8)
        // Sound: the sizes have been checked and the pointers are used only during the call.
        let result = unsafe sums.withUnsafeBufferPointer { u in
            unsafe numbers.withUnsafeBufferPointer { numbers in
                unsafe weights.withUnsafeBytes { from in
                    unsafe merged.withUnsafeMutableBytes { to in
                        unsafe function(
                            u.baseAddress, numbers.baseAddress, from.baseAddress, source, to.baseAddress, target, rows, columns)
                    }
                }
            }
        }
        return MergeSums(
            updateSquared: result.update_squared, updateTimesChange: result.update_times_change, isNotFinite: result.not_finite != 0)
    }
}
