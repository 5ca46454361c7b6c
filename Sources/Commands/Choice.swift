internal import ArgumentParser
internal import Tensors

/// Options whose value is one of a few words. Capital and small letters are the same; the words stand in the help, complete in a shell,
/// and are listed, the nearest of them first, where the value is none of them.
extension Option {
    /// - Parameter what: what is chosen, for the help.
    init(
        wrappedValue: Value, name: NameSpecification = .long, choice what: String, valueName: String
    ) where Value: CaseIterable & RawRepresentable<String> & Sendable {
        self.init(
            wrappedValue: wrappedValue, name: name,
            help: ArgumentHelp("\(what): \(Words(Value.self).inWords) (default: \(wrappedValue.rawValue)).", valueName: valueName),
            completion: .list(Words(Value.self).all), transform: Words.value)
    }

    init(name: NameSpecification = .long, choice what: String, valueName: String) where Value: CaseIterable & RawRepresentable<String> & Sendable {
        self.init(
            name: name, help: ArgumentHelp("\(what): \(Words(Value.self).inWords).", valueName: valueName), completion: .list(Words(Value.self).all),
            transform: Words.value)
    }

    /// One that may be left out.
    ///
    /// - Parameter standard: what then stands in its place, for the help.
    init<Element: CaseIterable & RawRepresentable<String> & Sendable>(
        name: NameSpecification = .long, choice what: String, standard: Element, valueName: String
    ) where Value == Element? {
        self.init(
            name: name, help: ArgumentHelp("\(what): \(Words(Element.self).inWords) (default: \(standard.rawValue)).", valueName: valueName),
            completion: .list(Words(Element.self).all), transform: Words.value)
    }

    /// One that may be repeated.
    init<Element: CaseIterable & RawRepresentable<String> & Sendable>(
        wrappedValue: [Element], name: NameSpecification = .long, choice what: String, valueName: String
    ) where Value == [Element] {
        self.init(
            wrappedValue: wrappedValue, name: name,
            help: ArgumentHelp("\(what): \(Words(Element.self).inWords); may be repeated.", valueName: valueName),
            completion: .list(Words(Element.self).all), transform: Words.value)
    }
}

/// The words that an argument may be.
struct Words {
    let all: [String]

    init(_ all: [String]) { self.all = all }

    init<Value: CaseIterable & RawRepresentable<String>>(_: Value.Type) { all = Value.allCases.map(\.rawValue) }

    /// `f32, bf16 or f16`.
    var inWords: String { all.count < 2 ? all.joined() : all.dropLast().joined(separator: ", ") + " or " + (all.last ?? "") }

    /// The choice that a word names.
    static func value<Value: CaseIterable & RawRepresentable<String>>(_ text: String) throws -> Value {
        guard let value = Value.allCases.first(where: { $0.rawValue.lowercased() == text.lowercased() }) else {
            let words = Words(Value.self)
            throw ValidationError("it must be one of \(words.all.joined(separator: ", "))\(words.suggestion(for: text))")
        }
        return value
    }

    /// `. Did you mean 'bf16'?`, where a word is near to what was written.
    func suggestion(for text: String) -> String {
        let text = text.lowercased()
        let nearest = all.min { Self.distance($0, text) < Self.distance($1, text) }
        guard let nearest, Self.distance(nearest, text) <= max(1, min(nearest.count, text.count) / 2) || nearest.hasPrefix(text) && !text.isEmpty
        else {
            return ""
        }
        return ". Did you mean '\(nearest)'?"
    }

    /// How many letters must be added, taken away, changed or swapped with the next one.
    private static func distance(_ first: String, _ second: String) -> Int {
        // What is so long is no word.
        let (a, b) = (Array(first.lowercased().prefix(64)), Array(second.prefix(64)))
        var (before, last, row) = ([Int](), [Int](), Array(0...b.count))
        for i in a.indices {
            (before, last) = (last, row)
            row = [i + 1]
            for j in b.indices {
                var steps = min(last[j + 1] + 1, row[j] + 1, last[j] + (a[i] == b[j] ? 0 : 1))
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { steps = min(steps, before[j - 1] + 1) }
                row.append(steps)
            }
        }
        return row[b.count]
    }
}

/// The element type that a command writes.
enum WrittenType: String, CaseIterable {
    case f32, bf16, f16

    var dtype: DType {
        switch self {
        case .f32: .f32
        case .bf16: .bf16
        case .f16: .f16
        }
    }
}

/// The element type that a command writes, where it may be that of what it reads.
enum KeptType: String, CaseIterable {
    case keep, f32, bf16, f16

    /// `nil` for that of what is read.
    var dtype: DType? { WrittenType(rawValue: rawValue)?.dtype }
}
