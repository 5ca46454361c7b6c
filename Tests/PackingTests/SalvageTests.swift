import FileIO
import Foundation
import JSON
import NativeCheckpoint
import OrderedCollections
import Packing
import Safetensors
import Tensors
import TestSupport
import Testing

/// What is saved of a damaged file is right, and as much as there is.
struct SalvageTests {
    private static let names = ["folder", "folder-hashed", "training", "no-hashes", "file", "chunks", "planes"]

    @Test(arguments: names + ["streams", "floats", "large-chunks", "largest-chunks", "empty", "nothing", "folder-empty"])
    func anIntactFileIsSavedWhole(name: String) throws {
        let subject = try Subject(name)
        let saved = try #require(try subject.salvage(subject.bytes))
        #expect(saved.report.isComplete && saved.report.lostTensors == 0)
        #expect(saved.files == subject.golden.unpacked ?? [:])
        #expect(saved.tensors == (subject.golden.unpacked == nil ? subject.golden.tensors : [:]))
        let json = saved.json
        #expect(json["schema"]?.stringValue == "oplora.salvaged/1" && json["complete"]?.boolValue == true)
        #expect(json["metadata"] == .object(try CheckpointFile(path: subject.golden.path).metadata))
        let file = try CheckpointFile(path: subject.golden.path)
        for entry in json["tensors"]?.arrayValue ?? [] {
            let isHashed = file.tensors.values.contains { $0.sha256 != nil }
            #expect(entry["vouchedBy"]?.stringValue == (isHashed ? "sha256" : "chunk-checksums"))
        }
    }

