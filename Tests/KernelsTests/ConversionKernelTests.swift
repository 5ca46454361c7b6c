import CKernels
import Foundation
import Kernels
import Tensors
import TestSupport
import Testing

/// Kernels that must give the same bits as their definition.
struct ConversionKernelTests {
    static let sizes = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 257]

    private static func bytes(_ values: [UInt16]) -> [UInt8] { values.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] } }

    private static func bytes(_ values: [UInt32]) -> [UInt8] {
        values.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
    }

    /// Zeros of both signs, subnormal numbers, infinities and every NaN are among them.
    @Test(arguments: TrainingKernels.available)
    func everyStoredNumberOf16BitsIsWidened(kernels: TrainingKernels) {
        let all = (0...UInt16.max).map { $0 }
        let source = Self.bytes(all)
        expectBits(
            kernels.widen(source, oplora_element_bf16, rows: 1, columns: all.count, stride: all.count),
            all.map { Float(bitPattern: UInt32($0) << 16) }, "BF16")
        expectBits(
            kernels.widen(source, oplora_element_f16, rows: 1, columns: all.count, stride: all.count), all.map(Reference.f32(f16:)), "F16")
    }

    @Test(arguments: TrainingKernels.available, seeds)
    func rowsApartAreWidened(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for columns in Self.sizes {
            let (rows, stride) = (3, columns + 5)
            let wide = (0..<rows * stride).map { _ in UInt32.random(in: 0 ... .max, using: &generator) }
            let narrow = wide.map { UInt16($0 >> 16) }
            func selected<T>(_ values: [T]) -> [T] { (0..<rows * columns).map { values[$0 / columns * stride + $0 % columns] } }
            func widened(_ source: [UInt8], _ element: oplora_element) -> [Float] {
                kernels.widen(source, element, rows: rows, columns: columns, stride: stride)
            }
            expectBits(widened(Self.bytes(wide), oplora_element_f32), selected(wide).map(Float.init(bitPattern:)), "F32, \(columns)")
            expectBits(
                widened(Self.bytes(narrow), oplora_element_bf16), selected(narrow).map { Float(bitPattern: UInt32($0) << 16) },
                "BF16, \(columns)")
            expectBits(widened(Self.bytes(narrow), oplora_element_f16), selected(narrow).map(Reference.f32(f16:)), "F16, \(columns)")
        }
    }

    @Test(arguments: TrainingKernels.available, seeds)
    func narrowingRoundsToNearestEven(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        // Around every kind of boundary: exact numbers, midpoints and their neighbours, the ends of the range.
        var values: [Float] = [0, -0.0, .infinity, -.infinity, .greatestFiniteMagnitude, .leastNonzeroMagnitude, .leastNormalMagnitude]
        for _ in 0..<500 {
            let bits = UInt32.random(in: 0..<0x7F80, using: &generator) << 16 | (Bool.random(using: &generator) ? 0x8000_0000 : 0)
            values += [bits, bits | 0x7FFF, bits | 0x8000, bits | 0x8001, bits | 0xFFFF].map(Float.init(bitPattern:))
        }
        let expected = values.map { UInt16(MergeReference.bits(of: Double($0), in: .bf16)) }
        #expect(kernels.narrowToBF16(values) == expected)
        for size in Self.sizes { #expect(kernels.narrowToBF16(Array(values[..<size])) == Array(expected[..<size])) }
        // A NaN whose payload lies in the lower half alone must not become infinity.
        for bits: UInt32 in [0x7F80_0001, 0xFF80_FFFF, 0x7FC0_0000, 0x7FFF_FFFF] {
            let narrow = kernels.narrowToBF16([Float(bitPattern: bits)])[0]
            #expect(Float(bitPattern: UInt32(narrow) << 16).isNaN && UInt32(narrow) >> 15 == bits >> 31)
        }
    }

    /// The blocks that are searched are 4096 elements long. What lies past the end is not finite and must not be seen.
    @Test(arguments: TrainingKernels.available, [DType.f32, .bf16, .f16])
    func firstNonFiniteIsFound(kernels: TrainingKernels, dtype: DType) {
        let element =
            switch dtype {
            case .bf16: oplora_element_bf16
            case .f16: oplora_element_f16
            default: oplora_element_f32
            }
        let width = dtype.bitWidth / 8
        let (finite, notFinite): ([UInt32], [UInt32]) =
            switch dtype {
            // The largest number, the smallest, and patterns whose exponent lacks one bit.
            case .f32: ([0x7F7F_FFFF, 0x8000_0001, 0x7F00_0000, 0xBF80_0000], [0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0xFFC0_0000])
            case .bf16: ([0x7F7F, 0x8001, 0x7F00, 0xBF80], [0x7F80, 0xFF80, 0x7F81, 0xFFC0])
            default: ([0x7BFF, 0x8001, 0x7800, 0xBC00], [0x7C00, 0xFC00, 0x7C01, 0xFE00])
            }
        func bytes(_ bits: UInt32) -> [UInt8] { Array(Self.bytes([bits])[..<width]) }
        for count in [0, 1, 2, 15, 16, 17, 31, 33, 4095, 4096, 4097, 8209] {
            var values = (0..<count).flatMap { bytes(finite[$0 % finite.count]) } + (0..<40).flatMap { _ in bytes(notFinite[0]) }
            #expect(kernels.firstNonFinite(values, element, count: count) == -1)
            for (turn, index) in [0, 1, 15, 16, 30, 32, 4094, 4095, 4096, 8208].filter({ $0 < count }).reversed().enumerated() {
                // From the end on, so that the earlier one is the first.
                values.replaceSubrange(index * width..<(index + 1) * width, with: bytes(notFinite[turn % notFinite.count]))
                #expect(kernels.firstNonFinite(values, element, count: count) == index)
            }
        }
    }

    @Test(arguments: TrainingKernels.available, seeds)
    func dropoutThinsByIndexAlone(kernels: TrainingKernels, seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        for size in Self.sizes {
            let x = generator.values(size, spread: 2), first = UInt64.random(in: 0...1 << 40, using: &generator)
            for rate: Float in [0, 0.1, 0.5, 0.999] {
                let expected = x.indices.map {
                    Reference.isDropped(first + UInt64($0), seed: seed, rate: rate) ? 0 : x[$0] * (1 / (1 - rate))
                }
                let y = kernels.dropout(x, seed: seed, firstIndex: first, rate: rate)
                expectBits(y, expected, "\(size), rate \(rate)")
                let cut = size / 3
                let parts =
                    kernels.dropout(Array(x[..<cut]), seed: seed, firstIndex: first, rate: rate)
                    + kernels.dropout(Array(x[cut...]), seed: seed, firstIndex: first + UInt64(cut), rate: rate)
                expectBits(parts, y, "in two parts")
            }
        }
        // The number that fall is binomial: six standard deviations.
        let count = 10_000, rate = 0.3
        let dropped = kernels.dropout(.init(repeating: 1, count: count), seed: seed, firstIndex: 0, rate: Float(rate)).count { $0 == 0 }
        #expect((Double(dropped) - rate * Double(count)).magnitude < 6 * (Double(count) * rate * (1 - rate)).squareRoot())
    }
}
