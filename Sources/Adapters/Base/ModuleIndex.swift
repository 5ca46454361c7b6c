internal import Families
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// The modules of a model by every name that a tool may give them, with dots turned to underscores as kohya's trainers do.
struct ModuleIndex: Sendable {
    /// A matrix of the model, and how the module that was looked up lies in it.
    struct Place: Sendable {
        /// The tensor's name.
        let tensor: String
        let component: String?
        let relation: DiffusionNames.Relation
        /// The name of the module to which the matrix belongs, as diffusers and transformers give it, without the component.
        let module: String
    }

    private let places: [String: [Place]]
    /// The families of diffusion models that the denoiser may be of.
    let families: [DiffusionFamily]

    /// The names that the weights of modules end with; the second one is a bare parameter's.
    private static let endings = [".weight", "_weight"]

    init(_ files: ModelWeights) {
        var found: [(tensor: String, component: String?, stem: Substring)] = []
        var sightings: [DiffusionFamily.Sighting] = []
        for (name, location) in files.tensors where location.shape.count >= 2 {
            guard let ending = Self.endings.first(where: name.hasSuffix) else { continue }
            let stem = name.dropLast(ending.count)
            if let part = files.component(of: name) {
                found.append((name, DiffusionNames.canonical(part), stem.dropFirst(part.count + 1)))
            } else if let known = DiffusionNames.components.first(where: { name.hasPrefix($0.prefix) }) {
                found.append((name, known.component, stem.dropFirst(known.prefix.count)))
            } else {
                found.append((name, nil, stem))
            }
            if let last = found.last, last.component == nil || last.component == DiffusionNames.denoiser || last.component == "transformer_2" {
                let shape = location.shape
                sightings.append(.init(parts: last.stem.split(separator: "."), outputs: shape[0], inputs: shape[1]))
            }
        }
        let layout = DiffusionNames.Layout(found.lazy.map { $0.stem.split(separator: ".") })
        let families = DiffusionFamily.candidates(sightings.filter { !$0.parts.isEmpty })
        self.families = families
        var places: [String: [Place]] = [:]
        for (tensor, component, stem) in found {
            let aliases = DiffusionNames.aliases(of: stem.split(separator: "."), layout, families)
            // Of a module and its name at its authors' the alias is diffusers' where the file has the authors'.
            let isAuthors = Self.isAuthors(stem) || families.contains { $0.place(of: stem.split(separator: ".")).map { $0.isOfAuthors } == true }
            let module = aliases.first { $0.relation == .whole && isAuthors }?.name ?? String(stem)
            places[Self.flattened(stem), default: []].append(.init(tensor: tensor, component: component, relation: .whole, module: module))
            for alias in aliases {
                let name: String =
                    switch alias.relation {
                    case .whole: module
                    case .piece, .exchanged: String(stem)
                    case .contains: alias.name
                    }
                places[Self.flattened(alias.name), default: []].append(
                    .init(tensor: tensor, component: component, relation: alias.relation, module: name))
            }
        }
        self.places = places
    }

    private static func isAuthors(_ stem: Substring) -> Bool {
        [
            "input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "transformer.resblocks.",
        ]
        .contains(where: stem.hasPrefix)
    }

    static func flattened(_ name: some StringProtocol) -> String { String(name.map { $0 == "." ? "_" : $0 }) }

    /// Where a module lies: one matrix, or those that make it, in order. None where no matrix, or more than one, may be meant.
    func places(of module: String, component: String?) -> [Place] {
        let component = component.map(DiffusionNames.canonical)
        let all = (places[Self.flattened(module)] ?? []).filter { place in
            guard let component, let other = place.component else { return true }
            return component == other
        }
        let whole = all.filter { if case .piece = $0.relation { false } else { true } }
        if !whole.isEmpty { return whole.count == 1 ? whole : [] }
        let pieces = all.compactMap { place in if case .piece(let number) = place.relation { (number, place) } else { nil } }
            .sorted { $0.0 < $1.0 }
        return pieces.map(\.0) == Array(pieces.indices) ? pieces.map(\.1) : []
    }
}
