internal import Kernels
internal import Methods
internal import Tensors

/// An update as the merge computes it.
enum ReadyUpdate: Sendable {
    case kernel(MergeFactors)
    /// Row by row; `shift` is what the number of a row is larger by in the update.
    case evaluated(any PreparedUpdate, shift: Int)
}

extension [ReadyUpdate] {
    /// The factors of the updates, where kernels take all of them.
    var kernels: [MergeFactors]? {
        let factors = compactMap { if case .kernel(let factors) = $0 { factors } else { nil } }
        return factors.count == count ? factors : nil
    }

    /// What the updates, one after the other, make of rows of W, in binary64.
    ///
    /// - Parameters:
    ///   - weights: the rows of W, row-major.
    ///   - wide: takes as many elements, and may have more.
    func apply(
        to weights: RawSpan, _ dtype: DType, into wide: inout [Double], rows: Range<Int>, columns: Int, path: MergePath = .best
    ) {
        func merge(_ weights: RawSpan, _ dtype: DType, _ factors: [MergeFactors], _ wide: inout [Double]) {
            var span = wide.mutableSpan
            // Sound: every bit pattern of a number may be written as raw bytes.
            var target = unsafe span.mutableBytes
            _ = MergeKernel.mergeRows(
                weights: weights, weightType: dtype, into: &target, mergedType: .f64, rows: rows, columns: columns, factors: factors, path: path)
        }
        // Those that kernels take and that follow one another are one call; the first widens the rows.
        var next = prefix { if case .kernel = $0 { true } else { false } }.count
        merge(weights, dtype, self[..<next].compactMap { if case .kernel(let factors) = $0 { factors } else { nil } }, &wide)
        while next < count {
            switch self[next] {
            case .kernel(let factors):
                let numbers = wide
                // Sound: every bit pattern of a number may be read as raw bytes.
                merge(unsafe numbers.span.bytes.extracting(0..<rows.count * columns * 8), .f64, [factors], &wide)
            case .evaluated(let update, let shift):
                update.apply(to: &wide, rows.lowerBound + shift..<rows.upperBound + shift)
            }
            next += 1
        }
    }
}

extension TensorUpdate {
    /// The update as the merge computes it.
    ///
    /// - Throws: `MergeError.factorNotFinite` where the file has changed since it was checked.
    func ready() throws(MergeError) -> ReadyUpdate {
        do throws(UpdateFault) {
            switch update.form {
            case .lowRank(let factors): return .kernel(try factors.merged(scale: scale, firstRow: rows.lowerBound))
            case .evaluated(let update): return .evaluated(try update.prepared(scale: scale), shift: firstRow - rows.lowerBound)
            }
        } catch {
            throw MergeError(error, adapter: adapterPath)
        }
    }
}

extension MergeError {
    init(_ fault: UpdateFault, adapter: String) {
        self.init(fault.code == .notFinite ? .factorNotFinite : .shapeMismatch, path: adapter, tensor: fault.subject, fault.message)
    }
}
