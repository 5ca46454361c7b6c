import Foundation
import Kernels
import Testing

/// The unit roundoff u of binary32: a rounded operation is off by at most u times its result. A sum of n products, in any
/// order, fused or not, is off by at most n·u·Σ|terms| (Higham 2002, §3.1; terms of order u² are covered by the slack of
/// the constants below).
let u = 0x1p-24

/// What the kernels' exponential may be off by, relatively: one unit in the last place. It is flat below −87, so there it is
/// off by up to e⁻⁸⁷ instead.
let exponentialError = 2 * u
let exponentialFloor = 0x1p-125

/// A number and how far from it a binary32 computation may end.
struct Bounded {
    var value: Double
    var bound: Double

    init(_ value: Double, within bound: Double) {
        self.value = value
        self.bound = bound
    }
}

/// Expects each number of `actual` within the bound of its expected value.
func expectAgreement(_ actual: [Float], _ expected: [Bounded], _ what: String = "", sourceLocation: SourceLocation = #_sourceLocation) {
    guard actual.count == expected.count else {
        Issue.record("\(what): \(actual.count) numbers for \(expected.count)", sourceLocation: sourceLocation)
        return
    }
    // Written so that NaN on either side fails.
    let failures = actual.indices.filter { !((Double(actual[$0]) - expected[$0].value).magnitude <= expected[$0].bound) }
    guard let first = failures.first else { return }
    Issue.record(
        "\(what): \(failures.count) of \(actual.count) differ; at \(first): \(actual[first]) for \(expected[first].value) ± \(expected[first].bound)",
        sourceLocation: sourceLocation)
}

/// Expects the same bits, so that −0 and NaN count too.
func expectBits(_ actual: [Float], _ expected: [Float], _ what: String = "", sourceLocation: SourceLocation = #_sourceLocation) {
    guard actual.count == expected.count, let first = zip(actual, expected).enumerated().first(where: { $1.0.bitPattern != $1.1.bitPattern }) else {
        #expect(actual.count == expected.count, "\(what)", sourceLocation: sourceLocation)
        return
    }
    Issue.record("\(what): at \(first.offset): \(first.element.0) for \(first.element.1)", sourceLocation: sourceLocation)
}

/// The results of the reference, with the bounds that the rounding of the kernels gives.
enum Expected {
    /// The sum under the root has a relative error of (dim + 2)u, of which the root leaves half; four more operations.
    static func rmsNormScales(_ x: [Float], dim: Int, epsilon: Float) -> [Bounded] {
        Reference.rmsNormScales(x.wide, dim: dim, epsilon: Double(epsilon)).map { Bounded($0, within: (Double(dim) / 2 + 5) * u * $0) }
    }

    /// The error of the scale and two products.
    static func rmsNorm(_ x: [Float], weight: [Float], epsilon: Float) -> [Bounded] {
        let scales = Reference.rmsNormScales(x.wide, dim: weight.count, epsilon: Double(epsilon))
        return Reference.rmsNorm(x.wide, scales: scales, weight: weight.wide).map {
            Bounded($0, within: (Double(weight.count) / 2 + 7) * u * $0.magnitude)
        }
    }

    /// dx + the gradient: the sum over the row carries (dim + 2)u of its magnitudes, all else a few roundings.
    static func rmsNormBackward(dx: [Float], dy: [Float], x: [Float], scales: [Float], weight: [Float]) -> [Bounded] {
        let dim = weight.count, gradient = Reference.rmsNormBackward(dy: dy.wide, x: x.wide, scales: scales.wide, weight: weight.wide)
        return x.indices.map { index in
            let row = index / dim, s = Double(scales[row]), direct = (Double(dy[index]) * Double(weight[index % dim]) * s).magnitude
            let sum = (0..<dim).reduce(0) { $0 + (Double(dy[row * dim + $1]) * Double(weight[$1]) * Double(x[row * dim + $1])).magnitude }
            let pull = Double(x[index]).magnitude * s * s * s * sum / Double(dim)
            return Bounded(
                Double(dx[index]) + gradient[index],
                within: u * (Double(dim + 10) * pull + 6 * direct + 2 * Double(dx[index]).magnitude))
        }
    }

