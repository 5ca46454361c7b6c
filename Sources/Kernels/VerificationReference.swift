public import Tensors

/// What `VerificationKernel` says of one element, written for reading and not for speed.
public struct VerificationReference: Sendable {
    /// W, W′, d and y.
    public let weight: Double
    public let merged: Double
    public let update: Double
    public let result: Double
    public let dtype: DType
    /// What d is off by in binary32, at most.
    public let error: Double
    public let scale: Double

    public init(weight: Double, merged: Double, update: Double, result: Double, dtype: DType, error: Double, scale: Double) {
        self.weight = weight
        self.merged = merged
        self.update = update
        self.result = result
        self.dtype = dtype
        self.error = error
        self.scale = scale
    }

    /// The correctly rounded element.
    public var nearest: Double { Self.rounded(result, to: dtype) }
    public var isCorrectlyRounded: Bool { merged.bitPattern == nearest.bitPattern }

    /// Steps of the type between the element and the correctly rounded one.
    public var steps: Int {
        func place(_ value: Double) -> Int {
            let bits = Int(MergeReference.bits(of: value.magnitude, in: dtype))
            return value < 0 ? -bits : bits
        }
        return abs(place(merged) - place(nearest))
    }

    /// Whether a way of merging may give the element: it lies between what that gives for the ends of the range in which d lies.
    public func isExplained(by recipe: MergeRecipe) -> Bool {
        func stored(_ value: Double) -> Double { Self.rounded(Double(Float(value)), to: dtype) }
        func sum(_ d: Double) -> Double {
            let type: DType = recipe == .updateInBF16 || recipe == .productInBF16 ? .bf16 : .f16
            func round(_ value: Double) -> Double { Self.rounded(Double(Float(value)), to: type) }
            switch recipe {
            case .plain: return stored(result + d)
            case .updateInBF16, .updateInF16: return stored(weight + round(update + d))
            case .productInBF16, .productInF16: return stored(weight + round(round((update + d) / scale) * scale))
            }
        }
        let spread = recipe == .plain ? error + result.magnitude * 0x1p-23 : error
        return sum(-spread) <= merged && merged <= sum(spread)
    }

    /// Whether no rounding that is known takes the element so far from y.
    public var isBeyond: Bool {
        let largest = max(result.magnitude, merged.magnitude)
        let (precision, least) = dtype == .bf16 ? (8, -126) : dtype == .f16 ? (11, -14) : (24, -126)
        let exponent = largest > 0 ? max(Int(largest.exponent), least) : least
        let step = Double(sign: .plus, exponent: exponent + 1 - precision, significand: 1)
        return (merged - result).magnitude > 0.51 * step + error + result.magnitude * 0x1p-23 + update.magnitude * (3 * 0x1.02p-9)
    }

    static func rounded(_ value: Double, to dtype: DType) -> Double {
        MergeReference.value(of: MergeReference.bits(of: value, in: dtype), in: dtype)
    }
}
