extension Markup {
    /// A cell of a table.
    public struct Cell: Sendable {
        fileprivate let style: String
        fileprivate let content: Markup

        /// Words.
        public static func text(_ text: String) -> Cell { Cell(style: "", content: .text(text)) }
        /// Text that may be long and is broken anywhere.
        public static func long(_ text: String) -> Cell { Cell(style: "wrap", content: .text(text)) }
        /// A name out of a file.
        public static func name(_ text: String) -> Cell { Cell(style: "name", content: .text(text)) }
        /// A number, with the others of its column to the right.
        public static func number(_ text: String) -> Cell { Cell(style: "number", content: .text(text)) }
        /// A number that nobody wants to see.
        public static func warning(_ text: String) -> Cell { Cell(style: "number warn", content: .text(text)) }
        /// A chart.
        public static func chart(_ chart: Markup) -> Cell { Cell(style: "bars", content: chart) }
        /// Words beside the colour of a kind.
        public static func key(_ color: Int, _ text: String) -> Cell {
            Cell(style: "", content: Markup(html: Markup.key(color).html + Markup.escaped(text)))
        }

        private init(style: String, content: Markup) {
            self.style = style
            self.content = content
        }
    }

    /// A table that scrolls sideways where the page is narrow. Columns of numbers have their headings on the right.
    public static func table(_ headings: [String], _ rows: [[Cell]]) -> Markup {
        let isNumber = headings.indices.map { column in rows.contains { $0[column].style.hasPrefix("number") } }
        let head = zip(headings, isNumber).map { Markup.element("th", $1 ? ["class": "number"] : [:], $0) }
        let body = rows.map { row in
            Markup.element("tr", [:], row.map { .element("td", $0.style.isEmpty ? [:] : ["class": $0.style], [$0.content]) })
        }
        return .element(
            "div", ["class": "scroll"],
            [.element("table", [:], [.element("thead", [:], [.element("tr", [:], head)]), .element("tbody", [:], body)])])
    }

    /// Large numbers in a row.
    public static func tiles(_ tiles: [(value: String, label: String)]) -> Markup {
        .element(
            "div", ["class": "tiles"],
            tiles.map { .element("div", ["class": "tile"], [.element("b", [:], $0.value), .element("span", [:], $0.label)]) })
    }

    /// Sentences, one a line.
    public static func facts(_ facts: [String]) -> Markup { .element("ul", ["class": "facts"], facts.map { .element("li", [:], $0) }) }

    static func key(_ color: Int) -> Markup { .element("span", ["class": "key \(colorClass(color))"]) }

    static func colorClass(_ color: Int) -> String { "k\(min(color, PageStyle.colorCount - 1))" }
}
