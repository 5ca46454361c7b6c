internal import Families
internal import JSON
internal import OrderedCollections
internal import Safetensors
internal import Weights

/// The names that mlx-lm gives the modules of a model.
///
/// Source: mlx-lm 0.32, the `sanitize` of each model in `models/`.
struct MLXNames {
    private let families: MLXFamilies
    private let hasBase: Bool
    /// Whether the names are mlx-lm's already.
    private let isOwn: Bool
    private let path: String
    /// Whether the model is one of text and more, of which mlx-lm has the language model under `language_model`.
    private let isInner: Bool
    /// Whether it is the language model alone of which the modules have the names in such a model.
    private let isAlone: Bool

    private static let (transformers, mlx) = ("model.language_model.", "language_model.model.")

    /// - Throws: `AdapterError.unsupportedFeature` where only the base tells the names.
    init(_ modules: [AdapterModule], dialect: Adapter.Dialect, base: BaseModel?, path: String) throws(AdapterError) {
        families = MLXFamilies(base)
        hasBase = base != nil
        isOwn = dialect == .mlx && base == nil
        self.path = path
        let family = base?.configuration?["model_type"]?.stringValue ?? ""
        let languageModel = base?.family?.mlx.languageModel
        let named = modules.first { $0.path.text.hasPrefix(Self.transformers) }
        isAlone =
            base.map { base in !base.files.tensors.keys.contains { $0.hasPrefix(Self.transformers) } && base.resolve("model.norm.weight") != nil }
            ?? false
        if let named, !isAlone, languageModel == nil {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: named.label.text,
                family.isEmpty
                    ? "what mlx-lm calls the language model in a model of text and pictures depends on the family"
                    : "what mlx-lm calls the language model in \(family) is not known here",
                cause: family.isEmpty ? .needsBase : nil)
        }
        isInner = languageModel == .wrapped || modules.contains { $0.path.text.hasPrefix(Self.mlx) }
    }

    /// - Throws: `AdapterError.unsupportedFeature` for a module that is not of the language model.
    func name(of module: AdapterModule) throws(AdapterError) -> String {
        var name = module.path.text
        if isInner {
            if module.path.components.contains(where: CompositeNames.besideText.contains) {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text,
                    "mlx-lm has the language model alone, and the module is not in it")
            }
            if name.hasPrefix(Self.transformers) {
                name = Self.mlx + name.dropFirst(Self.transformers.count)
            } else if !name.hasPrefix("language_model.") {
                name = "language_model." + name
            }
        }
        if isAlone, name.hasPrefix(Self.transformers) { name = "model." + name.dropFirst(Self.transformers.count) }
        guard module.kind == .experts else { return try ofFamily(name, module) }
        guard module.path.lastComponent == "experts" else {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: module.label.text,
                "what mlx-lm calls this stack of experts is not known here; write another layout")
        }
        if isOwn { return MLX.nameInFile(of: module) }
        try requireFamily(module)
        return "\(families.place(ofExperts: name)).\(module.parameter)"
    }

    private func ofFamily(_ name: String, _ module: AdapterModule) throws(AdapterError) -> String {
        if isOwn { return name }
        if !MLXFamilies.rules(for: name).isEmpty { try requireFamily(module) }
        switch families.outcome(for: name) {
        case .named(let name): return name
        case .refused(let reason): throw AdapterError(.unsupportedFeature, path: path, subject: module.label.text, reason)
        }
    }

    private func requireFamily(_ module: AdapterModule) throws(AdapterError) {
        guard !families.isKnown else { return }
        throw AdapterError(
            .unsupportedFeature, path: path, subject: module.label.text,
            "what mlx-lm calls the module, and whether it adapts it, depends on the family\(hasBase ? ", and the base has no config.json that says it" : "")",
            cause: hasBase ? nil : .needsBase)
    }
}
