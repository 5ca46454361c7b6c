import JSON

@testable import Safetensors

/// What is accepted survives being written and read again, in both spellings, and the reference library's parser takes it.
func fuzzJSON(_ bytes: [UInt8]) {
    guard let value = try? JSONValue(parsing: bytes) else { return }
    require(String(validating: bytes, as: UTF8.self) != nil, "a text that is not UTF-8 was accepted")
    for isPretty in [false, true] {
        let text = value.serialized(pretty: isPretty)
        do {
            let again = try JSONValue(parsing: text)
            require(again == value, "\(value) was written as \(text) and read as \(again)")
        } catch {
            fail("\(value) was written as \(text), which is refused: \(error)")
        }
    }
    do {
        _ = try ReferenceJSON(parsing: bytes)
    } catch {
        fail("the strict reader accepts what the other refuses: \(error)")
    }
}
