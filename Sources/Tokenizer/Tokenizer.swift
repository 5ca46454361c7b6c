public import JSON
internal import Synchronization

/// A byte-level BPE tokenizer, read from the `tokenizer.json` of a Hugging Face model: the same ids for the same text as
/// the `tokenizers` library gives, the tokens of a post-processor left out (`add_special_tokens=False`).
///
/// Added tokens that are written out in a text, special or not, are found as that library finds them. `truncation` and
/// `padding` in the file are not applied: training data is cut by whoever packs it.
///
/// A byte for which the vocabulary has no token is dropped without a word, as the reference does; `missingBytes` says
/// which those are.
public struct Tokenizer: Sendable {
    /// The largest id that a file may use: far above every vocabulary in use, and low enough that a small file cannot make
    /// a program allocate more than some megabytes.
    public static let maximumID = (1 << 22) - 1

    /// One more than the largest id, which is how many rows an embedding needs.
    public var vocabularySize: Int { model.vocabulary.size }

    /// The bytes that the tokenizer cannot represent, in ascending order; empty for most.
    public var missingBytes: [UInt8] {
        model.symbolOfByte.enumerated().filter { $0.element < 0 }.map { UInt8($0.offset) }
    }

    let model: BytePairModel
    let preTokenizer: PreTokenizer
    /// The added tokens that are looked for first, and those that are looked for in what is left.
    let rawMatcher: AddedTokenMatcher
    let normalizedMatcher: AddedTokenMatcher
    let specialIDs: Set<Int32>
    /// Whether the file names a decoder. Without one, the reference joins the tokens as they are with spaces.
    let hasDecoder: Bool
    private let classes = CharacterClasses.shared
    private let states = EncoderStates()

    /// Reads a `tokenizer.json`.
    ///
    /// - Throws: `TokenizerError` when the file cannot be read, is damaged, contradicts itself, or needs anything that is
    ///   not supported here, which is then named.
    public init(contentsOf path: String) throws(TokenizerError) {
        try self.init(json: TokenizerFile.read(path), name: path)
    }

    /// Makes a tokenizer from the content of a `tokenizer.json`.
    ///
    /// - Parameter name: the file's path, for messages.
    public init(json: JSONValue, name: String) throws(TokenizerError) {
        let file = TokenizerFile(root: json, path: name)
        // The kind of tokenizer first: it says more than the parts that go with it.
        _ = try file.supportedModel()
        try file.checkUnusedParts()
        preTokenizer = try file.preTokenizer()
        hasDecoder = try file.hasDecoder()
        var model = try file.model()
        let added = try file.addedTokens(&model.vocabulary)
        self.model = model
        rawMatcher = AddedTokenMatcher(added.filter { !$0.isNormalized })
        normalizedMatcher = AddedTokenMatcher(added.filter(\.isNormalized))
        specialIDs = Set(added.lazy.filter(\.isSpecial).map(\.id))
    }

    // MARK: Encoding

    /// The ids of a text.
    public func encode(_ text: String) -> [Int32] {
        encode(validated: text.utf8.span)
    }

    /// The ids of a text given as UTF-8.
    ///
    /// - Parameter source: where the text comes from, for messages.
    /// - Throws: `TokenizerError.invalidUTF8` with the offset of the first byte that does not belong.
    public func encode(utf8 text: Span<UInt8>, from source: String = "the text") throws(TokenizerError) -> [Int32] {
        do throws(UTF8.ValidationError) {
            _ = try UTF8Span(validating: text)
        } catch {
            throw TokenizerError(
                .invalidUTF8, path: source, offset: error.byteOffsets.lowerBound,
                "the text is not valid UTF-8 here; convert the file to UTF-8")
        }
        return encode(validated: text)
    }

    /// The same for the bytes of a file mapped into memory.
    public func encode(utf8 text: RawSpan, from source: String = "the text") throws(TokenizerError) -> [Int32] {
        // Sound: the bytes are there for the length of the call, and every bit pattern is a UInt8.
        try unsafe text.withUnsafeBytes { raw throws(TokenizerError) in
            try encode(utf8: unsafe raw.bindMemory(to: UInt8.self).span, from: source)
        }
    }