    /// Cut anywhere: exactly the tensors are whole whose last byte is there, and a file when it is known to have ended.
    @Test(arguments: names) func whatIsWholeBeforeACutIsSaved(name: String) throws {
        let subject = try Subject(name)
        let ends = subject.tensorEnds
        let lengths = Set(stride(from: 0, to: subject.bytes.count, by: max(1, subject.bytes.count / 60))).union(
            ends.values.flatMap { [$0 - 1, $0, $0 + 29, $0 + 30] })
        for length in lengths.sorted() where length < subject.bytes.count {
            let saved = try subject.salvage(Array(subject.bytes.prefix(length)))
            let there = ends.filter { $0.value <= length && $0.value > 32 }
            guard let saved else {
                #expect(subject.firstChunkEnd > length, "\(length) bytes")
                continue
            }
            #expect(!saved.report.isComplete)
            try subject.checkSubset(saved)
            let whole = saved.json["tensors"]?.arrayValue?.filter { $0["whole"]?.boolValue == true } ?? []
            // Tensors without bytes leave no trace where there is no footer.
            #expect(whole.count == there.count - there.filter { subject.isEmpty($0.key) }.count, "\(length) bytes")
            #expect(whole.allSatisfy { $0["savedIn"] != nil && $0["vouchedBy"]?.stringValue == "chunk-checksums" })
            for (path, end) in subject.fileEnds where end > length { #expect(saved.files[path] == nil, "\(length) bytes, \(path)") }
            for (path, end) in subject.fileEnds where subject.isKnownToEnd(end, before: length) {
                #expect(saved.files[path] != nil, "\(length) bytes, \(path)")
            }
        }
    }

    /// A changed byte of a chunk costs its tensor and no other, whether the footer is there or not.
    @Test(arguments: names, [true, false]) func aChangedByteCostsItsTensorAlone(name: String, hasFooter: Bool) throws {
        let subject = try Subject(name)
        let footer = try #require(subject.tensorEnds.values.max())
        for position in stride(from: 32, to: footer, by: max(1, footer / 70)) {
            var damaged = subject.bytes
            damaged[position] ^= UInt8(1 << (position % 8))
            if !hasFooter { damaged.removeLast(8) }
            let hit = try #require(subject.tensorEnds.filter { $0.value > position && !subject.isEmpty($0.key) }.min { $0.value < $1.value })
            let saved = try #require(try subject.salvage(damaged))
            try subject.checkSubset(saved)
            #expect(!saved.report.isComplete)
            let entries = saved.json["tensors"]?.arrayValue ?? []
            let whole = entries.count { $0["whole"]?.boolValue == true }
            let all = subject.tensorEnds.keys.count { hasFooter || !subject.isEmpty($0) }
            #expect(whole == all - 1, "byte \(position), in \(hit.key)")
            #expect(saved.tensors[hit.key] == nil)
        }
    }

    /// Without the end mark no more is lost than the footer's own words.
    @Test(arguments: names) func onlyTheFooterIsDamaged(name: String) throws {
        let subject = try Subject(name)
        var damaged = subject.bytes
        damaged[damaged.count - 30] ^= 1
        let saved = try #require(try subject.salvage(damaged))
        #expect(!saved.report.isComplete && saved.report.lostTensors == 0 && saved.report.unplacedChunks == 0)
        try subject.checkSubset(saved)
        #expect(saved.json["footer"]?["code"]?.stringValue == "footer-damaged")
        #expect(saved.files == (subject.golden.unpacked ?? [:]).filter { subject.fileEnds[$0.key] != nil })
        if subject.golden.unpacked == nil {
            #expect(saved.tensors == subject.golden.tensors?.filter { !subject.isEmpty($0.key) })
        }
    }

    /// Two chunks for one place: the first counts, the other is reported.
    @Test func theFirstOfTwoChunksForOnePlaceCounts() throws {
        let subject = try Subject("chunks")
        let end = try #require(subject.tensorEnds.values.max())
        let saved = try #require(try subject.salvage(Array(subject.bytes[..<end]) + Array(subject.bytes[32..<end])))
        #expect(saved.tensors == subject.golden.tensors)
        let unplaced = saved.json["unplaced"]?.arrayValue ?? []
        #expect(!unplaced.isEmpty && unplaced.allSatisfy { $0["reason"]?.stringValue == "duplicate" && $0["offset"]?.integerValue ?? 0 >= end })
    }

    @Test func differencesAreNamed() throws {
        let subject = try Subject("differences-checkpoint")
        let saved = try #require(try subject.salvage(subject.bytes))
        #expect(!saved.report.isComplete && saved.report.lostTensors == 5)
        let entries = saved.json["tensors"]?.arrayValue ?? []
        let partly = try #require(entries.first { $0["name"]?.stringValue == "embed" })
        #expect(partly["differences"] == [[0, 512]] && partly["lost"] == nil && partly["savedIn"] == nil)
        try subject.checkSubset(saved)
    }

    /// A lost first chunk takes the names of the others with it.
    @Test func chunksWithoutTheirFirstHaveNoName() throws {
        let subject = try Subject("chunks")
        var damaged = subject.bytes
        damaged[40] ^= 1
        damaged.removeLast()
        let saved = try #require(try subject.salvage(damaged))
        let unplaced = saved.json["unplaced"]?.arrayValue ?? []
        #expect(!unplaced.isEmpty && unplaced.allSatisfy { $0["reason"]?.stringValue == "first-chunk-lost" && $0["tensor"] == 0 })
        #expect(saved.tensors.count == subject.golden.tensors.map { $0.count - 1 })
    }

    /// No path of a file leads out of the output, whatever its footer and its chunks say.
    @Test(arguments: try Golden.files().filter { $0.code != nil && $0.size == nil }) func badFilesStayInTheirFolder(golden: Golden) throws {
        let folder = try TemporaryFolder()
        let out = folder.path("inner/out")
        try FileSystem.createFolder(folder.path("inner"))
        do {
            _ = try Salvage(path: golden.path).run(to: out, replacing: false, durable: false)
            let names = try FileSystem.names(in: out)
            #expect(names.contains("salvage.json") && Set(names).isSubset(of: ["salvage.json", "tensors.safetensors", "files"]))
            if golden.code == "path-invalid" { #expect(!files(in: out, contain: "evil")) }
        } catch PackError.nothingToSalvage {
            #expect(!FileSystem.exists(out))
        }
        #expect(try FileSystem.names(in: folder.path) == ["inner"])
        #expect(try FileSystem.names(in: folder.path("inner")).allSatisfy { $0 == "out" })
    }

    /// Of a file and a folder of one name the first stays, and the other's tensors are saved beside it.
    @Test func pathsInEachOthersWayAreBothSaved() throws {
        let folder = try TemporaryFolder()
        var writer = try CheckpointWriter(
            path: folder.path("a.opck"), replacing: false,
            options: .packedFolder(["a", "a/b", String(repeating: "x", count: 300)], hashesTensors: false, threads: 1))
        try writer.append(
            (0..<3).map { TensorContent(name: "", dtype: .u8, shape: [3], file: $0, bytes: MemoryBytes([1, 2, UInt8($0)])) })
        try writer.finish(durable: false)
        let saved = try #require(try salvage(try readAll(folder.path("a.opck"))))
        #expect(saved.files == ["a": hash([1, 2, 0])] && !saved.report.isComplete && saved.report.lostTensors == 0)
        #expect(saved.tensors["a/b:"] == hash([1, 2, 1]) && saved.tensors.count == 2)
    }

    /// The chunks of a checkpoint that is packed as a file are not those of the pack.
    @Test func packedCheckpointsAreNotMistaken() throws {
        let folder = try TemporaryFolder()
        try FileSystem.createFolder(folder.path("in"))
        let inner = try readAll(Golden.folder + "/good/training.opck")
        // Planes that are stored as they are, so that the markers show.
        try Data(inner).write(to: URL(fileURLWithPath: folder.path("in/a.opck")))
        try Data("the end".utf8).write(to: URL(fileURLWithPath: folder.path("in/b")))
        _ = try PackPlan(input: folder.path("in")).run(to: folder.path("pack.opck"), replacing: false, durable: false)
        let pack = try readAll(folder.path("pack.opck"))
        try #require(pack.indices.count { pack[$0...].starts(with: [0x8B, 0x43, 0x48, 0x4B]) } > 2)
        var damaged = pack
        damaged[inner.count / 2] ^= 1
        damaged.removeLast()
        let saved = try #require(try salvage(damaged))
        #expect(saved.files == ["b": hash(Array("the end".utf8))] && saved.tensors.isEmpty)
        #expect(try salvage(Array(pack.prefix(inner.count / 2))) == nil)
    }

    @Test func nothingIsSavedOfWhatIsNoCheckpoint() throws {
        for bytes in [[], Array("no checkpoint at all".utf8), [UInt8](repeating: 0, count: 5000)] { #expect(try salvage(bytes) == nil) }
        // Headers that promise much and hold nothing end the search soon.
        var header: [UInt8] = [0x8B, 0x43, 0x48, 0x4B]
        for field in [1_048_616, 1_048_576, 0, 1] as [UInt32] { header += (0..<4).map { UInt8(truncatingIfNeeded: field >> (8 * $0)) } }
        header += [1, 1] + [UInt8](repeating: 0, count: 10)
        #expect(header.count == 32)
        #expect(try salvage(Array(repeatElement(header, count: 100_000).joined())) == nil)
    }
}

private func files(in folder: String, contain part: String) -> Bool {
    (try? files(in: folder).keys.contains { $0.contains(part) }) ?? false
}

/// What was saved: the SHA-256 of each file by path and of each tensor by name.
private struct Saved {
    let report: Salvage.Report
    let files: [String: String]
    let tensors: [String: String]
    let json: JSONValue
}

/// `nil` where there is nothing to salvage.
private func salvage(_ bytes: [UInt8]) throws -> Saved? {
    let folder = try TemporaryFolder()
    let (input, out) = (folder.path("damaged.opck"), folder.path("out"))
    try Data(bytes).write(to: URL(fileURLWithPath: input))
    let report: Salvage.Report
    do {
        report = try Salvage(path: input).run(to: out, replacing: false, durable: false)
    } catch PackError.nothingToSalvage {
        return nil
    }
    var tensors: [String: String] = [:]
    if FileSystem.exists(out + "/tensors.safetensors") {
        let file = try SafetensorsFile(path: out + "/tensors.safetensors")
        for info in file.tensors.values {
            tensors[info.name] = hash(file.withBytes(of: info) { bytes in unsafe bytes.withUnsafeBytes { unsafe Array($0) } })
        }
    }
    return Saved(
        report: report, files: FileSystem.exists(out + "/files") ? try files(in: out + "/files") : [:], tensors: tensors,
        json: try JSONValue(parsing: try readAll(out + "/salvage.json")))
}

/// A golden file to be damaged.
private struct Subject {
    let golden: Golden
    let bytes: [UInt8]
    /// Where in the file the last chunk of each tensor ends, by label.
    let tensorEnds: [String: Int]
    /// The same for packed files with bytes, by path.
    let fileEnds: [String: Int]
    let firstChunkEnd: Int
    private let empty: Set<String>
    private let paths: [String]

    init(_ name: String) throws {
        golden = try #require(try Golden.files().first { $0.name == "good/\(name).opck" })
        bytes = try readAll(golden.path)
        let file = try CheckpointFile(path: golden.path)
        var (end, ends, fileEnds): (Int, [String: Int], [String: Int]) = (32, [:], [:])
        for (label, tensor) in file.tensors {
            end += tensor.storedByteCount
            ends[label] = end
            if let path = tensor.path { fileEnds[path] = end }
        }
        (tensorEnds, self.fileEnds) = (ends, fileEnds)
        empty = Set(file.tensors.filter { $0.value.byteCount == 0 }.keys)
        paths = file.packedFiles ?? []
        firstChunkEnd = bytes.count > 40 ? 32 + bytes[36..<40].reversed().reduce(0) { $0 << 8 | Int($1) } : .max
    }

    func isEmpty(_ label: String) -> Bool { empty.contains(label) }

    func salvage(_ bytes: [UInt8]) throws -> Saved? { try PackingTests.salvage(bytes) }

    /// Whether what follows a file that ends there is whole before `length`: the next tensor, or the beginning of the footer.
    func isKnownToEnd(_ end: Int, before length: Int) -> Bool {
        (tensorEnds.values.filter { $0 > end }.min() ?? end + 30) <= length
    }

    /// Everything that was saved is what was there.
    func checkSubset(_ saved: Saved) throws {
        for (path, hash) in saved.files { #expect(golden.unpacked?[path] == hash, "\(path)") }
        for (name, hash) in saved.tensors {
            // The label of a tensor whose file has lost its name begins with the file's number.
            var label = name
            if let match = name.wholeMatch(of: /file-([0-9]+):(.*)/), let number = Int(match.1) { label = paths[number] + ":" + match.2 }
            #expect(golden.tensors?[label] == hash, "\(name)")
        }
    }
}
