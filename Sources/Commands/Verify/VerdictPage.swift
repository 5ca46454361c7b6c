internal import Adapters
internal import FileIO
internal import HTML
internal import OrderedCollections
internal import Verification
internal import VisibleText

/// A verdict as a page for people.
struct VerdictPage {
    private let verdict: MergeVerdict
    private let merged: String
    private let base: String
    private let adapters: [String]

    /// The most rows of a table and cells of a map.
    private static let mostRows = 200, mostFaults = 20, mostCells = 20_000

    init(_ verdict: MergeVerdict, merged: String, base: String, adapters: [String]) {
        self.verdict = verdict
        self.merged = merged
        self.base = base
        self.adapters = adapters
    }

    var page: Page {
        var page = Page(
            title: "\(FileSystem.lastComponent(merged)): \(Self.title(verdict.outcome))",
            subtitle: "\(merged) against \(base) + \(adapters.joined(separator: " + "))")
        page.add([.tiles(tiles), .element("p", ["class": "note"], verdict.summary)])
        if !verdict.modules.isEmpty {
            page.add(
                "Modules and layers",
                note: "The stronger the colour, the more of the update rounding has left, from none to all; rest on a cell for its figures.",
                maps + [legend])
        }
        if !verdict.faults.isEmpty { page.add("What is wrong", lists(of: verdict.faults)) }
        if !verdict.doubts.isEmpty { page.add("What cannot be decided", lists(of: verdict.doubts)) }
        if !verdict.modules.isEmpty {
            page.add(
                "Distance from the correctly rounded elements",
                note: "In steps of the stored type (ulp), all modules together. A bar is as long as the logarithm of its count.", [histogram])
            page.add("Worst modules", note: "The worst first, and of those the rows that are furthest off.", [worstModules, worstRows])
        }
        if let function = verdict.function { page.add("Base + adapter and merged model side by side", functionContent(function)) }
        let coverage = coverageRows
        if !coverage.isEmpty { page.add("Tensors that are not accounted for", [.table(["tensor", "why"], coverage)]) }
        return page
    }

    private static func title(_ outcome: MergeVerdict.Outcome) -> String {
        switch outcome {
        case .pass: "the merge is right"
        case .fail: "the merge is wrong"
        case .inconclusive: "the files cannot tell"
        }
    }

    private var tiles: [(value: String, label: String)] {
        let survival = verdict.modules.compactMap(\.survival).min()
        return [
            (verdict.outcome.rawValue, "verdict"), (Format.count(verdict.faults.count), verdict.faults.count == 1 ? "fault" : "faults"),
            (Format.count(verdict.modules.count), verdict.modules.count == 1 ? "module" : "modules"),
            (survival.map { Format.fixed(100 * $0, 1) + "%" } ?? "none", "least of an update that is left"),
            (Self.steps(verdict.modules.max { $0.maxUlp < $1.maxUlp }.map(\.meaningfulUlp) ?? 0), "ulp at most"),
        ]
    }

    /// Each kind of fault with what to do, and where it is, the worst first.
    private func lists(of faults: [Fault]) -> [Markup] {
        let rank = Dictionary(
            verdict.worstFirst.enumerated().map { ($0.element.path.text, $0.offset) }, uniquingKeysWith: { first, _ in first })
        return OrderedDictionary(grouping: faults, by: \.code).flatMap { code, faults -> [Markup] in
            let ordered = faults.enumerated().sorted {
                (rank[$0.element.module] ?? -1, $0.offset) < (rank[$1.element.module] ?? -1, $1.offset)
            }.map(\.element)
            let rest = ordered.count - Self.mostFaults
            return [
                .element("h3", [:], "\(code.rawValue): \(code.title)" + (faults.count > 1 ? " (\(Format.count(faults.count)))" : "")),
                .element("p", ["class": "note"], Remedy.advice(on: code)),
                .table(
                    ["where", "what"],
                    ordered.prefix(Self.mostFaults).map { [.name($0.module.isEmpty ? "the model" : $0.module), .long($0.message)] }),
            ] + (rest > 0 ? [.element("p", ["class": "note"], "And \(Format.count(rest)) more.")] : [])
        }
    }

    // MARK: Maps

