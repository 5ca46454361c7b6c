import JSON
import OrderedCollections
import Testing
import Tokenizer

/// How texts are cut into pieces. What is expected was seen in `tokenizers` and is what the patterns say.
@Suite struct PatternTests {
    @Test(arguments: [
        ("", []), (" ", [" "]), ("a", ["a"]), ("Hello world", ["Hello", " world"]), ("x  y", ["x", " ", " y"]), ("x   ", ["x", "   "]),
        ("a1 b22", ["a", "1", " b", "22"]), ("a  1", ["a", " ", " 1"]), ("x\ty", ["x", "\t", "y"]), ("x\t\ty", ["x", "\t", "\t", "y"]),
        ("x\n\ny", ["x", "\n", "\n", "y"]), ("it's", ["it", "'s"]), ("it'S", ["it", "'", "S"]), ("we'll've", ["we", "'ll", "'ve"]),
        ("'lx", ["'", "lx"]), (" 's", [" '", "s"]), ("''s", ["''", "s"]), ("'", ["'"]), ("'r", ["'", "r"]),
        ("hi!? :)", ["hi", "!?", " :)"]),
        ("e\u{301}t", ["e", "\u{301}", "t"]), ("½x²", ["½", "x", "²"]), ("a\u{A0}b", ["a", "\u{A0}", "b"]),
        ("a \u{A0}b", ["a", " ", "\u{A0}", "b"]),
        ("日本 語", ["日本", " 語"]), ("a\u{200B}b", ["a", "\u{200B}", "b"]), ("👍🏽 x", ["👍🏽", " x"]), ("\u{378}\u{E000}", ["\u{378}\u{E000}"]),
    ])
    func gpt2Pieces(_ text: String, _ expected: [String]) throws {
        #expect(try pieces(text, gpt2) == expected)
        #expect(try pieces(text, sequence(split(gpt2Regex), wholeText)) == expected)
        #expect(try pieces(text, sequence(split(gpt2Regex, behavior: "Removed", invert: true), wholeText)) == expected)
    }

    @Test(arguments: [
        ("", []), ("Hello world", ["Hello", " world"]), ("x  y", ["x", " ", " y"]), ("x   ", ["x", "   "]), ("x\ty", ["x", "\ty"]),
        ("12345 678", ["123", "45", " ", "678"]), ("it's IT'S", ["it", "'s", " IT", "'S"]), ("'LL'lL", ["'LL", "'lL"]),
        ("'\u{17F}x", ["'\u{17F}", "x"]),
        ("'x", ["'x"]), ("''s", ["''", "s"]), ("(word)", ["(word", ")"]), ("a.b", ["a", ".b"]), ("!?\n\nx", ["!?\n\n", "x"]),
        (" !\r\n x", [" !\r\n", " x"]),
        ("x \n y", ["x", " \n", " y"]), ("x\n  \n  y", ["x", "\n  \n", " ", " y"]), ("\r\n", ["\r\n"]), ("\n\n  ", ["\n\n", "  "]),
        ("\nx", ["\n", "x"]),
        ("  \t", ["  \t"]), ("\u{A0}x", ["\u{A0}x"]), ("e\u{301}t", ["e", "\u{301}t"]), ("½²³x", ["½²³", "x"]),
        ("\u{661}\u{662}\u{663}\u{664}", ["\u{661}\u{662}\u{663}", "\u{664}"]),
        ("日本 語", ["日本", " 語"]), (" 1", [" ", "1"]), ("\u{85}\n", ["\u{85}\n"]), ("a\u{2028}b", ["a", "\u{2028}b"]),
    ])
    func llama3Pieces(_ text: String, _ expected: [String]) throws {
        #expect(try pieces(text, llama3) == expected)
    }

    @Test func qwen2TakesDigitsOneByOne() throws {
        #expect(try pieces("a12 345", qwen2) == ["a", "1", "2", " ", "3", "4", "5"])
        #expect(try pieces("it's\n", qwen2) == ["it", "'s", "\n"])
    }

    @Test func digitsAreCutOneByOneOrInRuns() throws {
        let single: JSONValue = ["type": "Digits", "individual_digits": true]
        let runs: JSONValue = ["type": "Digits", "individual_digits": false]
        #expect(try pieces("a 12½ b", sequence(single, gpt2)) == ["a", " ", "1", "2", "½", " b"])
        #expect(try pieces("a 12½ b", sequence(runs, gpt2)) == ["a", " ", "12½", " b"])
        #expect(try pieces("a 12½ b", sequence(runs, wholeText)) == ["a ", "12½", " b"])
        // Digits of Unicode 17, which Digits knows and \p{N} does not.
        #expect(try pieces("\u{11DE1}\u{11DE2}!", sequence(single, gpt2)) == ["\u{11DE1}", "\u{11DE2}", "!"])
        #expect(try pieces("\u{11DE1}\u{11DE2}!", gpt2) == ["\u{11DE1}\u{11DE2}!"])
    }

    @Test func aSpaceIsPutBeforeAText() throws {
        let prefixed: JSONValue = ["type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true]
        let tokenizer = try Tokenizer(json: tokenizerJSON(preTokenizer: prefixed, added: [addedToken(256, "<m>")]), name: "test")
        #expect(tokenizer.encode("") == [])
        #expect(tokenizer.encode("a") == [32, 97])
        #expect(tokenizer.encode(" a") == [32, 97])
        #expect(tokenizer.encode("\ta") == [32, 9, 97])
        #expect(tokenizer.encode("a<m>b") == [32, 97, 256, 32, 98])
        let digits: JSONValue = ["type": "Digits", "individual_digits": true]
        let each = try Tokenizer(json: tokenizerJSON(preTokenizer: sequence(digits, prefixed)), name: "test")
        #expect(each.encode("a12") == [32, 97, 32, 49, 32, 50])
    }

    /// The classes against Swift's own, for scalars that were assigned before the versions of either: merges show whether
    /// a scalar stands in one piece with a letter, a digit or a sign before it.
    @Test func characterClassesAreThoseOfUnicode() throws {
        let leads = (0x80...0xF4).map { alphabet[$0] }
        let tokenizer = try Tokenizer(
            json: tokenizerJSON(
                tokens: ["a", "1", "!"].flatMap { first in leads.map { first + $0 } },
                merges: ["a", "1", "!"].flatMap { first in leads.map { .string("\(first) \($0)") } }), name: "test")
        for code in [0x80..<0x3400, 0xA000..<0xA900, 0xF900..<0x10000, 0x10000..<0x12000, 0x16E00..<0x17000].joined() {
            guard let scalar = Unicode.Scalar(UInt32(code)), let age = scalar.properties.age, age.major <= 15 else { continue }
            let isMerged = ["a", "1", "!"].map { tokenizer.encode($0 + String(scalar))[0] >= 256 }
            let expected =
                switch scalar.properties.generalCategory {
                case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: [true, false, false]
                case .decimalNumber, .letterNumber, .otherNumber: [false, true, false]
                default: [false, false, !scalar.properties.isWhitespace]
                }
            #expect(isMerged == expected, "U+\(String(code, radix: 16))")
        }
    }
}
