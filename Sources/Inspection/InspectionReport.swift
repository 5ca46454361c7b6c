package import JSON
package import Kernels
internal import OrderedCollections
internal import Tensors
internal import VisibleText
internal import Weights

/// What `inspect` prints of one path.
package struct InspectionReport {
    /// What to print of the tensors.
    package enum Detail {
        case tree, tensors, none
    }

    package let inspection: InspectedFile
    /// The tensors that the user asked for, in the order that they asked for; `nil` for all in the order of the file.
    package let selection: [InspectedTensor]?
    /// One for each of `tensors`, or none at all.
    package let statistics: [TensorStatistics?]?

    package init(inspection: InspectedFile, selection: [InspectedTensor]?, statistics: [TensorStatistics?]?) {
        self.inspection = inspection
        self.selection = selection
        self.statistics = statistics
    }

    package var tensors: [InspectedTensor] { selection ?? inspection.source.tensors }

    // MARK: For people

    /// - Parameter way: how metadata is shown in full that is too long to be.
    package func lines(detail: Detail, metadata: Bool, wayToMetadata way: String) -> [String] {
        let totals = inspection.totals
        var lines = [inspection.path] + inspection.facts.map { "  " + $0 }
        lines.append(
            "  \(Format.count(totals.all.elements)) elements in \(Format.count(totals.all.tensors, "tensor")), \(Format.bytes(totals.all.bytes))")
        lines += Self.table(
            (totals.types + totals.roles).map { total in
                [
                    total.name, "\(Format.count(total.elements)) elements", Format.count(total.tensors, "tensor"), Format.bytes(total.bytes),
                    Format.percent(total.bytes, of: totals.all.bytes),
                ]
            }
        ).map { "    " + $0 }
        lines += metadataLines(inFull: metadata, way).map { "  " + $0 }
        if let adapter = inspection.adapter, detail == .tree {
            lines += Self.table(
                adapter.folded.map { modules in
                    [
                        modules.name, "rank \(modules.rank)", "alpha \(Format.number(modules.alpha))",
                        "scale \(Format.number(modules.scale))\(modules.count > 1 ? " ×\(modules.count)" : "")",
                    ]
                }
            ).map { "  " + $0 }
        }
        if let statistics {
            lines += zip(tensors, statistics).map { "  \($0.name)  \($0.type) \(describe(shape: $0.shape))  \($1?.text ?? "not measured")" }
        } else {
            switch detail {
            case .none: break
            case .tensors: lines += tensors.map { "  \($0.name)  \($0.type) \(describe(shape: $0.shape))  \($0.byteCount) bytes  \($0.file)" }
            case .tree: lines += Self.table(groups.map { [$0.name, $0.formText] }).map { "  " + $0 }
            }
        }
        return lines
    }

    /// The tensors that are shown, with repeated layers folded.
    package var groups: [FoldedNames<TensorForm>.Group] {
        guard let selection else { return inspection.groups }
        var names = FoldedNames<TensorForm>()
        for tensor in selection { names.insert(tensor.name, TensorForm(type: tensor.type, shape: tensor.shape)) }
        return names.groups
    }

    private func metadataLines(inFull: Bool, _ way: String) -> [String] {
        let fields = inspection.metadata.map { (key: $0.key, value: $0.value.stringValue ?? $0.value.serialized()) }
        if inFull { return fields.map { "\($0.key): \($0.value)" } }
        guard !fields.isEmpty else { return [] }
        let short = "metadata: " + fields.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
        return [fields.count <= 4 && short.utf8.count <= 100 ? short : "metadata: \(fields.count) fields, \(way)"]
    }

    /// Lines whose columns, but the last, are of one width each.
    private static func table(_ rows: [[String]]) -> [String] {
        let columns = rows.first?.count ?? 0
        let widths = (0..<max(0, columns - 1)).map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            zip(row, widths).map { $0 + String(repeating: " ", count: $1 - $0.count + 2) }.joined() + (row.last ?? "")
        }
    }

    // MARK: For scripts

    package var json: JSONValue {
        let totals = inspection.totals
        var object: OrderedDictionary<String, JSONValue> = [
            "schema": "oplora.inspect/1", "path": .string(inspection.path), "kind": .string(inspection.kind.rawValue),
            "parameters": .integer(totals.all.elements), "bytes": .integer(totals.all.bytes),
            "facts": .array(inspection.facts.map { .string($0) }), "types": Self.json(totals.types, key: "dtype"),
            "roles": Self.json(totals.roles, key: "role"), "metadata": .object(inspection.metadata),
        ]
        if let model = inspection.model { object["model"] = model.json }
        if let adapter = inspection.adapter { object["adapter"] = adapter.json }
        if let run = inspection.run { object["run"] = run.json }
        if let method = inspection.method { object["method"] = .string(method) }
        if let merge = inspection.merge { object["merge"] = merge.json }
        object["tensors"] = .array(
            tensors.enumerated().map { index, tensor in
                var fields: OrderedDictionary<String, JSONValue> = [
                    "name": .string(tensor.name), "dtype": .string(tensor.type.name), "shape": .array(tensor.shape.map { .integer($0) }),
                    "bytes": .integer(tensor.byteCount), "role": .string(tensor.role.rawValue), "file": .string(tensor.file),
                ]
                if let statistics { fields["stats"] = statistics[index]?.json ?? .null }
                return .object(fields)
            })
        return .object(object)
    }

    private static func json(_ totals: [TensorTotals.Total], key: String) -> JSONValue {
        .array(
            totals.map {
                .object([
                    key: .string($0.name), "tensors": .integer($0.tensors), "parameters": .integer($0.elements), "bytes": .integer($0.bytes),
                ])
            })
    }
}

extension FoldedNames<TensorForm>.Group {
    /// `BF16 [576,576] ×30`.
    package var formText: String { "\(attributes.type) \(describe(shape: attributes.shape))\(count > 1 ? " ×\(count)" : "")" }
}
