import Testing

@testable import JSON

/// The error of `body`; `nil` when it throws none.
private func fault(_ body: () throws -> Void) -> JSONError? {
    do { try body() } catch { return error as? JSONError }
    return nil
}

@Suite struct JSONParserTests {
    /// json-c 0.16 turns half of them into U+FFFD; every lead and a spread of trails.
    @Test func everySurrogatePairIsItsCharacter() throws {
        for lead in 0xD800..<0xDC00 {
            for trail in stride(from: 0xDC00, to: 0xE000, by: 31) {
                let code = 0x10000 + (lead - 0xD800) << 10 + (trail - 0xDC00)
                let text = "[\"a\\u\(String(lead, radix: 16))\\u\(String(trail, radix: 16))\\n\"]"
                let expected = "a" + String(Character(try #require(Unicode.Scalar(UInt32(code))))) + "\n"
                guard try JSONValue(parsing: text) == [.string(expected)] else {
                    Issue.record("U+\(String(code, radix: 16)) is read wrongly")
                    return
                }
            }
        }
    }

    @Test func pairsMayStandInKeysAndSideBySide() throws {
        let value = try JSONValue(parsing: #"{"\ud83d\ude00":"\uD836\uDC00\ud836\udc00"}"#)
        #expect(value == ["😀": "\u{1D800}\u{1D800}"])
    }

    @Test(arguments: [
        (#"{"é":1,"é":2}"#, JSONError.Code.duplicateKey), ("{\"é\":1,\"e\u{301}\":2}", .duplicateKey), (#"{"a":1,"\u0061":2}"#, .duplicateKey),
        (#"["\ud800"]"#, .badString), (#"["\udc00"]"#, .badString), (#"{"a\u0000b":1}"#, .badString), ("['a']", .unexpectedCharacter),
        ("[18446744073709551616]", .integerOutOfRange), ("[01]", .unexpectedCharacter), ("[1.]", .badNumber), ("[1]x", .trailingText),
        ("[1e999]", .badNumber), ("{\"a\":-1E400}", .badNumber),
        ("[1", .unterminated), ("", .empty), ("[\"\u{1}\"]", .badString), ("[nul]", .unexpectedCharacter),
    ])
    func whatIsNoStrictJSONIsRefused(text: String, code: JSONError.Code) {
        #expect { try JSONValue(parsing: text) } throws: { ($0 as? JSONError)?.code == code }
    }

    /// A small text must not become a document of gigabytes.
    @Test func documentsAreBounded() throws {
        let limits = StrictScanner.Limits(values: 10, containers: 4)
        for (text, isRead) in [
            ("[1,2,3,4,5,6,7,8,9]", true), ("[1,2,3,4,5,6,7,8,9,0]", false), ("[[],{},[]]", true), (#"{"a":[[],[]],"b":{}}"#, false),
        ] {
            let error = fault { _ = try StrictScanner.check(Array(text.utf8), maximumDepth: 8, limits: limits) }
            #expect(error?.code == (isRead ? nil : .tooMany), "\(text)")
        }
    }

    /// The sign of a zero makes it a float: as an integer it would be lost.
    @Test func minusZeroIsNoInteger() throws {
        let value = try JSONValue(parsing: #"{"a": [-0, 0, "-0"], "b": -0}"#)
        #expect(value == ["a": [-0.0, 0, "-0"], "b": -0.0])
        #expect(value["b"]?.integerValue == nil && value["b"]?.doubleValue?.sign == .minus)
    }

    @Test func whatIsWrittenReadsBackTheSame() throws {
        let value: JSONValue = ["b": [1, -2, 0.1, 1e300, .null, true], "a": "\u{0}\u{1F}\"\\/😀\u{2028}", "": [:], "nested": [[[]]]]
        #expect(try JSONValue(parsing: value.serialized()) == value)
        #expect(try JSONValue(parsing: value.serialized(pretty: true)) == value)
    }
}
