import Adapters
import FileIO
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

/// A right merge passes, and every way in which one can be wrong is caught and named.
struct MergeVerifierTests {
    /// A base in one file, an adapter, and the right merge of both as tensors that a test can spoil.
    final class Case {
        let folder: TemporaryFolder
        let adapter: Adapter
        let dtype: DType
        var tensors: [TestTensor]
        let base: [TestTensor]

        var basePath: String { folder.path("base") }
        var mergedPath: String { folder.path("merged") }

        init(dtype: DType = .bf16, factorType: DType = .f32, spread: Float = 0.2, seed: UInt64 = 1) throws {
            folder = try TemporaryFolder()
            self.dtype = dtype
            base = try TestModel.write(to: folder.path("base"), dtype: dtype, seed: seed).flatMap { $0 }
            adapter = try TestModel.writeAdapter(to: folder.path("adapter"), dtype: factorType, spread: spread, seed: seed &+ 1)
            let plan = try MergePlan(base: folder.path("base"), adapters: [.init(adapter)])
            _ = try plan.run(to: folder.path("merged"), options: .init(isDurable: false))
            let files = try ModelWeights(path: folder.path("merged"))
            tensors = try files.tensors.map { try TestTensor($0, $1.dtype, $1.shape, bytes: read($0, from: files)) }
        }

        func index(_ name: String) -> Int { tensors.firstIndex { $0.name == name }! }

        /// The verdict on the right merge, in its own shards.
        func verifyAsMerged(threads: Int = 1) throws -> MergeVerdict {
            try MergeVerifier.verify(base: basePath, adapters: [.init(adapter)], merged: mergedPath, options: .init(threads: threads))
        }

        /// The verdict on `tensors`, in one file.
        func verify(options: MergeVerifier.Options = .init(), weight: Double = 1) throws -> MergeVerdict {
            let path = folder.path("spoiled.safetensors")
            try writeSafetensors(tensors, to: path)
            return try MergeVerifier.verify(base: basePath, adapters: [.init(adapter, weight: weight)], merged: path, options: options)
        }

        /// Stores round(W + factor·s·(BA)) for one module, or for its transpose.
        func store(_ name: String, factor: Double, isTransposed: Bool = false) throws {
            let module = try #require(adapter.modules.first { $0.path.weightName == name })
            let a = module.loraA.doubles(), b = module.loraB.doubles()
            let before = try #require(base.first { $0.name == name })
            var bytes: [UInt8] = []
            for row in 0..<module.outputs {
                for column in 0..<module.inputs {
                    let (o, i) = isTransposed ? (column, row) : (row, column)
                    var acc = 0.0
                    for k in 0..<module.rank { acc += b[o * module.rank + k] * a[k * module.inputs + i] }
                    let weight = MergeReference.value(of: bits(before.bytes, dtype, row * module.inputs + column), in: dtype)
                    bytes += encode(weight + factor * module.scale * acc, dtype)
                }
            }
            tensors[index(name)].bytes = bytes
        }
    }

    static let query = "model.layers.0.self_attn.q_proj"
    static let up = "model.layers.1.mlp.up_proj"

    @Test(arguments: [DType.bf16, .f16, .f32], [DType.f32, .bf16, .f16])
    func rightMergesPass(dtype: DType, factorType: DType) throws {
        let seed = UInt64.random(in: 0 ... .max)
        let item = try Case(dtype: dtype, factorType: factorType, seed: seed)
        for threads in [1, 3] {
            let verdict = try item.verifyAsMerged(threads: threads)
            #expect(verdict.passes, "seed \(seed): \(verdict.faults)")
            #expect(verdict.modules.count == 4)
            for module in verdict.modules {
                #expect(module.maxUlp == 0 && module.differingElements == 0 && module.projection == module.survival)
                #expect(abs(try #require(module.projection) - 1) < 0.05)
            }
        }
        #expect(try item.verify().passes)
    }

