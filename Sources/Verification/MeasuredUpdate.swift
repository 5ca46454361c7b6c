internal import Adapters
internal import FileIO
internal import Kernels
internal import Methods
internal import Tensors
internal import Weights

/// One adapter's update of a weight, ready to be evaluated by the verifier.
struct MeasuredUpdate: Sendable {
    enum Form: Sendable {
        case kernel(VerificationUpdate)
        /// Row by row; `shift` is what the number of a row is larger by in the update.
        case evaluated(any UpdateCheck, shift: Int)
    }

    let form: Form
    /// The first of the weight's rows.
    let firstRow: Int
    let columns: Int
    let magnitude: VerificationMagnitude?

    init(_ update: TensorUpdate, of work: MergeWork) throws {
        try self.init(update) { form in
            switch update.magnitude {
            case nil: nil
            case .ofRows(let values)?: .ofRows(values.doubles())
            case .ofColumns(let values)?: .ofColumns(try form.columnRatios(to: values, work, rows: update.rows))
            }
        }
    }

    /// The update without its magnitude.
    init(_ update: TensorUpdate) {
        self.init(update) { _ in nil }
    }

    private init(
        _ update: TensorUpdate, magnitude: (_ plain: MeasuredUpdate) throws -> VerificationMagnitude?
    ) rethrows {
        let form: Form =
            switch update.update.form {
            case .lowRank(let factors): .kernel(factors.verified(scale: update.scale, firstRow: update.rows.lowerBound))
            case .evaluated(let own): .evaluated(own.check(scale: update.scale), shift: update.firstRow - update.rows.lowerBound)
            }
        let plain = MeasuredUpdate(form: form, firstRow: update.rows.lowerBound, columns: update.columns, magnitude: nil)
        self.init(form: form, firstRow: plain.firstRow, columns: plain.columns, magnitude: try magnitude(plain))
    }

    private init(form: Form, firstRow: Int, columns: Int, magnitude: VerificationMagnitude?) {
        (self.form, self.firstRow, self.columns, self.magnitude) = (form, firstRow, columns, magnitude)
    }

    /// Makes of a row of W what it becomes, but for a magnitude.
    func apply(to row: inout [Double], number: Int, errors: inout [Double]) {
        switch form {
        case .kernel(let update):
            let own = update.row(number)
            for column in 0..<columns {
                row[column] += own[column]
                errors[column] += update.error(row: number, column: column)
            }
        case .evaluated(let check, let shift): check.apply(to: &row, number: number + shift, errors: &errors)
        }
    }

    /// A row of d, what the update adds to W where it is a sum.
    func row(_ number: Int) -> [Double] {
        if case .kernel(let update) = form { return update.row(number) }
        var row = [Double](repeating: 0, count: columns)
        var errors = row
        apply(to: &row, number: number, errors: &errors)
        return row
    }

    /// What brings the norms of the columns of weight + update to those of `values`, which are each for one column or for as many
    /// as there are positions in a kernel.
    private func columnRatios(to values: FactorMatrix, _ work: MergeWork, rows: Range<Int>) throws -> [Double] {
        var scaling = ColumnScalingCheck(columns: columns)
        var buffer = ByteBuffer()
        var workspace = VerificationKernel.Workspace()
        let step = max(1, MergeWork.pieceElements / max(columns, 1))
        for first in stride(from: rows.lowerBound, to: rows.upperBound, by: step) {
            let range = first..<min(first + step, rows.upperBound)
            try buffer.read(work.source, work.source.bytes(of: range.lowerBound * columns..<range.upperBound * columns))
            [self].forEachRow(of: range, base: buffer.bytes, work.source.dtype, columns: columns, &workspace) { row, result in
                scaling.add(result, number: row - rows.lowerBound)
            }
        }
        return scaling.ratios(to: values)
    }
}

extension [MeasuredUpdate] {
    /// The updates as the kernel takes them; `nil` where it does not take all.
    var kernels: [VerificationUpdate]? {
        let kernels = compactMap { if case .kernel(let update) = $0.form { update } else { nil } }
        return kernels.count == count ? kernels : nil
    }

    /// Makes of a row of W what it becomes, but for a magnitude.
    func evaluate(_ row: Int, _ result: inout [Double], _ errors: inout [Double]) {
        for update in self { update.apply(to: &result, number: row, errors: &errors) }
    }

    /// Computes rows of what W becomes, one after the other.
    ///
    /// - Precondition: there is an update.
    func forEachRow(
        of rows: Range<Int>, base: RawSpan, _ dtype: DType, columns: Int, _ workspace: inout VerificationKernel.Workspace,
        _ body: (_ row: Int, _ result: ArraySlice<Double>) -> Void
    ) {
        guard let kernels else {
            return VerificationKernel.forEachEvaluatedRow(
                base: base, baseType: dtype, rows: rows, columns: columns, magnitude: self[0].magnitude, firstRow: self[0].firstRow,
                workspace: &workspace, evaluate: evaluate, body)
        }
        VerificationKernel.forEachUpdatedRow(
            base: base, baseType: dtype, rows: rows, updates: kernels, magnitude: self[0].magnitude, workspace: &workspace, body)
    }
}
