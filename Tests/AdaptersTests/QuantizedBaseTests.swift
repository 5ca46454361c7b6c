import Adapters
import FileIO
import GGUF
import JSON
import Kernels
import Methods
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Verification
import Weights

/// Bases whose weights, or a part of them, are codes with scales.
struct QuantizedBaseTests {
    struct Format: CustomTestStringConvertible {
        let name: String
        let tensors: [(ending: String, DType, [Int])]
        let configuration: JSONValue
        var isStack = false

        init(_ name: String, _ tensors: [(ending: String, DType, [Int])], _ method: String? = nil, isStack: Bool = false) {
            self.name = name
            self.tensors = tensors
            configuration = method.map { ["quantization_config": ["quant_method": .string($0)]] } ?? [:]
            self.isStack = isStack
        }

        var testDescription: String { name }
    }

    static let formats = [
        Format(
            "bitsandbytes NF4",
            [
                (".weight", .u8, [8, 1]), (".weight.absmax", .f32, [1]), (".weight.quant_map", .f32, [16]),
                (".weight.quant_state.bitsandbytes__nf4", .u8, [4]),
            ], "bitsandbytes"),
        // The same bytes in another storage type.
        Format(
            "bitsandbytes FP4",
            [(".weight", .bf16, [4, 1]), (".weight.absmax", .f32, [1]), (".weight.quant_state.bitsandbytes__fp4", .u8, [4])], "bitsandbytes"),
        Format("bitsandbytes int8", [(".weight", .i8, [4, 4]), (".SCB", .f32, [4]), (".weight_format", .u8, [])], "bitsandbytes"),
        Format("GPTQ", [(".qweight", .i32, [1, 4]), (".qzeros", .i32, [1, 1]), (".scales", .f16, [1, 4]), (".g_idx", .i32, [4])], "gptq"),
        Format("AWQ", [(".qweight", .i32, [4, 1]), (".qzeros", .i32, [1, 1]), (".scales", .f16, [1, 4])], "awq"),
        Format("FP8 in blocks", [(".weight", .f8E5M2, [4, 4]), (".weight_scale_inv", .f32, [1, 1])], "fp8"),
        Format("FP8 with scales", [(".weight", .f8E4M3, [4, 4]), (".weight_scale", .f32, [])], "compressed-tensors"),
        Format("MXFP8", [(".weight", .f8E4M3, [4, 32]), (".weight_scale", .u8, [4, 1])], "modelopt"),
        Format("ComfyUI FP8", [(".weight", .f8E4M3, [4, 4]), (".scale_weight", .f32, [])]),
        Format("a plain cast to FP8", [(".weight", .f8E4M3, [4, 4])]),
        Format(
            "compressed-tensors integers", [(".weight_packed", .i32, [4, 1]), (".weight_scale", .bf16, [4, 1]), (".weight_shape", .i64, [2])],
            "compressed-tensors"),
        Format(
            "compressed-tensors NVFP4",
            [(".weight_packed", .u8, [4, 2]), (".weight_scale", .f8E4M3, [4, 1]), (".weight_global_scale", .f32, [1])], "compressed-tensors"),
        Format("ModelOpt NVFP4", [(".weight", .u8, [4, 2]), (".weight_scale", .f8E4M3, [4, 1]), (".weight_scale_2", .f32, [])], "modelopt"),
        Format("MLX affine", [(".weight", .u32, [4, 1]), (".scales", .bf16, [4, 1]), (".biases", .bf16, [4, 1])]),
        Format("MLX MXFP4", [(".weight", .u32, [4, 1]), (".scales", .u8, [4, 1])]),
        Format("torchao", [("._weight_qdata", .i8, [4, 4]), ("._weight_scale", .f32, [4])], "torchao"),
        Format("MXFP4", [("_blocks", .u8, [1, 4, 1, 16]), ("_scales", .u8, [1, 4, 1])], "mxfp4", isStack: true),
        Format("does not know", [(".weight", .u8, [4, 2]), (".pre_quant_scale", .f32, [4])], "somebodys"),
    ]

