internal import Adapters
internal import ArgumentParser
internal import Kernels
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
        let own = (Value.self as? any HasOtherNames.Type)?.otherNames[text.lowercased()] ?? text.lowercased()
        guard let value = Value.allCases.first(where: { $0.rawValue.lowercased() == own }) else {
            let words = Words(Value.self)
            throw ValidationError("it must be one of \(words.all.joined(separator: ", "))\(words.suggestion(for: text))")
        }
        return value
    }

    /// `. Did you mean 'bf16'?`, where a word is near to what was written.
    ///
    /// - Parameter prefix: what stands before each word where it is written.
    func suggestion(for text: String, prefix: String = "") -> String {
        nearest(to: text.lowercased()).map { ". Did you mean '\(prefix)\($0)'?" } ?? ""
    }

    /// The word that was meant, as far as the letters tell: one with few others, or one of which only the beginning is there, or that is the
    /// beginning.
    private func nearest(to text: String) -> String? {
        let nearest = all.min { Self.distance($0, text) < Self.distance($1, text) }
        if let nearest, Self.distance(nearest, text) <= max(1, min(nearest.count, text.count) / 2) { return nearest }
        return text.isEmpty ? nil : all.first { $0.lowercased().hasPrefix(text) || $0.count > 2 && text.hasPrefix($0.lowercased()) }
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

/// A choice for which other tools have names of their own. Those that can mean nothing else are taken; help and completion leave them out.
protocol HasOtherNames {
    /// From the other name, in small letters, to the word here.
    static var otherNames: [String: String] { get }
}

extension Adapter.Layout: HasOtherNames {
    static let otherNames = ["mlx-lm": "mlx", "mlx_lm": "mlx", "llama.cpp": "gguf", "llama-cpp": "gguf", "llamacpp": "gguf", "sd-scripts": "kohya"]
}

extension ServingStack: HasOtherNames {
    static let otherNames = ["mlx-lm": "mlx", "mlx_lm": "mlx", "llama-cpp": "llama.cpp", "llamacpp": "llama.cpp"]
}

extension WrittenType: HasOtherNames { static let otherNames = DType.namesInTorch }
extension KeptType: HasOtherNames { static let otherNames = DType.namesInTorch }
extension Precision: HasOtherNames { static let otherNames = DType.namesInTorch }

extension DType {
    fileprivate static let namesInTorch = [
        "float32": "f32", "float": "f32", "fp32": "f32", "bfloat16": "bf16", "float16": "f16", "half": "f16", "fp16": "f16",
    ]
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
