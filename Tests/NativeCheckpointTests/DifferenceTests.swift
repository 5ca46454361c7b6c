import FileIO
import JSON
import OrderedCollections
import Synchronization
import Tensors
import TestSupport
import Testing

@testable import NativeCheckpoint

/// Tensors in memory as a base.
private struct Base: BaseTensors {
    let path = "the base"
    var tensors: [String: Sample]

    func source(name: String, dtype: DType, shape: [Int]) -> (any ByteSource)? {
        guard let sample = tensors[name], sample.dtype == dtype, sample.shape == shape else { return nil }
        return MemoryBytes(sample.bytes)
    }
}

/// Bytes that can be looked at a number of times.
private final class FailingBytes: ByteSource {
    private let bytes: MemoryBytes
    private let left: Mutex<Int>

    init(_ bytes: [UInt8], calls: Int) {
        self.bytes = MemoryBytes(bytes)
        left = Mutex(calls)
    }

    var byteCount: Int { bytes.byteCount }

    func withBytes(in range: Range<Int>, _ body: (RawSpan) throws -> Void) throws {
        let isLeft = left.withLock { left in
            left -= 1
            return left >= 0
        }
        guard isLeft else { throw CheckpointError(.baseMissing, "it is gone") }
        try bytes.withBytes(in: range, body)
    }
}

@Suite struct DifferenceTests {
    /// A base that goes away between the coding of the differences and its hash leaves chunks that nothing counts: such a
    /// writer can only be given up.
    @Test func aBaseThatGoesAwayLeavesNoFile() throws {
        try withTemporaryFolder { folder in
            var generator = SeededGenerator(seed: 4)
            let bytes = generator.bytes(100)
            var writer = try CheckpointWriter(path: folder + "/file.opck", replacing: false, options: CheckpointWriter.Options(kind: "test"))
            let content = TensorContent(
                name: "a", dtype: .u8, shape: [100], bytes: MemoryBytes(bytes), base: ("a", FailingBytes(bytes, calls: 1)))
            var refusals = 0
            do { try writer.append([content]) } catch { refusals += 1 }
            do { try writer.append(name: "b", dtype: .u8, shape: [100], bytes: bytes.rawBytes) } catch { refusals += 1 }
            do { try writer.finish(durable: false) } catch { refusals += 1 }
            #expect(refusals == 3)
            #expect(try FileSystem.names(in: folder).isEmpty)
        }
    }

    /// Numbers of every width, and what they were a little earlier.
    private static func samples(_ seed: UInt64) -> (now: [Sample], before: [Sample]) {
        var generator = SeededGenerator(seed: seed)
        var (now, before): ([Sample], [Sample]) = ([], [])
        for dtype in [DType.bf16, .f16, .f32, .f64, .i32, .u8, .i64] {
            let width = dtype.bitWidth / 8
            let old = generator.bytes(3000 * width)
            var new = old
            for index in 0..<3000 where generator.next() % 4 != 0 { new[index * width] &+= UInt8(truncatingIfNeeded: generator.next() % 3) }
            before.append(Sample(name: "\(dtype)", dtype: dtype, shape: [3000], bytes: old))
            now.append(Sample(name: "\(dtype)", dtype: dtype, shape: [3000], bytes: new))
        }
        // Nothing like the base: such chunks are stored as they are.
        before.append(Sample(name: "other", dtype: .f32, shape: [500], bytes: generator.bytes(2000)))
        now.append(Sample(name: "other", dtype: .f32, shape: [500], bytes: littleEndian([Float](repeating: 1, count: 500))))
        now.append(Sample(name: "new", dtype: .u8, shape: [10], bytes: generator.bytes(10)))
        return (now, before)
    }