    private static let module = "model.layers.0.self_attn.q_proj"
    private static let stack = "model.layers.0.mlp.experts.down_proj"

    private func write(_ tensors: [(String, DType, [Int])], _ configuration: JSONValue, to path: String) throws {
        try FileSystem.createFolder(path)
        let made = tensors.map { name, dtype, shape in
            TestTensor(name, dtype, shape, bytes: [UInt8](repeating: 1, count: shape.reduce(1, *) * dtype.bitWidth / 8))
        }
        try writeSafetensors(made, to: FileSystem.join(path, "model.safetensors"))
        try writeText(configuration.serialized(), FileSystem.join(path, "config.json"))
    }

    private func adapter(_ isStack: Bool = false, scale: Double = 1) throws -> Adapter {
        let a = FactorMatrix(name: "a", rows: 1, columns: 4, values: [Float](repeating: 1, count: 4))
        let b = FactorMatrix(name: "b", rows: 4, columns: 1, values: [Float](repeating: 1, count: 4))
        let path = try #require(ModulePath(isStack ? "model.layers.0.mlp.experts" : Self.module))
        let module = AdapterModule(
            path: path, parameter: isStack ? "down_proj" : "weight", kind: isStack ? .experts : .linear, factors: [.init(a: a, b: b)],
            alpha: scale, scale: scale)
        return Adapter(path: "adapter", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [module])
    }

