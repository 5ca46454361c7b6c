import Adapters
import FileIO
import Methods
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Verification
import Weights

/// What the merge and the verifier make of methods that are no products of two factors.
struct MethodTests {
    private let folder: TemporaryFolder
    private var base: String { folder.path("base.safetensors") }
    private let names = ["a.q_proj", "b.q_proj"]

    /// Two square layers with biases.
    init() throws {
        folder = try TemporaryFolder()
        try writeBase(.f32)
    }

    private func writeBase(_ dtype: DType) throws {
        var generator = SeededGenerator(seed: 3)
        try writeSafetensors(
            names.flatMap { name in
                [
                    TestTensor("\(name).weight", dtype, [12, 12], values: generator.values(144, spread: 1)),
                    TestTensor("\(name).bias", dtype, [12], values: generator.values(12, spread: 1)),
                ]
            }, to: base)
    }

    private func loHa(seed: UInt64) throws -> LoHa {
        var generator = SeededGenerator(seed: seed)
        let parts = ["hada_w1_a": [12, 2], "hada_w1_b": [2, 12], "hada_w2_a": [12, 2], "hada_w2_b": [2, 12]]
        return try LoHa(
            UpdateParts(
                module: "module",
                Dictionary(
                    uniqueKeysWithValues: parts.keys.sorted().map { part in
                        (part, FactorMatrix(name: part, shape: parts[part]!, values: generator.values(24, spread: 0.5)))
                    })))
    }

    private func adapter(_ updates: [any UpdateMethod], scale: Double = 0.5, name: String = "adapter") -> Adapter {
        Adapter(
            path: name, dialect: .peft, weightsPath: nil, baseModel: nil, targets: [],
            modules: zip(names, updates).map { name, update in
                AdapterModule(path: ModulePath(name)!, kind: .linear, updates: [update], alpha: 1, scale: scale)
            })
    }

    private func merge(_ adapters: [WeightedAdapter]) throws -> String {
        let out = folder.path("merged")
        _ = try MergePlan(base: base, adapters: adapters).run(to: out, options: .init(isReplacing: true, isDurable: false))
        return out
    }

