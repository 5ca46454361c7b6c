internal import _StringProcessing

/// A key of PEFT's `rank_pattern` or `alpha_pattern`.
///
/// PEFT matches a module's name against the regular expression `(.*\.)?(KEY)$`, from the start, and takes the first key
/// that matches. Keys that are names, with dots that stand for any character as they do in the expression, are matched
/// without the regular expression engine; all others go through it.
struct PEFTPattern: Sendable {
    let key: String
    private let matcher: Matcher

    private enum Matcher: Sendable {
        /// A fixed number of characters, `nil` standing for any but a line feed; optionally anchored at the start.
        case characters([UInt8?], isAnchored: Bool)
        case expression
    }

    /// - Returns: `nil` when the key is no regular expression, or one that a stranger can make take forever.
    init?(_ key: String) {
        self.key = key
        if let plain = Self.plain(key) {
            matcher = plain
        } else {
            guard Self.isBounded(key), (try? Self.expression(key)) != nil else { return nil }
            matcher = .expression
        }
    }

    /// Whether the key is meant for the module.
    func matches(_ module: ModulePath) -> Bool {
        switch matcher {
        case .characters(let pattern, let isAnchored):
            let name = Array(module.text.utf8)
            let start = name.count - pattern.count
            guard start >= 0, isAnchored ? start == 0 : start == 0 || name[start - 1] == UInt8(ascii: ".") else { return false }
            return zip(pattern, name[start...]).allSatisfy { $0 == nil || $0 == $1 }
        case .expression:
            guard let expression = try? Self.expression(key) else { return false }
            return (try? expression.wholeMatch(in: module.text)) != nil
        }
    }

    /// A whole match of it is a match of PEFT's `(.*\.)?(KEY)$` from the start.
    private static func expression(_ key: String) throws -> Regex<AnyRegexOutput> {
        try Regex("(.*\\.)?(\(key))").matchingSemantics(.unicodeScalar)
    }

    private static func plain(_ key: String) -> Matcher? {
        var characters: [UInt8?] = []
        var rest = Substring(key).utf8
        let isAnchored = rest.first == UInt8(ascii: "^")
        if isAnchored { rest.removeFirst() }
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "_"), UInt8(ascii: "-"):
                characters.append(byte)
            case UInt8(ascii: "."):
                characters.append(nil)
            case UInt8(ascii: "\\") where rest.first == UInt8(ascii: "."):
                rest.removeFirst()
                characters.append(UInt8(ascii: "."))
            default:
                return nil
            }
        }
        return characters.isEmpty ? nil : .characters(characters, isAnchored: isAnchored)
    }
}
