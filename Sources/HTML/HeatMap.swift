/// A map with a column for each step, such as a layer, and a row for each kind of thing that the steps have; where the page is narrow,
/// steps are rows.
public struct HeatMap: Sendable {
    public struct Cell: Sendable {
        /// The colour: a kind of `PageStyle`.
        public let color: Int
        /// How strong the colour is, from 0 to 1.
        public let strength: Double
        /// A character that says the same as the colour, for those who do not see it.
        public let mark: String
        /// What is shown where a pointer rests.
        public let title: String

        public init(color: Int, strength: Double = 1, mark: String = "", title: String) {
            self.color = color
            self.strength = strength
            self.mark = mark
            self.title = title
        }
    }

    /// What the steps are called together.
    public let corner: String
    public let kinds: [String]
    /// Each with a cell for each kind; `nil` where there is none.
    public let steps: [(label: String, cells: [Cell?])]

    public init(corner: String, kinds: [String], steps: [(label: String, cells: [Cell?])]) {
        precondition(steps.allSatisfy { $0.cells.count == kinds.count })
        self.corner = corner
        self.kinds = kinds
        self.steps = steps
    }
}

extension Markup {
    public static func heatMap(_ map: HeatMap) -> Markup {
        // Step after step, in one order for both layouts: the style sheet lets them flow down or across.
        func label(_ text: String, _ style: String) -> Markup { .element("span", ["class": style], [.element("span", [:], text)]) }
        var cells = [label(map.corner, "corner")] + map.kinds.map { label($0, "kind") }
        for step in map.steps {
            cells.append(label(step.label, "step"))
            cells += step.cells.map { cell in
                guard let cell else { return .element("i", ["class": "none"]) }
                return .element(
                    "i", ["title": cell.title],
                    [
                        .element("b", ["class": colorClass(cell.color), "style": "opacity:\(decimal(0.15 + 0.85 * min(1, max(0, cell.strength))))"]),
                        .element("u", [:], cell.mark),
                    ])
            }
        }
        return .element(
            "div", ["class": "scroll"],
            [.element("div", ["class": "heat", "role": "img", "style": "--n:\(map.kinds.count);--m:\(map.steps.count)"], cells)])
    }
}
