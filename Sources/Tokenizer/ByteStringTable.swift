/// A hash table of byte strings, numbered in the order in which they were added.
///
/// The strings lie one behind the other in one array, so a lookup in a text needs no copy and no allocation. The hash is
/// seeded anew for each table: a text cannot be written such that all its pieces collide.
struct ByteStringTable: Sendable {
    /// The upper half is the hash, the lower half the number of the entry plus one; 0 is an empty slot.
    private var slots: [UInt64]
    private var mask: Int
    private var bytes: [UInt8] = []
    /// Where each entry ends in `bytes`, after a leading 0.
    private var ends: [Int] = [0]
    private let seed = UInt64.random(in: .min ... .max)

    init(minimumCapacity: Int = 0) {
        var capacity = 16
        while capacity < minimumCapacity * 2 { capacity *= 2 }
        slots = [UInt64](repeating: 0, count: capacity)
        mask = capacity - 1
        ends.reserveCapacity(minimumCapacity + 1)
    }

    var count: Int { ends.count - 1 }
    var byteCount: Int { bytes.count }

    /// The bytes of an entry.
    func bytes(of entry: Int) -> ArraySlice<UInt8> { bytes[ends[entry]..<ends[entry + 1]] }

    func hash(_ text: Span<UInt8>, _ range: Range<Int>) -> UInt32 {
        var hash = seed
        for position in range { hash = (hash ^ UInt64(text[position])) &* 0x0000_0100_0000_01B3 }
        hash = (hash ^ hash >> 29) &* 0xBF58_476D_1CE4_E5B9
        return UInt32(truncatingIfNeeded: hash >> 32)
    }

    /// The number of the entry that equals `text[range]`, whose hash is `hash`.
    func find(_ text: Span<UInt8>, _ range: Range<Int>, hash: UInt32) -> Int? {
        var slot = Int(hash) & mask
        while slots[slot] != 0 {
            if UInt32(truncatingIfNeeded: slots[slot] >> 32) == hash {
                let entry = Int(slots[slot] & 0xFFFF_FFFF) - 1
                if isEqual(entry, text, range) { return entry }
            }
            slot = (slot + 1) & mask
        }
        return nil
    }

    func find(_ text: Span<UInt8>) -> Int? {
        find(text, 0..<text.count, hash: hash(text, 0..<text.count))
    }

    /// Adds `text[range]`, which is not in the table yet.
    mutating func insert(_ text: Span<UInt8>, _ range: Range<Int>, hash: UInt32) {
        for position in range { bytes.append(text[position]) }
        ends.append(bytes.count)
        if count * 2 > slots.count { grow() }
        place(UInt64(hash) << 32 | UInt64(count))
    }

    /// Forgets all entries and keeps the memory.
    mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
        ends.removeAll(keepingCapacity: true)
        ends.append(0)
        for slot in slots.indices { slots[slot] = 0 }
    }

    private mutating func grow() {
        let old = slots
        slots = [UInt64](repeating: 0, count: old.count * 2)
        mask = slots.count - 1
        for content in old where content != 0 { place(content) }
    }

    private mutating func place(_ content: UInt64) {
        var slot = Int(content >> 32) & mask
        while slots[slot] != 0 { slot = (slot + 1) & mask }
        slots[slot] = content
    }

    private func isEqual(_ entry: Int, _ text: Span<UInt8>, _ range: Range<Int>) -> Bool {
        let start = ends[entry]
        guard ends[entry + 1] - start == range.count else { return false }
        for offset in 0..<range.count where bytes[start + offset] != text[range.lowerBound + offset] { return false }
        return true
    }
}
