import FileIO
import JSON
import OrderedCollections
import TestSupport
import Testing
import Tokenizer

/// Merging, decoding and the tokens themselves.
@Suite struct ModelTests {
    /// Byte-pair encoding as it is defined, on strings.
    private func merged(_ text: String, _ ranks: [String: Int]) -> [String] {
        var symbols = text.utf8.map { alphabet[Int($0)] }
        while true {
            let pairs = zip(symbols, symbols.dropFirst()).enumerated().compactMap { place, pair in
                ranks["\(pair.0) \(pair.1)"].map { ($0, place) }
            }
            guard let (_, place) = pairs.min(by: { $0 < $1 }) else { return symbols }
            symbols[place] += symbols.remove(at: place + 1)
        }
    }

    @Test func longPiecesAreMergedAsShortOnes() throws {
        var root = try #require(try JSONValue(parsing: FileSystem.contents(of: fixturePath, limit: 1 << 24)).objectValue)
        root["pre_tokenizer"] = wholeText
        let tokenizer = try Tokenizer(json: .object(root), name: fixturePath)
        let merges = root["model"]?["merges"]?.arrayValue ?? []
        let ranks = Dictionary(
            merges.enumerated().map { ($1.stringValue ?? "\($1.arrayValue![0].stringValue!) \($1.arrayValue![1].stringValue!)", $0) },
            uniquingKeysWith: { $1 })
        let seed = UInt64.random(in: .min ... .max)
        var generator = SeededGenerator(seed: seed)
        let words = ["the", "and", " God", " of", "ing", "tion", "a", "aa", " ", "e", "th", "said", "\n", "é"]
        for _ in 0..<60 {
            let text = (0..<Int.random(in: 1...120, using: &generator)).map { _ in words.randomElement(using: &generator)! }.joined()
            #expect(tokenizer.encode(text).map { tokenizer.token($0) } == merged(text, ranks), "seed \(seed): \(text.debugDescription)")
        }
    }

    @Test(.timeLimit(.minutes(1))) func oneHugePieceTakesNoQuadraticTime() throws {
        let tokenizer = try Tokenizer(
            json: tokenizerJSON(preTokenizer: wholeText, tokens: ["aa", "aaaa"], merges: ["a a", "aa aa"]), name: "test")
        let ids = tokenizer.encode(String(repeating: "a", count: 1_000_003))
        #expect(ids.count == 250_002)
        #expect(ids.dropLast(2).allSatisfy { $0 == 257 } && ids.suffix(2) == [256, 97])
    }

    @Test func mergesFollowTheirRank() throws {
        let early = try Tokenizer(json: tokenizerJSON(tokens: ["ab", "bc"], merges: ["a b", "b c"]), name: "test")
        let late = try Tokenizer(json: tokenizerJSON(tokens: ["ab", "bc"], merges: [["b", "c"], ["a", "b"]]), name: "test")
        #expect(early.encode("abc") == [256, 99])
        #expect(late.encode("abc") == [97, 257])
        // Of the same pair, the leftmost first; of two entries for a pair, the last counts.
        let run = try Tokenizer(json: tokenizerJSON(tokens: ["aa"], merges: ["a a"]), name: "test")
        #expect(run.encode("aaa") == [256, 97])
        let twice = try Tokenizer(json: tokenizerJSON(tokens: ["ab", "bc"], merges: ["a b", "b c", "a b"]), name: "test")
        #expect(twice.encode("abc") == [97, 257])
        let old = try Tokenizer(json: tokenizerJSON(tokens: ["ab"], merges: ["#version: 0.2", "a b"]), name: "test")
        #expect(old.encode("ab") == [256])
    }

    @Test func ignoringMergesTakesWholeTokensOnly() throws {
        let tokens = ["ab", "abc"]
        let ignoring = try Tokenizer(json: tokenizerJSON(tokens: tokens, merges: ["a b"], model: ["ignore_merges": true]), name: "test")
        #expect(ignoring.encode("abc") == [257])
        #expect(ignoring.encode("abcd") == [256, 99, 100])
        let merging = try Tokenizer(json: tokenizerJSON(tokens: tokens, merges: ["a b"]), name: "test")
        #expect(merging.encode("abc") == [256, 99])
    }

