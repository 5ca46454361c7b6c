import FileIO
import JSON
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

@testable import Weights

/// Every encoding that is read, held to what the protocol promises.
struct EncodingTests {
    /// Tensors of one weight in an encoding, of a random shape, with the configuration that belongs to them.
    struct Sample {
        var tensors: [TestTensor]
        var configuration: JSONValue = [:]
        /// The weight's name and shape.
        let name: String
        let shape: [Int]
    }

    struct Row: Sendable, CustomTestStringConvertible {
        /// Of the encoding, and the ending of its codes.
        let name: String
        let codes: String
        let make: @Sendable (inout SeededGenerator) -> Sample

        var testDescription: String { "\(name), codes \(codes)" }
    }

    /// A row for each row of the table that is read.
    static let rows = [
        Row(name: "FP8 in blocks", codes: ".weight") { fp8(codes: ".weight", scales: ".weight_scale_inv", &$0) },
        Row(name: "FP8 in blocks", codes: "") { fp8(codes: "", scales: "_scale_inv", &$0) },
    ]

    private static func fp8(codes: String, scales: String, _ random: inout SeededGenerator) -> Sample {
        let block = (0..<2).map { _ in Int.random(in: 1...9, using: &random) }
        let matrices = codes.isEmpty ? [Int.random(in: 1...3, using: &random)] : []
        let (rows, columns) = (Int.random(in: 1...30, using: &random), Int.random(in: 1...30, using: &random))
        let shape = matrices + [rows, columns]
        let hasOne = Int.random(in: 0..<8, using: &random) == 0
        let grid = hasOne ? [1, 1] : matrices + [(rows - 1) / block[0] + 1, (columns - 1) / block[1] + 1]
        let type = [DType.f32, .bf16, .u8, .f8E8M0].randomElement(using: &random)!
        let count = grid.reduce(1, *)
        let factors: [UInt8] =
            type.bitWidth == 8
            ? random.bytes(count)
            : (0..<count).flatMap { _ in
                encode(Double(sign: .plus, exponent: .random(in: -60...20, using: &random), significand: .random(in: 1..<2, using: &random)), type)
            }
        let stem = codes.isEmpty ? "model.layers.0.experts.down_proj" : "model.layers.0.q_proj"
        return Sample(
            tensors: [
                TestTensor(stem + codes, .f8E4M3, shape, bytes: random.bytes(shape.reduce(1, *))),
                TestTensor(stem + scales, type, grid, bytes: factors),
            ],
            configuration: ["quantization_config": ["quant_method": "fp8", "weight_block_size": .array(block.map { .integer($0) })]],
            name: codes.isEmpty ? stem : stem + ".weight", shape: shape)
    }

    private static func open(_ sample: Sample, in folder: TemporaryFolder) throws -> ModelWeights {
        try writeSafetensors(sample.tensors, to: folder.path("model.safetensors"))
        try writeText(sample.configuration.serialized(), folder.path("config.json"))
        return try ModelWeights(path: folder.path)
    }

    @Test func everyReadEncodingHasARow() {
        let read = WeightEncoding.all.filter { $0.reader != nil }
        #expect(read.map { [$0.name, $0.codes] } == Self.rows.map { [$0.name, $0.codes] })
    }

    /// A row that an earlier one hides would never be found, in none of the types of its codes, with and without what may be beside them.
    @Test(arguments: WeightEncoding.all.indices) func everyRowOfTheTableIsFoundByItsTensors(number: Int) throws {
        let row = WeightEncoding.all[number]
        for type in row.types.intersection(WeightEncoding.codeTypes).sorted(by: { $0.rawValue < $1.rawValue }) {
            for beside in [row.scales, row.scales + row.others] {
                let scale = row.scaleTypes?.min { $0.rawValue < $1.rawValue } ?? .f32
                let scales = beside.map { TestTensor("a" + $0, scale, [1], bytes: [UInt8](repeating: 1, count: scale.bitWidth / 8)) }
                let sample = Sample(
                    tensors: [TestTensor("a" + row.codes, type, [4, 4], bytes: [UInt8](repeating: 1, count: 16 * type.bitWidth / 8))] + scales,
                    configuration: ["quantization_config": ["quant_method": .string(row.method ?? "none")]], name: "a", shape: [4, 4])
                let found = try Self.open(sample, in: try TemporaryFolder()).quantization.unread("a", isOfFile: true) { $0 }
                #expect(found?.encoding.name == row.name && found?.codes == "a" + row.codes, "\(row.name), \(type), \(beside)")
                #expect(found?.scales.sorted() == beside.sorted(), "\(row.name), \(type)")
            }
        }
    }

