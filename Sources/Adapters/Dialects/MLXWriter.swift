internal import FileIO
internal import JSON
internal import Tensors

extension MLX {
    /// Writes a folder that mlx-lm loads. Its loader wants the same rank in all modules, and one scale.
    static func write(_ adapter: Adapter, to path: String, options: AdapterOptions) throws -> [String] {
        let layout = "mlx-lm"
        try adapter.requireOneModel(path: path, layout: layout)
        try adapter.replacements.requireNone(path: path, layout: layout)
        let modules = adapter.modules
        let usesMagnitudes = modules.contains { $0.magnitude != nil }
        for module in modules {
            try module.require([.linear, .transposedLinear, .embedding], path: path, layout: layout, magnitudes: module.kind == .linear)
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
        let (scale, factors, scaleNotes) = adapter.commonScale()
        let rank = modules.map(\.rank).max() ?? 0
        var tensors: [OutputTensor] = []
        for (module, factor) in zip(modules, factors) {
            let a = module.loraA.padded(rows: rank)
            let b = module.loraB.transposed.padded(rows: rank)
            tensors.append(OutputTensor("\(module.path).lora_a", [module.inputs, rank], a.transposed))
            tensors.append(OutputTensor("\(module.path).lora_b", [rank, module.outputs], b, factor: factor))
            if let magnitude = module.magnitude { tensors.append(OutputTensor("\(module.path).m", [module.outputs], magnitude.values)) }
        }
        let padded = modules.count { $0.rank != rank }
        let notes = padded == 0 ? [] : ["the layout has one rank for all modules: the factors of \(padded) got zeros up to rank \(rank)"]
        let keys = Set(modules.map { key(of: $0.path) }).sorted()
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
        return scaleNotes + notes
    }

    /// The name by which mlx-lm looks for a module: from its layer on, or the whole path outside of the layers.
    private static func key(of path: ModulePath) -> String {
        let components = path.components
        guard let number = components.firstIndex(where: { Int($0) != nil }), number + 1 < components.count else { return path.text }
        return components[(number + 1)...].joined(separator: ".")
    }
}

extension FactorMatrix {
    /// The matrix with rows of zeros below it.
    fileprivate func padded(rows wanted: Int) -> FactorMatrix {
        guard wanted > rows else { return self }
        let zeros = [UInt8](repeating: 0, count: (wanted - rows) * columns * dtype.bitWidth / 8)
        return .stacked([self, FactorMatrix(name: name, dtype: dtype, rows: wanted - rows, columns: columns, bytes: zeros)])
    }
}
