/// The merges by their pair of ids.
///
/// Open addressing over two flat arrays; the multiplier is drawn anew for each table, so no file can be written whose
/// merges all collide.
struct MergeTable: Sendable {
    /// What a pair merges into, with its rank in the upper half: of two, the smaller is merged first.
    typealias Merge = UInt64
    /// Larger than every merge.
    static let none = Merge.max

    private static let emptyKey = UInt64.max
    private var keys: [UInt64]
    private var merges: [Merge]
    private let mask: Int
    private let shift: UInt64
    private let multiplier = UInt64.random(in: .min ... .max) | 1

    /// A table for at most `capacity` merges.
    init(capacity: Int) {
        var bits: UInt64 = 4
        while 1 << bits < capacity * 2 { bits += 1 }
        mask = 1 << bits - 1
        shift = 64 - bits
        keys = [UInt64](repeating: Self.emptyKey, count: 1 << bits)
        merges = [Merge](repeating: Self.none, count: 1 << bits)
    }

    @inline(__always)
    static func newID(of merge: Merge) -> Int32 { Int32(truncatingIfNeeded: merge) }

    @inline(__always)
    static func rank(of merge: Merge) -> UInt64 { merge >> 32 }

    /// How the tokens `left` and `right` merge, or `none`.
    @inline(__always)
    func merge(_ left: Int32, _ right: Int32) -> Merge {
        let key = Self.key(left, right)
        var slot = Int(truncatingIfNeeded: (key &* multiplier) >> shift)
        while keys[slot] != key {
            if keys[slot] == Self.emptyKey { return Self.none }
            slot = (slot + 1) & mask
        }
        return merges[slot]
    }

    /// Sets how a pair merges; a pair that was there before gets the new rank.
    mutating func set(_ left: Int32, _ right: Int32, rank: Int, newID: Int32) {
        let key = Self.key(left, right)
        var slot = Int(truncatingIfNeeded: (key &* multiplier) >> shift)
        while keys[slot] != key, keys[slot] != Self.emptyKey { slot = (slot + 1) & mask }
        keys[slot] = key
        merges[slot] = UInt64(rank) << 32 | UInt64(UInt32(bitPattern: newID))
    }

    // Ids are not negative, so no key equals `emptyKey`.
    @inline(__always)
    private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }
}
