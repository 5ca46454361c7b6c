import FileIO
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

struct SafetensorsWriterTests {
    private let folder: TemporaryFolder
    private let path: String

    init() throws {
        folder = try TemporaryFolder()
        path = folder.path("out.safetensors")
    }

    private func writer(
        _ entries: [SafetensorsWriter.Entry], metadata: [String: String] = [:], replacing: Bool = false, keepsOrder: Bool = false
    ) throws -> SafetensorsWriter {
        try SafetensorsWriter(path: path, entries: entries, metadata: metadata, replacing: replacing, keepsOrder: keepsOrder)
    }

    private func names(_ entries: [SafetensorsWriter.Entry], keepsOrder: Bool = false) throws -> [String] {
        try writer(entries, keepsOrder: keepsOrder).order.map(\.name)
    }

    // MARK: Bytes

    @Test func aSmallFileHasItsBytes() throws {
        try writeSafetensors(
            [
                TestTensor("b", .u8, [3], bytes: [7, 8, 9]), TestTensor("a", .f32, [1, 2], values: [1, -2]),
                TestTensor("s\"", .bf16, [], values: [1.5]), TestTensor("none", .i64, [2, 0], bytes: []),
            ], to: path, metadata: ["format": "pt", "by": "é\n"])
        let header =
            #"{"__metadata__":{"by":"é\n","format":"pt"},"none":{"dtype":"I64","shape":[2,0],"data_offsets":[0,0]},"#
            + #""a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"s\"":{"dtype":"BF16","shape":[],"data_offsets":[8,10]},"#
            + #""b":{"dtype":"U8","shape":[3],"data_offsets":[10,13]}}     "#
        let length: [UInt8] = [0x10, 0x01, 0, 0, 0, 0, 0, 0]
        let data: [UInt8] = [0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0, 0xC0, 0x3F, 7, 8, 9]
        #expect(header.utf8.count == 0x110)
        #expect(try readAll(path) == length + Array(header.utf8) + data)
    }

    /// As the reference library's own tests have them.
    @Test func filesWithoutTensorsHaveTheirBytes() throws {
        try writeSafetensors([], to: path, metadata: [:])
        #expect(try readAll(path) == [8, 0, 0, 0, 0, 0, 0, 0, 0x7B, 0x7D, 32, 32, 32, 32, 32, 32])
        try writeSafetensors([], to: path, metadata: ["framework": "pt"])
        #expect(try readAll(path) == [40, 0, 0, 0, 0, 0, 0, 0] + Array(#"{"__metadata__":{"framework":"pt"}}     "#.utf8))
    }

    @Test func paddingToEightBytesAndNoMore() throws {
        for count in 0..<16 {
            let text = #"{"__metadata__":{"k":""# + String(repeating: "v", count: count) + #""}}"#
            let padding = [0, 7, 6, 5, 4, 3, 2, 1][text.utf8.count % 8]
            try writeSafetensors([], to: path, metadata: ["k": String(repeating: "v", count: count)])
            #expect(try readAll(path) == fileBytes(text + String(repeating: " ", count: padding)))
        }
    }

    /// The reference library wrote these; written again, they are the same to the byte.
    @Test(arguments: ["tiny-llama/model.safetensors", "golden/batch.safetensors", "golden/forward.safetensors"])
    func agreesWithTheReferenceLibrary(name: String) throws {
        let file = try SafetensorsFile(path: Repository.fixture(name))
        let tensors = file.tensors.values.map { TestTensor($0.name, $0.dtype, $0.shape, bytes: file.bytes($0.name)) }
        try writeSafetensors(tensors.reversed(), to: path, metadata: ["format": "pt"])
        #expect(try readAll(path) == readAll(Repository.fixture(name)))
    }

    @Test func tensorsStandInTheOrderOfTheReferenceLibrary() throws {
        // The element types from the last to the first of the reference library's list, whatever the names.
        let types: [DType] = [
            .u64, .i64, .f64, .c64, .f32, .u32, .i32, .bf16, .f16, .u16, .i16, .f8E8M0, .f8E4M3FNUZ, .f8E5M2FNUZ, .f8E4M3, .f8E5M2, .i8, .u8, .f6E3M2,
            .f6E2M3, .f4, .bool,
        ]
        #expect(types.count == DType.allCases.count)
        let entries = types.map { SafetensorsWriter.Entry(name: $0.rawValue, dtype: $0, shape: [0]) }
        #expect(try names(entries.sorted { $0.name < $1.name }) == types.map(\.rawValue))
        // Within a type by the bytes of the name; a composed and a decomposed letter are far apart there.
        let sorted = ["", "B", "a", "a.10", "a.9", "a.b", "e\u{301}a", "f", "\u{E9}b"]
        let written = try names(sorted.reversed().map { .init(name: $0, dtype: .u8, shape: [0]) })
        #expect(written.map { Array($0.utf8) } == sorted.map { Array($0.utf8) })
        #expect(try names(entries.reversed(), keepsOrder: true) == types.map(\.rawValue).reversed())
    }

    // MARK: Round trip

    private struct Sample {
        var tensors: [TestTensor]
        var metadata: [String: String]

