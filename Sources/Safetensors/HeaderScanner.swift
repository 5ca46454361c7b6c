internal import JSON
internal import OrderedCollections
internal import Tensors

/// Reads the header of a sound file in one pass, without a JSON document between the text and the tensors.
///
/// It gives up, and says nothing, at the first thing that is not as writers write it: a fault of any kind, an escape in a
/// name, a number that is not a plain integer. The way through `JSONValue` then decides and finds the words. So
/// whatever this accepts, that way accepts with the same content, and every refusal comes from one place.
struct HeaderScanner: ~Escapable {
    private let text: Span<UInt8>
    private let dataStart: Int
    private var position = 0
    private var tensors: OrderedDictionary<String, TensorInfo>
    private var metadata: OrderedDictionary<String, String>?
    private var numbers: [Int] = []
    /// Models have few shapes and many tensors: those of the same shape share one list.
    private var recentShapes: [[Int]] = []
    private var nextRecent = 0
    private let words = Words()

    /// The format's own words, packed as `word()` packs them.
    private struct Words {
        let dtype = pack("dtype"), shape = pack("shape"), dataOffsets = pack("data_offsets")
        let dtypes = DType.allCases.map { (word: pack($0.rawValue), dtype: $0) }

        // No word ends in NUL, which no string of a header may hold either, so that different words differ.
        private static func pack(_ word: String) -> UInt128 { word.utf8.reversed().reduce(0) { $0 << 8 | UInt128($1) } }
    }

    /// - Parameters:
    ///   - header: the JSON text.
    ///   - dataStart: the place in the file where the tensors' bytes begin.
    ///   - end: the length of the file.
    /// - Returns: the content, its tensors in the order of their bytes; `nil` to have the header read the other way.
    static func read(_ header: RawSpan, dataStart: Int, end: Int) -> SafetensorsHeader.Content? {
        var scanner = HeaderScanner(text: Span<UInt8>(_bytes: header), dataStart: dataStart)
        guard scanner.readAll() else { return nil }
        return scanner.content(end: end)
    }

    @_lifetime(copy text)
    private init(text: Span<UInt8>, dataStart: Int) {
        self.text = text
        self.dataStart = dataStart
        // An entry takes about this many bytes.
        tensors = OrderedDictionary(minimumCapacity: text.count / 96)
    }

    // MARK: What the file says

    /// `nil` where the tensors do not cover the data exactly.
    private consuming func content(end: Int) -> SafetensorsHeader.Content? {
        var place = dataStart
        if !tensors.values.allSatisfy({ follows(&place, $0) }) {
            // Not in the order of their bytes, or not sound.
            tensors.sort {
                ($0.value.byteRange.lowerBound, $0.value.byteRange.upperBound) < ($1.value.byteRange.lowerBound, $1.value.byteRange.upperBound)
            }
            place = dataStart
            guard tensors.values.allSatisfy({ follows(&place, $0) }) else { return nil }
        }
        return place == end ? (tensors, metadata ?? [:]) : nil
    }

    private func follows(_ place: inout Int, _ tensor: TensorInfo) -> Bool {
        guard tensor.byteRange.lowerBound == place else { return false }
        place = tensor.byteRange.upperBound
        return true
    }

    private mutating func readAll() -> Bool {
        // The format allows space everywhere but in front.
        guard take(UInt8(ascii: "{")), position == 1 else { return false }
        if !take(UInt8(ascii: "}")) {
            repeat {
                guard let name = string(), take(UInt8(ascii: ":")) else { return false }
                if name == SafetensorsHeader.metadataName {
                    guard metadata == nil, readMetadata() else { return false }
                } else {
                    // Two names may be one text to Unicode.
                    guard let tensor = tensor(name), tensors.updateValue(tensor, forKey: name) == nil else { return false }
                }
            } while take(UInt8(ascii: ","))
            guard take(UInt8(ascii: "}")) else { return false }
        }
        skipSpace()
        return position == text.count
    }

    private mutating func tensor(_ name: String) -> TensorInfo? {
        guard take(UInt8(ascii: "{")) else { return nil }
        var dtype: DType?
        var shape: [Int]?
        var offsets: Range<Int>?
        repeat {
            guard let field = word(), take(UInt8(ascii: ":")) else { return nil }
            if field == words.dtype {
                guard dtype == nil, let name = word(), let known = words.dtypes.first(where: { $0.word == name }) else { return nil }
                dtype = known.dtype
            } else if field == words.shape {
                guard shape == nil, list() else { return nil }
                shape = sharedShape()
            } else if field == words.dataOffsets {
                guard offsets == nil, list(), numbers.count == 2, numbers[0] <= numbers[1] else { return nil }
                offsets = numbers[0]..<numbers[1]
            } else {
                return nil
            }
        } while take(UInt8(ascii: ","))
        guard take(UInt8(ascii: "}")), let dtype, let shape, let offsets, CheckedSize.byteCount(of: shape, dtype: dtype) == offsets.count
        else { return nil }
        let (end, overflow) = offsets.upperBound.addingReportingOverflow(dataStart)
        guard !overflow else { return nil }
        return TensorInfo(name: name, dtype: dtype, shape: shape, byteRange: offsets.lowerBound + dataStart..<end)
    }

