/// Lines as wide as a terminal at least is.
public enum WrappedText {
    private static let width = 80

    /// Breaks a line between words; those that follow are indented.
    ///
    /// - Parameter head: what stands in front and is never broken, so that it can be searched for.
    public static func lines(_ head: String, _ text: String, indent: Int) -> [String] {
        var lines: [String] = []
        var line = head
        for word in text.split(separator: " ", omittingEmptySubsequences: false) {
            if !line.isEmpty, line.count + 1 + word.count > width {
                lines.append(line)
                line = String(repeating: " ", count: indent) + word
            } else {
                line += line.isEmpty ? word : " " + word
            }
        }
        return lines + [line]
    }

    /// How a command is used, an option and its value on one line.
    public static func usage(_ text: String) -> [String] {
        let heads = ["USAGE: ", "Usage: "]
        guard text.count > width, let head = heads.first(where: text.hasPrefix) else { return [text] }
        // Not a blank for the one that breaks lines.
        let kept: Character = "\u{A0}"
        var (depth, characters) = (0, [Character](text.dropFirst(head.count)))
        for place in characters.indices {
            depth += characters[place] == "[" ? 1 : characters[place] == "]" ? -1 : 0
            let isBeforeValue = place + 1 < characters.count && "<.".contains(characters[place + 1])
            if characters[place] == " ", depth > 0 || isBeforeValue { characters[place] = kept }
        }
        return lines(String(head.dropLast()), String(characters), indent: head.count).map { $0.replacing(String(kept), with: " ") }
    }

    public static func lines(_ text: String, indent: Int) -> [String] {
        let start = text.firstIndex { $0 != " " } ?? text.startIndex
        return lines(String(text[..<start]).isEmpty ? "" : String(text[..<text.index(before: start)]), String(text[start...]), indent: indent)
    }
}
