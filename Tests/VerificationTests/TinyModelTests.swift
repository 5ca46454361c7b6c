import Adapters
import FileIO
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Verification
import Weights

/// A real model from end to end: the fixture, an adapter of every linear layer, the merge, the verification.
struct TinyModelTests {
    static let path = Repository.tinyLlama

    @Test(arguments: [1, 2])
    func theSmallModelIsMergedAndVerified(threads: Int) throws {
        let folder = try TemporaryFolder()
        let base = try ModelWeights(path: Self.path)
        var generator = SeededGenerator(seed: 11)
        let outputs = base.tensors.compactMap { name, location -> AdapterModule? in
            guard name.hasSuffix("_proj.weight"), let path = ModulePath(name.dropLast(".weight".count)) else { return nil }
            let shape = location.shape
            return AdapterModule(
                path: path, rank: 4, alpha: 8, loraA: generator.values(4 * shape[1], spread: 0.1), loraB: generator.values(shape[0] * 4, spread: 0.05)
            )
        }
        #expect(outputs.count == 28)
        try PEFT.write(outputs, to: folder.path("adapter"), options: .init(baseModel: "tiny-llama", isDurable: false))
        let adapter = try Adapter.read(path: folder.path("adapter"))
        let plan = try MergePlan(base: Self.path, adapters: [.init(adapter)])
        let report = try plan.run(to: folder.path("merged"), options: .init(threads: threads, isDurable: false))
        #expect(report.modules.count == 28 && report.tensorsChanged == 28)
        #expect(report.filesCopied.contains("tokenizer.json") && report.filesCopied.contains("generation_config.json"))
        let verdict = try MergeVerifier.verify(
            base: Self.path, adapters: [.init(adapter)], merged: folder.path("merged"), options: .init(threads: threads))
        #expect(verdict.passes, "\(verdict.faults)")
        let unmerged = try MergeVerifier.verify(base: Self.path, adapters: [.init(adapter)], merged: Self.path)
        #expect(unmerged.faults.count == 28 && unmerged.faults.allSatisfy { $0.code == .notMerged })
    }
}
