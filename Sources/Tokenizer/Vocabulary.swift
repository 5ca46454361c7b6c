/// The tokens and their ids.
///
/// A token written in the byte-level alphabet is kept as the bytes for which it stands, any other (an added token such as
/// `<｜end｜>`) as its own UTF-8. The two never mix: the same bytes may be in both.
struct Vocabulary: Sendable {
    private var byteLevel: ByteStringTable
    private var byteLevelIDs: [Int32] = []
    private var literal = ByteStringTable()
    private var literalIDs: [Int32] = []
    /// By id: the entry in `byteLevel`, or the complement of the entry in `literal`, or `absent`.
    private var entries: [Int32]
    private static let absent = Int32.min

    init(minimumCapacity: Int, largestID: Int) {
        byteLevel = ByteStringTable(minimumCapacity: minimumCapacity)
        entries = [Int32](repeating: Self.absent, count: largestID + 1)
    }

    /// How many tokens there are.
    var count: Int { byteLevel.count + literal.count }

    /// One more than the largest id.
    var size: Int { entries.count }

    func contains(_ id: Int) -> Bool { entries.indices.contains(id) && entries[id] != Self.absent }

    /// The id of a token, given its text as in the file.
    func id(of text: Span<UInt8>) -> Int32? {
        var scratch: [UInt8] = []
        return id(of: text, scratch: &scratch)
    }

    /// The same for a loop that has an array to work in.
    func id(of text: Span<UInt8>, scratch: inout [UInt8]) -> Int32? {
        scratch.removeAll(keepingCapacity: true)
        if ByteLevelAlphabet.decode(text, into: &scratch) { return byteLevel.find(scratch.span).map { byteLevelIDs[$0] } }
        return literal.find(text).map { literalIDs[$0] }
    }

    /// The id of the token that stands for these bytes of a text.
    func id(ofBytes text: Span<UInt8>, _ range: Range<Int>) -> Int32? {
        byteLevel.find(text, range, hash: byteLevel.hash(text, range)).map { byteLevelIDs[$0] }
    }

    /// Adds a token; neither its text nor its id has been added before, and ids do not exceed Int32.
    mutating func add(_ text: Span<UInt8>, id: Int, scratch: inout [UInt8]) {
        while entries.count <= id { entries.append(Self.absent) }
        scratch.removeAll(keepingCapacity: true)
        if ByteLevelAlphabet.decode(text, into: &scratch) {
            entries[id] = Int32(byteLevel.count)
            byteLevel.insert(scratch.span, 0..<scratch.count, hash: byteLevel.hash(scratch.span, 0..<scratch.count))
            byteLevelIDs.append(Int32(id))
        } else {
            entries[id] = ~Int32(literal.count)
            literal.insert(text, 0..<text.count, hash: literal.hash(text, 0..<text.count))
            literalIDs.append(Int32(id))
        }
    }

    /// The bytes that ByteLevel decodes a token to, or `nil` for an unknown id.
    func bytes(of id: Int32) -> ArraySlice<UInt8>? {
        guard let id = Int(exactly: id), contains(id) else { return nil }
        let entry = entries[id]
        return entry >= 0 ? byteLevel.bytes(of: Int(entry)) : literal.bytes(of: Int(~entry))
    }

    /// The text of a token as in the file, or `nil` for an unknown id.
    func text(of id: Int32) -> String? {
        guard let bytes = bytes(of: id) else { return nil }
        if entries[Int(id)] < 0 { return String(decoding: bytes, as: UTF8.self) }
        var text = ""
        for byte in bytes { text.unicodeScalars.append(ByteLevelAlphabet.scalars[Int(byte)]) }
        return text
    }
}
