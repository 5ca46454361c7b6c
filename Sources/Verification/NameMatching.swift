public import OrderedCollections

/// Tensors of two models that are the same tensor under other names: libraries put an inner model's name in front or leave it out.
public enum NameMatching {
    /// What models are called inside of other models.
    private static let wrappers: Set<Substring> = ["model", "language_model", "text_model", "transformer"]

    /// The second model's names by the first's, of tensors that each has under a name of its own; where several could be meant, none is.
    public static func pairs(_ first: some Sequence<String>, _ second: some Sequence<String>) -> OrderedDictionary<String, String> {
        let (own, other) = (Set(first), Set(second))
        let candidates = unique(second.filter { !own.contains($0) })
        let wanted = unique(first.filter { !other.contains($0) })
        var pairs: OrderedDictionary<String, String> = [:]
        for (key, name) in wanted { pairs[name] = candidates[key] }
        return pairs
    }

    /// Names by what they are without wrappers, those that are alone in that.
    private static func unique(_ names: [String]) -> OrderedDictionary<[Substring], String> {
        OrderedDictionary(grouping: names) { name in name.split(separator: ".").filter { !wrappers.contains($0) } }
            .compactMapValues { $0.count == 1 ? $0[0] : nil }
    }
}
