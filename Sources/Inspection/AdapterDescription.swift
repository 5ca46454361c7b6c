package import Adapters
package import GGUF
package import JSON
internal import OrderedCollections
internal import VisibleText

/// What an adapter is, in any dialect.
package struct AdapterDescription {
    package struct Module {
        let name: String
        let rank: Int
        let alpha: Double
        /// What multiplies B·A.
        let scale: Double
    }

    package let dialect: String
    /// What the report calls it.
    private let title: String
    private let baseModel: String?
    private let targets: [String]
    private let remarks: [String]
    package let modules: [Module]

    package init(_ adapter: Adapter) {
        dialect = adapter.dialect.rawValue
        // diffusers writes it for one of its models, and others for any model.
        let isOfOneModel = adapter.dialect == .diffusers && adapter.components.isEmpty
        title = isOfOneModel ? "adapter of one model in one file" : "\(dialect) adapter"
        baseModel = adapter.baseModel
        targets = adapter.targets
        remarks = adapter.remarks
        modules = adapter.modules.map { Module(name: $0.label.text, rank: $0.rank, alpha: $0.alpha, scale: $0.scale) }
    }

    /// The adapter in a GGUF file; `nil` where it holds none.
    package init?(_ file: GGUFFile) {
        guard file.metadata["general.type"]?.stringValue == "adapter" else { return nil }
        dialect = "gguf"
        title = "gguf adapter"
        baseModel = file.metadata["general.base_model.0.name"]?.stringValue
        targets = []
        let alpha = file.metadata["adapter.lora.alpha"]?.doubleValue
        remarks = alpha == nil ? ["the file has no adapter.lora.alpha, so its scale is not known"] : []
        // A is [rank, in], as in the other dialects, and an embedding's [vocabulary, rank]; llama.cpp takes the scale alpha/rank, or 1 where alpha
        // is 0.
        let suffix = ".lora_a"
        modules = file.tensors.values.compactMap { tensor in
            guard tensor.name.hasSuffix(suffix), tensor.shape.count == 2,
                let rank = tensor.name.hasPrefix("token_embd.") ? tensor.shape.last : tensor.shape.first, rank > 0, let alpha
            else { return nil }
            return Module(
                name: String(tensor.name.dropLast(suffix.count)), rank: rank, alpha: alpha, scale: alpha == 0 ? 1 : alpha / Double(rank))
        }
    }

    package var facts: [String] {
        func list(_ values: [Double]) -> String {
            let sorted = Set(values).sorted()
            return sorted.prefix(6).map(Format.number).joined(separator: ", ") + (sorted.count > 6 ? ", …" : "")
        }
        var facts = [
            "\(title): \(modules.count) modules, rank \(list(modules.map { Double($0.rank) })), alpha \(list(modules.map(\.alpha)))"
                + ", scale \(list(modules.map(\.scale)))"
        ]
        if let baseModel { facts.append("trained on \(baseModel)") }
        if !targets.isEmpty { facts.append("targets \(targets.joined(separator: ", "))") }
        return facts + remarks
    }

    /// Modules of repeated layers that have the same update.
    package struct FoldedModules {
        let name: String
        let count: Int
        let rank: Int
        let alpha: Double
        let scale: Double
    }

    /// The modules with repeated layers folded.
    package var folded: [FoldedModules] {
        struct Update: Hashable {
            let rank: Int
            let alpha: Double
            let scale: Double
        }
        var names = FoldedNames<Update>()
        for module in modules { names.insert(module.name, Update(rank: module.rank, alpha: module.alpha, scale: module.scale)) }
        return names.groups.map { group in
            let update = group.attributes
            return FoldedModules(name: group.name, count: group.count, rank: update.rank, alpha: update.alpha, scale: update.scale)
        }
    }

    package var json: JSONValue {
        [
            "dialect": .string(dialect), "rank": modules.map(\.rank).max().map { .integer($0) } ?? .null,
            "alpha": modules.first.map { .real($0.alpha) } ?? .null, "base": baseModel.map { .string($0) } ?? .null,
            "targets": .array(targets.map { .string($0) }),
            "modules": .array(
                modules.map {
                    ["module": .string($0.name), "rank": .integer($0.rank), "alpha": .real($0.alpha), "scale": .real($0.scale)]
                }),
        ]
    }
}
