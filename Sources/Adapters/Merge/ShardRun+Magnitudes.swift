internal import Kernels
internal import Safetensors
internal import Synchronization
internal import Tensors
internal import Weights

/// Weights whose rows or columns get the norms that an adapter gives them (DoRA).
extension ShardRun {
    /// W + s·acc of some rows, in binary64.
    private func addUpdates(_ job: TensorJob, rows: Range<Int>, factors: [MergeFactors], _ source: inout [UInt8], into wide: inout [Double]) throws {
        let columns = job.columns
        let count = rows.count * columns
        try readElements(rows.lowerBound * columns..<rows.upperBound * columns, of: job.source, into: &source)
        if wide.count < count { wide = [Double](repeating: 0, count: count) }
        // Sound: every bit pattern of a number may be read and written as raw bytes.
        let weights = unsafe source.span.bytes.extracting(0..<count * job.source.dtype.bitWidth / 8)
        var span = wide.mutableSpan
        var target = unsafe span.mutableBytes
        _ = MergeKernel.mergeRows(
            weights: weights, weightType: job.source.dtype, into: &target, mergedType: .f64, rows: rows, columns: columns, factors: factors,
            path: options.path)
    }

    func scaleRows(
        _ number: Int, _ rows: Range<Int>, _ update: TensorUpdate, _ factors: [MergeFactors], _ workspace: inout Workspace
    ) throws -> MergeSums {
        let job = jobs[number]
        let columns = job.columns
        guard let magnitude = update.magnitude else { preconditionFailure("the update has no magnitude") }
        // The columns' norms are of all rows, and come first.
        let ratios: [Double]? = if case .ofColumns(let values) = magnitude { try self.ratios(number, magnitudes: values, factors) } else { nil }
        try addUpdates(job, rows: rows, factors: factors, &workspace.source, into: &workspace.wide)
        let count = rows.count * columns
        Self.grow(&workspace.buffer, to: count * job.dtype.bitWidth / 8)
        let (wide, source) = (workspace.wide, workspace.source)
        let weights = unsafe source.span.bytes.extracting(0..<count * job.source.dtype.bitWidth / 8)
        var span = workspace.buffer.mutableSpan
        // Sound: every bit pattern of a byte may be written.
        var target = unsafe span.mutableBytes
        if let ratios {
            return MagnitudeKernel.scaleColumns(
                wide, by: ratios.span, weights: weights, weightType: job.source.dtype, into: &target, mergedType: job.dtype, rows: rows.count)
        }
        let first = update.rows.lowerBound
        let norms = Array(magnitude.values.doubles()[rows.lowerBound - first..<rows.upperBound - first])
        return MagnitudeKernel.scaleRows(
            wide, to: norms.span, weights: weights, weightType: job.source.dtype, into: &target, mergedType: job.dtype, columns: columns)
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
            let values = magnitudes.doubles()
            let ratios = Self.spread(MagnitudeKernel.columnRatios(lanes: Self.gathered(lanes, into: values.count), magnitudes: values), over: columns)
            known[number] = ratios
            return ratios
        }
    }

    /// The lanes of groups of columns with one norm each, those of a kernel's positions: the columns of a group one after another.
    private static func gathered(_ lanes: [Double], into groups: Int) -> [Double] {
        guard groups * 8 != lanes.count else { return lanes }
        let width = lanes.count / (8 * groups)
        return (0..<8 * groups).map { group in lanes[group * width + 1..<(group + 1) * width].reduce(lanes[group * width], +) }
    }

    /// The ratio of each column, from those of its group.
    private static func spread(_ ratios: [Double], over columns: Int) -> [Double] {
        guard ratios.count != columns else { return ratios }
        return (0..<columns).map { ratios[$0 / (columns / ratios.count)] }
    }
}
