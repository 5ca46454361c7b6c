internal import FileIO
internal import JSON
internal import OrderedCollections

/// The content of a `tokenizer.json`, taken apart and checked.
struct TokenizerFile {
    let root: JSONValue
    let path: String

    /// The largest file that is read, in bytes; the largest in use have some thirty million.
    private static let maximumBytes = 256 << 20
    /// More merges than any file of that size holds in earnest; the heap of merges relies on it.
    private static let maximumMerges = 1 << 22
    /// The longest added token, in bytes, so that looking for it stays cheap at every place of a text.
    private static let maximumAddedTokenBytes = 1024
    private static let wayOut = "train on token ids instead: a tensor input_ids in a safetensors file"

    static func read(_ path: String) throws(TokenizerError) -> JSONValue {
        let text: [UInt8]
        do {
            text = try FileSystem.contents(of: path, limit: maximumBytes)
        } catch {
            throw TokenizerError(error, path: path)
        }
        do {
            return try JSONValue(configuration: text)
        } catch {
            throw TokenizerError(
                .invalidJSON, path: path, offset: error.offset,
                "this is not a tokenizer.json: \(error.message)" + (error.offset == nil ? "" : "; fetch the file again"))
        }
    }

    /// The description of the model, which must be BPE.
    func supportedModel() throws(TokenizerError) -> JSONValue {
        guard root.objectValue != nil else {
            throw error(.invalidField, "the file holds \(root.kind) and must hold an object; name a tokenizer.json")
        }
        guard let model = root["model"], model.objectValue != nil else {
            throw error(.invalidField, "there is no object \"model\"; this is not a complete tokenizer.json, fetch it again")
        }
        // Files of the first versions name no type; a vocabulary with merges is what tells BPE from the others.
        let type = model["type"] ?? (model["merges"] == nil ? .null : "BPE")
        guard type == "BPE" else {
            throw error(.unsupportedModel, "the model \(name(of: model)) is not supported, only byte-level BPE; \(Self.wayOut)")
        }
        return model
    }

    // MARK: Normaliser, pre-tokenizer, decoder

    /// Checks that the parts which are not used here ask for nothing.
    func checkUnusedParts() throws(TokenizerError) {
        if let version = root["version"], version != "1.0" {
            throw error(.unsupportedVersion, "the file is of version \(version.serialized()) and only \"1.0\" is known; \(Self.wayOut)")
        }
        let normalizer = root["normalizer"] ?? .null
        let isEmptySequence = normalizer["type"] == "Sequence" && normalizer["normalizers"] == []
        guard normalizer.isNull || isEmptySequence else {
            throw error(
                .unsupportedNormalizer,
                "the normalizer \(name(of: normalizer)) is not supported, only none at all; \(Self.wayOut)")
        }
    }

    func preTokenizer() throws(TokenizerError) -> PreTokenizer {
        let entry = root["pre_tokenizer"] ?? .null
        guard !entry.isNull else {
            throw error(.unsupportedPreTokenizer, "there is no pre_tokenizer, so the text is not split into bytes; \(Self.wayOut)")
        }
        var result = PreTokenizer()
        var isComplete = false
        try add(entry, to: &result, &isComplete)
        guard isComplete else {
            throw error(
                .unsupportedPreTokenizer,
                "the pre_tokenizer \(name(of: entry)) does not end with ByteLevel, as byte-level BPE must; \(Self.wayOut)")
        }
        return result
    }

    /// Adds one pre-tokenizer, or those of a sequence. The nesting has been bounded by the JSON reader.
    private func add(_ entry: JSONValue, to result: inout PreTokenizer, _ isComplete: inout Bool) throws(TokenizerError) {
        let type = name(of: entry)
        guard !isComplete else {
            throw error(
                .unsupportedPreTokenizer,
                "the pre-tokenizer \(type) comes after ByteLevel, which must be the last; \(Self.wayOut)")
        }
        switch entry["type"]?.stringValue {
        case "Sequence":
            try checkFields(of: entry, ["pretokenizers"], .unsupportedPreTokenizer)
            guard let parts = entry["pretokenizers"]?.arrayValue else {
                throw error(.invalidField, "the pre-tokenizer Sequence has no list \"pretokenizers\"; fetch the file again")
            }
            for part in parts { try add(part, to: &result, &isComplete) }
        case "Digits":
            try checkFields(of: entry, ["individual_digits"], .unsupportedPreTokenizer)
            result.steps.append(.digits(individually: try flag("individual_digits", of: entry, "the pre-tokenizer Digits")))
        case "Split":
            try checkFields(of: entry, ["pattern", "behavior", "invert"], .unsupportedPreTokenizer)
            result.steps.append(.split(try pattern(of: entry)))
        case "ByteLevel":
            try checkFields(of: entry, ["add_prefix_space", "trim_offsets", "use_regex"], .unsupportedPreTokenizer)
            result.addsPrefixSpace = try flag("add_prefix_space", of: entry, "the pre-tokenizer ByteLevel")
            result.bytePattern = try flag("use_regex", of: entry, "the pre-tokenizer ByteLevel", default: true) ? .gpt2 : nil
            isComplete = true
        default:
            throw error(
                .unsupportedPreTokenizer,
                "the pre-tokenizer \(type) is not supported, only ByteLevel, Digits, Split and sequences of them; \(Self.wayOut)")
        }
    }

