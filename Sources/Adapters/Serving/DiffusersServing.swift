internal import Families
internal import OrderedCollections
internal import Safetensors

/// Whether diffusers takes the file of an adapter: its loaders know the names of some families in some layouts, and lose others.
///
/// Source: diffusers 0.42, `loaders/lora_pipeline.py` and `loaders/lora_conversion_utils.py`.
struct DiffusersServing {
    private let adapter: Adapter
    /// The names as they stand in the file.
    private let names: [String]
    /// The families that the names of the denoiser's modules may be of.
    private let families: [DiffusionFamily]
    private let denoiser: [AdapterModule]

    init(_ adapter: Adapter) {
        self.adapter = adapter
        names = adapter.weightsPath.flatMap { try? SafetensorsFile(path: $0) }.map { Array($0.tensors.keys) } ?? []
        denoiser = adapter.modules.filter {
            $0.component == nil || $0.component == DiffusionNames.anyDenoiser || DiffusionNames.denoisers.contains($0.component ?? "")
        }
        families = DiffusionFamily.candidates(
            denoiser.map { module in
                let parts = module.path.components
                let dotted = adapter.namesAreFlattened ? DiffusionFamily.dotted(flattened: module.path.text) : nil
                return .init(parts: dotted.map { $0.split(separator: ".") } ?? parts, outputs: module.outputs, inputs: module.inputs)
            })
    }

    var reasons: [String] {
        var reasons =
            names.contains { AdapterFile.unwrapped($0) != $0 } && !takesInfix
            ? ["the names have those of wrappers in them, which it does not take off"] : []
        reasons += adapter.otherMethods
        if names.contains(where: { $0.hasSuffix(".dora_scale") || $0.hasSuffix(".magnitude") }) {
            reasons.append("it leaves out the magnitudes (DoRA)")
        }
        if adapter.modules.contains(where: { $0.magnitude != nil && $0.component?.hasPrefix("text_encoder") == true }), reasons.isEmpty {
            reasons.append("it leaves out the magnitudes (DoRA) of text encoders")
        }
        if !adapter.namesAreFlattened, !hasConfiguration, !hasAlphas, adapter.modules.contains(where: { $0.scale != 1 }) {
            reasons.append("it does not read the alpha in the header, and takes the scale 1")
        }
        if adapter.modules.contains(where: { $0.component == "text_encoder_3" }), adapter.namesAreFlattened {
            reasons.append("it leaves out the modules of the third text encoder")
        }
        if let module = denoiser.first { reasons += layoutReasons(module) }
        return reasons
    }

    private var hasConfiguration: Bool { adapter.metadata[Diffusers.metadataKey] != nil }
    private var hasAlphas: Bool { names.contains { $0.hasSuffix(".alpha") } }
    private var hasDownUp: Bool { names.contains { $0.hasSuffix(".lora_down.weight") } }
    private var familyNames: String { families.map(\.name).joined(separator: ", ") }

    private func isAll(_ names: String...) -> Bool { !families.isEmpty && families.allSatisfy { names.contains($0.name) } }

    /// Whether `lora_A.default.weight` is known.
    private var takesInfix: Bool {
        isAll("Qwen-Image", "Z-Image") && adapter.components.isEmpty
            && names.allSatisfy { !$0.contains("_orig_mod") && !$0.contains("_wrapped_module") && !$0.hasPrefix("module.") }
    }

    private func layoutReasons(_ module: AdapterModule) -> [String] {
        if adapter.namesAreFlattened { return module.component == nil ? ["it passes over names that begin with lycoris_"] : flattenedReasons }
        switch module.component {
        case nil: return bareReasons
        case DiffusionNames.anyDenoiser: return authorsReasons
        default: return nativeReasons
        }
    }

    /// The places of the modules' names in the table of the family, where there is one of which it is.
    private var places: [(module: AdapterModule, place: DiffusionFamily.Place?)] {
        denoiser.map { module in
            let path = adapter.namesAreFlattened ? DiffusionFamily.dotted(flattened: module.path.text) ?? module.path.text : module.path.text
            return (module, families.lazy.compactMap { $0.place(of: path.split(separator: ".")) }.first)
        }
    }

    /// A module that has its authors' name, and another one in diffusers.
    private var ofAuthors: AdapterModule? {
        places.first { module, place in place?.isOfAuthors == true }?.module
    }

    // MARK: Layouts

    /// `unet.` or `transformer.` and the names of diffusers.
    private var nativeReasons: [String] {
        var reasons: [String] = []
        let kinds = Set(families.map(\.component))
        if kinds.count == 1, let kind = kinds.first, let wrong = denoiser.first(where: { ($0.component == "unet") != (kind == "unet") }) {
            reasons.append("it looks for the modules of \(familyNames) under \(kind). and passes over others (\(wrong.label))")
        }
        // Families that are not known here have some of the names as their own in diffusers.
        let isOfKnown = places.allSatisfy { $0.place != nil } && places.contains { $0.place?.authorsPrefix.isEmpty == false }
        let inBlocks = places.first { $0.place?.isOfAuthors == true && $0.place?.authorsPrefix.isEmpty == false }?.module
        if let module = inBlocks ?? (isOfKnown ? ofAuthors : nil)
            ?? denoiser.first(where: { ["input_blocks", "output_blocks", "middle_block"].contains($0.path.components[0]) })
        {
            reasons.append("behind the component it wants its own names of the modules, and not their authors' (\(module.label))")
        }
        // Flux.1's loader alone takes them; names that several families have are Flux.1's first.
        if let alpha = names.first(where: { $0.hasSuffix(".alpha") && !$0.contains("lora") }), families.first?.name != "Flux.1" {
            reasons.append("it takes no alphas beside the factors in a file with these names (\(alpha))")
        }
        return reasons
    }

