import JSON
import OrderedCollections
import TestSupport
import Tokenizer

let fixturePath = Repository.tinyLlama + "/tokenizer.json"

/// The byte-level alphabet, spelled as in the table of GPT-2's authors.
let alphabet: [String] = {
    var next: UInt32 = 0x100
    return (0...255).map { (byte: UInt32) in
        if (0x21...0x7E).contains(byte) || (0xA1...0xAC).contains(byte) || byte >= 0xAE { return String(Unicode.Scalar(byte)!) }
        defer { next += 1 }
        return String(Unicode.Scalar(next)!)
    }
}()

/// A text in the byte-level alphabet.
func spelled(_ text: some StringProtocol) -> String { text.utf8.map { alphabet[Int($0)] }.joined() }

let gpt2: JSONValue = ["type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true]
let wholeText: JSONValue = ["type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false]

func sequence(_ parts: JSONValue...) -> JSONValue { ["type": "Sequence", "pretokenizers": .array(parts)] }

func split(_ regex: String, behavior: String = "Isolated", invert: Bool = false) -> JSONValue {
    ["type": "Split", "pattern": ["Regex": .string(regex)], "behavior": .string(behavior), "invert": .bool(invert)]
}

let gpt2Regex = #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#
let llama3Regex =
    #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
let llama3 = sequence(split(llama3Regex), wholeText)
let qwen2 = sequence(split(llama3Regex.replacingDigits()), wholeText)

extension String {
    /// The pattern of Qwen 2, which takes digits one by one.
    func replacingDigits() -> String { split(separator: "{1,3}").joined() }
}

/// The content of a tokenizer.json whose first 256 tokens are the bytes in order.
func tokenizerJSON(
    preTokenizer: JSONValue = gpt2, tokens: [String] = [], merges: [JSONValue] = [], added: JSONValue = [],
    model options: OrderedDictionary<String, JSONValue> = [:], _ parts: OrderedDictionary<String, JSONValue> = [:]
) -> JSONValue {
    var vocabulary: OrderedDictionary<String, JSONValue> = [:]
    for token in alphabet + tokens where vocabulary[token] == nil { vocabulary[token] = .integer(vocabulary.count) }
    var model: OrderedDictionary<String, JSONValue> = [
        "type": "BPE", "dropout": .null, "unk_token": .null, "ignore_merges": false, "vocab": .object(vocabulary),
        "merges": .array(merges),
    ]
    model.merge(options) { $1 }
    var root: OrderedDictionary<String, JSONValue> = [
        "version": "1.0", "truncation": .null, "padding": .null, "added_tokens": added, "normalizer": .null,
        "pre_tokenizer": preTokenizer, "post_processor": .null, "decoder": gpt2, "model": .object(model),
    ]
    root.merge(parts) { $1 }
    return .object(root)
}

/// An entry of `added_tokens` with the flags named.
func addedToken(_ id: Int, _ content: String, _ flags: String...) -> JSONValue {
    var entry: OrderedDictionary<String, JSONValue> = ["id": .integer(id), "content": .string(content)]
    for flag in ["single_word", "lstrip", "rstrip", "normalized", "special"] { entry[flag] = .bool(flags.contains(flag)) }
    return .object(entry)
}

/// The pieces into which a pre-tokenizer cuts a text.
///
/// They become visible through a vocabulary that has each part of the text as a token, and no merges: a piece is one token.
func pieces(_ text: String, _ preTokenizer: JSONValue) throws -> [String] {
    var tokens: [String] = []
    let scalars = Array(text.unicodeScalars)
    for start in scalars.indices {
        for end in start..<scalars.count {
            var part = String.UnicodeScalarView()
            part.append(contentsOf: scalars[start...end])
            tokens.append(spelled(String(part)))
        }
    }
    let json = tokenizerJSON(preTokenizer: preTokenizer, tokens: tokens, model: ["ignore_merges": true])
    let tokenizer = try Tokenizer(json: json, name: "test")
    return tokenizer.encode(text).map { tokenizer.decode([$0]) }
}

extension SeededGenerator {
    /// A text of many scripts, spaces and digits, of up to `length` characters.
    mutating func text(length: Int) -> String {
        let ranges: [ClosedRange<UInt32>] = [
            0x00...0x7F, 0x20...0x7E, 0x61...0x7A, 0x30...0x39, 0x09...0x0D, 0x80...0x24F, 0x300...0x36F, 0x370...0x5FF, 0x600...0x6FF,
            0x900...0x97F, 0x2000...0x206F, 0x2150...0x218F, 0x3000...0x30FF, 0x4E00...0x9FFF, 0xAC00...0xD7A3, 0xE000...0xFFFF,
            0x1F300...0x1FAFF, 0x10000...0x10FFFF,
        ]
        var text = ""
        for _ in 0..<Int.random(in: 0...length, using: &self) {
            let range = ranges.randomElement(using: &self)!
            if let scalar = Unicode.Scalar(UInt32.random(in: range, using: &self)) { text.unicodeScalars.append(scalar) }
            if Int.random(in: 0..<5, using: &self) == 0 { text += " " }
        }
        return text
    }
}
