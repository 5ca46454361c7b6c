internal import Kernels
internal import Methods
internal import Tensors

extension Adapter {
    /// Elements up to which ranks are filled up without asking, and how many times as many as there were may come of it beyond.
    private static let freelyPadded = 0x1p26, maximumPadding = 8.0

    /// The same updates with one rank and one scale for all modules, for what reads no others: the scale that most have is kept and the
    /// B of the others multiplied by what is missing; ranks are filled up with zeros.
    ///
    /// A B of few bits that is multiplied becomes F32, so that only a factor that is no power of two costs a rounding.
    ///
    /// - Returns: the adapter, and what was done, each one sentence.
    /// - Throws: `AdapterError.notFinite`.
    public func uniform() throws -> (adapter: Adapter, notes: [String]) {
        try requireLowRank()
        guard let rank = modules.map(\.rank).max() else { return (self, []) }
        let sizes = modules.map { ($0.inputs + $0.outputs) * $0.factors.count }
        let (own, all) = (
            zip(modules, sizes).reduce(0.0) { $0 + Double($1.0.rank) * Double($1.1) }, sizes.reduce(0.0) { $0 + Double($1) } * Double(rank)
        )
        guard all <= max(Self.freelyPadded, Self.maximumPadding * own) else {
            throw AdapterError(
                .unsupportedFeature, path: path, "one rank for all modules would be \(rank) and make the adapter \(Int(all / own)) times as large")
        }
        let scales = modules.map(\.scale).filter { $0 != 0 }
        let common = scales.isEmpty ? 0 : PEFT.mostFrequent(scales)
        var (baked, inexact, padded) = (0, 0, 0)
        let made = try modules.map { module in
            let factor = common == 0 ? 1 : module.scale / common
            if factor != 1 {
                baked += 1
                if factor.significand != 1 || common * factor != module.scale { inexact += 1 }
            }
            if module.rank != rank { padded += 1 }
            let factors = try module.factors.map { old in
                let dtype = old.b.dtype == .f64 ? old.b.dtype : .f32
                let b = factor == 1 ? old.b : try FactorMatrix(name: old.b.name, old.b.matrix.scaled(by: factor), dtype: dtype, path: path)
                return LowRankFactors(a: old.a.padded(rows: rank), b: b.transposed.padded(rows: rank).transposed)
            }
            // What is added to the bias is multiplied by the scale, too.
            let bias = try module.bias.map {
                factor == 1 ? $0 : try FactorMatrix(name: $0.name, $0.matrix.scaled(by: factor), dtype: $0.dtype == .f64 ? .f64 : .f32, path: path)
            }
            return module.changing { ($0.factors, $0.scale, $0.alpha, $0.bias) = (factors, common, common * Double(rank), bias) }
        }
        var notes: [String] = []
        if baked > 0 { notes.append(Self.bakedNote("one scale", common, baked: baked, inexact: inexact)) }
        if padded > 0 { notes.append("one rank for all modules: the factors of \(padded) were filled up with zeros to rank \(rank)") }
        return (with(modules: made), notes)
    }

    /// What is said of B that was multiplied.
    static func bakedNote(_ what: String, _ value: Double, baked: Int, inexact: Int) -> String {
        "\(what) for all modules, \(value): the B of \(baked) was multiplied by what is missing"
            + (inexact == 0 ? ", a power of two, and no bit is lost" : ", for \(inexact) of them rounded once")
    }
}

extension FactorMatrix {
    /// The matrix with rows of zeros below it.
    func padded(rows wanted: Int) -> FactorMatrix {
        guard wanted > rows else { return self }
        return .stacked([self, .zeros(like: self, rows: wanted - rows, columns: columns)])
    }
}
