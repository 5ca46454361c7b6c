/// Names of which those that differ in numbers alone, and share their attributes, are one group: what repeated layers have
/// in common.
///
/// There may be a hundred thousand names. A name is compared with the group that followed the last name's group before,
/// for layers repeat in the same order, and looked up in a table only where it is of another.
package struct FoldedNames<Attributes: Hashable> {
    package struct Group {
        let pattern: NamePattern
        package let attributes: Attributes
        /// How many names are of this group.
        package fileprivate(set) var count = 0
        /// The numbers of all its names, each name's in their order.
        fileprivate(set) var numbers: [Int] = []
        /// The group of the name that came after the last one of this group.
        fileprivate var successor = 0

        /// The name with what stands in the gaps: `model.layers.{0…29}.self_attn.q_proj.weight`.
        package var name: String {
            let gaps = pattern.gaps
            return pattern.name { position in
                describe(numbers: stride(from: position, to: numbers.count, by: gaps).map { numbers[$0] })
            }
        }
    }

    private struct Key: Hashable {
        let pattern: NamePattern
        let attributes: Attributes
    }

    /// In the order in which their first names came.
    package private(set) var groups: [Group] = []
    private var indices: [Key: Int] = [:]
    private var last: Int?
    private var numbers: [Int] = []

    package init() {}

    package mutating func insert(_ name: borrowing String, _ attributes: Attributes) {
        let text = name.utf8Span.span
        if let last {
            let expected = groups[last].successor
            if groups[expected].attributes == attributes, groups[expected].pattern.matches(text, &numbers) {
                add(to: expected)
                return
            }
        }
        let pattern = NamePattern(text, &numbers)
        let key = Key(pattern: pattern, attributes: attributes)
        let index = indices[key] ?? groups.count
        if index == groups.count {
            groups.append(Group(pattern: pattern, attributes: attributes))
            indices[key] = index
        }
        if let last { groups[last].successor = index }
        add(to: index)
    }

    private mutating func add(to index: Int) {
        groups[index].count += 1
        for number in numbers { groups[index].numbers.append(number) }
        last = index
    }
}

/// A name with the numbers between its dots left out.
package struct NamePattern: Hashable {
    /// The name's UTF-8 with each number replaced by `gap`.
    private let bytes: [UInt8]
    /// How many numbers were left out.
    package let gaps: Int

    /// Stands for a number; never part of UTF-8.
    private static let gap: UInt8 = 0xFF
    private static let dot = UInt8(ascii: ".")

    /// - Parameter numbers: takes the numbers that are left out, in order.
    package init(_ name: Span<UInt8>, _ numbers: inout [Int]) {
        numbers.removeAll(keepingCapacity: true)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(name.count)
        var position = 0
        while position < name.count {
            if position == 0 || name[position - 1] == Self.dot, let (number, end) = Self.number(name, at: position) {
                numbers.append(number)
                bytes.append(Self.gap)
                position = end
            } else {
                bytes.append(name[position])
                position += 1
            }
        }
        self.bytes = bytes
        gaps = numbers.count
    }

    /// Whether `name` has this pattern.
    ///
    /// - Parameter numbers: takes the numbers that are left out, in order.
    package func matches(_ name: Span<UInt8>, _ numbers: inout [Int]) -> Bool {
        numbers.removeAll(keepingCapacity: true)
        let bytes = bytes.span
        var position = 0
        for index in bytes.indices {
            if bytes[index] == Self.gap {
                guard let (number, end) = Self.number(name, at: position) else { return false }
                numbers.append(number)
                position = end
            } else {
                guard position < name.count, name[position] == bytes[index] else { return false }
                position += 1
            }
        }
        return position == name.count
    }

    /// The number that begins at `start` and ends before a dot or with the name. Eighteen digits fit; a longer one, or one with
    /// a leading zero, is a name like any other.
    private static func number(_ name: Span<UInt8>, at start: Int) -> (Int, end: Int)? {
        var end = start
        var number = 0
        while end < name.count, end - start < 18, case let digit = name[end] &- UInt8(ascii: "0"), digit < 10 {
            number = number * 10 + Int(digit)
            end += 1
        }
        guard end > start, end == name.count || name[end] == dot, end - start == 1 || name[start] != UInt8(ascii: "0") else { return nil }
        return (number, end)
    }

    /// The name with `text(n)` in the place of the n-th number.
    package func name(_ text: (Int) -> String) -> String {
        var name: [UInt8] = []
        var position = 0
        for byte in bytes {
            if byte == Self.gap {
                name += Array(text(position).utf8)
                position += 1
            } else {
                name.append(byte)
            }
        }
        return String(decoding: name, as: UTF8.self)
    }

    /// What stands before the first number, without the dot between; `nil` where there is no number.
    package var beforeFirstNumber: String? {
        guard let end = bytes.firstIndex(of: Self.gap) else { return nil }
        return String(decoding: bytes[..<max(0, end - 1)], as: UTF8.self)
    }
}

/// `3`, `{0…29}`, or `{0,2,5…7}`; long lists are cut.
private func describe(numbers: [Int]) -> String {
    let isSorted = zip(numbers, numbers.dropFirst()).allSatisfy { $0 < $1 }
    let sorted = isSorted ? numbers : Set(numbers).sorted()
    guard sorted.count > 1 else { return sorted.first.map(String.init) ?? "" }
    var runs: [ClosedRange<Int>] = []
    for number in sorted {
        if let last = runs.last, last.upperBound + 1 == number {
            runs[runs.count - 1] = last.lowerBound...number
        } else {
            runs.append(number...number)
        }
    }
    let most = 8
    let texts = runs.prefix(most).map { run in
        run.count == 1 ? "\(run.lowerBound)" : "\(run.lowerBound)\(run.count == 2 ? "," : "…")\(run.upperBound)"
    }
    return "{" + texts.joined(separator: ",") + (runs.count > most ? ",…" : "") + "}"
}
