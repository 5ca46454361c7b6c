internal import Methods

/// The two ways in which models keep the gate and the up projections of a stack of experts: in one parameter, the rows of the
/// gate first, or in two.
extension AdapterModule {
    static let fused = "gate_up_proj"
    static let halves = ["gate_proj", "up_proj"]

    /// The module as two, with the same A.
    ///
    /// - Precondition: it is a stack of experts with both in one, and an even number of outputs.
    func cutIntoGateAndUp() -> [AdapterModule] {
        precondition(kind == .experts && parameter == Self.fused && outputs % 2 == 0)
        let half = outputs / 2
        return Self.halves.enumerated().map { number, name in
            changing {
                $0.parameter = name
                $0.factors = factors.map { .init(a: $0.a, b: $0.b.rows(from: number * half, count: half)) }
            }
        }
    }

    /// Gate and up projection as one module: with the A that they share, or with both of them and a B that keeps them apart.
    ///
    /// - Returns: `nil` where they are not halves of one parameter.
    static func joined(gate: AdapterModule, up: AdapterModule) -> AdapterModule? {
        guard gate.factors.count == up.factors.count, gate.inputs == up.inputs, gate.outputs == up.outputs, gate.scale == up.scale,
            gate.loraA.dtype == up.loraA.dtype, gate.loraB.dtype == up.loraB.dtype
        else { return nil }
        let sharesA = gate.rank == up.rank && zip(gate.factors, up.factors).allSatisfy { $0.a.hasSameBytes(as: $1.a) }
        let factors = zip(gate.factors, up.factors).map { gate, up in
            guard !sharesA else { return LowRankFactors(a: gate.a, b: .stacked([gate.b, up.b])) }
            let left = FactorMatrix.stacked([gate.b, .zeros(like: gate.b, rows: up.b.rows, columns: gate.b.columns)])
            let right = FactorMatrix.stacked([.zeros(like: up.b, rows: gate.b.rows, columns: up.b.columns), up.b])
            return LowRankFactors(a: .stacked([gate.a, up.a]), b: FactorMatrix.stacked([left.transposed, right.transposed]).transposed)
        }
        return gate.changing { ($0.parameter, $0.factors, $0.alpha) = (fused, factors, gate.scale * Double(factors[0].a.rows)) }
    }
}
