import FileIO
import Tensors
import TestSupport
import Testing

@testable import Kernels

extension Compute {
    convenience init(threads: Int) throws {
        self.init(pool: try #require(ThreadPool(threads: threads)))
    }

    /// With products through oneDNN's primitives.
    convenience init(threads: Int, productInput: MatmulShape.Input) throws {
        self.init(pool: try #require(ThreadPool(threads: threads)), productInput: productInput)
    }
}

extension FloatView {
    /// A view of its own buffer.
    init(_ values: [Float]) {
        self = FloatBuffer(count: values.count).view
        copy(from: values)
    }

    static func zeros(_ count: Int) -> FloatView { FloatBuffer(count: count).view }
}

/// Weights in a mapped file, and the numbers that are stored there.
struct StoredMatrix {
    let matrix: WeightMatrix
    let values: [Float]

    /// The elements of `matrix` [rows, columns], rounded to `dtype`. They begin at an odd byte: a file need not align them.
    init(_ values: [Float], rows: Int, columns: Int, dtype: DType) throws {
        let folder = try TemporaryFolder()
        let bytes: [UInt8] =
            [0xEE]
            + values.flatMap { value in
                let bits = MergeReference.bits(of: Double(value), in: dtype)
                return (0..<dtype.bitWidth / 8).map { UInt8(truncatingIfNeeded: bits >> (8 * $0)) }
            }
        let file = try AtomicFile(path: folder.path("weights"), replacing: false)
        try file.write(bytes)
        try file.publish(durable: false)
        // The mapping stays when the file's name goes.
        let info = TensorInfo(name: "weight", dtype: dtype, shape: [rows, columns], byteRange: 1..<bytes.count)
        matrix = try #require(WeightMatrix(file: MappedFile(path: folder.path("weights")), info: info))
        self.values = values.map { Float(MergeReference.value(of: MergeReference.bits(of: Double($0), in: dtype), in: dtype)) }
    }
}

/// The functions of `Compute` against the reference in binary64.
struct ComputeTests {
    static let types: [DType] = [.f32, .bf16, .f16]
    let compute: Compute
    /// Both ways to the products with base weights: oneDNN's GEMM, and its primitives, here with F32 inputs.
    let computes: [Compute]

    init() throws {
        compute = try Compute(threads: 2)
        computes = [compute, try Compute(threads: 2, productInput: .f32)]
    }

    @Test func theInstructionSetIsTheBestOne() {
        #expect(compute.instructionSet == TrainingKernels.best)
    }

    @Test(arguments: seeds)
    func rmsNormIsTheReference(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for (rows, dim) in [(0, 4), (1, 1), (7, 5), (8, 16), (150, 9), (17, 65)] {
            let x = generator.values(rows * dim, spread: 3), weight = generator.values(dim, spread: 2), dy = generator.values(rows * dim, spread: 1)
            let dx = generator.values(rows * dim, spread: 1)
            let y = FloatView.zeros(rows * dim), again = FloatView.zeros(rows * dim), scales = FloatView.zeros(rows), total = FloatView(dx)
            compute.rmsNorm(y: y, scales: scales, x: FloatView(x), weight: FloatView(weight), epsilon: 1e-5)
            compute.rmsNormAgain(y: again, scales: scales, x: FloatView(x), weight: FloatView(weight))
            compute.rmsNormBackward(dx: total, dy: FloatView(dy), x: FloatView(x), scales: scales, weight: FloatView(weight))
            expectAgreement(scales.array, Expected.rmsNormScales(x, dim: dim, epsilon: 1e-5), "scales, \(rows)×\(dim)")
            expectAgreement(y.array, Expected.rmsNorm(x, weight: weight, epsilon: 1e-5), "y, \(rows)×\(dim)")
            expectBits(again.array, y.array, "again, \(rows)×\(dim)")
            expectAgreement(
                total.array, Expected.rmsNormBackward(dx: dx, dy: dy, x: x, scales: scales.array, weight: weight), "dx, \(rows)×\(dim)")
        }
    }

    @Test(arguments: seeds)
    func elementwiseFunctionsAreTheReference(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for count in [0, 1, 7, 9, 130, 1000] {
            let gate = generator.values(count, spread: 6), up = generator.values(count, spread: 2), da = generator.values(count, spread: 1)
            let a = FloatView.zeros(count), again = FloatView.zeros(count), dgate = FloatView.zeros(count), dup = FloatView.zeros(count)
            compute.swiglu(a: a, gate: FloatView(gate), up: FloatView(up))
            compute.swigluBackward(dgate: dgate, dup: dup, a: again, da: FloatView(da), gate: FloatView(gate), up: FloatView(up))
            let backward = Expected.swigluBackward(da: da, gate: gate, up: up)
            expectAgreement(a.array, Expected.swiglu(gate: gate, up: up), "a, \(count)")
            expectAgreement(again.array, Expected.swiglu(gate: gate, up: up), "a again, \(count)")
            expectAgreement(dgate.array, backward.dgate, "dgate, \(count)")
            expectAgreement(dup.array, backward.dup, "dup, \(count)")

            let sum = FloatView(up)
            compute.add(FloatView(gate), to: sum)
            expectBits(sum.array, zip(gate, up).map(+), "sum of \(count)")
        }
    }

    /// The norms of the rows of weight + update, and what magnitudes do with them.
    @Test(arguments: seeds, types)
    func magnitudesAreTheReference(seed: UInt64, dtype: DType) throws {
        var generator = SeededGenerator(seed: seed)
        for (out, input, rank, rows) in [(1, 1, 1, 1), (37, 19, 3, 5), (130, 65, 4, 33)] {
            let weight = try StoredMatrix(generator.values(out * input, spread: 1), rows: out, columns: input, dtype: dtype)
            let a = generator.values(rank * input, spread: 1), b = generator.values(out * rank, spread: 1), scale: Float = 0.6
            let vectors = (0..<4).map { _ in FloatView.zeros(out) }
            let magnitude = MagnitudeUpdate(magnitudes: vectors[0], norms: vectors[1], factors: vectors[2], gradient: vectors[3])
            let update = LowRankUpdate(
                rank: rank, scale: scale, a: FloatView(a), b: FloatView(b), gradientA: FloatView(a), gradientB: FloatView(b), magnitude: magnitude)
            compute.rowNorms(magnitude.norms, of: weight.matrix, update: update)
            let product = Reference.product(b.map(Double.init), a.map(Double.init), out, input, rank)
            for row in 0..<out {
                let square = (0..<input).reduce(0.0) { sum, column in
                    let place = row * input + column
                    let element = Double(weight.values[place]) + Double(scale) * product[place]
                    return sum + element * element
                }
                #expect(abs(Double(magnitude.norms[row]) / square.squareRoot() - 1) < 1e-5, "row \(row) of \(out)×\(input), seed \(seed)")
            }
            let (dy, x, start) = (generator.values(rows * out, spread: 1), generator.values(rows * out, spread: 1), generator.values(out, spread: 1))
            magnitude.gradient.copy(from: start)
            compute.addMagnitudeGradient(magnitude, dy: FloatView(dy), x: FloatView(x), scratch: .zeros(out))
            for column in 0..<out {
                let terms = (0..<rows).map { Double(dy[$0 * out + column]) * Double(x[$0 * out + column]) }
                let norm = Double(magnitude.norms[column])
                let bound = 1e-5 * (terms.reduce(0) { $0 + abs($1) } / norm + abs(Double(start[column])))
                #expect(abs(Double(magnitude.gradient[column]) - Double(start[column]) - terms.reduce(0, +) / norm) <= bound, "seed \(seed)")
            }
        }
    }

    @Test(arguments: seeds, types)
    func gatheringTakesTheRowsOfTheTokens(seed: UInt64, dtype: DType) throws {
        var generator = SeededGenerator(seed: seed)
        let table = try StoredMatrix(generator.values(13 * 9, spread: 2), rows: 13, columns: 9, dtype: dtype)
        let tokens = (0..<70).map { _ in Int32.random(in: 0..<13, using: &generator) } + [0, 12]
        let y = FloatView.zeros(tokens.count * 9)
        compute.gather(y, table: table.matrix, tokens: tokens)
        expectBits(y.array, tokens.flatMap { table.values[Int($0) * 9..<Int($0) * 9 + 9] })
    }

    @Test(arguments: seeds)
    func sumsOfSquaresAreTheReference(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for count in [0, 1, 1023, 1024, 1025, 5000] {
            let x = generator.values(count, spread: 2)
            let expected = x.wide.reduce(0) { $0 + $1 * $1 }
            #expect((compute.sumOfSquares(FloatView(x)) - expected).magnitude <= Double(count) * 0x1p-52 * expected, "\(count)")
        }
    }

    /// Squares of binary32 numbers leave the range of binary32, not that of binary64; sums of up to 32 are exact.
    @Test func sumsOfExtremeSquaresAreKept() {
        for value: Float in [1e25, 1e-30, .greatestFiniteMagnitude, .leastNonzeroMagnitude] {
            #expect(compute.sumOfSquares(FloatView(.init(repeating: value, count: 32))) == 32 * Double(value) * Double(value))
        }
        #expect(!compute.sumOfSquares(FloatView([1, .infinity])).isFinite)
        #expect(!compute.sumOfSquares(FloatView([1, .nan])).isFinite)
    }

    @Test(arguments: seeds)
    func rotationIsTheReference(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for (batch, sequence) in [(1, 1), (2, 7), (2, 8), (3, 37)] {
            let shape = AttentionShape(batch: batch, sequence: sequence, heads: 3, groups: 1, headDimension: 6)
            let (cosines, sines) = rotaryTables(positions: sequence + 2, half: 3)
            let x = generator.values(batch * sequence * 18, spread: 2)
            for direction: Float in [1, -1] {
                let y = FloatView(x)
                compute.rotate(y, heads: 3, shape: shape, cosines: FloatView(cosines), sines: FloatView(sines), direction: direction)
                let positions = (0..<batch * sequence).map { $0 % sequence }
                expectAgreement(
                    y.array,
                    Expected.rotate(
                        x, heads: 3, headDimension: 6, cosines: cosines, sines: sines, positions: positions, direction: direction),
                    "\(batch)×\(sequence)")
            }
        }
    }

    /// The longest sequence takes two blocks of queries.
    @Test(arguments: [
        AttentionShape(batch: 1, sequence: 1, heads: 1, groups: 1, headDimension: 2),
        AttentionShape(batch: 2, sequence: 7, heads: 4, groups: 4, headDimension: 6),
        AttentionShape(batch: 3, sequence: 17, heads: 6, groups: 2, headDimension: 4),
        AttentionShape(batch: 1, sequence: 131, heads: 2, groups: 1, headDimension: 4),
    ])
    func attentionIsTheReference(shape: AttentionShape) {
        for seed in seeds {
            var generator = SeededGenerator(seed: seed)
            let rows = shape.batch * shape.sequence, width = shape.heads * shape.headDimension, keyWidth = shape.groups * shape.headDimension
            let q = generator.values(rows * width, spread: 2), gradient = generator.values(rows * width, spread: 1)
            let k = generator.values(rows * keyWidth, spread: 2), v = generator.values(rows * keyWidth, spread: 2)
            // Results are replaced, whatever was there.
            let o = FloatView(q), dq = FloatView(q), dk = FloatView(k), dv = FloatView(v)
            let logSums = FloatView.zeros(shape.batch * shape.heads * shape.sequence)
            compute.attention(o: o, logSums: logSums, q: FloatView(q), k: FloatView(k), v: FloatView(v), shape: shape)
            compute.attentionBackward(
                dq: dq, dk: dk, dv: dv, gradient: FloatView(gradient), o: o, logSums: logSums, q: FloatView(q), k: FloatView(k), v: FloatView(v),
                shape: shape)
            let expected = Expected.attention(gradient: gradient, q: q, k: k, v: v, shape: shape)
            expectAgreement(o.array, expected.o, "o, seed \(seed)")
            expectAgreement(logSums.array, expected.logSums, "log-sums, seed \(seed)")
            expectAgreement(dq.array, expected.dq, "dq, seed \(seed)")
            expectAgreement(dk.array, expected.dk, "dk, seed \(seed)")
            expectAgreement(dv.array, expected.dv, "dv, seed \(seed)")
        }
    }

    /// A workspace made for a huge vocabulary takes 32 tokens at a time.
    @Test(arguments: seeds, types)
    func crossEntropyIsTheReference(seed: UInt64, dtype: DType) throws {
        for compute in computes { try crossEntropy(seed: seed, dtype: dtype, compute) }
    }

    private func crossEntropy(seed: UInt64, dtype: DType, _ compute: Compute) throws {
        var generator = SeededGenerator(seed: seed)
        for (rows, vocabulary, dim) in [(1, 1, 1), (3, 17, 8), (9, 150, 5), (70, 33, 4)] {
            let workspace = CrossEntropyWorkspace(rows: rows, vocabulary: rows > 32 ? 1 << 19 : vocabulary, dimension: dim)
            let head = try StoredMatrix(generator.values(vocabulary * dim, spread: 1), rows: vocabulary, columns: dim, dtype: dtype)
            let hidden = generator.values(rows * dim, spread: 2), scale: Float = 0.3
            let targets = (0..<rows).map { _ in Int32.random(in: 0..<Int32(vocabulary), using: &generator) }
            let dHidden = FloatView(hidden)
            let sum = compute.crossEntropy(
                hidden: FloatView(hidden), head: head.matrix, targets: targets, dHidden: dHidden, gradientScale: scale, workspace: workspace)
            let losses = workspace.losses.array

            let logits = Reference.product(hidden.wide, head.values.wide, rows, vocabulary, dim, transposeB: true)
            let magnitudes = Reference.product(hidden.wide.magnitudes, head.values.wide.magnitudes, rows, vocabulary, dim, transposeB: true)
            let expected = Expected.crossEntropy(
                logits, targets: targets, vocabulary: vocabulary, scale: scale, logitError: Double(dim) * u * (magnitudes.max() ?? 0))
            expectAgreement(losses, expected.losses, "losses of \(rows)×\(vocabulary)")
            #expect(sum == losses.wide.reduce(0, +))
            // dHidden is a sum over the vocabulary of products whose first factor is off by its own bound.
            let gradient = Reference.product(expected.gradients.map(\.value), head.values.wide, rows, dim, vocabulary)
            let rounding = Double(vocabulary + 8) * u
            let error = Reference.product(
                expected.gradients.map { $0.bound + rounding * $0.value.magnitude }, head.values.wide.magnitudes, rows, dim, vocabulary)
            expectAgreement(dHidden.array, zip(gradient, error).map { Bounded($0, within: $1) }, "gradient of \(rows)×\(vocabulary)")

            let alone = compute.crossEntropy(
                hidden: FloatView(hidden), head: head.matrix, targets: targets, dHidden: nil, gradientScale: scale, workspace: workspace)
            expectAgreement(workspace.losses.array, expected.losses, "losses alone of \(rows)×\(vocabulary)")
            #expect(alone == workspace.losses.array.wide.reduce(0, +))
        }
    }

    @Test func aGradientScaleOfZeroGivesZeros() throws {
        let head = try StoredMatrix([1, 2, 3, 4, 5, 6], rows: 3, columns: 2, dtype: .f32)
        let dHidden = FloatView([7, 7])
        _ = compute.crossEntropy(
            hidden: FloatView([1, -1]), head: head.matrix, targets: [1], dHidden: dHidden, gradientScale: 0,
            workspace: CrossEntropyWorkspace(rows: 1, vocabulary: 3, dimension: 2))
        #expect(dHidden.array == [0, 0])
    }

    struct LinearCase: Sendable, CustomTestStringConvertible {
        var rows, inputs, outputs, rank: Int
        var testDescription: String { "\(rows) rows, \(inputs) → \(outputs), rank \(rank)" }
    }

    static let linearCases = [
        LinearCase(rows: 1, inputs: 1, outputs: 1, rank: 1), LinearCase(rows: 5, inputs: 16, outputs: 16, rank: 2),
        LinearCase(rows: 19, inputs: 33, outputs: 50, rank: 3), LinearCase(rows: 7, inputs: 150, outputs: 18, rank: 8),
    ]

    @Test(arguments: linearCases, types)
    func linearLayersAreTheReference(sizes: LinearCase, dtype: DType) throws {
        for compute in computes { try linear(sizes: sizes, dtype: dtype, compute) }
    }

    private func linear(sizes: LinearCase, dtype: DType, _ compute: Compute) throws {
        let (m, n, k, r) = (sizes.rows, sizes.outputs, sizes.inputs, sizes.rank)
        for seed in seeds {
            for (hasBias, hasUpdate, rate) in [(false, false, Float(0)), (true, true, 0), (true, true, 0.25)] {
                var generator = SeededGenerator(seed: seed)
                let weight = try StoredMatrix(generator.values(n * k, spread: 1), rows: n, columns: k, dtype: dtype)
                let bias = generator.values(n, spread: hasBias ? 1 : 0), scale: Float = 1.5
                let a = generator.values(r * k, spread: hasUpdate ? 1 : 0), b = generator.values(n * r, spread: 1)
                let x = generator.values(m * k, spread: 1), dy = generator.values(m * n, spread: 1), dx = generator.values(m * k, spread: 1)
                let gradientA = generator.values(r * k, spread: 1), gradientB = generator.values(n * r, spread: 1)
                let layer = Reference.Linear(
                    rows: m, inputs: k, outputs: n, rank: r, weight: weight.values.wide, bias: bias.wide, a: a.wide, b: b.wide,
                    scale: Double(scale),
                    mask: x.indices.map { Reference.isDropped(UInt64($0), seed: seed, rate: rate) ? 0 : Double(1 / (1 - rate)) })
                let what = "seed \(seed), bias \(hasBias), update \(hasUpdate), dropout \(rate)"

                let update = LowRankUpdate(
                    rank: r, scale: scale, a: FloatView(a), b: FloatView(b), gradientA: FloatView(gradientA), gradientB: FloatView(gradientB))
                let dropout = rate > 0 ? Dropout(rate: rate, seed: seed, buffer: .zeros(m * k + 3)) : nil
                let y = FloatView.zeros(m * n), xa = FloatView.zeros(m * r), dyb = FloatView.zeros(m * r)
                y.fill(7)
                compute.linear(
                    y: y, x: FloatView(x), rows: m, weight: weight.matrix, bias: hasBias ? FloatView(bias) : nil,
                    update: hasUpdate ? update : nil, xa: hasUpdate ? xa : nil, dropout: dropout)
                expectAgreement(y.array, Expected.linear(layer, x.wide), "y, " + what)

                let expected = Expected.linearBackward(layer, dy: dy.wide, x.wide)
                func added(_ initial: [Float], _ gradient: [Bounded]) -> [Bounded] {
                    zip(initial, gradient).map {
                        Bounded(Double($0) + $1.value, within: $1.bound + 4 * u * (Double($0).magnitude + $1.value.magnitude))
                    }
                }
                for accumulate in [false, true] {
                    update.gradientA.copy(from: gradientA)
                    update.gradientB.copy(from: gradientB)
                    let target = FloatView(dx)
                    compute.linearBackward(
                        dx: target, accumulate: accumulate, dy: FloatView(dy), x: FloatView(x), rows: m, weight: weight.matrix,
                        update: hasUpdate ? update : nil, xa: hasUpdate ? xa : nil, dyb: hasUpdate ? dyb : nil, dropout: dropout)
                    expectAgreement(target.array, accumulate ? added(dx, expected.dx) : expected.dx, "dx, accumulate \(accumulate), " + what)
                    guard hasUpdate else { continue }
                    expectAgreement(update.gradientA.array, added(gradientA, expected.dA), "dA, " + what)
                    expectAgreement(update.gradientB.array, added(gradientB, expected.dB), "dB, " + what)
                }
                guard hasUpdate else { continue }
                // Where nothing below needs dx, the gradients of the update are the same.
                let (withA, withB) = (update.gradientA.array, update.gradientB.array)
                update.gradientA.copy(from: gradientA)
                update.gradientB.copy(from: gradientB)
                compute.linearBackward(
                    dx: nil, accumulate: false, dy: FloatView(dy), x: FloatView(x), rows: m, weight: weight.matrix, update: update, xa: xa, dyb: dyb,
                    dropout: dropout)
                expectBits(update.gradientA.array, withA, "dA without dx, " + what)
                expectBits(update.gradientB.array, withB, "dB without dx, " + what)
            }
        }
    }

    /// Small whole numbers are exact in BF16 and so are their sums in F32: with them both precisions must agree to the bit.
    @Test(.enabled(if: Precision.bf16.isSupported, "the processor has no BF16 products"), arguments: linearCases, types)
    func bf16ProductsOfWholeNumbersAreExact(sizes: LinearCase, dtype: DType) throws {
        let (m, n, k) = (sizes.rows, sizes.outputs, sizes.inputs)
        var generator = SeededGenerator(seed: 7)
        func whole(_ count: Int) -> [Float] { generator.values(count, spread: 8).map { $0.rounded() } }
        let weight = try StoredMatrix(whole(n * k), rows: n, columns: k, dtype: dtype)
        let x = whole(m * k), dy = whole(m * n), targets = (0..<m).map { Int32($0 % n) }
        func results(_ compute: Compute) -> [[Float]] {
            let y = FloatView.zeros(m * n), dx = FloatView(x)
            compute.linear(y: y, x: FloatView(x), rows: m, weight: weight.matrix)
            compute.linearBackward(dx: dx, accumulate: true, dy: FloatView(dy), x: FloatView(x), rows: m, weight: weight.matrix)
            let workspace = CrossEntropyWorkspace(rows: m, vocabulary: n, dimension: k)
            _ = compute.crossEntropy(
                hidden: FloatView(x), head: weight.matrix, targets: targets, dHidden: nil, gradientScale: 1, workspace: workspace)
            return [y.array, dx.array, workspace.losses.array]
        }
        let expected = results(compute)
        for (result, expected) in zip(results(try Compute(threads: 2, productInput: .bf16)), expected) { expectBits(result, expected, "bf16") }
    }

    /// What makes BF16 of activations, on every processor.
    @Test func preparedInputsAreRoundedToBF16() throws {
        let compute = try Compute(threads: 2, productInput: .bf16)
        var generator = SeededGenerator(seed: 3)
        let x = generator.values(7 * 33, spread: 4)
        let prepared = compute.prepared(FloatView(x), columns: 33)
        for row in 0..<7 {
            for column in 0..<33 {
                let bits = unsafe prepared.address(row: row, column: column).loadUnaligned(as: UInt16.self)
                #expect(UInt64(bits) == MergeReference.bits(of: Double(x[row * 33 + column]), in: .bf16))
            }
        }
    }

    @Test(arguments: seeds)
    func productsWithVectorsAreTheReference(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for (rows, columns) in [(1, 1), (7, 5), (8, 16), (37, 33), (150, 9)] {
            let matrix = generator.values(rows * columns, spread: 1), x = generator.values(columns, spread: 1),
                bias = generator.values(rows, spread: 1)
            let y = FloatView.zeros(rows), transposed = FloatView.zeros(columns), partials = FloatView.zeros(16 * columns)
            partials.fill(.nan)
            transposed.fill(.nan)
            compute.affine(y, matrix: FloatView(matrix), x: FloatView(x), bias: FloatView(bias))
            compute.transposedProduct(transposed, matrix: FloatView(matrix), x: FloatView(bias), partials: partials)
            expectAgreement(y.array, Expected.affine(matrix, x, bias), "affine, \(rows)×\(columns)")
            expectAgreement(
                transposed.array, Expected.transposedProduct(.init(repeating: 0, count: columns), matrix, bias, pieces: 16),
                "transposed, \(rows)×\(columns)")
        }
    }

    /// Rows of 4100 are longer than the block that stays in the cache.
    @Test(arguments: seeds)
    func adamWIsTheReference(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for step in TrainingKernelTests.steps {
            for (rows, columns) in [(1, 1), (7, 5), (37, 33), (2, 4100)] {
                let p = generator.values(rows * columns, spread: 2), m = generator.values(rows * columns, spread: 0.1)
                let v = generator.values(rows * columns, spread: 0.01).map(\.magnitude)
                let left = generator.values(rows, spread: 1), right = generator.values(columns, spread: 1)
                let vector = generator.values(columns, spread: 1), bias = generator.values(rows, spread: 1)
                let gradient = p.indices.map { left[$0 / columns] * right[$0 % columns] }
                let what = "\(rows)×\(columns), step \(step.step)"

                let dense = ParameterState(parameters: FloatView(p), moments: [FloatView(m), FloatView(v)])
                compute.adamW(dense, gradient: FloatView(gradient), step: step)
                expectMoments(
                    [dense.parameters.array, dense.moments[0].array, dense.moments[1].array], Expected.adamW(p, m, v, gradients: gradient.wide, step),
                    "dense, " + what)

                let outer = ParameterState(parameters: FloatView(p), moments: [FloatView(m), FloatView(v)]), product = FloatView.zeros(rows)
                compute.adamWOuter(
                    outer, left: FloatView(left), right: FloatView(right), step: step, product: product, vector: FloatView(vector),
                    bias: FloatView(bias))
                expectMoments(
                    [outer.parameters.array, outer.moments[0].array, outer.moments[1].array],
                    Expected.adamW(p, m, v, gradients: p.indices.map { Double(left[$0 / columns]) * Double(right[$0 % columns]) }, step),
                    "outer, " + what)
                // The product is taken with the new matrix.
                expectAgreement(product.array, Expected.affine(outer.parameters.array, vector, bias), "product, " + what)
            }
        }
    }
}

/// Shapes that do not fit must stop the program before it touches memory past the end of a view. Here that memory belongs to
/// the same buffer, so that without the check nothing else would stop it.
struct ShapeTests {
    @Test func aWorkspaceOfAnotherDimensionIsRefused() async {
        await #expect(processExitsWith: .failure) {
            let head = try StoredMatrix(.init(repeating: 1, count: 20 * 16), rows: 20, columns: 16, dtype: .f32)
            _ = try Compute(threads: 1).crossEntropy(
                hidden: .zeros(16), head: head.matrix, targets: [3], dHidden: .zeros(16), gradientScale: 1,
                workspace: CrossEntropyWorkspace(rows: 1, vocabulary: 20, dimension: 1))
        }
    }

    @Test func logSumsOfFewerHeadsAreRefused() async {
        await #expect(processExitsWith: .failure) {
            let shape = AttentionShape(batch: 1, sequence: 3, heads: 2, groups: 1, headDimension: 2)
            let q = FloatView.zeros(12), k = FloatView.zeros(6)
            try Compute(threads: 1).attentionBackward(
                dq: .zeros(12), dk: .zeros(6), dv: .zeros(6), gradient: q, o: q, logSums: .zeros(6)[0..<3], q: q, k: k, v: k, shape: shape)
        }
    }

