import FileIO
import Foundation
import TestSupport
import Testing

struct UnfinishedTests {
    private let folder: TemporaryFolder
    private let path: String

    init() throws {
        folder = try TemporaryFolder()
        path = folder.path("out")
    }

    private var names: [String] {
        get throws { try FileSystem.names(in: folder.path) }
    }

    @Test func whatKilledRunsLeftIsRemoved() throws {
        try writeText("half", folder.path(".out.1234-0.partial"))
        try FileSystem.createFolder(folder.path(".out.1-7.partial"))
        try writeText("half", folder.path(".out.1-7.partial/model.safetensors"))
        Unfinished.removeLeftovers(beside: path)
        #expect(try names == [])
    }

    @Test func whatIsStillWrittenStays() throws {
        let file = try AtomicFile(path: path, replacing: false)
        let other = try AtomicFolder(path: path, replacing: nil)
        let before = try names
        #expect(before.count == 2)
        Unfinished.removeLeftovers(beside: path)
        #expect(try names == before)
        try file.write([1])
        try file.publish(durable: false)
        withExtendedLifetime(other) {}
    }

    @Test func othersFilesStay() throws {
        let others = [
            ".out.1234-0", ".out.partial", ".out.a-0.partial", ".out.1-2-3.partial", ".other.1-0.partial", "out.1-0.partial", ".out.1-0.partial2",
        ]
        for name in others { try writeText("mine", folder.path(name)) }
        Unfinished.removeLeftovers(beside: path)
        #expect(try names == others.sorted())
    }

    /// Where a system cannot exchange names, a run may have been killed between moving the old folder aside and publishing the new one.
    @Test func anOldFolderGetsItsNameBack() throws {
        try FileSystem.createFolder(folder.path(".out.9-0.partial"))
        try FileSystem.createFolder(folder.path(".out.9-0.partial.old"))
        try writeText("old", folder.path(".out.9-0.partial.old/old"))
        Unfinished.removeLeftovers(beside: path)
        #expect(try names == ["out"])
        #expect(try readAll(path + "/old") == Array("old".utf8))
    }

    @Test func anOldFolderStaysWhereAnotherHasItsName() throws {
        try FileSystem.createFolder(path)
        try FileSystem.createFolder(folder.path(".out.9-0.partial"))
        try FileSystem.createFolder(folder.path(".out.9-0.partial.old"))
        Unfinished.removeLeftovers(beside: path)
        #expect(try names == [".out.9-0.partial", ".out.9-0.partial.old", "out"])
    }

    @Test func anOldFolderGoesOnceTheNewOneIsThere() throws {
        try FileSystem.createFolder(path)
        try FileSystem.createFolder(folder.path(".out.9-0.partial.old"))
        Unfinished.removeLeftovers(beside: path)
        #expect(try names == ["out"])
    }
}

struct FolderListingTests {
    private func makeNested(_ folder: TemporaryFolder, depth: Int) throws -> String {
        var path = folder.path("nested")
        for _ in 0..<depth {
            try FileSystem.createFolder(path)
            path += "/a"
        }
        return folder.path("nested")
    }

    @Test func depthIsBounded() throws {
        let folder = try TemporaryFolder(), other = try TemporaryFolder()
        let deep = try makeNested(folder, depth: FolderListing.maximumDepth)
        #expect(try FolderListing(of: deep).entries.count == FolderListing.maximumDepth - 1)
        let deeper = try makeNested(other, depth: FolderListing.maximumDepth + 1)
        let error = #expect(throws: FileError.self) { try FolderListing(of: deeper) }
        guard case .excessive(deeper, _) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func linksAreNotFollowed() throws {
        let folder = try TemporaryFolder()
        try FileManager.default.createSymbolicLink(atPath: folder.path("loop"), withDestinationPath: ".")
        #expect(try FolderListing(of: folder.path).entries.map { "\($0.path) \($0.kind)" } == ["loop link"])
    }

    @Test func onlyLinksThatBelongToAModelAreFollowed() throws {
        let folder = try TemporaryFolder()
        for name in ["hub", "hub/models--a--b", "hub/models--a--b/blobs", "hub/models--a--b/snapshots", "hub/models--a--b/snapshots/1", "other"] {
            try FileSystem.createFolder(folder.path(name))
        }
        let snapshot = folder.path("hub/models--a--b/snapshots/1")
        for name in ["hub/models--a--b/blobs/c0ffee", "hub/token", "other/key", "hub/models--a--b/snapshots/1/own"] {
            try writeText("", folder.path(name))
        }
        let links = [
            "blob": "../../blobs/c0ffee", "sibling": "own", "token": "../../../token", "key": folder.path("other/key"), "gone": "nothing",
            "folder": "../../blobs",
        ]
        for (name, target) in links { try FileManager.default.createSymbolicLink(atPath: snapshot + "/" + name, withDestinationPath: target) }
        let model = ModelLinks(folder: snapshot)
        for name in links.keys { #expect((model.target(of: snapshot + "/" + name) != nil) == ["blob", "sibling"].contains(name), "\(name)") }
    }
}
