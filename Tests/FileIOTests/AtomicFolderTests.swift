import FileIO
import Foundation
import TestModels
import Testing

struct AtomicFolderTests {
    private let folder: TemporaryFolder
    private let path: String

    init() throws {
        folder = try TemporaryFolder()
        path = folder.path("out")
    }

    private var names: [String] {
        get throws { try FileSystem.names(in: folder.path) }
    }

    /// A folder as a user may have it, with a file and a folder inside.
    private func makeOld() throws {
        try FileSystem.createFolder(path)
        try writeText("old", path + "/old")
        try FileSystem.createFolder(path + "/inner")
        try writeText("deep", path + "/inner/deep")
    }

    @Test(arguments: [true, false], [true, false]) func appearsOnlyWhenPublished(replacing: Bool, durable: Bool) throws {
        let made = try AtomicFolder(path: path, replacing: replacing)
        try writeText("a", made.path(of: "a"))
        #expect(made.path == path && FileSystem.areSame(FileSystem.parent(of: made.workingPath), folder.path))
        #expect(!FileSystem.exists(path))
        try made.publish(durable: durable)
        #expect(try readAll(path + "/a") == Array("a".utf8))
        #expect(try names == ["out"])
    }

    @Test func aPublishedFolderOutlivesItsMaker() throws {
        func make() throws { try AtomicFolder(path: path, replacing: false).publish(durable: false) }
        try make()
        #expect(FileSystem.isFolder(path))
    }

    @Test(arguments: [true, false]) func aDroppedFolderLeavesNothing(replacing: Bool) throws {
        func makeAndDrop() throws {
            let made = try AtomicFolder(path: path, replacing: replacing)
            try writeText("a", made.path(of: "a"))
            try FileSystem.createFolder(made.path(of: "inner"))
            try writeText("b", made.path(of: "inner/b"))
            #expect(try names.count == 1)
        }
        try makeAndDrop()
        #expect(try names == [])
    }

    @Test func whatExistsIsNotReplacedUnasked() throws {
        try makeOld()
        #expect(throws: FileError.exists(path: path)) { try AtomicFolder(path: path, replacing: false) }
        #expect(try names == ["out"])
        #expect(try FileSystem.names(in: path) == ["inner", "old"])
    }

    @Test(arguments: [true, false]) func theOldFolderStaysUntilPublished(durable: Bool) throws {
        try makeOld()
        func make(publishing: Bool) throws {
            let made = try AtomicFolder(path: path, replacing: true)
            try writeText("new", made.path(of: "new"))
            #expect(try FileSystem.names(in: path) == ["inner", "old"])
            if publishing { try made.publish(durable: durable) }
        }
        try make(publishing: false)
        #expect(try FileSystem.names(in: path) == ["inner", "old"])
        try make(publishing: true)
        #expect(try FileSystem.names(in: path) == ["new"])
        #expect(try names == ["out"])
    }

    @Test func aLinkIsReplacedAndNotItsTarget() throws {
        try FileSystem.createFolder(folder.path("target"))
        try writeText("kept", folder.path("target/kept"))
        try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: "target")
        try AtomicFolder(path: path, replacing: true).publish(durable: false)
        #expect(try FileSystem.names(in: path) == [])
        #expect(try FileSystem.names(in: folder.path("target")) == ["kept"])
        #expect(try names == ["out", "target"])
    }

    @Test func aFileInTheWay() throws {
        try writeText("old", path)
        #expect(throws: FileError.wrongKind(path: path, expected: "a folder that can be replaced")) { try AtomicFolder(path: path, replacing: true) }
        #expect(throws: FileError.exists(path: path)) { try AtomicFolder(path: path, replacing: false) }
        #expect(try readAll(path) == Array("old".utf8))
        #expect(try names == ["out"])
    }

    @Test(arguments: ["missing/out", "file/out"]) func noFolderToWriteIn(name: String) throws {
        try writeText("", folder.path("file"))
        let error = #expect(throws: FileError.self) { try AtomicFolder(path: folder.path(name), replacing: false) }
        // The name in the error is the one that the user gave, not the working one.
        guard case .cannotCreate(folder.path(name), let reason) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(!reason.isEmpty)
    }

    @Test func aFolderThatAppearedMeanwhileIsNotReplacedUnasked() throws {
        func make() throws {
            let made = try AtomicFolder(path: path, replacing: false)
            try writeText("new", made.path(of: "new"))
            try makeOld()
            let error = #expect(throws: FileError.self) { try made.publish(durable: false) }
            guard case .system(_, path, _) = error else {
                Issue.record("\(String(describing: error))")
                return
            }
        }
        try make()
        #expect(try names == ["out"])
        #expect(try FileSystem.names(in: path) == ["inner", "old"])
    }

    @Test func twoMakersOfOneName() throws {
        let first = try AtomicFolder(path: path, replacing: true), second = try AtomicFolder(path: path, replacing: true)
        try writeText("1", first.path(of: "first"))
        try writeText("2", second.path(of: "second"))
        try second.publish(durable: false)
        try first.publish(durable: false)
        #expect(try FileSystem.names(in: path) == ["first"])
        #expect(try names == ["out"])
    }

    @Test func aSlashAtTheEnd() throws {
        try AtomicFolder(path: path + "/", replacing: false).publish(durable: false)
        #expect(try names == ["out"])
    }
}
