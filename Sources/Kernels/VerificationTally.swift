internal import CKernels

/// A way in which tools are known to merge: the product B·A is summed in binary32, in an order of the tool's own, and W + ΔW is
/// rounded to binary32 before it is rounded to the stored type. What ΔW is rounded to before is what the ways differ in.
public enum MergeRecipe: Int, Sendable, CaseIterable {
    /// ΔW stays in binary32.
    case plain = 0
    case updateInBF16 = 1
    case updateInF16 = 2
    /// The product is rounded, multiplied by the scale, and rounded again.
    case productInBF16 = 3
    case productInF16 = 4
}

/// What elements of a merged weight are like. c = W′ − W is the change, d the update, e the change that the correctly rounded weight
/// would have.
public struct VerificationTally: Sendable {
    var storage = oplora_verify_tally()

    public init() { unsafe oplora_verify_clear(&storage) }

    public mutating func add(_ other: VerificationTally) {
        unsafe withUnsafePointer(to: other.storage) { unsafe oplora_verify_add(&storage, $0) }
    }

    /// Σ d².
    public var updateSquared: Double { storage.update_squared }
    /// Σ d·c.
    public var updateTimesChange: Double { storage.update_times_change }
    /// Σ d·e.
    public var updateTimesExpected: Double { storage.update_times_expected }
    /// Σ c².
    public var changeSquared: Double { storage.change_squared }
    /// Σ (c − d)².
    public var residualSquared: Double { storage.residual_squared }
    /// Σ (e − d)²: what rounding alone does.
    public var roundingSquared: Double { storage.rounding_squared }
    /// Σ (d·b)², b being the bound on |W′ − y|; only of rows that have elements that are not the correctly rounded ones.
    public var noiseSquared: Double { storage.noise_squared }
    /// Whether an element is not the base's, and whether one should not be.
    public var isChanged: Bool { storage.changed != 0 }
    public var shouldBeChanged: Bool { storage.expected_changed != 0 }
    /// Elements whose bits are not the correctly rounded ones.
    public var differing: Int { Int(storage.differing) }
    public var firstDiffering: Int? { Self.place(storage.first_differing) }
    /// Elements that are infinite or NaN and should not be; they are not in the sums.
    public var notFinite: Int { Int(storage.not_finite) }
    public var firstNotFinite: Int? { Self.place(storage.first_not_finite) }
    /// The share of elements for which a sum in binary32 may give more than one number, as far as it is known: around those that are not
    /// the correctly rounded ones.
    public var ambiguousShare: Double { storage.looked_at > 0 ? Double(storage.ambiguous) / Double(storage.looked_at) : 0 }
    /// Elements that are further from y than any rounding takes them.
    public var beyond: Int { Int(storage.beyond) }
    public var firstBeyond: Int? { Self.place(storage.first_beyond) }
    /// The largest distance from the correctly rounded element, in steps of the stored type.
    public var largestSteps: Int { Int(storage.largest_steps) }

    /// Elements that a recipe does not give, of those held against it, and the first of them.
    public func unexplained(by recipe: MergeRecipe) -> (count: Int, first: Int?) {
        // Sound: both arrays have an element for each recipe.
        unsafe withUnsafeBytes(of: storage.unexplained) { counts in
            unsafe withUnsafeBytes(of: storage.first_unexplained) { places in
                (
                    Int(unsafe counts.load(fromByteOffset: 8 * recipe.rawValue, as: Int64.self)),
                    Self.place(unsafe places.load(fromByteOffset: 8 * recipe.rawValue, as: Int64.self))
                )
            }
        }
    }

    /// How many elements are 0, 1, 2, 3–4, 5–8 … steps from the correctly rounded one; the last counts all beyond.
    public var histogram: [Int] {
        // Sound: the array has that many elements.
        unsafe withUnsafeBytes(of: storage.steps) { bytes in
            (0..<Int(oplora_verify_histogram)).map { Int(unsafe bytes.load(fromByteOffset: 8 * $0, as: Int64.self)) }
        }
    }

    private static func place(_ index: Int64) -> Int? { index == .max ? nil : Int(index) }
}
