internal import FileIO
internal import Kernels
public import Safetensors
public import Tensors

/// A matrix of an adapter, in the element type in which it is stored: a whole tensor, or a part of one seen through strides.
public struct FactorMatrix: Sendable {
    /// The tensor's name in its file.
    public let name: String
    public let dtype: DType
    public let rows: Int
    public let columns: Int
    private let storage: Storage
    /// The dimensions of the tensor that the matrix is a view of.
    private let tensorShape: [Int]
    /// The tensor's element at [0,0] of the matrix, and the steps in elements to the next row and column.
    private let start: Int
    private let rowStride: Int
    private let columnStride: Int

    private enum Storage: Sendable {
        case file(SafetensorsFile, TensorInfo)
        case singles([Float])
        case doubles([Double])
    }

    private init(
        name: String, dtype: DType, rows: Int, columns: Int, storage: Storage, tensorShape: [Int], start: Int, rowStride: Int, columnStride: Int
    ) {
        self.name = name
        self.dtype = dtype
        self.rows = rows
        self.columns = columns
        self.storage = storage
        self.tensorShape = tensorShape
        self.start = start
        self.rowStride = rowStride
        self.columnStride = columnStride
    }

    /// A tensor that stays in its file until it is read: its first dimension is the rows, the product of all others the
    /// columns. A vector is one row.
    public init(_ tensor: TensorInfo, in file: SafetensorsFile) {
        let rows = tensor.shape.count > 1 ? tensor.shape[0] : 1
        let columns = tensor.shape.dropFirst(tensor.shape.count > 1 ? 1 : 0).reduce(1, &*)
        self.init(
            name: tensor.name, dtype: tensor.dtype, rows: rows, columns: columns, storage: .file(file, tensor), tensorShape: tensor.shape, start: 0,
            rowStride: columns, columnStride: 1)
    }

    /// A matrix [rows, columns] in memory, row-major, in F32.
    public init(name: String, rows: Int, columns: Int, values: [Float]) {
        precondition(values.count == rows * columns)
        self.init(
            name: name, dtype: .f32, rows: rows, columns: columns, storage: .singles(values), tensorShape: [rows, columns], start: 0,
            rowStride: columns, columnStride: 1)
    }

    /// A matrix [rows, columns] in memory, row-major, in F64.
    public init(name: String, rows: Int, columns: Int, values: [Double]) {
        precondition(values.count == rows * columns)
        self.init(
            name: name, dtype: .f64, rows: rows, columns: columns, storage: .doubles(values), tensorShape: [rows, columns], start: 0,
            rowStride: columns, columnStride: 1)
    }

    /// The matrix [1, 1] that holds the number one: what makes a vector a product of two factors.
    static let one = FactorMatrix(name: "one", rows: 1, columns: 1, values: [1 as Float])

    public var shape: [Int] { [rows, columns] }

    // MARK: Views

    /// The same elements with rows and columns exchanged.
    public var transposed: FactorMatrix {
        FactorMatrix(
            name: name, dtype: dtype, rows: columns, columns: rows, storage: storage, tensorShape: tensorShape, start: start, rowStride: columnStride,
            columnStride: rowStride)
    }

    /// `count` rows, from the row `first` on, each `step` rows after the one before.
    ///
    /// - Precondition: the matrix has these rows.
    public func rows(from first: Int, step: Int = 1, count: Int) -> FactorMatrix {
        precondition(first >= 0 && step > 0 && count >= 0 && (count == 0 || first + (count - 1) * step < rows))
        return FactorMatrix(
            name: name, dtype: dtype, rows: count, columns: columns, storage: storage, tensorShape: tensorShape, start: start + first * rowStride,
            rowStride: rowStride * step, columnStride: columnStride)
    }

    /// `count` columns, from the column `first` on, each `step` columns after the one before.
    ///
    /// - Precondition: the matrix has these columns.
    public func columns(from first: Int, step: Int = 1, count: Int) -> FactorMatrix {
        transposed.rows(from: first, step: step, count: count).transposed
    }

