internal import Families
internal import JSON
internal import OrderedCollections

/// The names of the tensors of two diffusion models, of which one may be in the layout of its authors and the other in diffusers'.
struct LayoutNames: Sendable {
    private let families: [DiffusionFamily]
    private let layout: DiffusionNames.Layout
    private let components: Set<String>

    /// A tensor's name, taken apart.
    private struct Name {
        let component: String?
        let stem: [Substring]
        /// The parameter of the module: `weight`, `bias`, or nothing where the name is that of the tensor itself.
        let parameter: String

        var key: String { stem.joined(separator: ".") + "|" + parameter }

        func mayBe(of other: Name) -> Bool {
            guard let component, let theirs = other.component else { return true }
            return component == theirs
        }
    }

    /// How names end, and what the parameter is then; Flux's norms call their weight a scale, and OpenCLIP's bare parameters have no module.
    private static let endings = [
        (".weight", "weight"), (".bias", "bias"), (".scale", "weight"), ("_weight", "weight"), ("_bias", "bias"),
    ]

    init(_ first: TensorCorrespondence.Model, _ second: TensorCorrespondence.Model) {
        components = Set(first.components + second.components)
        let models = [first, second]
        let classes = models.compactMap { $0.configuration?["_class_name"]?.stringValue }.map(DiffusionFamily.of(className:))
        var stems: [[Substring]] = []
        var candidates: [[DiffusionFamily]] = []
        for model in models {
            var sightings: [DiffusionFamily.Sighting] = []
            for (name, shape) in model.shapes where shape.count >= 2 {
                let name = Self.parse(name, components: components)
                guard name.parameter == "weight", !name.stem.isEmpty else { continue }
                stems.append(name.stem)
                if name.component == nil || name.component == DiffusionNames.denoiser {
                    sightings.append(.init(parts: name.stem, outputs: shape[0], inputs: shape[1]))
                }
            }
            candidates.append(DiffusionFamily.candidates(sightings))
        }
        layout = DiffusionNames.Layout(stems)
        let known = classes.first { !$0.groups.isEmpty || $0.isUNet }
        let names = candidates.map { Set($0.map(\.name)) }
        let common = candidates[0].filter { names[1].contains($0.name) }
        families = known.map { [$0] } ?? (common.isEmpty ? candidates[0] + candidates[1].filter { !names[0].contains($0.name) } : common)
    }

    private static func parse(_ name: String, components: Set<String>) -> Name {
        var (component, rest): (String?, Substring) = (nil, name[...])
        if let dot = name.firstIndex(of: "."), components.contains(String(name[..<dot])) {
            component = DiffusionNames.canonical(String(name[..<dot]))
            rest = name[name.index(after: dot)...]
        } else if let known = DiffusionNames.components.first(where: { name.hasPrefix($0.prefix) }) {
            (component, rest) = (known.component, name.dropFirst(known.prefix.count))
        }
        let ending = endings.first { rest.hasSuffix($0.0) }
        return Name(component: component, stem: rest.dropLast(ending?.0.count ?? 0).split(separator: "."), parameter: ending?.1 ?? "")
    }

    /// Whether the table of a family has the module.
    func knows(_ name: String) -> Bool {
        let name = Self.parse(name, components: components)
        return families.contains { $0.place(ofWholeModels: name.stem) != nil }
    }

    /// The matrices in one layout that are others of another: those of the first names whose counterparts are among the second.
    func joints(
        _ fused: [String], of model: TensorCorrespondence.Model, in split: [String], of other: TensorCorrespondence.Model
    ) -> [TensorCorrespondence.Joint] {
        var index: [String: [(name: String, parsed: Name)]] = [:]
        for name in split {
            let parsed = Self.parse(name, components: components)
            index[parsed.key, default: []].append((name, parsed))
        }
        var taken: Set<String> = []
        var joints: [TensorCorrespondence.Joint] = []
        for name in fused {
            let parsed = Self.parse(name, components: components)
            guard let shape = model.shapes[name], let first = shape.first, first > 0, !parsed.stem.isEmpty else { continue }
            func found(_ stem: String) -> String? {
                let all = (index[stem + "|" + parsed.parameter] ?? []).filter { $0.parsed.mayBe(of: parsed) && !taken.contains($0.name) }
                return all.count == 1 ? all[0].name : nil
            }
            let translations = DiffusionNames.translations(ofAuthors: parsed.stem, layout, families)
            let made = translations.compactMap { translation in
                Self.joint(name, shape, translation, names: translation.names.map(found), ending: parsed.parameter, other)
            }
            // One that is whole decides; of several none does.
            let whole = made.filter { $0.parts.allSatisfy(\.isThere) }
            let chosen = whole.isEmpty ? made : whole
            guard chosen.count == 1 else { continue }
            taken.formUnion(chosen[0].parts.filter(\.isThere).map(\.name))
            joints.append(chosen[0])
        }
        return joints
    }

    /// - Parameter names: the tensors of the translation that there are; one of several may be missing.
    private static func joint(
        _ fused: String, _ shape: [Int], _ translation: DiffusionNames.Translation, names: [String?], ending: String,
        _ other: TensorCorrespondence.Model
    ) -> TensorCorrespondence.Joint? {
        let width = shape.dropFirst().reduce(1, &*)
        let rows = names.map { name in name.flatMap { other.shapes[$0] } }.map { shape in shape.map { ($0.first ?? 1, $0.dropFirst().reduce(1, &*)) }
        }
        guard rows.allSatisfy({ $0.map { $0.1 == width } ?? true }) else { return nil }
        let missing = names.indices.filter { names[$0] == nil }
        guard missing.count <= (names.count > 1 ? 1 : 0) else { return nil }
        let there = rows.reduce(0) { $0 + ($1?.0 ?? 0) }
        guard missing.isEmpty ? there == shape[0] : there < shape[0] else { return nil }
        if translation.isExchanged {
            guard names.count == 1, let name = names[0], shape[0] % 2 == 0 else { return nil }
            let half = shape[0] / 2 * width
            return .init(fused: fused, parts: [(name, 0..<half, half, true), (name, half..<2 * half, 0, true)])
        }
        var start = 0
        let parts = names.indices.map { place in
            let count = (rows[place]?.0 ?? shape[0] - there) * width
            defer { start += count }
            let wanted = translation.names[place] + (ending.isEmpty ? "" : "." + ending)
            return (name: names[place] ?? wanted, elements: start..<start + count, start: 0, isThere: names[place] != nil)
        }
        return .init(fused: fused, parts: parts)
    }
}
