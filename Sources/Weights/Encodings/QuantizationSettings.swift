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

    /// - Parameter configuration: of a model or a component; `nil` where there is none.
    public init(_ configuration: JSONValue?) {
        statements = configuration.map { Self.statements(in: $0, path: []) } ?? []
    }

    /// What the library calls the way in which the model was quantized.
    public var method: String? { statements.lazy.compactMap { $0.value["quant_method"]?.stringValue }.first }

    /// The different values of a field, null not counted.
    func values(of field: String) -> [JSONValue] {
        var values: [JSONValue] = []
        for case let value? in statements.map({ $0.value[field] }) where !value.isNull && !values.contains(value) { values.append(value) }
        return values
    }

    /// Whether a statement leaves a field to the default of the library.
    func leavesOut(_ field: String) -> Bool { statements.contains { $0.value.objectValue.map { $0[field] == nil } ?? false } }

    /// The first statement of another configuration that means other codes than these, and what it should be: the fields
    /// that are stated here must be there. Libraries add more when they save a model.
    public func disagreement(with other: QuantizationSettings) -> Statement? {
        if let missing = statements.first(where: { statement in
            !other.statements.contains { Self.isContained(statement.value, in: $0.value) }
        }) {
            return missing
        }
        let added = WeightEncoding.all.flatMap(\.settings).first { !other.values(of: $0).isEmpty && values(of: $0) != other.values(of: $0) }
        return added.map { field in
            Statement(path: [field], value: values(of: field).first ?? .null)
        }
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

    private static func removed(from value: JSONValue, depth: Int) -> JSONValue {
        guard depth < maximumDepth, let members = value.objectValue else { return value }
        let kept = members.filter { !isStatement($0.key, $0.value) }
        return .object(kept.mapValues { removed(from: $0, depth: depth + 1) })
    }

    private static func isContained(_ statement: JSONValue, in other: JSONValue) -> Bool {
        guard let members = statement.objectValue else { return statement == other }
        return members.allSatisfy { $0.value.isNull || other[$0.key] == $0.value }
    }
}
