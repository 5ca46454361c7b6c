internal import VisibleText

/// A piece of an HTML document.
///
/// Names of elements and attributes are part of the program, and every text goes through `text` or an attribute's value,
/// which escape it: what comes from a file can never become markup.
public struct Markup: Sendable, Equatable {
    /// The piece as it stands in the document.
    public let html: String

    init(html: String) { self.html = html }

    /// Text, whatever it holds.
    public static func text(_ text: String) -> Markup { Markup(html: escaped(text)) }

    /// An element with attributes and content.
    public static func element(
        _ name: StaticString, _ attributes: KeyValuePairs<StaticString, String> = [:], _ content: [Markup] = []
    ) -> Markup {
        var html = "<\(name)"
        for (key, value) in attributes { html += " \(key)=\"\(escaped(value))\"" }
        html += ">"
        if isVoid(name) { return Markup(html: html) }
        for piece in content { html += piece.html }
        return Markup(html: html + "</\(name)>")
    }

    /// An element around a text.
    public static func element(_ name: StaticString, _ attributes: KeyValuePairs<StaticString, String> = [:], _ text: String) -> Markup {
        element(name, attributes, [.text(text)])
    }

    private static func isVoid(_ name: StaticString) -> Bool { ["br", "hr", "meta"].contains("\(name)") }

    /// The text as it may stand between tags and in quoted attributes. Invisible characters, but line breaks and tabs, become U+FFFD.
    static func escaped(_ text: String) -> String {
        var html = ""
        html.reserveCapacity(text.utf8.count)
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": html += "&amp;"
            case "<": html += "&lt;"
            case ">": html += "&gt;"
            case "\"": html += "&quot;"
            case "'": html += "&#39;"
            case "\n", "\t": html.unicodeScalars.append(scalar)
            case _ where scalar.isInvisible: html += "\u{FFFD}"
            default: html.unicodeScalars.append(scalar)
            }
        }
        return html
    }
}
