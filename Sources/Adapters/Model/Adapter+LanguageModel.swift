internal import Families

extension Adapter {
    /// Whether a component of a pipeline is a diffusion model.
    public static func isDenoiser(_ component: String) -> Bool { DiffusionNames.denoisers.contains(component) }

    /// A module, where the names are a language model's and say no component.
    public var moduleOfLanguageModel: String? { components.isEmpty && isOfLanguageModel ? modules[0].label.text : nil }

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
                return !name.contains("text_model_encoder_") && LanguageModelNames.endings.contains(where: name.hasSuffix)
            }
    }
}
