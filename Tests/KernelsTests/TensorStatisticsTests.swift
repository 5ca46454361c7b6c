import CKernels
import FileIO
import Foundation
import Kernels
import Tensors
import TestSupport
import Testing

/// The statistics beside their definition, computed number by number.
struct TensorStatisticsTests {
    static let measured: [DType] = [.bf16, .f16, .f32, .f64, .i8, .u8, .bool, .i16, .u16, .i32, .u32, .i64, .u64]
    static let sizes = [0, 1, 2, 15, 16, 17, 63, 1023, 1024, 1025, 2049, 5000]

    /// What an element is worth, by the definition of its type.
    private enum Element {
        case nan, infinite
        case number(value: Double, exact: TensorStatistics.Number, exponent: Int?)
    }

    private static func element(_ bits: UInt64, _ dtype: DType) -> Element {
        if dtype.isFloat {
            let value: Double =
                switch dtype {
                case .bf16: Double(Float(bitPattern: UInt32(bits) << 16))
                case .f16: Double(Reference.f32(f16: UInt16(bits)))
                case .f32: Double(Float(bitPattern: UInt32(bits)))
                default: Double(bitPattern: bits)
                }
            if value.isNaN { return .nan }
            if value.isInfinite { return .infinite }
            return .number(value: value, exact: .real(value == 0 ? 0 : value), exponent: value == 0 ? nil : Int(value.exponent))
        }
        if dtype == .u64 { return .number(value: Double(bits), exact: .unsigned(bits), exponent: bits == 0 ? nil : 63 - bits.leadingZeroBitCount) }
        let unused = 64 - dtype.bitWidth
        let isSigned = [.i8, .i16, .i32, .i64].contains(dtype)
        let value = isSigned ? Int64(bitPattern: bits << unused) >> unused : Int64(bits)
        return .number(value: Double(value), exact: .integer(value), exponent: value == 0 ? nil : 63 - value.magnitude.leadingZeroBitCount)
    }

    private static func bin(_ exponent: Int, _ dtype: DType) -> Int {
        // Rounded down, also below zero.
        dtype.isFloat ? min(15, max(0, (exponent + 26) >> 1)) : exponent / max(1, dtype.bitWidth / 16)
    }

    private static func less(_ a: TensorStatistics.Number, _ b: TensorStatistics.Number) -> Bool {
        switch (a, b) {
        case (.integer(let a), .integer(let b)): a < b
        case (.unsigned(let a), .unsigned(let b)): a < b
        case (.real(let a), .real(let b)): a < b
        default: false
        }
    }

    private static func bytes(_ elements: [UInt64], _ dtype: DType) -> [UInt8] {
        elements.flatMap { bits in (0..<dtype.bitWidth / 8).map { UInt8(truncatingIfNeeded: bits >> (8 * UInt64($0))) } }
    }

    private func expect(_ actual: TensorStatistics, of elements: [UInt64], _ dtype: DType, _ what: String) {
        var values: [Double] = []
        var (zeros, nan, infinite) = (0, 0, 0)
        var histogram = [Int](repeating: 0, count: 16)
        var minimum: TensorStatistics.Number?, maximum: TensorStatistics.Number?
        for bits in elements {
            switch Self.element(bits, dtype) {
            case .nan: nan += 1
            case .infinite: infinite += 1
            case .number(let value, let exact, let exponent):
                values.append(value)
                if let exponent { histogram[Self.bin(exponent, dtype)] += 1 } else { zeros += 1 }
                minimum = minimum.map { Self.less(exact, $0) ? exact : $0 } ?? exact
                maximum = maximum.map { Self.less($0, exact) ? exact : $0 } ?? exact
            }
        }
        #expect(actual.zeros == zeros && actual.nan == nan && actual.infinite == infinite, "\(what): \(actual)")
        #expect(actual.histogram == histogram, "\(what)")
        #expect(actual.minimum == minimum && actual.maximum == maximum, "\(what): \(actual), not \(String(describing: (minimum, maximum)))")
        guard !values.isEmpty else {
            #expect(actual.mean == nil && actual.standardDeviation == nil, "\(what)")
            return
        }
        // Scaled by the largest, so that squares neither overflow nor vanish.
        let largest = values.map(\.magnitude).max() ?? 0
        guard largest > 0 else {
            #expect(actual.mean == 0 && actual.standardDeviation == 0, "\(what)")
            return
        }
        // Squares of F64 numbers below this vanish.
        guard largest > 0x1p-450 else { return #expect(dtype == .f64, "\(what)") }
        let scaled = values.map { $0 / largest }
        let mean = Self.sum(scaled) / Double(values.count)
        let deviation = (Self.sum(scaled.map { ($0 - mean) * ($0 - mean) }) / Double(values.count)).squareRoot()
        // A block of 1024 takes 64 + 4 additions in a row of distances of at most twice the largest number, and blocks are
        // added one after another: the mean is off by at most (2 · 70 + 4 · blocks) roundoffs of the largest number. The
        // squares of a block are a difference of numbers at most 1025 times as large, so that they lose that much.
        let roundoff = 0x1p-53, blocks = Double(values.count / 1024 + 1)
        let meanBound = (140 + 4 * blocks) * roundoff
        #expect(((actual.mean ?? .nan) / largest - mean).magnitude <= meanBound, "\(what): \(actual.mean ?? .nan), not \(mean * largest)")
        let bound = (1025 * 70 + 4 * blocks) * roundoff * deviation + 2 * meanBound
        #expect(
            ((actual.standardDeviation ?? .nan) / largest - deviation).magnitude <= bound,
            "\(what): \(actual.standardDeviation ?? .nan), not \(deviation * largest)")
    }

