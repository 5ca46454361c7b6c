internal import FileIO
internal import Kernels
public import Safetensors
public import Tensors
public import Weights

/// A matrix of an adapter, in the element type in which it is stored: a whole tensor, or a part of one seen through strides.
public struct FactorMatrix: Sendable {
    /// The tensor's name in its file.
    public let name: String
    public let dtype: DType
    public let rows: Int
    public let columns: Int
    private let storage: Storage
    /// The dimensions of the tensor that the matrix is a view of.
    public let tensorShape: [Int]
    /// The tensor's element at [0,0] of the matrix, and the steps in elements to the next row and column.
    private let start: Int
    private let rowStride: Int
    private let columnStride: Int

    private enum Storage: Sendable {
        case weight(StoredWeight)
        case memory([UInt8])
        /// Each row of a matrix multiplied by its factor, anew each time that the elements are asked for.
        indirect case scaled(FactorMatrix, rows: [Double])
        /// The rows of several matrices, one below the other, read each time that the elements are asked for.
        indirect case joined([FactorMatrix])
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

    /// A weight that stays where it is until it is read: its first dimension is the rows, the product of all others the
    /// columns. A vector is one row.
    public init(_ weight: StoredWeight) {
        self.init(name: weight.name, dtype: weight.dtype, shape: weight.shape, storage: .weight(weight))
    }

    /// A tensor of a safetensors file, likewise.
    public init(_ tensor: TensorInfo, in file: SafetensorsFile) { self.init(StoredWeight(tensor, in: file)) }

    private init(name: String, dtype: DType, shape: [Int], storage: Storage) {
        let rows = shape.count > 1 ? shape[0] : 1
        let columns = shape.dropFirst(shape.count > 1 ? 1 : 0).reduce(1, &*)
        self.init(
            name: name, dtype: dtype, rows: rows, columns: columns, storage: storage, tensorShape: shape, start: 0, rowStride: columns,
            columnStride: 1)
    }

    /// A matrix [rows, columns] in memory, row-major, little-endian.
    public init(name: String, dtype: DType, rows: Int, columns: Int, bytes: [UInt8]) {
        precondition(CheckedSize.byteCount(of: [rows, columns], dtype: dtype) == bytes.count)
        self.init(name: name, dtype: dtype, shape: [rows, columns], storage: .memory(bytes))
    }

    /// A matrix [rows, columns] in memory, row-major, in F32.
    public init(name: String, rows: Int, columns: Int, values: [Float]) {
        self.init(name: name, dtype: .f32, rows: rows, columns: columns, bytes: Self.bytes(of: values.map(\.bitPattern)))
    }

    /// A tensor in memory, likewise: its first dimension is the rows, the product of all others the columns.
    public init(name: String, shape: [Int], values: [Float]) {
        precondition(shape.reduce(1, &*) == values.count)
        self.init(name: name, dtype: .f32, shape: shape, storage: .memory(Self.bytes(of: values.map(\.bitPattern))))
    }

    /// A matrix [rows, columns] in memory, row-major, in F64.
    public init(name: String, rows: Int, columns: Int, values: [Double]) {
        self.init(name: name, dtype: .f64, rows: rows, columns: columns, bytes: Self.bytes(of: values.map(\.bitPattern)))
    }

    private static func bytes(of patterns: [some FixedWidthInteger]) -> [UInt8] {
        // Sound: every bit pattern of a number may be read as raw bytes.
        unsafe patterns.withUnsafeBytes { unsafe [UInt8]($0) }
    }

    /// The matrix in binary64 with each row multiplied by its factor.
    ///
    /// - Precondition: there is a factor for each row.
    public func scaled(rows factors: [Double]) -> FactorMatrix {
        precondition(factors.count == rows)
        return FactorMatrix(name: name, dtype: .f64, shape: shape, storage: .scaled(self, rows: factors))
    }

