import Kernels
import TestSupport
import Testing

@testable import Methods

/// A hypernetwork in binary64 as its paper writes it, without a thought of speed.
private struct PlainHypernetwork {
    var z, w1, c1, w2, c2: [Double]

    init(_ tensors: [[Double]]) { (z, w1, c1, w2, c2) = (tensors[0], tensors[1], tensors[2], tensors[3], tensors[4]) }

    var tensors: [[Double]] { [z, w1, c1, w2, c2] }

    /// u = W1·z + c1
    var inner: [Double] { c1.indices.map { unit in z.indices.reduce(c1[unit]) { $0 + w1[unit * z.count + $1] * z[$1] } } }

    /// v = W2·relu(u) + c2
    var output: [Double] {
        let hidden = inner.map { max(0, $0) }
        return c2.indices.map { row in hidden.indices.reduce(c2[row]) { $0 + w2[row * hidden.count + $1] * hidden[$1] } }
    }

    func value(_ weights: [Double]) -> Double { zip(output, weights).reduce(0) { $0 + $1.0 * $1.1 } }

    /// The slope of Σ weights·v along each parameter, by central differences.
    func slopes(_ weights: [Double]) -> [[Double]] {
        let step = 1e-6
        return tensors.indices.map { tensor in
            tensors[tensor].indices.map { index in
                func moved(_ by: Double) -> Double {
                    var copy = tensors
                    copy[tensor][index] += by
                    return PlainHypernetwork(copy).value(weights)
                }
                return (moved(step) - moved(-step)) / (2 * step)
            }
        }
    }
}

/// The hypernetworks of OP-LoRA against a plain evaluation in binary64.
struct HypernetworkTests {
    /// Sizes of a hypernetwork and its module.
    struct Sizes: CustomTestStringConvertible, Sendable {
        let embedding, width, rank, input, out: Int

        var factors: Int { rank * (input + out) }
        var testDescription: String { "e \(embedding), k \(width), r \(rank), \(input) to \(out)" }
    }

    /// Single numbers, odd ones, and more than a vector holds.
    static let sizes = [
        Sizes(embedding: 1, width: 1, rank: 1, input: 1, out: 1), Sizes(embedding: 6, width: 4, rank: 2, input: 3, out: 5),
        Sizes(embedding: 3, width: 9, rank: 3, input: 4, out: 2), Sizes(embedding: 18, width: 5, rank: 1, input: 11, out: 9),
    ]
    /// One that stays, and one that is new on each run.
    static let seeds: [UInt64] = [1, .random(in: 0 ... .max)]

    private let compute: Compute

