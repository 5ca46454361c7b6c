public import HyperLoRA
public import Transformer

/// Which linear layers of a model are adapted.
public struct TargetSelection: Sendable {
    /// The word for every linear layer of every block.
    public static let allLinear = "all-linear"

    /// The adapted layers, block by block in the order in which they run.
    public let places: [(layer: Int, projection: Projection)]
    public let modules: [AdaptedModule]

    /// - Parameter targets: suffixes of module names, such as `q_proj` or `self_attn.v_proj`, or `all-linear` alone.
    /// - Throws: `TrainingError.noTargets` for a suffix that fits no module, with the names that there are.
    public init(_ targets: [String], configuration: TransformerConfiguration) throws(TrainingError) {
        let all = (0..<configuration.layers).flatMap { layer in Projection.allCases.map { (layer: layer, projection: $0) } }
        func fits(_ target: String, _ place: (layer: Int, projection: Projection)) -> Bool {
            let module = place.projection.module(layer: place.layer)
            return target == Self.allLinear || module == target || module.hasSuffix("." + target)
        }
        for target in targets where !all.contains(where: { fits(target, $0) }) {
            throw TrainingError(
                .noTargets,
                "no linear layer of the model is called \"\(target)\"; choose from \(Projection.allCases.map(\.suffix).joined(separator: ",")) or \(Self.allLinear)"
            )
        }
        places = all.filter { place in targets.contains { fits($0, place) } }
        guard !places.isEmpty else { throw TrainingError(.noTargets, "--targets names no layer; choose some, or \(Self.allLinear)") }
        modules = places.map { place in
            let (out, input) = place.projection.shape(in: configuration)
            return AdaptedModule(name: place.projection.module(layer: place.layer), out: out, input: input)
        }
    }

    /// The updates of the adapted layers, where the model looks for them.
    public func updates(of parameters: some AdapterParameters, layers: Int) -> LowRankUpdates {
        LowRankUpdates(layers: layers) { layer, projection in
            places.firstIndex { $0.layer == layer && $0.projection == projection }.map { parameters.updates[$0] }
        }
    }
}
