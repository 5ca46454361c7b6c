import Adapters
import Tensors
import TestModels
import TestSupport
import Testing
import Verification

struct CollapseVerifierTests {
    static let path = ModulePath("model.layers.0.self_attn.q_proj")!
    static let (rank, inputs, outputs, e, k) = (3, 11, 7, 16, 8)

    private func network(seed: UInt64) -> HypernetworkParameters {
        var generator = SeededGenerator(seed: seed)
        let p = Self.rank * (Self.inputs + Self.outputs)
        return HypernetworkParameters(
            path: Self.path, rank: Self.rank, inputs: Self.inputs, outputs: Self.outputs, z: generator.values(Self.e, spread: 1),
            w1: generator.values(Self.k * Self.e, spread: 0.5), c1: generator.values(Self.k, spread: 0.1),
            w2: generator.values(p * Self.k, spread: 0.5), c2: generator.values(p, spread: 0.1))
    }

    /// The collapse in binary32, summed from the front or from the back.
    private func collapse(_ n: HypernetworkParameters, isBackwards: Bool = false) -> [Float] {
        func dot(_ a: ArraySlice<Float>, _ b: [Float], _ bias: Float) -> Float {
            let terms = zip(a, b).map { $0 * $1 } + [bias]
            return (isBackwards ? terms.reversed() : terms).reduce(0, +)
        }
        let (e, k) = (n.z.count, n.c1.count)
        let hidden = (0..<k).map { max(0, dot(n.w1[$0 * e..<($0 + 1) * e], n.z, n.c1[$0])) }
        return n.c2.indices.map { dot(n.w2[$0 * k..<($0 + 1) * k], hidden, n.c2[$0]) }
    }

    private func adapter(_ values: [Float], dtype: DType = .f32, alpha: Double = 6, path: ModulePath = Self.path, in folder: TemporaryFolder) throws
        -> Adapter
    {
        let split = Self.rank * Self.inputs
        let output = AdapterModule(path: path, rank: Self.rank, alpha: alpha, loraA: Array(values[..<split]), loraB: Array(values[split...]))
        let name = folder.path("adapter-\(UInt64.random(in: 0 ... .max))")
        try PEFT.write([output], to: name, options: .init(dtype: dtype, isDurable: false))
        return try Adapter.read(path: name)
    }

    @Test(arguments: [DType.f32, .bf16, .f16], [false, true])
    func rightCollapsesPass(dtype: DType, isBackwards: Bool) throws {
        let folder = try TemporaryFolder()
        for _ in 0..<20 {
            let seed = UInt64.random(in: 0 ... .max)
            let network = network(seed: seed)
            let adapter = try adapter(collapse(network, isBackwards: isBackwards), dtype: dtype, in: folder)
            let verdict = CollapseVerifier.verify(run: [.hypernetwork(network)], alpha: 6, adapter: adapter)
            #expect(verdict.passes, "seed \(seed): \(verdict.faults)")
            #expect(verdict.modules[0].worstShareOfBound <= 1)
        }
    }

    @Test func faultsAreNamed() throws {
        let folder = try TemporaryFolder()
        let network = network(seed: 9)
        let right = collapse(network)
        func codes(_ values: [Float], alpha: Double = 6, path: ModulePath = Self.path) throws -> [Fault.Code] {
            let adapter = try adapter(values, alpha: alpha, path: path, in: folder)
            return CollapseVerifier.verify(run: [.hypernetwork(network)], alpha: 6, adapter: adapter).faults.map(\.code)
        }
        #expect(try codes(right) == [])
        #expect(try codes(right, alpha: 3) == [.scaleDiffers])
        #expect(try codes(right, path: ModulePath("model.layers.1.self_attn.q_proj")!) == [.missingModule, .extraModule])
        for index in [0, right.count - 1] {
            var spoiled = right
            spoiled[index] += max(spoiled[index].magnitude, 0.1) * 0x1p-12
            #expect(try codes(spoiled) == [.factorDiffers])
            spoiled[index] = -right[index]
            #expect(try codes(spoiled) == [.factorDiffers])
        }
        // A read as [in, rank].
        var transposed = right
        for i in 0..<Self.inputs { for k in 0..<Self.rank { transposed[k * Self.inputs + i] = right[i * Self.rank + k] } }
        #expect(try codes(transposed) == [.factorDiffers])
    }

    @Test func plainRunsAreEqual() throws {
        let folder = try TemporaryFolder()
        var generator = SeededGenerator(seed: 4)
        let a = generator.values(Self.rank * Self.inputs, spread: 1), b = generator.values(Self.rank * Self.outputs, spread: 1)
        let run = [RunModule.plain(path: Self.path, rank: Self.rank, loraA: a, loraB: b)]
        for dtype in [DType.f32, .bf16, .f16] {
            #expect(CollapseVerifier.verify(run: run, alpha: 6, adapter: try adapter(a + b, dtype: dtype, in: folder)).passes)
        }
        var off = a + b
        off[5] = off[5].nextUp
        let verdict = CollapseVerifier.verify(run: run, alpha: 6, adapter: try adapter(off, in: folder))
        #expect(verdict.faults.map(\.code) == [.factorDiffers] && verdict.faults[0].message.contains("[0,5]"))
    }
}