    /// The matrix [1, 1] that holds the number one: what makes a vector a product of two factors.
    public static var one: FactorMatrix { FactorMatrix(name: "one", rows: 1, columns: 1, values: [1 as Float]) }

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
        // Only the parts that have the rows are read.
        if case .joined(let parts) = storage, step == 1, count > 0, isContiguous, start == 0, parts.reduce(0, { $0 + $1.rows }) == rows {
            var (before, within) = (0, [FactorMatrix]())
            for part in parts {
                let (low, high) = (max(first, before), min(first + count, before + part.rows))
                if low < high { within.append(part.rows(from: low - before, count: high - low)) }
                before += part.rows
            }
            return .joined(within)
        }
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
    public func reshaped(rows: Int, columns: Int) -> FactorMatrix {
        precondition(isContiguous && rows * columns == self.rows * self.columns)
        guard rows != self.rows || columns != self.columns else { return self }
        return FactorMatrix(
            name: name, dtype: dtype, rows: rows, columns: columns, storage: storage, tensorShape: tensorShape, start: start, rowStride: columns,
            columnStride: 1)
    }

    // MARK: Elements

    private var isContiguous: Bool { columnStride == 1 && rowStride == columns || rows * columns == 0 }

    /// Calls `body` with the elements as they are stored, row-major; those of a view are gathered first.
    public func withBytes<Result>(_ body: (RawSpan) throws -> Result) rethrows -> Result {
        func visible(_ bytes: RawSpan) throws -> Result {
            if isContiguous { return try body(bytes.extracting(byteOffset..<byteOffset + byteCount)) }
            // Sound: every bit pattern of a number may be read as raw bytes.
            switch dtype.bitWidth {
            case 8: return try body(unsafe gathered(bytes, UInt8.self).span.bytes)
            case 16: return try body(unsafe gathered(bytes, UInt16.self).span.bytes)
            case 32: return try body(unsafe gathered(bytes, UInt32.self).span.bytes)
            case 64: return try body(unsafe gathered(bytes, UInt64.self).span.bytes)
            default: preconditionFailure("elements of \(dtype) share bytes, and only whole tensors of them can be read")
            }
        }
        switch storage {
        case .weight(let weight):
            // Not through the mapping where the part is known: the system maps more than what is touched, and a third of a large adapter
            // stayed in memory because it was looked at.
            let isCopied = isContiguous && (byteCount <= Self.largestCopy || !weight.isPlain)
            if isCopied, let part = Self.copy(of: weight, byteOffset, byteCount) {
                // Sound: every bit pattern of a byte may be read as a raw byte.
                return try body(unsafe part.span.bytes)
            }
            guard let range = weight.plainRange else {
                let whole = Self.copy(of: weight, 0, weight.byteCount) ?? [UInt8](repeating: 0xff, count: weight.byteCount)
                // Sound: every bit pattern of a byte may be read as a raw byte.
                return try visible(unsafe whole.span.bytes)
            }
            let file = weight.file
            defer { file.release(range) }
            return try visible(file.bytes(in: range))
        case .memory(let bytes):
            // Sound: every bit pattern of a byte may be read as a raw byte.
            return try visible(unsafe bytes.span.bytes)
        case .joined(let parts):
            let bytes = Self.bytes(of: parts)
            // Sound: every bit pattern of a byte may be read as a raw byte.
            return try visible(unsafe bytes.span.bytes)
        case .scaled(let matrix, let factors):
            var values = matrix.doubles()
            for place in values.indices { values[place] *= factors[place / matrix.columns] }
            // Sound: every bit pattern of a number may be read as raw bytes.
            return try visible(unsafe values.span.bytes)
        }
    }

    /// Where the elements of a contiguous view begin in the tensor, and how many bytes they take.
    private var byteOffset: Int { start * dtype.bitWidth / 8 }
    private var byteCount: Int { rows * columns * dtype.bitWidth / 8 }

    /// What is larger is no factor, and is looked at where it lies.
    private static let largestCopy = 1 << 24

    /// Bytes of a weight; `nil` where they cannot be read. Whoever reads through the mapping then finds out; what is computed has no
    /// mapping, and becomes NaN, which no merge passes.
    private static func copy(of weight: StoredWeight, _ first: Int, _ count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        return (try? weight.read(bytes: first..<first + count, into: &bytes)) == nil ? nil : bytes
    }

