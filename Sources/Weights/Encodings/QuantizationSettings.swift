public import JSON
internal import OrderedCollections

/// What a `config.json` says of how a model was quantized, wherever in it that stands: models of several parts say it in
/// one of them, and libraries have several names for it.
public struct QuantizationSettings: Sendable {
    /// One member of the configuration that says it.
    public struct Statement: Sendable, Equatable {
        /// The keys that lead to it, outermost first.
        public let path: [String]
        public let value: JSONValue

        /// The keys with dots between them.
        public var name: String { path.joined(separator: ".") }
    }

    /// Files of a model that say it, too.
    public static let files = ["hf_quant_config.json"]

    /// Outermost first.
    public let statements: [Statement]
    /// The names of the element type that the model's numbers have, outermost first.
    let elementTypes: [String]

    /// - Parameter configuration: of a model or a component; `nil` where there is none.
    public init(_ configuration: JSONValue?) {
        statements = configuration.map { Self.statements(in: $0, path: []) } ?? []
        elementTypes = configuration.map { Self.elementTypes(in: $0, depth: 0) } ?? []
    }

    /// What the library calls the way in which the model was quantized.
    public var method: String? { statements.lazy.compactMap { $0.value["quant_method"]?.stringValue }.first }

    /// The different values of a field, null not counted.
    func values(of field: String) -> [JSONValue] {
        var values: [JSONValue] = []
        for case let value? in statements.map({ $0.value[field] }) where !value.isNull && !values.contains(value) { values.append(value) }
        return values
    }

    /// Whether a statement of this method leaves a field to the default of the library, and none says that it is null.
    func leavesOut(_ field: String, method: String) -> Bool {
        statements.contains { $0.value["quant_method"]?.stringValue == method && $0.value[field] == nil }
            && !statements.contains { $0.value[field]?.isNull == true }
    }

    /// The first statement that another configuration does not make. Libraries add fields when they save a model.
    public func missing(in other: QuantizationSettings) -> Statement? {
        statements.first { statement in !other.statements.contains { Self.isContained(statement.value, in: $0.value) } }
    }

    /// The configuration without what says it.
    public static func removed(from configuration: JSONValue) -> JSONValue { removed(from: configuration, depth: 0) }

    // MARK: Places

    /// Members that are such a statement by their name alone, and those that are one where they have its fields.
    private static let names: Set<String> = ["quantization_config", "compression_config"]
    private static let vagueNames: Set<String> = ["quantization"]
    private static let fields = ["quant_method", "quant_algo", "weight_block_size", "bits", "group_size", "config_groups"]

    /// Configurations of models are no deeper; a hostile one may be.
    private static let maximumDepth = 8

    private static func isStatement(_ key: String, _ value: JSONValue) -> Bool {
        guard !value.isNull else { return false }
        return names.contains(key) || vagueNames.contains(key) && fields.contains { value[$0] != nil }
    }

    private static func statements(in value: JSONValue, path: [String]) -> [Statement] {
        guard path.count < maximumDepth, let members = value.objectValue else { return [] }
        let own = members.filter { isStatement($0.key, $0.value) }.map { Statement(path: path + [$0.key], value: $0.value) }
        let inner = members.filter { !isStatement($0.key, $0.value) }.flatMap { statements(in: $0.value, path: path + [$0.key]) }
        return own + inner
    }

    private static func elementTypes(in value: JSONValue, depth: Int) -> [String] {
        guard depth < maximumDepth, let members = value.objectValue else { return [] }
        return ["dtype", "torch_dtype"].compactMap { members[$0]?.stringValue }
            + members.filter { !isStatement($0.key, $0.value) }.flatMap { elementTypes(in: $0.value, depth: depth + 1) }
    }

    private static func removed(from value: JSONValue, depth: Int) -> JSONValue {
        guard depth < maximumDepth, let members = value.objectValue else { return value }
        let kept = members.filter { !isStatement($0.key, $0.value) }
        return .object(kept.mapValues { removed(from: $0, depth: depth + 1) })
    }

    private static func isContained(_ statement: JSONValue, in other: JSONValue) -> Bool {
        guard let members = statement.objectValue else { return statement == other }
        return members.allSatisfy { key, value in value.isNull || other[key].map { isContained(value, in: $0) } ?? false }
    }
}
