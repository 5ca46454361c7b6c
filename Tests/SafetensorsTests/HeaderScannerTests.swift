import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

@testable import Safetensors

/// The short way through a header beside the long one.
struct HeaderScannerTests {
    /// What the long way makes of a file; `nil` where it refuses.
    private func long(_ bytes: [UInt8], _ dataStart: Int) -> SafetensorsHeader.Content? {
        try? SafetensorsHeader.parseThroughJSON(unsafe bytes.span.bytes, dataStart: dataStart, path: "")
    }

    private func short(_ bytes: [UInt8], _ dataStart: Int) -> SafetensorsHeader.Content? {
        unsafe HeaderScanner.read(bytes.span.bytes.extracting(8..<dataStart), dataStart: dataStart, end: bytes.count)
    }

    private func expectEqual(_ short: SafetensorsHeader.Content, _ long: SafetensorsHeader.Content?, _ text: String) {
        // Order is part of the equality of ordered dictionaries.
        #expect(short.tensors == long?.tensors && short.metadata == long?.metadata, "\(text)")
    }

    private func header(_ text: String, dataCount: Int) -> (bytes: [UInt8], dataStart: Int) {
        (fileBytes(text, [UInt8](repeating: 0, count: dataCount)), 8 + text.utf8.count)
    }

