import FileIO
import Foundation
import JSON
import OrderedCollections
import Tensors
import TestSupport
import Testing

@testable import NativeCheckpoint

@Suite struct RoundTripTests {
    /// Every type at lengths around the borders of chunks (64 bytes here), with random bytes: NaN payloads, infinities
    /// and subnormals among them.
    @Test(arguments: DType.allCases) func everyTypeComesBack(_ dtype: DType) throws {
        var generator = SeededGenerator(seed: UInt64(dtype.bitWidth) &* 31 &+ UInt64(dtype.rawValue.utf8.count))
        // Sub-byte types fill whole bytes only in multiples of four elements.
        let unit = dtype.bitWidth < 8 ? 4 : 1
        var samples: [Sample] = []
        for elements in [0, 1, 2, 3, 7, 8, 15, 16, 17, 63, 64, 65, 127, 129, 1000] {
            let count = elements * unit
            let bytes = count * dtype.bitWidth / 8
            samples.append(Sample(name: "random.\(elements)", dtype: dtype, shape: [count], bytes: generator.bytes(bytes)))
            samples.append(Sample(name: "zero.\(elements)", dtype: dtype, shape: [count], bytes: [UInt8](repeating: 0, count: bytes)))
            let ramp = (0..<bytes).map { UInt8(truncatingIfNeeded: $0 / 3) }
            samples.append(Sample(name: "ramp.\(elements)", dtype: dtype, shape: [1, count], bytes: ramp))
        }
        try roundTrip(samples, chunkSize: 64)
        try roundTrip(samples, chunkSize: 1024)
    }

