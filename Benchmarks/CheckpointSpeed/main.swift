import FileIO
import Foundation
import Kernels
import NativeCheckpoint
import OrderedCollections
import Safetensors
import Tensors

// Sizes and speeds of .opck in memory, for the tensors of safetensors files:
//
//     swift run -c release CheckpointSpeed FILE…
//
// Each line is a JSON object: file, threads, bytes, stored, and the seconds that coding, decoding and copying the same bytes
// took, best of five. Checksums are made and checked. Benchmarks/pack.py runs it beside other programs.

/// Memory that a file is written to.
final class MemorySink: ByteSink {
    let path = "memory"
    private(set) var bytes: [UInt8] = []
    var position: Int { bytes.count }

    /// Memory that has been written to before, so that taking it from the system is not measured.
    func clear() { bytes.removeAll(keepingCapacity: true) }

    func write(_ new: RawSpan) { unsafe new.withUnsafeBytes { unsafe bytes.append(contentsOf: $0) } }
    func publish(durable: Bool) {}
}

/// Bytes of a mapped file that stay in memory, as other programs' input does.
struct LastingBytes: ByteSource {
    private let mapped: MappedBytes

    init(_ file: MappedFile, _ range: Range<Int>) { mapped = MappedBytes(file, range) }

    var byteCount: Int { mapped.byteCount }
    func withBytes(in range: Range<Int>, _ body: (RawSpan) throws -> Void) throws { try mapped.withBytes(in: range, body) }
}

let runs = 5

func best(_ body: () throws -> Void) rethrows -> Double {
    let clock = ContinuousClock()
    return try (0..<runs).map { _ in try clock.measure(body) / .seconds(1) }.min() ?? 0
}

func measure(_ path: String, threads: Int) throws {
    let file = try SafetensorsFile(path: path)
    let tensors = file.tensors.values.map { info in
        TensorContent(name: info.name, dtype: info.dtype, shape: info.shape, bytes: LastingBytes(file.file, info.byteRange))
    }
    let start = tensors.isEmpty ? 0 : file.tensors.values[0].byteRange.lowerBound
    let count = file.file.count - start
    var copy = [UInt8](repeating: 1, count: count)
    let source = Array(try FileSystem.contents(of: path, limit: .max)[start...])
    let copying = best {
        unsafe copy.withUnsafeMutableBytes { target in unsafe source.withUnsafeBytes { unsafe target.copyMemory(from: $0) } }
    }

    let sink = MemorySink()
    let options = CheckpointWriter.Options(kind: "benchmark", hashesTensors: false, threads: threads)
    let coding = try best {
        sink.clear()
        var writer = try CheckpointWriter(to: sink, options: options)
        try writer.append(tensors)
        try writer.finish()
    }

    let packed = NSTemporaryDirectory() + "/checkpoint-speed-\(UUID().uuidString).opck"
    defer { try? FileSystem.remove(packed) }
    let output = try AtomicFile(path: packed, replacing: false)
    try output.write(sink.bytes)
    try output.publish(durable: false)
    let checkpoint = try CheckpointFile(path: packed)
    let all = Array(checkpoint.tensors.values)
    let decoding = try best {
        var span = copy.mutableSpan
        // Sound: any bytes make valid bytes.
        var raw = unsafe span.mutableBytes
        try checkpoint.read(all, into: &raw, threads: threads)
    }
    guard copy == source else { throw CocoaError(.fileReadCorruptFile) }
    print(
        """
        {"file": "\(path)", "threads": \(threads), "bytes": \(count), "stored": \(sink.bytes.count), \
        "coding": \(coding), "decoding": \(decoding), "copying": \(copying)}
        """)
}

for path in CommandLine.arguments.dropFirst() {
    for threads in Set([1, ThreadPool.processorCount]).sorted() { try measure(path, threads: threads) }
}
