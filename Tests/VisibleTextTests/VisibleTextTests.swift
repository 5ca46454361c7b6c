import Testing
import VisibleText

/// Text that gives no orders, whatever a file holds.
struct VisibleTextTests {
    @Test func plainTextStaysAsItIs() {
        for text in ["", "model.layers.0.mlp.up_proj.weight", "  a: b", "größer, 模型, Привет, naïve, ‖ΔW‖² ×30 {0…29}", "a#b", "C:\\models", "👍"] {
            #expect(text.visible == text && text.asLogLine == text)
        }
    }

    @Test func invisibleCharactersAreSpelledOut() {
        let spellings: [(Unicode.Scalar, String)] = [
            ("\0", "\\u{0}"), ("\u{1B}", "\\u{1B}"), ("\u{7F}", "\\u{7F}"), ("\u{85}", "\\u{85}"), ("\u{9B}", "\\u{9B}"), ("\n", "\\n"),
            ("\r", "\\r"), ("\t", "\\t"), ("\u{AD}", "\\u{AD}"), ("\u{61C}", "\\u{61C}"), ("\u{180E}", "\\u{180E}"), ("\u{200B}", "\\u{200B}"),
            ("\u{200D}", "\\u{200D}"), ("\u{200E}", "\\u{200E}"), ("\u{2028}", "\\u{2028}"), ("\u{2029}", "\\u{2029}"), ("\u{202E}", "\\u{202E}"),
            ("\u{2060}", "\\u{2060}"), ("\u{2066}", "\\u{2066}"), ("\u{2800}", "\\u{2800}"), ("\u{3164}", "\\u{3164}"), ("\u{FE0F}", "\\u{FE0F}"),
            ("\u{FEFF}", "\\u{FEFF}"), ("\u{FFFE}", "\\u{FFFE}"), ("\u{E0041}", "\\u{E0041}"), ("\u{E0100}", "\\u{E0100}"),
        ]
        for (scalar, spelling) in spellings { #expect("a\(scalar)b".visible == "a\(spelling)b") }
        #expect("\r\n".visible == "\\r\\n")
    }

    @Test func commandsOfWorkflowsAreTakenApart() {
        let lines: [(String, String)] = [
            ("::error::x", "| ::error::x"), ("  ::set-output name=a::b", "|   ::set-output name=a::b"),
            ("\u{3000}::add-mask::a", "| \u{3000}::add-mask::a"),
            ("\u{A0}::stop-commands::a", "| \u{A0}::stop-commands::a"), ("a::b", "a::b"), ("--- a", "| --- a"), ("-- a", "-- a"),
            ("##vso[task.setvariable]x", "#\\u{23}vso[task.setvariable]x"), ("a ##[error]x", "a #\\u{23}[error]x"),
            ("####[a]", "#\\u{23}#\\u{23}[a]"),
            ("a: ##teamcity[b]", "a: #\\u{23}teamcity[b]"), ("section_start:1:a\r\u{1B}[0K", "section_start\\u{3A}1:a\\r\\u{1B}[0K"),
            ("a\n::error::b", "a\\n::error::b"), ("\u{200B}::error::b", "\\u{200B}::error::b"),
        ]
        for (text, line) in lines { #expect(text.asLogLine == line) }
    }
}