    private func pattern(of entry: JSONValue) throws(TokenizerError) -> SplitPattern {
        guard let regex = entry["pattern"]?["Regex"]?.stringValue else {
            throw error(
                .unsupportedPattern,
                "the pre-tokenizer Split has the pattern \(excerpt(entry["pattern"] ?? .null)) "
                    + "instead of a regular expression; \(Self.wayOut)")
        }
        guard let pattern = SplitPattern(regex: regex) else {
            throw error(
                .unsupportedPattern,
                "the pre-tokenizer Split uses the regular expression \(excerpt(.string(regex))), and "
                    + "only those of GPT-2, Llama 3 and Qwen 2 are known; \(Self.wayOut)")
        }
        // The known patterns match all of a text, so these two behaviours leave the same pieces: the matches.
        let inverted = try flag("invert", of: entry, "the pre-tokenizer Split", default: false)
        let behavior = entry["behavior"]?.stringValue
        guard behavior == "Isolated" || (behavior == "Removed" && inverted) else {
            throw error(
                .unsupportedPreTokenizer,
                "the pre-tokenizer Split has the behavior \(excerpt(entry["behavior"] ?? .null)), and "
                    + "only Isolated (or Removed, inverted) is supported; \(Self.wayOut)")
        }
        return pattern
    }

    /// Whether there is a decoder; if so, it is ByteLevel.
    func hasDecoder() throws(TokenizerError) -> Bool {
        let decoder = root["decoder"] ?? .null
        guard !decoder.isNull else { return false }
        guard decoder["type"] == "ByteLevel" else {
            throw error(.unsupportedDecoder, "the decoder \(name(of: decoder)) is not supported, only ByteLevel; \(Self.wayOut)")
        }
        return true
    }

    // MARK: Model

    func model() throws(TokenizerError) -> BytePairModel {
        let model = try supportedModel()
        try checkOptions(of: model)
        let vocabulary = try vocabulary(of: model)
        let symbols = try symbols(in: vocabulary, model)
        let merges = try merges(of: model, vocabulary)
        return BytePairModel(
            vocabulary: vocabulary, symbolOfByte: symbols, merges: merges,
            ignoresMerges: try flag("ignore_merges", of: model, "the model", default: false))
    }

