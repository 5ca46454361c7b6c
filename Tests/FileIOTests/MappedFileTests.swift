import FileIO
import TestSupport
import Testing

struct MappedFileTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private func file(_ bytes: [UInt8], _ name: String = "file") throws -> MappedFile {
        let file = try AtomicFile(path: folder.path(name), replacing: true)
        try file.write(bytes)
        try file.publish(durable: false)
        return try MappedFile(path: folder.path(name))
    }

    private func bytes(_ file: MappedFile, in range: Range<Int>? = nil) -> [UInt8] {
        guard let range else { return unsafe file.bytes.withUnsafeBytes { unsafe Array($0) } }
        return unsafe file.bytes(in: range).withUnsafeBytes { unsafe Array($0) }
    }

    @Test func everyRangeHasTheBytesOfTheFile() throws {
        var generator = SeededGenerator(seed: 1)
        let expected = generator.bytes(10_000)
        let mapped = try file(expected)
        #expect(mapped.path == folder.path("file") && mapped.count == 10_000)
        #expect(bytes(mapped) == expected)
        for range in [0..<1, 0..<10_000, 9_999..<10_000, 4_095..<4_097, 10_000..<10_000, 5..<5] {
            #expect(bytes(mapped, in: range) == Array(expected[range]), "\(range)")
        }
    }

    @Test func anEmptyFileIsMapped() throws {
        let mapped = try file([])
        #expect(mapped.count == 0)
        #expect(bytes(mapped) == [] && bytes(mapped, in: 0..<0) == [])
        mapped.release(0..<0)
    }

    @Test func releasedPagesAreReadAgain() throws {
        var generator = SeededGenerator(seed: 2)
        let expected = generator.bytes(50_000)
        let mapped = try file(expected)
        for range in [0..<50_000, 1..<49_999, 100..<200, 4_096..<8_192] {
            mapped.release(range)
            #expect(bytes(mapped) == expected, "\(range)")
        }
    }

    @Test func aReplacedFileKeepsTheVersionThatWasOpened() throws {
        let old = try file([1, 2, 3])
        let new = try file([4])
        #expect(bytes(old) == [1, 2, 3] && bytes(new) == [4])
        try FileSystem.remove(folder.path("file"))
        #expect(bytes(old) == [1, 2, 3] && bytes(new) == [4])
    }

    @Test func whatIsNoFileIsRefused() throws {
        _ = try file([1])
        for name in ["missing", "file/inside"] {
            #expect(throws: FileError.missing(path: folder.path(name))) { try MappedFile(path: folder.path(name)) }
        }
        for path in [folder.path, "/dev/null"] {
            #expect(throws: FileError.wrongKind(path: path, expected: "a regular file")) { try MappedFile(path: path) }
        }
    }
}