    /// Bare names of one model: as a model of diffusers saves them itself, or PEFT's.
    private var bareReasons: [String] {
        if hasConfiguration { return [] }
        if names.contains(where: { $0.hasPrefix(PEFT.keyPrefix) }), isAll("Flux.2") { return [] }
        if takesInfix, names.contains(where: { $0.contains(".default.") }) { return [] }
        return ["it passes over names that do not begin with a component of the pipeline"]
    }

    /// `diffusion_model.`, as ComfyUI has it.
    private var authorsReasons: [String] {
        if families.isEmpty { return ["it knows the names under diffusion_model. of some families, and these are of none that is known here"] }
        if isAll("Wan"), ofAuthors != nil || !places.contains(where: { $0.place == nil }) {
            return ofAuthors == nil ? ["under diffusion_model. it wants the authors' names"] : []
        }
        if isAll("Qwen-Image"), places.allSatisfy({ $0.place != nil }) { return [] }
        if isAll("LTX-Video") { return hasDownUp || hasAlphas ? ["of this family it takes lora_A and lora_B without alphas alone"] : [] }
        if isAll("Z-Image") {
            return ofAuthors.map { ["it loses fused projections and the authors' names under diffusion_model. (\($0.label))"] } ?? []
        }
        if isAll("Flux.2") {
            if hasDownUp || hasAlphas { return ["of Flux.2 it takes lora_A and lora_B without alphas alone under diffusion_model."] }
            let exchanged = places.first { $0.place?.row.isExchanged == true }
            return exchanged.map { ["it puts the update of \($0.module.label) on the wrong halves"] } ?? []
        }
        return ["under diffusion_model. it does not take the names of \(familyNames)"]
    }

    /// `lora_unet_`, as kohya's trainers have it.
    private var flattenedReasons: [String] {
        if denoiser.allSatisfy({ $0.component == "unet" }) {
            return Set(adapter.modules.map(\.scale)).count > 1
                ? ["of alphas that are not the same it takes the most frequent one for many modules, and would scale the others wrongly"] : []
        }
        if families.isEmpty { return ["it knows names under lora_unet_ of some families, and these are of none that is known here"] }
        if let module = places.first(where: { $0.place == nil })?.module { return ["it does not know the module (\(module.label))"] }
        if isAll("Qwen-Image") || isAll("Z-Image") {
            // Of Z-Image it puts the dots of diffusers' own names back alone.
            let lost = isAll("Qwen-Image") ? nil : places.first { $0.place?.authorsPrefix.isEmpty == true && $0.place?.isOfAuthors == true }
            return lost.map { ["outside of the blocks it wants its own names of the modules (\($0.module.label))"] } ?? []
        }
        if isAll("Wan") { return wanReasons }
        guard isAll("Flux.1", "Chroma", "Flux.2", "HunyuanVideo") else { return ["under lora_unet_ it does not take the names of \(familyNames)"] }
        if let own = places.first(where: { $0.place?.part != nil })?.module { return ["under lora_unet_ it wants the authors' names (\(own.label))"] }
        let outer = places.first { $0.place?.authorsPrefix.isEmpty == true && !($0.place?.row.authors.hasSuffix("_in") == true && isAll("Flux.2")) }
        return outer.map { ["it loses the modules outside of the blocks (\($0.module.label))"] } ?? []
    }

    /// Of Wan it wants every layer of every block, each with an alpha.
    private var wanReasons: [String] {
        let rest = ["self_attn", "cross_attn"].flatMap { attention in ["q", "k", "v", "o"].map { "\(attention)_\($0)" } } + ["ffn_0", "ffn_2"]
        let paths = Set(denoiser.map(\.path.text))
        let blocks = Set(denoiser.compactMap { $0.path.text.split(separator: "_").dropFirst().first.flatMap { Int($0) } })
        if let missing = (0..<blocks.count).lazy.flatMap({ block in rest.map { "blocks_\(block)_\($0)" } }).first(where: { !paths.contains($0) }) {
            return ["of Wan it wants every layer of every block under lora_unet_, and there is no \(missing)"]
        }
        if !paths.allSatisfy({ $0.hasPrefix("blocks_") }) { return ["of Wan it takes the layers of the blocks alone under lora_unet_"] }
        return names.count { $0.hasSuffix(".alpha") } < denoiser.count ? ["of Wan it wants an alpha beside each pair of factors"] : []
    }
}

extension DiffusionFamily {
    /// A name of the tables that a path without its dots may be; `nil` for none.
    static func dotted(flattened path: String) -> String? {
        for family in known {
            for group in family.groups {
                for name in Set([group.authors, group.diffusers]) where path.hasPrefix(name + "_") {
                    let rest = path.dropFirst(name.count + 1)
                    guard let end = rest.firstIndex(of: "_"), Int(rest[..<end]) != nil else { continue }
                    let inner = String(rest[rest.index(after: end)...])
                    let rows = group.rows.flatMap { [$0.authors] + $0.diffusers }
                    if let row = rows.first(where: { ModuleIndex.flattened($0) == inner }) { return "\(name).\(rest[..<end]).\(row)" }
                }
            }
            let outer = family.outer.flatMap { [$0.authors] + $0.diffusers }
            if let row = outer.first(where: { ModuleIndex.flattened($0) == path }) { return row }
        }
        return nil
    }
}
