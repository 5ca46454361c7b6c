import FileIO
import Foundation
internal import JSON
import NativeCheckpoint
import Tensors
import TestSupport

// Speeds and sizes of .opck on data like that of training checkpoints, 200 MB each, one thread, best of three; the speed of
// copying the same bytes stands beside them, because machines differ and other programs run:
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
    var copy = [UInt8](repeating: 0, count: bytes.count)
    var (writing, reading, checking, copying) = (Double.infinity, Double.infinity, Double.infinity, Double.infinity)
    var size = ""
    for _ in 0..<3 {
        writing = try min(
            writing,
            clock.measure {
                var writer = try CheckpointWriter(path: path, replacing: true, kind: "benchmark", metadata: [:])
                try writer.append(name: "values", dtype: dtype, shape: [values.count], bytes: unsafe bytes.span.bytes)
                _ = try writer.finish(durable: false)
            } / .seconds(1))
        let file = try CheckpointFile(path: path)
        // Into memory that has been written to before, so that taking it from the system is not measured.
        reading = try min(
            reading,
            clock.measure {
                var span = copy.mutableSpan
                // Sound: any bytes make valid bytes.
                var raw = unsafe span.mutableBytes
                try file.read("values", into: &raw)
            } / .seconds(1))
        guard copy == bytes else { throw CocoaError(.fileReadCorruptFile) }
        checking = try min(checking, clock.measure { try file.verifyAll() } / .seconds(1))
        // Sound: both have as many bytes.
        let duration = clock.measure {
            unsafe copy.withUnsafeMutableBytes { target in unsafe bytes.withUnsafeBytes { unsafe target.copyMemory(from: $0) } }
        }
        copying = min(copying, duration / .seconds(1))
        size = String(format: "%.1f%%", 100 * Double(file.byteCount) / Double(bytes.count))
    }
    let gigabytes = Double(bytes.count) / 1e9
    let speeds = [writing, reading, checking, copying].map { String(format: "%.2f", gigabytes / $0) }
    print("| \(what) | \(size) | \(speeds.joined(separator: " | ")) |")
}

print("| data | size | write GB/s | read GB/s | verify GB/s | copy GB/s |\n|---|---|---|---|---|---|")
try measure("F32, random normal", weights(), dtype: .f32)
try measure("F32, Adam moments, a tenth of the rows zero", moments(), dtype: .f32)
try measure("BF16, random normal", brainFloatWeights(), dtype: .bf16)
