import Adapters
import FileIO
import JSON
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing

/// What is written in a layout is read back as the same updates, bit for bit, or the loss is named.
struct ConversionTests {
    private let folder: TemporaryFolder
    private let base: BaseModel

    init() throws {
        folder = try TemporaryFolder()
        try TestModel.write(to: folder.path("base"), seed: 1)
        try writeText(
            #"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_attention_heads": 3, "tie_word_embeddings": false}"#,
            folder.path("base/config.json"))
        base = try BaseModel(path: folder.path("base"))
    }

    private func path(_ layout: Adapter.Layout) -> String { folder.path("\(layout.rawValue).safetensors") }

    private func write(_ adapter: Adapter, _ layout: Adapter.Layout) throws -> (read: Adapter, notes: [String]) {
        let given = layout == .diffusers ? try adapter.taking(component: "transformer") : adapter
        let notes = try given.write(layout, to: path(layout), base: base, options: .init(isReplacing: true, isDurable: false))
        return (try base.naming(try Adapter.read(path: path(layout))), notes)
    }

    @Test(arguments: Adapter.Layout.allCases, [DType.f32, .bf16])
    func everyLayoutKeepsEveryBit(layout: Adapter.Layout, dtype: DType) throws {
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), dtype: dtype, seed: 2)
        let (read, notes) = try write(adapter, layout)
        #expect(notes.isEmpty, "\(notes)")
        #expect(read.modules.map(\.path) == adapter.modules.map(\.path))
        for (module, original) in zip(read.modules, adapter.modules) {
            #expect(module.scale == original.scale && module.loraA.dtype == dtype)
            #expect(module.loraA.doubles() == original.loraA.doubles() && module.loraB.doubles() == original.loraB.doubles())
        }
    }

    /// Scales of two, one and a third, of ranks two and three.
    private func uneven() throws -> Adapter {
        var generator = SeededGenerator(seed: 5)
        let modules = zip(TestModel.modules, [(2, 4.0), (3, 3), (2, 4), (3, 1)]).map { name, form in
            let shape = TestModel.shape(name)
            return AdapterModule(
                path: ModulePath(name)!, rank: form.0, alpha: form.1, loraA: generator.values(form.0 * shape[1], spread: 1),
                loraB: generator.values(shape[0] * form.0, spread: 1))
        }
        return Adapter(path: "uneven", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: modules)
    }

    private func updates(_ adapter: Adapter) -> [[Double]] {
        adapter.modules.map { module in
            let (a, b) = (module.loraA.doubles(), module.loraB.doubles())
            return (0..<module.outputs * module.inputs).map { place in
                module.scale
                    * (0..<module.rank).reduce(0.0) {
                        $0 + b[place / module.inputs * module.rank + $1] * a[$1 * module.inputs + place % module.inputs]
                    }
            }
        }
    }

    @Test(arguments: Adapter.Layout.allCases)
    func scalesThatALayoutCannotSayAreBakedIn(layout: Adapter.Layout) throws {
        let adapter = try uneven()
        let (read, notes) = try write(adapter, layout)
        let keepsAll = ![.mlx, .gguf].contains(layout)
        #expect(notes.isEmpty == keepsAll, "\(notes)")
        for (found, expected) in zip(updates(read), updates(adapter)) {
            for (x, y) in zip(found, expected) { #expect(keepsAll ? x == y : abs(x - y) <= 1e-6 * abs(y).squareRoot() + 1e-6) }
        }
        if layout == .mlx { #expect(notes.count == 2 && Set(read.modules.map(\.rank)) == [3] && Set(read.modules.map(\.scale)) == [2]) }
    }

    @Test func uniformIsExactForPowersOfTwo() throws {
        let adapter = try uneven()
        let (uniform, notes) = try Adapter(
            path: "two", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: Array(adapter.modules.filter { $0.scale >= 1 })
        ).uniform()
        #expect(notes.count == 2 && notes[0].contains("no bit is lost"))
        #expect(Set(uniform.modules.map(\.scale)) == [2] && Set(uniform.modules.map(\.rank)) == [3])
        #expect(updates(uniform) == updates(adapter).enumerated().filter { adapter.modules[$0.offset].scale >= 1 }.map(\.element))
    }

    @Test func interleavedRowsComeBackInOrder() throws {
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 7)
        _ = try adapter.write(.gguf, to: path(.gguf), base: base, options: .init(isReplacing: true, isDurable: false))
        let raw = try Adapter.read(path: path(.gguf))
        let (stored, original) = (raw.modules[1], adapter.modules[1])
        #expect(stored.path.text == "model.layers.0.self_attn.q_proj" && stored.isInterleaved && !raw.modules[0].isInterleaved)
        // Three heads of eight rows: row 2i of a head is row i of its first half, row 2i+1 row i of its second.
        let (b, expected) = (stored.loraB.doubles(), original.loraB.doubles())
        for head in 0..<3 {
            for row in 0..<8 {
                let source = head * 8 + row % 2 * 4 + row / 2
                #expect(b[(head * 8 + row) * 5..<(head * 8 + row + 1) * 5] == expected[source * 5..<(source + 1) * 5])
            }
        }
        #expect(throws: AdapterError.self) { try raw.write(.peft, to: folder.path("p"), options: .init(isDurable: false)) }
    }

    @Test func namesThatHaveLostTheirDotsNeedTheBase() throws {
        let adapter = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 8)
        _ = try adapter.write(.kohya, to: path(.kohya), options: .init(isDurable: false))
        let read = try Adapter.read(path: path(.kohya))
        #expect(read.modules.map(\.path.text).allSatisfy { !$0.contains(".") })
        for layout in Adapter.Layout.allCases where layout != .kohya {
            #expect(throws: AdapterError.self) { try read.write(layout, to: folder.path("x"), options: .init(isDurable: false)) }
        }
        #expect(try base.naming(read).modules.map(\.path) == adapter.modules.map(\.path))
        // What a kohya file says of no module of the base is an error of the merge, too.
        #expect(try MergePlan(base: base.path, adapters: [.init(read)]).moduleCount == 4)
    }

    @Test func gateAndUpProjectionsOfExpertsMoveBetweenTheirForms() throws {
        var generator = SeededGenerator(seed: 4)
        func factors(_ outputs: Int) -> [AdapterModule.Factors] {
            (0..<2).map { expert in
                .init(
                    a: FactorMatrix(name: "a\(expert)", rows: 2, columns: 4, values: generator.values(8, spread: 1)),
                    b: FactorMatrix(name: "b\(expert)", rows: outputs, columns: 2, values: generator.values(outputs * 2, spread: 1)))
            }
        }
        let path = ModulePath("l.0.mlp.experts")!
        let stack = AdapterModule(path: path, parameter: "gate_up_proj", kind: .experts, factors: factors(6), alpha: 2, scale: 1)
        let whole = Adapter(path: "e", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [], modules: [stack])
        _ = try whole.write(.mlx, to: folder.path("mlx"), options: .init(isDurable: false))
        let halves = try Adapter.read(path: folder.path("mlx"))
        #expect(halves.modules.map(\.parameter) == ["gate_proj", "up_proj"])
        _ = try halves.write(.peft, to: folder.path("peft"), options: .init(isDurable: false))
        let joined = try #require(try Adapter.read(path: folder.path("peft")).modules.first)
        #expect(joined.parameter == "gate_up_proj" && joined.rank == 2)
        for (found, original) in zip(joined.factors, stack.factors) {
            #expect(found.a.doubles() == original.a.doubles() && found.b.doubles() == original.b.doubles())
        }
        // With an A of its own for each, the ranks add up.
        let apart = Adapter(
            path: "e", dialect: .mlx, weightsPath: nil, baseModel: nil, targets: [],
            modules: ["gate_proj", "up_proj"].map {
                AdapterModule(path: path, parameter: $0, kind: .experts, factors: factors(3), alpha: 2, scale: 1)
            })
        _ = try apart.write(.peft, to: folder.path("both"), options: .init(isDurable: false))
        let both = try #require(try Adapter.read(path: folder.path("both")).modules.first)
        #expect(both.rank == 4 && both.scale == 1)
        for (number, module) in apart.modules.enumerated() {
            let (b, a) = (both.factors[1].b.doubles(), both.factors[1].a.doubles())
            for row in 0..<3 {
                for column in 0..<4 {
                    let found = (0..<4).reduce(0.0) { $0 + b[(3 * number + row) * 4 + $1] * a[$1 * 4 + column] }
                    let expected = (0..<2).reduce(0.0) {
                        $0 + module.factors[1].b.doubles()[row * 2 + $1] * module.factors[1].a.doubles()[$1 * 4 + column]
                    }
                    #expect(found == expected)
                }
            }
        }
    }

    // MARK: What serving programs take

    @Test func servingProgramsAndWhy() throws {
        let plain = try TestModel.writeAdapter(to: folder.path("adapter"), seed: 2)
        #expect(ServingStack.vLLM.verdict(on: plain).isTaken)
        #expect(ServingStack.llamaCpp.verdict(on: plain).remedy?.contains("--to gguf") == true)
        #expect(!ServingStack.mlx.verdict(on: plain).isTaken && !ServingStack.diffusers.verdict(on: plain).isTaken)
        let patterned = ServingStack.vLLM.verdict(on: try write(try uneven(), .peft).read)
        #expect(!patterned.isTaken && patterned.remedy?.contains("--uniform") == true)
        for (layout, stack) in [(.mlx, .mlx), (.gguf, .llamaCpp), (.diffusers, .diffusers), (.kohya, .diffusers)] as [(Adapter.Layout, ServingStack)]
        {
            _ = try write(plain, layout)
            #expect(stack.verdict(on: try Adapter.read(path: path(layout))).isTaken)
        }
    }
}
