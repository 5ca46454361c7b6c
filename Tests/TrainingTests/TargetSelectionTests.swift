import Families
import JSON
import Kernels
import Methods
import TestSupport
import Testing

@testable import LanguageModel
@testable import Training

struct TargetSelectionTests {
    private let configuration: TransformerConfiguration

    init() throws { configuration = try TransformerConfiguration(folder: Repository.tinyLlama) }

    @Test func targetsAreEndsOfNames() throws {
        let layers = configuration.layers
        #expect(try TargetSelection(["all-linear"], configuration: configuration).modules.count == 7 * layers)
        let some = try TargetSelection(["v_proj", "self_attn.q_proj"], configuration: configuration)
        // In the order in which they run, whatever the order of the targets.
        #expect(some.modules.prefix(2).map(\.name) == ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"])
        #expect(some.modules.count == 2 * layers)
        #expect(try TargetSelection(["model.layers.2.mlp.down_proj"], configuration: configuration).places.map(\.layer) == [2])
        // One layer that two targets mean is adapted once.
        #expect(try TargetSelection(["q_proj", "self_attn.q_proj", "all-linear"], configuration: configuration).modules.count == 7 * layers)
    }

    @Test func shapesAreThoseOfTheWeights() throws {
        let all = try TargetSelection(["all-linear"], configuration: configuration).modules
        func shape(_ suffix: String) -> [Int]? { all.first { $0.name.hasSuffix(suffix) }.map { [$0.out, $0.input] } }
        #expect(shape("q_proj") == [configuration.queryWidth, configuration.hiddenSize])
        #expect(shape("k_proj") == [configuration.keyWidth, configuration.hiddenSize])
        #expect(shape("o_proj") == [configuration.hiddenSize, configuration.queryWidth])
        #expect(shape("up_proj") == [configuration.intermediateSize, configuration.hiddenSize])
        #expect(shape("down_proj") == [configuration.hiddenSize, configuration.intermediateSize])
    }

    /// An end of a name is whole words between dots.
    @Test(arguments: ["proj", "_proj", "q_pro", "lm_head", "embed_tokens", "", "model.layers.99.mlp.down_proj"])
    func unknownTargetsAreNamed(target: String) {
        do throws(TrainingError) {
            _ = try TargetSelection(["q_proj", target], configuration: configuration)
            Issue.record("it was taken")
        } catch {
            #expect(error.code == .noTargets && error.message.contains("\"\(target)\"") && error.message.contains("down_proj"), "\(error)")
        }
        #expect(throws: TrainingError.self) { _ = try TargetSelection([], configuration: configuration) }
    }

    /// Each update goes to the place of its module, and no other place has one.
    @Test func updatesStandAtTheirLayers() throws {
        let compute = Compute(pool: try #require(ThreadPool(threads: 1)))
        let targets = try TargetSelection(["v_proj", "layers.2.mlp.down_proj"], configuration: configuration)
        var settings = TrainingConfiguration()
        (settings.method, settings.rank) = (.lora, 2)
        let parameters = settings.makeParameters(modules: targets.modules, compute: compute)
        for (number, update) in parameters.updates.enumerated() { update.b.fill(Float(number + 1)) }
        let updates = targets.updates(of: parameters, layers: configuration.layers)
        var found: [String] = []
        for layer in 0..<configuration.layers {
            for (number, linear) in configuration.linears.enumerated() {
                guard let update = updates[layer, number] else { continue }
                found.append(linear.path(layer: layer))
                #expect(update.a.count == 2 * linear.input && update.b.count == 2 * linear.out)
                #expect(update.b[0] == Float(found.count), "\(linear.path(layer: layer)) has the update of another module")
            }
        }
        #expect(found == targets.modules.map(\.name) && found.count == configuration.layers + 1)
    }

    /// Layer 1 is not layer 11.
    @Test func aNumberOfALayerIsAWholeNumber() throws {
        let deep = try Self.configuration("llama", layers: 12)
        for target in ["model.layers.1.mlp.up_proj", "layers.1.mlp.up_proj", "1.mlp.up_proj"] {
            #expect(try TargetSelection([target], configuration: deep).modules.map(\.name) == ["model.layers.1.mlp.up_proj"])
        }
    }

    /// The order of an adapter's modules is the model's, so that runs with the same targets are the same run.
    @Test(arguments: [1, .random(in: 0 ... .max)] as [UInt64]) func theOrderOfTargetsDoesNotMatter(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let names = configuration.linears.map(\.suffix) + ["model.layers.3.mlp.up_proj", "q_proj"]
        for _ in 0..<20 {
            let targets = names.shuffled(using: &random).prefix(.random(in: 1...names.count, using: &random))
            let places = try TargetSelection(Array(targets), configuration: configuration).places.map { [$0.layer, $0.linear] }
            let again = try TargetSelection(targets.shuffled(using: &random), configuration: configuration).places.map { [$0.layer, $0.linear] }
            #expect(
                places == again && places == places.sorted { $0.lexicographicallyPrecedes($1) } && Set(places).count == places.count,
                "seed \(seed), \(targets)")
        }
    }

    private static func configuration(_ type: String, layers: Int) throws -> TransformerConfiguration {
        try TransformerConfiguration(
            json: [
                "model_type": .string(type), "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": .integer(layers),
                "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 17, "rms_norm_eps": 1e-5,
            ], path: "config.json")
    }

    @Test(arguments: ModelFamilies.running) func everyLinearLayerOfAFamilyCanBeNamed(type: String) throws {
        let model = try Self.configuration(type, layers: 2)
        let all = try TargetSelection(["all-linear"], configuration: model).modules
        #expect(all.count == 2 * model.linears.count && Set(all.map(\.name)).count == all.count)
        for linear in model.linears {
            let found = try TargetSelection([linear.suffix], configuration: model).modules
            #expect(found.map(\.name) == (0..<2).map { linear.path(layer: $0) })
            #expect(found.allSatisfy { $0.out == linear.out && $0.input == linear.input })
        }
        for module in all { #expect(try TargetSelection([module.name], configuration: model).modules == [module]) }
    }
}
