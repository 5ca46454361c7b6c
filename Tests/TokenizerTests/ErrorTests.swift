import JSON
import OrderedCollections
import TestSupport
import Testing
import Tokenizer

/// Every way in which a file or a text can be wrong.
@Suite struct ErrorTests {
    private func code(file json: JSONValue) -> TokenizerError.Code? {
        do throws(TokenizerError) {
            _ = try Tokenizer(json: json, name: "bad.json")
            return nil
        } catch {
            #expect(error.path == "bad.json" && error.description.hasPrefix("bad.json: "))
            return error.code
        }
    }

    private func code(_ parts: OrderedDictionary<String, JSONValue>) -> TokenizerError.Code? { code(file: tokenizerJSON(parts)) }
    private func code(model: OrderedDictionary<String, JSONValue>) -> TokenizerError.Code? { code(file: tokenizerJSON(model: model)) }

    @Test func theBaseIsGood() { #expect(code([:]) == nil) }

    @Test func aFileThatCannotBeReadIsNamed() {
        for path in [Repository.root + "/no-such-file.json", Repository.root] {
            #expect { try Tokenizer(contentsOf: path) } throws: { error in
                let error = error as? TokenizerError
                return error?.code == .unreadable && error?.path == path && error?.fileError != nil && "\(error!)".ranges(of: path).count == 1
            }
        }
    }

    @Test func aFileThatIsNoJSONIsRefused() {
        #expect { try Tokenizer(contentsOf: #filePath) } throws: { ($0 as? TokenizerError)?.code == .invalidJSON }
    }

    @Test func badTopLevelsAreRefused() {
        #expect(code(file: []) == .invalidField)
        #expect(code(file: [:]) == .invalidField)
        #expect(code(["version": "2.0"]) == .unsupportedVersion)
        #expect(code(["model": .null]) == .invalidField)
        #expect(code(["added_tokens": 3]) == .invalidField)
        // These two say how a batch is packed, and not what the tokens are.
        #expect(code(["truncation": ["max_length": 1], "padding": ["pad_id": 0]]) == nil)
        #expect(code(["post_processor": ["type": "TemplateProcessing"]]) == nil)
    }

