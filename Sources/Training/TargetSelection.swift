public import LanguageModel
public import Methods

/// Which linear layers of a model are adapted.
public struct TargetSelection: Sendable {
    /// The word for every linear layer of every block.
    public static let allLinear = "all-linear"

    /// The adapted layers, block by block in the order in which they run.
    public let places: [(layer: Int, linear: Int)]
    public let modules: [AdaptedModule]
    /// The linear layers of a block.
    private let linears: Int

    /// - Parameter targets: suffixes of module names, such as `q_proj` or `self_attn.v_proj`, or `all-linear` alone.
    /// - Throws: `TrainingError.noTargets` for a suffix that fits no module, with the names that there are.
    public init(_ targets: [String], configuration: TransformerConfiguration) throws(TrainingError) {
        let linears = configuration.linears
        let all = (0..<configuration.layers).flatMap { layer in linears.indices.map { (layer: layer, linear: $0) } }
        func fits(_ target: String, _ place: (layer: Int, linear: Int)) -> Bool {
            let module = linears[place.linear].path(layer: place.layer)
            return target == Self.allLinear || module == target || module.hasSuffix("." + target)
        }
        for target in targets where !all.contains(where: { fits(target, $0) }) {
            throw TrainingError(
                .noTargets,
                "no linear layer of the model is called \"\(target)\"; choose from \(linears.map(\.suffix).joined(separator: ",")) or \(Self.allLinear)"
            )
        }
        places = all.filter { place in targets.contains { fits($0, place) } }
        guard !places.isEmpty else { throw TrainingError(.noTargets, setting: .targets, "names no layer; choose some, or \(Self.allLinear)") }
        modules = places.map { place in
            let shape = linears[place.linear]
            return AdaptedModule(name: shape.path(layer: place.layer), out: shape.out, input: shape.input)
        }
        self.linears = linears.count
    }

    /// The updates of the adapted layers, where the model looks for them.
    public func updates(of parameters: some AdapterParameters, layers: Int) -> LowRankUpdates {
        LowRankUpdates(layers: layers, linears: linears) { layer, linear in
            places.firstIndex { $0.layer == layer && $0.linear == linear }.map { parameters.updates[$0] }
        }
    }
}
