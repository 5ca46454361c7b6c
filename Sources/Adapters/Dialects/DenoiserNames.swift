internal import Families
internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// The names that the modules of a diffusion model get in a layout, so that the programs which read it know them.
struct DenoiserNames {
    private let adapter: Adapter
    private let base: BaseModel?
    /// Where the adapter is written, for errors.
    private let path: String
    /// The families that it may be for; none where the names are of none that is known.
    private let families: [DiffusionFamily]
    /// Whether no other family may have these names.
    private let isCertain: Bool
    private let layout: DiffusionNames.Layout

    init(_ adapter: Adapter, base: BaseModel?, path: String) {
        self.base = base
        self.path = path
        self.adapter = Self.placed(adapter)
        let modules = self.adapter.modules.filter { $0.component == nil || Self.isDenoiser($0) }
        let sightings = modules.map { DiffusionFamily.Sighting(parts: $0.path.components, outputs: $0.outputs, inputs: $0.inputs) }
        let ofBase = base?.denoiserFamilies ?? []
        families = ofBase.isEmpty ? DiffusionFamily.candidates(sightings) : ofBase
        isCertain = !ofBase.isEmpty || families.contains { $0.isCertain(by: sightings) }
        let stems = base.map { $0.files.tensors.keys.map { $0.split(separator: ".") } } ?? sightings.map(\.parts)
        layout = DiffusionNames.Layout(stems)
    }

    private static func isDenoiser(_ module: AdapterModule) -> Bool {
        module.component.map { DiffusionNames.denoisers.contains($0) || $0 == DiffusionNames.anyDenoiser } ?? false
    }

    /// What a model in one file has in front of the names of its parts.
    private static func placed(_ adapter: Adapter) -> Adapter {
        adapter.with(
            modules: adapter.modules.map { module in
                guard module.component == nil, let known = DiffusionNames.components.first(where: { module.path.text.hasPrefix($0.prefix) }),
                    let path = ModulePath(module.path.text.dropFirst(known.prefix.count))
                else { return module }
                return module.changing {
                    $0.path = path
                    $0.component = known.component == DiffusionNames.denoiser ? DiffusionNames.anyDenoiser : known.component
                }
            })
    }

    /// Whether a module that says no component is one of a denoiser.
    private var isOfDiffusion: Bool {
        if let base { return base.denoiserClass != nil || !base.denoiserFamilies.isEmpty }
        return !families.isEmpty
    }

    private func fault(_ module: AdapterModule, _ message: String, cause: AdapterError.Cause? = nil) -> AdapterError {
        AdapterError(.unsupportedFeature, path: path, subject: module.label.text, message, cause: cause)
    }

    /// Names that only a language model's modules have are loaded by nothing as a denoiser's.
    private func refuseLanguageModel(layout: String) throws(AdapterError) {
        guard base?.denoiserClass == nil, adapter.isOfLanguageModel, let module = adapter.modules.first else { return }
        throw fault(
            module,
            "\(layout) is loaded for denoisers of diffusion models and their text encoders, and the module is a language model's",
            cause: .isOfLanguageModel)
    }

    private var familyNames: String { families.map(\.name).joined(separator: ", ") }

    /// That names are those of several families, of which something must tell the one by more than what adapter and tensors are called.
    private func fault(ofSeveralFamilies module: AdapterModule, _ message: String) -> AdapterError {
        guard base != nil else { return fault(module, message, cause: .needsBaseForFamily) }
        return fault(
            module,
            "\(message); the base's names and shapes are those of all of them, too, so name the base in diffusers' form, a folder whose config.json says its class"
        )
    }

    private func refuseOpenCLIP(_ module: AdapterModule, layout: String) throws(AdapterError) {
        guard module.component?.hasPrefix("text_encoder") == true, module.path.text.hasPrefix("transformer.resblocks.") else { return }
        throw fault(
            module, "\(layout) wants the names of transformers for a text encoder, and this one is OpenCLIP's; convert from the folder of a pipeline")
    }

    // MARK: diffusers

    /// - Throws: `AdapterError.unsupportedFeature` where the names in diffusers are not known.
    func forDiffusers() throws(AdapterError) -> Adapter {
        try refuseLanguageModel(layout: "diffusers' layout")
        var made: [AdapterModule] = []
        for module in adapter.modules {
            guard Self.isDenoiser(module) || module.component == nil && isOfDiffusion else {
                try refuseOpenCLIP(module, layout: "diffusers")
                made.append(module)
                continue
            }
            let component = try component(of: module)
            made += try ofDiffusers(module).map { $0.changing { $0.component = component } }
        }
        return adapter.with(modules: made)
    }

