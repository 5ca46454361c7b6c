import Kernels
import Methods
import Tensors
import TestSupport
import Testing

/// What must hold for every row of the table of methods. A method without a sample here fails.
struct UpdateMethodTests {
    /// Tensors of a method, and its definition once more, element by element.
    struct Sample: Sendable {
        let name: String
        let method: any UpdateMethod.Type
        /// The shapes of its tensors.
        let shapes: [String: [Int]]
        var shared: [String: [Int]] = [:]
        let outputs: Int
        let inputs: Int
        /// What W [row, column] becomes, by the values of the tensors, for a scale.
        let element: @Sendable (_ weight: Double, _ row: Int, _ column: Int, _ scale: Double, _ values: [String: [Double]]) -> Double
    }

    /// Σ over k of a[row, k]·b[k, column], k ascending.
    static func product(_ a: [Double], _ b: [Double], rank: Int, columns: Int, _ row: Int, _ column: Int) -> Double {
        (0..<rank).reduce(0.0) { $0 + a[row * rank + $1] * b[$1 * columns + column] }
    }

    /// Likewise with a core [rank, rank, positions] between a [rank, rows] and b [rank, inner]; the columns are (inner, position).
    static func product(
        _ core: [Double], _ a: [Double], _ b: [Double], rank: Int, rows: Int, inner: Int, positions: Int, _ row: Int, _ column: Int
    ) -> Double {
        let (i, p) = column.quotientAndRemainder(dividingBy: positions)
        return (0..<rank).reduce(0.0) { sum, m in
            let composed = (0..<rank).reduce(0.0) { $0 + core[(m * rank + $1) * positions + p] * b[$1 * inner + i] }
            return sum + a[m * rows + row] * composed
        }
    }

    static let samples: [Sample] = [
        Sample(
            name: "LoHa", method: LoHa.self,
            shapes: ["hada_w1_a": [10, 3], "hada_w1_b": [3, 21], "hada_w2_a": [10, 2], "hada_w2_b": [2, 21]], outputs: 10, inputs: 21
        ) { weight, row, column, scale, v in
            weight + scale
                * (product(v["hada_w1_a"]!, v["hada_w1_b"]!, rank: 3, columns: 21, row, column)
                    * product(v["hada_w2_a"]!, v["hada_w2_b"]!, rank: 2, columns: 21, row, column))
        },
        Sample(
            name: "LoHa with cores", method: LoHa.self,
            shapes: [
                "hada_w1_a": [3, 10], "hada_w1_b": [3, 5], "hada_w2_a": [3, 10], "hada_w2_b": [3, 5], "hada_t1": [3, 3, 2, 2],
                "hada_t2": [3, 3, 2, 2],
            ], outputs: 10, inputs: 20
        ) { weight, row, column, scale, v in
            func one(_ n: String) -> Double {
                product(
                    v["hada_t\(n)"]!, v["hada_w\(n)_a"]!, v["hada_w\(n)_b"]!, rank: 3, rows: 10, inner: 5, positions: 4, row, column)
            }
            return weight + scale * (one("1") * one("2"))
        },
        Sample(name: "LoKr, both whole", method: LoKr.self, shapes: ["lokr_w1": [2, 3], "lokr_w2": [5, 7]], outputs: 10, inputs: 21) {
            weight, row, column, scale, v in
            weight + scale * (v["lokr_w1"]![row / 5 * 3 + column / 7] * v["lokr_w2"]![row % 5 * 7 + column % 7])
        },
        Sample(
            name: "LoKr of products", method: LoKr.self,
            shapes: ["lokr_w1_a": [2, 2], "lokr_w1_b": [2, 3], "lokr_w2_a": [5, 4], "lokr_w2_b": [4, 7]], outputs: 10, inputs: 21
        ) { weight, row, column, scale, v in
            weight + scale
                * (product(v["lokr_w1_a"]!, v["lokr_w1_b"]!, rank: 2, columns: 3, row / 5, column / 7)
                    * product(v["lokr_w2_a"]!, v["lokr_w2_b"]!, rank: 4, columns: 7, row % 5, column % 7))
        },
        Sample(
            name: "LoKr with a core", method: LoKr.self,
            shapes: ["lokr_w1": [2, 3], "lokr_t2": [2, 2, 3, 3], "lokr_w2_a": [2, 5], "lokr_w2_b": [2, 7]], outputs: 10, inputs: 189
        ) { weight, row, column, scale, v in
            weight + scale
                * (v["lokr_w1"]![row / 5 * 3 + column / 63]
                    * product(v["lokr_t2"]!, v["lokr_w2_a"]!, v["lokr_w2_b"]!, rank: 2, rows: 5, inner: 7, positions: 9, row % 5, column % 63))
        },
        Sample(
            name: "VeRA", method: VeRA.self, shapes: ["vera_lambda_d": [4], "vera_lambda_b": [10]], shared: ["vera_A": [4, 30], "vera_B": [12, 4]],
            outputs: 10, inputs: 21
        ) { weight, row, column, scale, v in
            let acc = (0..<4).reduce(0.0) {
                $0 + (v["vera_lambda_b"]![row] * v["vera_B"]![row * 4 + $1]) * (v["vera_lambda_d"]![$1] * v["vera_A"]![$1 * 30 + column])
            }
            return weight + scale * acc
        },
    ]