    private func roundTrip(_ samples: [Sample], chunkSize: Int) throws {
        try withTemporaryFolder { folder in
            let file = try encoded(samples, chunkSize: chunkSize)
            let tensors = try decoded(file, in: folder)
            #expect(tensors.count == samples.count)
            for sample in samples { #expect(tensors[sample.name] == sample.bytes, "\(sample.name), chunks of \(chunkSize)") }
        }
    }

    @Test func scalarsAndSpecialNumbersComeBack() throws {
        let patterns: [UInt32] = [
            0, 0x8000_0000, 0x3F80_0000, 0xBF80_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0001, 0xFFA5_A5A5, 0x7F80_0001, 1, 0x807F_FFFF,
            0xFFFF_FFFF,
        ]
        var samples = patterns.map { pattern in
            Sample(name: "x\(String(pattern, radix: 16))", dtype: .f32, shape: [], bytes: littleEndian([Float(bitPattern: pattern)]))
        }
        samples.append(Sample(name: "", dtype: .f32, shape: [0, 3], bytes: []))
        samples.append(Sample(name: "ä/√ \"quoted\"\n", dtype: .u8, shape: [1, 1, 1], bytes: [255]))
        samples.append(Sample(name: "flag", dtype: .bool, shape: [], bytes: [1]))
        try roundTrip(samples, chunkSize: 64)
    }

    /// More than one chunk of the usual size, in data that takes every plane method.
    @Test func severalChunksOfTheUsualSizeComeBack() throws {
        var generator = SeededGenerator(seed: 7)
        let weights = (0..<300_001).map { _ in Float(generator.normal()) }
        let moments = (0..<300_001).map { $0 < 150_000 ? 0 : Float(generator.normal() * 1e-6) }
        let positions = (0..<200_000).flatMap { index in (0..<8).map { UInt8(truncatingIfNeeded: index >> ($0 * 8)) } }
        let samples = [
            Sample(name: "weights", dtype: .f32, shape: [300_001], bytes: littleEndian(weights)),
            Sample(name: "moments", dtype: .f32, shape: [300_001], bytes: littleEndian(moments)),
            Sample(name: "positions", dtype: .i64, shape: [200_000], bytes: positions),
            Sample(name: "zeros", dtype: .f64, shape: [400, 1000], bytes: [UInt8](repeating: 0, count: 3_200_000)),
        ]
        try withTemporaryFolder { folder in
            let path = folder + "/usual.opck"
            try write(samples, to: path)
            let file = try CheckpointFile(path: path)
            try file.verifyAll()
            for sample in samples {
                #expect(try file.read(sample.name) == sample.bytes)
            }
            let stored = file.tensors.mapValues { Double($0.storedByteCount) / Double($0.byteCount) }
            #expect(try #require(stored["weights"]) < 0.88)
            #expect(try #require(stored["moments"]) < 0.5, "\(stored)")
            #expect(try #require(stored["positions"]) < 0.05)
            #expect(try #require(stored["zeros"]) < 0.001)
        }
    }

    @Test func sameInputSameBytes() throws {
        var generator = SeededGenerator(seed: 11)
        let values = (0..<100_000).map { _ in Float(generator.normal()) }
        let samples = [
            Sample(name: "a", dtype: .f32, shape: [100_000], bytes: littleEndian(values)),
            Sample(name: "b", dtype: .u8, shape: [5000], bytes: generator.bytes(5000)),
        ]
        let metadata: JSONValue = ["step": 3, "lr": 1e-4, "z": ["b": 1, "a": 2]]
        #expect(try encoded(samples, metadata: metadata) == encoded(samples, metadata: metadata))
    }

    /// What was encoded before must not show in what follows, although buffers and zlib's states are used again.
    @Test func earlierTensorsLeaveNoTrace() throws {
        var generator = SeededGenerator(seed: 12)
        let skewed = (0..<4000).map { _ in UInt8(truncatingIfNeeded: Int(generator.normal() * 2)) }
        func chunk(after earlier: [[UInt8]]) -> [UInt8] {
            let encoder = ChunkEncoder()
            for bytes in earlier {
                _ = encoder.encode(bytes.rawBytes, layout: PlaneLayout(.f32), tensorIndex: 0, index: 0, descriptor: [])
            }
            _ = encoder.encode(skewed.rawBytes, layout: PlaneLayout(.i16), tensorIndex: 1, index: 0, descriptor: [1])
            var chunk: [UInt8] = []
            encoder.forEachPart { chunk.append(bytes: $0) }
            return chunk
        }
        #expect(chunk(after: []) == chunk(after: [generator.bytes(8000), [UInt8](repeating: 3, count: 400), skewed]))
    }

    @Test func metadataAndTableComeBack() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/run.opck"
            let metadata: JSONValue = [
                "step": 12, "loss": [2.5, 2.25, 1e-300], "z": .null, "a": ["nested": true, "text": "Zürich \u{1F600}\u{7}"],
                "": "empty key",
            ]
            try write(
                [
                    Sample(name: "b", dtype: .f16, shape: [2, 3], bytes: [UInt8](0..<12)),
                    Sample(name: "a", dtype: .i64, shape: [], bytes: [UInt8](0..<8)),
                ], to: path, kind: "training", metadata: metadata)
            let file = try CheckpointFile(path: path)
            #expect(file.kind == "training")
            #expect(JSONValue.object(file.metadata) == metadata)
            #expect(Array(file.metadata.keys) == ["step", "loss", "z", "a", ""])
            #expect(Array(file.tensors.keys) == ["b", "a"])
            let tensor = try #require(file.tensors["b"])
            #expect(tensor.dtype == .f16 && tensor.shape == [2, 3] && tensor.byteCount == 12 && tensor.elementCount == 6)
            #expect(try file.byteCount == readAll(path).count)
            try file.requireRewritable()
        }
    }

    @Test func tensorsAreReadIntoTheCallersMemory() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/file.opck"
            try write([Sample(name: "x", dtype: .f32, shape: [3], bytes: littleEndian([1, -2, 3]))], to: path)
            let file = try CheckpointFile(path: path)
            var values = [Float](repeating: 9, count: 3)
            do {
                var span = values.mutableSpan
                var raw = unsafe span.mutableBytes
                try file.read("x", into: &raw)
            }
            #expect(values == [1, -2, 3])

            var short = [Float](repeating: 9, count: 2)
            let error = #expect(throws: CheckpointError.self) {
                var span = short.mutableSpan
                var raw = unsafe span.mutableBytes
                try file.read("x", into: &raw)
            }
            #expect(error?.code == .bytesMismatch)
            #expect(#expect(throws: CheckpointError.self) { try file.read("y") }?.code == .tensorUnknown)
        }
    }
}

@Suite struct WriterTests {
    private func check(_ code: CheckpointError.Code?, _ expected: CheckpointError.Code?, location: SourceLocation = #_sourceLocation) {
        #expect(code == expected, sourceLocation: location)
    }

    /// The code of the error that writing a tensor of `count` bytes gives; `nil` when it gives none.
    private func refusal(
        of writer: inout CheckpointWriter, _ name: String, _ dtype: DType, _ shape: [Int], _ count: Int
    ) -> CheckpointError.Code? {
        do {
            try writer.append(name: name, dtype: dtype, shape: shape, bytes: [UInt8](repeating: 1, count: count).rawBytes)
            return nil
        } catch {
            return (error as? CheckpointError)?.code
        }
    }

