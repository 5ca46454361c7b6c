internal import Kernels
internal import Methods
internal import Safetensors

/// ΔW [rows, columns] of a weight before and after a fine-tuning, block by block from the files.
struct WeightDifference: StreamedMatrix {
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

    func forEachBlock(_ body: (_ rows: Range<Int>, _ values: [Double]) -> Void) {
        forEachBlock { first, count in
            var values = tuned.rows(from: first, count: count).doubles()
            let before = base.rows(from: first, count: count).doubles()
            for place in values.indices { values[place] -= before[place] }
            return values
        } _: {
            body($0, $1)
        }
    }
}
