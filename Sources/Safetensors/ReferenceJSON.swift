/// JSON as the reference library's parser (serde_json) takes it: repeated keys are kept, white space may surround the
/// text, and numbers may have any size that a binary64 can hold.
enum ReferenceJSON {
    case null
    case bool
    /// A whole number without sign that fits 64 bits, which is what sizes and offsets must be.
    case unsigned(UInt64)
    /// Any other number.
    case number
    case string(String)
    case array([ReferenceJSON])
    case object([(key: String, value: ReferenceJSON)])

    /// Why a text is not JSON, and where.
    struct Fault: Error {
        let offset: Int
        let message: String
    }

    /// - Parameter text: valid UTF-8.
    init(parsing text: [UInt8], maximumValues: Int = 1 << 24) throws(Fault) {
        var parser = Parser(text: text, valuesLeft: maximumValues)
        self = try parser.document()
    }

    private struct Parser {
        let text: [UInt8]
        var position = 0
        /// Arrays and objects that may still be opened; the reference library allows 127.
        var depthLeft = 127
        /// Values that may still come. The reference library has no such limit; a header of tensors with more is none that
        /// anyone writes, and its document would take gigabytes.
        var valuesLeft: Int

        init(text: [UInt8], valuesLeft: Int) {
            self.text = text
            self.valuesLeft = valuesLeft
        }

        private func fault(_ message: String) -> Fault { Fault(offset: position, message: message) }

        /// The next byte; `nil` at the end.
        private var next: UInt8? { position < text.count ? text[position] : nil }

        private mutating func skipWhiteSpace() {
            while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
        }

        private mutating func expect(_ character: Unicode.Scalar) throws(Fault) {
            guard next == UInt8(ascii: character) else { throw fault("'\(character)' is missing") }
            position += 1
        }

        mutating func document() throws(Fault) -> ReferenceJSON {
            skipWhiteSpace()
            let result = try value()
            skipWhiteSpace()
            guard next == nil else { throw fault("something follows the end of the JSON text") }
            return result
        }

        private mutating func value() throws(Fault) -> ReferenceJSON {
            guard valuesLeft > 0 else { throw fault("more values than are read") }
            valuesLeft -= 1
            switch next {
            case UInt8(ascii: "{"): return try nested { (parser) throws(Fault) in .object(try parser.members()) }
            case UInt8(ascii: "["): return try nested { (parser) throws(Fault) in .array(try parser.elements()) }
            case UInt8(ascii: "\""): return .string(try string())
            case UInt8(ascii: "n"): return try word("null", .null)
            case UInt8(ascii: "t"): return try word("true", .bool)
            case UInt8(ascii: "f"): return try word("false", .bool)
            case let byte? where byte == UInt8(ascii: "-") || Self.isDigit(byte): return try number()
            default: throw fault("a value is missing")
            }
        }

        private mutating func nested(_ body: (inout Parser) throws(Fault) -> ReferenceJSON) throws(Fault) -> ReferenceJSON {
            guard depthLeft > 0 else { throw fault("the nesting is deeper than 127") }
            depthLeft -= 1
            defer { depthLeft += 1 }
            position += 1
            skipWhiteSpace()
            return try body(&self)
        }

        private mutating func members() throws(Fault) -> [(key: String, value: ReferenceJSON)] {
            var members: [(key: String, value: ReferenceJSON)] = []
            if next == UInt8(ascii: "}") {
                position += 1
                return members
            }
            while true {
                guard next == UInt8(ascii: "\"") else { throw fault("a key is missing") }
                let key = try string()
                skipWhiteSpace()
                try expect(":")
                skipWhiteSpace()
                members.append((key, try value()))
                skipWhiteSpace()
                if next == UInt8(ascii: "}") { break }
                try expect(",")
                skipWhiteSpace()
            }
            position += 1
            return members
        }

