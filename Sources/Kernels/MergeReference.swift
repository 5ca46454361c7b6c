public import Tensors

/// The merge arithmetic once more, written for reading and not for speed: what `MergeKernel` is tested against.
public enum MergeReference {
    /// One adapter's factors in binary64: A [rank, in], B [out, rank], row-major.
    public struct Factors: Sendable {
        public let loraA: [Double]
        public let loraB: [Double]
        public let rank: Int
        public let scale: Double

        public init(loraA: [Double], loraB: [Double], rank: Int, scale: Double) {
            self.loraA = loraA
            self.loraB = loraB
            self.rank = rank
            self.scale = scale
        }
    }

    /// y(o,i) in binary64, before it is rounded: W + (s₁·acc₁) + (s₂·acc₂) …, from left to right.
    public static func element(weight: Double, row: Int, column: Int, columns: Int, factors: [Factors]) -> Double {
        var y = weight
        for factor in factors {
            var acc = 0.0
            for k in 0..<factor.rank {
                let product = factor.loraB[row * factor.rank + k] * factor.loraA[k * columns + column]
                acc = acc + product
            }
            let update = factor.scale * acc
            y = y + update
        }
        return y
    }

    /// (m/‖u‖)·u of a row or column u, as `MagnitudeKernel` defines it.
    public static func scaled(_ u: [Double], to magnitude: Double) -> [Double] {
        var lanes = [Double](repeating: 0, count: 8)
        for (index, value) in u.enumerated() {
            let square = value * value
            lanes[index % 8] = lanes[index % 8] + square
        }
        let sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
        let ratio = magnitude / sum.squareRoot()
        return u.map { ratio * $0 }
    }

    /// The stored bits of `value`, rounded once to nearest, ties to even, in one of F32, BF16, F16 and F64.
    ///
    /// Works on the significand as an integer: what is dropped is compared with one half of the last place.
    public static func bits(of value: Double, in dtype: DType) -> UInt64 {
        let format = Format(dtype)
        if dtype == .f64 { return value.bitPattern }
        let sign: UInt64 = value.sign == .minus ? 1 << (format.width - 1) : 0
        let infinity = UInt64(format.maximumExponentField) << format.fraction
        if value.isNaN { return sign | infinity | 1 << (format.fraction - 1) }
        if value.isInfinite { return sign | infinity }
        if value == 0 { return sign }
        // value = significand · 2^exponent, with the significand an integer of at most 53 bits.
        let stored = value.magnitude.bitPattern
        let isNormal = stored >> 52 != 0
        let significand = (stored & (1 << 52 - 1)) | (isNormal ? 1 << 52 : 0)
        let exponent = (isNormal ? Int(stored >> 52) : 1) - 1075
        // The exponent of the last place that the format keeps for a number of this magnitude.
        let leading = exponent + 63 - significand.leadingZeroBitCount
        let last = max(leading, 1 - format.bias) - format.fraction
        let dropped = last - exponent
        var kept: UInt64
        if dropped <= 0 {
            kept = significand << -dropped
        } else if dropped > 60 {
            kept = 0
        } else {
            kept = significand >> dropped
            let rest = significand - kept << dropped
            let half: UInt64 = 1 << (dropped - 1)
            if rest > half || (rest == half && kept & 1 == 1) { kept += 1 }
        }
        // A carry out of the fraction runs into the exponent by itself, because the fields are adjacent.
        let exponentField = last + format.fraction + format.bias
        let hidden: UInt64 = 1 << format.fraction
        let magnitude = kept < hidden ? kept : (UInt64(exponentField - 1) << format.fraction) + kept
        return sign | min(magnitude, infinity)
    }

    /// The value of stored bits in one of F32, BF16, F16 and F64.
    public static func value(of bits: UInt64, in dtype: DType) -> Double {
        let format = Format(dtype)
        if dtype == .f64 { return Double(bitPattern: bits) }
        let sign: FloatingPointSign = bits >> (format.width - 1) & 1 == 1 ? .minus : .plus
        let field = Int(bits >> format.fraction) & format.maximumExponentField
        let fraction = bits & (1 << format.fraction - 1)
        if field == format.maximumExponentField {
            return fraction != 0 ? .nan : (sign == .minus ? -.infinity : .infinity)
        }
        let significand = field == 0 ? fraction : fraction | 1 << format.fraction
        return Double(sign: sign, exponent: max(field, 1) - format.bias - format.fraction, significand: Double(significand))
    }

    private struct Format {
        let width: Int
        /// Stored bits of the fraction.
        let fraction: Int
        let bias: Int

        var maximumExponentField: Int { 1 << (width - 1 - fraction) - 1 }

        init(_ dtype: DType) {
            switch dtype {
            case .bf16: (width, fraction, bias) = (16, 7, 127)
            case .f16: (width, fraction, bias) = (16, 10, 15)
            case .f32: (width, fraction, bias) = (32, 23, 127)
            case .f64: (width, fraction, bias) = (64, 52, 1023)
            default: preconditionFailure("\(dtype) is not a type that the merge takes")
            }
        }
    }
}