    @Test func whatNoFileCanHoldIsRefused() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/file.opck"
            func code(kind: String = "test", metadata: JSONValue = [:]) -> CheckpointError.Code? {
                do {
                    _ = try CheckpointWriter(path: path, replacing: true, options: CheckpointWriter.Options(kind: kind, metadata: metadata))
                    return nil
                } catch {
                    return error.code
                }
            }
            #expect(code() == nil)
            #expect(code(kind: "") == .kindInvalid)
            #expect(code(kind: "Training") == .kindInvalid)
            #expect(code(kind: String(repeating: "a", count: 65)) == .kindInvalid)
            #expect(code(metadata: [1]) == .metadataInvalid)
            #expect(code(metadata: ["x": .real(.nan)]) == .metadataInvalid)
            #expect(code(metadata: ["x": .real(.infinity)]) == .metadataInvalid)
            #expect(code(metadata: ["x\0y": 1]) == .metadataInvalid)
            var deep: JSONValue = 1
            for _ in 0..<62 { deep = .array([deep]) }
            #expect(code(metadata: ["x": deep]) == nil)
            #expect(code(metadata: ["x": .array([deep])]) == .metadataInvalid)

            // The deepest metadata that is taken can be read again.
            try write([], to: path, metadata: ["x": deep])
            #expect(try CheckpointFile(path: path).metadata["x"] == deep)

            var writer = try CheckpointWriter(path: path, replacing: true, options: CheckpointWriter.Options(kind: "test"))
            check(refusal(of: &writer, "caf\u{E9}", .u8, [3], 3), nil)
            check(refusal(of: &writer, "caf\u{E9}", .u8, [3], 3), .nameDuplicate)
            check(refusal(of: &writer, "cafe\u{301}", .u8, [3], 3), .nameDuplicate)
            check(refusal(of: &writer, "a\0b", .u8, [3], 3), .nameInvalid)
            check(refusal(of: &writer, String(repeating: "n", count: 65_536), .u8, [3], 3), .nameInvalid)
            check(refusal(of: &writer, "a", .u8, [4], 3), .bytesMismatch)
            check(refusal(of: &writer, "a", .f32, [1], 3), .bytesMismatch)
            check(refusal(of: &writer, "a", .u8, [-3], 3), .shapeInvalid)
            check(refusal(of: &writer, "a", .u8, [Int.max, 2], 3), .shapeInvalid)
            check(refusal(of: &writer, "a", .f4, [3], 1), .shapeInvalid)
            check(refusal(of: &writer, "a", .u8, [Int](repeating: 1, count: 33), 1), .limitRank)
            check(refusal(of: &writer, "a", .u8, [Int](repeating: 1, count: 32), 1), nil)
            try writer.finish(durable: false)
            // Refused tensors leave nothing behind.
            let file = try CheckpointFile(path: path)
            #expect(Array(file.tensors.keys) == ["caf\u{E9}", "a"])
            try file.verifyAll()
        }
    }

    @Test func theOldFileStaysUntilTheNewOneIsWhole() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/file.opck"
            try write([Sample(name: "x", dtype: .u8, shape: [1], bytes: [7])], to: path)
            let before = try readAll(path)

            // Not to be replaced; dropped unfinished; both leave the old file, and nothing else.
            #expect(
                #expect(throws: CheckpointError.self) {
                    _ = try CheckpointWriter(path: path, replacing: false, options: CheckpointWriter.Options(kind: "test"))
                }?.fileError == .exists(path: path))
            do {
                var writer = try CheckpointWriter(path: path, replacing: true, options: CheckpointWriter.Options(kind: "test"))
                try writer.append(name: "y", dtype: .u8, shape: [1], bytes: ([8] as [UInt8]).rawBytes)
            }
            #expect(try readAll(path) == before)
            #expect(try FileSystem.names(in: folder) == ["file.opck"])

            var writer = try CheckpointWriter(path: path, replacing: true, options: CheckpointWriter.Options(kind: "test"))
            try writer.append(name: "y", dtype: .u8, shape: [1], bytes: ([8] as [UInt8]).rawBytes)
            let size = try writer.finish(durable: true)
            #expect(try readAll(path).count == size)
            #expect(try CheckpointFile(path: path).read("y") == [8])
        }
    }

    @Test func aMissingFileIsNamed() {
        let error = #expect(throws: CheckpointError.self) { try CheckpointFile(path: "/nonexistent/file.opck") }
        #expect(error?.code == .inputOutput)
        #expect(error?.fileError == .missing(path: "/nonexistent/file.opck"))
    }
}
