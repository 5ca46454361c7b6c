import Testing

@testable import Adapters

struct PEFTPatternTests {
    /// Keys as people write them.
    @Test(arguments: [
        ".*", "q_proj", #"^model\.layers\.0\..*q_proj"#, "(q|k|v)_proj", #"layers\.(1|2|[3-9])\.mlp\.(up|down)_proj"#, ".*layers.*self_attn.*q_proj",
        #"layers\.\d+\.(mlp|self_attn)\.[a-z]+_proj"#, "(?:self_attn)?.q_proj", "(ab)+c", "[*+?(]{2}",
    ])
    func tried(key: String) { #expect(PEFTPattern(key) != nil) }

    /// Keys that would take a time exponential in a name's length, or more stack than there is.
    @Test(arguments: [
        "(a+)+", "(.*.*)*x", "((a*))*", "(a|a)*", "(a?)+", "(a|b){9}", "([a-z]+)*", "((a|b)c)+", ".*.*.*.*.*x", "a{9}b{9}c{9}d{9}e{9}",
        String(repeating: "[", count: 20_000) + "a", String(repeating: "[", count: 400) + "a" + String(repeating: "]", count: 400),
        String(repeating: "(", count: 300) + "a" + String(repeating: ")", count: 300), String(repeating: "a|", count: 600),
    ])
    func refused(key: String) { #expect(PEFTPattern(key) == nil) }
}
