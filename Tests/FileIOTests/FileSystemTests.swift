import FileIO
import Foundation
import TestSupport
import Testing

struct FileSystemTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private func link(_ name: String, to target: String) throws {
        try FileManager.default.createSymbolicLink(atPath: folder.path(name), withDestinationPath: target)
    }

    // MARK: Paths

    @Test(arguments: [
        ("a", "b", "a/b"), ("a/", "b", "a/b"), ("/", "b", "/b"), ("", "b", "b"), (".", "b", "./b"), ("a/c", "b.txt", "a/c/b.txt"),
        ("a", "\u{301}b", "a/\u{301}b"),
    ])
    func joiningPutsOneSlashBetween(folder: String, name: String, expected: String) {
        #expect(Array(FileSystem.join(folder, name).utf8) == Array(expected.utf8))
    }

    /// The last of them begins with a combining mark, which makes one character of itself and the slash before it.
    @Test(arguments: [
        ("a", ".", "a"), ("a/b", "a", "b"), ("/a", "/", "a"), ("/a/b", "/a", "b"), ("a/b/", "a", "b"), ("a/b//", "a", "b"), ("a/", ".", "a"),
        ("/", "/", "/"), ("//", "/", "//"), ("", ".", ""), (".", ".", "."), ("./a", ".", "a"), ("../a", "..", "a"), ("a/é", "a", "é"),
        ("é/a", "é", "a"), ("a/\u{301}b", "a", "\u{301}b"),
    ])
    func parentAndLastComponentArePartsOfThePath(path: String, parent: String, last: String) {
        #expect(Array(FileSystem.parent(of: path).utf8) == Array(parent.utf8))
        #expect(Array(FileSystem.lastComponent(path).utf8) == Array(last.utf8))
    }

    @Test func aNameThatBeginsWithACombiningMarkCanBeWritten() throws {
        try writeText("content", folder.path("\u{301}b"))
        #expect(try FileSystem.names(in: folder.path).map { Array($0.utf8) } == [Array("\u{301}b".utf8)])
    }

    // MARK: Questions

    @Test func statusTellsEachKindApart() throws {
        try writeText("abc", folder.path("file"))
        try link("link", to: "file")
        try link("dangling", to: "nowhere")
        let file = try FileSystem.status(of: folder.path("file"))
        #expect(file.isRegularFile && !file.isFolder && file.byteCount == 3)
        #expect(try FileSystem.status(of: folder.path("link")).identity == file.identity)
        let directory = try FileSystem.status(of: folder.path)
        #expect(!directory.isRegularFile && directory.isFolder)
        let device = try FileSystem.status(of: "/dev/null")
        #expect(!device.isRegularFile && !device.isFolder)
        for name in ["missing", "dangling", "file/inside"] {
            #expect(throws: FileError.missing(path: folder.path(name))) { try FileSystem.status(of: folder.path(name)) }
        }
    }

    @Test func aDanglingLinkExistsAndIsNoFolder() throws {
        try writeText("", folder.path("file"))
        try link("dangling", to: "nowhere")
        try link("up", to: ".")
        #expect(FileSystem.exists(folder.path) && FileSystem.exists(folder.path("file")) && FileSystem.exists(folder.path("dangling")))
        #expect(!FileSystem.exists(folder.path("missing")) && !FileSystem.exists(folder.path("file/inside")))
        #expect(FileSystem.isFolder(folder.path) && FileSystem.isFolder(folder.path("up")))
        #expect(!FileSystem.isFolder(folder.path("file")) && !FileSystem.isFolder(folder.path("dangling")) && !FileSystem.isFolder(""))
    }

    @Test func theSameFileIsKnownUnderTwoNames() throws {
        let file = folder.path("file")
        try writeText("content", file)
        try writeText("content", folder.path("copy"))
        try FileSystem.createFolder(folder.path("inner"))
        try link("soft", to: "file")
        try link("inner/soft", to: "../soft")
        try link("dangling", to: "nowhere")
        try FileManager.default.linkItem(atPath: file, toPath: folder.path("hard"))
        for name in ["file", "soft", "inner/soft", "hard", "inner/../file", "./file"] {
            #expect(FileSystem.areSame(file, folder.path(name)) && FileSystem.areSame(folder.path(name), file), "\(name)")
        }
        for name in ["copy", "inner", "missing", "dangling"] {
            #expect(!FileSystem.areSame(file, folder.path(name)) && !FileSystem.areSame(folder.path(name), file), "\(name)")
        }
        // Two missing files are not one.
        #expect(!FileSystem.areSame(folder.path("missing"), folder.path("missing")))
        #expect(FileSystem.areSame(folder.path, folder.path + "/") && FileSystem.areSame(folder.path, folder.path("inner/..")))
    }

    @Test func namesAreSortedByTheirBytes() throws {
        #expect(try FileSystem.names(in: folder.path) == [])
        // Unicode would put the composed é after f and its two-part spelling with it.
        let sorted = [".hidden", "10", "9", "B", "a", "a.b", "ab", "e\u{301}", "f", "\u{E9}"]
        for name in sorted.reversed() { try writeText("", folder.path(name)) }
        #expect(try FileSystem.names(in: folder.path).map { Array($0.utf8) } == sorted.map { Array($0.utf8) })
        #expect(throws: FileError.missing(path: folder.path("missing"))) { try FileSystem.names(in: folder.path("missing")) }
        #expect(throws: FileError.self) { try FileSystem.names(in: folder.path("9")) }
    }

    @Test func contentsAreReadUpToALimit() throws {
        let path = folder.path("file")
        try writeText("12345", path)
        #expect(try FileSystem.contents(of: path, limit: 5) == Array("12345".utf8))
        #expect(throws: FileError.tooLarge(path: path, bytes: 5, limit: 4)) { try FileSystem.contents(of: path, limit: 4) }
        try writeText("", path)
        #expect(try FileSystem.contents(of: path, limit: 0) == [])
        #expect(throws: FileError.missing(path: folder.path("missing"))) { try FileSystem.contents(of: folder.path("missing"), limit: 1) }
        #expect(throws: FileError.wrongKind(path: folder.path, expected: "a regular file")) {
            try FileSystem.contents(of: folder.path, limit: 1 << 30)
        }
    }

    // MARK: Changes

    @Test func foldersAreMadeOnceAndRenamed() throws {
        let path = folder.path("folder")
        try FileSystem.createFolder(path)
        #expect(FileSystem.isFolder(path))
        #expect(throws: FileError.exists(path: path)) { try FileSystem.createFolder(path) }
        let error = #expect(throws: FileError.self) { try FileSystem.createFolder(folder.path("missing/folder")) }
        guard case .cannotCreate(folder.path("missing/folder"), _) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        try FileSystem.rename(path, to: folder.path("renamed"))
        #expect(try FileSystem.names(in: folder.path) == ["renamed"])
        #expect(throws: FileError.self) { try FileSystem.rename(path, to: folder.path("again")) }
        #expect(try FileSystem.names(in: folder.path) == ["renamed"])
        try FileSystem.synchronize(folder: folder.path)
        #expect(throws: FileError.self) { try FileSystem.synchronize(folder: path) }
    }

    @Test func removingDoesNotFollowLinks() throws {
        try FileSystem.createFolder(folder.path("target"))
        try writeText("kept", folder.path("target/kept"))
        try FileSystem.createFolder(folder.path("tree"))
        try FileSystem.createFolder(folder.path("tree/inner"))
        try writeText("gone", folder.path("tree/inner/.gone"))
        try link("tree/inner/link", to: folder.path("target"))
        try link("tree/dangling", to: "nowhere")
        try link("link", to: "target")
        for name in ["tree", "link", "missing"] { try FileSystem.remove(folder.path(name)) }
        #expect(try FileSystem.names(in: folder.path) == ["target"])
        #expect(try FileSystem.names(in: folder.path("target")) == ["kept"])
    }

    // MARK: Messages

    @Test(arguments: [
        (FileError.missing(path: "/p"), "/p: there is no such file or folder; check the path"),
        (.wrongKind(path: "/p", expected: "a folder"), "/p: this is not a folder; name one"),
        (.exists(path: "/p"), "/p: the output exists already"),
        (.cannotCreate(path: "/p", reason: "no"), "/p: the output cannot be made (no); check the folder and its permissions"),
        (.system(operation: "writing", path: "/p", errno: ENOSPC), "/p: writing failed because the disk is full; nothing was published"),
        (.system(operation: "writing", path: "/p", errno: EIO), "/p: writing failed: Input/output error"),
        (.tooLarge(path: "/p", bytes: 9, limit: 8), "/p: the file has 9 bytes, more than the 8 "),
        (.truncated(path: "/p", offset: 4, wanted: 5), "/p: the file ended at byte 4 where 5 more bytes were expected"),
    ])
    func messagesSayWhereAndWhat(error: FileError, start: String) {
        #expect(error.description.hasPrefix(start))
    }
}
