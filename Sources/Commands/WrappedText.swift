/// Lines as wide as a terminal at least is.
enum WrappedText {
    private static let width = 80

    /// Breaks a line between words; those that follow are indented.
    ///
    /// - Parameter head: what stands in front and is never broken, so that it can be searched for.
    static func lines(_ head: String, _ text: String, indent: Int) -> [String] {
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

    static func lines(_ text: String, indent: Int) -> [String] {
        let start = text.firstIndex { $0 != " " } ?? text.startIndex
        return lines(String(text[..<start]).isEmpty ? "" : String(text[..<text.index(before: start)]), String(text[start...]), indent: indent)
    }
}