    /// The list in `numbers`, in memory that it shares with equal ones of late.
    private mutating func sharedShape() -> [Int] {
        for known in recentShapes where known == numbers { return known }
        let shape = Array(numbers)
        if recentShapes.count < 8 {
            recentShapes.append(shape)
        } else {
            recentShapes[nextRecent] = shape
            nextRecent = (nextRecent + 1) % recentShapes.count
        }
        return shape
    }

    /// Metadata often holds JSON in strings, whose escapes are the business of the JSON reader.
    private mutating func readMetadata() -> Bool {
        guard take(UInt8(ascii: "{")) else { return false }
        let start = position - 1
        // The end of the object is the first closing brace outside of a string; no object can lie inside.
        var inString = false
        while position < text.count, inString || text[position] != UInt8(ascii: "}") {
            switch text[position] {
            case UInt8(ascii: "\""): inString.toggle()
            case UInt8(ascii: "\\") where inString: position += 1
            default: break
            }
            position += 1
        }
        guard position < text.count else { return false }
        position += 1
        var part: [UInt8] = []
        part.reserveCapacity(position - start)
        for index in start..<position { part.append(text[index]) }
        guard let members = (try? JSONValue(parsing: part))?.objectValue else { return false }
        var metadata: OrderedDictionary<String, String> = [:]
        for (key, value) in members {
            guard let string = value.stringValue else { return false }
            metadata[key] = string
        }
        self.metadata = metadata
        return true
    }

    // MARK: Pieces of JSON

    private mutating func skipSpace() {
        while position < text.count {
            switch text[position] {
            case 0x20, 0x0A, 0x0D, 0x09: position += 1
            default: return
            }
        }
    }

    /// Steps over `byte`, and space before it, if it comes next.
    private mutating func take(_ byte: UInt8) -> Bool {
        if position < text.count, text[position] == byte {
            position += 1
            return true
        }
        skipSpace()
        guard position < text.count, text[position] == byte else { return false }
        position += 1
        return true
    }

    /// The place of a string's bytes: one without escapes and control characters.
    private mutating func quoted() -> Range<Int>? {
        guard take(UInt8(ascii: "\"")) else { return nil }
        let start = position
        let ones: UInt64 = 0x0101_0101_0101_0101, tops: UInt64 = 0x8080_8080_8080_8080
        while position < text.count {
            // The top bit of each byte that is a quote, a backslash or below a space. Such a subtraction may mark bytes
            // after the first one falsely, never before it.
            let bytes = eightBytes(at: position)
            let quotes = bytes ^ (ones &* UInt64(UInt8(ascii: "\""))), escapes = bytes ^ (ones &* UInt64(UInt8(ascii: "\\")))
            let found = ((quotes &- ones) & ~quotes | (escapes &- ones) & ~escapes | (bytes &- ones &* 0x20) & ~bytes) & tops
            guard found != 0 else {
                position += 8
                continue
            }
            position += found.trailingZeroBitCount / 8
            guard position < text.count, text[position] == UInt8(ascii: "\"") else { return nil }
            position += 1
            return start..<position - 1
        }
        return nil
    }

    /// Eight bytes, the first in the lowest place; zeros after the end.
    private func eightBytes(at index: Int) -> UInt64 {
        // Sound: every bit pattern is an integer, and the span checks its bounds.
        if index + 8 <= text.count { return UInt64(littleEndian: unsafe text.bytes.unsafeLoadUnaligned(fromByteOffset: index, as: UInt64.self)) }
        return (min(index, text.count)..<text.count).reduce(0) { $0 | UInt64(text[$1]) << (8 * UInt64($1 - index)) }
    }

    private mutating func string() -> String? {
        guard let range = quoted(), let valid = try? UTF8Span(validating: text.extracting(range)) else { return nil }
        return String(copying: valid)
    }

    /// A string of at most 16 bytes, as an integer.
    private mutating func word() -> UInt128? {
        guard let range = quoted(), range.count <= 16 else { return nil }
        let word = UInt128(eightBytes(at: range.lowerBound)) | UInt128(eightBytes(at: range.lowerBound + 8)) << 64
        return word & ~(~0 << UInt128(8 * range.count))
    }

    /// Reads a list of integers that are not negative into `numbers`.
    private mutating func list() -> Bool {
        numbers.removeAll(keepingCapacity: true)
        guard take(UInt8(ascii: "[")) else { return false }
        if take(UInt8(ascii: "]")) { return true }
        repeat {
            guard let number = number() else { return false }
            numbers.append(number)
        } while take(UInt8(ascii: ","))
        return take(UInt8(ascii: "]"))
    }

    private mutating func number() -> Int? {
        skipSpace()
        let start = position
        var value = 0
        while position < text.count, case let digit = text[position] &- UInt8(ascii: "0"), digit < 10 {
            let (tenfold, first) = value.multipliedReportingOverflow(by: 10)
            let (sum, second) = tenfold.addingReportingOverflow(Int(digit))
            guard !first, !second else { return nil }
            value = sum
            position += 1
        }
        guard position > start, position == start + 1 || text[start] != UInt8(ascii: "0") else { return nil }
        return value
    }
}
