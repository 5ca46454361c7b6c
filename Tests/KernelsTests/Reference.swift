import Foundation
import Kernels

/// The numeric functions of training in plain binary64, written from their definitions. Matrices are row-major.
enum Reference {
    /// op(a)[m,k] · op(b)[k,n], where a stored transposed is [k,m] and b [n,k].
    static func product(
        _ a: [Double], _ b: [Double], _ m: Int, _ n: Int, _ k: Int, transposeA: Bool = false, transposeB: Bool = false
    ) -> [Double] {
        var c = [Double](repeating: 0, count: m * n)
        for i in 0..<m {
            for l in 0..<k {
                let factor = transposeA ? a[l * m + i] : a[i * k + l]
                for j in 0..<n { c[i * n + j] += factor * (transposeB ? b[j * k + l] : b[l * n + j]) }
            }
        }
        return c
    }

    // MARK: Norm and rotation

    /// rsqrt(mean(x²) + epsilon) of each row of x[rows,dim].
    static func rmsNormScales(_ x: [Double], dim: Int, epsilon: Double) -> [Double] {
        (0..<x.count / dim).map { row in
            1 / (x[row * dim..<(row + 1) * dim].reduce(0) { $0 + $1 * $1 } / Double(dim) + epsilon).squareRoot()
        }
    }

    /// x[rows,dim] · scales[rows] · weight[dim]
    static func rmsNorm(_ x: [Double], scales: [Double], weight: [Double]) -> [Double] {
        x.indices.map { x[$0] * scales[$0 / weight.count] * weight[$0 % weight.count] }
    }

    /// The gradient of x[rows,dim] from that of y, with s the scale of the row:
    /// ∂y_j/∂x_i = w_j (s δ_ij − s³ x_i x_j / dim)
    static func rmsNormBackward(dy: [Double], x: [Double], scales: [Double], weight: [Double]) -> [Double] {
        let dim = weight.count
        return x.indices.map { index in
            let row = index / dim, i = index % dim, s = scales[row]
            let sum = (0..<dim).reduce(0) { $0 + dy[row * dim + $1] * weight[$1] * x[row * dim + $1] }
            return dy[index] * weight[i] * s - x[index] * s * s * s * sum / Double(dim)
        }
    }

    /// Each pair (i, i + d/2) of each head of x[rows, heads·d] turned by the angle of its position; tables [positions, d/2].
    static func rotate(
        _ x: [Double], heads: Int, headDimension d: Int, cosines: [Double], sines: [Double], positions: [Int], direction: Double
    ) -> [Double] {
        var y = x
        for (row, position) in positions.enumerated() {
            for head in 0..<heads {
                for i in 0..<d / 2 {
                    let low = (row * heads + head) * d + i, high = low + d / 2
                    let cosine = cosines[position * (d / 2) + i], sine = direction * sines[position * (d / 2) + i]
                    y[low] = x[low] * cosine - x[high] * sine
                    y[high] = x[low] * sine + x[high] * cosine
                }
            }
        }
        return y
    }

    // MARK: Softmax and attention

    /// log Σ exp(z)
    static func logSum(_ z: some Collection<Double>) -> Double {
        guard let largest = z.max() else { return -.infinity }
        return largest + log(z.reduce(0) { $0 + exp($1 - largest) })
    }

    /// softmax(scale · scores[rows,columns]), where row i sees the columns 0...firstRow+i, and log Σ exp of each row.
    static func causalSoftmax(_ scores: [Double], columns: Int, firstRow: Int, scale: Double) -> (p: [Double], logSums: [Double]) {
        var p = [Double](repeating: 0, count: scores.count)
        var logSums: [Double] = []
        for row in 0..<scores.count / columns {
            let visible = row * columns..<row * columns + min(columns, firstRow + row + 1)
            let sum = logSum(scores[visible].map { $0 * scale })
            logSums.append(sum)
            for index in visible { p[index] = exp(scores[index] * scale - sum) }
        }
        return (p, logSums)
    }

    /// The part of x[batch·sequence, heads·d] that belongs to one sequence and head: [sequence, d].
    static func head(_ x: [Double], _ shape: AttentionShape, sequence: Int, head: Int, of heads: Int) -> [Double] {
        let (s, d) = (shape.sequence, shape.headDimension)
        return (0..<s * d).map { index -> Double in
            let row = sequence * s + index / d
            return x[(row * heads + head) * d + index % d]
        }
    }

    /// Adds values[sequence, d] to the part of `x` that `head` takes.
    static func add(_ values: [Double], to x: inout [Double], _ shape: AttentionShape, sequence: Int, head: Int, of heads: Int) {
        let (s, d) = (shape.sequence, shape.headDimension)
        for index in 0..<s * d {
            let row = sequence * s + index / d
            x[(row * heads + head) * d + index % d] += values[index]
        }
    }

