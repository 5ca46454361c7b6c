import FileIO
import Foundation
import JSON
import OrderedCollections
import Safetensors
import TestModels
import TestSupport
import Testing
import Weights

/// A folder whose parts do not fit together.
struct FolderRefusal: Sendable, CustomTestStringConvertible {
    let name: String
    let code: SafetensorsError.Code
    let index: String
    /// The tensor that the error must name.
    let tensor: String?
    /// What the message must say.
    let words: String

    var testDescription: String { "\(code): \(name)" }

    init(_ code: SafetensorsError.Code, _ name: String, _ index: String, tensor: String? = nil, says words: String = "") {
        (self.name, self.code, self.index, self.tensor, self.words) = (name, code, index, tensor, words)
    }

    /// An index that lists the three tensors of the test's shards, with another file for "a".
    static func shard(_ code: SafetensorsError.Code, _ file: String) -> FolderRefusal {
        FolderRefusal(code, file, #"{"weight_map":{"a":"\#(file)","b":"1.safetensors","c":"2.safetensors"}}"#, tensor: "a", says: "leads out")
    }
}

struct ModelWeightsTests {
    private let folder: TemporaryFolder
    private let index: String

    init() throws {
        folder = try TemporaryFolder()
        index = folder.path("model.safetensors.index.json")
    }

    private func entry(_ range: Range<Int>) -> String {
        #"{"dtype":"U8","shape":[\#(range.count)],"data_offsets":[\#(range.lowerBound),\#(range.upperBound)]}"#
    }

