internal import Methods

/// ΔW, without the scale, of an update that is evaluated by its method.
struct EvaluatedMatrix: StreamedMatrix {
    let rows: Int
    let columns: Int
    private let update: any PreparedUpdate

    /// - Precondition: the update is a sum with W.
    /// - Throws: `UpdateFault`.
    init(_ update: any UpdateMethod, _ evaluated: any EvaluatedUpdate) throws(UpdateFault) {
        precondition(update.isSum)
        (rows, columns) = (update.outputs, update.inputs)
        self.update = try evaluated.prepared(scale: 1)
    }

    func forEachBlock(_ body: (_ rows: Range<Int>, _ values: [Double]) -> Void) {
        forEachBlock { first, count in
            var values = [Double](repeating: 0, count: count * columns)
            update.apply(to: &values, first..<first + count)
            return values
        } _: {
            body($0, $1)
        }
    }
}
