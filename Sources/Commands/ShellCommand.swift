/// A command as somebody can paste it into a shell.
struct ShellCommand: CustomStringConvertible {
    private var words: [String]

    init(_ words: String...) { self.words = words }

    mutating func add(_ option: String, _ value: String) {
        // After a space it would be taken for an option.
        words += value.hasPrefix("-") ? ["\(option)=\(value)"] : [option, value]
    }

    mutating func add(_ option: String, _ value: Int) { add(option, "\(value)") }

    mutating func add(flag: String) { words.append(flag) }

    var description: String { words.map(Self.quoted).joined(separator: " ") }

    private static let plain = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=@%+,")

    /// One word of a shell, whatever is in it.
    private static func quoted(_ word: String) -> String {
        guard word.isEmpty || !word.allSatisfy(plain.contains) else { return word }
        return "'" + word.replacing("'", with: #"'\''"#) + "'"
    }
}