    /// The same elements in other rows.
    ///
    /// - Precondition: they lie one after the other, and there are as many.
    func reshaped(rows: Int, columns: Int) -> FactorMatrix {
        precondition(isContiguous && rows * columns == self.rows * self.columns)
        return FactorMatrix(
            name: name, dtype: dtype, rows: rows, columns: columns, storage: storage, tensorShape: tensorShape, start: start, rowStride: columns,
            columnStride: 1)
    }

    // MARK: Elements

    private var isContiguous: Bool { columnStride == 1 && rowStride == columns || rows * columns == 0 }

    /// Calls `body` with the elements as they are stored, row-major; those of a view are gathered first.
    public func withBytes<Result>(_ body: (RawSpan) throws -> Result) rethrows -> Result {
        let size = dtype.bitWidth / 8
        func visible(_ bytes: RawSpan) throws -> Result {
            if isContiguous { return try body(bytes.extracting(start * size..<(start + rows * columns) * size)) }
            var gathered: [UInt8] = []
            gathered.reserveCapacity(rows * columns * size)
            for row in 0..<rows {
                for column in 0..<columns {
                    let place = (start + row * rowStride + column * columnStride) * size
                    // Sound: the place lies in the span, which checks it, and every bit pattern is a byte.
                    for byte in place..<place + size { gathered.append(unsafe bytes.unsafeLoad(fromByteOffset: byte, as: UInt8.self)) }
                }
            }
            return try body(unsafe gathered.span.bytes)
        }
        switch storage {
        case .file(let file, let tensor):
            // An adapter is not to stay in memory because it was looked at.
            defer { file.file.release(tensor.byteRange) }
            return try file.withBytes(of: tensor, visible)
        // Sound: every bit pattern of a number may be read as raw bytes.
        case .singles(let values): return try visible(unsafe values.span.bytes)
        case .doubles(let values): return try visible(unsafe values.span.bytes)
        }
    }

    /// The elements in binary64, row-major. Every type that a factor may have widens exactly.
    public func doubles() -> [Double] {
        withBytes { bytes in
            // Sound: `count` elements are there, and every bit pattern is a number.
            (0..<rows * columns).map { index in
                switch dtype {
                case .f64: Double(bitPattern: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 8 * index, as: UInt64.self))
                case .f32: Double(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 4 * index, as: Float.self))
                case .bf16: Double(Float(bitPattern: UInt32(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)) << 16))
                case .f16: Double(halfBits: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 2 * index, as: UInt16.self))
                default: preconditionFailure("\(dtype) is not a type that a factor may have")
                }
            }
        }
    }

    /// Whether all elements are zero.
    public var isZero: Bool { withBytes { MergeKernel.scan($0, of: dtype).isZero } }

    /// The place of the first element, row by row, that is infinite or no number.
    var firstNotFinite: (row: Int, column: Int)? {
        withBytes { MergeKernel.scan($0, of: dtype).firstNotFinite }.map { ($0 / columns, $0 % columns) }
    }

    /// Where an element lies in the tensor that was stored: `[3,17]`.
    func place(row: Int, column: Int) -> String {
        var rest = start + row * rowStride + column * columnStride
        var place: [Int] = []
        for dimension in tensorShape.reversed() {
            place.append(rest % max(dimension, 1))
            rest /= max(dimension, 1)
        }
        return describe(shape: place.reversed())
    }
}

extension Double {
    /// The value of an F16 by its bits.
    init(halfBits: UInt16) {
        let sign: FloatingPointSign = halfBits & 0x8000 != 0 ? .minus : .plus
        let exponent = Int(halfBits >> 10 & 31)
        let fraction = Double(halfBits & 0x3ff)
        switch exponent {
        case 0: self.init(sign: sign, exponent: -24, significand: fraction)
        case 31: self = fraction == 0 ? (sign == .minus ? -.infinity : .infinity) : .nan
        default: self.init(sign: sign, exponent: exponent - 25, significand: 1024 + fraction)
        }
    }
}