    private func component(of module: AdapterModule) throws(AdapterError) -> String {
        if let own = module.component, own == "transformer_2" || base?.files.parts.contains(where: { $0.name == own }) == true { return own }
        if let parts = base?.files.parts.map(\.name).filter(DiffusionNames.denoisers.contains), parts.count == 1 { return parts[0] }
        let kinds = Set(families.map(\.component))
        if kinds.count == 1, let kind = kinds.first { return kind }
        if let own = module.component, own != DiffusionNames.anyDenoiser { return own }
        throw fault(
            module,
            "diffusers keeps the modules of a denoiser under unet. or transformer., and the names do not say which it is\(base == nil ? "" : ", nor does the base")",
            cause: base == nil ? .needsBaseOrComponent : .needsComponent)
    }

    private func ofDiffusers(_ module: AdapterModule) throws(AdapterError) -> [AdapterModule] {
        let parts = module.path.components
        if families.first?.isUNet == true {
            guard let name = DiffusionNames.diffusersName(parts, layout), let path = ModulePath(name) else { return [module] }
            return [module.changing { $0.path = path }]
        }
        let places = families.compactMap { $0.place(of: parts) }
        // The base's own names, or those that a file of diffusers had already.
        let areKnown = base?.denoiserClass != nil || module.component.map { $0 != DiffusionNames.anyDenoiser } == true
        guard let place = places.first else {
            if areKnown { return [module] }
            throw fault(
                module,
                families.isEmpty
                    ? "the family of the model is not known by the names of the modules, and so not what diffusers calls them"
                    : "what diffusers calls the module in \(familyNames) is not known here",
                cause: families.isEmpty ? .needsBaseOfDiffusers : nil)
        }
        // As diffusers has it in every family.
        if places.allSatisfy({ $0.part != nil || $0.diffusersNames == [module.path.text] }) { return [module] }
        guard places.count == families.count, places.allSatisfy({ $0.diffusersNames == place.diffusersNames }) else {
            throw fault(
                ofSeveralFamilies: module, "the names are those of \(familyNames), whose modules diffusers calls by different names")
        }
        return try cut(module, at: place)
    }

    private func rows(of name: String, _ component: String?) -> Int? {
        guard let base else { return nil }
        let names = [component, base.files.parts.first { DiffusionNames.denoisers.contains($0.name) }?.name].compactMap { $0 }
        let tensor = names.lazy.map { base.files.tensors["\($0).\(name).weight"] }.first { $0 != nil } ?? base.files.tensors["\(name).weight"]
        return tensor?.shape.first
    }

    /// A module of the authors' as those of diffusers that lie in it.
    private func cut(_ module: AdapterModule, at place: DiffusionFamily.Place) throws(AdapterError) -> [AdapterModule] {
        let names = place.diffusersNames
        var sizes = names.map { rows(of: $0, module.component) ?? module.inputs }
        if names.count == 1 || place.row.lastTakesTheRest { sizes[names.count - 1] = module.outputs - sizes.dropLast().reduce(0, +) }
        let misfit = fault(
            module,
            "its \(module.outputs) outputs are not those of \(names.joined(separator: ", ")) together, which have \(sizes.map(String.init).joined(separator: ", "))"
        )
        guard sizes.allSatisfy({ $0 > 0 }), sizes.reduce(0, +) == module.outputs else { throw misfit }
        if place.row.isExchanged { return [try exchanged(module, name: names[0])] }
        guard names.count == 1 || module.kind == .linear && module.bias == nil else { throw misfit }
        var first = 0
        var made: [AdapterModule] = []
        for (name, size) in zip(names, sizes) {
            guard let path = ModulePath(name) else { continue }
            guard let part = module.changing({ $0.path = path }).taking(rows: first, count: size) else {
                throw fault(module, "magnitudes (DoRA) of inputs cannot be cut into those of \(names.joined(separator: ", "))")
            }
            made.append(part)
            first += size
        }
        return made
    }

    /// The module with the two halves of its rows the other way round, as diffusers has them.
    private func exchanged(_ module: AdapterModule, name: String) throws(AdapterError) -> AdapterModule {
        guard let path = ModulePath(name), let exchanged = module.withHalvesExchanged else {
            throw fault(
                module,
                "\(name) has the two halves of its outputs the other way round, and those of this update cannot be exchanged")
        }
        return exchanged.changing { $0.path = path }
    }

    // MARK: kohya

