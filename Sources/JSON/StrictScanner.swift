/// Checks a text against the grammar of RFC 8259 and against what the grammar leaves open, before json-c reads it.
///
/// json-c takes duplicate keys (the last wins), keys cut short at an embedded NUL, single-quoted strings, and integers
/// out of range (clamped). For files from strangers each of these is a way to show one thing to one reader and another
/// thing to the next, so each is refused here, with its place.
struct StrictScanner {
    private let text: [UInt8]
    private var position = 0
    private let maximumDepth: Int
    private var replacements: [Replacement] = []

    /// Whether `NaN`, `Infinity` and `-Infinity` are numbers, as Python's `json` has them. json-c reads them.
    private let allowsNonFinite: Bool
    private let limits: Limits
    private var values = 0
    private var containers = 0

    /// The most values of a text, and the most lists and objects among them. json-c takes some 130 bytes for a number and
    /// 600 for an empty object, so that a text of a few megabytes could ask for a machine's whole memory. Tokenizers of
    /// 262,144 tokens, the largest in use, have two million values and half a million lists.
    struct Limits {
        var values = 1 << 22
        var containers = 1 << 20
    }

    /// A place of the text that json-c 0.16 reads wrongly: a character written as a surrogate pair, or `-0`.
    struct Replacement {
        let offset: Int
        /// `nil` for `-0`.
        let scalar: Unicode.Scalar?

        /// The bytes that the text has.
        var range: Range<Int> { offset..<offset + (scalar == nil ? 2 : 12) }
        /// The bytes that say the same to json-c.
        var bytes: [UInt8] { scalar.map { Array(String(Character($0)).utf8) } ?? Array("-0.0".utf8) }
    }

    /// Checks the whole text.
    ///
    /// - Returns: what json-c has to be given in another spelling, in order: characters written as surrogate pairs, of which
    ///   it reads half wrongly, and `-0`, which it takes for the integer 0.
    static func check(
        _ text: [UInt8], maximumDepth: Int, allowsNonFinite: Bool = false, limits: Limits = Limits()
    ) throws(JSONError) -> [Replacement] {
        var scanner = StrictScanner(text: text, maximumDepth: maximumDepth, allowsNonFinite: allowsNonFinite, limits: limits)
        scanner.skipSpace()
        guard scanner.position < text.count else { throw JSONError(.empty, at: 0, "there is no JSON text") }
        try scanner.value(depth: 0)
        scanner.skipSpace()
        guard scanner.position == text.count else {
            throw JSONError(.trailingText, at: scanner.position, "text follows the end of the JSON value")
        }
        return scanner.replacements
    }

    private init(text: [UInt8], maximumDepth: Int, allowsNonFinite: Bool, limits: Limits) {
        self.text = text
        self.maximumDepth = maximumDepth
        self.allowsNonFinite = allowsNonFinite
        self.limits = limits
    }

    private var current: UInt8? { position < text.count ? text[position] : nil }

    private mutating func skipSpace() {
        while let byte = current, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
    }

    private mutating func value(depth: Int) throws(JSONError) {
        guard depth <= maximumDepth else {
            throw JSONError(.tooDeep, at: position, "JSON is nested deeper than \(maximumDepth) levels")
        }
        values += 1
        if current == UInt8(ascii: "{") || current == UInt8(ascii: "[") { containers += 1 }
        guard values <= limits.values, containers <= limits.containers else {
            throw JSONError(
                .tooMany, at: position,
                "JSON of more than \(limits.values) values, or \(limits.containers) lists and objects, is not read")
        }
        switch current {
        case UInt8(ascii: "{"): try object(depth: depth)
        case UInt8(ascii: "["): try array(depth: depth)
        case UInt8(ascii: "\""): _ = try string(decoding: false)
        case UInt8(ascii: "t"): try literal("true")
        case UInt8(ascii: "f"): try literal("false")
        case UInt8(ascii: "n"): try literal("null")
        case UInt8(ascii: "N") where allowsNonFinite: try literal("NaN")
        case UInt8(ascii: "I") where allowsNonFinite: try literal("Infinity")
        case UInt8(ascii: "-") where allowsNonFinite && position + 1 < text.count && text[position + 1] == UInt8(ascii: "I"):
            try literal("-Infinity")
        case UInt8(ascii: "-"), .some(UInt8(ascii: "0")...UInt8(ascii: "9")): try number()
        case nil: throw JSONError(.unterminated, at: position, "the JSON text ends where a value should be")
        default: throw JSONError(.unexpectedCharacter, at: position, "a JSON value cannot start with \(shown)")
        }
    }

