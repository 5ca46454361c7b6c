extension JSONValue {
    /// The value as JSON text. The same value always gives the same bytes: keys in their own order (or sorted), numbers
    /// in the shortest form that reads back to the same value.
    ///
    /// - Parameters:
    ///   - pretty: two spaces a level and a final newline, for files that people read.
    ///   - sortedKeys: sort the keys of every object by their UTF-8 bytes.
    public func serialized(pretty: Bool = false, sortedKeys: Bool = false) -> String {
        var text = ""
        write(to: &text, indent: pretty ? 0 : nil, sortedKeys: sortedKeys)
        if pretty { text += "\n" }
        return text
    }

    private func write(to text: inout String, indent: Int?, sortedKeys: Bool) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .integer(let value): text += String(value)
        // JSON has no word for these; a report that meets one says null and never an unreadable file.
        case .real(let value): text += value.isFinite ? String(value) : "null"
        case .string(let value): Self.writeString(value, to: &text)
        case .array(let elements):
            Self.writeList("[", "]", elements, to: &text, indent: indent) { element, text, inner in
                element.write(to: &text, indent: inner, sortedKeys: sortedKeys)
            }
        case .object(let members):
            var pairs = members.map { ($0.key, $0.value) }
            if sortedKeys { pairs.sort { $0.0.utf8.lexicographicallyPrecedes($1.0.utf8) } }
            Self.writeList("{", "}", pairs, to: &text, indent: indent) { pair, text, inner in
                Self.writeString(pair.0, to: &text)
                text += inner == nil ? ":" : ": "
                pair.1.write(to: &text, indent: inner, sortedKeys: sortedKeys)
            }
        }
    }

    private static func writeList<Element>(
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

    private static func writeString(_ value: String, to text: inout String) {
        text += "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case "\0"..<" ":
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }
}
