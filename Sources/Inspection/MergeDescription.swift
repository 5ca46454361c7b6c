internal import FileIO
package import JSON
internal import VisibleText

/// What the receipt in a model's folder says of the merge that the model came from.
package struct MergeDescription {
    private struct Part {
        let name: String
        let dialect: String
        let weight: Double
    }

    private let base: String
    private let adapters: [Part]
    /// Whether the adapters were taken out.
    private let isTaking: Bool

    package static let receiptName = "oplora-merge.json"
    private static let maximumBytes = 1 << 28

    /// - Returns: `nil` where the folder has no receipt that can be read.
    package init?(folder: String) {
        let path = FileSystem.join(folder, Self.receiptName)
        guard FileSystem.exists(path), let text = try? FileSystem.contents(of: path, limit: Self.maximumBytes),
            let receipt = try? JSONValue(parsing: text), let base = receipt["base"]?.stringValue, let adapters = receipt["adapters"]?.arrayValue
        else { return nil }
        self.base = base
        isTaking = receipt["operation"] == "unmerge"
        self.adapters = adapters.map {
            Part(
                name: $0["name"]?.stringValue ?? "an adapter", dialect: $0["dialect"]?.stringValue ?? "unknown",
                weight: $0["weight"]?.doubleValue ?? 1)
        }
    }

    /// One line.
    package var fact: String {
        let parts = adapters.map { part in
            // What was taken out has the weight with which it was merged, its sign turned.
            let weight = isTaking ? -part.weight : part.weight
            return "\(weight == 1 ? "" : "\(Format.number(weight)) × ")\(part.name) (\(part.dialect))"
        }
        let source = "as its \(Self.receiptName) says"
        return isTaking
            ? "an unmerge, \(source): \(parts.joined(separator: " and ")) taken out of \(base)"
            : "a merge, \(source): \(([base] + parts).joined(separator: " + "))"
    }

    package var json: JSONValue {
        [
            "base": .string(base),
            "adapters": .array(adapters.map { ["name": .string($0.name), "dialect": .string($0.dialect), "weight": .real($0.weight)] }),
        ]
    }
}
