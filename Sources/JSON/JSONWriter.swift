internal import OrderedCollections
internal import VisibleText

extension JSONValue {
    /// The value as JSON text. The same value always gives the same bytes: keys in their own order (or sorted), numbers
    /// in the shortest form that reads back to the same value.
    ///
    /// - Parameters:
    ///   - pretty: two spaces a level and a final newline, for files that people read.
    ///   - sortedKeys: sort the keys of every object by their UTF-8 bytes.
    public func serialized(pretty: Bool = false, sortedKeys: Bool = false) -> String {
        JSONWriter(sortedKeys: sortedKeys).text(of: self, pretty: pretty)
    }

    /// The value as a line of JSON that may go to a terminal or a log: strings read back as they are, and hold nothing that is invisible
    /// or a command of a workflow.
    public func reported() -> String { JSONWriter(isForDisplay: true).text(of: self, pretty: false) }

    /// The value as the text of a configuration file: as Python's `json` writes it, which has words for numbers that are not finite.
    public func configurationText() -> String { JSONWriter(writesNonFinite: true).text(of: self, pretty: true) }

    /// The value as it stands in a sentence.
    public var inWords: String { JSONWriter(writesNonFinite: true).text(of: self, pretty: false) }
}

private struct JSONWriter {
    var sortedKeys = false
    /// Whether characters that are invisible, or part of a command of a workflow, are written as their numbers.
    var isForDisplay = false
    /// Whether numbers that are not finite are written as Python does. JSON has no word for them; a report says null.
    var writesNonFinite = false

    func text(of value: JSONValue, pretty: Bool) -> String {
        var text = ""
        write(value, to: &text, indent: pretty ? 0 : nil)
        if pretty { text += "\n" }
        return text
    }

    private func write(_ value: JSONValue, to text: inout String, indent: Int?) {
        switch value {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .integer(let value): text += String(value)
        case .real(let value):
            text += value.isFinite ? String(value) : !writesNonFinite ? "null" : value.isNaN ? "NaN" : value < 0 ? "-Infinity" : "Infinity"
        case .string(let value): writeString(value, to: &text)
        case .array(let elements):
            writeList("[", "]", elements, to: &text, indent: indent) { element, text, inner in write(element, to: &text, indent: inner) }
        case .object(let members):
            var pairs = members.map { ($0.key, $0.value) }
            if sortedKeys { pairs.sort { $0.0.utf8.lexicographicallyPrecedes($1.0.utf8) } }
            writeList("{", "}", pairs, to: &text, indent: indent) { pair, text, inner in
                writeString(pair.0, to: &text)
                text += inner == nil ? ":" : ": "
                write(pair.1, to: &text, indent: inner)
            }
        }
    }

    private func writeList<Element>(
        _ opening: String, _ closing: String, _ elements: [Element], to text: inout String, indent: Int?,
        _ writeElement: (Element, inout String, Int?) -> Void
    ) {
        text += opening
        let inner = indent.map { $0 + 2 }
        for (index, element) in elements.enumerated() {
            if index > 0 { text += "," }
            if let inner { text += "\n" + String(repeating: " ", count: inner) }
            writeElement(element, &text, inner)
        }
        if let indent, !elements.isEmpty { text += "\n" + String(repeating: " ", count: indent) }
        text += closing
    }

    private func writeString(_ value: String, to text: inout String) {
        // Nearly all strings are names in plain letters.
        let isPlain = value.utf8.allSatisfy { byte in
            0x20..<0x7F ~= byte && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\") && byte != UInt8(ascii: "#") && byte != UInt8(ascii: ":")
        }
        guard !isPlain else {
            text += "\"\(value)\""
            return
        }
        text += "\""
        var escaped = ""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": escaped += "\\\""
            case "\\": escaped += "\\\\"
            case "\n": escaped += "\\n"
            case "\r": escaped += "\\r"
            case "\t": escaped += "\\t"
            case "\0"..<" ": escaped += Self.escape(scalar)
            case _ where isForDisplay && scalar.isInvisible: escaped += Self.escape(scalar)
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        text += isForDisplay ? WorkflowCommands.breakingMarks(in: escaped, spelling: Self.escape) : escaped
        text += "\""
    }

    /// The character by its number, beyond U+FFFF as a pair of surrogates.
    private static func escape(_ scalar: Unicode.Scalar) -> String {
        UTF16.encode(scalar).map { units in
            units.map { unit in
                let digits = String(unit, radix: 16)
                return "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            }.joined()
        } ?? ""
    }
}