    init() throws { compute = Compute(pool: try #require(ThreadPool(threads: 2))) }

    private func make(
        _ sizes: [Sizes], initialization: HypernetworkInitialization = .init(zStandardDeviation: 0.5), seed: UInt64 = 3
    ) -> OPLoRAParameters {
        OPLoRAParameters(
            MethodSettings(
                modules: sizes.enumerated().map { AdaptedModule(name: "module\($0)", out: $1.out, input: $1.input) }, weights: nil,
                rank: sizes[0].rank, scale: 1,
                hypernetwork: .init(embedding: sizes[0].embedding, width: sizes[0].width, initialization: initialization), seed: seed, moments: 2,
                compute: compute))
    }

    /// Parameters away from the start, and from the bends of relu, where a difference is no slope.
    private func randomize(_ parameters: OPLoRAParameters, _ random: inout SeededGenerator) -> PlainHypernetwork {
        while true {
            for tensor in parameters.tensors { tensor.state.parameters.copy(from: random.values(tensor.state.parameters.count, spread: 1)) }
            let plain = PlainHypernetwork(parameters.tensors.map { $0.state.parameters.array.map(Double.init) })
            guard plain.inner.allSatisfy({ abs($0) > 1e-3 }) else { continue }
            parameters.produceFactors()
            return plain
        }
    }

    private func factors(_ parameters: OPLoRAParameters) -> [Float] { parameters.updates.flatMap { $0.a.array + $0.b.array } }

    private func agree(_ found: [Float], _ expected: [Double], within bound: Double) -> Bool {
        let largest = expected.map(abs).max() ?? 0
        return found.count == expected.count && zip(found, expected).allSatisfy { abs(Double($0) - $1) <= bound * max(1, largest) }
    }

    @Test(arguments: sizes) func aHypernetworkHasAsManyNumbersAsItsFormula(sizes: Sizes) {
        let (e, k, p) = (sizes.embedding, sizes.width, sizes.factors)
        let parameters = make([sizes, sizes, sizes])
        #expect(parameters.parameterCount == 3 * (e + k * e + k + p * k + p))
        #expect(parameters.tensors.map(\.shape) == Array(repeating: [[e], [k, e], [k], [p, k], [p]], count: 3).flatMap(\.self))
        #expect(parameters.tensors.prefix(5).map(\.name) == ["z", "W1", "c1", "W2", "c2"].map { "module0.hypernetwork.\($0)" })
        for update in parameters.updates {
            #expect(update.a.count == sizes.rank * sizes.input && update.b.count == sizes.out * sizes.rank)
        }
    }

    /// v = W2·relu(W1·z + c1) + c2, A before B.
    @Test(arguments: sizes, seeds) func theFactorsAreWhatTheFormulaGives(sizes: Sizes, seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let parameters = make([sizes])
        let plain = randomize(parameters, &random)
        #expect(agree(factors(parameters), plain.output, within: 1e-5), "seed \(seed)")
    }

    /// Read off the first moments, which with beta1 = 0 are the gradients: the largest are never stored.
    @Test(arguments: sizes, seeds) func everyGradientIsTheSlopeOfItsParameter(sizes: Sizes, seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let parameters = make([sizes])
        let plain = randomize(parameters, &random)
        let weights = random.values(sizes.factors, spread: 1)
        let split = sizes.rank * sizes.input
        parameters.updates[0].gradientA.copy(from: Array(weights[..<split]))
        parameters.updates[0].gradientB.copy(from: Array(weights[split...]))
        let slopes = plain.slopes(weights.map(Double.init))
        let square = parameters.backward()
        parameters.step(AdamWStep(learningRate: 0, beta1: 0, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, step: 1, gradientScale: 1))
        for (tensor, expected) in zip(parameters.tensors, slopes) {
            #expect(agree(tensor.state.moments[0].array, expected, within: 1e-4), "\(tensor.name), seed \(seed)")
        }
        let sum = slopes.joined().reduce(0) { $0 + $1 * $1 }
        #expect(abs(square - sum) <= 1e-4 * sum, "the norm is that of all gradients, seed \(seed)")
    }

    /// AdamW from its paper over gradients that are all written out. Gradients of a step belong to the parameters before it,
    /// though the step goes over z and the hidden units first.
    @Test(arguments: sizes, seeds) func stepsAreThoseOfAPlainImplementation(sizes: Sizes, seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let parameters = make([sizes])
        var plain = randomize(parameters, &random)
        let targets = random.values(sizes.factors, spread: 1)
        let split = sizes.rank * sizes.input
        let (rate, beta1, beta2, epsilon, decay) = (0.01, 0.9, 0.99, 1e-2, 0.1)
        var first = plain.tensors.map { $0.map { _ in 0.0 } }
        var second = first
        for number in 1...4 {
            // The gradient of ½‖v − targets‖².
            let found = factors(parameters)
            let errors = zip(found, targets).map { $0 - $1 }
            parameters.updates[0].gradientA.copy(from: Array(errors[..<split]))
            parameters.updates[0].gradientB.copy(from: Array(errors[split...]))
            _ = parameters.backward()
            parameters.step(
                AdamWStep(
                    learningRate: Float(rate), beta1: Float(beta1), beta2: Float(beta2), epsilon: Float(epsilon), weightDecay: Float(decay),
                    step: number, gradientScale: 1))
            let slopes = plain.slopes(zip(plain.output, targets).map { $0 - Double($1) })
            var tensors = plain.tensors
            for (tensor, index) in tensors.indices.flatMap({ tensor in tensors[tensor].indices.map { (tensor, $0) } }) {
                let gradient = slopes[tensor][index]
                first[tensor][index] = beta1 * first[tensor][index] + (1 - beta1) * gradient
                second[tensor][index] = beta2 * second[tensor][index] + (1 - beta2) * gradient * gradient
                func corrected(_ moment: Double, _ beta: Double) -> Double {
                    moment / (1 - (0..<number).reduce(1.0) { product, _ in product * beta })
                }
                tensors[tensor][index] *= 1 - rate * decay
                tensors[tensor][index] -=
                    rate * corrected(first[tensor][index], beta1) / (corrected(second[tensor][index], beta2).squareRoot() + epsilon)
            }
            plain = PlainHypernetwork(tensors)
            // A unit at a bend may be on and off by a last digit.
            guard plain.inner.allSatisfy({ abs($0) > 1e-4 }) else { return }
        }
        for (tensor, expected) in zip(parameters.tensors, plain.tensors) {
            #expect(agree(tensor.state.parameters.array, expected, within: 1e-4), "\(tensor.name), seed \(seed)")
        }
        #expect(agree(factors(parameters), plain.output, within: 1e-4), "seed \(seed)")
    }

    // MARK: The start

    /// Uniform numbers stay within their bound and come near it; z has the spread that is asked for.
    @Test func theStartHasTheSpreadThatItsSettingsSay() {
        let sizes = Sizes(embedding: 4096, width: 64, rank: 2, input: 20, out: 15)
        let initialization = HypernetworkInitialization(zStandardDeviation: 0.25, w1Gain: 2, w2Gain: 3, hiddenBias: 0.5)
        let tensors = make([sizes], initialization: initialization).tensors.map { $0.state.parameters.array.map(Double.init) }
        func isSpread(_ values: some Sequence<Double>, within bound: Double) -> Bool {
            let largest = values.map(abs).max() ?? 0
            return largest <= bound * (1 + 1e-6) && largest > 0.8 * bound
        }
        let deviation = (tensors[0].reduce(0) { $0 + $1 * $1 } / 4096).squareRoot()
        #expect(abs(deviation / 0.25 - 1) < 0.05 && abs(tensors[0].reduce(0, +) / 4096) < 0.02)
        #expect(isSpread(tensors[1], within: 2.0 / 64))
        #expect(isSpread(tensors[2], within: 0.5))
        // The rows that make A; those that make B are zero, and so is c2.
        let split = sizes.rank * sizes.input * sizes.width
        #expect(isSpread(tensors[3][..<split], within: 3.0 / 8))
        #expect(tensors[3][split...].allSatisfy { $0 == 0 } && tensors[4].allSatisfy { $0 == 0 })
    }

    @Test func hiddenUnitsStartWithoutBiasAsInThePaper() {
        let c1 = make([Self.sizes[2]]).tensors[2].state.parameters.array
        #expect(c1.allSatisfy { $0 == 0 })
    }

    @Test func modulesOfOneShapeStartWithNumbersOfTheirOwn() {
        let updates = make([Self.sizes[1], Self.sizes[1]]).updates
        #expect(updates[0].a.array != updates[1].a.array)
    }
}
