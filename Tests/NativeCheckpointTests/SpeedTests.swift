import Foundation
import JSON
import Tensors
import Testing

@testable import NativeCheckpoint

/// Speeds and sizes on data like that of training checkpoints; run in release with OPLORA_BENCHMARK=1.
///
/// These figures decided how planes are coded; see `formats/native-checkpoint.md`, appendix "Measured".
@Suite(.enabled(if: ProcessInfo.processInfo.environment["OPLORA_BENCHMARK"] != nil), .serialized)
struct SpeedTests {
    static let elements = 50_000_000

    @Test func normalWeights() throws {
        var generator = SeededGenerator(seed: 1)
        let pool = (0..<1_000_003).map { _ in Float(generator.normal() * 0.02) }
        // Mantissas are drawn afresh, so that the pool's repetition cannot be found.
        let values = (0..<Self.elements).map { index in
            Float(bitPattern: pool[index % pool.count].bitPattern ^ UInt32(truncatingIfNeeded: generator.next() & 0x7FFFF))
        }
        try measure("random-normal F32", values)
    }

    /// First and second moments of Adam after a few steps, a tenth of the rows never touched.
    @Test func adamMoments() throws {
        var generator = SeededGenerator(seed: 2)
        let pool = (0..<1_000_003).map { _ in generator.normal() }
        let values = (0..<Self.elements).map { index -> Float in
            if index / 4096 % 10 == 0 { return 0 }
            let gradient = pool[index % pool.count] * 1e-3
            let value = Float(index < Self.elements / 2 ? gradient * 0.1 : gradient * gradient * 0.001)
            return Float(bitPattern: value.bitPattern ^ UInt32(truncatingIfNeeded: generator.next() & 0x7FFFF))
        }
        try measure("Adam moments F32", values)
    }

    @Test func brainFloatWeights() throws {
        var generator = SeededGenerator(seed: 3)
        let pool = (0..<1_000_003).map { _ in Float(generator.normal() * 0.02) }
        let values = (0..<(Self.elements * 2)).map { index in
            UInt16(truncatingIfNeeded: pool[index % pool.count].bitPattern >> 16) ^ UInt16(generator.next() & 7)
        }
        try measure("random-normal BF16", unsafe values.withUnsafeBytes { unsafe Array($0) }, dtype: .bf16)
    }

    private func measure(_ what: String, _ values: [Float]) throws {
        try measure(what, littleEndian(values), dtype: .f32)
    }

    private func measure(_ what: String, _ bytes: [UInt8], dtype: DType) throws {
        try withTemporaryFolder { folder in
            let path = folder + "/speed.opck"
            for _ in 0..<2 {
                let writing = try Self.cost {
                    var writer = try CheckpointWriter(path: path, replacing: true, kind: "benchmark", metadata: [:])
                    try writer.append(name: "values", dtype: dtype, shape: [bytes.count * 8 / dtype.bitWidth], bytes: bytes.rawBytes)
                    try writer.finish(durable: false)
                }
                let file = try CheckpointFile(path: path)
                var read: [UInt8] = []
                let reading = try Self.cost { read = try file.read("values") }
                let checking = try Self.cost { try file.verifyAll() }
                #expect(read == bytes)
                func speed(_ cost: (wall: Double, processor: Double)) -> String {
                    let size = Double(bytes.count) / 1e9
                    return String(format: "%.2f GB/s (%.2f by processor time)", size / cost.wall, size / cost.processor)
                }
                let size = String(format: "%.2f%%", 100 * Double(file.byteCount) / Double(bytes.count))
                print("\(what): \(size), write \(speed(writing)), read \(speed(reading)), verify \(speed(checking))")
            }
        }
    }

    /// Seconds that `body` takes, on the clock and on the processor; the second is what a machine shared with others
    /// tells about an idle one.
    private static func cost(_ body: () throws -> Void) rethrows -> (wall: Double, processor: Double) {
        let ticks = clock()
        let wall = try ContinuousClock().measure(body)
        return (wall / .seconds(1), Double(clock() - ticks) / Double(CLOCKS_PER_SEC))
    }
}
