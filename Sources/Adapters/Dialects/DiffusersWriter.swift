internal import FileIO
internal import JSON
internal import OrderedCollections

extension Diffusers {
    /// Writes the folder that `save_lora_weights` writes: PEFT's names and configurations, each with its component's name.
    static func write(_ given: Adapter, to path: String, base: BaseModel?, options: AdapterOptions) throws -> [String] {
        let adapter = try DenoiserNames(given, base: base, path: path).forDiffusers()
        if let module = adapter.modules.first(where: { $0.component == nil }) {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: module.label.text,
                "diffusers wants to know of which component of a pipeline the module is", cause: .needsComponent)
        }
        // The name of a tensor that was trained whole begins with its component's.
        if let stray = adapter.replacements.first(where: { item in !adapter.components.contains { item.tensor.hasPrefix($0 + ".") } }) {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: stray.tensor,
                "the tensor is of no component that has an adapted module, and diffusers has no form for it")
        }
        var tensors: [OutputTensor] = []
        var fields: OrderedDictionary<String, JSONValue> = [:]
        for component in adapter.components {
            let part = adapter.selecting(component: component)
            let content = try PEFT.Content(part.modules, replacements: part.replacements, path: path)
            tensors += content.tensors.map { $0.renamed("\(component).\($0.name)") }
            for (key, value) in content.configuration(options).objectValue ?? [:] {
                fields["\(component).\(key)"] = key.hasSuffix("_pattern") && component.hasPrefix("text_encoder") ? withoutOuterModel(value) : value
            }
        }
        let folder = try AtomicFolder(path: path, replacing: options.isReplacing)
        try folder.fill {
            try OutputTensor.write(
                tensors, to: folder.path(of: weightsName), metadata: metadata(fields, of: adapter), options: options, isInFolder: true)
        }
        try folder.publish(durable: options.isDurable)
        return []
    }

    /// The patterns of a text encoder without the name of its outer model, which transformers has given up in some versions: they match
    /// the ends of paths, with it and without.
    private static func withoutOuterModel(_ patterns: JSONValue) -> JSONValue {
        guard let members = patterns.objectValue else { return patterns }
        let outer = ["text_model.", "^text_model\\."]
        return .object(
            OrderedDictionary(
                members.map { key, value in
                    (String(key.dropFirst(outer.first(where: key.hasPrefix)?.count ?? 0)), value)
                }, uniquingKeysWith: { first, _ in first }))
    }

    /// Writes the file that `save_lora_adapter` of a model writes: PEFT's names, and the configuration in the header.
    static func writeSingleModel(_ adapter: Adapter, to path: String, options: AdapterOptions) throws -> [String] {
        try adapter.requireOneModel(path: path, layout: "a file of one model")
        let content = try PEFT.Content(adapter.modules, replacements: adapter.replacements, holdsParameters: true, path: path)
        try OutputTensor.write(
            content.tensors, to: path, metadata: metadata(content.configuration(options).objectValue ?? [:], of: adapter), options: options)
        return []
    }

    private static func metadata(_ fields: OrderedDictionary<String, JSONValue>, of adapter: Adapter) -> [String: String] {
        TrainerMetadata.header(
            of: adapter, ["format": "pt", metadataKey: JSONValue.object(fields).serialized(pretty: true, sortedKeys: true)])
    }
}