    /// - Throws: `AdapterError.unsupportedFeature` where the names that the readers of kohya's layout know are not known.
    func forKohya() throws -> (adapter: Adapter, notes: [String]) {
        // Whoever wrote these names meant them.
        guard !adapter.namesAreFlattened else { return (adapter, []) }
        try refuseLanguageModel(layout: "kohya's layout")
        var made: [AdapterModule] = []
        var fused: OrderedDictionary<String, (place: DiffusionFamily.Place, parts: [Int: AdapterModule])> = [:]
        for module in adapter.modules {
            guard Self.isDenoiser(module) || module.component == nil && isOfDiffusion else {
                try refuseOpenCLIP(module, layout: "kohya's layout")
                guard module.component != nil else {
                    throw fault(
                        module,
                        "kohya's layout is loaded for denoisers of diffusion models and their text encoders, and the names do not say of which the module is",
                        cause: base == nil ? .needsBaseOrComponent : .needsComponent)
                }
                made.append(module)
                continue
            }
            let module = module.changing { $0.component = $0.component ?? DiffusionNames.anyDenoiser }
            guard let place = try authorsPlace(of: module), let part = place.part else {
                made.append(module)
                continue
            }
            let key = "\(module.component ?? "").\(place.authorsName)"
            fused[key, default: (place, [:])].parts[part] = module
        }
        var notes: [String] = []
        for (place, parts) in fused.values {
            let (module, said) = try joined(parts, at: place)
            made.append(module)
            notes += said
        }
        return (adapter.with(modules: made), notes)
    }

    /// Whether the module has a name that some program takes already, of whatever family it is.
    private func isAnyones(_ module: AdapterModule) -> Bool {
        module.component == DiffusionNames.anyDenoiser && adapter.dialect != .extraction && base?.denoiserClass == nil
    }

    /// Where a module stands among the authors', if it must be renamed.
    private func authorsPlace(of module: AdapterModule) throws(AdapterError) -> DiffusionFamily.Place? {
        let parts = module.path.components
        let places = families.map { $0.place(of: parts) }
        // What keeps its name in all families that it may be of.
        let keeps = zip(families, places).allSatisfy { family, place in
            family.kohyaNames == .any || family.kohyaNames == .authors && place.map { $0.part == nil } ?? false
        }
        // ComfyUI takes the same names under diffusion_model. and lora_unet_.
        if keeps, !families.isEmpty, isCertain || isAnyones(module) { return nil }
        if families.isEmpty || families.allSatisfy({ $0.kohyaNames == .unknown }) {
            if isAnyones(module) { return nil }
            throw fault(
                module,
                families.isEmpty
                    ? "kohya's layout wants the names of the model's authors, and the family is not known by the names of the modules\(base == nil ? "" : " and tensors")"
                    : "kohya's layout wants the authors' names of \(familyNames), which are not known here; write diffusers' layout instead",
                cause: families.isEmpty && base == nil ? .needsBase : nil)
        }
        guard isCertain else {
            throw fault(
                ofSeveralFamilies: module,
                "kohya's layout wants the names of the model's authors, and the names of the modules do not tell the family for certain: other families than \(familyNames) have them, too"
            )
        }
        guard families.count == 1 || places.allSatisfy({ $0?.authorsName == places[0]?.authorsName && $0?.part == places[0]?.part }),
            families.allSatisfy({ $0.kohyaNames == .authors })
        else {
            throw fault(
                ofSeveralFamilies: module, "the names are those of \(familyNames), whose modules kohya's layout calls by different names")
        }
        guard let place = places[0] else { throw fault(module, "what the authors of \(familyNames) call the module is not known here") }
        return place
    }

