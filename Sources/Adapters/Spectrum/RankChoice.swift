/// How many singular values of an update are kept.
public struct RankChoice: Sendable, Equatable {
    /// The most of them; `nil` for as many as the energy takes.
    public let rank: Int?
    /// The share of ‖ΔW‖² that they must have together: the least number that has it is kept. `nil` for all that the rank allows.
    public let energy: Double?

    /// - Precondition: there is one of the two; the rank is positive and the energy in 0...1.
    public init(rank: Int? = nil, energy: Double? = nil) {
        precondition((rank != nil || energy != nil) && (rank ?? 1) > 0 && (0...1).contains(energy ?? 0))
        self.rank = rank
        self.energy = energy
    }

    /// The number of values to keep.
    ///
    /// - Parameters:
    ///   - values: the largest singular values, in descending order.
    ///   - total: ‖ΔW‖², to which the other ones contribute.
    func count(of values: [Double], total: Double) -> Int {
        let most = min(rank ?? values.count, values.count)
        guard let energy else { return max(1, most) }
        var sum = 0.0
        for (place, value) in values.prefix(most).enumerated() {
            sum += value * value
            if sum >= energy * total { return place + 1 }
        }
        return max(1, most)
    }
}