    /// Decoding and definition give the same bits, in whatever pieces they are asked for; scales are no weights of their own.
    @Test(arguments: rows, [UInt64](0..<60)) func twoWaysAgree(row: Row, seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let sample = row.make(&random)
        let weights = try Self.open(sample, in: try TemporaryFolder())
        #expect(weights.tensors.keys.elements == [sample.name] && weights.isDecoded, "seed \(seed)")
        let weight = try weights.weight(named: sample.name)
        #expect(weight.shape == sample.shape && weight.dtype == .f32 && weight.encoded?.encoding.name == row.name)
        func bytes(_ weight: StoredWeight, _ elements: Range<Int>) throws -> [UInt8] {
            var buffer: [UInt8] = []
            try weight.read(bytes: weight.bytes(of: elements), into: &buffer)
            return Array(buffer.prefix(4 * elements.count))
        }
        func patterns(_ bytes: [UInt8]) -> [UInt32] {
            // NaN has many patterns, and is one value.
            (0..<bytes.count / 4).map { UInt32(truncatingIfNeeded: bits(bytes, .f32, $0)) }
                .map { Float(bitPattern: $0).isNaN ? 0x7fc0_0000 : $0 }
        }
        let whole = patterns(try bytes(weight, 0..<weight.elementCount))
        #expect(whole == patterns(try bytes(weight.defined, 0..<weight.elementCount)), "seed \(seed)")
        for _ in 0..<8 {
            let first = Int.random(in: 0..<weight.elementCount, using: &random)
            let range = first..<Int.random(in: first...weight.elementCount, using: &random)
            #expect(patterns(try bytes(weight, range)) == Array(whole[range]), "seed \(seed), \(range)")
            #expect(patterns(try bytes(weight.defined, range)) == Array(whole[range]), "seed \(seed), \(range)")
        }
        #expect(weights.withCodes.tensors.keys.sorted() == sample.tensors.map(\.name).sorted())
    }

    /// What does not fit is no weight that is read, and the refusal says why.
    @Test(arguments: rows) func tensorsThatDoNotFitAreNotRead(row: Row) throws {
        var random = SeededGenerator(seed: 7)
        for _ in 0..<20 {
            var sample = row.make(&random)
            let grid = sample.tensors[1].shape
            sample.tensors[1].shape = grid.dropLast() + [grid[grid.count - 1] + 1, 2]
            sample.tensors[1].bytes = [UInt8](
                repeating: 1, count: sample.tensors[1].shape.reduce(1, *) * sample.tensors[1].dtype.bitWidth / 8)
            let weights = try Self.open(sample, in: try TemporaryFolder())
            #expect(!weights.isDecoded && weights.tensors.count == sample.tensors.count)
            let found = weights.quantization.unread(sample.tensors[0].name, isOfFile: true) { $0 }
            #expect(found?.sentence(statement: nil).contains("whose scales are") == true)
        }
    }

    /// A tensor of scales without elements is no single scale: nothing is read beyond it.
    @Test(arguments: rows, [[0], [0, 1], [1, 0], [0, 0]]) func scalesWithoutElementsAreNotRead(row: Row, shape: [Int]) throws {
        var random = SeededGenerator(seed: 8)
        var sample = row.make(&random)
        sample.tensors[1].shape = sample.tensors[0].shape.dropLast(2) + shape
        sample.tensors[1].bytes = []
        let weights = try Self.open(sample, in: try TemporaryFolder())
        #expect(!weights.isDecoded)
        #expect(weights.quantization.unread(sample.tensors[0].name, isOfFile: true) { $0 } != nil)
    }

    // MARK: FP8 in blocks

    /// Values of the format's tables, times a scale that changes none of their digits.
    @Test func knownCodesHaveTheValuesOfTheFormat() throws {
        let known: [(UInt8, Float)] = [
            (0x00, 0), (0x01, 0x1p-9), (0x07, 0x1.cp-7), (0x08, 0x1p-6), (0x38, 1), (0x39, 1.125), (0x7e, 448), (0xb8, -1), (0xfe, -448), (0x77, 240),
        ]
        let folder = try TemporaryFolder()
        let sample = Sample(
            tensors: [
                TestTensor("a.weight", .f8E4M3, [1, known.count], bytes: known.map(\.0)),
                TestTensor("a.weight_scale_inv", .f32, [1, 1], values: [0.5]),
            ], name: "a.weight", shape: [1, known.count])
        let weight = try Self.open(sample, in: folder).weight(named: "a.weight")
        var bytes: [UInt8] = []
        try weight.read(bytes: 0..<weight.byteCount, into: &bytes)
        #expect(known.indices.map { Float(bitPattern: UInt32(bits(bytes, .f32, $0))) } == known.map { $0.1 / 2 })
    }

