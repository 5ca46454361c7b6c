public import Safetensors
public import Tensors

/// A low-rank adapter, whatever dialect it was stored in: for each adapted module an update ΔW = scale·B·A of its weight.
public struct Adapter: Sendable {
    /// The dialects that are read.
    public enum Dialect: String, Sendable {
        case peft
        /// A training run of this project, collapsed in memory.
        case opck
    }

    /// The file or folder that was opened.
    public let path: String
    public let dialect: Dialect
    /// The safetensors file that holds the factors; `nil` for an adapter made in memory.
    public let weightsPath: String?
    /// The model that the adapter says it was trained on: a hub name or a path.
    public let baseModel: String?
    /// The modules that the configuration says it adapts, as written there: names, or one regular expression.
    public let targets: [String]
    /// The adapted modules, sorted by path; none twice.
    public let modules: [AdapterModule]
    /// Oddities that change nothing, each one sentence.
    public let remarks: [String]

    public init(
        path: String, dialect: Dialect, weightsPath: String?, baseModel: String?, targets: [String], modules: [AdapterModule],
        remarks: [String] = []
    ) {
        self.path = path
        self.dialect = dialect
        self.weightsPath = weightsPath
        self.baseModel = baseModel
        self.targets = targets
        self.modules = modules.sorted { $0.path < $1.path }
        self.remarks = remarks
    }

    /// Opens an adapter of any dialect that is read.
    ///
    /// - Parameter path: a PEFT folder, or its `adapter_model.safetensors`.
    /// - Throws: `AdapterError`, `SafetensorsError` or `FileError`.
    public static func read(path: String) throws -> Adapter {
        try PEFT.read(path: path)
    }
}

/// One adapted module: W′ = W + scale·B·A.
public struct AdapterModule: Sendable {
    /// What kind of weight the module has, and so how B·A meets it.
    public enum Kind: String, Sendable {
        /// W [out, in], A [rank, in], B [out, rank].
        case linear
    }

    public let path: ModulePath
    public let kind: Kind
    /// A [rank, in].
    public let loraA: FactorMatrix
    /// B [out, rank].
    public let loraB: FactorMatrix
    public let alpha: Double
    /// What multiplies B·A: alpha/rank, or alpha/√rank for a rank-stabilised adapter, rounded in binary64.
    public let scale: Double

    public init(path: ModulePath, kind: Kind, loraA: FactorMatrix, loraB: FactorMatrix, alpha: Double, scale: Double) {
        precondition(loraA.rows == loraB.columns)
        self.path = path
        self.kind = kind
        self.loraA = loraA
        self.loraB = loraB
        self.alpha = alpha
        self.scale = scale
    }

    public var rank: Int { loraA.rows }
    public var inputs: Int { loraA.columns }
    public var outputs: Int { loraB.rows }
}

/// A matrix of an adapter, in the element type in which it is stored.
public struct FactorMatrix: Sendable {
    /// The tensor's name in its file.
    public let name: String
    public let dtype: DType
    public let rows: Int
    public let columns: Int
    private let storage: Storage

    private enum Storage: Sendable {
        case file(SafetensorsFile, TensorInfo)
        case values([Float])
    }

    /// A matrix that stays in its file until it is read.
    ///
    /// - Precondition: the tensor has two dimensions.
    public init(_ tensor: TensorInfo, in file: SafetensorsFile) {
        precondition(tensor.shape.count == 2)
        name = tensor.name
        dtype = tensor.dtype
        rows = tensor.shape[0]
        columns = tensor.shape[1]
        storage = .file(file, tensor)
    }

    /// A matrix [rows, columns] in memory, row-major, in F32.
    public init(name: String, rows: Int, columns: Int, values: [Float]) {
        precondition(values.count == rows * columns)
        self.name = name
        dtype = .f32
        self.rows = rows
        self.columns = columns
        storage = .values(values)
    }

    public var shape: [Int] { [rows, columns] }

    /// Calls `body` with the elements as they are stored, row-major.
    public func withBytes<Result>(_ body: (RawSpan) throws -> Result) rethrows -> Result {
        switch storage {
        case .file(let file, let tensor): return try file.withBytes(of: tensor, body)
        // Sound: every bit pattern of a number may be read as raw bytes.
        case .values(let values): return try body(unsafe values.span.bytes)
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
