import Kernels
import TestSupport
import Testing

@testable import Methods

/// Every method that is trained, held to what the protocol promises.
struct TrainableMethodTests {
    private static let modules = [AdaptedModule(name: "a", out: 5, input: 3), AdaptedModule(name: "b", out: 4, input: 7)]
    /// Fixed, since a difference across a bend of relu is no slope.
    private static let seeds: [UInt64] = [9, 10, 11]

    private let compute: Compute

    init() throws { compute = Compute(pool: try #require(ThreadPool(threads: 2))) }

    private func weights(_ random: inout SeededGenerator, of modules: [AdaptedModule] = modules) -> [WeightMatrix] {
        modules.map { module in
            let values = FloatBuffer(count: module.out * module.input).view
            values.copy(from: random.values(values.count, spread: 1))
            return WeightMatrix(name: module.name, shape: [module.out, module.input], values: values)
        }
    }

    private func make(
        _ method: TrainingMethod, modules: [AdaptedModule] = modules, seed: UInt64 = 3, weights: [WeightMatrix]? = nil, compute: Compute? = nil
    ) -> any TrainableMethod {
        method.type.init(
            MethodSettings(
                modules: modules, weights: weights, rank: 2, scale: 0.5,
                hypernetwork: .init(embedding: 6, width: 4, initialization: .init(zStandardDeviation: 0.5)), seed: seed, moments: 2,
                compute: compute ?? self.compute))
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

    /// The same seed gives the same numbers, another seed others.
    @Test(arguments: TrainingMethod.allCases) func theStartDependsOnTheSeed(method: TrainingMethod) {
        let (first, again, other) = (make(method), make(method), make(method, seed: 4))
        func values(_ parameters: any TrainableMethod) -> [[Float]] { parameters.tensors.map(\.state.parameters.array) }
        #expect(values(first) == values(again) && values(first) != values(other))
    }

    /// A module that is left out, or has another shape, changes nothing of those after it.
    @Test(arguments: TrainingMethod.allCases) func theStartOfAModuleDoesNotDependOnTheModulesBeforeIt(method: TrainingMethod) {
        func start(_ first: AdaptedModule) -> [[Float]] {
            let parameters = make(method, modules: [first, Self.modules[1]])
            return parameters.tensors.filter { $0.name.hasPrefix("b.") }.map(\.state.parameters.array)
        }
        #expect(start(Self.modules[0]) == start(AdaptedModule(name: "a", out: 9, input: 11)))
        #expect(start(Self.modules[0]).contains { $0.contains { $0 != 0 } })
    }

    /// Work is cut by shape: modules that are large enough for several tiles have the same bits whatever the threads.
    @Test(arguments: TrainingMethod.allCases) func threadsDoNotChangeABit(method: TrainingMethod) throws {
        let modules = [AdaptedModule(name: "a", out: 150, input: 70), AdaptedModule(name: "b", out: 64, input: 129)]
        func run(threads: Int) throws -> [[UInt32]] {
            var random = SeededGenerator(seed: 4)
            let compute = Compute(pool: try #require(ThreadPool(threads: threads)))
            let parameters = make(method, modules: modules, weights: weights(&random, of: modules), compute: compute)
            for number in 1...3 {
                fillGradients(parameters, &random)
                _ = parameters.backward()
                parameters.step(
                    AdamWStep(
                        learningRate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.1, step: number, gradientScale: 0.5))
            }
            let views = parameters.tensors.flatMap { [$0.state.parameters] + $0.state.moments } + parameters.updates.flatMap { [$0.a, $0.b] }
            return views.map { $0.array.map(\.bitPattern) }
        }
        let one = try run(threads: 1)
        for threads in [2, 3] { #expect(try run(threads: threads) == one, "\(threads) threads") }
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

    /// The gradients of all parameters are the slopes of Σ gradient·factor, along themselves and along any other direction; read off
    /// the first moments, which with beta1 = 0 are the gradients.
    @Test(arguments: TrainingMethod.allCases, seeds) func gradientsAreSlopes(method: TrainingMethod, seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let parameters = make(method, weights: weights(&random))
        // Away from the start, where B is zero.
        for tensor in parameters.tensors { tensor.state.parameters.copy(from: random.values(tensor.state.parameters.count, spread: 1)) }
        parameters.produceFactors()
        fillGradients(parameters, &random)
        let weightsOfFactors = parameters.updates.map { ($0.gradientA.array, $0.gradientB.array, $0.magnitude?.gradient.array) }
        func product(_ x: [Float], _ y: [Float]) -> Double { zip(x, y).reduce(0) { $0 + Double($1.0) * Double($1.1) } }
        func value() -> Double {
            parameters.produceFactors()
            return zip(parameters.updates, weightsOfFactors).reduce(0) { sum, pair in
                let (update, (a, b, m)) = pair
                return sum + product(update.a.array, a) + product(update.b.array, b)
                    + (m.map { product(update.magnitude?.magnitudes.array ?? [], $0) } ?? 0)
            }
        }
        let norm = parameters.backward()
        parameters.step(Self.step(0))
        let gradients = parameters.tensors.map { $0.state.moments[0].array }
        let sum = gradients.reduce(0.0) { $0 + product($1, $1) }
        #expect(abs(norm / sum - 1) < 1e-4, "the norm is that of all gradients, seed \(seed)")
        for (tensor, gradient) in zip(parameters.tensors, gradients) {
            let start = tensor.state.parameters.array
            for direction in [gradient, random.values(gradient.count, spread: 1)] {
                let lengths = (product(gradient, gradient).squareRoot(), product(direction, direction).squareRoot())
                guard lengths.0 > 1e-4 else { continue }
                let width = 1e-3 / lengths.1
                func moved(_ factor: Double) -> Double {
                    tensor.state.parameters.copy(from: zip(start, direction).map { Float(Double($0) + factor * width * Double($1)) })
                    return value()
                }
                let slope = (moved(1) - moved(-1)) / (2 * width)
                tensor.state.parameters.copy(from: start)
                #expect(abs(slope - product(gradient, direction)) < 0.02 * lengths.0 * lengths.1, "\(tensor.name), seed \(seed)")
            }
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
}
