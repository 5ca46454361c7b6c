import JSON
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

/// What `inspect` prints for scripts, and the numbers that it measures.
struct InspectTests {
    /// What the schema asks for is in the reports of a model, a run, an adapter and a file, with statistics and without.
    @Test func inspectionsHaveWhatTheirSchemaAsksFor() throws {
        let space = try Workspace()
        try space.makeMerged()
        let schema = try JSONValue(parsing: try readAll(Repository.root + "/formats/inspect.schema.json"))
        let kinds = [
            (Repository.tinyLlama, "model"), (space.path("run.opck"), "run"), (space.path("adapter"), "adapter"),
            (space.path("merged/model.safetensors"), "tensors"),
        ]
        for options in [["--json"], ["--json", "--stats"]] {
            let reports = try space.succeed(["inspect"] + options + kinds.map(\.0)).lines.map { try JSONValue(parsing: Array($0.utf8)) }
            #expect(reports.map { $0["kind"]?.stringValue } == kinds.map(\.1))
            for report in reports {
                #expect(schemaFaults(report, schema, root: schema) == [])
                let tensors = try #require(report["tensors"]?.arrayValue)
                #expect(!tensors.isEmpty && tensors.allSatisfy { ($0["stats"] != nil) == options.contains("--stats") })
            }
        }
        // The check itself can fail: each of these lacks something, or has it of another type.
        let report = try JSONValue(parsing: try space.succeed(["inspect", "--json", "--stats", space.path("adapter")]).output)
        for key in ["schema", "kind", "parameters", "bytes", "tensors"] {
            var fields = try #require(report.objectValue)
            fields[key] = nil
            #expect(schemaFaults(.object(fields), schema, root: schema) == ["\(key) is missing"])
            fields[key] = .bool(true)
            #expect(!schemaFaults(.object(fields), schema, root: schema).isEmpty, "\(key)")
        }
    }

    /// What of a JSON schema a report does not meet: types, constants, choices, required keys, of members and elements.
    private func schemaFaults(_ value: JSONValue, _ schema: JSONValue, root: JSONValue) -> [String] {
        if let reference = schema["$ref"]?.stringValue {
            guard let target = root["$defs"]?[String(reference.split(separator: "/").last ?? "")] else { return ["\(reference) leads nowhere"] }
            return schemaFaults(value, target, root: root)
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
        for (key, member) in schema["properties"]?.objectValue ?? [:] {
            if let inner = value[key] { faults += schemaFaults(inner, member, root: root).map { "\(key): \($0)" } }
        }
        if let element = schema["items"] {
            for inner in value.arrayValue ?? [] { faults += schemaFaults(inner, element, root: root) }
        }
        return faults
    }

    /// The numbers of a file that is made here, and a filter that keeps some.
    @Test func statisticsOfKnownNumbers() throws {
        let space = try Workspace()
        let floats: [Float] = [1, -3, 0, .nan, .infinity, 0.5]
        let integers: [Int16] = [-5, 7, 0]
        try writeSafetensors(
            [
                TestTensor(
                    "a.weight", .f32, [2, 3],
                    bytes: floats.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value.bitPattern >> (8 * $0)) } }),
                TestTensor("b", .i16, [3], bytes: integers.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8(truncatingIfNeeded: $0 >> 8)] }),
                TestTensor("c", .f8E4M3, [2], bytes: [1, 2]),
            ], to: space.path("known.safetensors"))
        var outputs: Set<String> = []
        for threads in ["1", "2", "3"] {
            outputs.insert(try space.succeed(["inspect", "--stats", "--json", "--threads", threads, space.path("known.safetensors")]).output)
        }
        #expect(outputs.count == 1)
        let tensors = try #require(JSONValue(parsing: outputs.first ?? "")["tensors"]?.arrayValue)
        let named = Dictionary(uniqueKeysWithValues: tensors.map { ($0["name"]?.stringValue ?? "", $0["stats"]) })
        #expect(
            named["a.weight"] == [
                "min": -3.0, "max": 1.0, "mean": -0.375, "std": .real(2.421875.squareRoot()), "zeros": 1, "nan": 1, "inf": 1,
                "histogram": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0],
            ])
        #expect(named["b"]??["min"] == -5 && named["b"]??["max"] == 7 && named["b"]??["zeros"] == 1)
        #expect(named["b"]??["histogram"] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        #expect(named["c"] == .some(.null))
        let text = try space.succeed(["inspect", "--stats", "--filter", "^a\\.", space.path("known.safetensors")]).output
        #expect(text.contains("min -3.00e0  max 1.00e0") && !text.contains("I16 [3]"), "\(text)")
    }
}
