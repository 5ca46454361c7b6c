import Foundation
import Kernels
import TestSupport
import Testing

/// The backward functions of the reference against central differences of the forward ones.
struct ReferenceGradientTests {
    /// With h = 10⁻⁵ the difference is off by h²·f‴/6 and by the rounding of f over h: some 10⁻¹⁰ at the sizes used here.
    private func expectGradient(
        _ gradient: [Double], at x: [Double], _ what: String, sourceLocation: SourceLocation = #_sourceLocation, of f: ([Double]) -> Double
    ) {
        #expect(gradient.count == x.count, "\(what)", sourceLocation: sourceLocation)
        let h = 1e-5
        for index in x.indices {
            var (above, below) = (x, x)
            above[index] += h
            below[index] -= h
            let slope = (f(above) - f(below)) / (2 * h)
            #expect((slope - gradient[index]).magnitude <= 1e-7 * (1 + slope.magnitude), "\(what) \(index)", sourceLocation: sourceLocation)
        }
    }

    private func dot(_ x: [Double], _ y: [Double]) -> Double { zip(x, y).reduce(0) { $0 + $1.0 * $1.1 } }

    @Test(arguments: seeds)
    func theGradientOfRMSNormIsItsSlope(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let x = generator.values(2 * 5, spread: 2).wide, weight = generator.values(5, spread: 2).wide, dy = generator.values(2 * 5, spread: 1).wide
        func scales(_ x: [Double]) -> [Double] { Reference.rmsNormScales(x, dim: 5, epsilon: 0.01) }
        expectGradient(Reference.rmsNormBackward(dy: dy, x: x, scales: scales(x), weight: weight), at: x, "x") {
            dot(Reference.rmsNorm($0, scales: scales($0), weight: weight), dy)
        }
    }

    @Test(arguments: seeds)
    func theGradientOfRotationIsItsSlope(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let (cosines, sines) = rotaryTables(positions: 4, half: 2)
        func turned(_ x: [Double], _ direction: Double) -> [Double] {
            Reference.rotate(
                x, heads: 2, headDimension: 4, cosines: cosines.wide, sines: sines.wide, positions: [1, 2, 3], direction: direction)
        }
        let x = generator.values(24, spread: 1).wide, dy = generator.values(24, spread: 1).wide
        expectGradient(turned(dy, -1), at: x, "x") { dot(turned($0, 1), dy) }
    }

    @Test(arguments: seeds, [1, 2, 4])
    func theGradientOfAttentionIsItsSlope(seed: UInt64, groups: Int) {
        var generator = SeededGenerator(seed: seed)
        let shape = AttentionShape(batch: 2, sequence: 3, heads: 4, groups: groups, headDimension: 2)
        let q = generator.values(6 * 8, spread: 2).wide, gradient = generator.values(6 * 8, spread: 1).wide
        let k = generator.values(6 * 2 * groups, spread: 2).wide, v = generator.values(6 * 2 * groups, spread: 2).wide
        let (dq, dk, dv) = Reference.attentionBackward(gradient: gradient, q: q, k: k, v: v, shape: shape)
        expectGradient(dq, at: q, "q") { dot(Reference.attention(q: $0, k: k, v: v, shape: shape).o, gradient) }
        expectGradient(dk, at: k, "k") { dot(Reference.attention(q: q, k: $0, v: v, shape: shape).o, gradient) }
        expectGradient(dv, at: v, "v") { dot(Reference.attention(q: q, k: k, v: $0, shape: shape).o, gradient) }
    }

    @Test(arguments: seeds)
    func theGradientOfSwiGLUIsItsSlope(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let gate = generator.values(9, spread: 6).wide, up = generator.values(9, spread: 2).wide, da = generator.values(9, spread: 1).wide
        let (dgate, dup) = Reference.swigluBackward(da: da, gate: gate, up: up)
        expectGradient(dgate, at: gate, "gate") { dot(Reference.swiglu(gate: $0, up: up), da) }
        expectGradient(dup, at: up, "up") { dot(Reference.swiglu(gate: gate, up: $0), da) }
    }

    @Test(arguments: seeds)
    func theGradientOfCrossEntropyIsItsSlope(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let logits = generator.values(3 * 6, spread: 3).wide, targets: [Int32] = [0, 5, 2]
        expectGradient(Reference.crossEntropyBackward(logits, targets: targets, vocabulary: 6, scale: 0.5), at: logits, "logits") {
            0.5 * Reference.crossEntropy($0, targets: targets, vocabulary: 6).reduce(0, +)
        }
    }

    @Test(arguments: seeds)
    func theGradientOfALinearLayerIsItsSlope(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let layer = Reference.Linear(
            rows: 3, inputs: 4, outputs: 5, rank: 2, weight: generator.values(20, spread: 1).wide, bias: generator.values(5, spread: 1).wide,
            a: generator.values(8, spread: 1).wide, b: generator.values(10, spread: 1).wide, scale: 1.5,
            mask: (0..<12).map { $0 % 3 == 0 ? 0 : 1.25 })
        let x = generator.values(12, spread: 1).wide, dy = generator.values(15, spread: 1).wide
        let (dx, dA, dB) = layer.backward(dy, x)
        expectGradient(dx, at: x, "x") { dot(layer.forward($0).y, dy) }
        expectGradient(dA, at: layer.a, "A") {
            var moved = layer
            moved.a = $0
            return dot(moved.forward(x).y, dy)
        }
        expectGradient(dB, at: layer.b, "B") {
            var moved = layer
            moved.b = $0
            return dot(moved.forward(x).y, dy)
        }
    }
}
