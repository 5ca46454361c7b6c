import JSON
import Tensors
import TestModels
import TestSupport
import Testing

@testable import Training

struct TokenDataTests {
    private func write(_ ids: [Int], _ dtype: DType, name: String = "input_ids", in folder: TemporaryFolder) throws -> String {
        let bytes = ids.flatMap { id in (0..<dtype.bitWidth / 8).map { UInt8(truncatingIfNeeded: id >> (8 * $0)) } }
        let path = folder.path("ids.safetensors")
        try writeSafetensors([TestTensor(name, dtype, [ids.count], bytes: bytes)], to: path)
        return path
    }

    private func fault(_ path: String, vocabulary: Int = 10) -> TrainingError? {
        do {
            _ = try TokenData(path: path, modelFolder: "", vocabularySize: vocabulary)
            return nil
        } catch {
            return error as? TrainingError
        }
    }

    @Test(arguments: [DType.i32, .i64]) func idsAreRead(dtype: DType) throws {
        let folder = try TemporaryFolder()
        let data = try TokenData(path: try write([3, 0, 9, 1], dtype, in: folder), modelFolder: "", vocabularySize: 10)
        #expect(data.tokens == [3, 0, 9, 1])
        // A digest of the ids, whatever the file is called and whichever type it has.
        #expect(data.fingerprint == TokenData(path: "other", tokens: [3, 0, 9, 1]).fingerprint)
        #expect(data.fingerprint != TokenData(path: "other", tokens: [3, 0, 9, 2]).fingerprint)
    }

    @Test func whatIsNoDataIsNamed() throws {
        let folder = try TemporaryFolder()
        #expect(fault(try write([1, 10], .i32, in: folder))?.message.contains("token 10 at place 1") == true)
        #expect(fault(try write([-1], .i64, in: folder))?.code == .tokenOutOfRange)
        #expect(fault(try write([1 << 40], .i64, in: folder))?.message.contains("beyond any vocabulary") == true)
        #expect(fault(try write([1], .u8, in: folder))?.message.contains("is U8 and must be I32 or I64") == true)
        #expect(fault(try write([1], .i32, name: "ids", in: folder))?.message.contains("\"input_ids\"") == true)
        #expect(fault(try write([], .i32, in: folder))?.code == .emptyData)
    }

    @Test func textGoesThroughTheModelsTokenizer() throws {
        let data = try TokenData(path: Repository.fixture("texts/adapt-heldout.txt"), modelFolder: Repository.tinyLlama, vocabularySize: 1024)
        #expect(data.tokens.count > 1000 && data.tokens.allSatisfy { (0..<1024).contains($0) })
    }

    /// Windows lie side by side, and the target of a token is the next one, also at the end of a window.
    @Test func windows() {
        let data = TokenData(path: "", tokens: (0..<10).map { Int32($0) })
        #expect(data.windowCount(length: 3) == 3 && data.windowCount(length: 9) == 1 && data.windowCount(length: 10) == 0)
        #expect(Array(data.window(1, length: 3).inputs) == [3, 4, 5] && Array(data.window(1, length: 3).targets) == [4, 5, 6])
        #expect(Array(data.window(2, length: 3).targets) == [7, 8, 9])
        var batch = TokenBatch(capacity: 6)
        batch.append(data.window(0, length: 3))
        batch.append(data.window(2, length: 3))
        #expect(batch.inputs == [0, 1, 2, 6, 7, 8] && batch.targets == [1, 2, 3, 7, 8, 9])
        batch.removeAll()
        #expect(batch.inputs.isEmpty && batch.targets.isEmpty)
    }

    /// Each epoch shows every window once, in an order of its own that depends on the seed and the epoch alone.
    @Test(arguments: [1, 2, 7, 64]) func everyEpochShowsEveryWindow(windows: Int) {
        func order(seed: UInt64, from first: Int = 0, count: Int) -> [Int] {
            var order = SampleOrder(windows: windows, seed: seed)
            return (first..<first + count).map { order.window(ofSample: $0) }
        }
        let all = order(seed: 5, count: 3 * windows)
        let epochs = (0..<3).map { Array(all[$0 * windows..<($0 + 1) * windows]) }
        for epoch in epochs { #expect(epoch.sorted() == Array(0..<windows)) }
        if windows > 7 { #expect(epochs[0] != epochs[1] && epochs[0] != order(seed: 6, count: windows)) }
        // A run that goes on finds its place again.
        #expect(order(seed: 5, from: windows + windows / 2, count: windows) == Array(all[windows + windows / 2..<2 * windows + windows / 2]))
    }
}