    private var shown: String {
        guard let byte = current else { return "the end of the text" }
        return byte > 0x20 && byte < 0x7F ? "'\(Character(Unicode.Scalar(byte)))'" : "byte \(byte)"
    }

    private mutating func literal(_ word: String) throws(JSONError) {
        let start = position
        for byte in word.utf8 {
            guard current == byte else {
                throw JSONError(.unexpectedCharacter, at: start, "this is not a JSON literal")
            }
            position += 1
        }
    }

    private mutating func object(depth: Int) throws(JSONError) {
        position += 1
        var keys: Set<[UInt8]> = []
        skipSpace()
        if current == UInt8(ascii: "}") {
            position += 1
            return
        }
        while true {
            skipSpace()
            let start = position
            guard current == UInt8(ascii: "\"") else {
                throw JSONError(current == nil ? .unterminated : .unexpectedCharacter, at: position, "a key was expected and \(shown) found")
            }
            let key = try string(decoding: true)
            guard !key.contains(0) else { throw JSONError(.badString, at: start, "a key contains a NUL character") }
            guard keys.insert(key).inserted else {
                throw JSONError(.duplicateKey, at: start, "the key \"\(String(decoding: key, as: UTF8.self))\" appears twice")
            }
            skipSpace()
            guard current == UInt8(ascii: ":") else {
                throw JSONError(current == nil ? .unterminated : .unexpectedCharacter, at: position, "':' was expected and \(shown) found")
            }
            position += 1
            skipSpace()
            try value(depth: depth + 1)
            if try separator(closing: UInt8(ascii: "}")) { return }
        }
    }

    private mutating func array(depth: Int) throws(JSONError) {
        position += 1
        skipSpace()
        if current == UInt8(ascii: "]") {
            position += 1
            return
        }
        while true {
            skipSpace()
            try value(depth: depth + 1)
            if try separator(closing: UInt8(ascii: "]")) { return }
        }
    }

    /// Reads `,` or the closing bracket; whether it was the bracket.
    private mutating func separator(closing: UInt8) throws(JSONError) -> Bool {
        skipSpace()
        guard let byte = current else { throw JSONError(.unterminated, at: position, "the JSON text ends inside a list or object") }
        guard byte == closing || byte == UInt8(ascii: ",") else {
            throw JSONError(.unexpectedCharacter, at: position, "',' or '\(Character(Unicode.Scalar(closing)))' was expected and \(shown) found")
        }
        position += 1
        return byte == closing
    }

    private mutating func number() throws(JSONError) {
        let start = position
        if current == UInt8(ascii: "-") { position += 1 }
        var isInteger = true
        if current == UInt8(ascii: "0") {
            position += 1
        } else {
            try digits(start)
        }
        if current == UInt8(ascii: ".") {
            isInteger = false
            position += 1
            try digits(start)
        }
        if current == UInt8(ascii: "e") || current == UInt8(ascii: "E") {
            isInteger = false
            position += 1
            if current == UInt8(ascii: "+") || current == UInt8(ascii: "-") { position += 1 }
            try digits(start)
        }
        let spelling = String(decoding: text[start..<position], as: UTF8.self)
        if isInteger, Int64(spelling) == nil { throw JSONError(.integerOutOfRange, at: start, "an integer does not fit 64 bits") }
        if spelling == "-0" { replacements.append(Replacement(offset: start, scalar: nil)) }
        // It would be read as infinity, which JSON cannot write.
        if !isInteger, !(Double(spelling)?.isFinite ?? false) {
            throw JSONError(.badNumber, at: start, "a number is too large for a 64-bit float")
        }
    }

