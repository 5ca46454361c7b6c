public import Methods

/// What one adapter does to one tensor of a model, as that tensor is stored: the rows `rows` of W [·, columns] become what the update
/// makes of them, and a magnitude then scales the result.
public struct TensorUpdate: Sendable {
    /// The name of the tensor in the merged model.
    public let tensor: String
    /// What reports call the module.
    public let module: ModulePath
    /// Rows of the tensor, seen as a matrix whose columns are those of the update.
    public let rows: Range<Int>
    /// Of the tensor as it is stored.
    public let update: any UpdateMethod
    /// The row of the update that the first of `rows` takes.
    public let firstRow: Int
    /// The module's scale times the user's weight.
    public let scale: Double
    /// The magnitudes of a weight-decomposed adapter.
    public let magnitude: Magnitude?
    /// Whether the tensor is the transpose of the module's weight.
    let isTransposed: Bool
    /// The adapter's file or folder.
    public let adapterPath: String

    /// - Parameters:
    ///   - rows: of the tensor.
    ///   - update: of the tensor as it is stored.
    ///   - firstRow: the row of the update that the first of `rows` takes.
    init(
        tensor: String, module: ModulePath, rows: Range<Int>, update: any UpdateMethod, from firstRow: Int = 0, scale: Double,
        magnitude: Magnitude? = nil, isTransposed: Bool = false, adapterPath: String
    ) {
        (self.tensor, self.module, self.rows, self.scale, self.magnitude) = (tensor, module, rows, scale, magnitude)
        (self.isTransposed, self.adapterPath) = (isTransposed, adapterPath)
        let cut = update.rows(firstRow..<firstRow + rows.count)
        (self.update, self.firstRow) = cut.map { ($0, 0) } ?? (update, firstRow)
    }

    /// The module's update of these rows, as the module has it; `nil` for rows of one that cannot be cut.
    var ofModule: (any UpdateMethod)? {
        guard firstRow == 0, rows.count == update.outputs else { return nil }
        return isTransposed ? update.transposed : update
    }

    /// The transpose of an update of a square weight.
    public var transposed: TensorUpdate {
        TensorUpdate(
            tensor: tensor, module: module, rows: rows, update: update.transposed, scale: scale, isTransposed: !isTransposed,
            adapterPath: adapterPath)
    }

    public var rank: Int { update.rank ?? 0 }
    public var columns: Int { update.inputs }
    /// The factors of a low-rank update of the rows.
    public var lowRank: LowRankFactors? { update.lowRank }

    /// Whether the update may change something; that of a fresh adapter does not.
    var isEffective: Bool { magnitude != nil || scale != 0 && !update.isZero && lowRank?.a.isZero != true && lowRank?.b.isZero != true }

    /// Whether no byte of the tensor may change.
    public var isZero: Bool { magnitude == nil && update.isZero }
}
