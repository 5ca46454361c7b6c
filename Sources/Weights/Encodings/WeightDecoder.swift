public import FileIO

/// How to read a weight of one encoding: what its codes and scales stand for.
///
/// Both ways give v of the encoding's definition, a number of binary32, bit for bit. They share no code, so that a mistake
/// in one of them shows: merging reads by `decode`, verification by `define`.
public protocol WeightDecoder: Sendable {
    /// The dimensions of the weight, outermost first.
    var shape: [Int] { get }
    /// The file that holds the codes.
    var file: MappedFile { get }
    /// What decides the numbers beside the bytes of codes and scales, in words: sizes of blocks that the configuration gives.
    var parameters: String { get }

    /// Decodes rows of the weight seen as a matrix whose columns are its last dimension.
    ///
    /// - Parameter target: [rows, columns].
    func decode(_ rows: Range<Int>, into target: inout MutableSpan<Float>) throws(FileError)

    /// The same numbers from the words of the definition, one element after the other.
    ///
    /// - Parameter target: [rows, columns].
    func define(_ rows: Range<Int>, into target: inout MutableSpan<Float>) throws(FileError)
}

/// A weight that is stored as codes, with the encoding that says what they stand for.
public struct EncodedWeight: ElementSource {
    public let encoding: WeightEncoding
    let decoder: any WeightDecoder
    /// Whether elements come from the definition.
    private let isDefined: Bool

    init(_ encoding: WeightEncoding, _ decoder: any WeightDecoder) {
        self.init(encoding, decoder, isDefined: false)
    }

    private init(_ encoding: WeightEncoding, _ decoder: any WeightDecoder, isDefined: Bool) {
        (self.encoding, self.decoder, self.isDefined) = (encoding, decoder, isDefined)
    }

    /// The encoding and what decides the numbers beside the bytes of codes and scales.
    public var meaning: String { "\(encoding.name), \(decoder.parameters)" }

    var defined: EncodedWeight { EncodedWeight(encoding, decoder, isDefined: true) }

    public var file: MappedFile { decoder.file }

    public func read(_ elements: Range<Int>, into target: inout MutableRawSpan) throws(FileError) {
        let columns = decoder.shape.last ?? 1
        guard !elements.isEmpty else { return }
        let rows = elements.lowerBound / columns..<(elements.upperBound - 1) / columns + 1
        let first = elements.lowerBound - rows.lowerBound * columns
        if first == 0, elements.count == rows.count * columns {
            return try fill(rows, count: elements.count, &target)
        }
        // Rows that are not wanted whole are decoded beside the target.
        var whole = [Float](repeating: 0, count: rows.count * columns)
        var numbers = whole.mutableSpan
        // Sound: every bit pattern of a number may be written as raw bytes.
        var bytes = unsafe numbers.mutableBytes
        try fill(rows, count: bytes.byteCount / 4, &bytes)
        for index in 0..<elements.count {
            target.storeBytes(of: whole[first + index], toByteOffset: 4 * index, as: Float.self)
        }
    }

    private func fill(_ rows: Range<Int>, count: Int, _ target: inout MutableRawSpan) throws(FileError) {
        // Sound: the caller has counted the elements, and every bit pattern is a number.
        try unsafe target.withUnsafeMutableBytes { bytes throws(FileError) in
            var numbers = unsafe UnsafeMutableBufferPointer(rebasing: bytes.bindMemory(to: Float.self)[..<count]).mutableSpan
            if isDefined { try decoder.define(rows, into: &numbers) } else { try decoder.decode(rows, into: &numbers) }
        }
    }
}
