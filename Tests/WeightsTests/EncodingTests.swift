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
    @Test(arguments: rows) func tensorsThatDoNotFit(row: Row) throws {
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

    // MARK: FP8 in blocks

    /// Values of the format's tables, times a scale that changes none of their digits.
    @Test func knownCodes() throws {
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

    /// A file that names no blocks has those of 128 by 128.
    @Test func blocksWithoutAConfiguration() throws {
        let folder = try TemporaryFolder()
        try writeSafetensors(
            [
                TestTensor("a.weight", .f8E4M3, [130, 129], bytes: [UInt8](repeating: 0x38, count: 130 * 129)),
                TestTensor("a.weight_scale_inv", .f32, [2, 2], values: [1, 2, 3, 4]),
            ], to: folder.path("model.safetensors"))
        let weight = try ModelWeights(path: folder.path("model.safetensors")).weight(named: "a.weight")
        var bytes: [UInt8] = []
        try weight.read(bytes: 0..<weight.byteCount, into: &bytes)
        func value(_ row: Int, _ column: Int) -> Float { Float(bitPattern: UInt32(bits(bytes, .f32, row * 129 + column))) }
        #expect([value(127, 127), value(127, 128), value(128, 127), value(129, 128)] == [1, 2, 3, 4])
    }
}
