import FileIO
import Foundation
internal import JSON
import NativeCheckpoint
import Tensors
import TestSupport

// Speeds and sizes of .opck on data like that of training checkpoints, 200 MB each, one thread:
//
//     swift run -c release CheckpointSpeed
//
// These figures decided how planes are coded; see formats/native-checkpoint.md, appendix "Measured".

let elements = 50_000_000
let path = NSTemporaryDirectory() + "/checkpoint-speed-\(UUID().uuidString).opck"
defer { try? FileSystem.remove(path) }

/// A million normal numbers to draw from; mantissas are drawn afresh, so that the repetition cannot be found.
func normals(seed: UInt64) -> (pool: [Double], generator: SeededGenerator) {
    var generator = SeededGenerator(seed: seed)
    let pool = (0..<1_000_003).map { _ in generator.normal() }
    return (pool, generator)
}

func freshMantissa(_ value: Float, _ generator: inout SeededGenerator) -> Float {
    Float(bitPattern: value.bitPattern ^ UInt32(truncatingIfNeeded: generator.next() & 0x7FFFF))
}

func weights() -> [Float] {
    var (pool, generator) = normals(seed: 1)
    return (0..<elements).map { freshMantissa(Float(pool[$0 % pool.count] * 0.02), &generator) }
}

/// First and second moments of Adam after a few steps, a tenth of the rows never touched.
func moments() -> [Float] {
    var (pool, generator) = normals(seed: 2)
    return (0..<elements).map { index in
        if index / 4096 % 10 == 0 { return 0 }
        let gradient = pool[index % pool.count] * 1e-3
        return freshMantissa(Float(index < elements / 2 ? gradient * 0.1 : gradient * gradient * 0.001), &generator)
    }
}

func brainFloatWeights() -> [UInt16] {
    var (pool, generator) = normals(seed: 3)
    return (0..<2 * elements).map { index in
        UInt16(truncatingIfNeeded: Float(pool[index % pool.count] * 0.02).bitPattern >> 16) ^ UInt16(generator.next() & 7)
    }
}

func measure<Element: BitwiseCopyable>(_ what: String, _ values: [Element], dtype: DType) throws {
    // Sound: any bits are bytes.
    let bytes = unsafe values.withUnsafeBytes { unsafe Array($0) }
    let clock = ContinuousClock()
    func speed(_ duration: Duration) -> String { String(format: "%.2f", Double(bytes.count) / 1e9 / (duration / .seconds(1))) }
    let writing = try clock.measure {
        var writer = try CheckpointWriter(path: path, replacing: true, kind: "benchmark", metadata: [:])
        try writer.append(name: "values", dtype: dtype, shape: [values.count], bytes: unsafe bytes.span.bytes)
        _ = try writer.finish(durable: false)
    }
    let file = try CheckpointFile(path: path)
    var read: [UInt8] = []
    let reading = try clock.measure { read = try file.read("values") }
    let checking = try clock.measure { try file.verifyAll() }
    guard read == bytes else { throw CocoaError(.fileReadCorruptFile) }
    let size = String(format: "%.1f%%", 100 * Double(file.byteCount) / Double(bytes.count))
    print("| \(what) | \(size) | \(speed(writing)) | \(speed(reading)) | \(speed(checking)) |")
}

print("| data | size | write GB/s | read GB/s | verify GB/s |\n|---|---|---|---|---|")
try measure("F32, random normal", weights(), dtype: .f32)
try measure("F32, Adam moments, a tenth of the rows zero", moments(), dtype: .f32)
try measure("BF16, random normal", brainFloatWeights(), dtype: .bf16)
