import TestModels
import TestSupport
import Testing

@testable import Safetensors

/// What the reference library takes and the written format does not, and what neither takes. That both readers agree on
/// tens of thousands of changed files is compared by Tests/interop/safetensors_parity.py.
struct ReferenceModeTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let name: String
        let bytes: [UInt8]
        /// `nil` for accepted.
        let reference: SafetensorsError.Code?
        let strict: SafetensorsError.Code?

        var testDescription: String { name }

        init(_ name: String, _ header: String, _ data: Int = 0, reference: SafetensorsError.Code? = nil, strict: SafetensorsError.Code? = nil) {
            (self.name, self.reference, self.strict) = (name, reference, strict)
            bytes = fileBytes(header, [UInt8](repeating: 7, count: data))
        }
    }

    private static func nested(_ depth: Int) -> String {
        let lists = String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
        return #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"more":"# + lists + "}}"
    }

    static let cases: [Case] = [
        Case("nothing", "{}"),
        Case("a scalar", #"{"t":{"dtype":"I32","shape":[],"data_offsets":[0,4]}}"#, 4),
        Case("a size of zero", #"{"t":{"dtype":"I32","shape":[2,0],"data_offsets":[0,0]}}"#),
        Case("spaces behind", "{}      "),
        Case("white space around", "\n {} \t", strict: .invalidHeaderStart),
        Case("line feeds behind", "{}\n\r\n", strict: .invalidPadding),
        Case("a metadata of null", #"{"__metadata__":null}"#, strict: .invalidMetadata),
        Case("metadata with a number", #"{"__metadata__":{"a":1}}"#, reference: .invalidMetadata, strict: .invalidMetadata),
        Case("metadata twice", #"{"__metadata__":{},"__metadata__":{}}"#, reference: .invalidMetadata, strict: .invalidHeader),
        Case("a metadata key twice", #"{"__metadata__":{"a":"1","a":"2"}}"#, strict: .invalidHeader),
        Case(
            "a tensor twice, the last one right",
            #"{"t":{"dtype":"U8","shape":[9],"data_offsets":[0,9]},"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4, strict: .invalidHeader),
        Case(
            "a tensor twice, the first one none", #"{"t":1,"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4, reference: .invalidTensor,
            strict: .invalidHeader),
        Case(
            "a field twice", #"{"t":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4, reference: .invalidTensor,
            strict: .invalidHeader),
        Case("an unknown field", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"more":{"a":[1e3]}}}"#, 4, strict: .invalidTensor),
        Case(
            "a number too large in an unknown field", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"more":1e999}}"#, 4,
            reference: .invalidHeader, strict: .invalidHeader),
        Case(
            "an offset of minus zero", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}}"#, 4, reference: .invalidTensor,
            strict: .invalidTensor),
        Case("nesting that just fits", nested(125), 4, strict: .invalidHeader),
        Case("nesting too deep", nested(126), 4, reference: .invalidHeader, strict: .invalidHeader),
        Case("a tensor as a list", #"{"t":["U8",[4],[0,4]]}"#, 4, strict: .invalidTensor),
        Case("a list too long", #"{"t":["U8",[4],[0,4],0]}"#, 4, reference: .invalidTensor, strict: .invalidTensor),
        Case("a dtype as an object", #"{"t":{"dtype":{"U8":null},"shape":[4],"data_offsets":[0,4]}}"#, 4, strict: .invalidTensor),
        Case(
            "a dtype with content", #"{"t":{"dtype":{"U8":1},"shape":[4],"data_offsets":[0,4]}}"#, 4, reference: .unknownDType, strict: .invalidTensor
        ),
        Case("an escaped dtype", #"{"t":{"dtype":"\u00558","shape":[4],"data_offsets":[0,4]}}"#, 4),
        Case("a broken size", #"{"t":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}"#, 4, reference: .invalidTensor, strict: .invalidTensor),
        Case("minus zero", #"{"t":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}"#, reference: .invalidTensor, strict: .invalidTensor),
        Case("a size beyond Int", #"{"t":{"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]}}"#, strict: .invalidHeader),
        Case(
            "sizes whose product overflows before the zero", #"{"t":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}"#,
            reference: .sizeOverflow, strict: .sizeOverflow),
        Case("half a byte", #"{"t":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#, 2, reference: .sizeOverflow, strict: .sizeOverflow),
        Case(
            "two names that Unicode calls equal",
            #"{"\u00e9":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"e\u0301":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, 2,
            strict: .invalidHeader),
        Case(
            "half a surrogate pair", #"{"\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1, reference: .invalidHeader,
            strict: .invalidHeader),
        Case("a gap", #"{"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, 2, reference: .invalidOffset, strict: .invalidOffset),
        Case("bytes behind", #"{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 2, reference: .trailingBytes, strict: .trailingBytes),
        Case("bytes missing", #"{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 2, reference: .dataPastEnd, strict: .dataPastEnd),
    ]

    @Test(arguments: cases) func eachModeGivesItsVerdict(_ example: Case) throws {
        let folder = try TemporaryFolder()
        let path = folder.path("model.safetensors")
        try write(example.bytes, path)
        #expect(fault { try SafetensorsFile.check(path: path, mode: .reference) }?.code == example.reference)
        #expect(fault { try SafetensorsFile.check(path: path, mode: .strict) }?.code == example.strict)
    }

    @Test func documentsAreBounded() {
        #expect(throws: Never.self) { try ReferenceJSON(parsing: Array("[1,[],3]".utf8), maximumValues: 4) }
        #expect(throws: ReferenceJSON.Fault.self) { try ReferenceJSON(parsing: Array("[1,[],3,4]".utf8), maximumValues: 4) }
    }
}