    /// "b" and "a" in one shard, "c" in another.
    private func writeShards() throws {
        try write(fileBytes(#"{"a":\#(entry(2..<3)),"b":\#(entry(0..<2))}"#, [1, 2, 3]), folder.path("1.safetensors"))
        try write(fileBytes(#"{"c":\#(entry(0..<1))}"#, [4]), folder.path("2.safetensors"))
    }

    private static let whole = #"{"metadata":{"total_size":4},"weight_map":{"c":"2.safetensors","a":"1.safetensors","b":"1.safetensors"}}"#

    // MARK: Refused

    static let refusals: [FolderRefusal] = [
        FolderRefusal(.invalidIndex, "empty", ""),
        FolderRefusal(.invalidIndex, "cut short", #"{"weight_map":{"a":"1.saf"#),
        FolderRefusal(.invalidIndex, "a list", "[]", says: "weight_map"),
        FolderRefusal(.invalidIndex, "no map", #"{"metadata":{}}"#, says: "weight_map"),
        FolderRefusal(.invalidIndex, "a map that is a list", #"{"weight_map":["1.safetensors"]}"#, says: "weight_map"),
        FolderRefusal(.invalidIndex, "a tensor twice", #"{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}"#, says: #""a""#),
        FolderRefusal(.invalidIndex, "a number for a file", #"{"weight_map":{"a":1}}"#, tensor: "a", says: "an integer"),
        FolderRefusal(.invalidIndex, "no file", #"{"weight_map":{"a":null}}"#, tensor: "a", says: "null"),

        .shard(.unsafePath, "../1.safetensors"), .shard(.unsafePath, ".."), .shard(.unsafePath, "."), .shard(.unsafePath, ""),
        .shard(.unsafePath, "/etc/passwd"), .shard(.unsafePath, "/"), .shard(.unsafePath, "inner/1.safetensors"),
        .shard(.unsafePath, "./1.safetensors"), .shard(.unsafePath, "1.safetensors/"), .shard(.unsafePath, "inner/../1.safetensors"),
        .shard(.unsafePath, #"..\\1.safetensors"#), .shard(.unsafePath, #"..\u002f1.safetensors"#), .shard(.unsafePath, #"1.safetensors\u0000"#),
        // A slash that is one character with the mark after it.
        .shard(.unsafePath, #"..\/\u0301"#),

        FolderRefusal(
            .missingShard, "a shard that is not there", #"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"3.safetensors"}}"#,
            says: "3.safetensors"),
        FolderRefusal(
            .indexMismatch, "a tensor that no shard holds",
            #"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors","d":"2.safetensors"}}"#, tensor: "d",
            says: "2.safetensors"),
        FolderRefusal(
            .indexMismatch, "a tensor in another shard", #"{"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"}}"#,
            tensor: "b", says: "2.safetensors"),
        FolderRefusal(
            .indexMismatch, "a tensor that the index does not name", #"{"weight_map":{"a":"1.safetensors","c":"2.safetensors"}}"#, tensor: "b",
            says: "1.safetensors"),

        FolderRefusal(
            .duplicateTensor, "the same shard under two names",
            #"{"weight_map":{"a":"1.safetensors","b":"copy.safetensors","c":"2.safetensors"}}"#, tensor: "b", says: "1.safetensors"),
        FolderRefusal(.dataPastEnd, "a shard cut short", #"{"weight_map":{"t":"cut.safetensors"}}"#, tensor: "t"),
        FolderRefusal(.invalidHeaderStart, "a shard of another kind", #"{"weight_map":{"t":"other.safetensors"}}"#),
        FolderRefusal(.otherFormat, "the index as its own shard", #"{"weight_map":{"t":"model.safetensors.index.json"}}"#),
        FolderRefusal(.noWeights, "no index", "", says: "neither model.safetensors nor model.safetensors.index.json"),
    ]

    @Test(arguments: refusals) func everyFaultIsRefusedByItsCode(_ refusal: FolderRefusal) throws {
        try writeShards()
        // What a careless reader would take.
        try FileSystem.createFolder(folder.path("inner"))
        let first = try readAll(folder.path("1.safetensors"))
        try write(first, folder.path("inner/1.safetensors"))
        try write(first, folder.path("copy.safetensors"))
        try write(fileBytes(#"{"t":\#(entry(0..<2))}"#, [1]), folder.path("cut.safetensors"))
        try write(fileBytes("[]"), folder.path("other.safetensors"))
        if refusal.code != .noWeights { try writeText(refusal.index, index) }
        let error = fault { _ = try ModelWeights(path: folder.path) }
        #expect(error?.code == refusal.code, "\(String(describing: error))")
        #expect(error?.tensor == refusal.tensor)
        #expect(refusal.words.isEmpty || error?.message.contains(refusal.words) == true, "\(String(describing: error))")
        #expect(error?.path.hasPrefix(folder.path) == true)
    }

    @Test func theErrorNamesTheFileAtFault() throws {
        try writeShards()
        try writeText("{", index)
        #expect(fault { _ = try ModelWeights(path: folder.path) }?.path == index)
        #expect(fault { _ = try ModelWeights(path: folder.path) }?.offset == 1)
        try writeText(Self.whole, index)
        try write(fileBytes("[]"), folder.path("2.safetensors"))
        #expect(fault { _ = try ModelWeights(path: folder.path) }?.path == folder.path("2.safetensors"))
    }

    @Test func pathsWithNothingToReadAreRefused() throws {
        #expect(throws: FileError.missing(path: folder.path("missing"))) { try ModelWeights(path: folder.path("missing")) }
        // A link whose target has not been fetched is not the same as no weights.
        try FileManager.default.createSymbolicLink(atPath: folder.path("model.safetensors"), withDestinationPath: "nowhere")
        #expect(throws: FileError.missing(path: folder.path("model.safetensors"))) { try ModelWeights(path: folder.path) }
        try writeShards()
        try writeText(#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"model.safetensors"}}"#, index)
        #expect(throws: FileError.missing(path: folder.path("model.safetensors"))) { try ModelWeights(path: folder.path) }
        try FileSystem.createFolder(folder.path("folder.safetensors"))
        try writeText(#"{"weight_map":{"a":"folder.safetensors"}}"#, index)
        #expect(throws: FileError.wrongKind(path: folder.path("folder.safetensors"), expected: "a regular file")) {
            try ModelWeights(path: folder.path)
        }
    }

    // MARK: Accepted

    @Test func oneFileIsOpenedByItsPathOrItsFolder() throws {
        let path = folder.path("model.safetensors")
        try write(fileBytes(#"{"a":\#(entry(2..<3)),"b":\#(entry(0..<2))}"#, [1, 2, 3]), path)
        // Named itself and by its folder.
        for opened in [path, folder.path] {
            let files = try ModelWeights(path: opened)
            #expect(files.path == opened && files.index == nil && files.shards.map(\.path) == [path])
            #expect(Array(files.tensors.keys) == ["b", "a"])
            #expect(try read("a", from: files) == [3] && read("b", from: files) == [1, 2])
            let error = fault { _ = try files.weight(named: "c") }
            #expect(error?.code == .missingTensor && error?.tensor == "c" && error?.path == opened)
            #expect(error?.message.contains("the 2 ") == true)
        }
    }

    /// What a reader can say of a folder has a case in the table.
    @Test func everyCodeHasACase() {
        #expect(SafetensorsError.Code.ofModels.isSubset(of: Self.refusals.map(\.code)))
    }

    @Test func shardsInTheOrderOfTheirNames() throws {
        try writeShards()
        try writeText(Self.whole, index)
        let files = try ModelWeights(path: folder.path)
        #expect(files.shards.map(\.path) == [folder.path("1.safetensors"), folder.path("2.safetensors")])
        #expect(Array(files.tensors.keys) == ["b", "a", "c"])
        #expect(try files.weight(named: "c").file === files.shards[1].file && files.weight(named: "a").file === files.shards[0].file)
        #expect(try read("a", from: files) == [3] && read("b", from: files) == [1, 2] && read("c", from: files) == [4])
        #expect(files.index?["metadata"]?["total_size"] == 4)
    }

    @Test func theIndexCountsAndNotWhatElseIsThere() throws {
        try writeShards()
        try writeText(Self.whole, index)
        try write(fileBytes("[]"), folder.path("model.safetensors"))
        try write(fileBytes("[]"), folder.path("3.safetensors"))
        #expect(try ModelWeights(path: folder.path).tensors.count == 3)
        // A shard by itself is opened without the index.
        #expect(try Array(ModelWeights(path: folder.path("2.safetensors")).tensors.keys) == ["c"])
    }

    /// As the cache of the Hugging Face hub keeps them.
    @Test func shardsBehindLinksAreRead() throws {
        try writeShards()
        try FileSystem.createFolder(folder.path("snapshot"))
        for name in ["1.safetensors", "2.safetensors"] {
            try FileManager.default.createSymbolicLink(atPath: folder.path("snapshot/" + name), withDestinationPath: "../" + name)
        }
        try writeText(Self.whole, folder.path("snapshot/model.safetensors.index.json"))
        #expect(try read("c", from: ModelWeights(path: folder.path("snapshot"))) == [4])
    }
}
