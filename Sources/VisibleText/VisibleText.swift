// Text from files as it may be shown: names, metadata and messages from strangers must not give orders to a terminal, change how other
// text is read, or be taken for commands by the program that runs a workflow and reads its log.

extension Unicode.Scalar {
    /// Whether the character shows nothing by itself, or changes how others are shown: controls, line and paragraph separators, marks
    /// of the direction of writing, characters without width, tags, and code points that are no characters.
    public var isInvisible: Bool {
        switch value {
        case 0x20..<0x7F: return false
        case 0..<0x20, 0x7F..<0xA0: return true
        // The blank of Braille, by its category a symbol.
        case 0x2800: return true
        default:
            switch properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate: return true
            default: return properties.isDefaultIgnorableCodePoint || properties.isNoncharacterCodePoint
            }
        }
    }

    /// The character spelled out: `\n`, `\u{202E}`.
    fileprivate var spelled: String {
        switch self {
        case "\n": "\\n"
        case "\r": "\\r"
        case "\t": "\\t"
        default: "\\u{\(String(value, radix: 16, uppercase: true))}"
        }
    }
}

extension String {
    /// The text with every invisible character spelled out. It is one line, whatever the text was.
    public var visible: String {
        guard unicodeScalars.contains(where: \.isInvisible) else { return self }
        return unicodeScalars.reduce(into: "") { text, scalar in
            if scalar.isInvisible { text += scalar.spelled } else { text.unicodeScalars.append(scalar) }
        }
    }

    /// The text as a line of a terminal or a log: visible, and no command of a workflow.
    public var asLogLine: String {
        let line = visibleWithoutMarks
        return WorkflowCommands.begin(line) ? "| " + line : line
    }

    /// The text as a part of a line that the program begins itself: visible, and without what is a command wherever it stands.
    public var visibleWithoutMarks: String {
        // Nearly all lines are plain, and there may be a hundred thousand.
        let isPlain = utf8.allSatisfy { 0x20..<0x7F ~= $0 && $0 != UInt8(ascii: "#") && $0 != UInt8(ascii: ":") }
        return isPlain ? self : WorkflowCommands.breakingMarks(in: visible) { $0.spelled }
    }
}

/// What programs that run workflows take for commands in the output of a job.
public enum WorkflowCommands {
    /// At the start of a line, after blanks: the commands of GitHub, and the headings of Buildkite.
    private static let starts = ["::", "--- ", "+++ ", "~~~ ", "^^^ "]
    /// Anywhere in a line: the commands of Azure and TeamCity and older ones of GitHub, all of which begin with `##`, and the sections of GitLab.
    private static let marks = ["##", "section_start:", "section_end:"]

    static func begin(_ line: String) -> Bool {
        let first = line.utf8.first { $0 != UInt8(ascii: " ") } ?? 0
        guard first >= 0x80 || ":-+~^".utf8.contains(first) else { return false }
        let text = line.unicodeScalars.drop(while: \.properties.isWhitespace)
        return starts.contains { text.starts(with: $0.unicodeScalars) }
    }

    /// The text with the last character of each mark spelled out.
    public static func breakingMarks(in text: String, spelling: (Unicode.Scalar) -> String) -> String {
        marks.reduce(text) { text, mark in
            guard let last = mark.unicodeScalars.last, text.contains(mark) else { return text }
            return text.replacing(mark, with: mark.dropLast() + spelling(last))
        }
    }
}