    /// A sum whose own error does not grow with the number of terms (Neumaier 1974).
    private static func sum(_ terms: [Double]) -> Double {
        var total = 0.0, lost = 0.0
        for term in terms {
            let next = total + term
            lost += total.magnitude >= term.magnitude ? (total - next) + term : (term - next) + total
            total = next
        }
        return total + lost
    }

    /// Bit patterns of a type: ordinary numbers, or for `any` every pattern, NaN of all payloads among them.
    private static func elements(_ count: Int, _ dtype: DType, any: Bool, using generator: inout SeededGenerator) -> [UInt64] {
        let mask = dtype.bitWidth == 64 ? UInt64.max : (1 << UInt64(dtype.bitWidth)) - 1
        return (0..<count).map { _ in
            let random = UInt64.random(in: 0 ... .max, using: &generator)
            if any, dtype == .f64 {
                // Exponents whose squares binary64 has, or none but that of NaN and infinity.
                let exponent = Bool.random(using: &generator) ? 0x7FF : 0x380 + random >> 52 & 0xFF
                return random & 0x800F_FFFF_FFFF_FFFF | exponent << 52
            }
            if any { return random & mask }
            guard dtype.isFloat else { return random % 100 & mask }
            let value = generator.normal() * 0.05 + 0.01
            return switch dtype {
            case .f64: value.bitPattern
            case .f32: UInt64(Float(value).bitPattern)
            case .bf16: UInt64(Float(value).bitPattern >> 16)
            default: UInt64(MergeReference.bits(of: value, in: .f16))
            }
        }
    }

    @Test(arguments: measured, [1, 2] as [UInt64]) func agreesWithTheDefinition(dtype: DType, seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        for count in Self.sizes {
            for any in [false, true] {
                let elements = Self.elements(count, dtype, any: any, using: &generator)
                let actual = try #require(TensorStatistics.measure(Self.bytes(elements, dtype), dtype: dtype))
                expect(actual, of: elements, dtype, "\(count) of \(dtype), any: \(any)")
            }
        }
    }

    /// Both zeros, subnormal numbers, the ends of the range, infinities, quiet and signalling NaN of several payloads; and for
    /// integers the ends of the range.
    @Test(arguments: measured) func specialNumbersAreCountedAndNotAveraged(dtype: DType) throws {
        let sign = UInt64(1) << UInt64(dtype.bitWidth - 1)
        let infinity: UInt64 =
            switch dtype {
            case .bf16: 0x7F80
            case .f16: 0x7C00
            case .f32: 0x7F80_0000
            default: 0x7FF0_0000_0000_0000
            }
        var special: [UInt64] = [0, 1, 2, sign - 1, sign, sign + 1, sign | (sign - 1)]
        if dtype.isFloat { special += [infinity - 1, infinity, infinity + 1, sign | infinity, sign | infinity + 1, sign | infinity - 1] }
        // Squares of the largest binary64 numbers are beyond it.
        if dtype == .f64 { special.removeAll { $0 & ~sign == infinity - 1 } }
        for element in special {
            let actual = try #require(TensorStatistics.measure(Self.bytes([element], dtype), dtype: dtype))
            expect(actual, of: [element], dtype, "\(String(element, radix: 16)) in \(dtype)")
        }
        let all = special + [UInt64](repeating: 0, count: 40) + special
        let actual = try #require(TensorStatistics.measure(Self.bytes(all, dtype), dtype: dtype))
        expect(actual, of: all, dtype, "all in \(dtype)")
    }