    /// Two products and a sum, the magnitudes being those of the rotation with |sine| and |cosine|.
    static func rotate(
        _ x: [Float], heads: Int, headDimension: Int, cosines: [Float], sines: [Float], positions: [Int], direction: Float
    ) -> [Bounded] {
        let value = Reference.rotate(
            x.wide, heads: heads, headDimension: headDimension, cosines: cosines.wide, sines: sines.wide, positions: positions,
            direction: Double(direction))
        let half = headDimension / 2
        return x.indices.map { index in
            let i = index % headDimension, partner = i < half ? index + half : index - half
            let angle = positions[index / (heads * headDimension)] * half + i % half
            let magnitude =
                (Double(x[index]) * Double(cosines[angle])).magnitude + (Double(x[partner]) * Double(sines[angle])).magnitude
            return Bounded(value[index], within: 3 * u * magnitude)
        }
    }

    /// With A the largest |scale·score|: the argument of each exponential is off by at most 4Au, which its value is then off
    /// by relatively; numerator and sum both carry that, and the sum of n terms n·u more.
    static func causalSoftmax(
        _ scores: [Float], columns: Int, firstRow: Int, scale: Float
    ) -> (p: [Bounded], logSums: [Bounded]) {
        let (p, logSums) = Reference.causalSoftmax(scores.wide, columns: columns, firstRow: firstRow, scale: Double(scale))
        let largest = logSums.indices.map { row in
            let visible = min(columns, firstRow + row + 1)
            return scores[row * columns..<row * columns + visible].reduce(0) { max($0, (Double($1) * Double(scale)).magnitude) }
        }
        let n = Double(columns)
        return (
            p.indices.map {
                let visible = $0 % columns <= firstRow + $0 / columns
                let relative = 8 * largest[$0 / columns] * u + n * u + 2 * exponentialError + 4 * u
                return Bounded(p[$0], within: visible ? relative * p[$0] + exponentialFloor : 0)
            },
            logSums.enumerated().map { row, sum in
                Bounded(sum, within: u * (5 * largest[row] + n + 8 + 2 * log(n) + sum.magnitude))
            }
        )
    }

    /// A product and a difference before the exponential.
    static func causalSoftmaxAgain(_ scores: [Float], logSums: [Float], columns: Int, firstRow: Int, scale: Float) -> [Bounded] {
        scores.indices.map { index in
            let row = index / columns
            guard index % columns <= firstRow + row else { return Bounded(0, within: 0) }
            let z = Double(scores[index]) * Double(scale), argument = z - Double(logSums[row]), p = exp(argument)
            return Bounded(p, within: p * ((z.magnitude + argument.magnitude) * u + exponentialError) + exponentialFloor)
        }
    }

    /// σ is off by 6u (the exponential, a sum, a quotient), two products follow; below −88 σ is flat, at less than 2⁻¹²⁶.
    static func swiglu(gate: [Float], up: [Float]) -> [Bounded] {
        Reference.swiglu(gate: gate.wide, up: up.wide).enumerated().map { i, a in
            Bounded(a, within: 10 * u * a.magnitude + (Double(gate[i]) * Double(up[i])).magnitude * 0x1p-126)
        }
    }

    /// As `swiglu`; 1 − σ is off by 7u absolutely, however small it is.
    static func swigluBackward(da: [Float], gate: [Float], up: [Float]) -> (dgate: [Bounded], dup: [Bounded]) {
        let (dgate, dup) = Reference.swigluBackward(da: da.wide, gate: gate.wide, up: up.wide)
        return (
            dgate.enumerated().map { i, value in
                let s = Reference.sigmoid(Double(gate[i])), factor = (Double(da[i]) * Double(up[i])).magnitude
                let silu = Double(gate[i]).magnitude * s
                return Bounded(
                    value, within: factor * (u * (8 * s + 20 * silu + 4 * silu * (1 - s)) + (1 + Double(gate[i]).magnitude) * 0x1p-126))
            },
            dup.enumerated().map { i, value in
                Bounded(value, within: 10 * u * value.magnitude + (Double(da[i]) * Double(gate[i])).magnitude * 0x1p-126)
            }
        )
    }

