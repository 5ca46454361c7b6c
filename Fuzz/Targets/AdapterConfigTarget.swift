import JSON

@testable import Adapters

private let modules = ["q_proj", "model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj"].compactMap { ModulePath($0) }

/// An adapter_config.json: what is accepted has a rank and a scale for every module, and a pattern that spells a module's
/// name matches it.
func fuzzAdapterConfig(_ bytes: [UInt8]) {
    guard let json = try? JSONValue(parsing: bytes), let configuration = try? PEFTConfiguration(json, path: "input") else { return }
    require(configuration.rank > 0, "a rank of \(configuration.rank) was accepted")
    for module in modules {
        require(configuration.rank(of: module) > 0, "\(module) has a rank of \(configuration.rank(of: module))")
        let alpha = configuration.alpha(of: module, rank: configuration.rank)
        require(alpha.isFinite, "\(module) has an alpha of \(alpha)")
        for (pattern, _) in configuration.rankPattern where pattern.key == module.text || pattern.key == module.lastComponent {
            require(pattern.matches(module), "\(pattern.key) does not match \(module)")
        }
    }
}
