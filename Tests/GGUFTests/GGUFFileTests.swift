import GGUF
import OrderedCollections
import TestSupport
import Testing

struct GGUFFileTests {
    private let folder: TemporaryFolder
    private let path: String

    init() throws {
        folder = try TemporaryFolder()
        path = folder.path("model.gguf")
    }

    private func open(_ builder: GGUFBuilder) throws -> GGUFFile {
        try write(builder.bytes, path)
        return try GGUFFile(path: path)
    }

    @Test func readsEveryKindOfField() throws {
        let file = try open(.sound)
        #expect(file.version == 3 && file.alignment == 64)
        let values: [String: GGUFValue] = [
            "general.architecture": .string("llama"), "llama.block_count": .unsigned(2), "a.u8": .unsigned(200), "a.i8": .signed(-1),
            "a.u16": .unsigned(513), "a.i16": .signed(-2), "a.i32": .signed(-7), "a.f32": .real(0.5), "a.bool": .bool(true),
            "a.u64": .unsigned(.max), "a.i64": .signed(-9), "a.f64": .real(0.1),
        ]
        for (key, value) in values { #expect(file.metadata[key] == value, "\(key)") }
        guard case .array(let tokens)? = file.metadata["a.tokens"], case .array(let numbers)? = file.metadata["a.numbers"],
            case .array(let nothing)? = file.metadata["a.nothing"]
        else {
            Issue.record("no lists")
            return
        }
        #expect(tokens.count == 20 && tokens.first == (0..<GGUFArray.keptCount).map { .string("token \($0)") })
        #expect(numbers.count == 2 && numbers.first == [.signed(0), .signed(1)])
        #expect(nothing.count == 0 && nothing.first.isEmpty)
        #expect(file.metadata["a.u64"]?.integerValue == nil && file.metadata["a.i64"]?.integerValue == -9)
    }

    @Test func placesTensors() throws {
        let builder = GGUFBuilder.sound
        let file = try open(builder)
        let start = builder.bytes.count - builder.data.count
        #expect(file.tensors.keys == ["token_embd.weight", "blk.0.attn_q.weight", "scalar"])
        #expect(file.tensors["token_embd.weight"]?.shape == [4, 32] && file.tensors["token_embd.weight"]?.type == .f16)
        #expect(file.tensors["token_embd.weight"]?.byteRange == start..<start + 256)
        #expect(file.tensors["blk.0.attn_q.weight"]?.byteRange == start + 256..<start + 256 + 288)
        #expect(file.tensors["scalar"]?.shape == [] && file.tensors["scalar"]?.byteRange == start + 576..<start + 580)
    }

    @Test func claimsFilesByContentOrName() throws {
        try write(GGUFBuilder.sound.bytes, folder.path("unnamed"))
        try write([1, 2, 3], path)
        try write([1, 2, 3], folder.path("other"))
        #expect(GGUFFile.claims(folder.path("unnamed")) && GGUFFile.claims(path))
        #expect(!GGUFFile.claims(folder.path("other")) && !GGUFFile.claims(folder.path("missing")) && !GGUFFile.claims(folder.path))
    }

    @Test func filesWithoutTensorsAndOfVersion2() throws {
        #expect(try open(GGUFBuilder(version: 2)).tensors.isEmpty)
        // Vocabularies end with their metadata, without padding.
        var bytes = GGUFBuilder(fields: [.u32("a", 1)]).bytes
        bytes.removeLast(bytes.count - (24 + 8 + 1 + 4 + 4))
        try write(bytes, path)
        #expect(try GGUFFile(path: path).metadata.count == 1)
    }

    // MARK: Refused

    struct Refusal: Sendable, CustomTestStringConvertible {
        let code: GGUFError.Code
        let name: String
        let words: String
        let change: @Sendable (inout GGUFBuilder) -> Void

        var testDescription: String { "\(code): \(name)" }

        init(_ code: GGUFError.Code, _ name: String, says words: String = "", _ change: @escaping @Sendable (inout GGUFBuilder) -> Void) {
            (self.code, self.name, self.words, self.change) = (code, name, words, change)
        }
    }

    static let refusals: [Refusal] = [
        Refusal(.notGGUF, "another magic", says: "GGUF") { $0.magic = Array("GGML".utf8) },
        Refusal(.unsupportedVersion, "version 1", says: "version 1") { $0.version = 1 },
        Refusal(.unsupportedVersion, "version 4", says: "version 4") { $0.version = 4 },
        Refusal(.unsupportedVersion, "big-endian", says: "big-endian") { $0.version = 3 << 24 },
        Refusal(.countTooLarge, "all ones as tensors", says: "18446744073709551615 tensors") { $0.tensorCount = .max },
        Refusal(.countTooLarge, "all ones as fields", says: "fields") { $0.fieldCount = .max },
        Refusal(.countTooLarge, "a list longer than the file", says: "elements") { $0.fields.append(.array("x", 0, count: 1 << 62, [1])) },
        Refusal(.countTooLarge, "a list whose size overflows") { $0.fields.append(.array("x", 12, count: 1 << 61, [])) },
        Refusal(.headerPastEnd, "a text longer than the file", says: "x") { $0.fields.append(.init("x", 8, little(UInt64.max))) },
        Refusal(.invalidText, "a key that is not UTF-8") { $0.fields[0].key = [0xC3, 0x28] },
        Refusal(.invalidText, "a value that is not UTF-8") { $0.fields.append(.init("x", 8, GGUFBuilder.text([0xFF]))) },
        Refusal(.invalidText, "a name that is not UTF-8") { $0.tensors[0].name = [0x80] },
        Refusal(.duplicate, "a key twice", says: "a.u8") { $0.fields.append(.init("a.u8", 0, [1])) },
        Refusal(.duplicate, "a name twice", says: "scalar") { $0.tensors[0] = .init("scalar", [1], 0, at: 0) },
        Refusal(.unknownValueType, "type 13", says: "13") { $0.fields[0].type = 13 },
        Refusal(.unknownValueType, "a list of lists", says: "list") { $0.fields.append(.array("x", 9, count: 0, [])) },
        Refusal(.invalidAlignment, "0") { $0.fields[2].value = little(UInt32(0)) },
        Refusal(.invalidAlignment, "48") { $0.fields[2].value = little(UInt32(48)) },
        Refusal(.invalidAlignment, "2³¹") { $0.fields[2].value = little(UInt32(1 << 31)) },
        Refusal(.invalidAlignment, "a text") { $0.fields[2] = .string("general.alignment", "64") },
        Refusal(.unknownTensorType, "a withdrawn type", says: "4") { $0.tensors[0].type = 4 },
        Refusal(.unknownTensorType, "a type to come", says: "1000") { $0.tensors[0].type = 1000 },
        Refusal(.invalidShape, "five dimensions", says: "5") { $0.tensors[0].dimensions = [1, 1, 1, 1, 1] },
        Refusal(.invalidShape, "half a block", says: "256") { $0.tensors[1].dimensions = [128, 4] },
        Refusal(.sizeOverflow, "a dimension beyond an integer") { $0.tensors[0].dimensions = [1 << 63] },
        Refusal(.sizeOverflow, "a product beyond an integer") { $0.tensors[0].dimensions = [1 << 32, 1 << 32] },
        Refusal(.sizeOverflow, "bytes beyond an integer") { $0.tensors[0].dimensions = [1 << 62, 1] },
        Refusal(.sizeOverflow, "an offset beyond an integer") { $0.tensors[0].offset = .max },
        Refusal(.invalidOffset, "not aligned", says: "multiple of the alignment 64") { $0.tensors[1].offset = 257 },
        Refusal(.invalidOffset, "on another tensor", says: "another tensor") { $0.tensors[1].offset = 192 },
        Refusal(.dataPastEnd, "one byte too few", says: "cut short") { $0.data.removeLast() },
        Refusal(.dataPastEnd, "an offset near the largest") { $0.tensors[0].offset = UInt64(Int.max) - 63 },
    ]

    @Test(arguments: refusals) func everyFaultIsRefusedByItsCode(_ refusal: Refusal) throws {
        var builder = GGUFBuilder.sound
        refusal.change(&builder)
        try write(builder.bytes, path)
        let error = #expect(throws: GGUFError.self) { try GGUFFile(path: path) }
        #expect(error?.code == refusal.code, "\(String(describing: error))")
        #expect("\(error!)".hasPrefix(path) && "\(error!)".contains(refusal.words), "\(error!)")
    }

    /// A file that ends anywhere, or of which any byte is another, is refused or read, and never brings the program down.
    @Test func hostileBytesDoNoHarm() throws {
        let sound = GGUFBuilder.sound.bytes
        let headerEnd = sound.count - 580
        for count in 0..<headerEnd {
            try write(Array(sound[..<count]), path)
            #expect(throws: GGUFError.self, "\(count) bytes") { try GGUFFile(path: path) }
        }
        let seed: UInt64 = 11
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<3000 {
            var bytes = sound
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                bytes[Int.random(in: 4..<headerEnd, using: &generator)] = [0, 1, 0x7F, 0x80, 0xFF].randomElement(using: &generator)!
            }
            try write(bytes, path)
            do {
                let file = try GGUFFile(path: path)
                for tensor in file.tensors.values { #expect(tensor.byteRange.upperBound <= bytes.count, "seed \(seed)") }
            } catch {
                #expect(error is GGUFError, "seed \(seed): \(error)")
            }
        }
    }
}
