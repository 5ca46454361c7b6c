internal import Methods
internal import OrderedCollections

extension Kohya {
    /// Writes a file of kohya's layout, the dots of its modules' names turned to underscores. The modules of a U-Net have diffusers'
    /// names, those of most transformers their authors'.
    static func write(_ given: Adapter, to path: String, base: BaseModel?, options: AdapterOptions) throws -> [String] {
        let layout = "kohya's layout"
        let (adapter, notes) = try DenoiserNames(given, base: base, path: path).forKohya()
        try adapter.replacements.requireNone(path: path, layout: layout)
        var tensors: [OutputTensor] = []
        var names: [String: ModulePath] = [:]
        var roundedAlphas = 0
        for module in adapter.modules {
            try module.require([.linear, .convolution], path: path, layout: layout, magnitudes: true)
            guard let prefix = prefix(of: module.component, among: adapter.components) else {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text, "\(layout) has no name for the component \(module.component ?? "")")
            }
            let name = prefix + ModuleIndex.flattened(module.path.text)
            if let other = names.updateValue(module.label, forKey: name) {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text, "it and \(other) would have the same flattened name, \(name)")
            }
            let ones = module.kernel.map { _ in 1 }
            let inputs = module.inputs / module.kernel.reduce(1, &*)
            tensors.append(OutputTensor("\(name).lora_down.weight", [module.rank, inputs] + module.kernel, module.loraA))
            tensors.append(OutputTensor("\(name).lora_up.weight", [module.outputs, module.rank] + ones, module.loraB))
            let alpha = module.plainAlpha
            guard Float(alpha) != 0 || alpha == 0, Float(alpha).isFinite else {
                throw AdapterError(
                    .invalidScale, path: path, subject: module.label.text, "its alpha is \(alpha); \(layout) has alphas in F32, which cannot hold it")
            }
            if Double(Float(alpha)) != alpha { roundedAlphas += 1 }
            let number = FactorMatrix(name: name + ".alpha", rows: 1, columns: 1, values: [Float(alpha)])
            tensors.append(OutputTensor("\(name).alpha", [], number, keepsType: true))
            switch module.magnitude {
            case .ofRows(let values)?: tensors.append(OutputTensor("\(name).dora_scale", [module.outputs, 1] + ones, values))
            case .ofColumns(let values)?: tensors.append(OutputTensor("\(name).dora_scale", [1, inputs] + ones, values))
            case nil: break
            }
        }
        try OutputTensor.write(
            tensors, to: path,
            metadata: TrainerMetadata.header(
                of: adapter, ["ss_network_module": "networks.lora"].merging(TrainerMetadata.sizes(of: adapter.modules)) { $1 }), options: options)
        return notes
            + (roundedAlphas == 0 ? [] : ["the layout's alphas are F32: those of \(roundedAlphas) modules were rounded, and their scales with them"])
    }

    private static func prefix(of component: String?, among components: [String]) -> String? {
        switch component {
        case nil: "lycoris_"
        case "text_encoder": components.contains("text_encoder_2") ? "lora_te1_" : "lora_te_"
        case "text_encoder_2": "lora_te2_"
        case "text_encoder_3": "lora_te3_"
        case "unet", "transformer", "transformer_2", "diffusion_model": "lora_unet_"
        default: nil
        }
    }
}
