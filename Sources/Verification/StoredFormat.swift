internal import Tensors

/// A floating-point type as it lies in a file, seen from its definition: bits in order of magnitude, and their values.
protocol StoredFormat {
    associatedtype Bits: FixedWidthInteger & UnsignedInteger & BitwiseCopyable & Sendable
    /// The exact value of stored bits.
    static func value(of bits: Bits) -> Double
    /// The bits of +infinity.
    static var infinity: Bits { get }
    /// Two to the power at which the format ends: where its next number would be if its exponents went on.
    static var limit: Double { get }
}

extension StoredFormat {
    static var signBit: Bits { 1 << (Bits.bitWidth - 1) }

    /// The stored bits nearest to `y`, ties to even; found by bisection among the format's own numbers and not by any
    /// arithmetic on the bits of `y`.
    static func nearest(to y: Double) -> Bits {
        let sign: Bits = y.sign == .minus ? signBit : 0
        let size = y.magnitude
        guard !size.isNaN else { return infinity | 1 }
        guard size < limit else { return sign | infinity }
        var low: Bits = 0
        var high = infinity
        while high - low > 1 {
            let middle = low + (high - low) / 2
            if value(of: middle) <= size { low = middle } else { high = middle }
        }
        let below = value(of: low)
        guard below < size else { return sign | low }
        let above = high == infinity ? limit : value(of: high)
        // Exact: both are numbers of at most 24 bits, next to each other.
        let midpoint = below + (above - below) / 2
        if size == midpoint { return sign | (low & 1 == 0 ? low : high) }
        return sign | (size < midpoint ? low : high)
    }
}

enum StoredBF16: StoredFormat {
    static let infinity: UInt16 = 0x7f80
    static let limit = 0x1p128
    @inline(__always) static func value(of bits: UInt16) -> Double { Double(Float(bitPattern: UInt32(bits) << 16)) }
}

enum StoredF16: StoredFormat {
    static let infinity: UInt16 = 0x7c00
    static let limit = 0x1p16
    @inline(__always) static func value(of bits: UInt16) -> Double {
        // The fields of binary32 are wider: moved into place and scaled by the difference of the biases, which is exact.
        let magnitude = UInt32(bits & 0x7fff) << 13
        let sign = UInt32(bits & 0x8000) << 16
        if bits & 0x7c00 == 0x7c00 { return Double(Float(bitPattern: sign | 0x7f80_0000 | magnitude)) }
        return Double(Float(bitPattern: sign | magnitude)) * 0x1p112
    }
}

enum StoredF32: StoredFormat {
    static let infinity: UInt32 = 0x7f80_0000
    static let limit = 0x1p128
    @inline(__always) static func value(of bits: UInt32) -> Double { Double(Float(bitPattern: bits)) }
}

enum StoredF64: StoredFormat {
    static let infinity: UInt64 = 0x7ff0_0000_0000_0000
    static let limit = Double.infinity
    @inline(__always) static func value(of bits: UInt64) -> Double { Double(bitPattern: bits) }
}