    /// Modules that differ in the number of their layer alone are a row of a map.
    private var maps: [Markup] {
        var maps: OrderedDictionary<String, [(layer: Int, kind: String, module: MergeVerdict.Module)]> = [:]
        for module in verdict.modules {
            let words = module.path.text.split(separator: ".").map(String.init)
            guard let place = words.firstIndex(where: { Int($0) != nil }), let layer = Int(words[place]) else {
                maps["", default: []].append((0, module.path.text, module))
                continue
            }
            let kind = words[(place + 1)...].joined(separator: ".")
            maps[words[..<place].joined(separator: "."), default: []].append((layer, kind.isEmpty ? words[place] : kind, module))
        }
        var left = Self.mostCells
        return maps.flatMap { prefix, entries -> [Markup] in
            let kinds = OrderedSet(entries.map(\.kind))
            let layers = OrderedSet(entries.map(\.layer).sorted())
            guard left >= kinds.count * layers.count else {
                return [.element("p", ["class": "note"], "\(Format.count(entries.count, "module")) of \(prefix) are not drawn.")]
            }
            left -= kinds.count * layers.count
            var cells = [[HeatMap.Cell?]](repeating: [HeatMap.Cell?](repeating: nil, count: kinds.count), count: layers.count)
            var shown: [[Int]: MergeVerdict.Module] = [:]
            for entry in entries {
                guard let row = layers.firstIndex(of: entry.layer), let column = kinds.firstIndex(of: entry.kind) else { continue }
                // Two names may have one number, such as 5 and 05: the worse is shown.
                if let other = shown[[row, column]], other.standing.severity > entry.module.standing.severity { continue }
                shown[[row, column]] = entry.module
                cells[row][column] = Self.cell(entry.module)
            }
            let map = HeatMap(
                corner: prefix.isEmpty ? "" : "layer", kinds: Array(kinds),
                steps: zip(layers, cells).map { (label: prefix.isEmpty ? "" : "\($0)", cells: $1) })
            return (maps.count > 1 || !prefix.isEmpty ? [.element("h3", [:], prefix.isEmpty ? "outside of the layers" : prefix)] : [])
                + [.heatMap(map)]
        }
    }

    private static func cell(_ module: MergeVerdict.Module) -> HeatMap.Cell {
        let isFine = module.standing != .wrong && module.standing != .inconclusive
        return HeatMap.Cell(
            color: color(module.standing), strength: isFine ? module.survival ?? 1 : 1,
            mark: module.standing == .wrong ? "✕" : module.standing == .inconclusive ? "?" : "",
            title: "\(module.path.text)\n\(figures(module).joined(separator: "\n"))")
    }

    private static func color(_ standing: MergeStanding) -> Int {
        switch standing {
        case .exact: 2
        case .replayed: 0
        case .withinRounding: 5
        case .inconclusive: 6
        case .wrong: 4
        }
    }

    /// A distance in steps; none where it would say nothing.
    private static func steps(_ count: Int?) -> String { count.map(Format.count) ?? "–" }

    private static func figures(_ module: MergeVerdict.Module) -> [String] {
        var figures = [module.standing.description]
        if let projection = module.projection { figures.append("projection \(Format.fixed(projection, 4))") }
        if let residual = module.relativeResidual { figures.append("residual \(Format.fixed(residual, 4))") }
        if let survival = module.survival { figures.append("rounding leaves \(Format.fixed(100 * survival, 2))%") }
        figures.append("\(Format.count(module.differingElements)) of \(Format.count(module.elements)) elements off")
        if let ulp = module.meaningfulUlp { figures.append("\(Format.count(ulp)) ulp at most") }
        return figures
    }

    private var legend: Markup {
        let texts = [
            ("exact", "every element correctly rounded"), ("replayed", "as a known program rounds"),
            ("withinRounding", "within what rounding explains"),
            ("inconclusive", "? cannot be decided"), ("wrong", "✕ wrong"),
        ]
        let present = Dictionary(verdict.modules.map { ($0.standing.name, Self.color($0.standing)) }, uniquingKeysWith: { first, _ in first })
        return .legend(texts.compactMap { name, text in present[name].map { (text, $0) } })
    }

    // MARK: Figures

