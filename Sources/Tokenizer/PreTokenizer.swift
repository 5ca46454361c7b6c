/// The steps that cut text into the pieces within which tokens are merged, ending with ByteLevel.
struct PreTokenizer: Sendable, Equatable {
    enum Step: Sendable, Equatable {
        /// Sets digits apart from all else, one by one or in runs.
        case digits(individually: Bool)
        case split(SplitPattern)
    }

    /// The steps before ByteLevel, each of which cuts the pieces of the one before.
    var steps: [Step] = []
    /// Whether ByteLevel puts a space before each piece that reaches it without one.
    var addsPrefixSpace = false
    /// The pattern by which ByteLevel cuts what reaches it, the added space included.
    var bytePattern: SplitPattern?
}

extension PreTokenizer.Step {
    /// The end of the piece that starts at `start`; see `SplitPattern.endOfPiece`.
    func endOfPiece(in text: Span<UInt8>, from start: Int, to end: Int, _ classes: CharacterClasses) -> Int {
        switch self {
        case .split(let pattern):
            return pattern.endOfPiece(in: text, from: start, to: end, classes)
        case .digits(let individually):
            let (kind, length) = classes.character(in: text, at: start)
            if !kind.contains(.numeric) { return classes.endOfRun(outside: .numeric, in: text, from: start + length, to: end) }
            return individually ? start + length : classes.endOfRun(of: .numeric, in: text, from: start + length, to: end)
        }
    }
}
