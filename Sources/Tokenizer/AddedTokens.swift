/// A token that is looked for in the text before anything else is done to it.
struct AddedToken: Sendable, Equatable {
    let id: Int32
    let content: String
    /// Only where no letter or digit touches it.
    let isSingleWord: Bool
    /// Takes the white space before it along.
    let stripsLeft: Bool
    /// Takes the white space behind it along.
    let stripsRight: Bool
    /// Looked for after the text has been normalised; without a normaliser this still means: after all that are not.
    let isNormalized: Bool
    let isSpecial: Bool
}

/// Finds added tokens in a text: the leftmost match, and of those the longest.
struct AddedTokenMatcher: Sendable {
    struct Segment {
        let range: Range<Int>
        /// The id of the added token; `nil` for text between them.
        let id: Int32?
    }

    private struct Node: Sendable {
        var children: [(byte: UInt8, node: Int)] = []
        /// The token that ends here.
        var token: Int?
    }

    private let tokens: [AddedToken]
    /// A tree of the tokens' bytes; the root is the first node.
    private var nodes = [Node()]
    /// The child of the root for each byte, or 0: what nearly every byte of a text is asked.
    private var roots = [Int](repeating: 0, count: 256)

    /// The contents are not empty and differ from each other.
    init(_ tokens: [AddedToken]) {
        self.tokens = tokens
        for (index, token) in tokens.enumerated() {
            var current = 0
            for byte in token.content.utf8 {
                if let child = child(of: current, byte) {
                    current = child
                } else {
                    nodes.append(Node())
                    nodes[current].children.append((byte, nodes.count - 1))
                    if current == 0 { roots[Int(byte)] = nodes.count - 1 }
                    current = nodes.count - 1
                }
            }
            nodes[current].token = index
        }
    }

    private func child(of node: Int, _ byte: UInt8) -> Int? {
        nodes[node].children.first { $0.byte == byte }?.node
    }

    /// Cuts `range` of a text into added tokens and what is between them.
    func segments(of text: Span<UInt8>, in range: Range<Int>, _ classes: CharacterClasses) -> [Segment] {
        guard !tokens.isEmpty else { return [Segment(range: range, id: nil)] }
        var segments: [Segment] = []
        var done = range.lowerBound
        var position = range.lowerBound
        // The white space seen last, so that a token that is itself white space does not walk over it again and again.
        var space = 0..<0
        while position < range.upperBound {
            guard let (token, matchEnd) = match(text, at: position, before: range.upperBound) else {
                position += 1
                continue
            }
            var (start, end) = (position, matchEnd)
            // Matches do not overlap, not even with those that are discarded here.
            position = matchEnd
            if token.isSingleWord {
                let touchesLeft = start > range.lowerBound && classes.character(in: text, before: start).class.contains(.word)
                let touchesRight = end < range.upperBound && classes.character(in: text, at: end).class.contains(.word)
                if touchesLeft || touchesRight { continue }
            }
            if token.stripsLeft {
                while start > done {
                    let (kind, length) = classes.character(in: text, before: start)
                    guard kind.contains(.space) else { break }
                    start -= length
                }
            }
            if token.stripsRight {
                if !space.contains(end) { space = end..<classes.endOfRun(of: .space, in: text, from: end, to: range.upperBound) }
                end = space.upperBound
            }
            if done < start { segments.append(Segment(range: done..<start, id: nil)) }
            // A token whose own spaces were taken by the one before it still counts, as in the reference library.
            segments.append(Segment(range: min(start, end)..<end, id: token.id))
            done = end
        }
        if done < range.upperBound { segments.append(Segment(range: done..<range.upperBound, id: nil)) }
        return segments
    }

    /// The longest token that starts at `position`, and its end.
    @inline(__always)
    private func match(_ text: Span<UInt8>, at position: Int, before end: Int) -> (AddedToken, Int)? {
        let root = roots[Int(text[position])]
        return root == 0 ? nil : match(text, at: position, before: end, root: root)
    }

    private func match(_ text: Span<UInt8>, at position: Int, before end: Int, root: Int) -> (AddedToken, Int)? {
        var node = root
        var next = position + 1
        var longest: (AddedToken, Int)?
        while true {
            if let token = nodes[node].token { longest = (tokens[token], next) }
            guard next < end, let child = child(of: node, text[next]) else { return longest }
            node = child
            next += 1
        }
    }
}
