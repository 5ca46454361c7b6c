/// A regular expression that splits text into pieces, matched by hand.
///
/// Each of these matches something at every position, so the pieces cover the whole text. The matchers follow the order
/// of the alternatives and what backtracking does to them, not merely the language.
enum SplitPattern: Sendable, Equatable {
    /// GPT-2's, which ByteLevel with `use_regex` applies too.
    case gpt2
    /// Llama 3's, which takes numbers in groups of up to `maximumDigits`; Qwen 2's is the same with one digit each.
    case llama3(maximumDigits: Int)

    /// The pattern that a tokenizer file spells out, if it is one of those known here.
    init?(regex: String) {
        switch regex {
        case #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#,
            #"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#:
            self = .gpt2
        case #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#:
            self = .llama3(maximumDigits: 3)
        case #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#:
            self = .llama3(maximumDigits: 1)
        default: return nil
        }
    }

    /// The end of the piece that starts at `start`, looking no further than `end` (which is where the text ends for
    /// the lookahead, too). `start < end`, and both are borders of characters.
    func endOfPiece(in text: Span<UInt8>, from start: Int, to end: Int, _ classes: CharacterClasses) -> Int {
        switch self {
        case .gpt2: Self.gpt2(text, start, end, classes)
        case .llama3(let maximumDigits): Self.llama3(text, start, end, classes, maximumDigits: maximumDigits)
        }
    }

    private static let notOther: CharacterClass = [.space, .letter, .number]

    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    private static func gpt2(_ text: Span<UInt8>, _ start: Int, _ end: Int, _ classes: CharacterClasses) -> Int {
        let first = text[start]
        if first == UInt8(ascii: "'"), let contraction = endOfContraction(text, start, end, ignoringCase: false) { return contraction }
        // ` ?X+` takes the space only with an X behind it; without one, the space is white space like any other.
        let runStart = first == UInt8(ascii: " ") ? start + 1 : start
        if runStart < end {
            let (kind, length) = classes.character(in: text, at: runStart)
            let rest = runStart + length
            if kind.contains(.letter) { return classes.endOfRun(of: .letter, in: text, from: rest, to: end) }
            if kind.contains(.number) { return classes.endOfRun(of: .number, in: text, from: rest, to: end) }
            if !kind.contains(.space) { return classes.endOfRun(outside: notOther, in: text, from: rest, to: end) }
        }
        return endOfSpace(text, start, end, classes)
    }

    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    private static func llama3(
        _ text: Span<UInt8>, _ start: Int, _ end: Int, _ classes: CharacterClasses, maximumDigits: Int
    ) -> Int {
        let first = text[start]
        if first == UInt8(ascii: "'"), let contraction = endOfContraction(text, start, end, ignoringCase: true) { return contraction }
        let (kind, length) = classes.character(in: text, at: start)
        let second = start + length
        // [^\r\n\p{L}\p{N}]?\p{L}+
        if kind.contains(.letter) { return classes.endOfRun(of: .letter, in: text, from: second, to: end) }
        // \p{N}{1,3}
        if kind.contains(.number) {
            var position = second
            for _ in 1..<max(maximumDigits, 1) where position < end {
                let (next, nextLength) = classes.character(in: text, at: position)
                guard next.contains(.number) else { break }
                position += nextLength
            }
            return position
        }
        if !isNewline(first) {
            let letters = classes.endOfRun(of: .letter, in: text, from: second, to: end)
            if letters > second { return letters }
        }
        //  ?[^\s\p{L}\p{N}]+[\r\n]*
        if !kind.contains(.space) || first == UInt8(ascii: " ") {
            var position = classes.endOfRun(outside: notOther, in: text, from: second, to: end)
            if !kind.contains(.space) || position > second {
                while position < end, isNewline(text[position]) { position += 1 }
                return position
            }
        }
        // \s*[\r\n]+ : the greedy \s* gives back just enough to leave the last newline of the white space.
        let spaceEnd = classes.endOfRun(of: .space, in: text, from: start, to: end)
        var newline = spaceEnd
        while newline > start, !isNewline(text[newline - 1]) { newline -= 1 }
        if newline > start { return newline }
        return endOfSpace(text, start, end, classes)
    }

    private static func isNewline(_ byte: UInt8) -> Bool { byte == 0x0A || byte == 0x0D }

    /// `\s+(?!\S)|\s+` at white space: all of it at the end of the text; elsewhere all but the last character, which
    /// goes with the word behind it, unless it is the only one.
    private static func endOfSpace(_ text: Span<UInt8>, _ start: Int, _ end: Int, _ classes: CharacterClasses) -> Int {
        let spaceEnd = classes.endOfRun(of: .space, in: text, from: start, to: end)
        guard spaceEnd < end else { return spaceEnd }
        let last = spaceEnd - classes.character(in: text, before: spaceEnd).length
        return last > start ? last : spaceEnd
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d` at an apostrophe.
    private static func endOfContraction(_ text: Span<UInt8>, _ start: Int, _ end: Int, ignoringCase: Bool) -> Int? {
        guard start + 1 < end else { return nil }
        // Only letters of ASCII come out as lower-case letters when this bit is set.
        let lowercase: UInt8 = ignoringCase ? 0x20 : 0
        switch text[start + 1] | lowercase {
        case UInt8(ascii: "s"), UInt8(ascii: "t"), UInt8(ascii: "m"), UInt8(ascii: "d"): return start + 2
        case UInt8(ascii: "r"), UInt8(ascii: "v"):
            return start + 2 < end && text[start + 2] | lowercase == UInt8(ascii: "e") ? start + 3 : nil
        case UInt8(ascii: "l"):
            return start + 2 < end && text[start + 2] | lowercase == UInt8(ascii: "l") ? start + 3 : nil
        default:
            // The long s (U+017F) is an s to whoever ignores case, and the only such letter here.
            let isLongS = ignoringCase && start + 2 < end && text[start + 1] == 0xC5 && text[start + 2] == 0xBF
            return isLongS ? start + 3 : nil
        }
    }
}
