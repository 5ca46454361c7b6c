internal import Kernels
internal import Methods
internal import Safetensors
internal import Synchronization
internal import Tensors
internal import Weights

/// Rows whose updates no kernel makes in one go: they are made in binary64 and rounded at the end. Among them are all whose norms an
/// adapter gives (DoRA).
extension ShardRun {
    /// What the updates make of some rows of W, in binary64.
    private func update(_ job: TensorJob, rows: Range<Int>, _ updates: [ReadyUpdate], _ source: inout [UInt8], into wide: inout [Double]) throws {
        let columns = job.columns
        let count = rows.count * columns
        try readElements(rows.lowerBound * columns..<rows.upperBound * columns, of: job.source, into: &source)
        if wide.count < count { wide = [Double](repeating: 0, count: count) }
        // Sound: every bit pattern of a number may be read as raw bytes.
        let weights = unsafe source.span.bytes.extracting(0..<count * job.source.dtype.bitWidth / 8)
        updates.apply(to: weights, job.source.dtype, into: &wide, rows: rows, columns: columns, path: options.path)
    }

    func mergeWideRows(
        _ number: Int, _ rows: Range<Int>, _ updates: [ReadyUpdate], magnitude: (values: Magnitude, firstRow: Int)?, _ workspace: inout Workspace
    ) throws -> MergeSums {
        let job = jobs[number]
        let columns = job.columns
        // The columns' norms are of all rows, and come first.
        let ratios: [Double]? =
            if case .ofColumns(let values)? = magnitude?.values { try self.ratios(number, magnitudes: values, updates) } else { nil }
        try update(job, rows: rows, updates, &workspace.source, into: &workspace.wide)
        let count = rows.count * columns
        Self.grow(&workspace.buffer, to: count * job.dtype.bitWidth / 8)
        let (wide, source) = (workspace.wide, workspace.source)
        let weights = unsafe source.span.bytes.extracting(0..<count * job.source.dtype.bitWidth / 8)
        var span = workspace.buffer.mutableSpan
        // Sound: every bit pattern of a byte may be written.
        var target = unsafe span.mutableBytes
        guard let magnitude else {
            return MergeKernel.round(
                wide, weights: weights, weightType: job.source.dtype, into: &target, mergedType: job.dtype, rows: rows.count, columns: columns)
        }
        if let ratios {
            return MagnitudeKernel.scaleColumns(
                wide, by: ratios.span, weights: weights, weightType: job.source.dtype, into: &target, mergedType: job.dtype, rows: rows.count)
        }
        let norms = Array(magnitude.values.values.doubles()[rows.lowerBound - magnitude.firstRow..<rows.upperBound - magnitude.firstRow])
        return MagnitudeKernel.scaleRows(
            wide, to: norms.span, weights: weights, weightType: job.source.dtype, into: &target, mergedType: job.dtype, columns: columns)
    }

    /// m/‖u‖ of the columns of a weight. The first worker that needs them computes them over all rows; the others wait.
    private func ratios(_ number: Int, magnitudes: FactorMatrix, _ updates: [ReadyUpdate]) throws -> [Double] {
        let job = jobs[number]
        let columns = job.columns
        return try columnRatios.withLock { known in
            if let ratios = known[number] { return ratios }
            var source: [UInt8] = []
            var wide: [Double] = []
            var scaling = ColumnScaling(columns: columns)
            let step = max(1, MergePlan.pieceBytes / 8 / columns)
            for start in stride(from: 0, to: job.elementCount / columns, by: step) {
                let rows = start..<min(start + step, job.elementCount / columns)
                try update(job, rows: rows, updates, &source, into: &wide)
                scaling.add(wide, rows: rows)
            }
            let ratios = scaling.ratios(to: magnitudes)
            known[number] = ratios
            return ratios
        }
    }
}
