import Foundation
import Kernels
import Tensors
import TestSupport
import Testing

/// What differs between two runs of elements, beside the definition computed element by element.
struct ElementComparisonTests {
    private static func bytes(_ values: [some FixedWidthInteger]) -> [UInt8] {
        values.flatMap { value in unsafe withUnsafeBytes(of: value.littleEndian) { unsafe Array($0) } }
    }

    private func compare(
        _ a: [UInt8], _ aType: DType, _ b: [UInt8], _ bType: DType, index: Int = 0, tolerance: ElementComparison.Tolerance = .init()
    ) -> ElementComparison {
        // Sound: any bits are bytes.
        unsafe ElementComparison(before: a.span.bytes, aType, after: b.span.bytes, bType, index: index, tolerance: tolerance)
    }

    @Test(arguments: [0, 1, 7, 2047, 2048, 2049, 5000])
    func figuresAreThoseOfTheDefinition(count: Int) {
        var generator = SeededGenerator(seed: UInt64(count + 1))
        let before = generator.values(count, spread: 1)
        let after = before.enumerated().map { index, value in index % 3 == 0 ? value : value + generator.values(1, spread: 0.1)[0] }
        let found = compare(Self.bytes(before.map(\.bitPattern)), .f32, Self.bytes(after.map(\.bitPattern)), .f32, index: 100)
        let changes = zip(before, after).map { Double($1) - Double($0) }
        #expect(found.elements == count && found.differing == zip(before, after).count { $0 != $1 })
        #expect(found.firstDiffering == zip(before, after).enumerated().first { $1.0 != $1.1 }.map { $0.offset + 100 })
        #expect(found.largest == changes.map(\.magnitude).max() ?? 0)
        #expect(found.largestIndex == (found.largest > 0 ? changes.firstIndex { $0.magnitude == found.largest }.map { $0 + 100 } : nil))
        #expect(abs(found.differenceSquared - changes.reduce(0) { $0 + $1 * $1 }) <= 1e-12 * found.differenceSquared)
        #expect(abs(found.beforeSquared - before.reduce(0.0) { $0 + Double($1) * Double($1) }) <= 1e-12 * found.beforeSquared)
        let limited = compare(
            Self.bytes(before.map(\.bitPattern)), .f32, Self.bytes(after.map(\.bitPattern)), .f32, tolerance: .init(relative: 0.05, absolute: 0.01))
        #expect(limited.beyond == zip(before, changes).count { $1.magnitude > 0.01 + 0.05 * Double($0).magnitude })
        #expect(limited.differing == found.differing)
    }

    @Test func partsAddUp() {
        var generator = SeededGenerator(seed: 5)
        let (a, b) = (generator.values(3000, spread: 1), generator.values(3000, spread: 1))
        func part(_ range: Range<Int>) -> ElementComparison {
            compare(
                Self.bytes(a[range].map(\.bitPattern)), .f32, Self.bytes(b[range].map(\.bitPattern)), .f32, index: range.lowerBound)
        }
        var sum = part(0..<1000)
        sum.add(part(1000..<3000))
        let whole = part(0..<3000)
        #expect(sum.differing == whole.differing && sum.largest == whole.largest && sum.largestIndex == whole.largestIndex)
        #expect(sum.largestSteps == whole.largestSteps && abs(sum.relative - whole.relative) < 1e-12)
    }

    /// Bits count where the types are one: signs of zero, payloads, and long integers that no binary64 tells apart.
    @Test func bitsCount() {
        let zeros = compare(Self.bytes([UInt32(0)]), .f32, Self.bytes([UInt32(0x8000_0000)]), .f32)
        #expect(zeros.differing == 1 && zeros.largest == 0 && zeros.beyond == 0 && zeros.largestSteps == 0)
        let long = compare(Self.bytes([Int64(1) << 60]), .i64, Self.bytes([Int64(1) << 60 + 1]), .i64)
        #expect(long.differing == 1)
        let unsigned = compare(Self.bytes([Int64(1) << 53 + 1, -1]), .i64, Self.bytes([UInt64(1) << 53, .max]), .u64)
        #expect(unsigned.differing == 2 && unsigned.beyond == 2)
        #expect(compare(Self.bytes([Int64(1) << 60]), .i64, Self.bytes([UInt64(1) << 60]), .u64).differing == 0)
        let nans = compare(Self.bytes([UInt16(0x7fc0), 0x7f80, 0x3f80]), .bf16, Self.bytes([UInt16(0x7fc1), 0xff80, 0x7fc0]), .bf16)
        #expect(nans.differing == 3 && nans.notFinite == 2 && nans.beyond == 2 && nans.relative == 0)
    }

    @Test func stepsCrossZero() {
        #expect(compare(Self.bytes([UInt16(0x3f80)]), .bf16, Self.bytes([UInt16(0x3f83)]), .bf16).largestSteps == 3)
        #expect(compare(Self.bytes([UInt16(0x0002)]), .f16, Self.bytes([UInt16(0x8003)]), .f16).largestSteps == 5)
        #expect(compare(Self.bytes([UInt32(0x7f7f_ffff)]), .f32, Self.bytes([UInt32(0xff7f_ffff)]), .f32).largestSteps == 2 * 0x7f7f_ffff)
    }

    @Test func typesMayDiffer() {
        let same = compare(Self.bytes([UInt16(0x3f80), 0x7fc0]), .bf16, Self.bytes([Float(1).bitPattern, Float.nan.bitPattern]), .f32)
        #expect(same.differing == 0 && same.largestSteps == 0)
        let other = compare([1, 2, 255], .u8, Self.bytes([Int32(1), 3, 255]), .i32)
        #expect(other.differing == 1 && other.largest == 1 && other.firstDiffering == 1)
    }
}

/// Logits beside the definition of the divergence.
struct LogitComparisonTests {
    @Test func figuresAreThoseOfTheDefinition() throws {
        let compute = Compute(pool: try #require(ThreadPool(threads: 2)))
        var generator = SeededGenerator(seed: 9)
        let (rows, vocabulary) = (5, 301)
        let (p, q) = (generator.values(rows * vocabulary, spread: 4), generator.values(rows * vocabulary, spread: 4))
        let views = FloatArena(counts: [p.count, q.count]).views
        views[0].copy(from: p)
        views[1].copy(from: q)
        // The first row is the same.
        for column in 0..<vocabulary { views[1][column] = p[column] }
        let found = compute.compareLogits(views[0], views[1], rows: rows)
        #expect(found[0] == LogitDifference(largest: 0, divergence: 0, agrees: true, isFinite: true))
        for row in 1..<rows {
            let (a, b) = (
                p[row * vocabulary..<(row + 1) * vocabulary].map(Double.init), q[row * vocabulary..<(row + 1) * vocabulary].map(Double.init)
            )
            func normalised(_ logits: [Double]) -> [Double] {
                let sum = logits.reduce(0) { $0 + exp($1) }
                return logits.map { $0 - log(sum) }
            }
            let divergence = zip(normalised(a), normalised(b)).reduce(0) { $0 + exp($1.0) * ($1.0 - $1.1) }
            #expect(abs(found[row].divergence - divergence) < 1e-12)
            #expect(abs(found[row].largest - zip(a, b).map { abs($0 - $1) }.max()!) < 1e-6)
            #expect(found[row].agrees == (a.firstIndex(of: a.max()!) == b.firstIndex(of: b.max()!)))
        }
        views[1][3 * vocabulary + 7] = .nan
        let broken = compute.compareLogits(views[0], views[1], rows: rows)
        #expect(!broken[3].isFinite && !broken[3].agrees && broken[2] == found[2])
    }
}