    private static func write(_ samples: [Sample], against base: Base, to path: String, chunkSize: Int, threads: Int = 1) throws {
        var writer = try CheckpointWriter(
            to: AtomicFile(path: path, replacing: true),
            options: CheckpointWriter.Options(kind: "test", hashesTensors: threads == 2, threads: threads),
            chunkSize: chunkSize)
        try writer.append(
            samples.map { sample in
                TensorContent(
                    name: sample.name, dtype: sample.dtype, shape: sample.shape, bytes: MemoryBytes(sample.bytes),
                    base: base.source(name: sample.name, dtype: sample.dtype, shape: sample.shape).map { (sample.name, $0) })
            })
        try writer.finish(durable: false)
    }

    @Test(arguments: [64, 1024, 1 << 19]) func differencesComeBackWithTheirBase(chunkSize: Int) throws {
        let (now, before) = Self.samples(1)
        let base = Base(tensors: Dictionary(uniqueKeysWithValues: before.map { ($0.name, $0) }))
        try withTemporaryFolder { folder in
            let path = folder + "/differences.opck"
            try Self.write(now, against: base, to: path, chunkSize: chunkSize)
            let file = try CheckpointFile(path: path)
            #expect(file.tensors["F32"]?.base?.name == "F32" && file.tensors["new"]?.base == nil && file.tensors["other"]?.base == nil)
            try file.verifyAll()
            for threads in [1, 3] {
                try file.verifyAll(threads: threads, base: base)
                nonisolated(unsafe) var decoded: [String: [UInt8]] = [:]
                try file.copy(Array(file.tensors.values), base: base, threads: threads) { tensor, bytes in
                    unsafe decoded[tensor.name, default: []] += bytes.array()
                }
                for sample in now { #expect(unsafe decoded[sample.name] == sample.bytes, "\(sample.name)") }
            }
            // Any part of a tensor alone.
            let tensor = try #require(file.tensors["F32"])
            let source = try file.source(of: tensor, base: base)
            for range in [0..<0, 0..<1, 5..<130, 63..<65, 0..<12_000, 11_999..<12_000] {
                try source.withBytes(in: range) { bytes in
                    let found = bytes.array()
                    #expect(found == Array(now.first { $0.name == "F32" }!.bytes[range]))
                }
            }
        }
    }

    @Test func theSameBytesWithAnyThreads() throws {
        let (now, before) = Self.samples(2)
        let base = Base(tensors: Dictionary(uniqueKeysWithValues: before.map { ($0.name, $0) }))
        try withTemporaryFolder { folder in
            var files: [[UInt8]] = []
            for threads in [1, 3, 8] {
                try Self.write(now, against: base, to: folder + "/file.opck", chunkSize: 256, threads: threads)
                files.append(try readAll(folder + "/file.opck"))
            }
            #expect(files[0] == files[1] && files[0] == files[2])
        }
    }

    @Test func theWrongBaseIsRefused() throws {
        let (now, before) = Self.samples(3)
        let base = Base(tensors: Dictionary(uniqueKeysWithValues: before.map { ($0.name, $0) }))
        try withTemporaryFolder { folder in
            let path = folder + "/differences.opck"
            try Self.write(now, against: base, to: path, chunkSize: 1024, threads: 2)
            let file = try CheckpointFile(path: path)
            func code(_ base: Base?) -> CheckpointError.Code? {
                do {
                    try file.copy(Array(file.tensors.values), base: base) { _, _ in }
                    return nil
                } catch {
                    return (error as? CheckpointError)?.code
                }
            }
            #expect(code(base) == nil)
            #expect(code(nil) == .baseNeeded)
            #expect(#expect(throws: CheckpointError.self) { try file.read("F32") }?.code == .baseNeeded)
            #expect(throws: CheckpointError.self) { try file.checkBases(nil) }
            var changed = base
            changed.tensors["F32"]?.bytes[17] ^= 1
            #expect(code(changed) == .baseHash)
            changed = base
            changed.tensors["F32"] = nil
            #expect(code(changed) == .baseMissing)
            changed.tensors["F32"] = base.tensors["F64"]
            #expect(code(changed) == .baseMissing)
            // What is not a difference can be read without.
            #expect(try file.read("new") == now.last?.bytes)
        }
    }
}
