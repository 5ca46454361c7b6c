/// A thing with a size, made of shares.
public struct SizeMapCell: Sendable {
    public let label: String
    /// What stands before the label where there is room.
    public let kind: String?
    /// What is shown where a pointer rests.
    public let title: String
    public let shares: [Share]

    public init(label: String, kind: String? = nil, title: String, shares: [Share]) {
        self.label = label
        self.kind = kind
        self.title = title
        self.shares = shares
    }

    var size: Double { shares.reduce(0) { $0 + max(0, $1.value) } }
}

extension Markup {
    /// Cells whose areas are as their sizes, the largest first, each cut into its shares.
    public static func sizeMap(_ cells: [SizeMapCell]) -> Markup {
        let cells = cells.filter { $0.size > 0 }.enumerated().sorted { ($1.element.size, $0.offset) < ($0.element.size, $1.offset) }.map(\.element)
        let places = SizeMapLayout.places(of: cells.map(\.size), width: 16, height: 9)
        return .element(
            "div", ["class": "map", "role": "img"],
            zip(cells, places).map { cell, place in
                // Percentages of the map, whatever shape it is given.
                let style = [("left", place.x / 16), ("top", place.y / 9), ("width", place.width / 16), ("height", place.height / 9)]
                    .map { "\($0):\(decimal(100 * $1))%" }.joined(separator: ";")
                let kind = cell.kind.map { [Markup.element("span", [:], $0 + " ")] } ?? []
                let isSmall = place.width < 0.7 || place.height < 0.45
                return .element(
                    "div", ["class": isSmall ? "cell small" : "cell", "style": style, "title": cell.title],
                    [.element("div", [:], [.element("b", [:], kind + [.text(cell.label)]), .element("p", [:], slices(cell.shares))])])
            })
    }
}

/// A squarified treemap (Bruls, Huizing and van Wijk 2000): rectangles as near to squares as their areas allow.
enum SizeMapLayout {
    struct Place: Equatable {
        var x: Double
        var y: Double
        var width: Double
        var height: Double
    }

    /// - Parameter sizes: positive, the largest first.
    /// - Returns: a place for each size, which together fill `width` by `height`.
    static func places(of sizes: [Double], width: Double, height: Double) -> [Place] {
        let scale = width * height / sizes.reduce(0, +)
        var rest = Place(x: 0, y: 0, width: width, height: height)
        var places: [Place] = []
        var row: ArraySlice<Double> = sizes[..<0]
        for index in sizes.indices {
            let side = min(rest.width, rest.height)
            let longer = sizes[row.startIndex...index]
            if row.isEmpty || worstRatio(longer, scale, side) <= worstRatio(row, scale, side) {
                row = longer
            } else {
                lay(row, scale, &rest, &places)
                row = sizes[index...index]
            }
        }
        if !row.isEmpty { lay(row, scale, &rest, &places) }
        return places
    }

    /// How far the worst rectangle of a row along `side` is from a square.
    private static func worstRatio(_ row: ArraySlice<Double>, _ scale: Double, _ side: Double) -> Double {
        let area = row.reduce(0, +) * scale
        guard let largest = row.max(), let smallest = row.min() else { return .infinity }
        return max(side * side * largest * scale / (area * area), area * area / (side * side * smallest * scale))
    }

    /// Lays a row along the shorter side of what is left.
    private static func lay(_ row: ArraySlice<Double>, _ scale: Double, _ rest: inout Place, _ places: inout [Place]) {
        let area = row.reduce(0, +) * scale
        if rest.width >= rest.height {
            let width = rest.height > 0 ? min(rest.width, area / rest.height) : 0
            var y = rest.y
            for size in row {
                let height = width > 0 ? size * scale / width : 0
                places.append(Place(x: rest.x, y: y, width: width, height: height))
                y += height
            }
            rest.x += width
            rest.width = max(0, rest.width - width)
        } else {
            let height = rest.width > 0 ? min(rest.height, area / rest.width) : 0
            var x = rest.x
            for size in row {
                let width = height > 0 ? size * scale / height : 0
                places.append(Place(x: x, y: rest.y, width: width, height: height))
                x += width
            }
            rest.y += height
            rest.height = max(0, rest.height - height)
        }
    }
}