    private func numbers(_ name: String, in path: String) throws -> [Double] {
        FactorMatrix(try #require(try ModelWeights(path: path).tensors[name])).doubles()
    }

    // MARK: Faults of a sum

    /// What was merged instead, and the fault that names it.
    @Test func faultsOfAnUpdateThatIsEvaluatedAreNamed() throws {
        let updates = [try loHa(seed: 1), try loHa(seed: 2)]
        let right = adapter(updates)
        let wrong: [(Adapter, Fault.Code)] = [
            (adapter(updates, scale: 1), .mergedTwice), (adapter(updates, scale: -0.5), .wrongSign), (adapter(updates, scale: 0.35), .wrongScale),
            (adapter(updates.map(\.transposed)), .transposed), (adapter(updates.reversed()), .swappedModules),
        ]
        #expect(try MergeVerifier.verify(base: base, adapters: [.init(right)], merged: merge([.init(right)])).passes)
        for (other, code) in wrong {
            let verdict = try MergeVerifier.verify(base: base, adapters: [.init(right)], merged: merge([.init(other)]))
            #expect(verdict.faults.map(\.code) == [code, code], "\(code): \(verdict.faults)")
        }
    }

    @Test func sumsOfSeveralMethodsAreAddedInTheirOrder() throws {
        // A type in which the order of a sum in binary64 shows.
        try writeBase(.f64)
        let (first, second) = (adapter([try loHa(seed: 1), try loHa(seed: 2)]), adapter([try loHa(seed: 5), try loHa(seed: 6)], name: "second"))
        let low = Adapter(
            path: "low", dialect: .peft, weightsPath: nil, baseModel: nil, targets: [],
            modules: [
                AdapterModule(
                    path: ModulePath("a.q_proj")!, rank: 1, alpha: 3, loraA: (0..<12).map { 0.1 * Float($0) },
                    loraB: (0..<12).map { 0.3 - 0.1 * Float($0) })
            ])
        let adapters = [WeightedAdapter(first, weight: 0.7), WeightedAdapter(low, weight: 0.3), WeightedAdapter(second, weight: -1)]
        let verdict = try MergeVerifier.verify(
            base: base, adapters: adapters, merged: merge(adapters), options: .init(gates: .init(maxUlp: 0)))
        #expect(verdict.passes, "\(verdict.faults)")
        // Another order is another sum.
        let other = try merge(adapters.reversed())
        #expect(try MergeVerifier.verify(base: base, adapters: adapters, merged: other).modules.contains { $0.differingElements > 0 })
    }

    // MARK: No sum

    /// Every output times its number: W′ = diag(l)·W, and the bias likewise. Its transpose takes columns.
    private struct OutputScaling: UpdateMethod {
        static let name = "output scaling"
        static let parts: [String] = []
        let factors: FactorMatrix
        let outputs: Int
        let inputs: Int
        var isOfColumns = false

        init(_ parts: UpdateParts) throws(UpdateFault) { throw UpdateFault(.missing, parts.module, "it is only made in memory") }

        init(_ factors: [Float], inputs: Int) {
            self.factors = FactorMatrix(name: "factors", rows: 1, columns: factors.count, values: factors)
            (outputs, self.inputs) = (factors.count, inputs)
        }

        private init(_ other: OutputScaling, outputs: Int, inputs: Int, isOfColumns: Bool) {
            (factors, self.outputs, self.inputs, self.isOfColumns) = (other.factors, outputs, inputs, isOfColumns)
        }

        var rank: Int? { nil }
        var matrices: [FactorMatrix] { [factors] }
        var transposed: OutputScaling { OutputScaling(self, outputs: inputs, inputs: outputs, isOfColumns: !isOfColumns) }
        var isZero: Bool { false }
        var isSum: Bool { false }
        var form: UpdateForm { .evaluated(Evaluation(factors: factors.doubles(), columns: inputs, isOfColumns: isOfColumns)) }
        var ofBias: (any UpdateMethod)? { OutputScaling(self, outputs: 1, inputs: outputs, isOfColumns: true) }

        struct Evaluation: EvaluatedUpdate, PreparedUpdate, UpdateCheck {
            let factors: [Double]
            let columns: Int
            let isOfColumns: Bool

            func prepared(scale: Double) throws(UpdateFault) -> any PreparedUpdate { self }
            func check(scale: Double) -> any UpdateCheck { self }
            func apply(to rows: inout [Double], _ range: Range<Int>) {
                for (place, row) in range.enumerated() {
                    for column in 0..<columns { rows[place * columns + column] *= factors[isOfColumns ? column : row] }
                }
            }
            func apply(to row: inout [Double], number: Int, errors: inout [Double]) {
                for column in 0..<columns { row[column] *= isOfColumns ? factors[column] : factors[number] }
            }
        }
    }

    private func scaling() -> Adapter {
        adapter([OutputScaling((0..<12).map { 0.5 + 0.25 * Float($0) }, inputs: 12), OutputScaling([Float](repeating: 2, count: 12), inputs: 12)])
    }

    @Test func whatMultipliesAWeightMultipliesItsBias() throws {
        let merged = try merge([.init(scaling())])
        for (number, name) in names.enumerated() {
            let (before, after) = (try numbers("\(name).weight", in: base), try numbers("\(name).weight", in: merged))
            let (bias, biasAfter) = (try numbers("\(name).bias", in: base), try numbers("\(name).bias", in: merged))
            for row in 0..<12 {
                let factor = number == 0 ? 0.5 + 0.25 * Double(row) : 2
                #expect(biasAfter[row] == Double(Float(bias[row] * factor)))
                for column in 0..<12 { #expect(after[row * 12 + column] == Double(Float(before[row * 12 + column] * factor))) }
            }
        }
        #expect(try MergeVerifier.verify(base: base, adapters: [.init(scaling())], merged: merged).passes)
        // Neither the base nor a merge without the bias passes.
        #expect(try MergeVerifier.verify(base: base, adapters: [.init(scaling())], merged: base).outcome == .fail)
    }

    @Test func whatIsNoSumIsNotWeightedAddedOrResized() throws {
        func message(_ body: () throws -> Void) -> String {
            do {
                try body()
                return "nothing was refused"
            } catch {
                return "\(error)"
            }
        }
        let own = scaling()
        #expect(message { _ = try merge([.init(own, weight: 0.5)]) }.contains("is no sum, and cannot be weighted by 0.5"))
        let other = adapter([try loHa(seed: 1), try loHa(seed: 2)], name: "other")
        #expect(message { _ = try merge([.init(own), .init(other)]) }.contains("is no sum and cannot be added to another"))
        #expect(message { _ = try merge([.init(other), .init(own)]) }.contains("is no sum and cannot be added to another"))
        #expect(message { _ = try own.resized(to: .init(rank: 1)) }.contains("depends on the weight"))
        #expect(message { _ = try UpdateComparison(own, other) }.contains("depends on the weight"))
    }
}
