#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// A stream of random numbers that is the same on every machine: SplitMix64 (Steele, Lea & Flood 2014).
///
/// A stream is named by a seed and a purpose, so that what one part of a run draws never shifts what another draws, and
/// a run that continues needs no generator state but its counters.
public struct RandomSource: Sendable {
    private var state: UInt64

    /// - Parameter stream: different numbers give independent streams.
    public init(seed: UInt64, stream: UInt64) {
        state = Self.mix(seed &+ 0x9E37_79B9_7F4A_7C15 &* (stream &+ 1))
    }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        return Self.mix(state)
    }

    private static func mix(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// A number in 0..<1 with 53 random bits.
    public mutating func uniform() -> Double { Double(next() >> 11) * 0x1p-53 }

    /// A number in −bound...bound.
    public mutating func uniform(within bound: Double) -> Float { Float((2 * uniform() - 1) * bound) }

    /// A number from the standard normal distribution (Box & Muller).
    public mutating func normal() -> Double {
        let radius = (-2 * log(1 - uniform())).squareRoot()
        return radius * cos(2 * .pi * uniform())
    }

    /// A number in 0..<bound, each equally likely (Lemire's multiplication, with its rejection of the uneven rest).
    public mutating func index(below bound: Int) -> Int {
        let range = UInt64(bound)
        while true {
            let product = next().multipliedFullWidth(by: range)
            if product.low >= (0 &- range) % range { return Int(product.high) }
        }
    }
}
