import Adapters
import FileIO
import JSON
import Methods
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

/// The dialects of one safetensors file: kohya's, diffusers', and hypernetworks that were trained elsewhere.
struct SingleFileTests {
    private func tensor(_ name: String, _ shape: [Int], _ value: Float? = nil) -> TestTensor {
        TestTensor(name, .f32, shape, values: (0..<shape.reduce(1, *)).map { value ?? Float($0 + 1) })
    }

    private func read(_ tensors: [TestTensor], metadata: [String: String] = [:], base: BaseModel? = nil, alpha: AlphaChoice = .ofFile) throws
        -> Adapter
    {
        let folder = try TemporaryFolder()
        try writeSafetensors(tensors, to: folder.path("a.safetensors"), metadata: metadata)
        return try Adapter.read(path: folder.path("a.safetensors"), base: base, alpha: alpha)
    }

    // MARK: kohya

    @Test func kohyasAlphaIsOptionalAndZeroMeansNoChange() throws {
        for (alpha, scale) in [(nil, 1.0), (0, 0), (3, 1.5)] as [(Float?, Double)] {
            let adapter = try read(
                [tensor("lora_te1_a_b.lora_down.weight", [2, 3]), tensor("lora_te1_a_b.lora_up.weight", [4, 2])]
                    + (alpha.map { [tensor("lora_te1_a_b.alpha", [], $0)] } ?? []))
            let module = try #require(adapter.modules.first)
            #expect(adapter.dialect == .kohya && adapter.namesAreFlattened)
            #expect(module.component == "text_encoder" && module.path.text == "a_b" && module.kind == .linear && module.scale == scale)
            #expect(module.label.text == "text_encoder.a_b")
        }
    }

    @Test func aMiddleFactorIsComposed() throws {
        let adapter = try read([
            tensor("lora_unet_c.lora_down.weight", [2, 3, 1, 1]), tensor("lora_unet_c.lora_mid.weight", [2, 2, 1, 2]),
            tensor("lora_unet_c.lora_up.weight", [4, 2, 1, 1]),
        ])
        let module = try #require(adapter.modules.first)
        #expect(module.kind == .convolution && module.kernel == [1, 2] && module.rank == 2 && module.inputs == 6)
        // A[m, (i, p)] = Σₙ mid[m, (n, p)]·down[n, i].
        let (mid, down) = (Array(1...8).map(Double.init), Array(1...6).map(Double.init))
        var expected = [Double](repeating: 0, count: 12)
        for place in expected.indices {
            let (m, i, p) = (place / 6, place % 6 / 2, place % 2)
            for n in 0..<2 { expected[place] += mid[(m * 2 + n) * 2 + p] * down[n * 3 + i] }
        }
        #expect(module.loraA.doubles() == expected)
    }