        /// Up to eight tensors of any type and up to three dimensions, with names that need care.
        init(_ generator: inout SeededGenerator) {
            let parts = ["model", ".layers.", "\"", "\\", "\n", "\u{1}", "é", "e\u{301}", "🦙", "/", " ", "{", "__metadata__", "\u{2028}"]
            func text() -> String { (0..<Int.random(in: 0...4, using: &generator)).map { _ in parts.randomElement(using: &generator)! }.joined() }
            tensors = (0..<Int.random(in: 0...8, using: &generator)).map { index in
                let dtype = DType.allCases.randomElement(using: &generator)!
                var shape = (0..<Int.random(in: 0...3, using: &generator)).map { _ in Int.random(in: 0...5, using: &generator) }
                if dtype.bitWidth < 8 { shape.append(4) }
                return TestTensor(text() + "\(index)", dtype, shape, bytes: generator.bytes(shape.reduce(1, *) * dtype.bitWidth / 8))
            }
            metadata = [:]
            for _ in 0..<Int.random(in: 0...4, using: &generator) { metadata[text()] = text() }
        }
    }

    @Test(arguments: 1...30 as ClosedRange<UInt64>) func whatIsWrittenIsRead(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let sample = Sample(&generator)
        try writeSafetensors(sample.tensors, to: path, metadata: sample.metadata)
        let bytes = try readAll(path)
        let file = try SafetensorsFile(path: path)
        #expect(Dictionary(uniqueKeysWithValues: file.metadata.map { ($0.key, $0.value) }) == sample.metadata)
        #expect(file.tensors.count == sample.tensors.count)
        for tensor in sample.tensors {
            let info = try #require(file.tensors[tensor.name])
            #expect(Array(info.name.utf8) == Array(tensor.name.utf8) && info.dtype == tensor.dtype && info.shape == tensor.shape)
            #expect(file.bytes(tensor.name) == tensor.bytes)
        }
        // The header takes a multiple of eight bytes, so that the first tensor is aligned.
        #expect((file.tensors.values.first?.byteRange.lowerBound ?? bytes.count) % 8 == 0)
        // The same content in another order gives the same bytes.
        try writeSafetensors(sample.tensors.shuffled(using: &generator), to: path, metadata: sample.metadata)
        #expect(try readAll(path) == bytes)
        // What the writer announces is what the reader finds.
        let entries = sample.tensors.map { SafetensorsWriter.Entry(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
        #expect(try writer(entries, metadata: sample.metadata, replacing: true).order == Array(file.tensors.values))
    }

    @Test func anOrderIsKeptAndPiecesAreJoined() throws {
        let writer = try writer([.init(name: "z", dtype: .u8, shape: [3]), .init(name: "a", dtype: .f32, shape: [1])], keepsOrder: true)
        for piece in [[1], [2, 3, 4], [], [5, 6, 7]] as [[UInt8]] { try writer.write(unsafe piece.span.bytes) }
        try writer.publish()
        let file = try SafetensorsFile(path: path)
        #expect(Array(file.tensors.keys) == ["z", "a"])
        #expect(file.bytes("z") == [1, 2, 3] && file.bytes("a") == [4, 5, 6, 7])
    }

    // MARK: Refused

    @Test func entriesThatNoFileCanHoldAreRefused() throws {
        func refusal(_ entries: (String, DType, [Int])...) -> SafetensorsError? {
            fault { _ = try writer(entries.map { .init(name: $0.0, dtype: $0.1, shape: $0.2) }) }
        }
        for (dtype, shape) in [(DType.u8, [1 << 32, 1 << 32]), (.f64, [1 << 60]), (.f32, [-1]), (.f4, [3])] {
            let error = refusal(("good", .u64, [1]), ("t", dtype, shape))
            #expect(error?.code == .sizeOverflow && error?.tensor == "t" && error?.path == path, "\(shape)")
        }
        // Each of them could be in a file, all together cannot.
        let many = (0..<16).map { SafetensorsWriter.Entry(name: "\($0)", dtype: .u8, shape: [1 << 59]) }
        #expect(fault { _ = try writer(many) }?.code == .sizeOverflow)
        #expect(try names([.init(name: "0", dtype: .u8, shape: [1 << 59])]) == ["0"])

        #expect(refusal(("t", .u8, [1]), ("a", .u8, [1]), ("t", .f32, [1]))?.code == .duplicateTensor)
        #expect(refusal(("t", .u8, [1]), ("t", .u8, [1]))?.tensor == "t")
        for name in ["__metadata__", "a\0b"] {
            let error = refusal((name, .u8, [1]))
            #expect(error?.code == .invalidTensor && error?.tensor == name)
        }
        #expect(try FileSystem.names(in: folder.path) == [])
    }

    @Test func nothingAppearsUntilPublished() throws {
        func write(replacing: Bool) throws {
            let writer = try writer([.init(name: "t", dtype: .u8, shape: [1])], replacing: replacing)
            try writer.write(unsafe ([1] as [UInt8]).span.bytes)
        }
        try write(replacing: false)
        #expect(try FileSystem.names(in: folder.path) == [])
        try writeText("old", path)
        try write(replacing: true)
        #expect(throws: FileError.exists(path: path)) { try write(replacing: false) }
        #expect(try readAll(path) == Array("old".utf8))
        #expect(try FileSystem.names(in: folder.path) == ["out.safetensors"])
    }
}