    /// Every power of two falls on the lower edge of its bin.
    @Test func binsBeginAtPowersOfTwo() throws {
        for exponent in -60...20 {
            let (edge, below) = (exp2(Double(exponent)), exp2(Double(exponent)).nextDown)
            for value in [edge, -edge, below] {
                let elements = [value.bitPattern]
                let actual = try #require(TensorStatistics.measure(Self.bytes(elements, .f64), dtype: .f64))
                let place = Int(floor(log2(value.magnitude))) - (value == below && log2(below) == Double(exponent) ? 1 : 0)
                let expected = place < -24 ? 0 : place >= 4 ? 15 : (place + 26) / 2
                #expect(actual.histogram[expected] == 1, "\(value)")
            }
        }
    }

    /// A spread that a sum of squares would lose: small steps far from zero.
    @Test func theSpreadFarFromZeroIsKept() throws {
        let values = (0..<3000).map { 1e9 + Double($0 % 2) }
        let actual = try #require(TensorStatistics.measure(Self.bytes(values.map(\.bitPattern), .f64), dtype: .f64))
        #expect(((actual.standardDeviation ?? .nan) - 0.5).magnitude < 1e-9 && actual.mean == 1e9 + 0.5)
        let constant = [UInt64](repeating: 0.1.bitPattern, count: 3000)
        let flat = try #require(TensorStatistics.measure(Self.bytes(constant, .f64), dtype: .f64))
        #expect(flat.standardDeviation == 0 && flat.mean == 0.1)
    }

    @Test(arguments: [DType.bf16, .f64, .i8]) func threadsDoNotMatter(dtype: DType) throws {
        var generator = SeededGenerator(seed: 7)
        // Several pieces, the last of them odd.
        let words = (0..<100_000).map { _ in UInt64.random(in: 0 ... .max, using: &generator) & 0x3FFF_BFFF_3FFF_3FFF }
        let bytes = Array((0..<8).map { _ in Self.bytes(words, .f64) }.joined().dropLast(8))
        let folder = try TemporaryFolder()
        try write(bytes, folder.path("numbers"))
        let file = try MappedFile(path: folder.path("numbers"))
        let info = TensorInfo(name: "a", dtype: dtype, shape: [bytes.count * 8 / dtype.bitWidth], byteRange: 0..<bytes.count)
        let inMemory = try #require(TensorStatistics.measure(bytes, dtype: dtype))
        for threads in [1, 2, 3, 5] {
            let pool = try #require(ThreadPool(threads: threads))
            #expect(TensorStatistics.measure([(file, info), nil, (file, info)], pool: pool) == [inMemory, nil, inMemory])
        }
    }

    @Test func otherTypesAreNotMeasured() throws {
        for dtype in DType.allCases where !Self.measured.contains(dtype) {
            #expect(!TensorStatistics.measures(dtype))
            #expect(TensorStatistics.measure([UInt8](repeating: 0, count: 24), dtype: dtype) == nil)
        }
        for dtype in Self.measured { #expect(TensorStatistics.measures(dtype)) }
    }

    /// Every variant gives the bits of the portable one, wherever the elements lie and whatever lies around them.
    @Test(arguments: 0..<12 as Range<UInt32>) func variantsAgree(raw: UInt32) {
        let element = oplora_element(rawValue: raw)
        var generator = SeededGenerator(seed: UInt64(raw))
        for count in Self.sizes {
            // As many bytes as the widest type takes; every second run has fewer patterns that are not finite.
            for quiet in [false, true] {
                let core = generator.bytes(8 * count).map { quiet ? $0 & 0x3F : $0 }
                var outcomes: [[UInt8]] = []
                var scratch = [UInt32](repeating: 0, count: Int(oplora_statistics_scratch))
                for (shift, edge) in [(0, UInt8(0)), (1, 0xFF), (3, 0x7F), (8, 0x11)] {
                    let padded = [UInt8](repeating: edge, count: shift) + core + [UInt8](repeating: edge, count: 64)
                    for index in 0..<8 {
                        guard let kernels = unsafe oplora_statistics_kernels_variant(Int32(index))?.pointee else { continue }
                        var result = oplora_statistics()
                        unsafe padded.withUnsafeBytes { unsafe kernels.measure(&result, $0.baseAddress! + shift, element, count, &scratch) }
                        outcomes.append(unsafe withUnsafeBytes(of: &result) { unsafe Array($0) })
                    }
                }
                #expect(outcomes.count >= 4 && outcomes.allSatisfy { $0 == outcomes[0] }, "\(count) of type \(raw)")
                #expect(scratch.allSatisfy { $0 == 0 }, "what is left in the scratch memory would be counted again")
            }
        }
    }
}
