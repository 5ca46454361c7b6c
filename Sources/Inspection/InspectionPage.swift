package import HTML
internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Tensors
internal import VisibleText
internal import Weights

extension InspectionReport {
    /// The most cells of the map, rows of a table, and characters of a value; beyond it a page says how many more there are.
    private static let mostCells = 120, mostRows = 1000, mostCharacters = 2000

    /// The report as a page for people.
    package var page: Page {
        let totals = inspection.totals
        var page = Page(title: inspection.name, subtitle: "\(inspection.kind.title) · \(inspection.path)")
        page.add([
            .tiles([
                (Format.short(totals.all.elements), "elements"), (Format.count(totals.all.tensors), totals.all.tensors == 1 ? "tensor" : "tensors"),
                (Format.bytes(totals.all.bytes), "of data"),
                (totals.types.first?.name ?? "none", totals.types.count > 1 ? "most bytes" : "element type"),
            ])
        ])
        page.add("What it is", [.facts(inspection.facts)])
        if !totals.roles.isEmpty {
            page.add(
                "Where the bytes are",
                note: inspection.totals.roles.contains { $0.name == TensorRole.adapter.rawValue }
                    ? "Areas are as bytes; an adapter's parts have the colours of what they adapt." : "Areas are as bytes.", [sizeMap, roleLegend])
            page.add(
                "Shares",
                [.element("h3", [:], "By role"), shares(totals.roles, heading: "role", color: color(ofRole:))]
                    + [
                        .element("h3", [:], "By element type"),
                        shares(totals.types, heading: "type") { name in totals.types.firstIndex { $0.name == name } ?? 0 },
                    ])
        }
        if let adapter = inspection.adapter {
            page.add(
                "Adapted modules", note: "Repeated layers are one row. The scale is what multiplies B·A.",
                [
                    .table(
                        ["module", "rank", "alpha", "scale", "times"],
                        adapter.folded.prefix(Self.mostRows).map {
                            [
                                .name($0.name), .number("\($0.rank)"), .number(Format.number($0.alpha)), .number(Format.number($0.scale)),
                                .number("\($0.count)"),
                            ]
                        })
                ])
        }
        if let statistics { page.add("Numbers", note: histogramNote(statistics.count), [numbers(statistics)]) }
        page.add("Tensors", note: note("Repeated layers are one row.", groups.count, "row"), [tensorTable])
        if !inspection.metadata.isEmpty {
            page.add(
                "Metadata", note: note(nil, inspection.metadata.count, "field"),
                [
                    .table(
                        ["key", "value"],
                        inspection.metadata.prefix(Self.mostRows).map { key, value in
                            let text = value.stringValue ?? value.serialized()
                            let isLong = text.unicodeScalars.count > Self.mostCharacters
                            return [
                                .name(key),
                                .long(isLong ? String(String.UnicodeScalarView(text.unicodeScalars.prefix(Self.mostCharacters))) + " …" : text),
                            ]
                        })
                ])
        }
        return page
    }

    /// What a table leaves out.
    private func note(_ text: String?, _ count: Int, _ thing: String) -> String? {
        guard count > Self.mostRows else { return text }
        return (text.map { $0 + " " } ?? "") + "The first \(Format.count(Self.mostRows)) of \(Format.count(count, thing)) are shown."
    }

    private func histogramNote(_ count: Int) -> String? {
        note(
            "Histograms are of magnitudes: from left to right each bar is four times as large, the first below 2⁻²⁴ and the last from 16 on "
                + "(for integers from 1 to the largest of the type).", count, "tensor")
    }

    // MARK: Colours

    private func color(ofRole name: String) -> Int { TensorRole.allCases.firstIndex { $0.rawValue == name } ?? 0 }

    private var roleLegend: Markup {
        let roles = Set(inspection.groups.map(\.mappedRole))
        return .legend(TensorRole.allCases.filter(roles.contains).map { ($0.rawValue, color(ofRole: $0.rawValue)) })
    }

    private func shares(_ totals: [TensorTotals.Total], heading: String, color: (String) -> Int) -> Markup {
        let all = inspection.totals.all.bytes
        let bar = Markup.shares(
            totals.map {
                Share("\($0.name): \(Format.bytes($0.bytes)), \(Format.percent($0.bytes, of: all))", Double($0.bytes), color: color($0.name))
            })
        let rows: [[Markup.Cell]] = totals.map { total in
            [
                .key(color(total.name), total.name), .number(Format.percent(total.bytes, of: all)), .number(Format.bytes(total.bytes)),
                .number(Format.count(total.elements)), .number(Format.count(total.tensors)),
            ]
        }
        return .element("div", [:], [bar, .table([heading, "share", "bytes", "elements", "tensors"], rows)])
    }

    // MARK: The map

    /// A layer, or what stands outside of the layers.
    private struct Part: Hashable, Comparable {
        let prefix: String
        let layer: Int?

        static func < (a: Part, b: Part) -> Bool { (a.prefix, a.layer ?? -1) < (b.prefix, b.layer ?? -1) }

