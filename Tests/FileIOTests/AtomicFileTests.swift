import FileIO
import Foundation
import TestSupport
import Testing

struct AtomicFileTests {
    private let folder: TemporaryFolder
    private let path: String

    init() throws {
        folder = try TemporaryFolder()
        path = folder.path("out")
    }

    private var names: [String] {
        get throws { try FileSystem.names(in: folder.path) }
    }

    @Test(arguments: [true, false]) func appearsOnlyWhenPublished(durable: Bool) throws {
        let file = try AtomicFile(path: path, replacing: false)
        try file.write([1, 2])
        try file.write([3])
        #expect(file.path == path && file.position == 3)
        #expect(!FileSystem.exists(path))
        try file.publish(durable: durable)
        #expect(try readAll(path) == [1, 2, 3])
        #expect(try names == ["out"])
    }

    @Test func anEmptyFileAppears() throws {
        try AtomicFile(path: path, replacing: false).publish(durable: false)
        #expect(try readAll(path) == [])
    }

    @Test func aDroppedFileLeavesNothing() throws {
        func writeAndDrop() throws {
            let file = try AtomicFile(path: path, replacing: false)
            // More than the buffer, so that some of it is on the disk.
            try file.write([UInt8](repeating: 7, count: 100_000))
            #expect(try names.count == 1)
        }
        try writeAndDrop()
        #expect(try names == [])
    }

    @Test func piecesOfAnySizeAreJoined() throws {
        var generator = SeededGenerator(seed: 1)
        let file = try AtomicFile(path: path, replacing: false)
        var expected: [UInt8] = []
        // The buffer takes 65,536 bytes: pieces that fill it exactly, pass it by one, and pass it whole.
        for count in [0, 1, 65_535, 1, 65_536, 0, 3, 65_537, 65_535, 2, 140_000, 5] {
            let piece = generator.bytes(count)
            try file.write(piece)
            expected += piece
            #expect(file.position == expected.count)
        }
        try file.publish(durable: false)
        #expect(try readAll(path) == expected)
    }

    @Test func whatExistsIsNotReplacedUnasked() throws {
        try writeText("old", path)
        try FileSystem.createFolder(folder.path("folder"))
        try FileManager.default.createSymbolicLink(atPath: folder.path("dangling"), withDestinationPath: "nowhere")
        for name in ["out", "folder", "dangling"] {
            #expect(throws: FileError.exists(path: folder.path(name))) { try AtomicFile(path: folder.path(name), replacing: false) }
        }
        #expect(try readAll(path) == Array("old".utf8))
        #expect(try names == ["dangling", "folder", "out"])
    }

    @Test func theOldContentStaysUntilPublished() throws {
        try writeText("old", path)
        func write(publishing: Bool) throws {
            let file = try AtomicFile(path: path, replacing: true)
            try file.write(Array("new".utf8))
            #expect(try readAll(path) == Array("old".utf8))
            if publishing { try file.publish() }
        }
        try write(publishing: false)
        #expect(try readAll(path) == Array("old".utf8))
        try write(publishing: true)
        #expect(try readAll(path) == Array("new".utf8))
        #expect(try names == ["out"])
    }

    @Test func aLinkIsNotReplaced() throws {
        try writeText("target", folder.path("target"))
        try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: "target")
        let target = try #require(FileSystem.resolved(folder.path("target")))
        #expect(throws: FileError.irreplaceable(path: path, reason: "it is a link to \(target)")) { try AtomicFile(path: path, replacing: true) }
        #expect(FileSystem.isSymbolicLink(path))
        #expect(try readAll(path) == Array("target".utf8))
    }

    @Test func aFolderIsNotReplacedByAFile() throws {
        try FileSystem.createFolder(path)
        #expect(throws: FileError.irreplaceable(path: path, reason: "it is a folder")) { try AtomicFile(path: path, replacing: true) }
        #expect(try names == ["out"])
    }

    @Test func bytesGoThroughANamedPipe() async throws {
        #expect(unsafe mkfifo(path, 0o600) == 0)
        let path = path
        let reader = Task.detached { try Array(FileHandle(forReadingAtPath: path)?.readToEnd() ?? Data()) }
        // No one allowed to replace it, and nothing is replaced.
        let file = try AtomicFile(path: path, replacing: false)
        try file.write([UInt8](repeating: 7, count: 100_000))
        try file.publish()
        #expect(try await reader.value == [UInt8](repeating: 7, count: 100_000))
        #expect(FileSystem.kind(of: path) == .namedPipe)
        #expect(try names == ["out"])
    }

    @Test func devicesAreStreamsAndFilesAreNot() throws {
        try writeText("", path)
        for name in ["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/fd/2", "/proc/self/fd/1"] { #expect(ByteStream(path: name) != nil, "\(name)") }
        for name in [path, folder.path, folder.path("new"), "/dev"] { #expect(ByteStream(path: name) == nil, "\(name)") }
        let file = try AtomicFile(path: "/dev/null", replacing: true)
        try file.write([1])
        try file.publish()
        #expect(FileSystem.kind(of: "/dev/null") == .characterDevice)
    }

    @Test(arguments: ["missing/out", "file/out"]) func aPathWithoutItsFolderIsRefused(name: String) throws {
        try writeText("", folder.path("file"))
        let error = #expect(throws: FileError.self) { try AtomicFile(path: folder.path(name), replacing: false) }
        guard case .cannotCreate(folder.path(name), let reason) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(!reason.isEmpty)
    }

    @Test func theLastOfTwoWritersOfOneNameStays() throws {
        let first = try AtomicFile(path: path, replacing: true), second = try AtomicFile(path: path, replacing: true)
        try first.write([1])
        try second.write([2, 2])
        #expect(try names.count == 2)
        try second.publish(durable: false)
        #expect(try readAll(path) == [2, 2])
        try first.publish(durable: false)
        #expect(try readAll(path) == [1])
        #expect(try names == ["out"])
    }

    @Test func aFailedPublishingLeavesNothing() throws {
        let file = try AtomicFile(path: path, replacing: true)
        try file.write([1])
        try FileSystem.createFolder(path)
        let error = #expect(throws: FileError.self) { try file.publish(durable: false) }
        guard case .irreplaceable(path, "it is a folder") = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(try names == ["out"] && FileSystem.isFolder(path))
    }

    @Test func whatCameInTheMeantimeStays() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("file")
        let file = try AtomicFile(path: path, replacing: false)
        try file.write([1, 2, 3])
        try writeText("precious", path)
        #expect(throws: FileError.exists(path: path)) { try file.publish(durable: false) }
        #expect(try FileSystem.contents(of: path, limit: 100) == Array("precious".utf8))
        #expect(try FileSystem.names(in: folder.path) == ["file"])
    }
}
