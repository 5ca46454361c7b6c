import Adapters
import FileIO
import JSON
import Kernels
import Methods
import OrderedCollections
import Safetensors
import Synchronization
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

struct MergeTests {
    private func merge(
        _ base: String, _ adapters: [WeightedAdapter], to output: String, dtype: DType? = nil, threads: Int = 1
    ) throws -> MergeReport {
        try MergePlan(base: base, adapters: adapters, dtype: dtype).run(to: output, options: .init(threads: threads, isDurable: false))
    }

    private func code(_ body: () throws -> Void) throws -> MergeError.Code? {
        do { try body() } catch let error as MergeError { return error.code }
        return nil
    }

    /// Every byte of every file under a folder.
    private func content(_ path: String, prefix: String = "") throws -> [String: [UInt8]] {
        var files: [String: [UInt8]] = [:]
        for name in try FileSystem.names(in: path) {
            let item = FileSystem.join(path, name)
            if FileSystem.isFolder(item) {
                files.merge(try content(item, prefix: prefix + name + "/")) { $1 }
            } else {
                files[prefix + name] = try readAll(item)
            }
        }
        return files
    }

    @Test(arguments: [DType.bf16, .f16, .f32], [DType.f32, .bf16])
    func everyElementIsTheDefinition(dtype: DType, factorType: DType) throws {
        let folder = try TemporaryFolder()
        let seed = UInt64.random(in: 0 ... .max)
        try TestModel.write(to: folder.path("base"), dtype: dtype, seed: seed)
        let first = try TestModel.writeAdapter(to: folder.path("a"), dtype: factorType, seed: seed &+ 1)
        let second = try TestModel.writeAdapter(to: folder.path("b"), modules: [TestModel.modules[1]], dtype: factorType, rank: 3, seed: seed &+ 2)
        let report = try merge(folder.path("base"), [.init(first), .init(second, weight: 0.3)], to: folder.path("out"), threads: 2)
        #expect(report.modules.map(\.path.text) == TestModel.modules.sorted())
        #expect(report.tensorsChanged == 4 && report.tensorsCopied == 4)
        let base = try ModelWeights(path: folder.path("base"))
        let merged = try ModelWeights(path: folder.path("out"))
        #expect(base.tensors.keys == merged.tensors.keys)
        var wrong = 0
        for (name, location) in base.tensors {
            let before = try read(name, from: base), after = try read(name, from: merged)
            #expect(merged.tensors[name]?.dtype == location.dtype && merged.tensors[name]?.shape == location.shape)
            let parts = [(first, 1.0), (second, 0.3)].compactMap { adapter, weight in
                adapter.modules.first { $0.path.weightName == name }.map { ($0, $0.scale * weight) }
            }
            guard !parts.isEmpty else {
                #expect(before == after, "\(name)")
                continue
            }
            let columns = location.shape[1]
            for row in 0..<location.shape[0] {
                for column in 0..<columns {
                    let index = row * columns + column
                    var y = MergeReference.value(of: bits(before, dtype, index), in: dtype)
                    for (module, scale) in parts {
                        let a = module.loraA.doubles(), b = module.loraB.doubles()
                        var acc = 0.0
                        for k in 0..<module.rank { acc += b[row * module.rank + k] * a[k * columns + column] }
                        y += scale * acc
                    }
                    if bits(after, dtype, index) != MergeReference.bits(of: y, in: dtype) { wrong += 1 }
                }
            }
        }
        #expect(wrong == 0, "seed \(seed)")
    }

