import JSON
import Kernels
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

@testable import LanguageModel

struct TransformerWeightsTests {
    private let folder: TemporaryFolder
    private let compute: Compute

    init() throws {
        folder = try TemporaryFolder()
        compute = Compute(pool: try #require(ThreadPool(threads: 2)))
    }

    /// Every size is another, so that no shape can be taken for its neighbour's.
    private static func configuration(isTied: Bool = false) throws -> TransformerConfiguration {
        try TransformerConfiguration(
            json: [
                "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
                "num_key_value_heads": 1, "head_dim": 2, "vocab_size": 5, "tie_word_embeddings": .bool(isTied),
            ], path: "config.json")
    }

    /// The tensors that a model of two layers must have, in the order in which they are looked for.
    private static let shapes: [(name: String, shape: [Int])] =
        [("model.embed_tokens.weight", [5, 8]), ("lm_head.weight", [5, 8]), ("model.norm.weight", [8])]
        + (0..<2).flatMap { layer in
            [
                ("self_attn.q_proj", [6, 8]), ("self_attn.k_proj", [2, 8]), ("self_attn.v_proj", [2, 8]), ("self_attn.o_proj", [8, 6]),
                ("mlp.gate_proj", [12, 8]), ("mlp.up_proj", [12, 8]), ("mlp.down_proj", [8, 12]), ("input_layernorm", [8]),
                ("post_attention_layernorm", [8]),
            ].map { ("model.layers.\(layer).\($0).weight", $1) }
        }

    private static let names = shapes.map(\.name)

    /// The bytes of each of them, in each type that can be trained on; made once, because rounding in a debug build is slow.
    private static let content: [DType: [[UInt8]]] = {
        var generator = SeededGenerator(seed: 1)
        let values = shapes.map { generator.values($0.shape.reduce(1, *), spread: 1).map(Double.init) }
        let types: [DType] = [.f32, .bf16, .f16]
        return Dictionary(uniqueKeysWithValues: types.map { dtype in (dtype, values.map { $0.flatMap { encode($0, dtype) } }) })
    }()

    private func tensors(dtype: DType = .bf16) -> [TestTensor] {
        zip(Self.shapes, Self.content[dtype] ?? []).map { TestTensor($0.name, dtype, $0.shape, bytes: $1) }
    }

    private func weights(_ tensors: [TestTensor], isTied: Bool = false) throws -> TransformerWeights {
        let path = folder.path("model.safetensors")
        try writeSafetensors(tensors, to: path)
        return try TransformerWeights(configuration: try Self.configuration(isTied: isTied), files: try ModelWeights(path: path), compute: compute)
    }

    private func fault(_ tensors: [TestTensor], isTied: Bool = false) -> TransformerError? {
        let error = #expect(throws: TransformerError.self) { try weights(tensors, isTied: isTied) }
        #expect(error?.path == folder.path("model.safetensors"))
        return error
    }

    /// The good tensors with one of them changed.
    private func changing(_ name: String, dtype: DType = .bf16, _ change: (inout TestTensor) -> Void) -> [TestTensor] {
        var tensors = tensors(dtype: dtype)
        for index in tensors.indices where tensors[index].name == name { change(&tensors[index]) }
        return tensors
    }

    // MARK: Accepted

    @Test(arguments: [DType.f32, .bf16, .f16]) func everyWeightIsFound(dtype: DType) throws {
        let tensors = tensors(dtype: dtype)
        let weights = try weights(tensors)
        func values(_ name: String) -> [Double] {
            guard let tensor = tensors.first(where: { $0.name == name }) else { return [] }
            return (0..<tensor.bytes.count * 8 / dtype.bitWidth).map { MergeReference.value(of: bits(tensor.bytes, dtype, $0), in: dtype) }
        }
        func expect(_ found: [Float], _ name: String) { #expect(found.map(Double.init) == values(name) && !found.isEmpty, "\(name)") }
        expect(weights.embedding.floats(), "model.embed_tokens.weight")
        expect(weights.head.floats(), "lm_head.weight")
        expect(weights.finalNorm.array, "model.norm.weight")
        #expect(weights.blocks.count == 2)
        for (index, block) in weights.blocks.enumerated() {
            for (shape, matrix) in zip(weights.configuration.linears, block.linears) {
                expect(matrix.floats(), shape.path(layer: index) + ".weight")
            }
            #expect(block.biases.count == 7 && block.biases.allSatisfy { $0 == nil })
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                expect(block.norm(norm).array, "model.layers.\(index).\(norm).weight")
            }
        }
    }

    @Test func aTiedHeadIsTheEmbedding() throws {
        let untied = tensors().filter { $0.name != "lm_head.weight" }
        #expect(try weights(untied, isTied: true).head.name == "model.embed_tokens.weight")
        // A copy that the file may carry is not looked at.
        let copy = TestTensor("lm_head.weight", .f64, [1], bytes: [UInt8](repeating: 0xFF, count: 8))
        #expect(try weights(untied + [copy], isTied: true).head.name == "model.embed_tokens.weight")
        #expect(fault(untied)?.tensor == "lm_head.weight")
    }

    @Test func biasesAreReadWhereThereAreSome() throws {
        let bias = TestTensor("model.layers.1.self_attn.k_proj.bias", .f32, [2], values: [0.5, -3])
        let blocks = try weights(tensors() + [bias]).blocks
        #expect(blocks[1].biases[1]?.array == [0.5, -3])
        #expect((blocks[0].biases + blocks[1].biases).count { $0 != nil } == 1)
    }

    @Test func otherTensorsDoNoHarm() throws {
        let other = TestTensor("model.layers.0.self_attn.rotary_emb.inv_freq", .i64, [1], bytes: [UInt8](repeating: 0xFF, count: 8))
        #expect(try weights(tensors() + [other]).blocks.count == 2)
    }

    // MARK: Refused

    @Test(arguments: names) func aMissingTensorIsNamed(name: String) {
        let error = fault(tensors().filter { $0.name != name })
        #expect(error?.code == .missingTensor && error?.tensor == name)
        #expect(error?.description.contains("tensor \(name): the configuration calls for it") == true)
    }

    @Test(arguments: shapes.map(\.name), ["a row more", "no rows", "a dimension more", "flat", "turned"])
    func aWrongShapeIsNamed(name: String, how: String) throws {
        let shape = try #require(Self.shapes.first { $0.name == name }).shape
        let wrong =
            switch how {
            case "a row more": [shape[0] + 1] + shape[1...]
            case "no rows": [0] + shape[1...]
            case "a dimension more": shape + [1]
            case "flat": shape.count == 1 ? [] : [shape.reduce(1, *)]
            default: shape.count == 1 ? [1] + shape : shape.reversed()
            }
        let error = fault(changing(name) { $0 = TestTensor(name, .bf16, wrong, bytes: [UInt8](repeating: 0, count: 2 * wrong.reduce(1, *))) })
        #expect(error?.code == .wrongShape && error?.tensor == name)
        #expect(error?.message == "its shape is \(describe(shape: wrong)) and the configuration calls for \(describe(shape: shape))")
    }

    @Test(arguments: [DType.f64, .i8, .f8E4M3, .u16]) func elementsOfAnotherTypeAreRefused(dtype: DType) throws {
        for (name, shape) in Self.shapes {
            let bytes = [UInt8](repeating: 0, count: shape.reduce(1, *) * dtype.bitWidth / 8)
            let error = fault(changing(name) { $0 = TestTensor(name, dtype, shape, bytes: bytes) })
            #expect(error?.code == .unsupportedDType && error?.tensor == name)
            #expect(error?.message.contains("type \(dtype) ") == true)
        }
    }

    /// NaN and both infinities, at the first, the last and some inner element of every tensor.
    @Test(arguments: [DType.f32, .bf16, .f16]) func aWeightThatIsNotFiniteIsNamed(dtype: DType) throws {
        for (number, (name, shape)) in Self.shapes.enumerated() {
            let count = shape.reduce(1, *)
            for (turn, index) in [0, count - 1, count / 2 + 1].enumerated() {
                let value = [Float.nan, .infinity, -.infinity][(number + turn) % 3]
                let encoded = encode(Double(value), dtype)
                let error = fault(
                    changing(name, dtype: dtype) {
                        $0.bytes.replaceSubrange(index * encoded.count..<(index + 1) * encoded.count, with: encoded)
                    })
                #expect(error?.code == .notFinite && error?.tensor == name)
                let place = shape.count == 1 ? "the element \(index) is" : "row \(index / shape[1]), column \(index % shape[1]) is"
                #expect(error?.message.contains(place) == true, "\(name): \(String(describing: error))")
            }
        }
    }

    @Test func theFirstOfSeveralFaultsIsNamed() throws {
        var tensors = tensors(dtype: .f32)
        let nan = encode(.nan, .f32)
        for index in tensors.indices where tensors[index].name.hasSuffix("up_proj.weight") {
            for element in [90, 20, 21] { tensors[index].bytes.replaceSubrange(element * 4..<element * 4 + 4, with: nan) }
        }
        let error = fault(tensors)
        #expect(error?.tensor == "model.layers.0.mlp.up_proj.weight")
        #expect(error?.message.hasPrefix("the weight at row 2, column 4 is NaN or infinite") == true)
    }

    @Test func biasesAreChecked() {
        let name = "model.layers.0.mlp.down_proj.bias"
        let long = fault(tensors() + [TestTensor(name, .f32, [9], values: [Float](repeating: 0, count: 9))])
        #expect(long?.code == .wrongShape && long?.tensor == name)
        let nan = fault(tensors() + [TestTensor(name, .f32, [8], values: [0, 0, 0, 0, 0, 0, 0, .nan])])
        #expect(nan?.code == .notFinite && nan?.tensor == name && nan?.message.contains("element 7 ") == true)
    }
}
