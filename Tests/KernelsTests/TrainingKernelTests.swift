import Foundation
import Kernels
import TestSupport
import Testing

/// Seeds of the random inputs: one that stays, and one that is new on each run.
let seeds: [UInt64] = [1, .random(in: 0 ... .max)]

/// Each variant of each kernel against the reference in binary64.
struct TrainingKernelTests {
    /// Around the widths of one and of four vectors of either instruction set.
    static let sizes = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129]

    @Test func theBestVariantIsTheLast() {
        #expect(TrainingKernels.available.first?.name == "portable")
        #expect(TrainingKernels.available.last?.name == TrainingKernels.best)
        #expect(Set(TrainingKernels.available.map(\.name)).count == TrainingKernels.available.count)
    }

    @Test(arguments: TrainingKernels.available, seeds)
    func rmsNormIsTheReference(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for dim in Self.sizes {
            for rows in [0, 1, 3] {
                var x = generator.values(rows * dim, spread: 3), dx = generator.values(rows * dim, spread: 1)
                let dy = generator.values(rows * dim, spread: 1), weight = generator.values(dim, spread: 2), epsilon: Float = 1e-5
                // Only epsilon keeps a row of zeros from a division by zero.
                if rows > 1 { for index in 0..<dim { x[index] = 0 } }
                let (y, scales) = kernels.rmsNorm(x, weight: weight, epsilon: epsilon)
                expectAgreement(scales, Expected.rmsNormScales(x, dim: dim, epsilon: epsilon), "scales, \(rows)×\(dim)")
                expectAgreement(y, Expected.rmsNorm(x, weight: weight, epsilon: epsilon), "y, \(rows)×\(dim)")
                expectBits(kernels.rmsNormAgain(x, scales: scales, weight: weight), y, "again, \(rows)×\(dim)")
                let expected = Expected.rmsNormBackward(dx: dx, dy: dy, x: x, scales: scales, weight: weight)
                dx = kernels.rmsNormBackward(dx: dx, dy: dy, x: x, scales: scales, weight: weight)
                expectAgreement(dx, expected, "dx, \(rows)×\(dim)")
            }
        }
    }

    @Test(arguments: TrainingKernels.available, seeds)
    func rotationIsTheReference(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for half in [1, 2, 7, 8, 9, 16, 17, 32, 33] {
            for (rows, heads, first) in [(0, 1, 0), (1, 1, 0), (3, 2, 2), (2, 3, 5)] {
                let (cosines, sines) = rotaryTables(positions: 7, half: half)
                let x = generator.values(rows * heads * 2 * half, spread: 2)
                for direction: Float in [1, -1] {
                    let expected = Expected.rotate(
                        x, heads: heads, headDimension: 2 * half, cosines: cosines, sines: sines, positions: Array(first..<first + rows),
                        direction: direction)
                    let y = kernels.rotate(
                        x, rows: rows, heads: heads, headDimension: 2 * half, cosines: cosines, sines: sines, firstPosition: first,
                        direction: direction)
                    expectAgreement(y, expected, "\(rows) rows of \(heads) heads of \(2 * half), direction \(direction)")
                }
            }
        }
    }

    /// Spread 300 reaches the part where the exponential is flat.
    @Test(arguments: TrainingKernels.available, [Float(3), 300])
    func causalSoftmaxIsTheReference(kernels: TrainingKernels, spread: Float) {
        var generator = SeededGenerator(seed: seeds[1])
        for columns in Self.sizes {
            for (rows, firstRow) in [(0, 0), (1, 0), (columns, 0), (min(3, columns), columns - min(3, columns)), (2, columns + 4)] {
                let scores = generator.values(rows * columns, spread: spread), scale: Float = 0.7
                let what = "seed \(seeds[1]), \(rows)×\(columns) from row \(firstRow)"
                let expected = Expected.causalSoftmax(scores, columns: columns, firstRow: firstRow, scale: scale)
                let (p, logSums) = kernels.causalSoftmax(scores, rows: rows, columns: columns, firstRow: firstRow, scale: scale)
                expectAgreement(p, expected.p, what)
                expectAgreement(logSums, expected.logSums, "log-sums, " + what)
                expectAgreement(
                    kernels.causalSoftmaxAgain(scores, logSums: logSums, columns: columns, firstRow: firstRow, scale: scale),
                    Expected.causalSoftmaxAgain(scores, logSums: logSums, columns: columns, firstRow: firstRow, scale: scale), "again, " + what)
            }
        }
    }

    /// With a log-sum of 0 and a scale of 1 nothing is left but the exponential.
    @Test(arguments: TrainingKernels.available, seeds)
    func theExponentialIsTheReferenceAndFlatOutside(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let x: [Float] = [0, -0.0, 1e-30, 0.34657, -0.34657, 87.9, -86.9] + (0..<4000).map { _ in Float.random(in: -87...88, using: &generator) }
        func exponentials(_ x: [Float]) -> [Float] {
            kernels.causalSoftmaxAgain(x, logSums: [0], columns: x.count, firstRow: x.count, scale: 1)
        }
        expectAgreement(exponentials(x), x.map { Bounded(exp(Double($0)), within: exponentialError * exp(Double($0))) })
        // Flat outside of that.
        expectBits(exponentials([-88, -1e30, -.infinity, 89, 1e30, .infinity]), [-87, -87, -87, 88, 88, 88].flatMap { exponentials([$0]) })
        #expect(exponentials([.nan])[0].isNaN)
    }

    /// One difference and two products, none of which can be fused: the same bits everywhere.
    @Test(arguments: TrainingKernels.available, seeds)
    func theGradientOfSoftmaxHasTheSameBitsEverywhere(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for columns in Self.sizes {
            for rows in [0, 1, 3] {
                let dp = generator.values(rows * columns, spread: 2), p = generator.values(rows * columns, spread: 1)
                let means = generator.values(rows, spread: 1)
                expectBits(
                    kernels.softmaxBackward(dp, p: p, means: means, columns: columns, scale: 0.3),
                    dp.indices.map { p[$0] * (dp[$0] - means[$0 / columns]) * 0.3 }, "\(rows)×\(columns)")
            }
        }
    }

    @Test(arguments: TrainingKernels.available, seeds)
    func swigluIsTheReference(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        // As many as no other size has.
        let special: [Float] = [0, -0.0, 5, -5, 1e-3, -1e-3, 20, -20, 86.9, -86.9, 87.5, -87.5, 88.5, -88.5, 100, -100, 1000, -1000]
        for size in Self.sizes + [0, special.count] {
            let gate = size == special.count ? special : generator.values(size, spread: 8)
            let up = generator.values(size, spread: 2), da = generator.values(size, spread: 1)
            let a = kernels.swiglu(gate: gate, up: up), expected = Expected.swigluBackward(da: da, gate: gate, up: up)
            expectAgreement(a, Expected.swiglu(gate: gate, up: up), "a, \(size)")
            let backward = kernels.swigluBackward(da: da, gate: gate, up: up)
            expectAgreement(backward.dgate, expected.dgate, "dgate, \(size)")
            expectAgreement(backward.dup, expected.dup, "dup, \(size)")
            expectAgreement(backward.a, Expected.swiglu(gate: gate, up: up), "a again, \(size)")
        }
    }

    @Test(arguments: TrainingKernels.available, seeds)
    func crossEntropyIsTheReference(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for vocabulary in Self.sizes + [1023, 1024, 1025, 2500] {
            for spread: Float in [4, 150] {
                let targets = [0, Int32(vocabulary) - 1, Int32.random(in: 0..<Int32(vocabulary), using: &generator)]
                let logits = generator.values(3 * vocabulary, spread: spread), scale: Float = 0.25
                let expected = Expected.crossEntropy(logits.wide, targets: targets, vocabulary: vocabulary, scale: scale)
                let (losses, gradients) = kernels.crossEntropy(logits, targets: targets, vocabulary: vocabulary, scale: scale)
                expectAgreement(losses, expected.losses, "losses, \(vocabulary)")
                expectAgreement(gradients, expected.gradients, "gradients, \(vocabulary)")
                let alone = kernels.crossEntropy(logits, targets: targets, vocabulary: vocabulary, scale: 0)
                expectAgreement(alone.losses, expected.losses, "losses alone, \(vocabulary)")
                expectBits(alone.logits, logits, "without gradients the logits stay, \(vocabulary)")
            }
        }
        #expect(kernels.crossEntropy([], targets: [], vocabulary: 4, scale: 1).losses.isEmpty)
    }

    /// Training stops when a loss is not finite, so one spoiled logit must not vanish.
    @Test(arguments: TrainingKernels.available, [Float.nan, .infinity])
    func lossOfSpoiledLogitsIsNotFinite(kernels: TrainingKernels, spoiled: Float) {
        for index in [0, 5, 32, 39] {
            var logits = [Float](repeating: 1, count: 40)
            logits[index] = spoiled
            for scale: Float in [0, 1] {
                #expect(!kernels.crossEntropy(logits, targets: [3], vocabulary: 40, scale: scale).losses[0].isFinite, "at \(index)")
            }
        }
    }

    /// Columns that are scaled, and the sums of products of columns. Without a sum to fuse with, a product has one result.
    @Test(arguments: TrainingKernels.available, seeds)
    func scaledColumnsAndTheirSumsAreTheReference(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for size in Self.sizes + [0] {
            for rows in [0, 1, 5] {
                let x = generator.values(rows * size, spread: 2), factors = generator.values(size, spread: 2),
                    bias = generator.values(size, spread: 1)
                expectBits(kernels.scaleColumns(x, factors: factors, bias: nil), x.indices.map { x[$0] * factors[$0 % size] }, "\(rows)×\(size)")
                let sum = kernels.scaleColumns(x, factors: factors, bias: bias)
                let wrong = x.indices.first {
                    let (factor, term) = (factors[$0 % size], bias[$0 % size])
                    return sum[$0] != x[$0] * factor + term && sum[$0] != term.addingProduct(x[$0], factor)
                }
                #expect(wrong == nil, "\(rows)×\(size)")

                let stride = size + 3
                let a = generator.values(rows * stride, spread: 2), b = generator.values(rows * stride, spread: 1)
                let products = kernels.addColumnProducts(bias, a, b, rows: rows, stride: stride)
                expectAgreement(
                    products,
                    (0..<size).map { column in
                        let terms = (0..<rows).map { Double(a[$0 * stride + column]) * Double(b[$0 * stride + column]) }
                        let size = terms.reduce(abs(Double(bias[column]))) { $0 + abs($1) }
                        return Bounded(terms.reduce(Double(bias[column]), +), within: Double(2 * rows + 1) * 0x1p-24 * size)
                    }, "products, \(rows)×\(size)")
            }
        }
    }

    /// Where a product and a sum may be fused, a result is one of two; everything else has one.
    @Test(arguments: TrainingKernels.available, seeds)
    func axpyAndBiasAreTheReference(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for size in Self.sizes + [0] {
            let x = generator.values(size, spread: 2), y = generator.values(size, spread: 2), a: Float = 1.7
            let result = kernels.axpy(y, a, x)
            let wrong = result.indices.first { result[$0] != y[$0].addingProduct(a, x[$0]) && result[$0] != y[$0] + a * x[$0] }
            #expect(wrong == nil, "\(size)")
            expectBits(kernels.axpy(y, 1, x), zip(x, y).map(+), "\(size)")

            let (rows, stride) = (3, size + 4)
            let matrix = generator.values(rows * stride, spread: 2)
            expectBits(
                kernels.addBias(matrix, x, rows: rows, stride: stride),
                matrix.indices.map { matrix[$0] + ($0 % stride < size ? x[$0 % stride] : 0) }, "bias of \(size)")
        }
    }

    @Test(arguments: TrainingKernels.available, seeds)
    func sumsAndProductsAreTheReference(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for size in Self.sizes + [0, 1000] {
            let x = generator.values(size, spread: 2), y = generator.values(size, spread: 2)
            expectAgreement([kernels.dot(x, y)], [Expected.sum(x, y)], "dot of \(size)")
            let squares = x.wide.reduce(0) { $0 + $1 * $1 }
            // Both sums are off by at most n units in the last place of binary64.
            #expect((kernels.sumOfSquares(x) - squares).magnitude <= Double(size) * 0x1p-52 * squares, "\(size)")
        }
        for (rows, columns) in [(0, 3), (1, 1), (3, 0), (2, 7), (5, 8), (9, 17), (4, 33), (17, 64)] {
            let matrix = generator.values(rows * columns, spread: 1)
            let x = generator.values(columns, spread: 1), y = generator.values(rows, spread: 1)
            expectAgreement(kernels.affine(matrix, x, y), Expected.affine(matrix, x, y), "affine, \(rows)×\(columns)")
            expectAgreement(
                kernels.addTransposedProduct(x, matrix, y), Expected.transposedProduct(x, matrix, y), "transposed, \(rows)×\(columns)")
        }
    }

    /// No square of a binary32 number leaves the range of binary64. It has 48 bits, so that sums of up to 32 are exact.
    @Test(arguments: TrainingKernels.available)
    func squaresNeitherOverflowNorVanish(kernels: TrainingKernels) {
        for value: Float in [.greatestFiniteMagnitude, .leastNonzeroMagnitude] {
            #expect(kernels.sumOfSquares(.init(repeating: value, count: 31)) == 31 * Double(value) * Double(value))
        }
    }

    static let steps = [
        AdamWStep(learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, step: 1, gradientScale: 1),
        AdamWStep(learningRate: 0.05, beta1: 0.8, beta2: 0.95, epsilon: 1e-6, weightDecay: 0.1, step: 7, gradientScale: 0.125),
        AdamWStep(learningRate: 2e-4, beta1: 0.9, beta2: 0.98, epsilon: 1e-3, weightDecay: 1, step: 300, gradientScale: 3),
    ]

    @Test(arguments: TrainingKernels.available, seeds)
    func adamWIsTheReference(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for step in Self.steps {
            for size in Self.sizes + [0] {
                let p = generator.values(size, spread: 2), m = generator.values(size, spread: 0.1)
                let v = generator.values(size, spread: 0.01).map(\.magnitude)
                let gradient = generator.values(size, spread: 1)
                let results = kernels.adamW(p, m, v, gradient, step)
                expectMoments(results, Expected.adamW(p, m, v, gradients: gradient.wide, step), "\(size), step \(step.step)")
            }
            for (rows, columns) in [(0, 3), (1, 1), (2, 7), (5, 8), (3, 17), (4, 33)] {
                let p = generator.values(rows * columns, spread: 2), m = generator.values(rows * columns, spread: 0.1)
                let v = generator.values(rows * columns, spread: 0.01).map(\.magnitude)
                let left = generator.values(rows, spread: 1), right = generator.values(columns, spread: 1)
                let gradient = p.indices.map { Double(left[$0 / columns]) * Double(right[$0 % columns]) }
                let results = kernels.adamWOuter(p, m, v, left: left, right: right, step)
                expectMoments(results, Expected.adamW(p, m, v, gradients: gradient, step), "\(rows)×\(columns), step \(step.step)")
            }
        }
    }
}

/// cos and sin of position · 10000^(−i/half), [positions, half].
func rotaryTables(positions: Int, half: Int) -> (cosines: [Float], sines: [Float]) {
    let angles = (0..<positions * half).map { Double($0 / half) * pow(10_000, -Double($0 % half) / Double(half)) }
    return (angles.map { Float(cos($0)) }, angles.map { Float(sin($0)) })
}

func expectMoments(
    _ results: [[Float]], _ expected: (p: [Bounded], m: [Bounded], v: [Bounded]), _ what: String, sourceLocation: SourceLocation = #_sourceLocation
) {
    expectAgreement(results[0], expected.p, "parameters, " + what, sourceLocation: sourceLocation)
    expectAgreement(results[1], expected.m, "first moment, " + what, sourceLocation: sourceLocation)
    expectAgreement(results[2], expected.v, "second moment, " + what, sourceLocation: sourceLocation)
}
