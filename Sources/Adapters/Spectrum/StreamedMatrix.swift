internal import Kernels
internal import Methods

/// A matrix ΔW [rows, columns] that is seen block by block and never whole in memory.
protocol StreamedMatrix {
    var rows: Int { get }
    var columns: Int { get }
    /// Calls `body` with some rows after the other, in binary64.
    func forEachBlock(_ body: (_ rows: Range<Int>, _ values: [Double]) -> Void)
}

extension StreamedMatrix {
    /// Calls `body` with what `make` gives of `count` rows from `first` on: as many as with the narrow matrices beside them fit the cache
    /// of the second level.
    func forEachBlock(_ make: (_ first: Int, _ count: Int) -> [Double], _ body: (_ rows: Range<Int>, _ values: [Double]) -> Void) {
        let step = max(4, (1 << 16) / max(columns, 1) / 4 * 4)
        for first in stride(from: 0, to: rows, by: step) {
            let count = min(step, rows - first)
            body(first..<first + count, make(first, count))
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
