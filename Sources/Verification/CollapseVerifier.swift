public import Adapters
public import JSON
internal import Methods
internal import Tensors

/// The hypernetwork of one adapted module, as a training run holds it: v = W2·relu(W1·z + c1) + c2, of which the first
/// rank·in numbers are A [rank, in] and the rest is B [out, rank]. All arrays are row-major.
public struct HypernetworkParameters: Sendable {
    public let path: ModulePath
    public let rank: Int
    public let inputs: Int
    public let outputs: Int
    /// z [e].
    public let z: [Float]
    /// W1 [k, e].
    public let w1: [Float]
    /// c1 [k].
    public let c1: [Float]
    /// W2 [p, k] with p = rank·(in + out).
    public let w2: [Float]
    /// c2 [p].
    public let c2: [Float]

    /// - Precondition: the arrays have these sizes.
    public init(path: ModulePath, rank: Int, inputs: Int, outputs: Int, z: [Float], w1: [Float], c1: [Float], w2: [Float], c2: [Float]) {
        let p = rank * (inputs + outputs)
        precondition(w1.count == c1.count * z.count && w2.count == p * c1.count && c2.count == p)
        self.path = path
        self.rank = rank
        self.inputs = inputs
        self.outputs = outputs
        self.z = z
        self.w1 = w1
        self.c1 = c1
        self.w2 = w2
        self.c2 = c2
    }
}

/// A module of a run as the verifier of the collapse takes it.
public enum RunModule: Sendable {
    case hypernetwork(HypernetworkParameters)
    /// Factors that were trained themselves: A [rank, in] and B [out, rank]; and m [out] of a weight-decomposed module.
    case plain(path: ModulePath, rank: Int, loraA: [Float], loraB: [Float], magnitudes: [Float]? = nil)

    public var path: ModulePath {
        switch self {
        case .hypernetwork(let parameters): parameters.path
        case .plain(let path, _, _, _, _): path
        }
    }

    var rank: Int {
        switch self {
        case .hypernetwork(let parameters): parameters.rank
        case .plain(_, let rank, _, _, _): rank
        }
    }
}

/// What the verification of a collapse found.
public struct CollapseVerdict: Sendable {
    public struct Module: Sendable {
        public let path: ModulePath
        /// The largest distance of an element of A or B from what the hypernetwork gives, as a share of what rounding allows
        /// it: at most 1 for a right one.
        public let worstShareOfBound: Double
        /// The largest distance itself.
        public let worstDifference: Double
    }

    public let faults: [Fault]
    public let modules: [Module]

    public var passes: Bool { faults.isEmpty }

    /// One sentence for people.
    public var summary: String {
        guard passes else { return "fail: \(faults.count) fault\(faults.count == 1 ? "" : "s") in \(modules.count) modules" }
        let share = ((modules.map(\.worstShareOfBound).max() ?? 0) * 1000).rounded() / 10
        return "pass: \(modules.count) modules are what the run gives, at most \(share)% of the rounding bound off"
    }

    /// The report that `oplora verify --run --json` prints.
    public var json: JSONValue {
        [
            "schema": "oplora.verify/1", "verdict": .string(passes ? "pass" : "fail"), "faults": .array(faults.map(\.json)),
            "modules": .array(
                modules.map {
                    ["module": .string($0.path.text), "worstDifference": .real($0.worstDifference), "shareOfBound": .real($0.worstShareOfBound)]
                }),
        ]
    }
}