    @Test func keysOfAnotherShapeAreRefused() async {
        await #expect(processExitsWith: .failure) {
            let shape = AttentionShape(batch: 1, sequence: 3, heads: 2, groups: 1, headDimension: 2)
            let q = FloatView.zeros(12), k = FloatView.zeros(6)[0..<4]
            try Compute(threads: 1).attentionBackward(
                dq: .zeros(12), dk: .zeros(6)[0..<4], dv: .zeros(6)[0..<4], gradient: q, o: q, logSums: .zeros(6), q: q, k: k, v: k, shape: shape)
        }
    }

    @Test(arguments: [(6, 8, 8, 8), (8, 6, 8, 8), (8, 8, 6, 8), (8, 8, 8, 6)])
    func aLowRankUpdateOfAnotherShapeIsRefused(a: Int, b: Int, xa: Int, dyb: Int) async {
        await #expect(processExitsWith: .failure) { [a, b, xa, dyb] in
            // All four are [4, 2] or [2, 4].
            func view(_ count: Int) -> FloatView { .zeros(8)[0..<count] }
            let weight = try StoredMatrix(.init(repeating: 1, count: 16), rows: 4, columns: 4, dtype: .f32)
            let update = LowRankUpdate(rank: 2, scale: 1, a: view(a), b: view(b), gradientA: view(a), gradientB: view(b))
            try Compute(threads: 1).linearBackward(
                dx: .zeros(16), accumulate: false, dy: .zeros(16), x: .zeros(16), rows: 4, weight: weight.matrix, update: update, xa: view(xa),
                dyb: view(dyb))
        }
    }
}