    struct Attention {
        /// [batch·sequence, heads·d]
        var o: [Double]
        /// [batch, heads, sequence]
        var logSums: [Double]
        /// [batch, heads, sequence, sequence]
        var probabilities: [[Double]]
    }

    /// o = softmax(q kᵀ/√d + causal mask) v; q [batch·sequence, heads·d], k and v [batch·sequence, groups·d]. Each group
    /// of keys serves heads/groups heads, one after another.
    static func attention(q: [Double], k: [Double], v: [Double], shape: AttentionShape) -> Attention {
        let (s, d) = (shape.sequence, shape.headDimension)
        var result = Attention(o: [Double](repeating: 0, count: q.count), logSums: [], probabilities: [])
        for sequence in 0..<shape.batch {
            for index in 0..<shape.heads {
                let group = index / (shape.heads / shape.groups)
                let query = head(q, shape, sequence: sequence, head: index, of: shape.heads)
                let key = head(k, shape, sequence: sequence, head: group, of: shape.groups)
                let value = head(v, shape, sequence: sequence, head: group, of: shape.groups)
                let scores = product(query, key, s, s, d, transposeB: true)
                let (p, logSums) = causalSoftmax(scores, columns: s, firstRow: 0, scale: 1 / Double(d).squareRoot())
                add(product(p, value, s, d, s), to: &result.o, shape, sequence: sequence, head: index, of: shape.heads)
                result.logSums += logSums
                result.probabilities.append(p)
            }
        }
        return result
    }

    /// The gradients of q, k and v, through the Jacobian of the softmax: dS_ij = p_ij (dP_ij − Σ_l p_il dP_il).
    static func attentionBackward(
        gradient: [Double], q: [Double], k: [Double], v: [Double], shape: AttentionShape
    ) -> (dq: [Double], dk: [Double], dv: [Double]) {
        let (s, d) = (shape.sequence, shape.headDimension)
        let scale = 1 / Double(d).squareRoot()
        let forward = attention(q: q, k: k, v: v, shape: shape)
        var dq = q.map { _ in 0.0 }, dk = k.map { _ in 0.0 }, dv = v.map { _ in 0.0 }
        for sequence in 0..<shape.batch {
            for index in 0..<shape.heads {
                let group = index / (shape.heads / shape.groups)
                let p = forward.probabilities[sequence * shape.heads + index]
                let query = head(q, shape, sequence: sequence, head: index, of: shape.heads)
                let key = head(k, shape, sequence: sequence, head: group, of: shape.groups)
                let value = head(v, shape, sequence: sequence, head: group, of: shape.groups)
                let dO = head(gradient, shape, sequence: sequence, head: index, of: shape.heads)
                var dS = product(dO, value, s, s, d, transposeB: true)
                for row in 0..<s {
                    let range = row * s..<(row + 1) * s
                    let mean = range.reduce(0) { $0 + p[$1] * dS[$1] }
                    for element in range { dS[element] = p[element] * (dS[element] - mean) * scale }
                }
                add(product(dS, key, s, d, s), to: &dq, shape, sequence: sequence, head: index, of: shape.heads)
                add(product(dS, query, s, d, s, transposeA: true), to: &dk, shape, sequence: sequence, head: group, of: shape.groups)
                add(product(p, dO, s, d, s, transposeA: true), to: &dv, shape, sequence: sequence, head: group, of: shape.groups)
            }
        }
        return (dq, dk, dv)
    }

    // MARK: SwiGLU

    static func sigmoid(_ x: Double) -> Double { 1 / (1 + exp(-x)) }

    static func swiglu(gate: [Double], up: [Double]) -> [Double] {
        zip(gate, up).map { $0 * sigmoid($0) * $1 }
    }

    /// The derivative of silu is σ(x) + x σ(x) (1 − σ(x)).
    static func swigluBackward(da: [Double], gate: [Double], up: [Double]) -> (dgate: [Double], dup: [Double]) {
        let dgate = gate.indices.map { i in
            let s = sigmoid(gate[i])
            return da[i] * up[i] * (s + gate[i] * s * sigmoid(-gate[i]))
        }
        return (dgate, gate.indices.map { da[$0] * gate[$0] * sigmoid(gate[$0]) })
    }

    // MARK: Cross-entropy

    /// log Σ exp(z) − z[target] of each row of logits[rows,vocabulary].
    static func crossEntropy(_ logits: [Double], targets: [Int32], vocabulary: Int) -> [Double] {
        targets.enumerated().map { row, target in
            logSum(logits[row * vocabulary..<(row + 1) * vocabulary]) - logits[row * vocabulary + Int(target)]
        }
    }

