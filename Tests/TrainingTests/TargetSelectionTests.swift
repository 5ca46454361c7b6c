import Kernels
import LanguageModel
import Methods
import TestSupport
import Testing

@testable import Training

struct TargetSelectionTests {
    private let configuration: TransformerConfiguration

    init() throws { configuration = try TransformerConfiguration(folder: Repository.tinyLlama) }

    @Test func namesByTheirEnds() throws {
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

    /// Each update goes to the layer of its module.
    @Test func updatesStandAtTheirLayers() throws {
        let compute = Compute(pool: try #require(ThreadPool(threads: 1)))
        let targets = try TargetSelection(["v_proj", "down_proj"], configuration: configuration)
        var settings = TrainingConfiguration()
        (settings.method, settings.rank) = (.lora, 2)
        let parameters = settings.makeParameters(modules: targets.modules, compute: compute)
        #expect(parameters.updates.count == targets.modules.count)
        for (module, update) in zip(targets.modules, parameters.updates) {
            #expect(update.a.count == 2 * module.input && update.b.count == 2 * module.out, "\(module.name)")
        }
    }
}
