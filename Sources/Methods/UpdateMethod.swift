/// What an adapter does to one weight W [outputs, inputs], as its method defines it.
///
/// A method is one folder: this type, which reads the method's tensors and holds the definition that a merge computes, and its
/// `UpdateCheck`, a second evaluation for the verifier that shares no code with the first. `UpdateMethods.all` is the table.
///
/// Source of the names and formulas: docs/merge-arithmetic.md.
public protocol UpdateMethod: Sendable {
    /// As its authors write it: `LoHa`.
    static var name: String { get }
    /// What the names of its tensors end with, after the module's path and a dot; empty for a method whose tensors each dialect names
    /// otherwise, and reads by itself.
    static var parts: [String] { get }
    /// The same for tensors that all modules of a file share.
    static var sharedParts: [String] { get }
    /// What PEFT's configuration says of it; `nil` for a method that PEFT does not have, or that its dialect reads by itself.
    static var peft: PEFTFields? { get }

    /// - Throws: `UpdateFault` for parts that are missing or do not fit each other.
    init(_ parts: UpdateParts) throws(UpdateFault)

    var outputs: Int { get }
    /// Columns of W seen as a matrix: of a convolution the inputs times the positions of its kernel.
    var inputs: Int { get }
    /// What alpha is divided by; `nil` where no tensor has a rank.
    var rank: Int? { get }
    /// Everything that the adapter stores for it.
    var matrices: [FactorMatrix] { get }
    /// The update of Wᵀ.
    var transposed: Self { get }
    /// Whether it leaves every byte of W as it is.
    var isZero: Bool { get }
    /// Whether it adds to W what does not depend on W, so that it may be weighted, taken out again, and added to others.
    var isSum: Bool { get }
    /// Whether its columns may be those of a convolution though nothing in it says so.
    var mayBeOfConvolution: Bool { get }
    /// How it is computed.
    var form: UpdateForm { get }
    /// What it does to the bias, seen as a matrix of one row, where the layer has one.
    var ofBias: (any UpdateMethod)? { get }

    /// The update for a weight of this shape; `nil` where it is none for it.
    func fitting(outputs: Int, inputs: Int) -> (any UpdateMethod)?
    /// The update of some rows of W; `nil` where it cannot be cut, so that rows are taken one by one.
    func rows(_ range: Range<Int>) -> Self?
}

/// How an update is computed.
public enum UpdateForm: Sendable {
    /// W + scale·(b·a), by the fast kernels.
    case lowRank(LowRankFactors)
    /// Row by row, by the method itself.
    case evaluated(any EvaluatedUpdate)
}

/// An update that is evaluated by its method, twice: for the merge, and in code that shares nothing with that for the verifier.
public protocol EvaluatedUpdate: Sendable {
    /// - Throws: `UpdateFault` where a number of the adapter is infinite or NaN.
    func prepared(scale: Double) throws(UpdateFault) -> any PreparedUpdate
    func check(scale: Double) -> any UpdateCheck
}

extension UpdateMethod {
    public static var sharedParts: [String] { [] }
    public static var peft: PEFTFields? { nil }
    public var isSum: Bool { true }
    public var mayBeOfConvolution: Bool { false }
    /// The factors of a low-rank update.
    public var lowRank: LowRankFactors? { if case .lowRank(let factors) = form { factors } else { nil } }
    public var ofBias: (any UpdateMethod)? { nil }
    public func fitting(outputs: Int, inputs: Int) -> (any UpdateMethod)? { (self.outputs, self.inputs) == (outputs, inputs) ? self : nil }
    public func rows(_ range: Range<Int>) -> Self? { nil }

    /// How many numbers it consists of.
    public var parameterCount: Int { matrices.reduce(0) { $0 + $1.rows * $1.columns } }

    /// Whether another one is the same update by the same numbers, bit for bit.
    public func isSame(as other: any UpdateMethod) -> Bool {
        if let own = lowRank, let factors = other.lowRank { return own.a.hasSameBytes(as: factors.a) && own.b.hasSameBytes(as: factors.b) }
        let theirs = other.matrices
        return type(of: other) == Self.self && matrices.count == theirs.count && zip(matrices, theirs).allSatisfy { $0.hasSameBytes(as: $1) }
    }
}

/// A method's update of rows of W in the merge: the definition, in binary64 and in a fixed order.
public protocol PreparedUpdate: Sendable {
    /// Takes rows of W, and makes of them what they become.
    ///
    /// - Parameters:
    ///   - rows: row-major; more elements than the rows have may follow.
    ///   - range: the numbers of these rows.
    func apply(to rows: inout [Double], _ range: Range<Int>)
}

/// The same for the verifier, in code of its own.
public protocol UpdateCheck: Sendable {
    /// Takes one row of W, and makes of it what it becomes.
    ///
    /// - Parameter errors: to each element is added what the update may be off by, at most, where it is computed in binary32.
    func apply(to row: inout [Double], number: Int, errors: inout [Double])
}

/// The table of methods.
public enum UpdateMethods {
    public static let all: [any UpdateMethod.Type] = [LoRA.self, VeRA.self, LoHa.self, LoKr.self]

    /// The method that has a tensor of this name, and what comes before the part.
    public static func claim(_ tensor: String) -> (method: any UpdateMethod.Type, module: Substring, part: String)? {
        for method in all {
            for part in method.parts where tensor.hasSuffix(part) && tensor.dropLast(part.count).last == "." {
                return (method, tensor.dropLast(part.count + 1), part)
            }
        }
        return nil
    }
}

/// What PEFT's configuration says of a method.
public struct PEFTFields: Sendable {
    /// Its `peft_type`.
    public let type: String
    /// The field that holds alpha; `nil` where the scale is one.
    public let alpha: String?
    /// Fields of its own that change nothing in the result, because the tensors say the same.
    public let free: Set<String>

    public init(type: String, alpha: String?, free: Set<String>) { (self.type, self.alpha, self.free) = (type, alpha, free) }
}

/// The tensors that a file holds for one module, by the names that the method gives them.
public struct UpdateParts: Sendable {
    /// For errors.
    public let module: String
    private let own: [String: FactorMatrix]
    private let shared: [String: FactorMatrix]

    public init(module: String, _ own: [String: FactorMatrix], shared: [String: FactorMatrix] = [:]) {
        (self.module, self.own, self.shared) = (module, own, shared)
    }

    public subscript(_ part: String) -> FactorMatrix? { own[part] ?? shared[part] }

    /// - Throws: `UpdateFault.missing`.
    public func required(_ part: String) throws(UpdateFault) -> FactorMatrix {
        guard let matrix = self[part] else {
            throw UpdateFault(.missing, own.keys.sorted().first.flatMap { own[$0]?.name } ?? module, "the module \(module) has no \(part)")
        }
        return matrix
    }
}

/// Why tensors make no update.
public struct UpdateFault: Error, Sendable, Equatable {
    public enum Code: Sendable {
        /// One that the method needs is not there.
        case missing
        /// Their shapes do not fit each other.
        case shape
        /// An element is infinite or NaN.
        case notFinite
    }

    public let code: Code
    /// The tensor.
    public let subject: String
    public let message: String

    public init(_ code: Code, _ subject: String, _ message: String) { (self.code, self.subject, self.message) = (code, subject, message) }
}