        private mutating func elements() throws(Fault) -> [ReferenceJSON] {
            var elements: [ReferenceJSON] = []
            if next == UInt8(ascii: "]") {
                position += 1
                return elements
            }
            while true {
                elements.append(try value())
                skipWhiteSpace()
                if next == UInt8(ascii: "]") { break }
                try expect(",")
                skipWhiteSpace()
            }
            position += 1
            return elements
        }

        private mutating func word(_ word: String, _ value: ReferenceJSON) throws(Fault) -> ReferenceJSON {
            guard text[position...].starts(with: word.utf8) else { throw fault("a value is missing") }
            position += word.utf8.count
            return value
        }

        private mutating func number() throws(Fault) -> ReferenceJSON {
            let start = position
            let isNegative = next == UInt8(ascii: "-")
            if isNegative { position += 1 }
            let firstDigit = position
            let digits = skipDigits()
            guard digits > 0 else { throw fault("a digit is missing") }
            guard digits == 1 || text[firstDigit] != UInt8(ascii: "0") else { throw fault("a number begins with a zero too many") }
            var isWhole = true
            if next == UInt8(ascii: ".") {
                isWhole = false
                position += 1
                guard skipDigits() > 0 else { throw fault("a digit is missing") }
            }
            if next == UInt8(ascii: "e") || next == UInt8(ascii: "E") {
                isWhole = false
                position += 1
                if next == UInt8(ascii: "+") || next == UInt8(ascii: "-") { position += 1 }
                guard skipDigits() > 0 else { throw fault("a digit is missing") }
            }
            let spelling = String(decoding: text[start..<position], as: UTF8.self)
            if isWhole, !isNegative, let number = UInt64(spelling) { return .unsigned(number) }
            guard Double(spelling)?.isFinite ?? false else { throw fault("a number is too large") }
            return .number
        }

        private static func isDigit(_ byte: UInt8) -> Bool { byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") }

        private mutating func skipDigits() -> Int {
            let start = position
            while let byte = next, Self.isDigit(byte) { position += 1 }
            return position - start
        }

        private mutating func string() throws(Fault) -> String {
            position += 1
            var bytes: [UInt8] = []
            while true {
                guard let byte = next else { throw fault("a string does not end") }
                guard byte >= 0x20 else { throw fault("a string holds a control character") }
                position += 1
                if byte == UInt8(ascii: "\"") { return String(decoding: bytes, as: UTF8.self) }
                if byte == UInt8(ascii: "\\") { try escape(&bytes) } else { bytes.append(byte) }
            }
        }

        private mutating func escape(_ bytes: inout [UInt8]) throws(Fault) {
            guard let kind = next else { throw fault("a string does not end") }
            position += 1
            switch kind {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): bytes.append(kind)
            case UInt8(ascii: "b"): bytes.append(0x08)
            case UInt8(ascii: "f"): bytes.append(0x0C)
            case UInt8(ascii: "n"): bytes.append(0x0A)
            case UInt8(ascii: "r"): bytes.append(0x0D)
            case UInt8(ascii: "t"): bytes.append(0x09)
            case UInt8(ascii: "u"):
                var code = try hexadecimal()
                if code & 0xFC00 == 0xD800 {
                    try expect("\\")
                    try expect("u")
                    let low = try hexadecimal()
                    guard low & 0xFC00 == 0xDC00 else { throw fault("half of a surrogate pair stands alone") }
                    code = 0x10000 + (code & 0x3FF) << 10 + low & 0x3FF
                }
                guard let scalar = Unicode.Scalar(code) else { throw fault("half of a surrogate pair stands alone") }
                bytes.append(contentsOf: Array(String(Character(scalar)).utf8))
            default: throw fault("an escape of this kind does not exist")
            }
        }

        private mutating func hexadecimal() throws(Fault) -> UInt32 {
            guard position + 4 <= text.count, text[position..<position + 4].allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit }),
                let code = UInt32(String(decoding: text[position..<position + 4], as: UTF8.self), radix: 16)
            else { throw fault("four hexadecimal digits are missing") }
            position += 4
            return code
        }
    }
}