    /// Sums of 1024 terms at most are taken in binary32. With D the distance of the smallest logit from the largest, as far as
    /// the exponential sees it, each term is off by D·u and the exponential's own error. `logitError`: what the logits
    /// themselves may be off by.
    static func crossEntropy(
        _ logits: [Double], targets: [Int32], vocabulary: Int, scale: Float, logitError: Double = 0
    ) -> (losses: [Bounded], gradients: [Bounded]) {
        let losses = Reference.crossEntropy(logits, targets: targets, vocabulary: vocabulary)
        let gradients = Reference.crossEntropyBackward(logits, targets: targets, vocabulary: vocabulary, scale: Double(scale))
        let perRow = targets.enumerated().map { row, target in
            let z = logits[row * vocabulary..<(row + 1) * vocabulary], largest = z.max() ?? 0
            return (
                spread: min(88, largest - (z.min() ?? 0)), distance: largest - z[row * vocabulary + Int(target)]
            )
        }
        let n = Double(min(vocabulary, 1024)), size = Double(scale).magnitude
        return (
            losses.enumerated().map { row, loss in
                let (spread, distance) = perRow[row]
                return Bounded(
                    loss,
                    within: u * (n + 6 + spread + distance + loss.magnitude) + exponentialError + Double(vocabulary) * exponentialFloor
                        + 2 * logitError)
            },
            gradients.enumerated().map { index, gradient in
                let row = index / vocabulary, isTarget = index % vocabulary == Int(targets[row])
                let p = (isTarget ? gradient + Double(scale) : gradient).magnitude
                let relative = u * (2 * perRow[row].spread + n + 4) + 2 * exponentialError + 2 * logitError
                return Bounded(gradient, within: relative * p + size * exponentialFloor + (isTarget ? u * size : 0))
            }
        )
    }

    /// Σ x·y + `initial`
    static func sum(_ x: some Sequence<Float>, _ y: some Sequence<Float>, initial: Float = 0) -> Bounded {
        var value = Double(initial), magnitude = Double(initial).magnitude, count = 2.0
        for (x, y) in zip(x, y) {
            value += Double(x) * Double(y)
            magnitude += (Double(x) * Double(y)).magnitude
            count += 1
        }
        return Bounded(value, within: count * u * magnitude)
    }

    /// matrix[rows,columns] · x + bias
    static func affine(_ matrix: [Float], _ x: [Float], _ bias: [Float]) -> [Bounded] {
        bias.indices.map { sum(matrix[$0 * x.count..<($0 + 1) * x.count], x, initial: bias[$0]) }
    }

    /// y + matrixᵀ[columns,rows] · x; `pieces` more additions where the rows are cut.
    static func transposedProduct(_ y: [Float], _ matrix: [Float], _ x: [Float], pieces: Int = 0) -> [Bounded] {
        y.indices.map { column in
            let bounded = sum(x.indices.map { matrix[$0 * y.count + column] }, x, initial: y[column])
            return Bounded(bounded.value, within: bounded.bound * Double(x.count + 2 + pieces) / Double(x.count + 2))
        }
    }

    /// The moments take five roundings of the magnitudes that go into them; the step, beside the error of the first moment, a
    /// dozen: the root halves what the second moment carries.
    static func adamW(
        _ p: [Float], _ m: [Float], _ v: [Float], gradients: [Double], _ step: AdamWStep
    ) -> (p: [Bounded], m: [Bounded], v: [Bounded]) {
        let reference = Reference.AdamW(
            learningRate: Double(step.learningRate), beta1: Double(step.beta1), beta2: Double(step.beta2), epsilon: Double(step.epsilon),
            weightDecay: Double(step.weightDecay), step: step.step)
        var result: (p: [Bounded], m: [Bounded], v: [Bounded]) = ([], [], [])
        for i in p.indices {
            let g = gradients[i] * Double(step.gradientScale), moment = Double(m[i])
            let new = reference.apply(Double(p[i]), moment, Double(v[i]), gradient: g)
            let magnitude = moment.magnitude + (1 - reference.beta1) * (g.magnitude + moment.magnitude)
            let denominator = (new.v / (1 - pow(reference.beta2, Double(step.step)))).squareRoot() + reference.epsilon
            let rate = reference.learningRate / (1 - pow(reference.beta1, Double(step.step)))
            let taken = (rate * new.m / denominator).magnitude
            result.m.append(Bounded(new.m, within: 6 * u * magnitude))
            result.v.append(Bounded(new.v, within: 8 * u * new.v))
            result.p.append(Bounded(new.p, within: u * (5 * Double(p[i]).magnitude + 16 * taken + 9 * rate * magnitude / denominator)))
        }
        return result
    }

    /// Every element of y, dx, dA and dB is a sum of products; evaluating them in any order is off by at most as many
    /// roundings as the longest chain of them has, times the sum of the magnitudes of all terms.
    static func linear(_ layer: Reference.Linear, _ x: [Double]) -> [Bounded] {
        let depth = Double(layer.inputs + layer.rank + 8)
        return zip(layer.forward(x).y, layer.magnitudes.forward(x.magnitudes).y).map { Bounded($0, within: depth * u * $1) }
    }

