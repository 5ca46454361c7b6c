internal import Families
internal import FileIO
internal import OrderedCollections

extension Adapter {
    /// The layouts that are written.
    public enum Layout: String, Sendable, CaseIterable {
        case peft, kohya, diffusers, mlx, gguf
        /// One safetensors file with PEFT's names and the configuration in its header, as `save_lora_adapter` of a model of
        /// diffusers writes it.
        case safetensors
    }

    /// Writes the adapter in a layout. The output appears under its name only when it is whole.
    ///
    /// Every module and tensor is written, or the error names the one that the layout has no form for.
    ///
    /// - Parameters:
    ///   - path: a folder for PEFT, mlx-lm and diffusers, otherwise a file.
    ///   - base: the model that the adapter is for; GGUF needs it.
    /// - Returns: what the layout cannot say as the adapter says it, and what was done about it, each one sentence.
    /// - Throws: `AdapterError` (`.unsupportedFeature`, `.notFinite`, `.empty`), `SafetensorsError` or `FileError`.
    public func write(_ layout: Layout, to path: String, base: BaseModel? = nil, options: AdapterOptions) throws -> [String] {
        try OutputTensor.check(options, path: path)
        guard !modules.isEmpty || !replacements.isEmpty else { throw AdapterError(.empty, path: self.path, "there is no module to write") }
        let holdsOneModel = ![.kohya, .diffusers].contains(layout)
        if holdsOneModel, components.count == 1, modules.allSatisfy({ $0.component != nil }),
            replacements.allSatisfy({ $0.tensor.hasPrefix(components[0] + ".") })
        {
            return try selecting(component: components[0]).write(layout, to: path, base: base, options: options)
        }
        if namesAreFlattened, layout != .kohya {
            throw AdapterError(
                .unsupportedFeature, path: self.path, subject: modules.first?.path.text,
                "the names of modules have lost their dots, and only the base can tell where they were", cause: .needsBase)
        }
        if let module = modules.first(where: \.isInterleaved), layout != .gguf || base == nil {
            throw AdapterError(
                .unsupportedFeature, path: self.path, subject: module.label.text,
                "ggml has interleaved the rows of each head, and only the base tells how many heads there are",
                cause: .needsBase)
        }
        if let module = modules.first(where: \.takesInputsOfWeight) {
            throw AdapterError(
                .unsupportedFeature, path: self.path, subject: module.label.text,
                "its A is as wide as the widest module's (VeRA), and only the base tells how many inputs it has",
                cause: .needsBase)
        }
        try requireLowRank()
        try requireFinite()
        switch layout {
        case .peft:
            try requireOneModel(path: path, layout: "PEFT")
            let named = try namedAsInMemory(base, path: path)
            try PEFT.write(
                named.modules, replacements: named.replacements, to: path, others: base?.modulesInMemory ?? [],
                expertTargets: base?.expertTargets ?? [], saved: savedModules,
                header: TrainerMetadata.header(of: self), options: options)
            return roundedScales
        case .mlx: return try MLX.write(self, to: path, base: base, options: options)
        case .kohya: return try Kohya.write(self, to: path, base: base, options: options)
        case .diffusers: return try Diffusers.write(self, to: path, base: base, options: options) + roundedScales
        case .safetensors: return try Diffusers.writeSingleModel(self, to: path, options: options) + roundedScales
        case .gguf: return try GGUFAdapter.write(self, to: path, base: base, options: options)
        }
    }

    /// - Throws: `AdapterError.unsupportedFeature` for an update that has no factors.
    func requireLowRank() throws(AdapterError) {
        guard let module = modules.first(where: { !$0.isLowRank }) else { return }
        throw AdapterError(
            .unsupportedFeature, path: path, subject: module.label.text,
            "it is a \(module.methodName), and only the factors of a LoRA are written; resize makes a LoRA of it")
    }

    /// What happens to scales that no alpha gives: alpha/rank, or alpha/√rank for all modules, is what PEFT computes.
    private var roundedScales: [String] {
        let count = modules.count { $0.scale != $0.plainAlpha / Double($0.rank) && $0.scale != $0.alpha / Double($0.rank).squareRoot() }
        return count == 0
            ? [] : ["the scales of \(count) modules are no alpha divided by the rank, and change by a unit in the last place of binary64"]
    }

    /// The names that components of pipelines have.
    public static var componentNames: [String] { Diffusers.components }

