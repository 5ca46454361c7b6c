internal import FileIO
internal import Kernels
internal import Methods
internal import Safetensors
public import Tensors

/// How an adapter is written, whatever the dialect.
public struct AdapterOptions: Sendable {
    /// The model that the adapter is for: a hub name or path.
    public var baseModel: String?
    /// The element type of the factors: F32, BF16 or F16; `nil` keeps each one's own.
    public var dtype: DType?
    public var dropout: Double
    public var taskType: String?
    public var isReplacing: Bool
    /// Whether to wait until the disk holds the files.
    public var isDurable: Bool

    public init(
        baseModel: String? = nil, dtype: DType? = nil, dropout: Double = 0, taskType: String? = "CAUSAL_LM",
        isReplacing: Bool = false, isDurable: Bool = true
    ) {
        self.baseModel = baseModel
        self.dtype = dtype
        self.dropout = dropout
        self.taskType = taskType
        self.isReplacing = isReplacing
        self.isDurable = isDurable
    }
}

/// A tensor of an adapter on its way into a file.
struct OutputTensor {
    let name: String
    let shape: [Int]
    let matrix: FactorMatrix
    /// What its elements are multiplied by on the way.
    let factor: Double
    /// Whether it keeps its element type whatever is asked for.
    let keepsType: Bool

    init(_ name: String, _ shape: [Int], _ matrix: FactorMatrix, factor: Double = 1, keepsType: Bool = false) {
        precondition(shape.reduce(1, &*) == matrix.rows * matrix.columns)
        self.name = name
        self.shape = shape
        self.matrix = matrix
        self.factor = factor
        self.keepsType = keepsType
    }

    func renamed(_ name: String) -> OutputTensor { OutputTensor(name, shape, matrix, factor: factor, keepsType: keepsType) }

    /// The element type in which it is written: what has been multiplied would lose bits in a narrow one.
    func dtype(_ asked: DType?) -> DType {
        // A tensor of whole values may be of a type that is no number's.
        if keepsType || !matrix.dtype.isFloat { return matrix.dtype }
        if let asked { return asked }
        return factor == 1 || matrix.dtype == .f64 ? matrix.dtype : .f32
    }

    /// Calls `body` with the elements in the type in which they are written, each rounded once.
    ///
    /// - Throws: `AdapterError.notFinite`, and what `body` throws.
    func withBytes(as asked: DType?, path: String, _ body: (RawSpan) throws -> Void) throws {
        let dtype = dtype(asked)
        let count = matrix.rows * matrix.columns
        if factor == 1, dtype == matrix.dtype {
            if dtype.isFloat, let (row, column) = matrix.firstNotFinite {
                throw AdapterError(
                    .notFinite, path: path, subject: name, "element \(matrix.place(row: row, column: column)) is infinite or NaN")
            }
            return try matrix.withBytes(body)
        }
        let values = matrix.doubles().map { $0 * factor }
        var bytes = [UInt8](repeating: 0, count: count * dtype.bitWidth / 8)
        var target = bytes.mutableSpan
        var raw = unsafe target.mutableBytes
        // The merge of nothing is a conversion, rounded once.
        // Sound: every bit pattern of a number may be read as raw bytes.
        let sums = MergeKernel.mergeRows(
            weights: unsafe values.span.bytes, weightType: .f64, into: &raw, mergedType: dtype, rows: 0..<1, columns: count, factors: [])
        guard !sums.isNotFinite else {
            throw AdapterError(.notFinite, path: path, subject: name, "an element is infinite or NaN, or becomes so in \(dtype)")
        }
        // Sound: every bit pattern of a byte may be read as a raw byte.
        try body(unsafe bytes.span.bytes)
    }

    /// Writes a safetensors file.
    ///
    /// - Parameter isInFolder: whether it lies in a folder that is published as a whole.
    static func write(
        _ tensors: [OutputTensor], to path: String, metadata: [String: String], options: AdapterOptions, isInFolder: Bool = false
    ) throws {
        try check(options, path: path)
        let byName = Dictionary(tensors.map { ($0.name, $0) }, uniquingKeysWith: { $1 })
        let writer = try SafetensorsWriter(
            path: path, entries: tensors.map { .init(name: $0.name, dtype: $0.dtype(options.dtype), shape: $0.shape) }, metadata: metadata,
            replacing: options.isReplacing && !isInFolder)
        for tensor in writer.order {
            try byName[tensor.name]?.withBytes(as: options.dtype, path: path) { try writer.write($0) }
        }
        try writer.publish(durable: options.isDurable)
    }

    static func check(_ options: AdapterOptions, path: String) throws(AdapterError) {
        guard let dtype = options.dtype, !dtype.isWritable else { return }
        throw AdapterError(.unsupportedDType, path: path, "factors are written as F32, BF16 or F16, not \(dtype)")
    }
}
