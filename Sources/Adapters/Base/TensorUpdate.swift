/// What one adapter adds to one tensor of a model, as that tensor is stored: to the rows `rows` of W [·, columns] it adds
/// ΔW = scale·(left·right), and a magnitude then scales the sum.
public struct TensorUpdate: Sendable {
    /// The magnitudes of a weight-decomposed adapter, one for each output of the module: they take the place of the norms of
    /// the rows or columns of W + ΔW.
    public enum Magnitude: Sendable {
        /// [1, rows].
        case ofRows(FactorMatrix)
        /// [1, columns]; or [1, inputs] for a convolution, each the norm of all columns of the input.
        case ofColumns(FactorMatrix)

        public var values: FactorMatrix {
            switch self {
            case .ofRows(let values), .ofColumns(let values): values
            }
        }
    }

    /// The name of the tensor in the merged model.
    public let tensor: String
    /// What reports call the module.
    public let module: ModulePath
    /// Rows of the tensor, seen as a matrix whose columns are those of `right`.
    public let rows: Range<Int>
    /// [rows, rank].
    public let left: FactorMatrix
    /// [rank, columns].
    public let right: FactorMatrix
    /// The module's scale times the user's weight.
    public let scale: Double
    public let magnitude: Magnitude?
    /// Whether `right` is B, and `left` A, because the weight takes (B·A)ᵀ.
    let bIsRight: Bool
    /// The adapter's file or folder.
    public let adapterPath: String

    /// A [rank, in] and B [out, rank], whichever way the weight is stored.
    var lowRankFactors: AdapterModule.Factors { bIsRight ? .init(a: left.transposed, b: right.transposed) : .init(a: right, b: left) }

    public var rank: Int { right.rows }
    public var columns: Int { right.columns }

    /// Whether the update may change something; that of a fresh adapter does not.
    var isEffective: Bool { magnitude != nil || scale != 0 && !left.isZero && !right.isZero }

    /// Whether the update is zero everywhere because B is, so that no byte of the tensor may change.
    public var isZero: Bool { magnitude == nil && (bIsRight ? right : left).isZero }
}