    /// The components of the pipeline that the adapter is for.
    public var components: [String] { Set(modules.compactMap(\.component)).sorted() }

    /// The modules of one component, as an adapter of that model alone; the names lose the component.
    public func selecting(component: String) -> Adapter {
        let prefix = component + "."
        return with(
            modules: modules.filter { $0.component == component }.map { $0.changing { $0.component = nil } },
            replacements: replacements.filter { $0.tensor.hasPrefix(prefix) }.map {
                $0.named(String($0.tensor.dropFirst(prefix.count)))
            })
    }

    /// The modules of one component, which keep its name; an adapter that is of none becomes one of this component.
    ///
    /// - Throws: `AdapterError.empty` where the adapter has no module of the component.
    public func taking(component: String) throws(AdapterError) -> Adapter {
        // A denoiser of which the file does not say which one it is.
        if DiffusionNames.denoisers.contains(component), components.contains(DiffusionNames.anyDenoiser), !components.contains(component) {
            let own = DiffusionNames.anyDenoiser + "."
            return with(
                modules: modules.filter { $0.component == DiffusionNames.anyDenoiser }.map { $0.changing { $0.component = component } },
                replacements: replacements.filter { $0.tensor.hasPrefix(own) }.map {
                    $0.named("\(component).\($0.tensor.dropFirst(own.count))")
                })
        }
        guard !components.isEmpty else {
            return with(
                modules: modules.map { $0.changing { $0.component = component } },
                replacements: replacements.map { $0.named("\(component).\($0.tensor)") })
        }
        let kept = modules.filter { $0.component == component }
        guard !kept.isEmpty else {
            throw AdapterError(.empty, path: path, "the adapter has no module of \(component), only of \(components.joined(separator: ", "))")
        }
        return with(modules: kept, replacements: replacements.filter { $0.tensor.hasPrefix(component + ".") })
    }

    func with(
        modules: [AdapterModule], replacements: [Replacement]? = nil, namesAreFlattened: Bool? = nil, taskType: String?? = .none,
        metadata: OrderedDictionary<String, String>? = nil
    ) -> Adapter {
        Adapter(
            path: path, dialect: dialect, weightsPath: weightsPath, baseModel: baseModel, targets: targets, taskType: taskType ?? self.taskType,
            modules: modules,
            replacements: replacements ?? self.replacements, savedModules: savedModules, remarks: remarks,
            namesAreFlattened: namesAreFlattened ?? self.namesAreFlattened, metadata: metadata ?? self.metadata)
    }

    /// - Throws: `AdapterError` where the adapter is for several models.
    func requireOneModel(path: String, layout: String) throws(AdapterError) {
        guard Set(modules.map(\.component)).count > 1 else { return }
        throw AdapterError(
            .unsupportedFeature, path: path,
            "\(layout) has room for the adapter of one model, and this one is for \(components.joined(separator: ", "))"
                + (dialect == .extraction ? "; write diffusers' layout, which is for all" : ""),
            cause: dialect == .extraction ? nil : .hasSeveralComponents)
    }
}

extension AdapterModule {
    /// - Throws: `AdapterError` where the module is of a kind that the layout has no form for.
    func require(_ kinds: Set<Kind>, path: String, layout: String, magnitudes: Bool = false) throws(AdapterError) {
        func refuse(_ what: String) -> AdapterError {
            AdapterError(.unsupportedFeature, path: path, subject: label.text, "\(layout) has no form for \(what)")
        }
        guard kinds.contains(kind) else {
            switch kind {
            case .linear: throw refuse("an update of a linear layer")
            case .transposedLinear: throw refuse("an update of a weight that is stored as [in, out]")
            case .embedding: throw refuse("an update of an embedding")
            case .convolution: throw refuse("an update of a convolution")
            case .experts: throw refuse("updates of the stacked weights of experts")
            }
        }
        if magnitude != nil, !magnitudes { throw refuse("magnitudes (DoRA)") }
        if bias != nil { throw refuse("a bias on B (lora_bias)") }
    }
}

extension [Replacement] {
    /// - Throws: `AdapterError` where there is one.
    func requireNone(path: String, layout: String) throws(AdapterError) {
        guard let first else { return }
        throw AdapterError(
            .unsupportedFeature, path: path, subject: first.tensor,
            "\(layout) has no form for \(first.rows == nil ? "tensors that were trained whole" : "trained rows of an embedding"); PEFT's layout has, and merging takes them"
        )
    }
}
