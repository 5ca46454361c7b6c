/// The names that the modules of diffusion models have: in the files of diffusers, and in those of the models' authors, which
/// also trainers such as kohya's use.
///
/// Source: diffusers 0.42, `loaders/lora_conversion_utils.py` and `loaders/single_file_utils.py`.
public enum DiffusionNames {
    /// How the matrix of a file and a module of another name lie in each other.
    public enum Relation: Hashable, Sendable {
        case whole
        /// The matrix is the n-th of those that make the module, one below the other.
        case piece(Int)
        /// The module is the n-th of those that lie one below the other in the matrix.
        case contains(Int)
        /// The module is the matrix with the two halves of its rows exchanged.
        case exchanged
    }

    public typealias Alias = (name: String, relation: Relation)

    // MARK: Single files

    /// The components of a pipeline in one file, by the beginning of their tensors' names.
    public static let components: [(prefix: String, component: String)] = [
        ("model.diffusion_model.", denoiser), ("cond_stage_model.transformer.", "text_encoder"),
        ("conditioner.embedders.0.transformer.", "text_encoder"), ("conditioner.embedders.1.model.", "text_encoder_2"),
    ]

    /// What is adapted in every pipeline; diffusers calls it by its kind.
    public static let denoiser = "denoiser"

    /// The denoisers of diffusers' pipelines.
    public static let denoisers: Set<String> = ["unet", "transformer", "transformer_2"]

    /// What files call a denoiser that do not say which one: as its authors and ComfyUI do.
    public static let anyDenoiser = "diffusion_model"

    /// The component that is meant, whatever a tool calls it.
    public static func canonical(_ component: String) -> String {
        ["unet", "transformer", "diffusion_model"].contains(component) ? denoiser : component
    }

    // MARK: U-Nets

    /// What the translation between the names of a U-Net depends on.
    public struct Layout: Sendable {
        /// Resnets in a block that goes down.
        public var layersPerBlock = 2
        /// Blocks that go up and have attention.
        public var attentiveBlocks: Set<Substring> = []

        /// - Parameter stems: names of modules, as far as they are known.
        public init(_ stems: some Sequence<[Substring]>) {
            var layers: Int?
            for parts in stems {
                if parts.count > 3, parts[0] == "down_blocks", parts[1] == "0", parts[2] == "resnets", let number = Int(parts[3]), number < 100 {
                    layers = max(layers ?? 0, number + 1)
                } else if parts.count > 3, parts[0] == "up_blocks", parts[2] == "attentions" {
                    attentiveBlocks.insert(parts[1])
                } else if parts.count == 4, parts[0] == "input_blocks", parts[3] == "op", let number = Int(parts[1]), number < 100 {
                    layers = min(layers ?? .max, number - 1)
                }
            }
            if let layers, layers > 0 { layersPerBlock = layers }
        }
    }