    private func checkOptions(of model: JSONValue) throws(TokenizerError) {
        try checkFields(
            of: model,
            [
                "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
                "ignore_merges", "vocab", "merges",
            ], .unsupportedOption)
        let dropout = model["dropout"] ?? .null
        guard dropout.isNull || dropout.doubleValue == 0 else {
            throw error(
                .unsupportedOption,
                "the model has a dropout of \(excerpt(dropout)), with which a text has no fixed ids; set it to null")
        }
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            let value = model[key] ?? .null
            guard value.isNull || value == "" else {
                throw error(.unsupportedOption, "the model's option \(key) is \(excerpt(value)) and must be null; \(Self.wayOut)")
            }
        }
        guard try !flag("byte_fallback", of: model, "the model", default: false) else {
            throw error(
                .unsupportedOption,
                "the model uses byte_fallback, as tokenizers made from SentencePiece do, "
                    + "and only byte-level BPE is supported; \(Self.wayOut)")
        }
    }

    private func vocabulary(of model: JSONValue) throws(TokenizerError) -> Vocabulary {
        guard let entries = model["vocab"]?.objectValue else {
            throw error(.invalidField, "the model has no object \"vocab\"; fetch the file again")
        }
        guard !entries.isEmpty else { throw error(.invalidField, "the model's vocabulary is empty; fetch the file again") }
        var ids: [Int] = []
        ids.reserveCapacity(entries.count)
        for (token, value) in entries {
            guard let id = value.integerValue else {
                throw error(.invalidField, "the token \(excerpt(.string(token))) has \(value.kind) for an id; fetch the file again")
            }
            ids.append(try checked(id, of: token))
        }
        var vocabulary = Vocabulary(minimumCapacity: entries.count, largestID: ids.max() ?? 0)
        var scratch: [UInt8] = []
        for (index, token) in entries.keys.enumerated() {
            guard !vocabulary.contains(ids[index]) else {
                throw error(
                    .duplicateID,
                    "the tokens \(excerpt(vocabulary.text(of: Int32(ids[index])).map { .string($0) } ?? .null)) and "
                        + "\(excerpt(.string(token))) have the same id \(ids[index]); fetch the file again"
                )
            }
            vocabulary.add(token.utf8.span, id: ids[index], scratch: &scratch)
        }
        return vocabulary
    }

    /// The token of each byte, or -1 where there is none and the byte is dropped.
    private func symbols(in vocabulary: Vocabulary, _ model: JSONValue) throws(TokenizerError) -> [Int32] {
        var symbols: [Int32] = []
        for byte in UInt8.min...UInt8.max { symbols.append(vocabulary.id(ofBytes: [byte].span, 0..<1) ?? -1) }
        // Vocabularies without bytes that their makers never met are common; one without these is of another kind.
        if let byte = ([0x0A] + Array(0x20...0x7E)).first(where: { symbols[$0] < 0 }) {
            let token = String(ByteLevelAlphabet.scalars[byte])
            throw error(
                .missingByte,
                "the vocabulary has no token \(excerpt(.string(token))) for the byte \(byte), "
                    + "so it is not byte-level or not complete; \(Self.wayOut)")
        }
        let unknown = model["unk_token"] ?? .null
        guard !unknown.isNull, symbols.contains(-1) else { return symbols }
        // With a token for the unknown, bytes without a token become that, one by one unless they are to be fused.
        guard let token = unknown.stringValue, let id = vocabulary.id(of: token.utf8.span) else {
            throw error(.invalidField, "the model's unk_token \(excerpt(unknown)) is not in its vocabulary; fetch the file again")
        }
        guard try !flag("fuse_unk", of: model, "the model", default: false) else {
            throw error(
                .unsupportedOption,
                "the model fuses unknown bytes (fuse_unk) and its vocabulary lacks some, which is not supported; \(Self.wayOut)")
        }
        return symbols.map { $0 < 0 ? id : $0 }
    }

    private func merges(of model: JSONValue, _ vocabulary: Vocabulary) throws(TokenizerError) -> MergeTable {
        guard let entries = model["merges"]?.arrayValue else {
            throw error(.invalidField, "the model has no list \"merges\"; fetch the file again")
        }
        guard entries.count <= Self.maximumMerges else {
            throw error(
                .invalidMerge,
                "the model has \(entries.count) merges, more than the "
                    + "\(Self.maximumMerges) that are read; \(Self.wayOut)")
        }
        var table = MergeTable(capacity: entries.count)
        let arePairs = entries.first?.arrayValue != nil
        var rank = 0
        var merged: [UInt8] = []
        var scratch: [UInt8] = []
        for (index, entry) in entries.enumerated() {
            merged.removeAll(keepingCapacity: true)
            let split: Int
            switch entry {
            case .string(let text) where !arePairs:
                // The first line of the merges.txt of old, which has found its way into some files.
                if text.utf8.starts(with: "#version".utf8) { continue }
                split = Self.splitAtSpace(text, into: &merged)
            case .array(let pair) where arePairs && pair.count == 2:
                guard let left = pair[0].stringValue, let right = pair[1].stringValue else { fallthrough }
                split = left.utf8.count
                merged.append(contentsOf: left.utf8)
                merged.append(contentsOf: right.utf8)
            default: split = -1
            }
            guard split >= 0 else {
                throw error(.invalidMerge, "merge \(index) is \(excerpt(entry)) and must be a pair of tokens; fetch the file again")
            }
            let bytes = merged.span
            let left = vocabulary.id(of: bytes.extracting(0..<split), scratch: &scratch)
            let right = vocabulary.id(of: bytes.extracting(split..<bytes.count), scratch: &scratch)
            let new = vocabulary.id(of: bytes, scratch: &scratch)
            guard let left, let right, let new else {
                throw error(
                    .unknownMergeToken,
                    "merge \(index), \(excerpt(entry)), names or makes a token that is not in the vocabulary; fetch the file again")
            }
            table.set(left, right, rank: rank, newID: new)
            rank += 1
        }
        return table
    }

    /// Writes `left right` without the space.
    ///
    /// - Returns: the length of the left part, or -1 if there is not exactly one space.
    private static func splitAtSpace(_ text: String, into output: inout [UInt8]) -> Int {
        var split = -1
        for byte in text.utf8 {
            if byte != 0x20 {
                output.append(byte)
            } else if split < 0 {
                split = output.count
            } else {
                return -1
            }
        }
        return split
    }

    // MARK: Added tokens

    /// The added tokens; those that the vocabulary lacks are added to it.
    func addedTokens(_ vocabulary: inout Vocabulary) throws(TokenizerError) -> [AddedToken] {
        let entry = root["added_tokens"] ?? []
        guard let entries = entry.isNull ? [] : entry.arrayValue else {
            throw error(.invalidField, "\"added_tokens\" is \(entry.kind) and must be a list; fetch the file again")
        }
        let modelSize = vocabulary.count
        var seen: Set<Int32> = []
        var largest: Int32?
        var scratch: [UInt8] = []
        var tokens: [AddedToken] = []
        for (index, entry) in entries.enumerated() {
            let what = "added token \(index)"
            guard let content = entry["content"]?.stringValue, let written = entry["id"]?.integerValue else {
                throw error(.invalidField, "\(what) has no text \"content\" or no integer \"id\"; fetch the file again")
            }
            let id = try checked(written, of: content)
            guard (1...Self.maximumAddedTokenBytes).contains(content.utf8.count) else {
                throw error(
                    .invalidAddedToken,
                    "\(what) has \(content.utf8.count) bytes and must have between 1 and "
                        + "\(Self.maximumAddedTokenBytes); remove it from the file")
            }
            // The reference library does not take the id from the file: it uses the vocabulary's, or else the next one
            // free. Where the two differ, one of them is not what the model was trained with.
            let next = largest.map { Int($0) >= modelSize ? Int($0) + 1 : modelSize } ?? modelSize
            let known = vocabulary.id(of: content.utf8.span, scratch: &scratch)
            guard id == known.map(Int.init) ?? next else {
                throw error(
                    .contradictoryID,
                    "\(what), \(excerpt(.string(content))), has the id \(id), and by the rest of the "
                        + "file it has \(known.map(Int.init) ?? next); correct the file"
                )
            }
            if known == nil {
                guard !vocabulary.contains(id) else {
                    throw error(
                        .duplicateID,
                        "\(what), \(excerpt(.string(content))), has the id \(id) "
                            + "of another token; correct the file")
                }
                vocabulary.add(content.utf8.span, id: id, scratch: &scratch)
            }
            guard seen.insert(Int32(id)).inserted else {
                throw error(.invalidAddedToken, "\(what), \(excerpt(.string(content))), is there twice; remove one from the file")
            }
            largest = max(largest ?? 0, Int32(id))
            let isSpecial = try flag("special", of: entry, what, default: false)
            tokens.append(
                AddedToken(
                    id: Int32(id), content: content,
                    isSingleWord: try flag("single_word", of: entry, what, default: false),
                    stripsLeft: try flag("lstrip", of: entry, what, default: false),
                    stripsRight: try flag("rstrip", of: entry, what, default: false),
                    isNormalized: try flag("normalized", of: entry, what, default: !isSpecial),
                    isSpecial: isSpecial))
        }
        return tokens
    }

    // MARK: Reading fields

    private func checked(_ id: Int, of token: String) throws(TokenizerError) -> Int {
        guard (0...Tokenizer.maximumID).contains(id) else {
            throw error(
                .idOutOfRange,
                "the token \(excerpt(.string(token))) has the id \(id), and ids go from "
                    + "0 to \(Tokenizer.maximumID); fetch the file again")
        }
        return id
    }

    private func flag(_ key: String, of entry: JSONValue, _ owner: String, default fallback: Bool? = nil) throws(TokenizerError) -> Bool {
        if let value = entry[key]?.boolValue { return value }
        if entry[key] == nil, let fallback { return fallback }
        throw error(.invalidField, "\(owner) needs \"\(key)\" to be true or false; fetch the file again")
    }

    /// A field that is not known may change the ids, so it is not passed over.
    private func checkFields(of entry: JSONValue, _ known: Set<String>, _ code: TokenizerError.Code) throws(TokenizerError) {
        guard let unknown = entry.objectValue?.keys.first(where: { $0 != "type" && !known.contains($0) }) else { return }
        throw error(code, "\(name(of: entry)) has the option \(excerpt(.string(unknown))), which is not known; \(Self.wayOut)")
    }

    /// The type that an entry names, for messages.
    private func name(of entry: JSONValue) -> String {
        entry["type"]?.stringValue.map { String($0.prefix(60)) } ?? "without a type"
    }

    /// A value as JSON, not too long for a message.
    private func excerpt(_ value: JSONValue) -> String {
        let text = value.serialized()
        return text.count <= 120 ? text : String(text.prefix(117)) + "..."
    }

    private func error(_ code: TokenizerError.Code, _ message: String) -> TokenizerError {
        TokenizerError(code, path: path, message)
    }
}