    @Test(arguments: formats)
    func theFormatIsNamed(format: Format) throws {
        let folder = try TemporaryFolder()
        let stem = format.isStack ? Self.stack : Self.module
        let tensors = format.tensors.map { (stem + $0.ending, $0.1, $0.2) }
        // The files of one family have the module under another name than the adapter.
        for rename in format.isStack ? [false] : [false, true] {
            let path = folder.path("base-\(rename)")
            let named = rename ? tensors.map { ("language_model." + $0.0, $0.1, $0.2) } : tensors
            try write(named + [("model.norm.weight", .f32, [4])], format.configuration, to: path)
            let adapter = try adapter(format.isStack)
            do {
                _ = try MergePlan(base: path, adapters: [.init(adapter)])
                Issue.record("it was let pass")
            } catch let error as MergeError {
                #expect(error.code == .quantizedBase, "\(error)")
                #expect(error.message.contains(format.name) && error.message.contains(named[0].0), "\(error)")
                for tensor in format.tensors.dropFirst() { #expect(error.message.contains(tensor.ending), "\(error)") }
                #expect(error.message.contains("name the model"))
            }
            let verdict = try MergeVerifier.verify(base: path, adapters: [.init(adapter)], merged: path)
            #expect(verdict.outcome == .inconclusive && verdict.doubts.map(\.code) == [.quantizedBase])
        }
    }

    @Test func whatIsNotQuantizedIsMerged() throws {
        let folder = try TemporaryFolder()
        // Buffers of integers, and codes elsewhere, are nothing to a weight.
        try write(
            [
                (Self.module + ".weight", .f32, [4, 4]), ("model.layers.0.attn.bias", .u8, [1, 1, 4, 4]), ("model.positions", .i64, [3]),
                ("model.layers.0.mlp.up_proj.weight", .f8E4M3, [4, 4]), ("model.layers.0.mlp.up_proj.weight_scale_inv", .f32, [1, 1]),
            ], [:], to: folder.path("base"))
        let plan = try MergePlan(base: folder.path("base"), adapters: [.init(try adapter())])
        #expect(plan.moduleCount == 1)
    }

    /// The scales of codes that stay keep their bits whatever the model's element type becomes, and so does whatever is beside codes.
    @Test func scalesKeepTheirBits() throws {
        let folder = try TemporaryFolder()
        let up = "model.layers.0.mlp.up_proj"
        let kept: [(String, DType, [Int])] = [
            (up + ".weight", .f8E4M3, [4, 4]), (up + ".scale_weight", .f32, []), (up + ".bias", .f32, [4]),
            ("model.layers.0.self_attn.k_scale", .f32, []), ("model.layers.1.k_proj.weight", .u8, [8, 1]),
            ("model.layers.1.k_proj.weight.absmax", .f32, [1]), ("model.layers.1.k_proj.weight.quant_map", .f32, [16]),
            ("model.layers.1.experts.down_proj", .f8E4M3, [1, 4, 4]), ("model.layers.1.experts.down_proj_scale_inv", .f32, [1, 1, 1]),
        ]
        try write(
            kept + [
                (Self.module + ".weight", .f32, [4, 4]), ("model.norm.weight", .f32, [4]), ("model.layers.1.experts.router.weight", .f32, [4, 4]),
            ],
            [:], to: folder.path("base"))
        let adapter = try adapter()
        _ = try MergePlan(base: folder.path("base"), adapters: [.init(adapter)], dtype: .bf16)
            .run(to: folder.path("merged"), options: .init(threads: 1, isDurable: false))
        let (before, after) = (
            try ModelWeights(path: folder.path("base"), decodes: false), try ModelWeights(path: folder.path("merged"), decodes: false)
        )
        for (name, dtype, _) in kept {
            #expect(try after.weight(named: name).dtype == dtype, "\(name)")
            #expect(try read(name, from: before) == read(name, from: after), "\(name)")
        }
        for name in [Self.module + ".weight", "model.norm.weight", "model.layers.1.experts.router.weight"] {
            #expect(try after.weight(named: name).dtype == .bf16, "\(name)")
        }
        let verdict = try MergeVerifier.verify(
            base: folder.path("base"), adapters: [.init(adapter)], merged: folder.path("merged"), options: .init(dtype: .bf16))
        #expect(verdict.passes, "\(verdict.faults)")
    }

    // MARK: Codes that are read

    private static let norm = "model.norm.weight"
    private static let untouched = "model.layers.0.mlp.up_proj"
    private static let configuration: JSONValue = [
        "dtype": "bfloat16", "hidden_size": 4, "quantization_config": ["quant_method": "fp8", "weight_block_size": [2, 3]],
        "text_config": ["quantization_config": ["quant_method": "fp8"]],
    ]

    /// Two matrices of codes, and a scale of the serving of attention.
    private func writeFP8(to path: String) throws {
        try FileSystem.createFolder(path)
        var random = SeededGenerator(seed: 3)
        // Codes below those of NaN.
        func codes() -> [UInt8] { random.bytes(16).map { $0 & 0xbf } }
        let scales: [Float] = [0.0123, 0.0456, 0.0789, 0.0371]
        try writeSafetensors(
            [
                TestTensor(Self.module + ".weight", .f8E4M3, [4, 4], bytes: codes()),
                TestTensor(Self.module + ".weight_scale_inv", .f32, [2, 2], values: scales),
                TestTensor(Self.untouched + ".weight", .f8E4M3, [4, 4], bytes: codes()),
                TestTensor(Self.untouched + ".weight_scale_inv", .bf16, [2, 2], values: scales),
                TestTensor("model.layers.0.self_attn.k_scale", .f32, [], values: [1]),
                TestTensor(Self.norm, .bf16, [4], values: [1, 2, 3, 4]),
            ], to: FileSystem.join(path, "model.safetensors"))
        try writeText(Self.configuration.serialized(), FileSystem.join(path, "config.json"))
    }

    /// The merge of decoded weights, element by element, with the reference arithmetic.
    @Test(arguments: [nil, DType.f32, .f16, .bf16]) func codesBecomeFullWeights(dtype: DType?) throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        let adapter = try adapter()
        let report = try MergePlan(base: base, adapters: [.init(adapter)], dtype: dtype).run(to: merged, options: .init(threads: 2, isDurable: false))
        #expect(report.remarks.contains { $0.contains("FP8 in blocks") } && report.remarks.contains { $0.contains("k_scale") })
        let (before, after) = (try ModelWeights(path: base), try ModelWeights(path: merged))
        #expect(Set(after.tensors.keys) == [Self.module + ".weight", Self.untouched + ".weight", Self.norm])
        let type = dtype ?? .bf16
        for name in [Self.module, Self.untouched].map({ $0 + ".weight" }) {
            let stored = try after.weight(named: name)
            #expect(stored.dtype == type)
            let values = try read(name, from: before)
            let expected = (0..<16).flatMap { index in
                let value = Double(Float(bitPattern: UInt32(bits(values, .f32, index))))
                return encode(name.hasPrefix(Self.module) ? value + 1 : value, type)
            }
            #expect(try read(name, from: after) == expected, "\(name)")
        }
        let configuration = try JSONValue(parsing: try readAll(FileSystem.join(merged, "config.json")))
        #expect(
            configuration == [
                "dtype": .string(dtype.map { ["F32": "float32", "F16": "float16"][$0.rawValue] ?? "bfloat16" } ?? "bfloat16"), "hidden_size": 4,
                "text_config": [:],
            ])
        let verdict = try MergeVerifier.verify(base: base, adapters: [.init(adapter)], merged: merged, options: .init(dtype: dtype))
        #expect(verdict.passes && verdict.modules.map(\.standing) == [.exact], "\(verdict.faults)")
    }

    /// Libraries hold what they decode in BF16, and add the update to that.
    @Test func mergesIntoRoundedWeightsAreRight() throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        let weights = try ModelWeights(path: base)
        func rounded(_ name: String, adding update: Double) throws -> TestTensor {
            let values = try read(name, from: weights)
            let sums = (0..<16).map { index -> [UInt8] in
                let exact = Double(Float(bitPattern: UInt32(bits(values, .f32, index))))
                let held = MergeReference.value(of: MergeReference.bits(of: exact, in: .bf16), in: .bf16)
                return encode(held + update, .bf16)
            }
            return TestTensor(name, .bf16, [4, 4], bytes: sums.flatMap { $0 })
        }
        try FileSystem.createFolder(merged)
        try writeSafetensors(
            [
                try rounded(Self.module + ".weight", adding: 0.05), try rounded(Self.untouched + ".weight", adding: 0),
                TestTensor(Self.norm, .bf16, [4], values: [1, 2, 3, 4]),
            ], to: FileSystem.join(merged, "model.safetensors"))
        try writeText(#"{"dtype":"bfloat16","hidden_size":4}"#, FileSystem.join(merged, "config.json"))
        let verdict = try MergeVerifier.verify(base: base, adapters: [.init(try adapter(scale: 0.05))], merged: merged)
        #expect(verdict.passes && verdict.remarks.contains { $0.contains("rounded to BF16 before") }, "\(verdict.faults)")
        // What is left of the codes is a fault.
        try writeText(Self.configuration.serialized(), FileSystem.join(merged, "config.json"))
        let other = try MergeVerifier.verify(base: base, adapters: [.init(try adapter(scale: 0.05))], merged: merged)
        #expect(other.faults.map(\.code) == [.quantizationDiffers, .quantizationDiffers], "\(other.faults)")
        #expect(other.faults.map(\.module) == ["quantization_config", "text_config.quantization_config"])
        try writeText(#"{"dtype":"bfloat16","hidden_size":4}"#, FileSystem.join(merged, "config.json"))
        try writeText("{}", FileSystem.join(merged, "hf_quant_config.json"))
        let file = try MergeVerifier.verify(base: base, adapters: [.init(try adapter(scale: 0.05))], merged: merged)
        #expect(file.faults.map(\.code) == [.quantizationDiffers] && file.faults[0].module == "hf_quant_config.json", "\(file.faults)")
    }

    /// Full weights as a library decodes them, each with something added.
    private func writeDecoded(_ base: String, to path: String, _ dtype: DType, roundedTo held: DType?, adding update: Double) throws {
        try FileSystem.createFolder(path)
        let weights = try ModelWeights(path: base)
        func tensor(_ name: String, adding update: Double) throws -> TestTensor {
            let values = try read(name, from: weights)
            let elements = (0..<16).flatMap { index -> [UInt8] in
                let exact = Double(Float(bitPattern: UInt32(bits(values, .f32, index))))
                let start = held.map { MergeReference.value(of: MergeReference.bits(of: exact, in: $0), in: $0) } ?? exact
                return encode(start + update, dtype)
            }
            return TestTensor(name, dtype, [4, 4], bytes: elements)
        }
        try writeSafetensors(
            [
                try tensor(Self.module + ".weight", adding: update), try tensor(Self.untouched + ".weight", adding: 0),
                TestTensor(Self.norm, dtype, [4], values: [1, 2, 3, 4]),
            ], to: FileSystem.join(path, "model.safetensors"))
        try writeText(#"{"dtype":"bfloat16","hidden_size":4}"#, FileSystem.join(path, "config.json"))
    }

    /// What was loaded in F16, added to, and saved so is as right as what was loaded in the type of the configuration.
    @Test func mergesIntoWeightsOfAnotherTypeAreRight() throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        try writeDecoded(base, to: merged, .f16, roundedTo: .f16, adding: 0.0513)
        let verdict = try MergeVerifier.verify(base: base, adapters: [.init(try adapter(scale: 0.0513))], merged: merged)
        #expect(verdict.passes, "\(verdict.faults)")
    }

    /// A decoded base to which nothing was added is not merged, and no other adapter's.
    @Test(arguments: [DType.bf16, .f16, .f32]) func aDecodedBaseIsNotMerged(dtype: DType) throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        try writeDecoded(base, to: merged, dtype, roundedTo: nil, adding: 0)
        let verdict = try MergeVerifier.verify(base: base, adapters: [.init(try adapter(scale: 0.05))], merged: merged)
        #expect(verdict.faults.map(\.code) == [.notMerged], "\(verdict.faults)")
    }

    /// A library decodes all of a model, whatever the adapter changes; an adapter of nothing leaves the codes.
    @Test func aDecodedBaseIsNoFaultOfAnAdapterOfNothing() throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        try writeDecoded(base, to: merged, .bf16, roundedTo: nil, adding: 0)
        let empty = Adapter(path: "adapter", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [], replacements: [])
        let verdict = try MergeVerifier.verify(base: base, adapters: [.init(empty)], merged: merged)
        #expect(verdict.passes, "\(verdict.faults)")
    }

    /// Codes that stay mean what the configuration says, which is a part of the model.
    @Test(arguments: [nil, "[3,2]", "[2,3]"]) func theConfigurationOfCodesThatStayIsPartOfTheModel(block: String?) throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        try FileSystem.createFolder(merged)
        try TestSupport.write(try readAll(FileSystem.join(base, "model.safetensors")), FileSystem.join(merged, "model.safetensors"))
        let quantization =
            block.map { #","quantization_config":{"quant_method":"fp8","weight_block_size":\#($0),"modules_to_not_convert":[]}"# } ?? ""
        try writeText(#"{"dtype":"bfloat16","hidden_size":4\#(quantization)}"#, FileSystem.join(merged, "config.json"))
        let empty = Adapter(path: "adapter", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [], replacements: [])
        let verdict = try MergeVerifier.verify(base: base, adapters: [.init(empty)], merged: merged)
        #expect(verdict.faults.map(\.code) == (block == "[2,3]" ? [] : [.quantizationDiffers]), "\(verdict.faults)")
    }

    /// A default and the same written out are one thing; a size where the base has the default of another is not.
    @Test(arguments: [("[128,128]", true), ("[1,1]", false)]) func aDefaultThatIsWrittenOut(block: String, isSame: Bool) throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        for (path, more) in [(base, ""), (merged, #","weight_block_size":\#(block),"modules_to_not_convert":null"#)] {
            try FileSystem.createFolder(path)
            try writeSafetensors(
                [
                    TestTensor(Self.module + ".weight", .f8E4M3, [130, 130], bytes: [UInt8](repeating: 0x38, count: 130 * 130)),
                    TestTensor(Self.module + ".weight_scale_inv", .f32, [2, 2], values: [1, 2, 3, 4]),
                ], to: FileSystem.join(path, "model.safetensors"))
            try writeText(#"{"quantization_config":{"quant_method":"fp8"\#(more)}}"#, FileSystem.join(path, "config.json"))
        }
        let empty = Adapter(path: "adapter", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [], replacements: [])
        let verdict = try MergeVerifier.verify(base: base, adapters: [.init(empty)], merged: merged)
        #expect(verdict.faults.map(\.code) == (isSame ? [] : [.quantizationDiffers]), "\(verdict.faults)")
    }

    /// Scales that stayed in a model of full weights are named as what they are.
    @Test func scalesThatAreLeftOver() throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        try writeDecoded(base, to: merged, .bf16, roundedTo: .bf16, adding: 0.0513)
        let path = FileSystem.join(merged, "model.safetensors")
        let file = try SafetensorsFile(path: path)
        let tensors = try file.tensors.values.map { info in
            TestTensor(info.name, info.dtype, info.shape, bytes: try read(info.name, from: try ModelWeights(path: path)))
        }
        let scales = TestTensor(Self.module + ".weight_scale_inv", .f32, [2, 2], values: [1, 2, 3, 4])
        try writeSafetensors(tensors + [scales], to: path)
        let verdict = try MergeVerifier.verify(base: base, adapters: [.init(try adapter(scale: 0.0513))], merged: merged)
        #expect(verdict.faults.map(\.code) == [.extraTensor] && verdict.faults[0].message.contains("codes of the base"), "\(verdict.faults)")
    }

    /// One file of a model finds its element type and blocks in the configuration beside it.
    @Test func theTypeOfAFile() throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        let text = Self.configuration.serialized().replacing("bfloat16", with: "float16")
        try writeText(text, FileSystem.join(base, "config.json"))
        let file = FileSystem.join(base, "model.safetensors")
        _ = try MergePlan(base: file, adapters: [.init(try adapter())]).run(to: merged, options: .init(threads: 1, isDurable: false))
        #expect(try ModelWeights(path: merged).weight(named: Self.untouched + ".weight").dtype == .f16)
    }

    /// The components of a pipeline have settings of their own, and are merged one by one.
    @Test func aPipelineOfCodes() throws {
        let folder = try TemporaryFolder()
        let base = folder.path("pipeline")
        try FileSystem.createFolder(base)
        try writeText(#"{"_class_name":"P","transformer":["diffusers","T"]}"#, FileSystem.join(base, "model_index.json"))
        try writeFP8(to: FileSystem.join(base, "transformer"))
        let adapter = try adapter()
        do {
            _ = try MergePlan(base: base, adapters: [.init(adapter)])
            Issue.record("it was let pass")
        } catch let error as MergeError {
            #expect(error.code == .quantizedBase && error.message.contains("name its folder as the base"), "\(error)")
        }
    }

    /// What a library made of codes is the base of what it trained: rounding is no update.
    @Test func extractionFromALoadedBase() throws {
        let folder = try TemporaryFolder()
        let (base, tuned) = (folder.path("base"), folder.path("tuned"))
        try writeFP8(to: base)
        try writeDecoded(base, to: tuned, .bf16, roundedTo: .bf16, adding: 0.5)
        let extraction = try Extraction(base: base, tuned: tuned, options: .init(choice: RankChoice(rank: 1)))
        #expect(extraction.adapter.modules.map(\.path.text) == [Self.module])
    }

    /// No scale makes an infinite weight, whether an adapter changes it or not, and whatever the type of the result.
    @Test(arguments: [nil, DType.f32, .f16]) func infiniteScales(dtype: DType?) throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        let path = FileSystem.join(base, "model.safetensors")
        var bytes = try readAll(path)
        let file = try SafetensorsFile(path: path)
        let scales = try #require(file.tensors[Self.untouched + ".weight_scale_inv"])
        // Infinity in BF16.
        let start = scales.byteRange.lowerBound
        (bytes[start], bytes[start + 1]) = (0x80, 0x7f)
        try TestSupport.write(bytes, path)
        do {
            _ = try MergePlan(base: base, adapters: [.init(try adapter())], dtype: dtype).run(
                to: merged, options: .init(threads: 1, isDurable: false))
            Issue.record("it was let pass")
        } catch let error as MergeError {
            #expect(error.code == .baseNotFinite && error.tensor == Self.untouched + ".weight", "\(error)")
        }
        #expect(!FileSystem.exists(merged))
    }

    /// Where no adapter changes a weight of codes, they stay.
    @Test func codesThatNothingChangesStay() throws {
        let folder = try TemporaryFolder()
        let (base, merged) = (folder.path("base"), folder.path("merged"))
        try writeFP8(to: base)
        let values = folder.path("values.safetensors")
        try writeSafetensors([TestTensor(Self.norm, .bf16, [4], values: [4, 3, 2, 1])], to: values)
        let file = try SafetensorsFile(path: values)
        let replacement = Replacement(tensor: Self.norm, values: StoredWeight(try #require(file.tensors[Self.norm]), in: file))
        let adapter = Adapter(
            path: "adapter", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [], replacements: [replacement])
        _ = try MergePlan(base: base, adapters: [.init(adapter)]).run(to: merged, options: .init(threads: 1, isDurable: false))
        let (before, after) = (try ModelWeights(path: base, decodes: false), try ModelWeights(path: merged, decodes: false))
        #expect(before.tensors.keys == after.tensors.keys)
        for name in before.tensors.keys where name != Self.norm { #expect(try read(name, from: before) == read(name, from: after)) }
        #expect(try readAll(FileSystem.join(base, "config.json")) == readAll(FileSystem.join(merged, "config.json")))
        #expect(try MergeVerifier.verify(base: base, adapters: [.init(adapter)], merged: merged).passes)
    }

    /// A model whose codes are in two encodings, of which one is read, would be half full weights.
    @Test func codesOfTwoEncodings() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("base")
        try write(
            [
                (Self.module + ".weight", .f8E4M3, [4, 4]), (Self.module + ".weight_scale_inv", .f32, [1, 1]),
                (Self.untouched + ".weight", .u8, [4, 2]), (Self.untouched + ".weight_scale", .f8E4M3, [4, 1]),
                (Self.untouched + ".weight_scale_2", .f32, []),
            ], [:], to: path)
        do {
            _ = try MergePlan(base: path, adapters: [.init(try adapter())])
            Issue.record("it was let pass")
        } catch let error as MergeError {
            #expect(error.code == .quantizedBase && error.tensor == Self.untouched + ".weight" && error.message.contains("FP8 in blocks"))
        }
    }

    // MARK: GGUF

    @Test func aBaseInGGUFIsRefused() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("model.gguf")
        let entry = GGUFWriter.Entry(name: "blk.0.attn_q.weight", type: .f32, shape: [4, 4])
        let writer = try GGUFWriter(path: path, metadata: ["general.architecture": .string("llama")], tensors: [entry], replacing: false)
        try writer.write(unsafe [UInt8](repeating: 0, count: 64).span.bytes)
        try writer.publish(durable: false)
        // It is opened by the same call as any other model.
        #expect(try ModelWeights(path: path).tensors.elements.map(\.key) == [entry.name])
        do {
            _ = try BaseModel(path: path)
            Issue.record("it was let pass")
        } catch let error as MergeError {
            #expect(error.code == .quantizedBase && error.message.contains("the base is a GGUF file"))
        }
        // Nor is it a merged model, or a tuned one, that could be held against a base.
        let base = folder.path("base")
        try writeFP8(to: base)
        do {
            _ = try MergeVerifier.verify(base: base, adapters: [.init(try adapter())], merged: path)
            Issue.record("it was let pass")
        } catch let error as MergeError {
            #expect(error.code == .quantizedBase && error.message.contains("this is a GGUF file"))
        }
        try writeText("GGUF....", path)
        #expect(throws: GGUFError.self) { _ = try BaseModel(path: path) }
        #expect(throws: FileError.self) { _ = try BaseModel(path: folder.path("nothing.gguf")) }
    }
}