    /// What `config.json` says, and rows and columns of a block; none where the weight is not read and the sentence has the words.
    struct Blocks: CustomTestStringConvertible, Sendable {
        let configuration: String?
        let size: (Int, Int)?
        var words = ""

        var testDescription: String { configuration ?? "no config.json" }
    }

    static let blocks = [
        Blocks(configuration: #"{"quantization_config":{"quant_method":"fp8","weight_block_size":[100,100]}}"#, size: (100, 100)),
        // transformers' default.
        Blocks(configuration: #"{"quantization_config":{"quant_method":"fp8"}}"#, size: (128, 128)),
        // Wherever a model says it.
        Blocks(configuration: #"{"text_config":{"quantization_config":{"weight_block_size":[100,128]}}}"#, size: (100, 128)),
        Blocks(configuration: #"{"thinker_config":{"text_config":{"quantization_config":{"weight_block_size":[100,100]}}}}"#, size: (100, 100)),
        Blocks(
            configuration: #"{"quantization_config":null,"language_config":{"quantization_config":{"weight_block_size":[100,100]}}}"#,
            size: (100, 100)),
        Blocks(
            configuration: #"{"quantization_config":{"quant_method":"fp8"},"llm_config":{"quantization_config":{"weight_block_size":[100,100]}}}"#,
            size: (100, 100)),
        Blocks(configuration: #"{"compression_config":{"weight_block_size":[100,100]}}"#, size: (100, 100)),
        Blocks(configuration: #"{"quantization":{"weight_block_size":[100,100]}}"#, size: (100, 100)),
        // No size is guessed: the default is that of this method alone.
        Blocks(configuration: #"{"quantization":{"bits":4,"group_size":64}}"#, size: nil, words: "may be of blocks of several sizes"),
        Blocks(
            configuration: #"{"quantization_config":{"quant_method":"fp8"},"text_config":{"quantization_config":{"weight_block_size":null}}}"#,
            size: nil, words: "may be of blocks of several sizes"),
        Blocks(configuration: nil, size: nil, words: "may be of blocks of several sizes"),
        Blocks(configuration: "{}", size: nil, words: "may be of blocks of several sizes"),
        Blocks(configuration: #"{"quantization_config":"fp8"}"#, size: nil, words: "may be of blocks of several sizes"),
        Blocks(configuration: #"{"quantization_config":{"weight_block_size":null}}"#, size: nil, words: "may be of blocks of several sizes"),
        Blocks(configuration: #"{"quantization_config":{"weight_block_size":[100,100,"x"]}}"#, size: nil, words: "should be two sizes"),
        Blocks(
            configuration:
                #"{"quantization_config":{"weight_block_size":[100,100]},"text_config":{"quantization_config":{"weight_block_size":[128,128]}}}"#,
            size: nil, words: "config.json gives the weight_block_size"),
    ]

    /// Scales of 2 by 2 fit blocks of many sizes; only what is stated tells which. A file is read as its folder is.
    @Test(arguments: blocks) func blocksAreThoseThatAreStated(blocks: Blocks) throws {
        let folder = try TemporaryFolder()
        let file = folder.path("model.safetensors")
        try writeSafetensors(
            [
                TestTensor("a.weight", .f8E4M3, [200, 200], bytes: [UInt8](repeating: 0x38, count: 200 * 200)),
                TestTensor("a.weight_scale_inv", .f32, [2, 2], values: [1, 2, 3, 4]),
            ], to: file)
        if let text = blocks.configuration { try writeText(text, folder.path("config.json")) }
        for path in [folder.path, file] {
            let weights = try ModelWeights(path: path)
            guard let size = blocks.size else {
                #expect(!weights.isDecoded)
                let sentence = weights.quantization.unread("a.weight", isOfFile: true) { $0 }?.sentence(statement: nil) ?? ""
                #expect(sentence.contains(blocks.words), "\(sentence)")
                continue
            }
            let weight = try weights.weight(named: "a.weight")
            var bytes: [UInt8] = []
            try weight.read(bytes: 0..<weight.byteCount, into: &bytes)
            func value(_ row: Int, _ column: Int) -> Float { Float(bitPattern: UInt32(bits(bytes, .f32, row * 200 + column))) }
            let (rows, columns) = size
            #expect([value(rows - 1, columns - 1), value(rows - 1, columns), value(rows, columns - 1), value(rows, 199)] == [1, 2, 3, 4])
            #expect(weight.encoded?.meaning == "FP8 in blocks, blocks of \(rows) by \(columns)")
        }
    }

    /// Blocks of which there can be only one need no statement: the whole, rows, columns and single elements.
    @Test(arguments: [[1, 1], [3, 1], [1, 5], [3, 5]]) func blocksThatTheShapesGiveNeedNoStatement(grid: [Int]) throws {
        let folder = try TemporaryFolder()
        let count = grid[0] * grid[1]
        try writeSafetensors(
            [
                TestTensor("a.weight", .f8E4M3, [3, 5], bytes: [UInt8](repeating: 0x38, count: 15)),
                TestTensor("a.weight_scale_inv", .f32, grid, values: (0..<count).map { Float($0 + 1) }),
            ], to: folder.path("model.safetensors"))
        let weight = try ModelWeights(path: folder.path).weight(named: "a.weight")
        var bytes: [UInt8] = []
        try weight.read(bytes: 0..<weight.byteCount, into: &bytes)
        for (row, column) in [(0, 0), (2, 0), (0, 4), (2, 4)] {
            let scale = (grid[0] == 1 ? 0 : row) * grid[1] + (grid[1] == 1 ? 0 : column)
            #expect(Float(bitPattern: UInt32(bits(bytes, .f32, row * 5 + column))) == Float(scale + 1))
        }
    }

    /// Scales that no size of blocks explains are no matter of the configuration.
    @Test(arguments: [[5, 1], [3], [1, 3, 5], [3, 6]]) func scalesOfNoBlocksAreNoMatterOfTheConfiguration(grid: [Int]) throws {
        let folder = try TemporaryFolder()
        try writeSafetensors(
            [
                TestTensor("a.weight", .f8E4M3, [3, 5], bytes: [UInt8](repeating: 0x38, count: 15)),
                TestTensor("a.weight_scale_inv", .f32, grid, values: [Float](repeating: 1, count: grid.reduce(1, *))),
            ], to: folder.path("model.safetensors"))
        let sentence = try ModelWeights(path: folder.path).quantization.unread("a.weight", isOfFile: true) { $0 }?.sentence(statement: nil) ?? ""
        #expect(sentence.contains("no blocks of [3,5] have so many"), "\(sentence)")
    }

    /// Each component of a pipeline has its own configuration.
    @Test func everyComponentOfAPipelineHasItsOwnBlocks() throws {
        let folder = try TemporaryFolder()
        try writeText(#"{"_class_name":"P","transformer":["diffusers","T"],"text_encoder":["transformers","E"]}"#, folder.path("model_index.json"))
        for (name, size) in [("transformer", 100), ("text_encoder", 128)] {
            try FileSystem.createFolder(folder.path(name))
            let file = name == "transformer" ? "diffusion_pytorch_model.safetensors" : "model.safetensors"
            try writeSafetensors(
                [
                    TestTensor("a.weight", .f8E4M3, [200, 200], bytes: [UInt8](repeating: 0x38, count: 200 * 200)),
                    TestTensor("a.weight_scale_inv", .f32, [2, 2], values: [1, 2, 3, 4]),
                ], to: folder.path("\(name)/\(file)"))
            try writeText(#"{"quantization_config":{"weight_block_size":[\#(size),\#(size)]}}"#, folder.path("\(name)/config.json"))
        }
        let weights = try ModelWeights(path: folder.path)
        #expect(weights.tensors.keys.sorted() == ["text_encoder.a.weight", "transformer.a.weight"])
        for (name, size) in [("transformer", 100), ("text_encoder", 128)] {
            #expect(weights.tensors["\(name).a.weight"]?.encoded?.meaning == "FP8 in blocks, blocks of \(size) by \(size)")
        }
    }

    /// Scales of serving are single numbers; a parameter that is called so is the model's. Scales beside no codes are kept, and told.
    @Test func scalesThatBelongToNoCodesAreToldOrLeftOut() throws {
        let folder = try TemporaryFolder()
        try writeSafetensors(
            [
                TestTensor("a.weight", .f8E4M3, [4, 4], bytes: [UInt8](repeating: 0x38, count: 16)),
                TestTensor("a.weight_scale_inv", .f32, [1, 1], values: [1]),
                TestTensor("attn.k_scale", .f32, [], values: [1]), TestTensor("attn.v_scale", .f32, [1], values: [1]),
                TestTensor("attn.q_scale", .bf16, [4], values: [1, 2, 3, 4]),
                TestTensor("b.weight", .bf16, [2, 2], values: [1, 2, 3, 4]), TestTensor("b.weight_scale_inv", .f32, [1, 1], values: [1]),
                TestTensor("c.weight_scale", .f32, [1], values: [1]),
            ], to: folder.path("model.safetensors"))
        let weights = try ModelWeights(path: folder.path)
        #expect(weights.leftOutScales.sorted() == ["attn.k_scale", "attn.v_scale"])
        #expect(weights.strayScales.sorted() == ["b.weight_scale_inv", "c.weight_scale"])
        #expect(weights.tensors.keys.sorted() == ["a.weight", "attn.q_scale", "b.weight", "b.weight_scale_inv", "c.weight_scale"])
    }
}
