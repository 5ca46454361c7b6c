import FileIO
import JSON
import OrderedCollections
import TestSupport
import Testing
import Tokenizer

/// Ids and texts written by the `tokenizers` library.
@Suite struct GoldenTests {
    static let variants = (try? load()) ?? []

    static func load() throws -> [JSONValue] {
        let text = try FileSystem.contents(of: Repository.golden("tokenizer.json"), limit: 1 << 24)
        return try JSONValue(parsing: text)["variants"]?.arrayValue ?? []
    }

    /// The fixture with what a variant changes in it.
    static func tokenizer(_ variant: JSONValue) throws -> Tokenizer {
        var root = try #require(try JSONValue(parsing: FileSystem.contents(of: fixturePath, limit: 1 << 24)).objectValue)
        root["pre_tokenizer"] = variant["pre_tokenizer"]
        var model = try #require(root["model"]?.objectValue)
        if let ignoring = variant["ignore_merges"] { model["ignore_merges"] = ignoring }
        if let kept = variant["merges_kept"]?.integerValue {
            model["merges"] = .array(Array(model["merges"]?.arrayValue?.prefix(kept) ?? []))
        }
        root["model"] = .object(model)
        return try Tokenizer(json: .object(root), name: fixturePath)
    }

    @Test func thereAreVariants() { #expect(Self.variants.count >= 6) }

    @Test(arguments: variants.indices) func encodesAndDecodes(_ index: Int) throws {
        let variant = Self.variants[index]
        let name = variant["name"]?.stringValue ?? ""
        let tokenizer = try Self.tokenizer(variant)
        for entry in variant["cases"]?.arrayValue ?? [] {
            let text = try #require(entry["text"]?.stringValue)
            let ids = try #require(entry["ids"]?.arrayValue).compactMap(\.integerValue).map(Int32.init)
            #expect(tokenizer.encode(text) == ids, "\(name): \(text.debugDescription)")
            let bytes = Array(text.utf8)
            let idsOfBytes = try tokenizer.encode(utf8: bytes.span)
            #expect(idsOfBytes == ids, "\(name): \(text.debugDescription)")
            // By bytes: strings that are merely canonically equivalent compare equal in Swift.
            #expect(Array(tokenizer.decode(ids).utf8) == Array(try #require(entry["decoded"]?.stringValue).utf8), "\(name): \(ids)")
        }
        for entry in variant["decodes"]?.arrayValue ?? [] {
            let ids = try #require(entry["ids"]?.arrayValue).compactMap(\.integerValue).map(Int32.init)
            #expect(Array(tokenizer.decode(ids).utf8) == Array(try #require(entry["decoded"]?.stringValue).utf8), "\(name): \(ids)")
        }
    }
}
