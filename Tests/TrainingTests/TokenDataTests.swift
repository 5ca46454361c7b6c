import JSON
import Tensors
import TestModels
import TestSupport
import Testing
import Tokenizer

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
    @Test func targetsAreTheNextTokens() {
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

    /// Nothing is put between paragraphs or at the ends of a text, and nothing taken away there.
    @Test(arguments: [
        "In the beginning", "In the beginning\n", "\n\n", " ", "one\n\ntwo\n\n\nthree", "a\r\nb\r\n", "caf\u{E9} \u{1F642} \u{0}!", "<s>x</s>",
    ])
    func aTextIsItsTokensAndNothingElse(text: String) throws {
        let folder = try TemporaryFolder()
        try writeText(text, folder.path("data"))
        let data = try TokenData(path: folder.path("data"), modelFolder: Repository.tinyLlama, vocabularySize: 1024)
        let tokenizer = try Tokenizer(contentsOf: Repository.tinyLlama + "/tokenizer.json")
        #expect(data.tokens == tokenizer.encode(text) && tokenizer.decode(data.tokens) == text)
    }

    @Test func aTextWithoutATokenIsRefused() throws {
        let folder = try TemporaryFolder()
        try writeText("", folder.path("empty"))
        do {
            _ = try TokenData(path: folder.path("empty"), modelFolder: Repository.tinyLlama, vocabularySize: 1024)
            Issue.record("it was taken")
        } catch let error as TrainingError {
            #expect(error.code == .emptyData && error.message.hasPrefix(folder.path("empty")))
        }
    }

    /// A window needs one token more than it is long: the target of its last one.
    @Test(arguments: [1, 2, 5, 16]) func aWindowNeedsTheTokenAfterIt(length: Int) {
        func count(_ tokens: Int) -> Int { TokenData(path: "", tokens: [Int32](repeating: 0, count: tokens)).windowCount(length: length) }
        #expect((1...length).allSatisfy { count($0) == 0 } && count(length + 1) == 1)
        #expect(count(2 * length) == 1 && count(2 * length + 1) == 2)
    }

    /// Side by side, from the first token on, and less than a window is left over.
    @Test(arguments: [1, .random(in: 0 ... .max)] as [UInt64]) func windowsCoverTheDataOnce(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<50 {
            let length = Int.random(in: 1...20, using: &random)
            let tokens = (0..<Int.random(in: 1...200, using: &random)).map { Int32($0) }
            let data = TokenData(path: "", tokens: tokens)
            let windows = (0..<data.windowCount(length: length)).map { data.window($0, length: length) }
            let covered = windows.count * length
            #expect(windows.flatMap(\.inputs) == Array(tokens.prefix(covered)), "length \(length), seed \(seed)")
            #expect(windows.flatMap(\.targets) == Array(tokens.dropFirst().prefix(covered)), "length \(length), seed \(seed)")
            #expect((1...length).contains(tokens.count - covered), "length \(length), seed \(seed)")
        }
    }
}
