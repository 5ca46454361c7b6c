/// A part of a whole, in the colour of its kind.
public struct Share: Sendable {
    public let label: String
    public let value: Double
    public let color: Int

    public init(_ label: String, _ value: Double, color: Int) {
        self.label = label
        self.value = value
        self.color = color
    }
}

extension Markup {
    /// A bar that is cut into shares of a whole. Its label is shown where a pointer rests.
    public static func shares(_ shares: [Share]) -> Markup {
        .element("div", ["class": "shares", "role": "img"], slices(shares))
    }

    static func slices(_ shares: [Share]) -> [Markup] {
        shares.filter { $0.value > 0 }.map {
            .element("i", ["class": colorClass($0.color), "style": "flex:\(decimal($0.value)) 1 0", "title": $0.label])
        }
    }

    /// How many fall into each of some bins, each with a bar as long as the logarithm of the count, so that a single one can be seen
    /// beside millions.
    public static func logarithmicBars(_ counts: [(label: String, count: Int, text: String)], heading: String) -> Markup {
        // 1 + log₂, straight between powers of two.
        func size(_ count: Int) -> Double { Double(Double(count).exponent) + Double(count).significand }
        let most = counts.map { size($0.count) }.max() ?? 1
        return .table(
            [heading, "elements", ""],
            counts.map { [.number($0.label), .number($0.text), .chart($0.count > 0 ? .bar(size($0.count) / max(most, 1)) : .text(""))] })
    }

    /// What the colours stand for.
    public static func legend(_ entries: [(label: String, color: Int)]) -> Markup {
        .element("div", ["class": "legend"], entries.map { entry in .element("span", [:], [key(entry.color), .text(entry.label)]) })
    }

    /// A bar as long as a fraction of its place, from 0 to 1.
    public static func bar(_ fraction: Double) -> Markup {
        .element("span", ["class": "bar", "style": "width:\(decimal(100 * min(1, max(0, fraction))))%"])
    }

    /// A small histogram.
    ///
    /// - Parameter label: what it says, for those who do not see it.
    public static func histogram(_ counts: [Int], label: String) -> Markup {
        let most = Double(counts.max() ?? 0)
        let height = 24.0, step = 6
        var shapes = [Markup.element("title", [:], label)]
        for (index, count) in counts.enumerated() where count > 0 {
            // A bin that is not empty can be seen.
            let tall = max(1.5, height * Double(count) / most)
            shapes.append(
                .element("rect", ["x": "\(index * step + 1)", "y": decimal(height - tall), "width": "\(step - 1)", "height": decimal(tall)]))
        }
        shapes.append(.element("line", ["x1": "0", "y1": "24", "x2": "\(counts.count * step + 1)", "y2": "24"]))
        return .element("svg", ["class": "histogram", "viewBox": "0 0 \(counts.count * step + 1) 24", "role": "img"], shapes)
    }

    /// A number as style sheets and drawings take it: at most four decimals, never an exponent.
    static func decimal(_ value: Double) -> String {
        guard value.isFinite, abs(value) < 1e12 else { return "0" }
        let scaled = Int((abs(value) * 10_000).rounded())
        let fraction = String(scaled % 10_000)
        return (value < 0 && scaled > 0 ? "-" : "") + "\(scaled / 10_000)." + String(repeating: "0", count: 4 - fraction.count) + fraction
    }
}