        /// What the layers are called, in short: `layers`, `adamw…layers`.
        var kind: String? {
            let words = prefix.split(separator: ".")
            guard layer != nil, let last = words.last else { return nil }
            return words.count > 2 ? "\(words[0])…\(last)" : "\(last)"
        }
        var label: String { layer.map(String.init) ?? prefix.split(separator: ".").suffix(2).joined(separator: ".") }
        var title: String { layer.map { "\(prefix).\($0)" } ?? prefix }
    }

    private var sizeMap: Markup {
        var parts: OrderedDictionary<Part, [TensorRole: Int]> = [:]
        for group in inspection.groups {
            let bytes = group.attributes.type.byteCount(of: group.attributes.elementCount)
            let role = group.mappedRole
            if let prefix = group.pattern.beforeFirstNumber {
                for index in stride(from: 0, to: group.numbers.count, by: group.pattern.gaps) {
                    parts[Part(prefix: prefix, layer: group.numbers[index]), default: [:]][role, default: 0] += bytes
                }
            } else {
                let name = group.name
                let module =
                    name.hasSuffix(".weight") || name.hasSuffix(".bias") ? name.split(separator: ".").dropLast().joined(separator: ".") : name
                parts[Part(prefix: module, layer: nil), default: [:]][role, default: 0] += bytes
            }
        }
        let largest = parts.sorted { ($1.value.values.reduce(0, +), $0.key) < ($0.value.values.reduce(0, +), $1.key) }
        var cells = largest.prefix(Self.mostCells).map { cell(label: $0.key.label, kind: $0.key.kind, title: $0.key.title, $0.value) }
        let rest = largest.dropFirst(Self.mostCells)
        if !rest.isEmpty {
            let bytes = rest.reduce(into: [TensorRole: Int]()) { $0.merge($1.value, uniquingKeysWith: +) }
            cells.append(cell(label: "\(Format.count(rest.count)) more", title: "\(Format.count(rest.count)) smaller parts", bytes))
        }
        return .sizeMap(cells)
    }

    private func cell(label: String, kind: String? = nil, title: String, _ bytes: [TensorRole: Int]) -> SizeMapCell {
        let roles = TensorRole.allCases.filter { bytes[$0, default: 0] > 0 }
        let texts = roles.map { "\($0.rawValue) \(Format.bytes(bytes[$0, default: 0]))" }
        return SizeMapCell(
            label: label, kind: kind, title: "\(title): \(Format.bytes(bytes.values.reduce(0, +)))\n" + texts.joined(separator: "\n"),
            shares: roles.map {
                Share(
                    "\(title), \($0.rawValue): \(Format.bytes(bytes[$0, default: 0]))", Double(bytes[$0, default: 0]),
                    color: color(ofRole: $0.rawValue))
            })
    }

    // MARK: Tables

    private var tensorTable: Markup {
        let bytes = groups.map { $0.attributes.type.byteCount(of: $0.attributes.elementCount * $0.count) }
        let most = Double(bytes.max() ?? 1)
        return .table(
            ["tensor", "type", "shape", "times", "role", "bytes", ""],
            zip(groups, bytes).prefix(Self.mostRows).map { group, bytes in
                [
                    .name(group.name), .text(group.attributes.type.name), .text(describe(shape: group.attributes.shape)),
                    .number(Format.count(group.count)), .text(group.role.rawValue), .number(Format.bytes(bytes)), .chart(.bar(Double(bytes) / most)),
                ]
            })
    }

    private func numbers(_ statistics: [TensorStatistics?]) -> Markup {
        .table(
            ["tensor", "type", "min", "max", "mean", "std", "zeros", "NaN", "inf", "histogram"],
            zip(tensors, statistics).prefix(Self.mostRows).map { tensor, statistics in
                let name: [Markup.Cell] = [.name(tensor.name), .text(tensor.type.name)]
                guard let s = statistics else { return name + [.text("not measured")] + [Markup.Cell](repeating: .text(""), count: 7) }
                func count(_ value: Int) -> Markup.Cell { value == 0 ? .number("0") : .warning(Format.count(value)) }
                return name + [
                    .number(TensorStatistics.text(s.minimum)), .number(TensorStatistics.text(s.maximum)), .number(TensorStatistics.text(s.mean)),
                    .number(TensorStatistics.text(s.standardDeviation)), .number(Format.count(s.zeros)), count(s.nan), count(s.infinite),
                    .chart(.histogram(s.histogram, label: describe(shape: s.histogram))),
                ]
            })
    }
}

extension FoldedNames<TensorForm>.Group {
    /// The role, and of an adapter's tensor that of the module which it adapts: there, all would be of one.
    fileprivate var mappedRole: TensorRole { role == .adapter ? TensorRole(adaptedBy: pattern.name { _ in "0" }) : role }
}

extension InspectedFile.Kind {
    fileprivate var title: String {
        switch self {
        case .model: "model"
        case .adapter: "adapter"
        case .run: "training run"
        case .tensors: "tensors"
        case .checkpoint: "checkpoint"
        case .pack: "pack"
        }
    }
}
