extension PEFTPattern {
    /// The most bytes of a key that goes to the regular expression engine.
    static let maximumBytes = 1024
    /// The most groups and character classes.
    static let maximumBrackets = 64
    /// The most repetitions (`*`, `+`, `{`). The engine goes back and tries again, so that the time grows with the length of a
    /// module's name to the power of their number.
    static let maximumRepetitions = 4

    /// Whether a key is a regular expression that can be tried in reasonable time and stack: short, not deep, with few
    /// repetitions, and no group repeated that repeats or chooses inside, which takes a time exponential in the name's length.
    static func isBounded(_ key: String) -> Bool {
        guard key.utf8.count <= maximumBytes else { return false }
        /// For each open group, whether it repeats or chooses.
        var groups: [Bool] = []
        var brackets = 0
        var repetitions = 0
        var classDepth = 0
        /// Whether what has just ended is a group that repeats or chooses.
        var closed = false
        var rest = Substring(key).utf8
        while let byte = rest.popFirst() {
            let isAfterChoice = closed
            closed = false
            switch byte {
            case UInt8(ascii: "\\"):
                _ = rest.popFirst()
            case UInt8(ascii: "["):
                classDepth += 1
                brackets += 1
            case UInt8(ascii: "]"):
                classDepth = max(classDepth - 1, 0)
            case _ where classDepth > 0:
                break
            case UInt8(ascii: "("):
                groups.append(false)
                brackets += 1
            case UInt8(ascii: ")"):
                closed = groups.popLast() ?? false
                // What a group does, the group around it does.
                if closed, !groups.isEmpty { groups[groups.count - 1] = true }
            case UInt8(ascii: "|"), UInt8(ascii: "?"):
                if !groups.isEmpty { groups[groups.count - 1] = true }
            case UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: "{"):
                guard !isAfterChoice else { return false }
                repetitions += 1
                if !groups.isEmpty { groups[groups.count - 1] = true }
            default:
                break
            }
        }
        return brackets <= maximumBrackets && repetitions <= maximumRepetitions
    }
}
