import JSON
import OrderedCollections
import Testing
import Tokenizer

/// Added tokens in the text. The expected ids were seen in `tokenizers`; tokens below 256 are bytes.
@Suite struct AddedTokenTests {
    private func encode(_ text: String, _ added: JSONValue...) throws -> [Int32] {
        try Tokenizer(json: tokenizerJSON(added: .array(added)), name: "test").encode(text)
    }

    @Test func theLeftmostTokenCountsAndThenTheLongest() throws {
        let added = [addedToken(256, "<a"), addedToken(257, "<a>"), addedToken(258, "<a>b")]
        let tokenizer = try Tokenizer(json: tokenizerJSON(added: .array(added)), name: "test")
        #expect(tokenizer.encode("<a>b") == [258])
        #expect(tokenizer.encode("<a>c") == [257, 99])
        #expect(tokenizer.encode("<ab") == [256, 98])
        #expect(tokenizer.encode("<<a>") == [60, 257])
        #expect(tokenizer.encode("") == [])
    }

    @Test func spacesBeforeATokenAreStripped() throws {
        let token = addedToken(256, "<m>", "lstrip")
        #expect(try encode("x  <m> y", token) == [120, 256, 32, 121])
        #expect(try encode("\u{3000}<m>", token) == [256])
        #expect(try encode("<m><m>", token) == [256, 256])
        #expect(try encode(" <m> <m>", token) == [256, 256])
    }

    @Test func spacesAfterATokenAreStripped() throws {
        let token = addedToken(256, "<m>", "rstrip")
        #expect(try encode("x <m>  y", token) == [120, 32, 256, 121])
        #expect(try encode("<m>\u{2003}\n", token) == [256])
        #expect(try encode("<m> <m>", token) == [256, 256])
        // The space is taken by the first and still lets the second be found.
        #expect(try encode("<m> x", token, addedToken(257, " x")) == [256, 257])
        #expect(try encode("<m>  x", token, addedToken(257, " x")) == [256, 257])
    }

    @Test func aSingleWordIsNoPartOfAnother() throws {
        let token = addedToken(256, "zz", "single_word")
        #expect(try encode("zz", token) == [256])
        #expect(try encode("a zz b", token) == [97, 32, 256, 32, 98])
        #expect(try encode("azz", token) == [97, 122, 122])
        #expect(try encode("zza", token) == [122, 122, 97])
        #expect(try encode("é zz,zz_", token) == [195, 169, 32, 256, 44, 122, 122, 95])
        #expect(try encode("zz\u{301} .zz.", token) == [122, 122, 204, 129, 32, 46, 256, 46])
        #expect(try encode("zzzz", token) == [122, 122, 122, 122])
    }

    @Test func normalizedTokensComeSecond() throws {
        let added = [addedToken(256, "ab", "normalized"), addedToken(257, "bc")]
        #expect(try encode("abc", added[0], added[1]) == [97, 257])
        #expect(try encode("ab c", added[0], added[1]) == [256, 32, 99])
    }

    @Test func spacesOnlyTakeNoQuadraticTime() throws {
        let ids = try encode(String(repeating: " ", count: 200_000), addedToken(256, " ", "rstrip", "lstrip"))
        #expect(ids.count == 200_000)
    }
}