    @Test func theAxisOfAMagnitudeIsReadFromItsShape() throws {
        for (shape, isOfOutputs) in [([4, 1], true), ([4], true), ([1, 3], false)] {
            let module = try #require(
                try read([
                    tensor("lora_unet_c.lora_down.weight", [2, 3]), tensor("lora_unet_c.lora_up.weight", [4, 2]),
                    tensor("lora_unet_c.dora_scale", shape),
                ]).modules.first)
            switch try #require(module.magnitude) {
            case .ofRows(let values): #expect(isOfOutputs && values.columns == 4)
            case .ofColumns(let values): #expect(!isOfOutputs && values.columns == 3)
            }
        }
    }

    static let refused: [(String, [(String, [Int])], AdapterError.Code, String)] = [
        ("no lora_up", [("lora_unet_a.lora_down.weight", [2, 3])], .missingFactor, "lora_unet_a"),
        ("an alpha of nothing", [("lora_unet_a.alpha", [])], .missingFactor, "lora_unet_a"),
        ("ranks that differ", [("lora_unet_a.lora_down.weight", [2, 3]), ("lora_unet_a.lora_up.weight", [4, 3])], .invalidShape, "lora_up"),
        ("no elements", [("lora_unet_a.lora_down.weight", [0, 3]), ("lora_unet_a.lora_up.weight", [4, 0])], .invalidShape, "lora_up"),
        (
            "a kernel on lora_up", [("lora_unet_a.lora_down.weight", [2, 3, 3, 3]), ("lora_unet_a.lora_up.weight", [4, 2, 3, 3])], .invalidShape,
            "lora_up"
        ),
        (
            "an alpha of two", [("lora_unet_a.lora_down.weight", [2, 3]), ("lora_unet_a.lora_up.weight", [4, 2]), ("lora_unet_a.alpha", [2])],
            .invalidShape, "alpha"
        ),
        (
            "a magnitude of another size",
            [("lora_unet_a.lora_down.weight", [2, 3]), ("lora_unet_a.lora_up.weight", [4, 2]), ("lora_unet_a.dora_scale", [5, 1])], .invalidShape,
            "dora_scale"
        ),
        ("LoHa without a factor", [("lora_unet_a.hada_w1_a", [2, 3])], .missingFactor, "hada_w1_b"),
        ("LoKr without a factor", [("lycoris_a.lokr_w1", [2, 3])], .missingFactor, "lokr_w2"),
        ("another tensor", [("lora_unet_a.lora_down.weight", [2, 3]), ("lora_unet_a.something", [3])], .unexpectedTensor, "something"),
        (
            "a name without a module", [("lora_unet_.lora_down.weight", [2, 3]), ("lora_unet_.lora_up.weight", [4, 2])], .unexpectedTensor,
            "lora_unet_"
        ),
        // diffusers
        ("an alpha without factors", [("unet.a.to_q.lora_A.weight", [2, 3]), ("unet.b.alpha", [])], .unexpectedTensor, "b"),
        ("no B", [("unet.a.to_q.lora.down.weight", [2, 3])], .missingFactor, "to_q"),
        ("a tensor of the model", [("unet.a.to_q.lora_A.weight", [2, 3]), ("unet.a.norm.weight", [3])], .unexpectedTensor, "norm"),
    ]

    @Test(arguments: refused.indices)
    func whatCannotBeReadIsRefusedByName(number: Int) throws {
        let (name, shapes, code, word) = Self.refused[number]
        do {
            _ = try read(shapes.map { tensor($0.0, $0.1) })
            Issue.record("\(name) was accepted")
        } catch let error as AdapterError {
            #expect(error.code == code && "\(error)".contains(word), "\(name): \(error)")
        }
    }

    // MARK: diffusers

    @Test func oldNamesOfDiffusersAreRead() throws {
        let adapter = try read([
            tensor("unet.a.attn1.processor.to_q_lora.down.weight", [2, 3]), tensor("unet.a.attn1.processor.to_q_lora.up.weight", [4, 2]),
            tensor("unet.a.attn1.processor.to_out_lora.down.weight", [2, 3]), tensor("unet.a.attn1.processor.to_out_lora.up.weight", [4, 2]),
            tensor("unet.b.to_k.lora.down.weight", [1, 3]), tensor("unet.b.to_k.lora.up.weight", [4, 1]), tensor("unet.b.to_k.alpha", [], 5),
            tensor("text_encoder.t.q_proj.lora_linear_layer.down.weight", [2, 3]),
            tensor("text_encoder.t.q_proj.lora_linear_layer.up.weight", [4, 2]),
            tensor("text_encoder.s.to_v_lora.down.weight", [2, 3]), tensor("text_encoder.s.to_v_lora.up.weight", [4, 2]),
        ])
        #expect(adapter.dialect == .diffusers && adapter.components == ["text_encoder", "unet"])
        let found = Dictionary(uniqueKeysWithValues: adapter.modules.map { ($0.label.text, $0.scale) })
        #expect(
            found == ["unet.a.attn1.to_q": 1, "unet.a.attn1.to_out.0": 1, "unet.b.to_k": 5, "text_encoder.t.q_proj": 1, "text_encoder.s.v_proj": 1])
    }

    @Test func theHeaderHoldsAConfigurationForEachComponent() throws {
        let fields: JSONValue = [
            "unet.peft_type": "LORA", "unet.r": 2, "unet.lora_alpha": 6, "text_encoder.peft_type": "LORA", "text_encoder.r": 4,
            "text_encoder.lora_alpha": 4, "text_encoder.use_rslora": true,
        ]
        let adapter = try read(
            [
                tensor("unet.a.lora_A.weight", [2, 3]), tensor("unet.a.lora_B.weight", [4, 2]), tensor("text_encoder.a.lora_A.weight", [4, 3]),
                tensor("text_encoder.a.lora_B.weight", [4, 4]),
            ], metadata: ["lora_adapter_metadata": fields.serialized()])
        #expect(adapter.modules.map(\.scale) == [2, 3])
        #expect(throws: AdapterError.self) { try read([tensor("unet.a.lora_A.weight", [2, 3])], metadata: ["lora_adapter_metadata": "[1"]) }
    }

    // MARK: OP-LoRA

    private func opLoRA(_ changes: (inout [String: [Int]]) -> Void = { _ in }) -> [TestTensor] {
        var shapes = [
            "z": [2], "trunk.weight": [3, 2], "trunk.bias": [3], "a.weight": [1, 4, 3], "a.bias": [1, 4], "b.weight": [5, 1, 3], "b.bias": [5, 1],
        ]
        changes(&shapes)
        return shapes.sorted { $0.key < $1.key }.map { tensor("m.x.op_lora.\($0.key)", $0.value) }
    }

    private static let header = ["format": "op-lora", "version": "1", "alpha": "6"]

    @Test func aHypernetworkIsCollapsed() throws {
        let adapter = try read(opLoRA(), metadata: Self.header)
        let module = try #require(adapter.modules.first)
        #expect(adapter.dialect == .opLoRA && module.path.text == "m.x" && module.rank == 1 && module.inputs == 4 && module.outputs == 5)
        #expect(module.scale == 6)
        // h = [1·1+2·2+1, 3·1+4·2+2, 5·1+6·2+3] = [6, 13, 20].
        func head(_ row: Int) -> Double {
            let weights = [3 * row + 1, 3 * row + 2, 3 * row + 3]
            return Double(weights[0] * 6 + weights[1] * 13 + weights[2] * 20 + row + 1)
        }
        #expect(module.loraA.doubles() == (0..<4).map(head) && module.loraB.doubles() == (0..<5).map(head))
    }

    static let faulty: [(String, [String: String], String, [Int]?)] = [
        ("another version", ["format": "op-lora", "version": "2", "alpha": "6"], "z", [2]),
        ("no alpha", ["format": "op-lora", "version": "1"], "z", [2]),
        ("an alpha that is no number", ["format": "op-lora", "version": "1", "alpha": "nan"], "z", [2]),
        ("no trunk", header, "trunk.bias", nil), ("a z of another size", header, "z", [4]),
        ("a head of another size", header, "a.weight", [1, 4, 2]),
        ("another rank", header, "b.bias", [5, 2]), ("no elements", header, "a.bias", [0, 4]),
        ("a magnitude without norms", header, "m.weight", [5, 3]),
        ("another tensor", header, "c.weight", [5, 3]), ("too many dimensions", header, "z", [1, 2]),
    ]

    @Test(arguments: faulty.indices)
    func refusesFaultyHypernetworks(number: Int) throws {
        let (name, metadata, part, shape) = Self.faulty[number]
        do {
            _ = try read(opLoRA { $0[part] = shape }, metadata: metadata)
            Issue.record("\(name) was accepted")
        } catch let error as AdapterError {
            #expect(!error.message.isEmpty)
        }
    }

    @Test func thePrototypeNeedsTheBase() throws {
        let folder = try TemporaryFolder()
        try writeSafetensors([tensor("m.x.weight", [5, 4])], to: folder.path("base.safetensors"))
        let base = try BaseModel(path: folder.path("base.safetensors"))
        let prefix = "base_model.model.m.x."
        let tensors = [
            tensor(prefix + "hypernetwork.mlp.0.weight", [1, 1], 2), tensor(prefix + "hypernetwork.mlp.0.bias", [1], 0),
            tensor(prefix + "hypernetwork.mlp.2.weight", [18, 1]), tensor(prefix + "hypernetwork.mlp.2.bias", [18], 0),
            tensor(prefix + "input_vector", [1, 1], 0.5), tensor(prefix + "rescale", [], 3),
        ]
        #expect(throws: AdapterError.self) { try read(tensors) }
        let module = try #require(try read(tensors, base: base).modules.first)
        // h = 1: A is 1...8 as [in, rank], B is 9...18 as [rank, out], times three; the scale is two.
        #expect(module.scale == 2 && module.rank == 2)
        #expect(module.loraA.doubles() == [1, 3, 5, 7, 2, 4, 6, 8])
        #expect(module.loraB.doubles() == [27, 42, 30, 45, 33, 48, 36, 51, 39, 54])
    }
}
