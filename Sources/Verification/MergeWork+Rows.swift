internal import FileIO
internal import Kernels
internal import Safetensors
internal import Tensors
internal import Weights

extension MergeWork {
    /// Calls `body` with rows of W, W′ in binary64, one after the other.
    ///
    /// - Parameter rows: in their order; neighbours are read together.
    func forEachRow(of rows: [Int], _ body: (_ row: Int, _ weights: [Double], _ merged: [Double]) -> Void) throws {
        var buffers = RowBuffers()
        let most = max(1, Self.pieceElements / max(columns, 1))
        var next = 0
        while next < rows.count {
            var end = next + 1
            while end < rows.count, end - next < most, rows[end] == rows[end - 1] + 1 { end += 1 }
            let range = rows[next]..<rows[end - 1] + 1
            try read(range, into: &buffers)
            for row in range {
                func elements(of buffer: ByteBuffer, _ dtype: DType) -> [Double] {
                    (0..<columns).map { StoredElement.value(buffer.bytes, dtype, (row - range.lowerBound) * columns + $0) }
                }
                body(row, elements(of: buffers.source, source.dtype), elements(of: buffers.merged, merged.dtype))
            }
            next = end
        }
    }

    /// Measures each row by itself, and calls `body` with what was found of it.
    func forEachMeasuredRow(_ body: (_ row: Int, _ tally: VerificationTally) -> Void) throws {
        let measured = try updates.map { try MeasuredUpdate($0, of: self) }
        guard !measured.isEmpty else { return }
        var buffers = RowBuffers()
        var workspace = VerificationKernel.Workspace()
        for row in rows {
            try read(row..<row + 1, into: &buffers)
            guard case .measured(let tally) = try measure(row..<row + 1, measured, nil, isThorough: false, buffers, &workspace) else { continue }
            body(row, tally)
        }
    }

    /// Calls `body` with rows of y, what W becomes, in binary64, one after the other.
    func forEachExpectedRow(_ body: (_ row: Int, _ elements: ArraySlice<Double>) -> Void) throws {
        let measured = try updates.map { try MeasuredUpdate($0, of: self) }
        var buffer = ByteBuffer()
        var workspace = VerificationKernel.Workspace()
        let step = max(1, Self.pieceElements / max(columns, 1))
        for start in stride(from: rows.lowerBound, to: rows.upperBound, by: step) {
            let range = start..<min(start + step, rows.upperBound)
            try buffer.read(source, byteRanges(range).source)
            guard !measured.isEmpty else {
                for row in range {
                    body(row, (0..<columns).map { StoredElement.value(buffer.bytes, source.dtype, (row - start) * columns + $0) }[...])
                }
                continue
            }
            measured.forEachRow(of: range, base: buffer.bytes, source.dtype, columns: columns, &workspace, body)
        }
    }
}
