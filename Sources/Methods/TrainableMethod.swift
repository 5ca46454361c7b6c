public import Kernels

/// A method of training an adapter: its parameters, how they start, and what becomes of them.
public protocol TrainableMethod: AdapterParameters {
    /// What `--method` and checkpoints call it: `op-lora`.
    static var name: String { get }
    /// Whether its parameters are those of hypernetworks, which have settings of their own.
    static var hasHypernetworks: Bool { get }
    /// Whether the input of the low-rank path may be thinned.
    static var takesDropout: Bool { get }
    /// Whether the forward pass must keep the outputs of adapted layers, because it scales them.
    static var scalesOutputs: Bool { get }

    /// Parameters as they start.
    init(_ settings: MethodSettings)
}

extension TrainableMethod {
    public static var hasHypernetworks: Bool { false }
    public static var takesDropout: Bool { true }
    public static var scalesOutputs: Bool { false }
}

/// What parameters are made for.
public struct MethodSettings: Sendable {
    public let modules: [AdaptedModule]
    /// The base's weights of the modules; `nil` where parameters are only read from a file.
    public let weights: [WeightMatrix]?
    public let rank: Int
    /// s in W + s·B·A.
    public let scale: Float
    public let hypernetwork: HypernetworkSettings
    public let seed: UInt64
    /// How many moments the optimizer keeps of each parameter.
    public let moments: Int
    public let compute: Compute

    public init(
        modules: [AdaptedModule], weights: [WeightMatrix]?, rank: Int, scale: Float, hypernetwork: HypernetworkSettings, seed: UInt64, moments: Int,
        compute: Compute
    ) {
        (self.modules, self.weights, self.rank, self.scale) = (modules, weights, rank, scale)
        (self.hypernetwork, self.seed, self.moments, self.compute) = (hypernetwork, seed, moments, compute)
    }
}

/// The table of methods that are trained here.
public struct TrainingMethod: Sendable, Equatable, CaseIterable, RawRepresentable {
    public let rawValue: String

    private static let table: [any TrainableMethod.Type] = [OPLoRAParameters.self, LoRAParameters.self, DoRAParameters.self]

    public static let allCases = table.map { TrainingMethod($0) }
    public static let opLoRA = TrainingMethod(OPLoRAParameters.self)
    public static let lora = TrainingMethod(LoRAParameters.self)

    private init(_ type: any TrainableMethod.Type) { rawValue = type.name }

    public init?(rawValue: String) {
        guard Self.table.contains(where: { $0.name == rawValue }) else { return nil }
        self.rawValue = rawValue
    }

    /// The row of the table.
    public var type: any TrainableMethod.Type {
        guard let type = Self.table.first(where: { $0.name == rawValue }) else { preconditionFailure("a method is a row of the table") }
        return type
    }
}
