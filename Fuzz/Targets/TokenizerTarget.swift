import JSON
import Tokenizer

/// A text with what pre-tokenizers tell apart: contractions, digits, spaces of several kinds, line ends, scripts, a token
/// that is often special.
private let probe = "It's 1234 o'clock,  said I.\r\n\n\t naïve 北京 \u{1F600}e\u{301}\u{A0}x<|endoftext|>WE'LL \u{2028}end  "

/// A tokenizer.json, and after the first NUL, which JSON cannot hold, a text: every id is in the vocabulary, the same text
/// gives the same ids again, and a vocabulary of all bytes gives the text back.
func fuzzTokenizer(_ bytes: [UInt8]) {
    let end = bytes.firstIndex(of: 0) ?? bytes.endIndex
    guard let json = try? JSONValue(parsing: Array(bytes[..<end])), let tokenizer = try? Tokenizer(json: json, name: "input") else { return }
    for text in [probe, String(decoding: bytes[end...].dropFirst(), as: UTF8.self)] {
        let ids = tokenizer.encode(text)
        require(ids.allSatisfy { $0 >= 0 && $0 < tokenizer.vocabularySize }, "an id is out of range: \(ids)")
        require(ids == tokenizer.encode(text), "the same text has other ids the second time")
        let decoded = tokenizer.decode(ids)
        if isLossless(json), tokenizer.missingBytes.isEmpty { require(decoded == text, "\(text) came back as \(decoded)") }
    }
}

/// Whether nothing in the file may change a text: no added tokens, which may take spaces with them, no space in front, no
/// token for the unknown, and a decoder.
private func isLossless(_ json: JSONValue) -> Bool {
    guard (json["added_tokens"]?.arrayValue ?? []).isEmpty, json["model"]?["unk_token"]?.isNull ?? true, json["decoder"]?.isNull == false else {
        return false
    }
    return !json.serialized().contains(#""add_prefix_space":true"#) && !json.serialized().contains(#""Removed""#)
}
