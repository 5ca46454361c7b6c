import Testing

@testable import JSON

struct JSONWriterTests {
    /// What goes to a terminal or a log reads back to the same value, and holds nothing invisible and no command.
    @Test func reportsAreVisible() throws {
        let text = "a\u{1B}[31m\u{202E}\u{200B}\u{2028}\u{7F}\u{E0041}\n##vso[x]##[y]section_start:1:z é模👍\"\\"
        let value: JSONValue = [text: .array([.string(text), 1, .null])]
        let line = value.reported()
        #expect(try JSONValue(parsing: line) == value)
        #expect(line.contains(#"\u001b[31m\u202e\u200b\u2028\u007f\udb40\udc41\n#\u0023vso[x]#\u0023[y]section_start\u003a1:z é模👍\"\\"#), "\(line)")
        // Files keep their characters.
        #expect(value.serialized().contains("\u{202E}") && value.serialized().contains("##vso["))
    }

    @Test func numbersThatAreNotFiniteStayInConfigurationsAlone() throws {
        let text = #"{"a": Infinity, "b": [-Infinity, NaN, 1.5]}"#
        let value = try JSONValue(configuration: Array(text.utf8))
        #expect(value == ["a": .real(.infinity), "b": [.real(-.infinity), .real(.nan), 1.5]])
        #expect(value.inWords == #"{"a":Infinity,"b":[-Infinity,NaN,1.5]}"#)
        #expect(try JSONValue(configuration: Array(value.configurationText().utf8)) == value)
        #expect(value.serialized() == #"{"a":null,"b":[null,null,1.5]}"#)
        // Only Python's words, and only in configurations.
        for word in ["Infinity", "-Infinity", "NaN"] { #expect(throws: JSONError.self) { try JSONValue(parsing: "[\(word)]") } }
        for word in ["infinity", "nan", "-NaN", "+Infinity", "Inf", "NaNN", "Infinit", "-I", "-Inf", "N", "1e999"] {
            #expect(throws: JSONError.self, "\(word)") { try JSONValue(configuration: Array("[\(word)]".utf8)) }
        }
    }

    @Test func configurationsThatAreNoJSONAreNamed() {
        for (text, words) in [
            ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), ("", "empty"), ("<html>", "web page"), ("\u{1F}\u{8B}", "starts"),
        ] {
            let error = #expect(throws: JSONError.self) { try JSONValue(configuration: Array(text.utf8)) }
            #expect(words == "starts" || error?.message.contains(words) == true, "\(String(describing: error))")
        }
        let error = #expect(throws: JSONError.self) { try JSONValue(configuration: Array(#"{"a": x}"#.utf8)) }
        #expect(error?.offset == 6)
    }
}