/// Checks a collapsed adapter against the hypernetworks that it came from.
public enum CollapseVerifier {
    /// Verifies a collapse.
    ///
    /// The hypernetwork is evaluated in binary64, and every stored factor element must lie within what a binary32 evaluation
    /// in any order, and the rounding to the factor's type, can make of it. A plain LoRA module must be equal, rounded once
    /// to the factor's type.
    ///
    /// The bound: with u = 2⁻²⁴, a sum of n products in binary32 is off by at most γ(n)·Σ|terms| with γ(n) = n·u/(1 − n·u)
    /// (Higham, Accuracy and Stability, section 3.1), bias included. Let δh be that of a hidden unit, n = e + 1; ReLU does not
    /// widen it. An element of v is then off by at most γ(k+1)·(Σ|W2|(h + δh) + |c2|) + Σ|W2|·δh. Rounding to a type of p
    /// significant bits adds 2⁻ᵖ of the magnitude, or half the least step of the type.
    ///
    /// - Parameters:
    ///   - alpha: of the run; the scale must be alpha/rank, or alpha/√rank if `isRankStabilized`.
    public static func verify(run: some Sequence<RunModule>, alpha: Double, isRankStabilized: Bool = false, adapter: Adapter) -> CollapseVerdict {
        var faults: [Fault] = []
        var modules: [CollapseVerdict.Module] = []
        var rest = Dictionary(uniqueKeysWithValues: adapter.modules.map { ($0.path, $0) })
        for source in run {
            guard let module = rest.removeValue(forKey: source.path) else {
                faults.append(Fault(.missingModule, source.path.text, "the run trained it and the adapter does not hold it"))
                continue
            }
            let expectedScale = isRankStabilized ? alpha / Double(source.rank).squareRoot() : alpha / Double(source.rank)
            if module.scale != expectedScale {
                faults.append(Fault(.scaleDiffers, source.path.text, "its scale is \(module.scale) and the run's \(expectedScale)"))
            }
            check(source, module, faults: &faults, modules: &modules)
        }
        for path in rest.keys.sorted() {
            faults.append(Fault(.extraModule, path.text, "the adapter holds it and the run did not train it"))
        }
        return CollapseVerdict(faults: faults, modules: modules)
    }

    private static func check(_ source: RunModule, _ module: AdapterModule, faults: inout [Fault], modules: inout [CollapseVerdict.Module]) {
        let path = source.path
        let a = module.loraA.doubles()
        let b = module.loraB.doubles()
        let expected: (values: [Double], bounds: [Double])
        let sizes: (rank: Int, inputs: Int, outputs: Int)
        switch source {
        case .hypernetwork(let parameters):
            expected = evaluate(parameters)
            sizes = (parameters.rank, parameters.inputs, parameters.outputs)
        case .plain(_, let rank, let loraA, let loraB, _):
            expected = ((loraA + loraB).map(Double.init), [Double](repeating: 0, count: loraA.count + loraB.count))
            sizes = (rank, loraA.count / max(rank, 1), loraB.count / max(rank, 1))
        }
        guard (module.rank, module.inputs, module.outputs) == sizes else {
            faults.append(
                Fault(
                    .shapeMismatch, path.text,
                    "its rank, inputs and outputs are \(module.rank), \(module.inputs), \(module.outputs) and the run's \(sizes.rank), \(sizes.inputs), \(sizes.outputs)"
                ))
            return
        }
        var worst = (share: 0.0, difference: 0.0)
        for (name, stored, start, matrix) in [("A", a, 0, module.loraA), ("B", b, a.count, module.loraB)] {
            var differing = 0
            var first: Int?
            for index in stored.indices {
                var value = expected.values[start + index]
                var bound = expected.bounds[start + index]
                if case .plain = source {
                    value = rounded(value, matrix)
                } else {
                    bound += rounding(value.magnitude + bound, matrix)
                }
                let difference = (stored[index] - value).magnitude
                if difference > 0 || difference.isNaN {
                    worst.share = max(worst.share, bound > 0 ? difference / bound : .infinity)
                    worst.difference = max(worst.difference, difference)
                }
                if !(difference <= bound) {
                    differing += 1
                    first = first ?? index
                }
            }
            if let first {
                faults.append(
                    Fault(
                        .factorDiffers, path.text,
                        "\(differing) of \(stored.count) elements of \(name) are not what the run gives; the first is "
                            + "[\(first / matrix.columns),\(first % matrix.columns)], \(stored[first]) instead of \(expected.values[start + first])"))
            }
        }
        if let fault = magnitudeFault(source, module) { faults.append(fault) }
        modules.append(.init(path: path, worstShareOfBound: worst.share, worstDifference: worst.difference))
    }

