import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

@testable import Safetensors

/// Files that are not what they should be.
struct Refusal: Sendable, CustomTestStringConvertible {
    let name: String
    let bytes: [UInt8]
    let code: SafetensorsError.Code
    /// The tensor that the error must name.
    let tensor: String?
    /// What the message must say.
    let words: String

    var testDescription: String { "\(code): \(name)" }

    init(_ code: SafetensorsError.Code, _ name: String, bytes: [UInt8], tensor: String? = nil, says words: String = "") {
        (self.name, self.bytes, self.code, self.tensor, self.words) = (name, bytes, code, tensor, words)
    }

    init(_ code: SafetensorsError.Code, _ name: String, _ header: String, _ data: [UInt8] = [], tensor: String? = nil, says words: String = "") {
        self.init(code, name, bytes: fileBytes(header, data), tensor: tensor, says: words)
    }
}

struct SafetensorsFileTests {
    private let folder: TemporaryFolder
    private let path: String

    init() throws {
        folder = try TemporaryFolder()
        path = folder.path("model.safetensors")
    }

    private static let four: [UInt8] = [1, 2, 3, 4]
    private static let eight: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]

    // MARK: Refused

    static let refusals: [Refusal] = [
        Refusal(.headerTooSmall, "no bytes", bytes: [], says: "the file is empty"),
        Refusal(.headerTooSmall, "seven bytes", bytes: [2, 0, 0, 0, 0, 0, 0], says: "7 bytes"),

        Refusal(.headerTooLarge, "one more than the limit", bytes: [0x01, 0xE1, 0xF5, 0x05, 0, 0, 0, 0, 0x7B, 0x7D], says: "100000001"),
        Refusal(.headerTooLarge, "all ones", bytes: [UInt8](repeating: 0xFF, count: 8) + [0x7B, 0x7D], says: "18446744073709551615"),
        Refusal(.headerTooLarge, "the sign bit", bytes: [2, 0, 0, 0, 0, 0, 0, 0x80, 0x7B, 0x7D]),
        Refusal(.headerTooLarge, "big-endian", bytes: [0, 0, 0, 0, 0, 0, 0, 2, 0x7B, 0x7D]),

        Refusal(.headerPastEnd, "the limit itself", bytes: [0x00, 0xE1, 0xF5, 0x05, 0, 0, 0, 0, 0x7B, 0x7D], says: "only 2 follow"),
        Refusal(.headerPastEnd, "one byte too few", bytes: [3, 0, 0, 0, 0, 0, 0, 0, 0x7B, 0x7D], says: "3 bytes"),

        Refusal(.invalidHeaderStart, "no header", bytes: [0, 0, 0, 0, 0, 0, 0, 0]),
        Refusal(.invalidHeaderStart, "a space first", " {}"),
        Refusal(.invalidHeaderStart, "a list", "[]"),
        Refusal(.invalidHeaderStart, "a byte order mark", bytes: fileBytes([0xEF, 0xBB, 0xBF, 0x7B, 0x7D])),

        Refusal(.invalidHeader, "cut short", "{"),
        Refusal(.invalidHeader, "no value", #"{"t":}"#),
        Refusal(.invalidHeader, "text after the end", "{}x"),
        Refusal(.invalidHeader, "padded with NUL", bytes: fileBytes([0x7B, 0x7D, 0, 0])),
        Refusal(.invalidHeader, "not UTF-8", bytes: fileBytes([0x7B, 0x22, 0xFF, 0x22, 0x3A, 0x31, 0x7D])),
        Refusal(.invalidHeader, "a comma too many", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},}"#, four),
        Refusal(
            .invalidHeader, "the same tensor twice",
            #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#, eight, says: #""t""#),
        Refusal(.invalidHeader, "the same field twice", #"{"t":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}"#, four),
        Refusal(.invalidHeader, "metadata twice", #"{"__metadata__":{},"__metadata__":{}}"#),
        Refusal(.invalidHeader, "a size beyond 64 bits", #"{"t":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4]}}"#, four),
        Refusal(.invalidHeader, "nested too deep", "{\"t\":" + String(repeating: "[", count: 10_000)),

        Refusal(.invalidMetadata, "a list", #"{"__metadata__":[]}"#, says: "a list"),
        Refusal(.invalidMetadata, "a number inside", #"{"__metadata__":{"format":"pt","epoch":3}}"#, says: #""epoch""#),
        Refusal(.invalidMetadata, "an object inside", #"{"__metadata__":{"format":{}}}"#, says: #""format""#),
        Refusal(.invalidMetadata, "a tensor's entry", #"{"__metadata__":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, four),

        Refusal(.invalidTensor, "no object", #"{"t":1}"#, tensor: "t", says: "an integer"),
        Refusal(.invalidTensor, "null", #"{"t":null}"#, tensor: "t", says: "null"),
        Refusal(.invalidTensor, "no dtype", #"{"t":{"shape":[4],"data_offsets":[0,4]}}"#, four, tensor: "t", says: "needs dtype"),
        Refusal(.invalidTensor, "no shape", #"{"t":{"dtype":"U8","data_offsets":[0,4]}}"#, four, tensor: "t", says: "shape"),
        Refusal(.invalidTensor, "no offsets", #"{"t":{"dtype":"U8","shape":[4]}}"#, four, tensor: "t", says: "data_offsets"),
        Refusal(.invalidTensor, "dtype a number", #"{"t":{"dtype":8,"shape":[4],"data_offsets":[0,4]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "shape a number", #"{"t":{"dtype":"U8","shape":4,"data_offsets":[0,4]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "offsets an object", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":{"0":4}}}"#, four, tensor: "t"),
        Refusal(
            .invalidTensor, "a field too many", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"strides":[1]}}"#, four, tensor: "t",
            says: #""strides""#),
        Refusal(.invalidTensor, "a negative size", #"{"t":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "two negative sizes", #"{"t":{"dtype":"U8","shape":[-2,-2],"data_offsets":[0,4]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "a broken size", #"{"t":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "a size in words", #"{"t":{"dtype":"U8","shape":["4"],"data_offsets":[0,4]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "no offset", #"{"t":{"dtype":"U8","shape":[0],"data_offsets":[]}}"#, tensor: "t"),
        Refusal(.invalidTensor, "one offset", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[4]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "three offsets", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4,8]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "two offsets and a null", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4,null]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "a negative offset", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}"#, four, tensor: "t"),
        Refusal(.invalidTensor, "a broken offset", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4.5]}}"#, four, tensor: "t"),

        Refusal(.unknownDType, "no such type", #"{"t":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#, four, tensor: "t", says: #""F31""#),
        Refusal(.unknownDType, "small letters", #"{"t":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}"#, four, tensor: "t", says: #""f32""#),
        Refusal(.unknownDType, "no letters", #"{"t":{"dtype":"","shape":[1],"data_offsets":[0,4]}}"#, four, tensor: "t"),

        Refusal(.invalidOffset, "backwards", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#, four, tensor: "t", says: "before it begins"),
        Refusal(.invalidOffset, "a gap in front", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#, eight, tensor: "t", says: "ends at 0"),
        Refusal(
            .invalidOffset, "a gap between",
            #"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#, eight, tensor: "b",
            says: "begins at 4 and the tensor before it ends at 2"),
        Refusal(
            .invalidOffset, "an overlap",
            #"{"b":{"dtype":"U8","shape":[5],"data_offsets":[3,8]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, eight, tensor: "b",
            says: "begins at 3 and the tensor before it ends at 4"),
        Refusal(
            .invalidOffset, "the same place twice",
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, four, tensor: "b"),
        Refusal(
            .invalidOffset, "nothing inside of something",
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}"#, four, tensor: "b"),

        Refusal(
            .sizeMismatch, "too few bytes", #"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, four, tensor: "t",
            says: "span 4 bytes where shape [2] in F32 takes 8"),
        Refusal(.sizeMismatch, "too many bytes", #"{"t":{"dtype":"U8","shape":[3],"data_offsets":[0,4]}}"#, four, tensor: "t"),
        Refusal(.sizeMismatch, "bytes for no element", #"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,4]}}"#, four, tensor: "t"),
        Refusal(.sizeMismatch, "no byte for a scalar", #"{"t":{"dtype":"U8","shape":[],"data_offsets":[0,0]}}"#, tensor: "t"),

        Refusal(
            .sizeOverflow, "the product of the shape", #"{"t":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, tensor: "t",
            says: "[4294967296,4294967296]"),
        Refusal(
            .sizeOverflow, "the product in bytes", #"{"t":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}"#, tensor: "t",
            says: "F32"),
        Refusal(
            .sizeOverflow, "a product that wraps to four",
            #"{"t":{"dtype":"U8","shape":[6148914691236517206,3,2],"data_offsets":[0,4]}}"#, four, tensor: "t"),
        Refusal(.sizeOverflow, "half a byte", #"{"t":{"dtype":"F4","shape":[7],"data_offsets":[0,4]}}"#, four, tensor: "t", says: "whole number"),
        Refusal(
            .sizeOverflow, "an end beyond 64 bits",
            #"{"t":{"dtype":"F32","shape":[1],"data_offsets":[9223372036854775803,9223372036854775807]}}"#, four, tensor: "t", says: "beyond"),

        Refusal(.trailingBytes, "after no tensor", "{}", [0], says: "1 bytes"),
        Refusal(.trailingBytes, "after a tensor", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, four + [0, 0], says: "2 bytes"),

        Refusal(
            .dataPastEnd, "no data", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, tensor: "t",
            says: "take 4 bytes and the file holds 0"),
        Refusal(
            .dataPastEnd, "the second tensor cut",
            #"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#, four, tensor: "b"),
    ]

    @Test(arguments: refusals) func everyFaultIsRefusedByItsCode(_ refusal: Refusal) throws {
        try write(refusal.bytes, path)
        let error = fault { _ = try SafetensorsFile(path: path) }
        #expect(error?.code == refusal.code, "\(String(describing: error))")
        #expect(error?.path == path && error?.tensor == refusal.tensor)
        #expect(refusal.words.isEmpty || error?.message.contains(refusal.words) == true, "\(String(describing: error))")
        let place = refusal.tensor.map { "\(path), tensor \($0)" } ?? path
        #expect(error?.description.hasPrefix(place) == true)
    }

    /// mlx writes it so.
    @Test func metadataOfNullAreReadAndNotStrict() throws {
        try write(fileBytes(#"{"__metadata__":null,"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, Self.four), path)
        let opened = try SafetensorsFile(path: path)
        #expect(opened.metadata.isEmpty && opened.tensors.count == 1)
        #expect(fault { try SafetensorsFile.check(path: path, mode: .strict) }?.code == .invalidMetadata)
        #expect(try SafetensorsFile.check(path: path, mode: .reference) == [])
    }

    /// What a reader can say of one file has a case in the table.
    @Test func everyCodeHasACase() {
        // That a tensor is missing is found when it is asked for, not when the file is opened.
        let others = SafetensorsError.Code.ofModels.union([.missingTensor, .invalidPadding])
        #expect(Set(Self.refusals.map(\.code)).union(others) == Set(SafetensorsError.Code.allCases))
    }

    @Test func faultsAreGivenWithTheirPlace() {
        func offset(_ bytes: [UInt8]) -> Int? {
            fault { _ = try SafetensorsHeader.parse(unsafe bytes.span.bytes, path: "") }?.offset
        }
        #expect(offset(fileBytes(" {}")) == 8)
        #expect(offset(fileBytes("{}x")) == 10)
        #expect(offset(fileBytes("{}", [0])) == 10)
        let header = #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#
        #expect(offset(fileBytes(header, Self.eight)) == 8 + header.utf8.count + 4)
    }

    /// Two tensors, metadata, padding: nothing of it can be left out.
    private static let small = fileBytes(
        #"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"#
            + #""y":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}     "#,
        [0, 0, 128, 63, 0, 0, 0, 64, 7, 8, 9])

    @Test func everyTruncationIsRefused() throws {
        let small = Self.small
        let dataStart = small.count - 11
        try write(small, path)
        #expect(try SafetensorsFile(path: path).tensors.count == 2)
        for count in 0..<small.count {
            try write(Array(small[..<count]), path)
            let expected: SafetensorsError.Code = count < 8 ? .headerTooSmall : count < dataStart ? .headerPastEnd : .dataPastEnd
            let error = fault { _ = try SafetensorsFile(path: path) }
            #expect(error?.code == expected, "the first \(count) bytes")
            // The last tensor of those that lack bytes.
            #expect(error?.tensor == (count < dataStart ? nil : "y"), "the first \(count) bytes")
        }
        try write(small + [0], path)
        #expect(fault { _ = try SafetensorsFile(path: path) }?.code == .trailingBytes)
    }

    @Test func everyOtherLengthOfTheHeaderIsRefused() {
        for bit in 0..<64 {
            var bytes = Self.small
            bytes[bit / 8] ^= 1 << (bit % 8)
            #expect(fault { _ = try SafetensorsHeader.parse(unsafe bytes.span.bytes, path: "") } != nil, "bit \(bit)")
        }
    }

    /// Whatever a header says, the reader refuses it with its own error or gives tensors that cover the data exactly.
    @Test(arguments: [1, 2, 3] as [UInt64]) func damagedHeadersDoNoHarm(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let original = Self.small
        let dataStart = original.count - 11
        var accepted = 0
        for _ in 0..<500 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...3, using: &generator) {
                // Bytes of the file itself, so that more than the JSON reader is tried.
                bytes[Int.random(in: 8..<dataStart, using: &generator)] = original[8..<dataStart].randomElement(using: &generator) ?? 0
            }
            do {
                let (tensors, _) = try SafetensorsHeader.parse(unsafe bytes.span.bytes, path: "")
                var position = dataStart
                for tensor in tensors.values {
                    #expect(tensor.byteRange.lowerBound == position)
                    #expect(tensor.byteCount == tensor.elementCount * tensor.dtype.bitWidth / 8)
                    position = tensor.byteRange.upperBound
                }
                #expect(position == bytes.count)
                accepted += 1
            } catch { #expect(!error.message.isEmpty) }
        }
        #expect((1..<500).contains(accepted))
    }

    // MARK: Accepted

    private func opened(_ header: String, _ data: [UInt8] = []) throws -> SafetensorsFile {
        try write(fileBytes(header, data), path)
        return try SafetensorsFile(path: path)
    }

    @Test func aFileMayHoldNoTensors() throws {
        for header in ["{}", "{}      ", "{ }", #"{"__metadata__":{}}"#] {
            let file = try opened(header)
            #expect(file.tensors.isEmpty && file.metadata.isEmpty && file.path == path)
        }
    }

    @Test func metadataKeepsItsOrder() throws {
        let file = try opened(#"{"__metadata__":{"z":"1","a":"","é\n":"\u00e9"}}"#)
        #expect(file.metadata == ["z": "1", "a": "", "é\n": "é"])
        #expect(Array(file.metadata.keys) == ["z", "a", "é\n"])
    }

    @Test func scalarsAndTensorsOfNoSizeAreRead() throws {
        let file = try opened(
            #"{"first":{"dtype":"F64","shape":[0],"data_offsets":[0,0]},"scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"#
                + #""between":{"dtype":"F32","shape":[3,0,2],"data_offsets":[4,4]},"one":{"dtype":"U8","shape":[1,1,1],"data_offsets":[4,5]},"#
                + #""last":{"dtype":"U8","shape":[0,4611686018427387904],"data_offsets":[5,5]}}"#,
            [1, 2, 3, 4, 5])
        #expect(Array(file.tensors.keys) == ["first", "scalar", "between", "one", "last"])
        #expect(file.tensors["scalar"]?.shape == [] && file.tensors["scalar"]?.elementCount == 1)
        #expect(file.tensors["between"]?.shape == [3, 0, 2] && file.tensors["between"]?.elementCount == 0)
        #expect(file.bytes("scalar") == [1, 2, 3, 4] && file.bytes("one") == [5])
        for name in ["first", "between", "last"] { #expect(file.bytes(name) == [] && file.tensors[name] != nil) }
    }

    @Test func paddingOrderAndAlignmentDoNotMatter() throws {
        // The header lists the tensors backwards and takes an odd number of bytes, so that no number is aligned.
        let header =
            #"{"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},"a":{"data_offsets":[0,1],"shape":[1],"dtype":"I8"}}"#
        for padding in 0..<9 {
            let file = try opened(header + String(repeating: " ", count: padding), [0xFF, 0, 0, 0x80, 0x3F])
            #expect(Array(file.tensors.keys) == ["a", "b"])
            #expect(file.bytes("a") == [0xFF] && file.bytes("b") == [0, 0, 0x80, 0x3F])
            let start = 8 + header.utf8.count + padding
            #expect(file.tensors["b"] == TensorInfo(name: "b", dtype: .f32, shape: [1], byteRange: start + 1..<start + 5))
        }
    }

    @Test func namesAreRead() throws {
        let entry = #"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#
        let file = try opened(#"{"":\#(entry),"a\u0062":\#(entry),"\"\\\/":\#(entry),"é 🦙":\#(entry),"\ud83e\udd99":\#(entry)}"#)
        #expect(Set(file.tensors.keys) == ["", "ab", "\"\\/", "é 🦙", "🦙"])
    }

    /// The bytes that eight elements take.
    @Test(arguments: [
        ("BOOL", 8), ("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6), ("U8", 8), ("I8", 8), ("F8_E5M2", 8), ("F8_E4M3", 8), ("F8_E5M2FNUZ", 8),
        ("F8_E4M3FNUZ", 8), ("F8_E8M0", 8), ("I16", 16), ("U16", 16), ("F16", 16), ("BF16", 16), ("I32", 32), ("U32", 32), ("F32", 32),
        ("C64", 64), ("F64", 64), ("I64", 64), ("U64", 64),
    ])
    func everyElementTypeHasItsSize(name: String, count: Int) throws {
        let data = (0..<count).map { UInt8($0) }
        let file = try opened(#"{"t":{"dtype":"\#(name)","shape":[2,4],"data_offsets":[0,\#(count)]}}"#, data)
        #expect(file.tensors["t"]?.dtype.rawValue == name && file.bytes("t") == data)
    }

    @Test func everyElementTypeIsTried() { #expect(DType.allCases.count == 22) }
}
