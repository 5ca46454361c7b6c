extension Adapter {
    /// Whether a component of a pipeline is a diffusion model.
    public static func isDenoiser(_ component: String) -> Bool { DiffusionNames.denoisers.contains(component) }

    /// A module, where the names are a language model's and say no component.
    public var moduleOfLanguageModel: String? { components.isEmpty && isOfLanguageModel ? modules[0].label.text : nil }

    /// How the modules of language models end in transformers, and no denoiser's all do.
    private static let endings = [
        "self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_o_proj", "mlp_gate_proj", "mlp_up_proj", "mlp_down_proj",
        "attn_c_attn", "attn_c_proj", "mlp_c_fc", "mlp_c_proj", "query_key_value", "dense_h_to_4h", "dense_4h_to_h", "embed_tokens", "lm_head",
    ]

    /// Whether a name is that of a denoiser's module, by its component or by the table of its family.
    var isOfDiffusionModel: Bool {
        if !Set(components.map(DiffusionNames.canonical)).isDisjoint(with: [DiffusionNames.denoiser]) { return true }
        let sightings = modules.map { DiffusionFamily.Sighting(parts: $0.path.components, outputs: $0.outputs, inputs: $0.inputs) }
        guard !isOfLanguageModel, let family = DiffusionFamily.candidates(sightings).first else { return false }
        return family.isUNet || sightings.allSatisfy { family.place(of: $0.parts) != nil }
    }

    /// Whether all names are those of a language model's modules, and nothing says that it is a pipeline's text encoder.
    var isOfLanguageModel: Bool {
        !modules.isEmpty
            && modules.allSatisfy { module in
                guard module.component.map(DiffusionNames.canonical) ?? DiffusionNames.denoiser == DiffusionNames.denoiser else { return false }
                let name = ModuleIndex.flattened(module.path.text)
                return !name.contains("text_model_encoder_") && Self.endings.contains(where: name.hasSuffix)
            }
    }
}