    /// The update with numbers of F32, and these numbers.
    static func make(_ sample: Sample, seed: UInt64, zero: String? = nil) throws -> (update: any UpdateMethod, values: [String: [Double]]) {
        var random = SeededGenerator(seed: seed)
        var values: [String: [Double]] = [:]
        func matrices(_ shapes: [String: [Int]]) -> [String: FactorMatrix] {
            var made: [String: FactorMatrix] = [:]
            for (part, shape) in shapes.sorted(by: { $0.key < $1.key }) {
                let count = shape.reduce(1, *)
                let numbers = (0..<count).map { _ in part == zero ? 0 : Float.random(in: -1...1, using: &random) }
                values[part] = numbers.map { Double($0) }
                made[part] = FactorMatrix(name: "module.\(part)", shape: shape, values: numbers)
            }
            return made
        }
        let own = matrices(sample.shapes)
        let update = try sample.method.init(UpdateParts(module: "module", own, shared: matrices(sample.shared)))
        return (try #require(update.fitting(outputs: sample.outputs, inputs: sample.inputs)), values)
    }

    /// What the merge makes of rows of W.
    static func merged(_ update: any UpdateMethod, _ weights: [Double], scale: Double, rows: Range<Int>) throws -> [Double] {
        var result = weights
        switch update.form {
        case .evaluated(let own): try own.prepared(scale: scale).apply(to: &result, rows)
        case .lowRank(let factors):
            let kernel = try factors.merged(scale: scale)
            var span = result.mutableSpan
            var target = unsafe span.mutableBytes
            _ = MergeKernel.mergeRows(
                weights: unsafe weights.span.bytes, weightType: .f64, into: &target, mergedType: .f64, rows: rows, columns: update.inputs,
                factors: [kernel])
        }
        return result
    }

    /// What the verifier makes of a row of W, and its bound.
    static func checked(_ update: any UpdateMethod, _ weights: [Double], scale: Double, row: Int) -> (values: [Double], errors: [Double]) {
        var (result, errors) = (weights, [Double](repeating: 0, count: weights.count))
        switch update.form {
        case .evaluated(let own): own.check(scale: scale).apply(to: &result, number: row, errors: &errors)
        case .lowRank(let factors):
            let kernel = factors.verified(scale: scale)
            for (column, value) in kernel.row(row).prefix(weights.count).enumerated() { result[column] += value }
            for column in errors.indices { errors[column] = kernel.error(row: row, column: column) }
        }
        return (result, errors)
    }

    @Test func everyMethodOfTheTableHasASample() {
        for method in UpdateMethods.all where !method.parts.isEmpty {
            #expect(Self.samples.contains { $0.method == method }, "\(method.name) has no sample")
        }
        let names = UpdateMethods.all.flatMap { $0.parts + $0.sharedParts }
        #expect(Set(names).count == names.count, "two methods have a tensor of the same name")
    }

    @Test(arguments: samples.indices)
    func mergeAndVerifierGiveTheDefinitionBitForBit(index: Int) throws {
        let (sample, seed) = (Self.samples[index], UInt64.random(in: 0...UInt64.max))
        let (update, values) = try Self.make(sample, seed: seed)
        #expect(update.outputs == sample.outputs && update.inputs == sample.inputs && !update.isZero)
        var random = SeededGenerator(seed: seed &+ 1)
        let weights = (0..<sample.outputs * sample.inputs).map { _ in Double(Float.random(in: -1...1, using: &random)) }
        let scale = 1.7
        let merged = try Self.merged(update, weights, scale: scale, rows: 0..<sample.outputs)
        for row in 0..<sample.outputs {
            let own = Array(weights[row * sample.inputs..<(row + 1) * sample.inputs])
            let checked = Self.checked(update, own, scale: scale, row: row)
            for column in 0..<sample.inputs {
                let expected = sample.element(own[column], row, column, scale, values)
                #expect(merged[row * sample.inputs + column] == expected, "\(sample.name) [\(row),\(column)], seed \(seed)")
                #expect(checked.values[column] == expected, "the check of \(sample.name) [\(row),\(column)], seed \(seed)")
                #expect(checked.errors[column] > 0)
            }
        }
    }

    @Test(arguments: samples.indices)
    func boundOfTheVerifierCoversFactorsThatAreAllOneRoundingOff(index: Int) throws {
        let (sample, seed) = (Self.samples[index], UInt64.random(in: 0...UInt64.max))
        let (update, values) = try Self.make(sample, seed: seed)
        // As if each number had been rounded to binary32 once more, all upwards.
        let shifted = values.mapValues { $0.map { $0 * (1 + 0x1p-24) } }
        for row in 0..<sample.outputs {
            let zeros = [Double](repeating: 0, count: sample.inputs)
            let errors = Self.checked(update, zeros, scale: 1.7, row: row).errors
            for column in 0..<sample.inputs {
                let distance = sample.element(0, row, column, 1.7, shifted) - sample.element(0, row, column, 1.7, values)
                #expect(distance.magnitude <= errors[column], "\(sample.name) [\(row),\(column)], seed \(seed)")
            }
        }
    }

    @Test(arguments: samples.indices)
    func rowsTakenInPiecesAreThoseTakenAtOnce(index: Int) throws {
        let (sample, seed) = (Self.samples[index], UInt64.random(in: 0...UInt64.max))
        let (update, _) = try Self.make(sample, seed: seed)
        let weights = [Double](repeating: 0.25, count: sample.outputs * sample.inputs)
        let whole = try Self.merged(update, weights, scale: 0.5, rows: 0..<sample.outputs)
        for (first, last) in [(0, 3), (3, 4), (4, sample.outputs)] {
            let range = first * sample.inputs..<last * sample.inputs
            #expect(try Self.merged(update, Array(weights[range]), scale: 0.5, rows: first..<last) == Array(whole[range]), "seed \(seed)")
            guard let cut = update.rows(first..<last) else { continue }
            #expect(try Self.merged(cut, Array(weights[range]), scale: 0.5, rows: 0..<last - first) == Array(whole[range]), "seed \(seed)")
        }
    }

    @Test(arguments: samples.indices)
    func transposedUpdateIsThatOfTheTransposedWeight(index: Int) throws {
        let (sample, seed) = (Self.samples[index], UInt64.random(in: 0...UInt64.max))
        let (update, _) = try Self.make(sample, seed: seed)
        let transposed: any UpdateMethod = update.transposed
        #expect(transposed.outputs == sample.inputs && transposed.inputs == sample.outputs)
        let zeros = [Double](repeating: 0, count: sample.outputs * sample.inputs)
        let plain = try Self.merged(update, zeros, scale: 1.7, rows: 0..<sample.outputs)
        let turned = try Self.merged(transposed, zeros, scale: 1.7, rows: 0..<sample.inputs)
        for row in 0..<sample.outputs {
            for column in 0..<sample.inputs {
                #expect(turned[column * sample.outputs + row] == plain[row * sample.inputs + column], "[\(row),\(column)], seed \(seed)")
            }
        }
    }

    @Test(arguments: samples.indices)
    func aMissingTensorIsNamedOrNotNeeded(index: Int) throws {
        let sample = Self.samples[index]
        for part in sample.shapes.keys.sorted() {
            var fewer = sample.shapes
            fewer[part] = nil
            let other = Sample(
                name: sample.name, method: sample.method, shapes: fewer, shared: sample.shared, outputs: sample.outputs, inputs: sample.inputs,
                element: sample.element)
            do {
                _ = try Self.make(other, seed: 1)
                Issue.record("\(sample.name) is made without \(part)")
            } catch let fault as UpdateFault {
                #expect(fault.message.contains(part) || fault.code == .shape, "\(sample.name) without \(part): \(fault.message)")
            } catch {
                // The shape is another one.
                #expect(part.contains("_t"), "\(sample.name) without \(part): \(error)")
            }
        }
    }

    @Test(arguments: samples.indices)
    func numbersThatAreNotFiniteAreNamed(index: Int) throws {
        let (update, _) = try Self.make(Self.samples[index], seed: 1)
        #expect(update.matrices.count == Self.samples[index].shapes.count + Self.samples[index].shared.count)
        for matrix in update.matrices { try matrix.requireFinite() }
        let broken = FactorMatrix(name: "broken", shape: [1, 2], values: [1, .nan])
        #expect(throws: UpdateFault(.notFinite, "broken", "element [0,1] is infinite or NaN")) { try broken.requireFinite() }
    }
}
