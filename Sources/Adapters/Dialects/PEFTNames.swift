internal import JSON
internal import Safetensors

/// Names of other tools as PEFT has them: those of the model in memory, in transformers.
extension Adapter {
    /// - Parameter path: what is written.
    /// - Throws: `AdapterError.unsupportedFeature` where only the base tells the names.
    func namedAsInMemory(_ base: BaseModel?, path: String) throws(AdapterError) -> Adapter {
        switch dialect {
        // They have them already. A run or networks of OP-LoRA have those that their author gave them.
        case .peft, .opck, .opLoRA: return self
        case .kohya, .diffusers, .mlx, .gguf, .extraction: break
        }
        guard let base, let configuration = base.configuration, configuration["model_type"] != nil, !base.files.isPipeline else {
            if dialect == .mlx, let module = modules.first(where: { $0.path.components.first == "language_model" }) {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text,
                    "what transformers calls the language model in a model of text and pictures depends on the family; name the base with --base")
            }
            return self
        }
        let names = MemoryNames(configuration)
        return with(
            modules: modules.map { module in
                let parts = names.inMemory("\(module.path).\(module.parameter)").split(separator: ".")
                guard let parameter = parts.last, let path = ModulePath(parts.dropLast().joined(separator: ".")) else { return module }
                return module.changing { ($0.path, $0.parameter) = (path, String(parameter)) }
            },
            replacements: replacements.map {
                Replacement(tensor: names.inMemory($0.tensor), values: $0.values, rows: $0.rows, isOfNewModule: $0.isOfNewModule)
            })
    }
}