    /// What is wrong with the magnitudes, which must be the run's, rounded once to their type.
    private static func magnitudeFault(_ source: RunModule, _ module: AdapterModule) -> Fault? {
        var expected: [Float]?
        if case .plain(_, _, _, _, let magnitudes) = source { expected = magnitudes }
        func fault(_ message: String) -> Fault { Fault(.factorDiffers, source.path.text, message) }
        switch (expected, module.magnitude) {
        case (nil, nil): return nil
        case (nil, _?): return fault("the adapter has magnitudes (DoRA) and the run has none")
        case (_?, nil): return fault("the run has magnitudes (DoRA) and the adapter has none")
        case (let expected?, .ofColumns?): return fault("the adapter has magnitudes of inputs, and the run \(expected.count) of outputs")
        case (let expected?, .ofRows(let matrix)?):
            let stored = matrix.doubles()
            guard stored.count == expected.count else {
                return fault("the adapter has \(stored.count) magnitudes and the run \(expected.count)")
            }
            guard let index = stored.indices.first(where: { stored[$0] != rounded(Double(expected[$0]), matrix) }) else { return nil }
            return fault("magnitude \(index) is \(stored[index]) and the run's is \(expected[index])")
        }
    }

    /// The number that the factor's type stores for one of binary32.
    private static func rounded(_ value: Double, _ matrix: FactorMatrix) -> Double {
        switch matrix.dtype {
        case .bf16: StoredBF16.value(of: StoredBF16.nearest(to: value))
        case .f16: StoredF16.value(of: StoredF16.nearest(to: value))
        default: value
        }
    }

    /// What rounding once to the factor's type can add to a number of this magnitude; nothing for binary32, which the run
    /// itself has.
    private static func rounding(_ magnitude: Double, _ matrix: FactorMatrix) -> Double {
        switch matrix.dtype {
        case .bf16: max(magnitude * 0x1p-8, 0x1p-134)
        case .f16: max(magnitude * 0x1p-11, 0x1p-25)
        default: 0
        }
    }

    /// v in binary64, and how far a binary32 evaluation may be from it.
    private static func evaluate(_ network: HypernetworkParameters) -> (values: [Double], bounds: [Double]) {
        let (e, k) = (network.z.count, network.c1.count)
        func gamma(_ n: Int) -> Double { Double(n) * 0x1p-24 / (1 - Double(n) * 0x1p-24) }
        var hidden = [Double](repeating: 0, count: k)
        var hiddenBound = hidden
        for unit in 0..<k {
            var sum = Double(network.c1[unit])
            var size = sum.magnitude
            for index in 0..<e {
                let term = Double(network.w1[unit * e + index]) * Double(network.z[index])
                sum += term
                size += term.magnitude
            }
            hidden[unit] = max(sum, 0)
            hiddenBound[unit] = gamma(e + 1) * size
        }
        var values = [Double](repeating: 0, count: network.c2.count)
        var bounds = values
        for output in values.indices {
            var sum = Double(network.c2[output])
            var size = sum.magnitude
            var inherited = 0.0
            for unit in 0..<k {
                let weight = Double(network.w2[output * k + unit])
                sum += weight * hidden[unit]
                size += weight.magnitude * (hidden[unit] + hiddenBound[unit])
                inherited += weight.magnitude * hiddenBound[unit]
            }
            values[output] = sum
            // The least subnormal covers an evaluation whose terms underflow.
            bounds[output] = gamma(k + 1) * size + inherited + Double(k + 1) * 0x1p-149
        }
        return (values, bounds)
    }
}
