internal import OrderedCollections

/// Tensors of two models that are the same tensor under other names: libraries put an inner model's name in front or leave it out.
enum NameMatching {
    /// What models are called inside of other models.
    private static let wrappers: Set<Substring> = ["model", "language_model", "text_model", "transformer"]

    /// What a name is without them.
    static func withoutWrappers(_ name: String) -> String { name.split(separator: ".").filter { !wrappers.contains($0) }.joined(separator: ".") }

    /// The second model's names by the first's, of tensors that have one key in common; where several could be meant, none is.
    static func pairs(_ first: [String], _ second: [String], by key: (String) -> String) -> OrderedDictionary<String, String> {
        func unique(_ names: [String]) -> OrderedDictionary<String, String> {
            OrderedDictionary(grouping: names, by: key).compactMapValues { $0.count == 1 ? $0[0] : nil }
        }
        let candidates = unique(second)
        var pairs: OrderedDictionary<String, String> = [:]
        for (key, name) in unique(first) { pairs[name] = candidates[key] }
        return pairs
    }

    /// What stands in front of all names of one model and of none of the other's; `nil` where there is no such thing.
    static func outerName(_ names: [String], around inner: [String]) -> String? {
        guard let first = inner.first, let whole = names.first(where: { $0.hasSuffix("." + first) }) else { return nil }
        let outer = String(whole.dropLast(first.count))
        return names.allSatisfy { $0.hasPrefix(outer) } ? outer : nil
    }
}
