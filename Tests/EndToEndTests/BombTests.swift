import FileIO
import Foundation
import JSON
import NativeCheckpoint
import Tensors
import TestModels
import TestSupport
import Testing

/// Small files that ask for much memory: the program answers in order, in a bounded address space. Only `make test-release`
/// runs them, for unoptimised they take minutes.
@Suite(.enabled(if: isOptimized)) struct BombTests {
    /// The most address space that checking a file may take. `docs/safetensors.md` states it.
    static let budget = 1 << 30

    struct Bomb: Sendable, CustomTestStringConvertible {
        let name: String
        /// How the line of `check` goes on after the path; the same in both modes unless `reference` says otherwise.
        let strict: String
        let reference: String
        let header: @Sendable () -> String
        /// What the file claims its header to have; without it the truth.
        var claim: Int?

        init(_ name: String, _ strict: String, reference: String? = nil, claim: Int? = nil, header: @escaping @Sendable () -> String) {
            (self.name, self.strict, self.reference, self.claim, self.header) = (name, strict, reference ?? strict, claim, header)
        }

        var testDescription: String { name }
    }

    private static func list(_ element: String, _ count: Int) -> String {
        #"{"t":["# + String(repeating: element + ",", count: count - 1) + element + "]}"
    }

    static let bombs: [Bomb] = [
        Bomb("a header of 100 MB that is not there", "headerPastEnd: ", claim: 100_000_000) { "{}" },
        Bomb("a header of 2⁶³ bytes", "headerTooLarge: ", claim: .max) { "{}" },
        Bomb("four million open lists", "invalidHeader: ") { #"{"t":"# + String(repeating: "[", count: 4_000_000) },
        Bomb("a million open objects", "invalidHeader: ") { String(repeating: #"{"t":"#, count: 1_000_000) },
        Bomb("as many objects as are read", "invalidTensor: ") { list("{}", 1_048_000) },
        Bomb("two million objects", "invalidHeader: ", reference: "invalidTensor: ") { list("{}", 2_000_000) },
        Bomb("two million lists", "invalidHeader: ", reference: "invalidTensor: ") { list("[]", 2_000_000) },
        Bomb("three million numbers", "invalidTensor: ") { list("1", 3_000_000) },
        Bomb("a shape of three million", "ok") {
            #"{"t":{"dtype":"U8","shape":["# + String(repeating: "1,", count: 3_000_000) + #"0],"data_offsets":[0,0]}}"#
        },
        Bomb("a million escapes", "ok") { #"{"__metadata__":{"t":""# + String(repeating: #"\u0041"#, count: 1_000_000) + #""}}"# },
        Bomb("half a million pairs of escapes", "ok") {
            #"{"__metadata__":{"t":""# + String(repeating: #"\ud83d\ude00"#, count: 500_000) + #""}}"#
        },
        Bomb("huge shapes without elements", "ok") {
            #"{"a":{"dtype":"F64","shape":[4611686018427387904,0],"data_offsets":[0,0]},"#
                + #""b":{"dtype":"F64","shape":[0,9223372036854775807,9223372036854775807],"data_offsets":[0,0]}}"#
        },
        Bomb("a hundred thousand tensors", "ok") {
            "{" + (0..<100_000).map { #""\#($0)":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"# }.joined(separator: ",") + "}"
        },
    ]

    @Test(arguments: bombs) func headersThatPromiseMuchTakeLittleMemory(_ bomb: Bomb) throws {
        let space = try Workspace()
        let text = bomb.header()
        let length = bomb.claim ?? text.utf8.count
        let path = space.path("bomb.safetensors")
        let file = try AtomicFile(path: path, replacing: false)
        try file.write((0..<8).map { UInt8(truncatingIfNeeded: length >> (8 * $0)) } + Array(text.utf8))
        try file.publish(durable: false)
        for (mode, expected) in [("strict", bomb.strict), ("reference", bomb.reference)] {
            let outcome = try Executable.run(["check", "--mode", mode, path], memoryLimit: Self.budget)
            #expect(outcome.output.hasPrefix("\(path): \(expected)"), "\(mode): \(outcome.status), \(outcome.output.prefix(300)) \(outcome.errors)")
        }
    }

    /// A file of constants is thousands of times smaller than what it decodes to; checking it takes the memory of one chunk.
    @Test func constantPlanesTakeTheMemoryOfOneChunk() throws {
        let space = try Workspace()
        let (sparse, path) = (space.path("zeros"), space.path("bomb.opck"))
        let count = Self.budget + Self.budget / 4
        _ = FileManager.default.createFile(atPath: sparse, contents: nil)
        let handle = try #require(FileHandle(forWritingAtPath: sparse))
        try handle.truncate(atOffset: UInt64(count))
        try handle.close()
        let zeros = try MappedFile(path: sparse)
        var writer = try CheckpointWriter(path: path, replacing: false, options: CheckpointWriter.Options(kind: "test"))
        try writer.append(name: "t", dtype: .f32, shape: [count / 4], bytes: zeros.bytes)
        _ = try writer.finish(durable: false)
        #expect(try readAll(path).count < count / 1000)
        for command in [["check", path], ["check", "--deep", path], ["inspect", path]] {
            let outcome = try Executable.run(command, memoryLimit: Self.budget)
            #expect(outcome.status == 0, "\(command): \(outcome.output) \(outcome.errors)")
        }
        // The file decodes to more than there is memory for, and is no run: refused before any of it is read.
        let collapse = try Executable.run(["collapse", path, "--out", space.path("adapter")], memoryLimit: Self.budget)
        #expect(collapse.status == 65, "\(collapse.errors)")
    }
}

private let isOptimized = {
    #if DEBUG
        false
    #else
        true
    #endif
}()