    @Test func bytesWithoutTokenAreDroppedOrUnknown() throws {
        var vocabulary = try #require(tokenizerJSON(tokens: ["ab"])["model"]?["vocab"]?.objectValue)
        vocabulary[alphabet[7]] = nil
        let dropping = try Tokenizer(json: tokenizerJSON(merges: ["a b"], model: ["vocab": .object(vocabulary)]), name: "test")
        #expect(dropping.missingBytes == [7])
        #expect(dropping.encode("a\u{7}b") == [97, 98])
        #expect(dropping.encode("\u{7}") == [])
        let whole = try Tokenizer(
            json: tokenizerJSON(preTokenizer: wholeText, merges: ["a b"], model: ["vocab": .object(vocabulary)]), name: "test")
        #expect(whole.encode("a\u{7}b") == [256])
        let unknown = try Tokenizer(json: tokenizerJSON(model: ["vocab": .object(vocabulary), "unk_token": "!"]), name: "test")
        #expect(unknown.encode("a\u{7}\u{7}b") == [97, 33, 33, 98])
        #expect(unknown.missingBytes == [])
    }

    @Test func tokensAndIDsNameEachOther() throws {
        let json = tokenizerJSON(tokens: ["Ġthe"], added: [addedToken(257, "<｜end｜>", "special"), addedToken(258, "œuf")])
        let tokenizer = try Tokenizer(json: json, name: "test")
        #expect(tokenizer.vocabularySize == 259)
        #expect(tokenizer.token(256) == "Ġthe" && tokenizer.id(of: "Ġthe") == 256)
        #expect(tokenizer.token(257) == "<｜end｜>" && tokenizer.id(of: "<｜end｜>") == 257)
        #expect(tokenizer.token(-1) == nil && tokenizer.token(259) == nil && tokenizer.token(.max) == nil)
        #expect(tokenizer.id(of: " the") == nil && tokenizer.id(of: "") == nil)
    }

    @Test func decodingRepairsWhatIsCutAndSkipsWhatIsSpecial() throws {
        let added: JSONValue = [addedToken(256, "<｜end｜>", "special"), addedToken(257, "œuf")]
        let tokenizer = try Tokenizer(json: tokenizerJSON(added: added), name: "test")
        #expect(tokenizer.decode([97, 256, 257, 98]) == "a<｜end｜>œufb")
        #expect(tokenizer.decode([97, 256, 257, 98], skippingSpecialTokens: true) == "aœufb")
        // A character cut short, a byte of no character, a good one, and ids of no token.
        #expect(tokenizer.decode([0xF0, 0x9F, 0x98, 0x41, 0xFF, 0xC3, 0xA9, 999, -3]) == "\u{FFFD}A\u{FFFD}é")
        #expect(tokenizer.decode([0xED, 0xA0, 0x80]) == "\u{FFFD}\u{FFFD}\u{FFFD}")
        #expect(tokenizer.decode([]) == "")
        let bare = try Tokenizer(json: tokenizerJSON(added: added, ["decoder": .null]), name: "test")
        #expect(bare.decode([97, 32, 256]) == "a Ġ <｜end｜>")
    }

    @Test func decodingUndoesEncoding() throws {
        let tokenizer = try Tokenizer(contentsOf: fixturePath)
        let patterns = try [gpt2, llama3, qwen2, wholeText].map { try Tokenizer(json: tokenizerJSON(preTokenizer: $0), name: "test") }
        let seed = UInt64.random(in: .min ... .max)
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<2000 {
            let text = generator.text(length: 40)
            let bytes = Array(text.utf8)
            #expect(Array(tokenizer.decode(tokenizer.encode(text)).utf8) == bytes, "seed \(seed): \(text.debugDescription)")
            for tokenizer in patterns {
                #expect(tokenizer.encode(text) == bytes.map(Int32.init), "seed \(seed): \(text.debugDescription)")
            }
        }
    }

    @Test func mappedFilesEncodeAsStrings() throws {
        let tokenizer = try Tokenizer(contentsOf: fixturePath)
        let path = Repository.fixture("texts/adapt-heldout.txt")
        let file = try MappedFile(path: path)
        let text = String(decoding: try FileSystem.contents(of: path, limit: 1 << 24), as: UTF8.self)
        let ids = try tokenizer.encode(utf8: file.bytes, from: path)
        #expect(ids == tokenizer.encode(text))
        #expect(ids.count > 1000 && tokenizer.decode(ids) == text)
    }

    @Test func concurrentEncodingsAgree() async throws {
        let tokenizer = try Tokenizer(contentsOf: fixturePath)
        let text = String(repeating: "In the beginning God created the heaven and the earth. 1234\n", count: 50)
        let expected = tokenizer.encode(text)
        await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<16 { group.addTask { (0..<5).allSatisfy { _ in tokenizer.encode(text) == expected } } }
            for await agrees in group { #expect(agrees) }
        }
    }
}
