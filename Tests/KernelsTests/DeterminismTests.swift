import Kernels
import Tensors
import TestSupport
import Testing

/// Results must not depend on how many threads compute them.
struct DeterminismTests {
    static let threads = [1, 2, 3, 5]

    /// The results with each number of threads, and once more with the last, against those of one thread.
    private func expectSame(_ what: String, _ results: (Compute) throws -> [[Float]]) throws {
        var first: [[Float]]?
        for count in Self.threads + [Self.threads[3]] {
            let result = try results(try Compute(threads: count))
            for (index, values) in result.enumerated() {
                expectBits(values, first?[index] ?? values, "\(what), result \(index), \(count) threads")
            }
            first = first ?? result
        }
        #expect(first?.allSatisfy { $0.contains { $0 != 0 } } == true, "\(what): nothing was computed")
    }

    @Test(arguments: seeds, [Float(0), 0.2])
    func linearLayersDoNotDependOnThreads(seed: UInt64, rate: Float) throws {
        let (m, k, n, r) = (37, 170, 150, 5)
        var generator = SeededGenerator(seed: seed)
        let weight = try StoredMatrix(generator.values(n * k, spread: 1), rows: n, columns: k, dtype: .bf16).matrix
        let bias = FloatView(generator.values(n, spread: 1)), x = FloatView(generator.values(m * k, spread: 1))
        let a = FloatView(generator.values(r * k, spread: 1)), b = FloatView(generator.values(n * r, spread: 1))
        let dy = FloatView(generator.values(m * n, spread: 1))
        try expectSame("linear") { compute in
            let update = LowRankUpdate(rank: r, scale: 2, a: a, b: b, gradientA: .zeros(r * k), gradientB: .zeros(n * r))
            let y = FloatView.zeros(m * n), dx = FloatView.zeros(m * k), xa = FloatView.zeros(m * r), dyb = FloatView.zeros(m * r)
            let dropout = Dropout(rate: rate, seed: seed, buffer: .zeros(m * k))
            compute.linear(y: y, x: x, rows: m, weight: weight, bias: bias, update: update, xa: xa, dropout: dropout)
            compute.linearBackward(
                dx: dx, accumulate: false, dy: dy, x: x, rows: m, weight: weight, update: update, xa: xa, dyb: dyb, dropout: dropout)
            return [y, xa, dx, dyb, update.gradientA, update.gradientB].map(\.array)
        }
    }

    @Test(arguments: seeds)
    func attentionDoesNotDependOnThreads(seed: UInt64) throws {
        let shape = AttentionShape(batch: 2, sequence: 131, heads: 4, groups: 2, headDimension: 8), rows = 262
        var generator = SeededGenerator(seed: seed)
        let q = FloatView(generator.values(rows * 32, spread: 1)), gradient = FloatView(generator.values(rows * 32, spread: 1))
        let k = FloatView(generator.values(rows * 16, spread: 1)), v = FloatView(generator.values(rows * 16, spread: 1))
        let (cosines, sines) = rotaryTables(positions: 131, half: 4)
        try expectSame("attention") { compute in
            let turned = FloatView(q.array), o = FloatView.zeros(q.count), logSums = FloatView.zeros(2 * 4 * 131)
            let dq = FloatView.zeros(q.count), dk = FloatView.zeros(k.count), dv = FloatView.zeros(v.count)
            compute.rotate(turned, heads: 4, shape: shape, cosines: FloatView(cosines), sines: FloatView(sines))
            compute.attention(o: o, logSums: logSums, q: turned, k: k, v: v, shape: shape)
            compute.attentionBackward(dq: dq, dk: dk, dv: dv, gradient: gradient, o: o, logSums: logSums, q: turned, k: k, v: v, shape: shape)
            return [turned, o, logSums, dq, dk, dv].map(\.array)
        }
    }

    @Test(arguments: seeds)
    func crossEntropyDoesNotDependOnThreads(seed: UInt64) throws {
        let (rows, vocabulary, dim) = (50, 700, 24)
        var generator = SeededGenerator(seed: seed)
        let head = try StoredMatrix(generator.values(vocabulary * dim, spread: 1), rows: vocabulary, columns: dim, dtype: .f16).matrix
        let hidden = FloatView(generator.values(rows * dim, spread: 1))
        let targets = (0..<rows).map { _ in Int32.random(in: 0..<Int32(vocabulary), using: &generator) }
        try expectSame("cross-entropy") { compute in
            let workspace = CrossEntropyWorkspace(rows: rows, vocabulary: vocabulary, dimension: dim), dHidden = FloatView.zeros(rows * dim)
            _ = compute.crossEntropy(
                hidden: hidden, head: head, targets: targets, dHidden: dHidden, gradientScale: 0.1, workspace: workspace)
            return [workspace.losses.array, dHidden.array]
        }
    }

    @Test(arguments: seeds)
    func sumsAndStepsDoNotDependOnThreads(seed: UInt64) throws {
        let (rows, columns) = (211, 90)
        var generator = SeededGenerator(seed: seed)
        let matrix = generator.values(rows * columns, spread: 1), moment = generator.values(rows * columns, spread: 0.1)
        let x = FloatView(generator.values(columns, spread: 1)), y = FloatView(generator.values(rows, spread: 1))
        try expectSame("sums") { compute in
            let sum = compute.sumOfSquares(FloatView(matrix))
            let product = FloatView.zeros(columns), affine = FloatView.zeros(rows), after = FloatView.zeros(rows)
            compute.transposedProduct(product, matrix: FloatView(matrix), x: y, partials: .zeros(16 * columns))
            compute.affine(affine, matrix: FloatView(matrix), x: x, bias: y)
            let state = ParameterState(parameters: FloatView(matrix), moments: [FloatView(moment), FloatView(moment.map(\.magnitude))])
            let step = TrainingKernelTests.steps[1]
            compute.adamWOuter(state, left: y, right: x, step: step, product: after, vector: x, bias: y)
            compute.adamW(state, gradient: FloatView(moment), step: step)
            // The bits of the binary64 sum, as two numbers that hold 32 of them each.
            let halves = [UInt32(truncatingIfNeeded: sum.bitPattern), UInt32(truncatingIfNeeded: sum.bitPattern >> 32)]
            return [halves.map(Float.init(bitPattern:)), product.array, affine.array, after.array, state.parameters.array]
        }
    }

    @Test(arguments: seeds)
    func functionsOfRowsDoNotDependOnThreads(seed: UInt64) throws {
        let (rows, dim) = (77, 31)
        var generator = SeededGenerator(seed: seed)
        let x = FloatView(generator.values(rows * dim, spread: 2)), dy = FloatView(generator.values(rows * dim, spread: 2))
        let weight = FloatView(generator.values(dim, spread: 1))
        try expectSame("rows") { compute in
            let y = FloatView.zeros(rows * dim), dx = FloatView.zeros(rows * dim), a = FloatView.zeros(rows * dim), scales = FloatView.zeros(rows)
            compute.rmsNorm(y: y, scales: scales, x: x, weight: weight, epsilon: 1e-6)
            compute.rmsNormBackward(dx: dx, dy: dy, x: x, scales: scales, weight: weight)
            compute.swiglu(a: a, gate: x, up: dy)
            return [y.array, scales.array, dx.array, a.array]
        }
    }
}
