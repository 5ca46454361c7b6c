internal import Kernels
internal import Safetensors

/// ΔW [rows, columns] of a weight before and after a fine-tuning, block by block from the files; it is never whole in memory.
struct WeightDifference {
    let base: FactorMatrix
    let tuned: FactorMatrix

    /// - Precondition: both have the same shape.
    init(base: FactorMatrix, tuned: FactorMatrix) {
        precondition(base.shape == tuned.shape)
        self.base = base
        self.tuned = tuned
    }

    var rows: Int { base.rows }
    var columns: Int { base.columns }

    /// Elements of a block: with the narrow matrices beside it, it fits the cache of the second level.
    private static let blockElements = 1 << 16

    private func forEachBlock(_ body: (_ rows: Range<Int>, _ values: [Double]) -> Void) {
        let step = max(4, Self.blockElements / max(columns, 1) / 4 * 4)
        for first in stride(from: 0, to: rows, by: step) {
            let count = min(step, rows - first)
            var values = tuned.rows(from: first, count: count).doubles()
            let before = base.rows(from: first, count: count).doubles()
            for place in values.indices { values[place] -= before[place] }
            body(first..<first + count, values)
        }
    }

    /// ‖ΔW‖², and whether it is a number.
    var squaredNorm: Double {
        var sum = 0.0
        forEachBlock { _, values in for value in values { sum += value * value } }
        return sum
    }

    /// ΔW·V for V [columns, width].
    func times(_ right: Matrix) -> Matrix {
        let (narrow, width) = right.padded
        var result: [Double] = []
        result.reserveCapacity(rows * width)
        forEachBlock { block, values in
            var part = [Double](repeating: 0, count: block.count * width)
            PanelKernel.addProduct(values.span, rows: block.count, columns: columns, narrow.span, width: width, to: &part)
            result += part
        }
        return Matrix(unpadding: result, rows: rows, columns: right.columns, width: width)
    }

    /// ΔWᵀ·U for U [rows, width].
    func transposedTimes(_ right: Matrix) -> Matrix {
        let (narrow, width) = right.padded
        var result = [Double](repeating: 0, count: columns * width)
        forEachBlock { block, values in
            PanelKernel.addTransposedProduct(
                values.span, rows: block.count, columns: columns, narrow.span.extracting(block.lowerBound * width..<block.upperBound * width),
                width: width, to: &result)
        }
        return Matrix(unpadding: result, rows: columns, columns: right.columns, width: width)
    }

    /// ‖ΔW − B·A‖² for B [rows, rank] and A [rank, columns].
    func squaredDistance(b: Matrix, a: Matrix) -> Double {
        let (narrow, width) = a.padded
        var sum = 0.0
        forEachBlock { block, values in
            var product = [Double](repeating: 0, count: block.count * width)
            PanelKernel.addProduct(
                b.values.span.extracting(block.lowerBound * b.columns..<block.upperBound * b.columns), rows: block.count, columns: b.columns,
                narrow.span, width: width, to: &product)
            for row in 0..<block.count {
                for column in 0..<columns {
                    let rest = values[row * columns + column] - product[row * width + column]
                    sum += rest * rest
                }
            }
        }
        return sum
    }
}
