internal import CKernels
public import FileIO
public import Tensors

/// A weight matrix [rows, columns] (or vector, with one row) that stays where it lies in a mapped file, in its own
/// element type; or one that was computed, in F32.
@safe public struct WeightMatrix: Sendable {
    public let name: String
    public let rows: Int
    public let columns: Int
    public let dtype: DType
    /// Keeps the memory alive.
    private let owner: any AnyObject & Sendable
    nonisolated(unsafe) let pointer: UnsafeRawPointer

    /// - Parameters:
    ///   - info: a tensor of `file` with one or two dimensions.
    /// - Returns: `nil` when the dtype is not F32, BF16 or F16, or the shape has another number of dimensions.
    public init?(file: MappedFile, info: TensorInfo) {
        guard info.dtype.isWritable, (1...2).contains(info.shape.count) else { return nil }
        name = info.name
        rows = info.shape.count == 2 ? info.shape[0] : 1
        columns = info.shape[info.shape.count - 1]
        dtype = info.dtype
        owner = file
        // Sound: the file is kept, and the reader that made `info` has checked its range against the file.
        let range = info.byteRange
        unsafe pointer = file.bytes.extracting(range).withUnsafeBytes { unsafe $0.baseAddress ?? UnsafeRawPointer(bitPattern: 64)! }
    }

    /// - Parameters:
    ///   - shape: one or two dimensions.
    ///   - values: row-major, as many as the shape asks for; they must not change any more.
    public init(name: String, shape: [Int], values: FloatView) {
        precondition((1...2).contains(shape.count) && shape.reduce(1, *) == values.count)
        self.name = name
        rows = shape.count == 2 ? shape[0] : 1
        columns = shape[shape.count - 1]
        dtype = .f32
        owner = values.storage
        // Sound: the storage is kept.
        unsafe pointer = UnsafeRawPointer(values.pointer)
    }

    var element: oplora_element { dtype.floatElement }

    /// The address of an element.
    func address(row: Int, column: Int) -> UnsafeRawPointer {
        unsafe pointer + (row * columns + column) * dtype.bitWidth / 8
    }

    /// The row and column of the first element that is NaN or infinite; `nil` when all are finite.
    public func firstNonFinite() -> (row: Int, column: Int)? {
        let index = unsafe oplora_training_kernels_best().pointee.first_non_finite(pointer, element, rows * columns)
        return index < 0 ? nil : (index / columns, index % columns)
    }

    /// All elements in F32, in a new array; for vectors and tests.
    public func floats() -> [Float] {
        var values = [Float](repeating: 0, count: rows * columns)
        unsafe values.withUnsafeMutableBufferPointer { target in
            guard let start = target.baseAddress else { return }
            unsafe oplora_training_kernels_best().pointee.widen(start, pointer, element, rows, columns, columns)
        }
        return values
    }
}