    /// The modules of diffusers that lie in one of the authors', as that one.
    private func joined(
        _ parts: [Int: AdapterModule], at place: DiffusionFamily.Place
    ) throws -> (module: AdapterModule, notes: [String]) {
        let present = parts.keys.sorted().compactMap { parts[$0] }
        guard let path = ModulePath(place.authorsName) else { preconditionFailure("a row of a table has a name") }
        let names = place.diffusersNames
        let first = present[0]
        if names.count == 1 {
            let module = place.row.isExchanged ? try exchanged(first, name: place.authorsName) : first.changing { $0.path = path }
            return (module, [])
        }
        guard present.allSatisfy({ $0.kind == .linear && $0.inputs == first.inputs && $0.bias == nil }) else {
            throw fault(first, "it and the other parts of \(path) are not linear layers of the same inputs")
        }
        guard present.allSatisfy(\.isLowRank) else {
            throw fault(first, "the updates of the parts of \(path) are of \(first.methodName), and cannot be joined")
        }
        guard present.allSatisfy({ $0.magnitude == nil }) else {
            throw fault(first, "the magnitudes (DoRA) of the parts of \(path) cannot be joined")
        }
        let isLastMissing = place.row.lastTakesTheRest && parts[names.count - 1] == nil
        let sizes = names.indices.map { parts[$0]?.outputs ?? rows(of: names[$0], first.component) ?? first.inputs }
        if isLastMissing, rows(of: names[names.count - 1], first.component) == nil {
            throw fault(
                first,
                "\(names[names.count - 1]), a part of \(path) too, has no update, and only the base says how many rows it has",
                cause: .needsBase)
        }
        let (uniform, notes) =
            Set(present.map(\.scale)).count == 1 ? (adapter.with(modules: present), []) : try adapter.with(modules: present).uniform()
        let ordered = parts.keys.sorted()
        let modules = Dictionary(uniqueKeysWithValues: zip(ordered, present.map { old in uniform.modules.first { $0.path == old.path } ?? old }))
        return (try AdapterModule.fused(modules, sizes: sizes, path: path), notes)
    }
}

extension AdapterModule {
    /// The part of a linear module that has some of its outputs; `nil` where its magnitudes are of inputs.
    fileprivate func taking(rows first: Int, count: Int) -> AdapterModule? {
        guard first != 0 || count != outputs else { return self }
        guard isLowRank else { return nil }
        return changing {
            $0.factors = [.init(a: loraA, b: loraB.rows(from: first, count: count))]
            switch magnitude {
            case .ofRows(let values)?: $0.magnitude = .ofRows(values.columns(from: first, count: count))
            case .ofColumns?, nil: break
            }
        }.nilIfOfInputs
    }

    /// The linear module with the two halves of its outputs exchanged; `nil` where they are not two, or not of a linear layer.
    var withHalvesExchanged: AdapterModule? {
        guard kind == .linear, isLowRank, factors.count == 1, outputs % 2 == 0 else { return nil }
        func columns(_ row: FactorMatrix) -> FactorMatrix { row.transposed.withHalvesExchanged.transposed }
        return changing {
            $0.factors = [.init(a: loraA, b: .stacked([loraB.withHalvesExchanged]))]
            if case .ofRows(let values)? = magnitude { $0.magnitude = .ofRows(columns(values)) }
            $0.bias = bias.map(columns)
        }
    }

    private var nilIfOfInputs: AdapterModule? { if case .ofColumns? = magnitude { nil } else { self } }

    /// Linear modules as one that has all their outputs: with the A that they share, or with all of them and a B that keeps them apart.
    /// Outputs of parts without an update are zeros in B.
    ///
    /// - Precondition: the parts have the same inputs and scale, and each as many outputs as its size says.
    fileprivate static func fused(_ parts: [Int: AdapterModule], sizes: [Int], path: ModulePath) throws -> AdapterModule {
        let present = parts.keys.sorted().compactMap { parts[$0] }
        let first = present[0]
        let sharesA = present.allSatisfy { $0.loraA.hasSameBytes(as: first.loraA) }
        let (aType, bType) = (first.loraA.dtype, first.loraB.dtype)
        func inType(_ matrix: FactorMatrix, _ same: Bool) throws -> FactorMatrix {
            same ? matrix : try FactorMatrix(name: matrix.name, matrix.matrix, dtype: .f32, path: path.text)
        }
        let sameA = present.allSatisfy { $0.loraA.dtype == aType }
        let sameB = present.allSatisfy { $0.loraB.dtype == bType }
        let a = sharesA ? first.loraA : FactorMatrix.stacked(try present.map { try inType($0.loraA, sameA) })
        let zeros = try inType(first.loraB, sameB)
        var columns: [FactorMatrix] = []
        if sharesA {
            columns = [
                .stacked(
                    try sizes.indices.map { part in
                        try parts[part].map { try inType($0.loraB, sameB) } ?? .zeros(like: zeros, rows: sizes[part], columns: a.rows)
                    }
                ).transposed
            ]
        } else {
            for part in parts.keys.sorted() {
                guard let module = parts[part] else { continue }
                let blocks = try sizes.indices.map { other in
                    other == part ? try inType(module.loraB, sameB) : .zeros(like: zeros, rows: sizes[other], columns: module.rank)
                }
                columns.append(FactorMatrix.stacked(blocks).transposed)
            }
        }
        let b = FactorMatrix.stacked(columns).transposed
        return first.changing { ($0.path, $0.factors, $0.alpha) = (path, [.init(a: a, b: b)], first.scale * Double(a.rows)) }
    }
}