    private func encode(validated text: Span<UInt8>) -> [Int32] {
        var ids: [Int32] = []
        ids.reserveCapacity(text.count / 3)
        var state = states.take()
        for segment in rawMatcher.segments(of: text, in: 0..<text.count, classes) {
            if let id = segment.id {
                ids.append(id)
                continue
            }
            for inner in normalizedMatcher.segments(of: text, in: segment.range, classes) {
                if let id = inner.id {
                    ids.append(id)
                } else {
                    encode(text, inner.range, step: 0, &state, &ids)
                }
            }
        }
        states.give(state)
        return ids
    }

    /// Puts a piece through the steps of the pre-tokenizer from `step` on.
    private func encode(_ text: Span<UInt8>, _ range: Range<Int>, step: Int, _ state: inout EncoderState, _ ids: inout [Int32]) {
        guard step < preTokenizer.steps.count else {
            encodeByteLevel(text, range, &state, &ids)
            return
        }
        var position = range.lowerBound
        while position < range.upperBound {
            let end = preTokenizer.steps[step].endOfPiece(in: text, from: position, to: range.upperBound, classes)
            encode(text, position..<end, step: step + 1, &state, &ids)
            position = end
        }
    }

    private func encodeByteLevel(_ text: Span<UInt8>, _ range: Range<Int>, _ state: inout EncoderState, _ ids: inout [Int32]) {
        let space = UInt8(ascii: " ")
        guard preTokenizer.addsPrefixSpace, !range.isEmpty, text[range.lowerBound] != space else {
            encodePieces(text, range, &state, &ids)
            return
        }
        // Taken out of the state for the time that the state is lent to the model.
        var prefixed: [UInt8] = []
        swap(&prefixed, &state.prefixed)
        prefixed.removeAll(keepingCapacity: true)
        prefixed.append(space)
        for position in range { prefixed.append(text[position]) }
        encodePieces(prefixed.span, 0..<prefixed.count, &state, &ids)
        swap(&prefixed, &state.prefixed)
    }

    private func encodePieces(_ text: Span<UInt8>, _ range: Range<Int>, _ state: inout EncoderState, _ ids: inout [Int32]) {
        guard let pattern = preTokenizer.bytePattern else {
            if !range.isEmpty { model.encode(text, range, &state, &ids) }
            return
        }
        var position = range.lowerBound
        while position < range.upperBound {
            let end = pattern.endOfPiece(in: text, from: position, to: range.upperBound, classes)
            model.encode(text, position..<end, &state, &ids)
            position = end
        }
    }

    // MARK: Decoding

    /// The text for which ids stand. Unknown ids are skipped, and bytes that do not form UTF-8 become U+FFFD, as in the
    /// reference library.
    public func decode(_ ids: some Sequence<Int32>, skippingSpecialTokens: Bool = false) -> String {
        // An array first: generic code is not specialised for callers in other modules.
        decode(array: Array(ids), skippingSpecialTokens: skippingSpecialTokens)
    }

    private func decode(array ids: [Int32], skippingSpecialTokens: Bool) -> String {
        let kept = skippingSpecialTokens ? ids.filter { !specialIDs.contains($0) } : ids
        guard hasDecoder else { return kept.compactMap { token($0) }.joined(separator: " ") }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(kept.count * 4)
        for id in kept {
            if let token = model.vocabulary.bytes(of: id) { bytes.append(contentsOf: token) }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    // MARK: Tokens

    /// The token with an id, written as in the file (`Ġthe` for " the"), or `nil` if there is none.
    public func token(_ id: Int32) -> String? { model.vocabulary.text(of: id) }

    /// The id of a token, written as in the file, or `nil` if there is none.
    public func id(of token: String) -> Int32? { model.vocabulary.id(of: token.utf8.span) }
}

/// Working memory for encodings, one for each that runs at the same time, so that a cache outlives a call and no call
/// waits for another.
private final class EncoderStates: Sendable {
    private static let maximumIdle = 8
    private let idle = Mutex<[EncoderState]>([])

    func take() -> EncoderState { idle.withLock { $0.popLast() } ?? EncoderState() }

    func give(_ state: consuming EncoderState) {
        let state = state
        idle.withLock { if $0.count < Self.maximumIdle { $0.append(state) } }
    }
}