    private func gathered<Element: FixedWidthInteger & BitwiseCopyable>(_ bytes: RawSpan, _: Element.Type) -> [Element] {
        // Sound: the closure initializes `count` elements.
        unsafe [Element](unsafeUninitializedCapacity: rows * columns) { target, count in
            for row in 0..<rows {
                for column in 0..<columns {
                    let place = (start + row * rowStride + column * columnStride) * MemoryLayout<Element>.size
                    // Sound: the span checks the place, `target` has room for every element, and every bit pattern is an integer.
                    unsafe target.initializeElement(at: count, to: bytes.unsafeLoadUnaligned(fromByteOffset: place, as: Element.self))
                    count += 1
                }
            }
        }
    }

    /// The rows of several matrices, one below the other, in memory.
    ///
    /// - Precondition: there is one; all have the same columns and element type.
    public static func stacked(_ parts: [FactorMatrix]) -> FactorMatrix {
        precondition(!parts.isEmpty && parts.allSatisfy { $0.columns == parts[0].columns && $0.dtype == parts[0].dtype })
        return FactorMatrix(
            name: parts[0].name, dtype: parts[0].dtype, rows: parts.reduce(0) { $0 + $1.rows }, columns: parts[0].columns, bytes: bytes(of: parts))
    }

    /// Likewise, but the rows stay where they are until they are read.
    ///
    /// - Precondition: there is one; all have the same columns and element type.
    public static func joined(_ parts: [FactorMatrix]) -> FactorMatrix {
        precondition(!parts.isEmpty && parts.allSatisfy { $0.columns == parts[0].columns && $0.dtype == parts[0].dtype })
        guard parts.count > 1 else { return parts[0] }
        let shape = [parts.reduce(0) { $0 + $1.rows }, parts[0].columns]
        return FactorMatrix(name: parts[0].name, dtype: parts[0].dtype, shape: shape, storage: .joined(parts))
    }

    private static func bytes(of parts: [FactorMatrix]) -> [UInt8] {
        var bytes: [UInt8] = []
        // Sound: the buffer is the span's own, for as long as it is asked for.
        for part in parts { part.withBytes { span in unsafe span.withUnsafeBytes { unsafe bytes.append(contentsOf: $0) } } }
        return bytes
    }

    /// The matrix with the two halves of its rows exchanged, as some layouts have them.
    ///
    /// - Precondition: the number of rows is even.
    public var withHalvesExchanged: FactorMatrix {
        precondition(rows % 2 == 0)
        return .joined([rows(from: rows / 2, count: rows / 2), rows(from: 0, count: rows / 2)])
    }

    /// Zeros in the element type of another matrix.
    public static func zeros(like other: FactorMatrix, rows: Int, columns: Int) -> FactorMatrix {
        let bytes = [UInt8](repeating: 0, count: rows * columns * other.dtype.bitWidth / 8)
        return FactorMatrix(name: other.name, dtype: other.dtype, rows: rows, columns: columns, bytes: bytes)
    }

    /// Whether the elements are those of the other matrix, bit for bit.
    public func hasSameBytes(as other: FactorMatrix) -> Bool {
        guard dtype == other.dtype, shape == other.shape else { return false }
        return withBytes { mine in
            other.withBytes { theirs in
                // Sound: the buffers are the spans' own, for as long as they are asked for.
                unsafe mine.withUnsafeBytes { a in unsafe theirs.withUnsafeBytes { b in unsafe a.elementsEqual(b) } }
            }
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

    /// The place of the first element, row by row, that is infinite or NaN.
    public var firstNotFinite: (row: Int, column: Int)? {
        withBytes { MergeKernel.scan($0, of: dtype).firstNotFinite }.map { ($0 / columns, $0 % columns) }
    }

    /// Where an element lies in the tensor that was stored: `[3,17]`.
    public func place(row: Int, column: Int) -> String {
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
