import Testing

@testable import Adapters

struct PEFTPatternTests {
    /// Keys as people write them.
    @Test(arguments: [
        ".*", "q_proj", #"^model\.layers\.0\..*q_proj"#, "(q|k|v)_proj", #"layers\.(1|2|[3-9])\.mlp\.(up|down)_proj"#, ".*layers.*self_attn.*q_proj",
        #"layers\.\d+\.(mlp|self_attn)\.[a-z]+_proj"#, "(?:self_attn)?.q_proj", "(ab)+c", "[*+?(]{2}",
    ])
    func tried(key: String) { #expect(PEFTPattern(key) != nil) }

    /// Keys that could take a time exponential in a name's length, or more stack than there is: each the smallest of its kind, one step
    /// beyond what is allowed, and harmless on the names that models have.
    @Test(arguments: [
        "(a+)+", "(a|b)*", "((a*))*", "(a?)+", "(a|b){9}", "([ab]+)*", "((a|b)c)+", "a*b*c*d*e*", "a{2}b{2}c{2}d{2}e{2}",
        String(repeating: "[", count: PEFTPattern.maximumBrackets + 1) + "a",
        String(repeating: "(", count: PEFTPattern.maximumBrackets + 1) + "a" + String(repeating: ")", count: PEFTPattern.maximumBrackets + 1),
        "(a|b)" + String(repeating: "a", count: PEFTPattern.maximumBytes),
    ])
    func patternsThatCouldTakeForeverAreRefused(key: String) { #expect(PEFTPattern(key) == nil) }
}
