import Kernels
import TestSupport
import Testing

@testable import Methods

/// Every method that is trained, held to what the protocol promises.
struct TrainableMethodTests {
    private static let modules = [AdaptedModule(name: "a", out: 5, input: 3), AdaptedModule(name: "b", out: 4, input: 7)]
    private let compute: Compute

    init() throws { compute = Compute(pool: try #require(ThreadPool(threads: 2))) }

    private func weights(_ random: inout SeededGenerator) -> [WeightMatrix] {
        Self.modules.map { module in
            let values = FloatBuffer(count: module.out * module.input).view
            values.copy(from: random.values(values.count, spread: 1))
            return WeightMatrix(name: module.name, shape: [module.out, module.input], values: values)
        }
    }

    private func make(_ method: TrainingMethod, seed: UInt64 = 3, weights: [WeightMatrix]? = nil) -> any TrainableMethod {
        method.type.init(
            MethodSettings(
                modules: Self.modules, weights: weights, rank: 2, scale: 0.5,
                hypernetwork: .init(embedding: 6, width: 4, initialization: .init(zStandardDeviation: 0.5)), seed: seed, moments: 2, compute: compute)
        )
    }

    /// Gives the factors' gradients random values.
    private func fillGradients(_ parameters: any TrainableMethod, _ random: inout SeededGenerator) {
        for update in parameters.updates {
            for view in [update.gradientA, update.gradientB, update.magnitude?.gradient].compactMap(\.self) {
                view.copy(from: random.values(view.count, spread: 1))
            }
        }
    }

    private static func step(_ rate: Float) -> AdamWStep {
        AdamWStep(learningRate: rate, beta1: 0, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, step: 1, gradientScale: 1)
    }

    @Test(arguments: TrainingMethod.allCases) func theTableKnowsItsRows(method: TrainingMethod) {
        #expect(TrainingMethod(rawValue: method.rawValue) == method && method.type.name == method.rawValue)
        #expect(TrainingMethod.allCases.count { $0.rawValue == method.rawValue } == 1)
        #expect(TrainingMethod(rawValue: method.rawValue + "x") == nil)
    }

    /// Nothing changes at first: B is zero and A is not, and a magnitude is the norm of its row.
    @Test(arguments: TrainingMethod.allCases) func theStartChangesNothing(method: TrainingMethod) {
        var random = SeededGenerator(seed: 1)
        let weights = weights(&random)
        let parameters = make(method, weights: weights)
        #expect(parameters.modules == Self.modules && parameters.updates.count == 2)
        for (module, update) in zip(Self.modules, parameters.updates) {
            #expect(update.a.count == 2 * module.input && update.b.count == module.out * 2 && update.rank == 2 && update.scale == 0.5)
            #expect(update.b.array.allSatisfy { $0 == 0 } && update.a.array.contains { $0 != 0 })
            if let magnitude = update.magnitude { #expect(magnitude.factors.array.allSatisfy { $0 == 1 }) }
        }
        #expect((method.type.scalesOutputs) == (parameters.updates[0].magnitude != nil))
    }

    /// The same seed gives the same numbers, another seed others; what is drawn for a module does not depend on the others.
    @Test(arguments: TrainingMethod.allCases) func theStartDependsOnTheSeed(method: TrainingMethod) {
        let (first, again, other) = (make(method), make(method), make(method, seed: 4))
        func values(_ parameters: any TrainableMethod) -> [[Float]] { parameters.tensors.map(\.state.parameters.array) }
        #expect(values(first) == values(again) && values(first) != values(other))
    }

    @Test(arguments: TrainingMethod.allCases) func tensorsAreNamedAfterTheirModules(method: TrainingMethod) {
        let tensors = make(method).tensors
        #expect(Set(tensors.map(\.name)).count == tensors.count)
        for tensor in tensors {
            #expect(Self.modules.contains { tensor.name.hasPrefix($0.name + ".") })
            #expect(tensor.shape.reduce(1, *) == tensor.state.parameters.count && tensor.state.moments.count == 2)
        }
        #expect(make(method).parameterCount == tensors.reduce(0) { $0 + $1.state.parameters.count })
    }

    /// The gradients of all parameters are the slopes of Σ gradient·factor; read off the first moments, which with beta1 = 0 are the gradients.
    @Test(arguments: TrainingMethod.allCases) func gradientsAreSlopes(method: TrainingMethod) {
        let seed: UInt64 = 9
        var random = SeededGenerator(seed: seed)
        let parameters = make(method, weights: weights(&random))
        // Away from the start, where B is zero.
        for tensor in parameters.tensors { tensor.state.parameters.copy(from: random.values(tensor.state.parameters.count, spread: 1)) }
        parameters.produceFactors()
        fillGradients(parameters, &random)
        let weightsOfFactors = parameters.updates.map { ($0.gradientA.array, $0.gradientB.array, $0.magnitude?.gradient.array) }
        func value() -> Double {
            parameters.produceFactors()
            return zip(parameters.updates, weightsOfFactors).reduce(0) { sum, pair in
                let (update, (a, b, m)) = pair
                func product(_ x: [Float], _ y: [Float]) -> Double { zip(x, y).reduce(0) { $0 + Double($1.0) * Double($1.1) } }
                return sum + product(update.a.array, a) + product(update.b.array, b)
                    + (m.map { product(update.magnitude?.magnitudes.array ?? [], $0) } ?? 0)
            }
        }
        let norm = parameters.backward()
        parameters.step(Self.step(0))
        let gradients = parameters.tensors.map { $0.state.moments[0].array }
        let sum = gradients.joined().reduce(0.0) { $0 + Double($1) * Double($1) }
        #expect(abs(norm / sum - 1) < 1e-4, "the norm is that of all gradients, seed \(seed)")
        for (tensor, gradient) in zip(parameters.tensors, gradients) {
            let square = gradient.reduce(0.0) { $0 + Double($1) * Double($1) }
            guard square > 1e-8 else { continue }
            let (start, width) = (tensor.state.parameters.array, 1e-3 / square.squareRoot())
            func moved(_ factor: Double) -> Double {
                tensor.state.parameters.copy(from: zip(start, gradient).map { Float(Double($0) + factor * width * Double($1)) })
                return value()
            }
            let slope = (moved(1) - moved(-1)) / (2 * width)
            tensor.state.parameters.copy(from: start)
            #expect(abs(slope / square - 1) < 0.02, "\(tensor.name), seed \(seed)")
        }
    }

    /// After a step the factors are those of the parameters.
    @Test(arguments: TrainingMethod.allCases) func factorsFollowTheParameters(method: TrainingMethod) {
        var random = SeededGenerator(seed: 2)
        let parameters = make(method, weights: weights(&random))
        fillGradients(parameters, &random)
        _ = parameters.backward()
        let before = parameters.updates.map(\.b.array)
        parameters.step(Self.step(0.1))
        let after = parameters.updates.map { [$0.a.array, $0.b.array, $0.magnitude?.factors.array ?? []] }
        #expect(before != after.map { $0[1] })
        parameters.produceFactors()
        #expect(after == parameters.updates.map { [$0.a.array, $0.b.array, $0.magnitude?.factors.array ?? []] })
        parameters.zeroGradients()
        #expect(parameters.updates.allSatisfy { $0.gradientA.array.allSatisfy { $0 == 0 } && $0.gradientB.array.allSatisfy { $0 == 0 } })
    }

    /// v = W2·relu(W1·z + c1) + c2, in binary64.
    @Test func aHypernetworkIsWhatItsFormulaSays() {
        var random = SeededGenerator(seed: 8)
        let parameters = make(.opLoRA)
        for tensor in parameters.tensors { tensor.state.parameters.copy(from: random.values(tensor.state.parameters.count, spread: 1)) }
        parameters.produceFactors()
        let values = Dictionary(uniqueKeysWithValues: parameters.tensors.map { ($0.name, $0.state.parameters.array.map(Double.init)) })
        for (module, update) in zip(Self.modules, parameters.updates) {
            func tensor(_ name: String) -> [Double] { values["\(module.name).hypernetwork.\(name)"] ?? [] }
            let (z, w1, c1, w2, c2) = (tensor("z"), tensor("W1"), tensor("c1"), tensor("W2"), tensor("c2"))
            let hidden = c1.indices.map { unit in max(0, z.indices.reduce(c1[unit]) { $0 + w1[unit * z.count + $1] * z[$1] }) }
            let v = c2.indices.map { row in hidden.indices.reduce(c2[row]) { $0 + w2[row * hidden.count + $1] * hidden[$1] } }
            let found = (update.a.array + update.b.array).map(Double.init)
            #expect(found.count == v.count && zip(found, v).allSatisfy { abs($0 - $1) < 1e-5 }, "\(module.name)")
        }
    }
}