    private static let outerNames = [
        ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"), ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"), ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"),
    ]
    private static let resnetNames = [
        ("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"), ("norm2", "out_layers.0"), ("conv2", "out_layers.3"),
        ("conv_shortcut", "skip_connection"),
    ]

    /// The authors' name of a module of a U-Net of diffusers.
    private static func authorsName(_ parts: [Substring], _ layout: Layout) -> String? {
        let name = parts.joined(separator: ".")
        if let outer = outerNames.first(where: { $0.0 == name }) { return outer.1 }
        func inner(_ first: Int, isResnet: Bool) -> String? {
            let rest = parts[first...].joined(separator: ".")
            return isResnet ? resnetNames.first { $0.0 == rest }?.1 : rest
        }
        guard parts.count >= 4 else { return nil }
        if parts[0] == "mid_block" {
            guard let number = Int(parts[2]), let rest = inner(3, isResnet: parts[1] == "resnets") else { return nil }
            switch parts[1] {
            case "resnets" where number < 2: return "middle_block.\(2 * number).\(rest)"
            case "attentions" where number == 0: return "middle_block.1.\(rest)"
            default: return nil
            }
        }
        guard parts.count >= 5, let block = Int(parts[1]), let number = Int(parts[3]), (0..<100).contains(block), (0..<100).contains(number),
            let rest = inner(4, isResnet: parts[2] == "resnets")
        else { return nil }
        switch (parts[0], parts[2]) {
        case ("down_blocks", "resnets"): return "input_blocks.\(1 + block * (layout.layersPerBlock + 1) + number).0.\(rest)"
        case ("down_blocks", "attentions"): return "input_blocks.\(1 + block * (layout.layersPerBlock + 1) + number).1.\(rest)"
        case ("down_blocks", "downsamplers"): return "input_blocks.\((block + 1) * (layout.layersPerBlock + 1)).0.op"
        case ("up_blocks", "resnets"): return "output_blocks.\(block * (layout.layersPerBlock + 1) + number).0.\(rest)"
        case ("up_blocks", "attentions"): return "output_blocks.\(block * (layout.layersPerBlock + 1) + number).1.\(rest)"
        case ("up_blocks", "upsamplers"):
            let place = block * (layout.layersPerBlock + 1) + layout.layersPerBlock
            return "output_blocks.\(place).\(layout.attentiveBlocks.contains(parts[1]) ? 2 : 1).conv"
        default: return nil
        }
    }

    /// The name in diffusers of a module of a U-Net that has the authors' names.
    public static func diffusersName(_ parts: [Substring], _ layout: Layout) -> String? {
        let name = parts.joined(separator: ".")
        if let outer = outerNames.first(where: { $0.1 == name }) { return outer.0 }
        func inner(_ first: Int, isResnet: Bool) -> String? {
            let rest = parts[first...].joined(separator: ".")
            return isResnet ? resnetNames.first { $0.1 == rest }?.0 : rest
        }
        guard parts.count >= 3 else { return nil }
        if parts[0] == "middle_block" {
            guard let number = Int(parts[1]), (0..<3).contains(number), let rest = inner(2, isResnet: number != 1) else { return nil }
            return number == 1 ? "mid_block.attentions.0.\(rest)" : "mid_block.resnets.\(number / 2).\(rest)"
        }
        guard parts.count >= 4, let position = Int(parts[1]), (0..<1000).contains(position), let part = Int(parts[2]) else { return nil }
        let stride = layout.layersPerBlock + 1
        switch parts[0] {
        case "input_blocks" where position > 0:
            let (block, layer) = ((position - 1) / stride, (position - 1) % stride)
            if parts[3] == "op" { return "down_blocks.\(block).downsamplers.0.conv" }
            return inner(3, isResnet: part == 0).map { "down_blocks.\(block).\(part == 0 ? "resnets" : "attentions").\(layer).\($0)" }
        case "output_blocks":
            let (block, layer) = (position / stride, position % stride)
            if part > 0, parts.count == 4, parts[3] == "conv" { return "up_blocks.\(block).upsamplers.0.conv" }
            return inner(3, isResnet: part == 0).map { "up_blocks.\(block).\(part == 0 ? "resnets" : "attentions").\(layer).\($0)" }
        default:
            return nil
        }
    }

    // MARK: Families with a table

    /// The other names of a module of a family, each once.
    private static func aliases(of parts: [Substring], in families: [DiffusionFamily]) -> [Alias] {
        var found: [Alias] = []
        for family in families {
            guard let place = family.place(of: parts) else { continue }
            if place.row.isExchanged {
                let alias: Alias = (place.part == nil ? place.diffusersNames[0] : place.authorsName, .exchanged)
                if !found.contains(where: { $0 == alias }) { found.append(alias) }
                continue
            }
            let isWhole = place.row.diffusers.count == 1
            let theirs: [Alias] = place.part.map { [(place.authorsName, isWhole ? .whole : .piece($0))] } ?? []
            let ours: [Alias] =
                place.part == nil ? place.diffusersNames.enumerated().map { ($1, isWhole ? .whole : .contains($0)) } : []
            let name = parts.joined(separator: ".")
            for alias in theirs + ours where alias.name != name && !found.contains(where: { $0 == alias }) { found.append(alias) }
        }
        return found
    }

    // MARK: Text encoders

    private static let clipNames: [(transformers: String, authors: String, part: Int?)] = [
        ("self_attn.q_proj", "attn.in_proj", 0), ("self_attn.k_proj", "attn.in_proj", 1), ("self_attn.v_proj", "attn.in_proj", 2),
        ("self_attn.out_proj", "attn.out_proj", nil), ("mlp.fc1", "mlp.c_fc", nil), ("mlp.fc2", "mlp.c_proj", nil),
    ]

    /// OpenCLIP's modules under the names of transformers, and the model without its outer name.
    private static func clipAliases(_ parts: [Substring]) -> [Alias] {
        if parts.count > 3, parts[0] == "transformer", parts[1] == "resblocks" {
            let name = parts[3...].joined(separator: ".")
            return clipNames.filter { $0.authors == name }.map {
                ("text_model.encoder.layers.\(parts[2]).\($0.transformers)", $0.part.map { .contains($0) } ?? .whole)
            }
        }
        if parts.count > 2, parts[0] == "encoder", parts[1] == "layers" { return [("text_model." + parts.joined(separator: "."), .whole)] }
        if parts.count > 2, parts[0] == "text_model" { return [(parts.dropFirst().joined(separator: "."), .whole)] }
        return []
    }

    // MARK: Whole models

    /// What a module of the authors' is in diffusers and transformers: the modules that lie in it, one below the other.
    public struct Translation: Hashable, Sendable {
        public let names: [String]
        /// Whether the two halves of the rows are the other way round.
        public let isExchanged: Bool
    }

    /// What a module may be called in diffusers and transformers that is called so by the authors; its own name among it.
    public static func translations(ofAuthors parts: [Substring], _ layout: Layout, _ families: [DiffusionFamily]) -> Set<Translation> {
        var found: Set<Translation> = [.init(names: [parts.joined(separator: ".")], isExchanged: false)]
        if let name = diffusersName(parts, layout) { found.insert(.init(names: [name], isExchanged: false)) }
        for place in families.compactMap({ $0.place(ofWholeModels: parts) }) where place.authorsName == parts.joined(separator: ".") {
            found.insert(.init(names: place.diffusersNames, isExchanged: place.row.isExchanged))
        }
        let clip = clipAliases(parts)
        if clip.contains(where: { $0.relation != .whole }) {
            found.insert(.init(names: clip.map(\.name), isExchanged: false))
        } else {
            for alias in clip { found.insert(.init(names: [alias.name], isExchanged: false)) }
        }
        return found
    }

    /// The other names of a module.
    public static func aliases(of parts: [Substring], _ layout: Layout, _ families: [DiffusionFamily]) -> [Alias] {
        let uNet = [authorsName(parts, layout), diffusersName(parts, layout)].compactMap { $0.map { ($0, Relation.whole) } }
        return uNet + aliases(of: parts, in: families) + clipAliases(parts)
    }
}
