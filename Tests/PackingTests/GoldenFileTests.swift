import FileIO
import Foundation
import Hashing
import JSON
import NativeCheckpoint
import OrderedCollections
import Packing
import Synchronization
import TestSupport
import Testing

/// `formats/golden`: files that every version reads, or refuses, as their manifest says; Swift and the reference decoder alike.
struct GoldenFileTests {
    @Test(arguments: try Golden.files().filter { $0.tensors != nil }) func goodFilesHoldWhatTheManifestSays(golden: Golden) throws {
        let file = try CheckpointFile(path: golden.path)
        let expected = try #require(golden.tensors)
        #expect(Set(file.tensors.keys) == Set(expected.keys) && file.tensors.count == expected.count)
        let base = try golden.base.map { try BaseFiles(path: $0) }
        try file.verifyAll(base: base)
        for threads in [1, 3] {
            let copied = Mutex<[String: [UInt8]]>([:])
            try file.copy(Array(file.tensors.values), base: base, threads: threads) { tensor, bytes in
                let part = unsafe bytes.withUnsafeBytes { unsafe Array($0) }
                copied.withLock { $0[tensor.label, default: []] += part }
            }
            for label in file.tensors.keys {
                #expect(hash(copied.withLock { $0[label] ?? [] }) == expected[label], "\(label), \(threads) threads")
            }
        }
        for (label, tensor) in file.tensors where tensor.base == nil { #expect(hash(try file.read(label)) == expected[label], "\(label)") }
    }

    @Test(arguments: try Golden.files().filter { $0.unpacked != nil }) func packsUnpack(golden: Golden) throws {
        let folder = try TemporaryFolder()
        let unpacking = try Unpacking(path: golden.path, base: try golden.base.map { try BaseFiles(path: $0) }, threads: 2)
        _ = try unpacking.run(to: folder.path("swift"), replacing: false, durable: false)
        let python = try reference(["unpack", golden.path, "--out", folder.path("python")] + (golden.base.map { ["--against", $0] } ?? []))
        #expect(python.status == 0, "\(python.output)")
        let expected = try #require(golden.unpacked)
        for out in [folder.path("swift"), folder.path("python")] {
            guard unpacking.makesFolder else {
                #expect(expected.values.first == hash(try readAll(out)))
                continue
            }
            #expect(try files(in: out) == expected, "\(out)")
        }
    }

    @Test(arguments: try Golden.files().filter { $0.code != nil }) func badFilesGiveTheirCode(golden: Golden) throws {
        let folder = try TemporaryFolder()
        let path = try golden.expanded(in: folder)
        let base = try golden.base.map { try BaseFiles(path: $0) }
        do {
            let file = try CheckpointFile(path: path)
            try file.verifyAll()
            // What is wrong with these is not in what is read.
            if golden.operation == "rewrite" { try file.requireRewritable() }
            if golden.operation == "unpack" {
                _ = try Unpacking(path: path, base: base).run(to: folder.path("out"), replacing: false, durable: false)
            }
            Issue.record("\(golden.path) was taken for good")
        } catch let error as CheckpointError {
            #expect(error.code.rawValue == golden.code, "\(error)")
        }
        #expect(!FileSystem.exists(folder.path("out")))
        if golden.operation == "unpack" {
            let python = try reference(["unpack", path, "--out", folder.path("out")] + (golden.base.map { ["--against", $0] } ?? []))
            #expect(python.status == 65 && python.errors.hasPrefix("\(path): \(golden.code ?? ""): "), "\(python.errors)")
        }
    }

    /// The reference decoder on all files at once.
    @Test func theReferenceDecoderSaysTheSame() throws {
        let folder = try TemporaryFolder()
        let files = try Golden.files().filter { $0.tensors != nil || $0.code != nil }
        let paths = try files.map { try $0.expanded(in: folder) }
        let lines = try reference(["check"] + paths).output.split(separator: "\n")
        try #require(lines.count == files.count)
        for (number, golden) in files.enumerated() {
            let expected = golden.operation == nil ? golden.code ?? "ok" : "ok"
            #expect(lines[number].dropFirst(paths[number].utf8.count + 2).prefix { $0 != ":" } == expected, "\(lines[number])")
        }
    }

    /// Every code that a file can cause has a file.
    @Test func everyCodeHasAFile() throws {
        let others: Set<CheckpointError.Code> = [.metadataInvalid, .bytesMismatch, .tensorUnknown, .inputOutput]
        let codes = Set(try Golden.files().compactMap(\.code))
        #expect(codes == Set(CheckpointError.Code.allCases.filter { !others.contains($0) }.map(\.rawValue)))
    }

    @Test func theFilesAreThoseOfTheManifest() throws {
        for golden in try Golden.files() { #expect(hash(try readAll(golden.path)) == golden.sha256, "\(golden.path)") }
        let generator = try python([Golden.folder + "/generate.py", "--check"])
        #expect(generator.status == 0, "\(generator.output)\(generator.errors)")
    }
}

/// A file of the corpus and what the manifest says of it.
struct Golden: Sendable, CustomTestStringConvertible {
    static let folder = Repository.root + "/formats/golden"

    let name: String
    let sha256: String
    let code: String?
    let operation: String?
    let base: String?
    /// Bytes when expanded, where it is compressed.
    let size: Int?
    /// The SHA-256 of each tensor by label.
    let tensors: [String: String]?
    /// The SHA-256 of each unpacked file by path; an empty folder's path ends with a slash.
    let unpacked: [String: String]?

    var path: String { Self.folder + "/" + name }
    var testDescription: String { name }

    static func files() throws -> [Golden] {
        let manifest = try JSONValue(parsing: try readAll(folder + "/MANIFEST.json"))
        func hashes(_ value: JSONValue?) -> [String: String]? {
            value?.objectValue.map { Dictionary(uniqueKeysWithValues: $0.map { ($0.key, $0.value.stringValue ?? "") }) }
        }
        return try #require(manifest["files"]?.arrayValue).map { entry in
            Golden(
                name: try #require(entry["path"]?.stringValue), sha256: try #require(entry["sha256"]?.stringValue),
                code: entry["code"]?.stringValue, operation: entry["operation"]?.stringValue,
                base: entry["against"]?.stringValue.map { folder + "/" + $0 }, size: entry["size"]?.integerValue,
                tensors: hashes(entry["tensors"]), unpacked: hashes(entry["unpacked"]))
        }
    }

    /// Where the file itself is, once expanded if it is compressed.
    func expanded(in folder: TemporaryFolder) throws -> String {
        guard let size else { return path }
        let expanded = folder.path("expanded.opck")
        let script = "import gzip, sys; open(sys.argv[2], 'wb').write(gzip.open(sys.argv[1]).read())"
        try #require(try python(["-c", script, path, expanded]).status == 0)
        try #require(try FileSystem.status(of: expanded).byteCount == size)
        return expanded
    }
}
