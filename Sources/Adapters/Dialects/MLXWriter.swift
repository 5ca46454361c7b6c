internal import FileIO
internal import JSON

extension MLX {
    /// Writes a folder that mlx-lm loads.
    static func write(_ adapter: Adapter, to path: String, base: BaseModel?, options: AdapterOptions) throws -> [String] {
        let layout = "mlx-lm"
        let adapter = try base?.gatheringTies(adapter, path: path, layout: layout) ?? adapter
        try adapter.requireOneModel(path: path, layout: layout)
        try adapter.replacements.requireNone(path: path, layout: layout)
        if let module = adapter.modules.first(where: { $0.kind == .experts }), base?.storesExpertsTransposed == true {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: module.label.text,
                "\(layout) has no form for an update of experts whose gate and up projections the model interleaves")
        }
        // Models of mlx-lm have the gate and the up projections of experts apart.
        let modules = adapter.modules.flatMap {
            $0.kind == .experts && $0.parameter == AdapterModule.fused && $0.outputs % 2 == 0 ? $0.cutIntoGateAndUp() : [$0]
        }
        let usesMagnitudes = modules.contains { $0.magnitude != nil }
        for module in modules {
            try module.require(
                [.linear, .transposedLinear, .embedding, .experts], path: path, layout: layout,
                magnitudes: module.kind == .linear || module.kind == .transposedLinear)
            if usesMagnitudes, module.magnitude == nil {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text,
                    "other modules have magnitudes (DoRA) and this one has none; in an adapter of mlx-lm all have or none")
            }
            if case .ofInputs = module.magnitude {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text,
                    "its magnitudes are the norms of inputs, and an adapter of mlx-lm has those of outputs")
            }
        }
        // Its loader wants one rank and one scale.
        let (uniform, notes) = try adapter.with(modules: modules).uniform()
        let (rank, scale) = (uniform.modules.first?.rank ?? 0, uniform.modules.first?.scale ?? 0)
        var tensors: [OutputTensor] = []
        for module in uniform.modules {
            let name = try name(of: module, base: base, path: path)
            if module.kind == .experts {
                let a = FactorMatrix.stacked(module.factors.map(\.a))
                let b = FactorMatrix.stacked(module.factors.map(\.b))
                tensors.append(OutputTensor("\(name).lora_a", [module.factors.count, rank, module.inputs], a))
                tensors.append(OutputTensor("\(name).lora_b", [module.factors.count, module.outputs, rank], b))
            } else {
                tensors.append(OutputTensor("\(name).lora_a", [module.inputs, rank], module.loraA.transposed))
                tensors.append(OutputTensor("\(name).lora_b", [rank, module.outputs], module.loraB.transposed))
            }
            if let magnitude = module.magnitude { tensors.append(OutputTensor("\(name).m", [module.outputs], magnitude.values)) }
        }
        let keys = Set(try modules.map { key(of: try name(of: $0, base: base, path: path)) }).sorted()
        let configuration: JSONValue = [
            "fine_tune_type": usesMagnitudes ? "dora" : "lora",
            "lora_parameters": [
                "dropout": .real(options.dropout), "keys": .array(keys.map { .string($0) }), "rank": .integer(rank), "scale": .real(scale),
            ],
            "model": options.baseModel.map { .string($0) } ?? .null,
            // Zero means all of them.
            "num_layers": 0,
        ]
        let folder = try AtomicFolder(path: path, replacing: options.isReplacing)
        try folder.fill {
            let text = try AtomicFile(path: folder.path(of: configurationName), replacing: false)
            try text.write(Array(configuration.serialized(pretty: true, sortedKeys: true).utf8))
            try text.publish(durable: options.isDurable)
            try OutputTensor.write(tensors, to: folder.path(of: weightsName), metadata: [:], options: options, isInFolder: true)
        }
        try folder.publish(durable: options.isDurable)
        return notes
    }

    /// The name that mlx-lm has for a module.
    private static func name(of module: AdapterModule, base: BaseModel?, path: String) throws(AdapterError) -> String {
        let isOfText = module.path.text.hasPrefix("model.language_model.") || base?.configuration?["text_config"]?.objectValue != nil
        let name = plainName(of: module, base: base)
        guard isOfText else { return name }
        // A model of text and images has its text part under a name of its own.
        let inner = name.split(separator: ".").drop { $0 == "model" || $0 == "language_model" }
        guard let first = inner.first, ["layers", "embed_tokens", "norm", "lm_head"].contains(first) else {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: module.label.text,
                "mlx-lm runs the text part of the model alone, and the module is of another one")
        }
        return "language_model." + (first == "lm_head" ? "" : "model.") + inner.joined(separator: ".")
    }

    private static func plainName(of module: AdapterModule, base: BaseModel?) -> String {
        guard module.kind == .experts, module.path.lastComponent == "experts" else { return module.path.text }
        var owner = module.path.components.dropLast().map(String.init)
        // It keeps Mixtral's own name for the layer, which transformers has given up.
        if owner.last == "mlp", base?.resolve((owner + ["gate", "weight"]).joined(separator: "."))?.contains(".block_sparse_moe.") == true {
            owner[owner.count - 1] = "block_sparse_moe"
        }
        return (owner + ["switch_mlp", module.parameter]).joined(separator: ".")
    }

    /// The name by which mlx-lm looks for a module: from its layer on, or the whole path outside of the layers.
    private static func key(of path: String) -> String {
        let components = path.split(separator: ".")
        guard let number = components.firstIndex(where: { Int($0) != nil }), number + 1 < components.count else { return path }
        return components[(number + 1)...].joined(separator: ".")
    }
}