    /// (softmax(logits) − one-hot) · scale, [rows,vocabulary]
    static func crossEntropyBackward(_ logits: [Double], targets: [Int32], vocabulary: Int, scale: Double) -> [Double] {
        var gradient: [Double] = []
        for (row, target) in targets.enumerated() {
            let z = logits[row * vocabulary..<(row + 1) * vocabulary]
            let sum = logSum(z)
            gradient += z.map { exp($0 - sum) * scale }
            gradient[row * vocabulary + Int(target)] -= scale
        }
        return gradient
    }

    // MARK: Linear layer

    struct Linear {
        var rows: Int
        var inputs: Int
        var outputs: Int
        var rank: Int
        /// [out,in]
        var weight: [Double]
        /// [out]
        var bias: [Double]
        /// [rank,in]
        var a: [Double]
        /// [out,rank]
        var b: [Double]
        var scale: Double
        /// What the input of the low-rank path is multiplied by: 0 or 1/(1 − rate). [rows,in]
        var mask: [Double]

        /// The same with every number replaced by its magnitude: evaluated, it bounds the sum of the magnitudes of all terms.
        var magnitudes: Self {
            var copy = self
            copy.weight = weight.magnitudes
            copy.bias = bias.magnitudes
            copy.a = a.magnitudes
            copy.b = b.magnitudes
            copy.scale = scale.magnitude
            return copy
        }

        /// y[rows,out] = x Wᵀ + bias + s·((x ⊙ mask) Aᵀ) Bᵀ, and the product with Aᵀ.
        func forward(_ x: [Double]) -> (y: [Double], xa: [Double]) {
            let xa = product(zip(x, mask).map(*), a, rows, rank, inputs, transposeB: true)
            let update = product(xa, b, rows, outputs, rank, transposeB: true)
            let y = product(x, weight, rows, outputs, inputs, transposeB: true)
            return (y.indices.map { y[$0] + bias[$0 % outputs] + scale * update[$0] }, xa)
        }

        /// dx[rows,in], dA[rank,in], dB[out,rank]
        func backward(_ dy: [Double], _ x: [Double]) -> (dx: [Double], dA: [Double], dB: [Double]) {
            let thinned = zip(x, mask).map(*)
            let xa = product(thinned, a, rows, rank, inputs, transposeB: true)
            let dyb = product(dy, b, rows, rank, outputs)
            let direct = product(dy, weight, rows, inputs, outputs)
            let low = product(dyb, a, rows, inputs, rank)
            return (
                direct.indices.map { direct[$0] + scale * low[$0] * mask[$0] },
                product(dyb, thinned, rank, inputs, rows, transposeA: true).map { $0 * scale },
                product(dy, xa, outputs, rank, rows, transposeA: true).map { $0 * scale }
            )
        }
    }

    // MARK: AdamW

    struct AdamW {
        var learningRate, beta1, beta2, epsilon, weightDecay: Double
        var step: Int

        /// One step as its authors write it: the new parameter and moments.
        func apply(_ p: Double, _ m: Double, _ v: Double, gradient g: Double) -> (p: Double, m: Double, v: Double) {
            let first = beta1 * m + (1 - beta1) * g, second = beta2 * v + (1 - beta2) * g * g
            let firstHat = first / (1 - pow(beta1, Double(step))), secondHat = second / (1 - pow(beta2, Double(step)))
            return (p - learningRate * (firstHat / (secondHat.squareRoot() + epsilon) + weightDecay * p), first, second)
        }
    }

    // MARK: Dropout

    /// Whether the element with this index falls: its hash, as a fraction of 2³², is below `rate`.
    static func isDropped(_ index: UInt64, seed: UInt64, rate: Float) -> Bool {
        var hash = seed &+ index &* 0x9E37_79B9_7F4A_7C15
        hash = (hash ^ (hash >> 30)) &* 0xBF58_476D_1CE4_E5B9
        hash = (hash ^ (hash >> 27)) &* 0x94D0_49BB_1331_11EB
        return Double(hash >> 32) < (Double(rate) * 0x1p32).rounded(.down)
    }

    // MARK: Stored numbers

    /// A binary16 number in binary32, NaN with its payload.
    static func f32(f16 bits: UInt16) -> Float {
        let sign = UInt32(bits >> 15) << 31, exponent = Int(bits >> 10 & 31), fraction = UInt32(bits & 0x3FF)
        if exponent == 31 { return Float(bitPattern: sign | 0x7F80_0000 | fraction << 13) }
        let magnitude = exponent == 0 ? scalbn(Double(fraction), -24) : scalbn(1 + Double(fraction) / 1024, exponent - 15)
        return Float(sign == 0 ? magnitude : -magnitude)
    }
}

extension [Double] {
    var magnitudes: [Double] { map(\.magnitude) }
}

extension [Float] {
    /// The same numbers in binary64.
    var wide: [Double] { map(Double.init) }
    var bits: [UInt32] { map(\.bitPattern) }
}
