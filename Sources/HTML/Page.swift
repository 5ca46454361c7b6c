/// A self-contained HTML document: one file without scripts, and without anything that a browser would have to fetch.
public struct Page: Sendable {
    private let title: String
    private let subtitle: String
    private var sections: [Markup] = []

    public init(title: String, subtitle: String) {
        self.title = title
        self.subtitle = subtitle
    }

    /// Adds a part with a heading of its own.
    public mutating func add(_ heading: String, note: String? = nil, _ content: [Markup]) {
        sections.append(
            .element("section", [:], [.element("h2", [:], heading)] + (note.map { [.element("p", ["class": "note"], $0)] } ?? []) + content))
    }

    /// Adds a part that stands without a heading.
    public mutating func add(_ content: [Markup]) { sections.append(.element("section", [:], content)) }

    /// The document as it is written to a file. The same page gives the same bytes.
    public var html: String {
        // Nothing from elsewhere, whatever a name in a file may look like.
        let policy = "default-src 'none'; style-src 'unsafe-inline'"
        let head = Markup.element(
            "head", [:],
            [
                .element("meta", ["charset": "utf-8"]),
                .element("meta", ["http-equiv": "Content-Security-Policy", "content": policy]),
                .element("meta", ["name": "viewport", "content": "width=device-width, initial-scale=1"]),
                .element("meta", ["name": "color-scheme", "content": "light dark"]),
                .element("title", [:], title),
                // The style sheet is a part of the program.
                Markup(html: "<style>\(PageStyle.sheet)</style>"),
            ])
        let header = Markup.element("header", [:], [.element("h1", [:], title), .element("p", ["class": "note"], subtitle)])
        let body = Markup.element("body", [:], [.element("main", [:], [header] + sections)])
        return "<!doctype html>\n" + Markup.element("html", ["lang": "en"], [head, body]).html + "\n"
    }
}