    @Test(arguments: [
        (#"{}"#, 0), (#"{"__metadata__":{}}"#, 0), ("{ \n\t\r}  ", 0), (#"{"__metadata__":{"a}":"\"}{","b":"\u00e9\ud83e\udd99"}}"#, 0),
        (#"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}   "#, 4), (#"{"é🦙":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}"#, 8),
        (
            #"{ "t" : { "shape" : [ 2 , 0 ] , "data_offsets" : [ 0 , 0 ] , "dtype" : "F8_E4M3FNUZ" } , "" : {"dtype":"F4","shape":[2],"data_offsets":[0,1]} }"#,
            1
        ),
        (
            #"{"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},"__metadata__":{"z":"","a":"1"},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#,
            5
        ),
    ])
    func whatWritersWriteGoesTheShortWay(text: String, dataCount: Int) throws {
        let (bytes, dataStart) = header(text, dataCount: dataCount)
        let content = try #require(short(bytes, dataStart), "\(text)")
        expectEqual(content, long(bytes, dataStart), text)
    }

    @Test(arguments: SafetensorsFileTests.refusals) func nothingThatIsRefusedGoesTheShortWay(_ refusal: Refusal) {
        // Whether the length itself is sound is found before.
        guard refusal.bytes.count > 8 else { return }
        let length = refusal.bytes[..<8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        guard length <= UInt64(refusal.bytes.count - 8) else { return }
        #expect(short(refusal.bytes, 8 + Int(length)) == nil)
    }

    @Test(arguments: [
        // Two spellings of one text; a name that the long way reads and that hides another; an escape; numbers with more than digits.
        "{\"\u{E9}\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"e\u{301}\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
        #"{"a\u0062":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, #"{"t":{"dtype":"U\u0038","shape":[0],"data_offsets":[0,0]}}"#,
        #"{"\u005f_metadata__":{}}"#, #"{"t":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}"#,
        #"{"t":{"dtype":"U8","shape":[00],"data_offsets":[0,0]}}"#,
        #"{"t":{"dtype":"U8","shape":[0e0],"data_offsets":[0,0]}}"#, #"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},}"#,
        #" {}"#, #"{}{}"#, #"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]"#, #"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}} ,"#,
        #"{"__metadata__":{"a":["#, #"{"__metadata__":{"a":"b"#, "{\"\0\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
        "{\"t\":{\"dtype\":\"U8\0\",\"shape\":[0],\"data_offsets\":[0,0]}}", #"{"__metadata__":{"a":1}}"#,
    ])
    func theRestIsLeftToTheLongWay(text: String) {
        let (bytes, dataStart) = header(text, dataCount: 0)
        #expect(short(bytes, dataStart) == nil, "\(text)")
    }

    /// Thousands of headers, sound ones with space and fields in any order, and the same with a few bytes changed.
    @Test(arguments: 1...8 as ClosedRange<UInt64>) func bothWaysAgree(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var (accepted, mutated, mutatedAccepted) = (0, 0, 0)
        for _ in 0..<400 {
            let (text, dataCount) = randomHeader(using: &generator)
            var (bytes, dataStart) = header(text, dataCount: dataCount)
            let sound = long(bytes, dataStart)
            #expect(sound != nil, "\(text)")
            if let content = short(bytes, dataStart) {
                expectEqual(content, sound, text)
                accepted += 1
            }
            for _ in 0..<4 where dataStart > 10 {
                mutated += 1
                let place = Int.random(in: 8..<dataStart, using: &generator)
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &generator)
                case 1: bytes[place] = bytes[8..<dataStart].randomElement(using: &generator) ?? 0
                case 2: bytes.swapAt(place, Int.random(in: 8..<dataStart, using: &generator))
                default:
                    // A piece of the header written over another.
                    let from = Int.random(in: 8..<dataStart, using: &generator)
                    let count = min(12, dataStart - max(place, from))
                    bytes.replaceSubrange(place..<place + count, with: Array(bytes[from..<from + count]))
                }
                let (quick, whole) = (short(bytes, dataStart), long(bytes, dataStart))
                if let quick {
                    expectEqual(quick, whole, String(decoding: bytes[8..<dataStart], as: UTF8.self))
                    mutatedAccepted += 1
                }
            }
        }
        // Neither comparison was empty.
        #expect(accepted > 250 && mutatedAccepted > mutated / 50 && mutatedAccepted < mutated, "\(accepted), \(mutatedAccepted) of \(mutated)")
    }

    /// A header that the format allows, and the number of bytes after it.
    private func randomHeader(using generator: inout SeededGenerator) -> (text: String, dataCount: Int) {
        let spaces = ["", "", "", "", " ", "\n", "\t\r "]
        func space() -> String { spaces.randomElement(using: &generator) ?? "" }
        let letters = ["a", "b", ".", "0", "17", "é", "🦙", "weight", "\\n", "\\u00e9", "model.layers.", "}", "{", ","]
        var entries: [String] = []
        var offset = 0
        var names: Set<String> = []
        for number in 0..<Int.random(in: 0...6, using: &generator) {
            let dtype = DType.allCases.randomElement(using: &generator) ?? .u8
            let shape = (0..<Int.random(in: 0...3, using: &generator)).map { _ in Int.random(in: 0...3, using: &generator) * 4 }
            guard let size = CheckedSize.byteCount(of: shape, dtype: dtype) else { continue }
            // Escapes are rare, so that most headers can go the short way.
            let allowed = Int.random(in: 0..<10, using: &generator) == 0 ? letters : letters.filter { !$0.contains("\\") }
            let name = "\(number)" + (0..<3).map { _ in allowed.randomElement(using: &generator) ?? "" }.joined()
            guard names.insert(name).inserted else { continue }
            let sizes = shape.map { "\(space())\($0)" }.joined(separator: "\(space()),")
            let fields = [
                "\"dtype\"\(space()):\(space())\"\(dtype.rawValue)\"", "\"shape\":\(space())[\(sizes)\(space())]",
                "\(space())\"data_offsets\":[\(offset)\(space()),\(space())\(offset + size)]",
            ].shuffled(using: &generator)
            entries.append("\"\(name)\"\(space()):\(space()){\(fields.joined(separator: "\(space()),"))\(space())}")
            offset += size
        }
        if Bool.random(using: &generator) { entries.append(#""__metadata__":\#(space()){"format"\#(space()):"pt","x":"{\"y\":[1,\"}\"]}"}"#) }
        let text = "{" + space() + entries.shuffled(using: &generator).joined(separator: "\(space()),\(space())") + "\(space())}"
        return (text + String(repeating: " ", count: Int.random(in: 0...9, using: &generator)), offset)
    }
}
