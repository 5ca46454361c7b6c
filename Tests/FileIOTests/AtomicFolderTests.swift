import FileIO
import Foundation
import TestSupport
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

    /// A rule that takes every folder for one that may be replaced.
    private let any = FolderRule { _ in nil }

    /// A folder as a user may have it, with a file and a folder inside.
    private func makeOld() throws {
        try FileSystem.createFolder(path)
        try writeText("old", path + "/old")
        try FileSystem.createFolder(path + "/inner")
        try writeText("deep", path + "/inner/deep")
    }

    @Test(arguments: [true, false], [true, false]) func appearsOnlyWhenPublished(replacing: Bool, durable: Bool) throws {
        let made = try AtomicFolder(path: path, replacing: replacing ? any : nil)
        try writeText("a", made.path(of: "a"))
        #expect(made.path == path && FileSystem.areSame(FileSystem.parent(of: made.workingPath), folder.path))
        #expect(!FileSystem.exists(path))
        try made.publish(durable: durable)
        #expect(try readAll(path + "/a") == Array("a".utf8))
        #expect(try names == ["out"])
    }

    @Test func aPublishedFolderOutlivesItsMaker() throws {
        func make() throws { try AtomicFolder(path: path, replacing: nil).publish(durable: false) }
        try make()
        #expect(FileSystem.isFolder(path))
    }

    @Test(arguments: [true, false]) func aDroppedFolderLeavesNothing(replacing: Bool) throws {
        func makeAndDrop() throws {
            let made = try AtomicFolder(path: path, replacing: replacing ? any : nil)
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
        #expect(throws: FileError.exists(path: path)) { try AtomicFolder(path: path, replacing: nil) }
        #expect(try names == ["out"])
        #expect(try FileSystem.names(in: path) == ["inner", "old"])
    }

    @Test(arguments: [true, false]) func theOldFolderStaysUntilPublished(durable: Bool) throws {
        try makeOld()
        func make(publishing: Bool) throws {
            let made = try AtomicFolder(path: path, replacing: any)
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

    @Test func aLinkIsNotReplaced() throws {
        try FileSystem.createFolder(folder.path("target"))
        try writeText("kept", folder.path("target/kept"))
        try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: "target")
        let target = try #require(FileSystem.resolved(folder.path("target")))
        #expect(throws: FileError.irreplaceable(path: path, reason: "it is a link to \(target)")) { try AtomicFolder(path: path, replacing: any) }
        #expect(FileSystem.isSymbolicLink(path))
        #expect(try FileSystem.names(in: folder.path("target")) == ["kept"])
    }

    @Test func aFileIsNotReplacedByAFolder() throws {
        try writeText("old", path)
        #expect(throws: FileError.irreplaceable(path: path, reason: "it is a file")) { try AtomicFolder(path: path, replacing: any) }
        #expect(throws: FileError.exists(path: path)) { try AtomicFolder(path: path, replacing: nil) }
        #expect(try readAll(path) == Array("old".utf8))
        #expect(try names == ["out"])
    }

    @Test func onlyWhatTheRuleKnowsIsReplaced() throws {
        try makeOld()
        let reason = "nothing says that oplora wrote old in it"
        #expect(throws: FileError.irreplaceable(path: path, reason: reason)) {
            try AtomicFolder(path: path, replacing: .holdingOnly(["inner/deep"]))
        }
        let made = try AtomicFolder(path: path, replacing: .holdingOnly(["inner/deep", "old"]))
        try made.publish(durable: false)
        #expect(try FileSystem.names(in: path) == [])
    }

    @Test(arguments: ["notes.txt", "inner/more", ".git", "link", "pipe"]) func whatCameIntoTheOldFolderStays(name: String) throws {
        try makeOld()
        func make() throws {
            let made = try AtomicFolder(path: path, replacing: .holdingOnly(["inner/deep", "old"]))
            try writeText("new", made.path(of: "new"))
            switch name {
            case "link": try FileManager.default.createSymbolicLink(atPath: path + "/link", withDestinationPath: "old")
            case "pipe": #expect(unsafe mkfifo(path + "/pipe", 0o600) == 0)
            case ".git": try FileSystem.createFolder(path + "/.git")
            default: try writeText("mine", FileSystem.join(path, name))
            }
            let error = #expect(throws: FileError.self) { try made.publish(durable: false) }
            guard case .irreplaceable(path, let reason) = error, reason.contains(name) else {
                Issue.record("\(String(describing: error))")
                return
            }
        }
        try make()
        #expect(FileSystem.exists(FileSystem.join(path, name)) && FileSystem.exists(path + "/old"))
        #expect(try names == ["out"])
    }

    @Test(arguments: ["missing/out", "file/out"]) func aPathWithoutItsFolderIsRefused(name: String) throws {
        try writeText("", folder.path("file"))
        let error = #expect(throws: FileError.self) { try AtomicFolder(path: folder.path(name), replacing: nil) }
        // The name in the error is the one that the user gave, not the working one.
        guard case .cannotCreate(folder.path(name), let reason) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(!reason.isEmpty)
    }

    @Test(arguments: [true, false]) func aFolderThatAppearedMeanwhileIsNotReplacedUnasked(isEmpty: Bool) throws {
        func make() throws {
            let made = try AtomicFolder(path: path, replacing: nil)
            try writeText("new", made.path(of: "new"))
            if isEmpty { try FileSystem.createFolder(path) } else { try makeOld() }
            #expect(throws: FileError.exists(path: path)) { try made.publish(durable: false) }
        }
        try make()
        #expect(try names == ["out"])
        #expect(try FileSystem.names(in: path) == (isEmpty ? [] : ["inner", "old"]))
    }

    @Test func theLastOfTwoMakersOfOneNameStays() throws {
        let first = try AtomicFolder(path: path, replacing: any), second = try AtomicFolder(path: path, replacing: any)
        try writeText("1", first.path(of: "first"))
        try writeText("2", second.path(of: "second"))
        try second.publish(durable: false)
        try first.publish(durable: false)
        #expect(try FileSystem.names(in: path) == ["first"])
        #expect(try names == ["out"])
    }

    @Test func aSlashAtTheEndDoesNotMatter() throws {
        try AtomicFolder(path: path + "/", replacing: nil).publish(durable: false)
        #expect(try names == ["out"])
    }
}
