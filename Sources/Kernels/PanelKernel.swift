internal import CKernels

/// Products with a narrow matrix in binary64. Every element is one sum in the order of its terms, so that each instruction set gives
/// the same bits.
public enum PanelKernel {
    /// The width of a narrow matrix is a multiple of this.
    public static let lanes = Int(oplora_panel_lanes)

    /// result [rows, width] += left [rows, columns] · right [columns, width].
    public static func addProduct(
        _ left: Span<Double>, rows: Int, columns: Int, _ right: Span<Double>, width: Int, to result: inout [Double], path: MergePath = .best
    ) {
        precondition(path.isSupported && width % lanes == 0)
        precondition(left.count == rows * columns && right.count == columns * width && result.count == rows * width)
        unsafe call(left, right, &result) { left, right, result in
            unsafe oplora_panel_product(path.rawValue, left, rows, columns, right, width, result)
        }
    }

    /// result [columns, width] += leftᵀ · right, with left [rows, columns] and right [rows, width].
    public static func addTransposedProduct(
        _ left: Span<Double>, rows: Int, columns: Int, _ right: Span<Double>, width: Int, to result: inout [Double], path: MergePath = .best
    ) {
        precondition(path.isSupported && width % lanes == 0)
        precondition(left.count == rows * columns && right.count == rows * width && result.count == columns * width)
        unsafe call(left, right, &result) { left, right, result in
            unsafe oplora_panel_product_transposed(path.rawValue, left, rows, columns, right, width, result)
        }
    }

    /// Calls a kernel, unless there is nothing to do. Sound: the callers have checked the sizes, and the buffers live as long as the call.
    private static func call(
        _ left: Span<Double>, _ right: Span<Double>, _ result: inout [Double],
        _ kernel: (UnsafePointer<Double>, UnsafePointer<Double>, UnsafeMutablePointer<Double>) -> Void
    ) {
        unsafe left.withUnsafeBufferPointer { left in
            unsafe right.withUnsafeBufferPointer { right in
                unsafe result.withUnsafeMutableBufferPointer { result in
                    guard let left = left.baseAddress, let right = right.baseAddress, let result = result.baseAddress else { return }
                    unsafe kernel(left, right, result)
                }
            }
        }
    }

    /// What `addProduct` computes, written as it is defined.
    public static func referenceProduct(_ left: [Double], rows: Int, columns: Int, _ right: [Double], width: Int) -> [Double] {
        (0..<rows * width).map { place in
            (0..<columns).reduce(0.0) { $0 + left[place / width * columns + $1] * right[$1 * width + place % width] }
        }
    }
}
