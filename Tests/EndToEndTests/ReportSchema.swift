import JSON
import OrderedCollections
import TestModels
import TestSupport

/// A schema of `formats/`, as far as those schemas go: types, constants, choices, required keys and unknown ones, of members and
/// elements.
struct ReportSchema {
    private let root: JSONValue

    init(_ command: String) throws { root = try JSONValue(parsing: try readAll(Repository.root + "/formats/\(command).schema.json")) }

    /// What of the schema a report does not meet.
    func faults(of report: JSONValue) -> [String] { faults(of: report, root) }

    private func faults(of value: JSONValue, _ schema: JSONValue) -> [String] {
        if let reference = schema["$ref"]?.stringValue {
            guard let target = root["$defs"]?[String(reference.split(separator: "/").last ?? "")] else { return ["\(reference) leads nowhere"] }
            return faults(of: value, target)
        }
        var faults: [String] = []
        let types = schema["type"]?.arrayValue?.compactMap(\.stringValue) ?? schema["type"]?.stringValue.map { [$0] } ?? []
        let own =
            switch value {
            case .null: ["null"]
            case .bool: ["boolean"]
            case .integer: ["integer", "number"]
            case .real: ["number"]
            case .string: ["string"]
            case .array: ["array"]
            case .object: ["object"]
            }
        if !types.isEmpty, !types.contains(where: own.contains) { faults.append("\(value.kind) and not \(types.joined(separator: " or "))") }
        if let constant = schema["const"], constant != value { faults.append("not \(constant.serialized())") }
        if let choices = schema["enum"]?.arrayValue, !choices.contains(value) { faults.append("\(value.serialized()) is not a choice") }
        for key in schema["required"]?.arrayValue?.compactMap(\.stringValue) ?? [] where value.objectValue != nil && value[key] == nil {
            faults.append("\(key) is missing")
        }
        let members = schema["properties"]?.objectValue ?? [:]
        for (key, member) in members {
            if let inner = value[key] { faults += self.faults(of: inner, member).map { "\(key): \($0)" } }
        }
        if schema["additionalProperties"] == .bool(false) {
            for key in value.objectValue?.keys ?? [] where members[key] == nil { faults.append("\(key) is unknown") }
        }
        if let element = schema["items"] {
            for inner in value.arrayValue ?? [] { faults += self.faults(of: inner, element) }
        }
        return faults
    }
}