    private var histogram: Markup {
        var counts = [Int](repeating: 0, count: verdict.modules.first?.histogram.count ?? 0)
        for module in verdict.modules { for (bin, count) in module.histogram.enumerated() where bin < counts.count { counts[bin] += count } }
        let last = counts.lastIndex { $0 > 0 } ?? 0
        let all = counts.reduce(0, +)
        func label(_ bin: Int) -> String {
            if bin < 3 { return "\(bin)" }
            let low = (1 << (bin - 2)) + 1
            return bin + 1 == counts.count ? "\(low) and more" : "\(low)–\(1 << (bin - 1))"
        }
        return .logarithmicBars(
            counts.prefix(last + 1).enumerated().map { bin, count in
                (label(bin), count, "\(Format.count(count)) (\(Format.percent(count, of: all)))")
            }, heading: "steps")
    }

    private var worstModules: Markup {
        .table(
            ["module", "standing", "projection", "residual", "left", "ulp", "elements off", "steps"],
            verdict.worstFirst.prefix(20).map { module in
                func number(_ value: Double?, _ decimals: Int) -> Markup.Cell { .number(value.map { Format.fixed($0, decimals) } ?? "") }
                return [
                    .name(module.path.text), .key(Self.color(module.standing), module.standing.description), number(module.projection, 4),
                    number(module.relativeResidual, 4), .number(module.survival.map { Format.fixed(100 * $0, 1) + "%" } ?? ""),
                    .number(Self.steps(module.meaningfulUlp)), .number(Format.percent(module.differingElements, of: module.elements)),
                    .chart(.histogram(module.histogram.map(Self.logarithm), label: "elements by their distance: \(module.histogram)")),
                ]
            })
    }

    /// Tenths of the binary logarithm, one more where there is anything: for bars that show one beside millions.
    private static func logarithm(_ count: Int) -> Int {
        count > 0 ? Int(10 * (Double(Double(count).exponent) + Double(count).significand)) : 0
    }

    private var worstRows: Markup {
        let rows = verdict.worstFirst.flatMap { module in module.worstRows.map { (module, $0) } }.prefix(24)
        guard !rows.isEmpty else { return .element("p", ["class": "note"], "No row of any module is off.") }
        return .table(
            ["module", "row", "elements off", "ulp", "residual"],
            rows.map { module, row in
                [
                    .name(module.path.text), .number("\(row.row)"), .number(Format.count(row.differingElements)),
                    .number(Self.steps(module.meaningful(row.maxUlp))),
                    .number(row.relativeResidual.map { Format.fixed($0, 4) } ?? ""),
                ]
            })
    }

    private func functionContent(_ function: FunctionComparison) -> [Markup] {
        func row(_ name: String, _ distance: FunctionComparison.Distance) -> [Markup.Cell] {
            [
                .text(name), .number(Format.scientific(distance.maxLogitDifference)), .number(Format.scientific(distance.meanKL)),
                .number(Format.fixed(100 * distance.argmaxAgreement, 1) + "%"),
            ]
        }
        return [
            .table(
                ["from base + adapter to", "logits differ by up to", "KL, nats a token", "same next token"],
                [row("the merged model", function.merged)] + (function.base.map { [row("the base alone", $0)] } ?? [])),
            .table(
                ["prompt", "tokens", "logits differ by up to", "largest KL", "other next token"],
                function.prompts.prefix(Self.mostRows).enumerated().map { number, prompt in
                    [
                        .number("\(number + 1)"), .number(Format.count(prompt.tokens)), .number(Format.scientific(prompt.maxLogitDifference)),
                        .number(Format.scientific(prompt.divergences.max() ?? 0)), .number(Format.count(prompt.disagreements.count)),
                    ]
                }),
        ]
    }

    private var coverageRows: [[Markup.Cell]] {
        let coverage = verdict.coverage
        func rows(_ names: [String], _ why: String) -> [[Markup.Cell]] { names.prefix(Self.mostRows).map { [.name($0), .text(why)] } }
        return rows(coverage.adapterUnused, "of the adapter, and the base does not hold it")
            + rows(coverage.baseChangedWithoutAdapter, "changed, and no adapter names it") + rows(coverage.missing, "of the base, and missing")
            + rows(coverage.extra, "of neither the base nor an adapter")
    }
}
