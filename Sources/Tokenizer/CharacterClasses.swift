/// What the patterns ask about a character.
///
/// The reference library asks three engines, and they follow different Unicode versions: Oniguruma (`\p{L}`, `\p{N}` and
/// `\s`, Unicode 16), Rust's standard library (`Digits`, Unicode 17) and Rust's regex crate (`\w`, Unicode 16). Swift's own
/// properties are of yet another version with every toolchain. Hence a table of what those engines say.
struct CharacterClass: OptionSet, Sendable {
    let rawValue: UInt8

    /// `\p{L}`
    static let letter = CharacterClass(rawValue: 1)
    /// `\p{N}`
    static let number = CharacterClass(rawValue: 2)
    /// `\s`, about which the engines agree.
    static let space = CharacterClass(rawValue: 4)
    /// `char::is_numeric`, which `Digits` uses.
    static let numeric = CharacterClass(rawValue: 8)
    /// `\w`, which the borders of added tokens use.
    static let word = CharacterClass(rawValue: 16)
}

/// The class of every scalar: pages of 256 scalars, those that are all alike shared.
struct CharacterClasses: Sendable {
    static let shared = CharacterClasses(changes: CharacterClassTable.changes)

    /// Where the page of `scalar / 256` begins in `pages`.
    private var starts = [Int32](repeating: 0, count: 0x1100)
    private var pages = [UInt8](repeating: 0, count: 256)

    private init(changes: [UInt32]) {
        var uniform: [UInt8: Int32] = [0: 0]
        for (index, change) in changes.enumerated() {
            let value = UInt8(truncatingIfNeeded: change)
            let end = index + 1 < changes.count ? Int(changes[index + 1] >> 8) : 0x110000
            var scalar = Int(change >> 8)
            guard value != 0 else { continue }
            while scalar < end {
                let page = scalar >> 8
                let last = min(end, (page + 1) << 8)
                if last - scalar == 256 {
                    if uniform[value] == nil {
                        uniform[value] = Int32(pages.count)
                        pages.append(contentsOf: repeatElement(value, count: 256))
                    }
                    starts[page] = uniform[value]!
                } else {
                    if starts[page] == 0 {
                        starts[page] = Int32(pages.count)
                        pages.append(contentsOf: repeatElement(0, count: 256))
                    }
                    for offset in (scalar & 0xFF)...((last - 1) & 0xFF) { pages[Int(starts[page]) + offset] = value }
                }
                scalar = last
            }
        }
    }

    subscript(scalar: UInt32) -> CharacterClass {
        CharacterClass(rawValue: pages[Int(starts[Int(scalar >> 8)]) + Int(scalar & 0xFF)])
    }

    /// The class and the length in bytes of the character that starts at `position` of a text in valid UTF-8.
    @inline(__always)
    func character(in text: Span<UInt8>, at position: Int) -> (class: CharacterClass, length: Int) {
        let lead = UInt32(text[position])
        if lead < 0x80 { return (self[lead], 1) }
        if lead < 0xE0 { return (self[(lead & 0x1F) << 6 | continuation(text, position + 1)], 2) }
        if lead < 0xF0 {
            return (self[(lead & 0x0F) << 12 | continuation(text, position + 1) << 6 | continuation(text, position + 2)], 3)
        }
        let high = (lead & 0x07) << 18 | continuation(text, position + 1) << 12
        return (self[high | continuation(text, position + 2) << 6 | continuation(text, position + 3)], 4)
    }

    /// The class and the length of the character that ends before `end`; there is one.
    func character(in text: Span<UInt8>, before end: Int) -> (class: CharacterClass, length: Int) {
        var start = end - 1
        while text[start] & 0xC0 == 0x80 { start -= 1 }
        return character(in: text, at: start)
    }

    /// The end of the run of characters of `classes` that starts at `position`.
    @inline(__always)
    func endOfRun(of classes: CharacterClass, in text: Span<UInt8>, from position: Int, to end: Int) -> Int {
        var position = position
        while position < end {
            let (found, length) = character(in: text, at: position)
            if found.isDisjoint(with: classes) { break }
            position += length
        }
        return position
    }

    /// The end of the run of characters of none of `classes` that starts at `position`.
    @inline(__always)
    func endOfRun(outside classes: CharacterClass, in text: Span<UInt8>, from position: Int, to end: Int) -> Int {
        var position = position
        while position < end {
            let (found, length) = character(in: text, at: position)
            if !found.isDisjoint(with: classes) { break }
            position += length
        }
        return position
    }

    @inline(__always)
    private func continuation(_ text: Span<UInt8>, _ position: Int) -> UInt32 { UInt32(text[position] & 0x3F) }
}