    private mutating func digits(_ start: Int) throws(JSONError) {
        let first = position
        while let byte = current, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") { position += 1 }
        guard position > first else { throw JSONError(.badNumber, at: start, "this is not a JSON number") }
    }

    /// Reads a string; with `decoding`, returns its bytes with escapes resolved.
    private mutating func string(decoding: Bool) throws(JSONError) -> [UInt8] {
        let start = position
        position += 1
        var decoded: [UInt8] = []
        while let byte = current {
            switch byte {
            case UInt8(ascii: "\""):
                position += 1
                return decoded
            case UInt8(ascii: "\\"):
                let scalar = try escape()
                if decoding { decoded.append(contentsOf: UTF8.encode(scalar)!) }
            case 0..<0x20:
                throw JSONError(.badString, at: position, "a string contains a bare control character (byte \(byte))")
            case 0x20..<0x80:
                position += 1
                if decoding { decoded.append(byte) }
            default:
                let length = try utf8Length()
                if decoding { decoded.append(contentsOf: text[position..<position + length]) }
                position += length
            }
        }
        throw JSONError(.unterminated, at: start, "a string has no closing quote")
    }

    private mutating func escape() throws(JSONError) -> Unicode.Scalar {
        let start = position
        position += 1
        guard let kind = current else { throw JSONError(.unterminated, at: start, "the JSON text ends inside an escape") }
        position += 1
        switch kind {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Unicode.Scalar(kind)
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{C}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"):
            var code = try hexadecimalDigits(start)
            if (0xD800..<0xDC00).contains(code) {
                guard current == UInt8(ascii: "\\"), position + 1 < text.count, text[position + 1] == UInt8(ascii: "u") else {
                    throw JSONError(.badString, at: start, "half of a surrogate pair stands alone")
                }
                position += 2
                let low = try hexadecimalDigits(start)
                guard (0xDC00..<0xE000).contains(low) else {
                    throw JSONError(.badString, at: start, "half of a surrogate pair stands alone")
                }
                code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
            }
            guard let scalar = Unicode.Scalar(code) else {
                throw JSONError(.badString, at: start, "half of a surrogate pair stands alone")
            }
            if code >= 0x10000 { replacements.append(Replacement(offset: start, scalar: scalar)) }
            return scalar
        default: throw JSONError(.badString, at: start, "this escape is not one of JSON's")
        }
    }

    private mutating func hexadecimalDigits(_ start: Int) throws(JSONError) -> UInt32 {
        var code: UInt32 = 0
        for _ in 0..<4 {
            guard let byte = current, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
                throw JSONError(.badString, at: start, "a \\u escape needs four hexadecimal digits")
            }
            code = code << 4 | UInt32(digit)
            position += 1
        }
        return code
    }

    /// The length of the multi-byte UTF-8 sequence at the current position, checked against table 3-7 of the Unicode
    /// standard: no overlong forms, no surrogates, nothing beyond U+10FFFF.
    private func utf8Length() throws(JSONError) -> Int {
        let lead = text[position]
        let length: Int
        var second: ClosedRange<UInt8> = 0x80...0xBF
        switch lead {
        case 0xC2...0xDF: length = 2
        case 0xE0: (length, second) = (3, 0xA0...0xBF)
        case 0xED: (length, second) = (3, 0x80...0x9F)
        case 0xE1...0xEF: length = 3
        case 0xF0: (length, second) = (4, 0x90...0xBF)
        case 0xF4: (length, second) = (4, 0x80...0x8F)
        case 0xF1...0xF3: length = 4
        default: throw JSONError(.badUTF8, at: position, "a string is not valid UTF-8")
        }
        guard position + length <= text.count, second.contains(text[position + 1]),
            text[(position + 2)..<(position + length)].allSatisfy({ (0x80...0xBF).contains($0) })
        else { throw JSONError(.badUTF8, at: position, "a string is not valid UTF-8") }
        return length
    }
}
