import Foundation
import Testing

@testable import HTML

struct MarkupTests {
    @Test func textIsEscaped() {
        #expect(Markup.text("<script>alert(\"1\" & '2')</script>").html == "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;")
        #expect(Markup.element("p", ["title": "\" onclick=\"x"], "a<b").html == "<p title=\"&quot; onclick=&quot;x\">a&lt;b</p>")
        #expect(Markup.text("a\u{0}b\u{1B}[2Kc\u{202E}d\ne").html == "a\u{FFFD}b\u{FFFD}[2Kc\u{FFFD}d\ne")
    }

    @Test func elementsNest() {
        #expect(Markup.element("ul", [:], [.element("li", [:], "1"), .element("li", [:], "2")]).html == "<ul><li>1</li><li>2</li></ul>")
        #expect(Markup.element("meta", ["charset": "utf-8"]).html == "<meta charset=\"utf-8\">")
    }

    /// A page whose every text is an attack has no more elements than one of harmless words.
    @Test func pagesHoldNoForeignMarkup() {
        func page(_ text: String) -> String {
            var page = Page(title: text, subtitle: text)
            page.add(
                text, note: text,
                [
                    .tiles([(text, text)]), .facts([text]), .legend([(text, 1)]), .shares([Share(text, 1, color: 0)]),
                    .table(
                        [text, text, text, text, text, text], [[.text(text), .long(text), .name(text), .number(text), .warning(text), .key(2, text)]]),
                    .sizeMap([SizeMapCell(label: text, kind: text, title: text, shares: [Share(text, 2, color: 1)])]),
                    .histogram([1, 0, 2], label: text), .logarithmicBars([(text, 3, text)], heading: text),
                    .heatMap(
                        HeatMap(corner: text, kinds: [text], steps: [(text, [HeatMap.Cell(color: 1, mark: text, title: text)]), (text, [nil])])),
                ])
            return page.html
        }
        let attack = page("\"><img src=x onerror=alert(1)>'<!--&lt;</style></title>")
        #expect(attack.filter { $0 == "<" }.count == page("word").filter { $0 == "<" }.count)
        #expect(attack.filter { $0 == "\"" }.count == page("word").filter { $0 == "\"" }.count)
        #expect(!attack.contains("<img") && !attack.contains("<script"))
    }

    /// Nothing is fetched from anywhere.
    @Test func pagesStandAlone() {
        var page = Page(title: "title", subtitle: "")
        page.add([.text("x")])
        for word in ["http:", "https:", "url(", "@import", "src=", "href="] { #expect(!page.html.contains(word), "\(word)") }
        #expect(page.html.contains("Content-Security-Policy") && page.html.hasPrefix("<!doctype html>"))
    }

    @Test func decimalsHaveFourPlaces() {
        #expect(Markup.decimal(12.34567) == "12.3457" && Markup.decimal(0) == "0.0000" && Markup.decimal(-0.5) == "-0.5000")
        #expect(Markup.decimal(1e-9) == "0.0000" && Markup.decimal(.nan) == "0" && Markup.decimal(.infinity) == "0")
    }
}

struct HeatMapTests {
    /// Step after step, each with its label in front.
    @Test func cellsFollowTheirSteps() {
        let map = HeatMap(
            corner: "layer", kinds: ["q", "k"],
            steps: [
                ("0", [HeatMap.Cell(color: 2, strength: 0, title: "q0"), nil]),
                ("1", [HeatMap.Cell(color: 4, mark: "✕", title: "q1"), HeatMap.Cell(color: 2, strength: 7, title: "k1")]),
            ])
        let html = Markup.heatMap(map).html
        let order = [">layer<", ">q<", ">k<", ">0<", "title=\"q0\"", "class=\"none\"", ">1<", "title=\"q1\"", ">✕<", "title=\"k1\""]
        let places = order.compactMap { html.range(of: $0)?.lowerBound }
        #expect(places.count == order.count && places == places.sorted())
        #expect(html.contains("--n:2;--m:2") && html.contains("opacity:0.1500") && html.contains("class=\"k2\" style=\"opacity:1.0000\""))
    }

    /// One among millions can be seen, and twice as many are longer.
    @Test func barsGrowWithTheLogarithm() {
        func width(_ html: Substring) -> Double { Double(html.split(separator: "width:")[1].prefix { $0 != "%" }) ?? 0 }
        let html = Markup.logarithmicBars([("0", 1 << 20, "many"), ("1", 0, "none"), ("2", 1, "one"), ("3", 2, "two")], heading: "steps").html
        let rows = html.split(separator: "<tr>").dropFirst()
        let bars = rows.filter { $0.contains("width:") }.map(width)
        #expect(rows.count == 5 && bars.count == 3 && bars[0] == 100 && bars[2] > bars[1] && bars[1] > 3)
    }
}

struct SizeMapTests {
    /// Every cell has its share of the area, and no two lie on each other.
    @Test func cellsFillTheMap() {
        for sizes in [[1], [3, 2, 1], [28, 3.5, 3.5, 3.5, 3.5, 0.01], (1...60).reversed().map { Double($0 * $0) }, [1e15, 1, 1]] as [[Double]] {
            let places = SizeMapLayout.places(of: sizes, width: 16, height: 9)
            let all = sizes.reduce(0, +)
            #expect(places.count == sizes.count)
            for (size, place) in zip(sizes, places) {
                #expect(abs(place.width * place.height - 144 * size / all) < 1e-9 * 144)
                #expect(place.x >= 0 && place.y >= 0 && place.x + place.width <= 16 + 1e-9 && place.y + place.height <= 9 + 1e-9)
            }
            for (index, a) in places.enumerated() {
                for b in places[(index + 1)...] {
                    let shared =
                        max(0, min(a.x + a.width, b.x + b.width) - max(a.x, b.x)) * max(0, min(a.y + a.height, b.y + b.height) - max(a.y, b.y))
                    #expect(shared < 1e-9)
                }
            }
        }
        #expect(SizeMapLayout.places(of: [], width: 16, height: 9).isEmpty)
    }

    @Test func equalCellsAreNearSquares() {
        for place in SizeMapLayout.places(of: [Double](repeating: 1, count: 30), width: 16, height: 9) {
            #expect(max(place.width / place.height, place.height / place.width) < 2.5)
        }
    }
}