    static func linearBackward(_ layer: Reference.Linear, dy: [Double], _ x: [Double]) -> (dx: [Bounded], dA: [Bounded], dB: [Bounded]) {
        let value = layer.backward(dy, x), magnitude = layer.magnitudes.backward(dy.magnitudes, x.magnitudes)
        let (m, n, k, r) = (layer.rows, layer.outputs, layer.inputs, layer.rank)
        func bounded(_ value: [Double], _ magnitude: [Double], _ depth: Int) -> [Bounded] {
            zip(value, magnitude).map { Bounded($0, within: Double(depth + 8) * u * $1) }
        }
        return (
            bounded(value.dx, magnitude.dx, n + r), bounded(value.dA, magnitude.dA, n + m), bounded(value.dB, magnitude.dB, k + m)
        )
    }

    struct Attention {
        var o, logSums, dq, dk, dv: [Bounded]
    }

    /// A score is off by (d + 3)u·S, with S the largest scale·Σ|q||k| of all, so a probability by e, which holds that twice
    /// and the errors of `causalSoftmax`; the exponential of the second pass brings the error of the kept log-sum. With
    /// M = max Σ|do||v| over a head, dP and rowsum(do ⊙ o) are at most M and off by (e + (n + d + 4)u)M, so dS is off by
    /// E·p·M/√d with E as below.
    static func attention(gradient: [Float], q: [Float], k: [Float], v: [Float], shape: AttentionShape) -> Attention {
        let (s, d) = (shape.sequence, shape.headDimension), n = Double(s), scale = 1 / Double(d).squareRoot()
        let forward = Reference.attention(q: q.wide, k: k.wide, v: v.wide, shape: shape)
        let backward = Reference.attentionBackward(gradient: gradient.wide, q: q.wide, k: k.wide, v: v.wide, shape: shape)
        var oError = q.map { _ in 0.0 }, dqError = oError, dkError = k.map { _ in 0.0 }, dvError = dkError, logError: [Double] = []
        for sequence in 0..<shape.batch {
            for index in 0..<shape.heads {
                let group = index / (shape.heads / shape.groups)
                let p = forward.probabilities[sequence * shape.heads + index]
                let query = Reference.head(q.wide.magnitudes, shape, sequence: sequence, head: index, of: shape.heads)
                let key = Reference.head(k.wide.magnitudes, shape, sequence: sequence, head: group, of: shape.groups)
                let value = Reference.head(v.wide.magnitudes, shape, sequence: sequence, head: group, of: shape.groups)
                let dO = Reference.head(gradient.wide.magnitudes, shape, sequence: sequence, head: index, of: shape.heads)
                let S = scale * (Reference.product(query, key, s, s, d, transposeB: true).max() ?? 0)
                let M = Reference.product(dO, value, s, s, d, transposeB: true).max() ?? 0
                let e = u * (2 * Double(d + 3) * S + 9 * S + 2 * n + 2 * log(n) + 20)
                let E = 3 * e + u * (n + 2 * Double(d) + 16)
                let dS = p.map { $0 * M * scale }
                let pFactor = e + u * (n + 4), dFactor = 2 * E + u * 2 * Double(shape.heads / shape.groups * s + 4)
                func add(_ product: [Double], times factor: Double, to errors: inout [Double], head: Int, of heads: Int) {
                    Reference.add(product.map { $0 * factor }, to: &errors, shape, sequence: sequence, head: head, of: heads)
                }
                add(Reference.product(p, value, s, d, s), times: pFactor, to: &oError, head: index, of: shape.heads)
                add(Reference.product(p, dO, s, d, s, transposeA: true), times: dFactor, to: &dvError, head: group, of: shape.groups)
                add(Reference.product(dS, key, s, d, s), times: dFactor, to: &dqError, head: index, of: shape.heads)
                add(Reference.product(dS, query, s, d, s, transposeA: true), times: dFactor, to: &dkError, head: group, of: shape.groups)
                logError += [Double](repeating: e, count: s)
            }
        }
        func bounded(_ values: [Double], _ errors: [Double]) -> [Bounded] { zip(values, errors).map { Bounded($0, within: $1) } }
        return Attention(
            o: bounded(forward.o, oError), logSums: bounded(forward.logSums, logError), dq: bounded(backward.dq, dqError),
            dk: bounded(backward.dk, dkError), dv: bounded(backward.dv, dvError))
    }
}
