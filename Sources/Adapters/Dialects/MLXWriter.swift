internal import FileIO
internal import JSON
internal import Methods

extension MLX {
    /// Writes a folder that mlx-lm loads.
    static func write(_ adapter: Adapter, to path: String, base: BaseModel?, options: AdapterOptions) throws -> [String] {
        let layout = "mlx-lm"
        let adapter = try base?.gatheringTies(adapter, path: path, layout: layout) ?? adapter
        try adapter.requireOneModel(path: path, layout: layout)
        try adapter.replacements.requireNone(path: path, layout: layout)
        if let base, let module = adapter.modules.first(where: { $0.kind == .experts }) {
            func refuse(_ what: String) -> AdapterError {
                AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text, "\(layout) has no form for an update of experts \(what)")
            }
            if base.interleavesExperts { throw refuse("whose gate and up projections the model interleaves") }
            if base.takesExpertsInputsForOutputs {
                throw refuse("of this family, whose inputs PEFT takes for outputs")
            }
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
            if case .ofColumns = module.magnitude {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text,
                    "its magnitudes are the norms of inputs, and an adapter of mlx-lm has those of outputs")
            }
        }
        // Its loader wants one rank and one scale.
        let (uniform, notes) = try adapter.with(modules: modules).uniform()
        let names = try MLXNames(uniform.modules, dialect: adapter.dialect, base: base, path: path)
        let (rank, scale) = (uniform.modules.first?.rank ?? 0, uniform.modules.first?.scale ?? 0)
        var tensors: [OutputTensor] = []
        for module in uniform.modules {
            let name = try names.name(of: module)
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
        let keys = Set(try modules.map { key(of: try names.name(of: $0)) }).sorted()
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
            try OutputTensor.write(
                tensors, to: folder.path(of: weightsName), metadata: TrainerMetadata.header(of: adapter), options: options, isInFolder: true)
        }
        try folder.publish(durable: options.isDurable)
        return notes
    }

    /// The name by which mlx-lm looks for a module: from its layer on, or the whole path outside of the layers.
    static func key(of path: String) -> String {
        let components = path.split(separator: ".")
        guard let number = components.firstIndex(where: { Int($0) != nil }), number + 1 < components.count else { return path }
        return components[(number + 1)...].joined(separator: ".")
    }
}