    @Test func reportsWhatScriptsRelyOn() throws {
        let json = try Case().verifyAsMerged().json
        #expect(json["schema"] == "oplora.verify/1" && json["verdict"] == "pass" && json["faults"] == [])
        #expect(json["coverage"]?.objectValue?.keys.elementsEqual(["adapterUnused", "baseChangedWithoutAdapter", "missing", "extra"]) == true)
        let module = try #require(json["modules"]?.arrayValue?.first)
        for key in ["module", "projection", "relativeResidual", "maxUlp", "survival"] { #expect(module[key] != nil) }
    }

    @Test func anyFlippedBitIsCaughtAndNamed() throws {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        let item = try Case(seed: 5)
        let right = item.tensors
        for number in right.indices {
            for _ in 0..<12 {
                item.tensors = right
                let bit = Int.random(in: 0..<right[number].bytes.count * 8, using: &generator)
                item.tensors[number].bytes[bit / 8] ^= 1 << (bit % 8)
                let verdict = try item.verify()
                let name = right[number].name
                #expect(verdict.faults.count >= 1, "seed \(seed): bit \(bit) of \(name)")
                #expect(verdict.faults.allSatisfy { name == $0.module || name == $0.module + ".weight" })
                let isAdapted = TestModel.modules.contains { name == $0 + ".weight" }
                let allowed: [Fault.Code] =
                    isAdapted ? [.elementsDiffer, .notFinite] : [.baseChangedWithoutAdapter, .notFinite]
                #expect(verdict.faults.allSatisfy { allowed.contains($0.code) }, "seed \(seed): \(verdict.faults)")
                #expect(verdict.coverage.baseChangedWithoutAdapter == (isAdapted ? [] : [name]))
            }
        }
    }

    private func codes(_ verdict: MergeVerdict, of name: String) -> [Fault.Code] {
        verdict.faults.filter { $0.module == name || $0.module + ".weight" == name }.map(\.code)
    }

    @Test func wrongUpdatesAreNamed() throws {
        let item = try Case()
        let right = item.tensors
        for name in [Self.query + ".weight", Self.up + ".weight"] {
            let cases: [(Double, Fault.Code, Double)] = [
                (-1, .wrongSign, -1), (2, .mergedTwice, 2), (0.5, .wrongScale, 0.5), (-0.25, .wrongScale, -0.25), (0, .notMerged, 0),
            ]
            for (factor, code, projection) in cases {
                item.tensors = right
                try item.store(name, factor: factor)
                let verdict = try item.verify()
                #expect(verdict.faults.count == 1 && codes(verdict, of: name) == [code], "factor \(factor): \(verdict.faults)")
                let module = try #require(verdict.modules.first { $0.path.weightName == name })
                #expect(abs(try #require(module.projection) - projection) < 0.05 && module.maxUlp > 0)
            }
        }
        item.tensors = right
        try item.store(Self.query + ".weight", factor: 1, isTransposed: true)
        #expect(codes(try item.verify(), of: Self.query) == [.transposed])
        // Another module's merge.
        item.tensors = right
        item.tensors[item.index(Self.query + ".weight")].bytes = right[item.index("model.layers.1.self_attn.q_proj.weight")].bytes
        #expect(codes(try item.verify(), of: Self.query) == [.wrongUpdate])
        // All of it with another weight than the adapter was merged with.
        item.tensors = right
        let verdict = try item.verify(weight: 0.4)
        #expect(verdict.faults.count == 4 && verdict.faults.allSatisfy { $0.code == .wrongScale })
    }

    @Test func coverageIsCheckedBothWays() throws {
        let item = try Case()
        let right = item.tensors
        item.tensors.removeAll { $0.name == "model.norm.weight" }
        item.tensors.append(TestTensor("model.layers.0.self_attn.q_proj.lora_A.weight", .f32, [1], values: [1]))
        let verdict = try item.verify()
        #expect(verdict.coverage.missing == ["model.norm.weight"])
        #expect(verdict.coverage.extra == ["model.layers.0.self_attn.q_proj.lora_A.weight"])
        #expect(verdict.faults.map(\.code) == [.missingTensor, .extraTensor])
        // Shapes and element types.
        item.tensors = right
        item.tensors[item.index("lm_head.weight")].shape = [24, 32]
        item.tensors[item.index("model.embed_tokens.weight")].dtype = .f16
        #expect(Set(try item.verify().faults.map(\.code)) == [.shapeMismatch, .dtypeMismatch])
        // A module that the base does not hold, and one whose update does not fit.
        item.tensors = right
        let path = item.folder.path("other")
        let outputs = ["model.layers.7.mlp.up_proj", "lm_head"].map {
            AdapterModule(path: ModulePath($0)!, rank: 1, alpha: 1, loraA: [1, 2], loraB: [1, 2])
        }
        try PEFT.write(outputs, to: path, options: .init(isDurable: false))
        let other = try MergeVerifier.verify(
            base: item.basePath, adapters: [.init(item.adapter), .init(try Adapter.read(path: path))], merged: item.mergedPath)
        #expect(other.coverage.adapterUnused == ["lm_head", "model.layers.7.mlp.up_proj"])
        #expect(other.faults.allSatisfy { $0.code == .adapterUnused } && other.faults.count == 2)
    }

    @Test func elementsThatAreNotFiniteAreNamed() throws {
        let item = try Case()
        let right = item.tensors
        for name in [Self.query + ".weight", "lm_head.weight"] {
            item.tensors = right
            item.tensors[item.index(name)].bytes.replaceSubrange(4..<6, with: [0xc0, 0x7f])
            #expect(codes(try item.verify(), of: name).contains(.notFinite))
        }
    }

    @Test func aWrongElementOfAConversionIsPlaced() throws {
        let item = try Case(dtype: .bf16)
        let plan = try MergePlan(base: item.basePath, adapters: [.init(item.adapter)], dtype: .f32)
        _ = try plan.run(to: item.mergedPath, options: .init(isReplacing: true, isDurable: false))
        let files = try ModelWeights(path: item.mergedPath)
        item.tensors = try files.tensors.map { try TestTensor($0, $1.dtype, $1.shape, bytes: read($0, from: files)) }
        #expect(try item.verify(options: .init(dtype: .f32)).passes)
        let name = "model.embed_tokens.weight"
        let index = item.index(name)
        let columns = item.tensors[index].shape[1]
        item.tensors[index].bytes[4 * (2 * columns + 3) + 2] ^= 0x10
        let verdict = try item.verify(options: .init(dtype: .f32))
        #expect(codes(verdict, of: name) == [.baseChangedWithoutAdapter], "\(verdict.faults)")
        #expect(verdict.faults.first?.message.contains("[2,3]") == true, "\(verdict.faults)")
        // Without the type the merged model should not have been converted.
        #expect(try item.verify().faults.contains { $0.code == .dtypeMismatch })
    }

    @Test func oneStepOfOneElementIsCaught() throws {
        let item = try Case()
        item.tensors[item.index(Self.query + ".weight")].bytes[20] ^= 1
        let verdict = try item.verify()
        #expect(codes(verdict, of: Self.query) == [.elementsDiffer])
        #expect(verdict.modules.first { $0.path.text == Self.query }?.maxUlp == 1)
    }

    @Test func updatesThatRoundingErasedAreInconclusive() throws {
        let item = try Case(spread: 1e-7)
        // Some elements of the base are so small that even this update shows.
        #expect(try item.verifyAsMerged().outcome != .fail)
        let folder = try TemporaryFolder()
        try writeSafetensors(
            [TestTensor(Self.query + ".weight", .bf16, [24, 24], values: [Float](repeating: 1, count: 576))], to: folder.path("base.safetensors"))
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), modules: [Self.query], spread: 1e-3, seed: 1)
        let same = try MergeVerifier.verify(
            base: folder.path("base.safetensors"), adapters: [.init(adapter)], merged: folder.path("base.safetensors"))
        #expect(same.outcome == .inconclusive && same.modules[0].survival == 0 && same.doubts.map(\.code) == [.roundedAway])
    }

    @Test func zeroUpdatesMayChangeNothing() throws {
        let folder = try TemporaryFolder()
        let weights = TestTensor(Self.query + ".weight", .bf16, [24, 24], values: [Float](repeating: -0.0, count: 576))
        try writeSafetensors([weights], to: folder.path("base.safetensors"))
        let output = AdapterModule(
            path: ModulePath(Self.query)!, rank: 2, alpha: 4, loraA: [Float](repeating: 1, count: 48), loraB: [Float](repeating: 0, count: 48))
        try PEFT.write([output], to: folder.path("adapter"), options: .init(isDurable: false))
        let adapter = try Adapter.read(path: folder.path("adapter"))
        func verify() throws -> MergeVerdict {
            try MergeVerifier.verify(base: folder.path("base.safetensors"), adapters: [.init(adapter)], merged: folder.path("merged.safetensors"))
        }
        try writeSafetensors([weights], to: folder.path("merged.safetensors"))
        #expect(try verify().passes)
        let positive = TestTensor(Self.query + ".weight", .bf16, [24, 24], values: [Float](repeating: 0, count: 576))
        try writeSafetensors([positive], to: folder.path("merged.safetensors"))
        #expect(try verify().faults.map(\.code) == [.baseChangedWithoutAdapter])
    }

    @Test(arguments: [(DType.bf16, DType.f32), (.f32, .bf16), (.f32, .f16), (.bf16, .f16)])
    func convertedModelsAreVerified(from: DType, to: DType) throws {
        let item = try Case(dtype: from)
        let plan = try MergePlan(base: item.basePath, adapters: [.init(item.adapter)], dtype: to)
        _ = try plan.run(to: item.folder.path("converted"), options: .init(isDurable: false))
        func verify(_ dtype: DType?) throws -> MergeVerdict {
            try MergeVerifier.verify(
                base: item.basePath, adapters: [.init(item.adapter)], merged: item.folder.path("converted"), options: .init(dtype: dtype))
        }
        let verdict = try verify(to)
        #expect(verdict.passes, "\(verdict.faults)")
        #expect(try verify(nil).faults.contains { $0.code == .dtypeMismatch })
    }

    @Test func foldersAreChecked() throws {
        let item = try Case()
        try writeText("{}", FileSystem.join(item.mergedPath, "adapter_config.json"))
        let configuration = String(decoding: try readAll(item.basePath + "/config.json"), as: UTF8.self)
        try writeText(configuration.replacing("\"vocab_size\": 32", with: "\"vocab_size\": 33"), item.mergedPath + "/config.json")
        let verdict = try item.verifyAsMerged()
        #expect(verdict.faults.map(\.code) == [.leftoverAdapter, .configurationDiffers])
        #expect(verdict.faults[1].module == "vocab_size")
    }
}