    @Test func otherKindsOfTokenizersAreRefused() {
        #expect(code(["normalizer": ["type": "NFC"]]) == .unsupportedNormalizer)
        #expect(code(["normalizer": ["type": "Sequence", "normalizers": [["type": "Lowercase"]]]]) == .unsupportedNormalizer)
        #expect(code(["normalizer": ["type": "Sequence", "normalizers": []]]) == nil)
        #expect(code(["decoder": ["type": "Metaspace"]]) == .unsupportedDecoder)
        for type in ["Unigram", "WordPiece", "WordLevel"] { #expect(code(model: ["type": .string(type)]) == .unsupportedModel) }
        #expect(code(["model": ["vocab": ["a": 0]]]) == .unsupportedModel)
        #expect(code(model: ["byte_fallback": true]) == .unsupportedOption)
        #expect(code(model: ["dropout": 0.1]) == .unsupportedOption)
        #expect(code(model: ["dropout": 0.0]) == nil)
        #expect(code(model: ["continuing_subword_prefix": "##"]) == .unsupportedOption)
        #expect(code(model: ["end_of_word_suffix": "</w>"]) == .unsupportedOption)
        #expect(code(model: ["end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false]) == nil)
        #expect(code(model: ["a_new_option": true]) == .unsupportedOption)
        #expect(code(model: ["ignore_merges": 1]) == .invalidField)
    }

    @Test func badPreTokenizersAreRefused() {
        #expect(code(["pre_tokenizer": .null]) == .unsupportedPreTokenizer)
        #expect(code(["pre_tokenizer": ["type": "Whitespace"]]) == .unsupportedPreTokenizer)
        #expect(code(["pre_tokenizer": ["type": "Metaspace"]]) == .unsupportedPreTokenizer)
        #expect(code(["pre_tokenizer": sequence()]) == .unsupportedPreTokenizer)
        #expect(code(["pre_tokenizer": ["type": "Sequence"]]) == .invalidField)
        #expect(code(["pre_tokenizer": ["type": "Digits", "individual_digits": true]]) == .unsupportedPreTokenizer)
        #expect(code(["pre_tokenizer": sequence(gpt2, gpt2)]) == .unsupportedPreTokenizer)
        #expect(code(["pre_tokenizer": sequence(sequence(gpt2), gpt2)]) == .unsupportedPreTokenizer)
        #expect(code(["pre_tokenizer": sequence(["type": "Digits"], gpt2)]) == .invalidField)
        #expect(code(["pre_tokenizer": ["type": "ByteLevel"]]) == .invalidField)
        #expect(code(["pre_tokenizer": ["type": "ByteLevel", "add_prefix_space": true, "new": 1]]) == .unsupportedPreTokenizer)
        #expect(code(["pre_tokenizer": sequence(split(#"\w+"#), wholeText)]) == .unsupportedPattern)
        #expect(code(["pre_tokenizer": sequence(["type": "Split", "pattern": ["String": " "]], wholeText)]) == .unsupportedPattern)
        #expect(code(["pre_tokenizer": sequence(split(llama3Regex, behavior: "Removed"), wholeText)]) == .unsupportedPreTokenizer)
        #expect(code(["pre_tokenizer": sequence(split(llama3Regex, behavior: "MergedWithNext"), wholeText)]) == .unsupportedPreTokenizer)
    }

    @Test func badVocabulariesAreRefused() {
        func vocabulary(_ change: (inout OrderedDictionary<String, JSONValue>) -> Void) -> OrderedDictionary<String, JSONValue> {
            var entries = tokenizerJSON()["model"]?["vocab"]?.objectValue ?? [:]
            change(&entries)
            return ["vocab": .object(entries)]
        }
        #expect(code(model: ["vocab": []]) == .invalidField)
        #expect(code(model: ["vocab": [:]]) == .invalidField)
        #expect(code(model: vocabulary { $0["ab"] = "256" }) == .invalidField)
        #expect(code(model: vocabulary { $0["ab"] = 256.5 }) == .invalidField)
        #expect(code(model: vocabulary { $0["ab"] = -1 }) == .idOutOfRange)
        #expect(code(model: vocabulary { $0["ab"] = .integer(Tokenizer.maximumID + 1) }) == .idOutOfRange)
        #expect(code(model: vocabulary { $0["ab"] = .integer(.max) }) == .idOutOfRange)
        #expect(code(model: vocabulary { $0["ab"] = .integer(Tokenizer.maximumID) }) == nil)
        #expect(code(model: vocabulary { $0["ab"] = 97 }) == .duplicateID)
        #expect(code(model: vocabulary { $0[alphabet[0x20]] = nil }) == .missingByte)
        #expect(code(model: vocabulary { $0["a"] = nil }) == .missingByte)
        #expect(code(model: vocabulary { $0[alphabet[0xFF]] = nil }) == nil)
        var lacking = vocabulary { $0[alphabet[0]] = nil }
        lacking["unk_token"] = "<unk>"
        #expect(code(model: lacking) == .invalidField)
        lacking["unk_token"] = "!"
        #expect(code(model: lacking) == nil)
        lacking["fuse_unk"] = true
        #expect(code(model: lacking) == .unsupportedOption)
    }

    @Test func badMergesAreRefused() {
        #expect(code(model: ["merges": [:]]) == .invalidField)
        for bad: JSONValue in ["ab", "a b c", "a  b", "", 3, [], ["a"], ["a", "b", "c"], ["a", 1], .null] {
            #expect(code(model: ["merges": [bad]]) == .invalidMerge, "\(bad)")
        }
        #expect(code(file: tokenizerJSON(tokens: ["ab"], merges: ["a b", ["a", "b"]])) == .invalidMerge)
        #expect(code(file: tokenizerJSON(tokens: ["ab"], merges: [["a", "b"], "a b"])) == .invalidMerge)
        #expect(code(model: ["merges": ["a b"]]) == .unknownMergeToken)
        #expect(code(file: tokenizerJSON(tokens: ["xyz"], merges: ["xy z"])) == .unknownMergeToken)
        #expect(code(model: ["merges": [" b"]]) == .unknownMergeToken)
        #expect(code(file: tokenizerJSON(tokens: ["œœ"], merges: [["œ", "œ"]])) == .unknownMergeToken)
    }

    @Test func badAddedTokensAreRefused() {
        func code(_ added: JSONValue...) -> TokenizerError.Code? { self.code(file: tokenizerJSON(tokens: ["ab"], added: .array(added))) }
        #expect(code(addedToken(257, "<x>"), addedToken(258, "<y>")) == nil)
        #expect(code(addedToken(256, "ab")) == nil)
        #expect(code(3) == .invalidField)
        #expect(code(["content": "<x>"]) == .invalidField)
        #expect(code(["id": 257, "content": "<x>", "lstrip": 1]) == .invalidField)
        #expect(code(["id": 257, "content": "<x>"]) == nil)
        #expect(code(addedToken(257, "")) == .invalidAddedToken)
        #expect(code(addedToken(257, String(repeating: "x", count: 1025))) == .invalidAddedToken)
        #expect(code(addedToken(257, "<x>"), addedToken(257, "<x>")) == .invalidAddedToken)
        #expect(code(addedToken(257, "ab")) == .contradictoryID)
        #expect(code(addedToken(300, "<x>")) == .contradictoryID)
        #expect(code(addedToken(256, "<x>")) == .contradictoryID)
        #expect(code(addedToken(-1, "<x>")) == .idOutOfRange)
        #expect(code(addedToken(.max, "<x>")) == .idOutOfRange)
        // A vocabulary with a gap: the id that comes next by number is that of another token.
        var entries = tokenizerJSON()["model"]?["vocab"]?.objectValue ?? [:]
        entries["ab"] = 257
        #expect(self.code(file: tokenizerJSON(added: [addedToken(257, "<x>")], model: ["vocab": .object(entries)])) == .duplicateID)
    }

    @Test(
        arguments: [
            ([0x80], 0), ([0x61, 0xC3], 1), ([0x61, 0xC3, 0x28], 1), ([0xC0, 0x80], 0), ([0x61, 0x62, 0xED, 0xA0, 0x80], 2),
            ([0xF4, 0x90, 0x80, 0x80], 0),
            ([0xC3, 0xA9, 0xF0, 0x9F, 0x98], 2), ([0xFF], 0),
        ] as [([UInt8], Int)])
    func invalidUTF8IsRefusedAtItsByte(_ bytes: [UInt8], _ offset: Int) throws {
        let tokenizer = try Tokenizer(json: tokenizerJSON(), name: "test")
        do throws(TokenizerError) {
            _ = try tokenizer.encode(utf8: bytes.span, from: "text.txt")
            Issue.record("this is not UTF-8")
        } catch {
            #expect(error.code == .invalidUTF8 && error.offset == offset)
            #expect(error.description == "text.txt, byte \(offset): the text is not valid UTF-8 here; convert the file to UTF-8")
        }
    }

    @Test func descriptionsNameWhatAndSayWhatToDo() throws {
        #expect { try Tokenizer(json: tokenizerJSON(["normalizer": ["type": "NFC"]]), name: "t.json") } throws: {
            "\($0)"
                == "t.json: the normalizer NFC is not supported, only none at all; train on token ids instead: a tensor input_ids in a safetensors file"
        }
        #expect { try Tokenizer(json: tokenizerJSON(model: ["type": "Unigram"]), name: "t.json") } throws: {
            "\($0)"
                == "t.json: the model Unigram is not supported, only byte-level BPE; train on token ids instead: a tensor input_ids in a safetensors file"
        }
    }

    /// Whatever a file holds, the answer is a tokenizer or an error.
    @Test func damagedFilesNeverTrap() throws {
        let seed = UInt64.random(in: .min ... .max)
        var generator = SeededGenerator(seed: seed)
        let added: JSONValue = [addedToken(258, "<x>", "lstrip", "special")]
        let base = tokenizerJSON(preTokenizer: llama3, tokens: ["ab", "abc"], merges: ["a b", "ab c"], added: added)
        let values: [JSONValue] = [
            .null, true, -1, 0, 257, .integer(.max), .integer(.min), 0.5, "", "a b", "é", [], [[]], [:], ["type": "Sequence"],
        ]
        func damaged(_ value: JSONValue, _ depth: Int) -> JSONValue {
            if depth == 0 || Int.random(in: 0..<8, using: &generator) == 0 { return values.randomElement(using: &generator)! }
            switch value {
            case .object(var members):
                guard let key = members.keys.randomElement(using: &generator) else { return value }
                if Int.random(in: 0..<6, using: &generator) == 0 {
                    members[key] = nil
                } else {
                    members[key] = damaged(members[key]!, depth - 1)
                }
                return .object(members)
            case .array(var elements):
                guard let index = elements.indices.randomElement(using: &generator) else { return value }
                elements[index] = damaged(elements[index], depth - 1)
                return .array(elements)
            default: return values.randomElement(using: &generator)!
            }
        }
        for _ in 0..<1000 {
            if let tokenizer = try? Tokenizer(json: damaged(base, 5), name: "seed \(seed)") { _ = tokenizer.encode("abc 123 <x>") }
        }
    }
}