    @Test func sameBytesWhateverTheThreads() throws {
        let folder = try TemporaryFolder()
        try TestModel.write(to: folder.path("base"), seed: 1)
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 2)
        let one = try merge(folder.path("base"), [.init(adapter)], to: folder.path("1"), threads: 1)
        for threads in [2, 7] {
            let other = try merge(folder.path("base"), [.init(adapter)], to: folder.path("\(threads)"), threads: threads)
            #expect(other.json == one.json)
            #expect(try content(folder.path("\(threads)")) == content(folder.path("1")))
        }
    }

    @Test func sameBytesWhateverThePathAndTheShards() throws {
        let folder = try TemporaryFolder()
        let shards = try TestModel.write(to: folder.path("base"), seed: 1)
        let adapters = [
            WeightedAdapter(try TestModel.writeAdapter(to: folder.path("a"), seed: 2)),
            WeightedAdapter(try TestModel.writeAdapter(to: folder.path("b"), modules: [TestModel.modules[0]], dtype: .bf16, rank: 3, seed: 3)),
        ]
        let plan = try MergePlan(base: folder.path("base"), adapters: adapters)
        let first = try plan.run(to: folder.path("portable"), options: .init(isDurable: false, path: .portable))
        for path in MergePath.allCases where path.isSupported {
            let report = try plan.run(to: folder.path("\(path)"), options: .init(threads: 2, isReplacing: true, isDurable: false, path: path))
            #expect(try content(folder.path("\(path)")) == content(folder.path("portable")))
            #expect(report.json == first.json)
        }
        // All tensors in one file.
        try writeSafetensors(shards.flatMap { $0 }, to: folder.path("whole.safetensors"))
        _ = try merge(folder.path("whole.safetensors"), adapters, to: folder.path("whole"))
        let one = try ModelWeights(path: folder.path("whole/whole.safetensors")), many = try ModelWeights(path: folder.path("portable"))
        #expect(Set(one.tensors.keys) == Set(many.tensors.keys))
        for name in many.tensors.keys { #expect(try read(name, from: one) == read(name, from: many), "\(name)") }
    }

    @Test func foldersAreWhole() throws {
        let folder = try TemporaryFolder()
        let base = folder.path("base")
        try TestModel.write(to: base, seed: 1)
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 2)
        let report = try merge(base, [.init(adapter)], to: folder.path("out"))
        let files = try content(folder.path("out"))
        #expect(
            files.keys.sorted() == [
                "additional_chat_templates/tool.jinja", "chat_template.jinja", "config.json", "generation_config.json",
                "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "oplora-merge.json",
                "tokenizer.json",
            ])
        let before = try content(base)
        for name in files.keys where !name.hasSuffix(".safetensors") && name != "oplora-merge.json" { #expect(files[name] == before[name]) }
        #expect(report.filesLeftOut == [".gitattributes", "adapter_config.json", "onnx", "optimizer.pt", "pytorch_model.bin", "trainer_state.json"])
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        for shard in shards {
            let old = try SafetensorsFile(path: base + "/" + shard), new = try SafetensorsFile(path: folder.path("out/" + shard))
            #expect(old.tensors == new.tensors && old.metadata == new.metadata)
        }
        #expect(report.bytes == shards.reduce(0) { $0 + (files[$1]?.count ?? 0) })
        // The merged folder is itself a base.
        _ = try merge(folder.path("out"), [.init(adapter)], to: folder.path("again"))
    }

    @Test func aSingleFileKeepsItsName() throws {
        let folder = try TemporaryFolder()
        var generator = SeededGenerator(seed: 1)
        try writeSafetensors(TestModel.tensors(dtype: .bf16, generator: &generator).flatMap { $0 }, to: folder.path("weights.safetensors"))
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 2)
        _ = try merge(folder.path("weights.safetensors"), [.init(adapter)], to: folder.path("out"))
        #expect(try FileSystem.names(in: folder.path("out")) == ["oplora-merge.json", "weights.safetensors"])
    }

    @Test func anotherElementTypeKeepsEveryValue() throws {
        let folder = try TemporaryFolder()
        try TestModel.write(to: folder.path("base"), seed: 1)
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 2)
        let report = try merge(folder.path("base"), [.init(adapter)], to: folder.path("out"), dtype: .f32)
        let base = try ModelWeights(path: folder.path("base")), merged = try ModelWeights(path: folder.path("out"))
        #expect(report.tensorsCopied == 2)
        #expect(merged.tensors["model.positions"]?.dtype == .i64)
        let total = merged.tensors.values.reduce(0) { $0 + $1.byteCount }
        #expect(merged.index?["metadata"]?["total_size"]?.integerValue == total)
        let configuration = try JSONValue(parsing: try readAll(folder.path("out/config.json")))
        #expect(configuration["dtype"] == "float32" && configuration["rms_norm_eps"] == .real(1e-5))
        let before = try read("lm_head.weight", from: base), after = try read("lm_head.weight", from: merged)
        for index in 0..<32 * 24 {
            #expect(MergeReference.value(of: bits(before, .bf16, index), in: .bf16) == MergeReference.value(of: bits(after, .f32, index), in: .f32))
        }
        // Nothing of the update is lost to speak of.
        #expect(try #require(report.minimumSurvival).survival > 0.999999)
    }

    @Test func aZeroBLeavesEveryByte() throws {
        let folder = try TemporaryFolder()
        let name = TestModel.modules[0]
        // Negative zeros would become positive ones in any sum.
        let weights = TestTensor(name + ".weight", .bf16, [24, 24], values: [Float](repeating: -0.0, count: 576))
        try writeSafetensors([weights], to: folder.path("base.safetensors"))
        let output = AdapterModule(
            path: ModulePath(name)!, rank: 2, alpha: 4, loraA: [Float](repeating: 1, count: 48), loraB: [Float](repeating: 0, count: 48))
        try PEFT.write([output], to: folder.path("adapter"), options: .init(isDurable: false))
        let report = try merge(folder.path("base.safetensors"), [.init(try Adapter.read(path: folder.path("adapter")))], to: folder.path("out"))
        #expect(report.tensorsCopied == 1 && report.tensorsChanged == 0 && report.modules.count == 1 && report.modules[0].survival == nil)
        #expect(try readAll(folder.path("out/base.safetensors")) == readAll(folder.path("base.safetensors")))
    }

    @Test func survivalIsWhatRoundingLeaves() throws {
        let folder = try TemporaryFolder()
        let name = TestModel.modules[0]
        try writeSafetensors(
            [TestTensor(name + ".weight", .bf16, [24, 24], values: [Float](repeating: 1, count: 576))], to: folder.path("base.safetensors"))
        for (update, survival) in [(Float(0x1p-10), 0.0), (0x1p-7, 1), (0x1.8p-8, 4.0 / 3)] {
            let path = folder.path("adapter\(update)")
            let output = AdapterModule(
                path: ModulePath(name)!, rank: 1, alpha: 1, loraA: [Float](repeating: 1, count: 24), loraB: [Float](repeating: update, count: 24))
            try PEFT.write([output], to: path, options: .init(isDurable: false))
            let report = try merge(folder.path("base.safetensors"), [.init(try Adapter.read(path: path))], to: path + "-out")
            #expect(try #require(report.modules[0].survival) == survival)
            #expect(report.tensorsChanged == (survival == 0 ? 0 : 1) && report.modules[0].isChanged == (survival != 0))
        }
    }

    @Test func faultsAreFoundBeforeAnythingIsWritten() throws {
        let folder = try TemporaryFolder()
        let base = folder.path("base")
        try TestModel.write(to: base, seed: 1)
        try TestModel.write(to: folder.path("tied"), seed: 1, isTied: true)
        func adapter(_ name: String, _ outputs: [AdapterModule]) throws -> WeightedAdapter {
            try PEFT.write(outputs, to: folder.path(name), options: .init(isDurable: false))
            return .init(try Adapter.read(path: folder.path(name)))
        }
        func output(_ module: String, inputs: Int = 24, outputs: Int = 24) -> AdapterModule {
            AdapterModule(
                path: ModulePath(module)!, rank: 1, alpha: 1, loraA: [Float](repeating: 1, count: inputs),
                loraB: [Float](repeating: 1, count: outputs))
        }
        let good = try adapter("good", [output(TestModel.modules[0])])
        #expect(try code { _ = try MergePlan(base: base, adapters: []) } == .nothingToMerge)
        #expect(try code { _ = try MergePlan(base: base, adapters: [good], dtype: .i8) } == .unsupportedDType)
        let unknown = try adapter("unknown", [output("base.inner.model.layers.0.self_attn.q_proj")])
        do {
            _ = try MergePlan(base: base, adapters: [unknown])
            Issue.record("an unknown module was let pass")
        } catch let error as MergeError {
            #expect(error.code == .moduleNotInBase && error.description.contains("the nearest is model.layers.0.self_attn.q_proj.weight"))
        }
        let misfit = try adapter("misfit", [output(TestModel.modules[0], inputs: 23)])
        do {
            _ = try MergePlan(base: base, adapters: [misfit])
            Issue.record("a misfit was let pass")
        } catch let error as MergeError {
            #expect(error.code == .shapeMismatch && error.description.contains("[24,23]") && error.description.contains("[24,24]"))
        }
        #expect(try code { _ = try MergePlan(base: base, adapters: [.init(good.adapter, weight: .infinity)]) } == .invalidScale)
        let head = try adapter("head", [output("lm_head", outputs: 32)])
        #expect(try MergePlan(base: base, adapters: [head]).moduleCount == 1)
        // An element type that cannot be merged.
        try writeSafetensors(
            [TestTensor(TestModel.modules[0] + ".weight", .i8, [24, 24], bytes: [UInt8](repeating: 1, count: 576))],
            to: folder.path("int8.safetensors"))
        #expect(try code { _ = try MergePlan(base: folder.path("int8.safetensors"), adapters: [good]) } == .unsupportedDType)
        // An element of a factor that is no number.
        let spoiled = folder.path("good/adapter_model.safetensors")
        let key = "base_model.model.\(TestModel.modules[0])"
        try writeSafetensors(
            [
                TestTensor(key + ".lora_A.weight", .f32, [1, 24], values: [Float](repeating: 1, count: 23) + [.nan]),
                TestTensor(key + ".lora_B.weight", .f32, [24, 1], values: [Float](repeating: 1, count: 24)),
            ], to: spoiled)
        do {
            _ = try MergePlan(base: base, adapters: [.init(try Adapter.read(path: spoiled))])
            Issue.record("a NaN was let pass")
        } catch let error as MergeError {
            #expect(error.code == .factorNotFinite && error.tensor == key + ".lora_A.weight" && error.message.contains("[0,23]"))
        }
    }

    @Test func faultsOfTheArithmeticLeaveNothing() throws {
        let folder = try TemporaryFolder()
        let name = TestModel.modules[0]
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), modules: [name], spread: 1, seed: 2)
        func code(_ values: [Float], weight: Double = 1, dtype: DType? = nil) throws -> MergeError {
            try writeSafetensors([TestTensor(name + ".weight", .bf16, [24, 24], values: values)], to: folder.path("base.safetensors"))
            let plan = try MergePlan(base: folder.path("base.safetensors"), adapters: [.init(adapter, weight: weight)], dtype: dtype)
            var found: MergeError?
            do { _ = try plan.run(to: folder.path("out"), options: .init(threads: 2)) } catch let error as MergeError { found = error }
            return try #require(found)
        }
        let ones = [Float](repeating: 1, count: 576)
        var spoiled = ones
        spoiled[25] = .nan
        let notANumber = try code(spoiled)
        #expect(notANumber.code == .baseNotFinite && notANumber.tensor == name + ".weight" && notANumber.message.contains("[1,1]"))
        #expect(try code(ones, weight: 1e300).code == .overflow)
        #expect(try code([Float](repeating: 1e30, count: 576), dtype: .f16).code == .overflow)
        #expect(try FileSystem.names(in: folder.path) == ["adapter", "base.safetensors"])
    }

    @Test func interruptedMergesLeaveNothing() throws {
        let folder = try TemporaryFolder()
        try TestModel.write(to: folder.path("base"), seed: 1)
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 2)
        let plan = try MergePlan(base: folder.path("base"), adapters: [.init(adapter)])
        for limit in 0..<9 {
            let asked = Atomic<Int>(0)
            do {
                _ = try plan.run(
                    to: folder.path("out"),
                    options: .init(threads: 2, isCancelled: { asked.wrappingAdd(1, ordering: .relaxed).oldValue >= limit }))
                Issue.record("the merge was not stopped at \(limit)")
            } catch let error as MergeError {
                #expect(error.code == .interrupted)
            }
            #expect(try FileSystem.names(in: folder.path) == ["adapter", "base"])
        }
    }

    @Test func outputsAndInputsAreKeptApart() throws {
        let folder = try TemporaryFolder()
        try TestModel.write(to: folder.path("base"), seed: 1)
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 2)
        let plan = try MergePlan(base: folder.path("base"), adapters: [.init(adapter)])
        let before = try content(folder.path("base"))
        for output in ["base", "adapter", "base/"] {
            #expect(try code { _ = try plan.run(to: folder.path(output), options: .init(isReplacing: true)) } == .outputIsInput)
        }
        #expect(try content(folder.path("base")) == before)
        _ = try plan.run(to: folder.path("out"), options: .init(isDurable: false))
        #expect(throws: FileError.exists(path: folder.path("out"))) { try plan.run(to: folder.path("out")) }
        _ = try plan.run(to: folder.path("out"), options: .init(isReplacing: true))
    }
}
