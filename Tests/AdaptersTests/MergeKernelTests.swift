import Kernels
import Tensors
import TestModels
import TestSupport
import Testing

/// The kernels against the plain reference, bit for bit.
struct MergeKernelTests {
    static let types: [DType] = [.f32, .bf16, .f16, .f64]
    static let paths = MergePath.allCases.filter(\.isSupported)

    @Test func roundingOfTheReferenceAgreesWithTheLanguage() {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<20_000 {
            let exponent = Int.random(in: -160...130, using: &generator)
            let value = Double(
                sign: .random(using: &generator) ? .plus : .minus, exponent: exponent, significand: .random(in: 1..<2, using: &generator))
            #expect(MergeReference.bits(of: value, in: .f32) == UInt64(Float(value).bitPattern), "seed \(seed), value \(value)")
            #if arch(arm64) || os(Linux)
                #expect(MergeReference.bits(of: value, in: .f16) == UInt64(Float16(value).bitPattern), "seed \(seed), value \(value)")
            #endif
        }
    }

    @Test(arguments: types)
    func everyStoredValueAndMidpointRoundsAsDefined(dtype: DType) {
        guard dtype.bitWidth == 16 else { return }
        let infinity: UInt64 = dtype == .bf16 ? 0x7f80 : 0x7c00
        for bits in 0..<infinity {
            let value = MergeReference.value(of: bits, in: dtype)
            #expect(MergeReference.bits(of: value, in: dtype) == bits)
            #expect(MergeReference.bits(of: -value, in: dtype) == bits | 0x8000)
            let next =
                bits + 1 == infinity ? 2 * value - MergeReference.value(of: bits - 1, in: dtype) : MergeReference.value(of: bits + 1, in: dtype)
            let middle = value + (next - value) / 2
            #expect(MergeReference.bits(of: middle, in: dtype) == (bits & 1 == 0 ? bits : bits + 1))
            #expect(MergeReference.bits(of: middle.nextDown, in: dtype) == bits)
            #expect(MergeReference.bits(of: middle.nextUp, in: dtype) == bits + 1)
        }
    }

    /// Numbers at which a rounding can go wrong: around every midpoint, at the ends of the range, and below them.
    static func adversarial(_ dtype: DType, generator: inout SeededGenerator) -> [Double] {
        var values: [Double] = [
            0, -0.0, .leastNonzeroMagnitude, 0x1p-134, 0x1p-133, 0x1.8p-134, 0x1p-126, 0x1p-150, 0x1p-25, 0x1.8p-25, 0x1p-24, 0x1p-14,
        ]
        let field = dtype == .f16 ? 0x7c00 : 0x7f80
        for _ in 0..<300 {
            let bits = UInt64.random(in: 0..<UInt64(field - 1), using: &generator)
            let kind: DType = dtype == .f16 ? .f16 : .bf16
            let low = MergeReference.value(of: bits, in: kind)
            let middle = low + (MergeReference.value(of: bits + 1, in: kind) - low) / 2
            values += [
                low, middle, middle.nextUp, middle.nextDown, -middle, low.nextUp, -low.nextDown, Double(Float(middle).nextUp),
                Double(Float(middle).nextDown),
            ]
        }
        return values
    }

    @Test(arguments: types, paths)
    func conversionAgrees(dtype: DType, path: MergePath) {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        let values = Self.adversarial(dtype, generator: &generator)
        let source = values.flatMap { encode($0, .f64) }
        var target = [UInt8](repeating: 0xaa, count: values.count * dtype.bitWidth / 8)
        var span = target.mutableSpan
        var raw = unsafe span.mutableBytes
        let sums = MergeKernel.mergeRows(
            weights: unsafe source.span.bytes, weightType: .f64, into: &raw, mergedType: dtype, rows: 0..<1, columns: values.count, factors: [],
            path: path)
        var isFinite = true
        for (index, value) in values.enumerated() {
            let expected = MergeReference.bits(of: value, in: dtype)
            isFinite = isFinite && MergeReference.value(of: expected, in: dtype).isFinite
            #expect(bits(target, dtype, index) == expected, "seed \(seed), \(value) in \(dtype)")
        }
        #expect(sums.isNotFinite == !isFinite)
    }

    struct Shape: Sendable, CustomStringConvertible {
        let rows: Int, columns: Int, ranks: [Int]
        var description: String { "\(rows)×\(columns), ranks \(ranks)" }
    }

    static let shapes = [
        Shape(rows: 1, columns: 1, ranks: [1]), Shape(rows: 7, columns: 33, ranks: [3]), Shape(rows: 13, columns: 64, ranks: [16]),
        Shape(rows: 50, columns: 47, ranks: [8, 5]), Shape(rows: 97, columns: 200, ranks: [33]), Shape(rows: 6, columns: 16, ranks: [4, 1, 7]),
    ]

    @Test(arguments: shapes, types)
    func mergeAgrees(shape: Shape, dtype: DType) throws {
        for factorType in Self.types {
            let seed = UInt64.random(in: 0 ... .max)
            var generator = SeededGenerator(seed: seed)
            let adversarial = Self.adversarial(dtype, generator: &generator).filter { $0.magnitude < 1 }
            let weights = (0..<shape.rows * shape.columns).map { _ in
                Bool.random(using: &generator) ? Double(Float.random(in: -1...1, using: &generator)) : adversarial.randomElement(using: &generator)!
            }
            let stored = weights.flatMap { encode($0, dtype) }
            var kernelFactors: [MergeFactors] = []
            var referenceFactors: [MergeReference.Factors] = []
            for rank in shape.ranks {
                // Small whole numbers make exact halves, the others everything else.
                let isWhole = Bool.random(using: &generator)
                func factor(_ count: Int) -> [Double] {
                    (0..<count).map { _ in
                        let value = isWhole ? Double(Int.random(in: -4...4, using: &generator)) : Double.random(in: -0.3...0.3, using: &generator)
                        return MergeReference.value(of: MergeReference.bits(of: value, in: factorType), in: factorType)
                    }
                }
                let a = factor(rank * shape.columns), b = factor(shape.rows * rank)
                let scale = isWhole ? 0x1p-9 : Double.random(in: -2...2, using: &generator)
                let bytesA = a.flatMap { encode($0, factorType) }, bytesB = b.flatMap { encode($0, factorType) }
                kernelFactors.append(
                    try MergeFactors(
                        loraA: unsafe bytesA.span.bytes, typeA: factorType, loraB: unsafe bytesB.span.bytes, typeB: factorType,
                        outputs: shape.rows, inputs: shape.columns, rank: rank, scale: scale))
                referenceFactors.append(.init(loraA: a, loraB: b, rank: rank, scale: scale))
            }
            var results: [MergeSums] = []
            for path in Self.paths {
                var merged = [UInt8](repeating: 0, count: stored.count)
                var span = merged.mutableSpan
                var raw = unsafe span.mutableBytes
                results.append(
                    MergeKernel.mergeRows(
                        weights: unsafe stored.span.bytes, weightType: dtype, into: &raw, mergedType: dtype, rows: 0..<shape.rows,
                        columns: shape.columns, factors: kernelFactors, path: path))
                var differing = 0
                for row in 0..<shape.rows {
                    for column in 0..<shape.columns {
                        let index = row * shape.columns + column
                        let y = MergeReference.element(
                            weight: MergeReference.value(of: bits(stored, dtype, index), in: dtype), row: row, column: column,
                            columns: shape.columns, factors: referenceFactors)
                        if bits(merged, dtype, index) != MergeReference.bits(of: y, in: dtype) { differing += 1 }
                    }
                }
                #expect(differing == 0, "seed \(seed), \(path), factors \(factorType)")
            }
            #expect(results.allSatisfy { $0 == results[0] }, "seed \(seed): the sums of the paths differ: \(results)")
            // Any cut into blocks gives the same rows.
            var whole = [UInt8](repeating: 0, count: stored.count)
            var inParts = whole
            let rowBytes = shape.columns * dtype.bitWidth / 8
            func merge(_ rows: Range<Int>, _ target: inout [UInt8]) {
                var part = [UInt8](repeating: 0, count: rows.count * rowBytes)
                var span = part.mutableSpan
                var raw = unsafe span.mutableBytes
                _ = MergeKernel.mergeRows(
                    weights: unsafe stored.span.bytes.extracting(rows.lowerBound * rowBytes..<rows.upperBound * rowBytes), weightType: dtype,
                    into: &raw, mergedType: dtype, rows: rows, columns: shape.columns, factors: kernelFactors)
                target.replaceSubrange(rows.lowerBound * rowBytes..<rows.upperBound * rowBytes, with: part)
            }
            merge(0..<shape.rows, &whole)
            for row in 0..<shape.rows { merge(row..<row + 1, &inParts) }
            #expect(whole == inParts, "seed \(seed)")
        }
    }

    /// One adapter in BF16 is decided by estimates in binary32: here with numbers of every magnitude, sums that cancel, and ranks on
    /// both sides of the largest that is estimated.
    @Test(arguments: 0..<24)
    func estimatesInBF16AreTheDefinition(round: Int) throws {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        let rank = round == 0 ? 256 : round == 1 ? 257 : Int.random(in: 1...40, using: &generator)
        let rows = Int.random(in: 1...30, using: &generator), columns = Int.random(in: 1...300, using: &generator)
        let spread = round < 8 ? 0 : Int.random(in: 0...40, using: &generator)
        func number(around exponent: Int) -> Double {
            let scattered = exponent + Int.random(in: -spread...spread, using: &generator)
            // Within what F16 can hold.
            return max(-60000, min(60000, generator.normal() * Double(sign: .plus, exponent: scattered, significand: 1)))
        }
        func stored(_ value: Double, _ dtype: DType) -> Double { MergeReference.value(of: MergeReference.bits(of: value, in: dtype), in: dtype) }
        let factorType = Self.types[round % 3]
        let exponentOfFactors = spread == 0 ? -5 : Int.random(in: -30...10, using: &generator)
        let loraA = (0..<rank * columns).map { _ in stored(number(around: exponentOfFactors), factorType) }
        let loraB = (0..<rows * rank).map { _ in stored(number(around: exponentOfFactors), factorType) }
        let scale = Double(sign: .minus, exponent: Int.random(in: -34...2, using: &generator), significand: 1.7)
        let reference = MergeReference.Factors(loraA: loraA, loraB: loraB, rank: rank, scale: round < 8 ? 2 : scale)
        var weights = (0..<rows * columns).map { index in
            let update = MergeReference.element(
                weight: 0, row: index / columns, column: index % columns, columns: columns, factors: [reference])
            // Another weight, one that the update cancels nearly.
            switch Int.random(in: 0..<4, using: &generator) {
            case 0: return -stored(update, .bf16)
            case 1: return stored(update * 256, .bf16)
            case 2: return Double(sign: .plus, exponent: Int.random(in: -140...20, using: &generator), significand: 1)
            default: return stored(generator.normal() * 0.02, .bf16)
            }
        }
        weights[0] = -0.0
        let base = weights.flatMap { encode($0, .bf16) }
        let bytesA = loraA.flatMap { encode($0, factorType) }, bytesB = loraB.flatMap { encode($0, factorType) }
        let factors = try MergeFactors(
            loraA: unsafe bytesA.span.bytes, typeA: factorType, loraB: unsafe bytesB.span.bytes, typeB: factorType, outputs: rows,
            inputs: columns, rank: rank, scale: reference.scale)
        var results: [MergeSums] = []
        for path in Self.paths {
            var merged = [UInt8](repeating: 0, count: base.count)
            var span = merged.mutableSpan
            var raw = unsafe span.mutableBytes
            results.append(
                MergeKernel.mergeRows(
                    weights: unsafe base.span.bytes, weightType: .bf16, into: &raw, mergedType: .bf16, rows: 0..<rows, columns: columns,
                    factors: [factors], path: path))
            var differing = 0
            var updateSquared = 0.0
            for index in weights.indices {
                let row = index / columns, column = index % columns
                let weight = MergeReference.value(of: bits(base, .bf16, index), in: .bf16)
                let y = MergeReference.element(weight: weight, row: row, column: column, columns: columns, factors: [reference])
                let d = MergeReference.element(weight: 0, row: row, column: column, columns: columns, factors: [reference])
                updateSquared += d * d
                if bits(merged, .bf16, index) != MergeReference.bits(of: y, in: .bf16) { differing += 1 }
            }
            #expect(differing == 0, "seed \(seed), \(path), rank \(rank), factors \(factorType), spread \(spread)")
            #expect(abs(results.last!.updateSquared - updateSquared) <= 1e-4 * updateSquared, "seed \(seed), \(path)")
        }
        #expect(results.allSatisfy { $0 == results[0] }, "seed \(seed): the sums of the paths differ: \(results)")
    }

    @Test(arguments: paths)
    func overflowIsReported(path: MergePath) throws {
        for (dtype, largest) in [(DType.bf16, 0x1.fep127), (.f16, 65504.0), (.f32, Double(Float.greatestFiniteMagnitude))] {
            let weights = (0..<40).flatMap { encode($0 == 37 ? largest : 1, dtype) }
            let one = encode(1, .f32), a = (0..<40).flatMap { _ in encode(1, .f32) }
            let factors = try MergeFactors(
                loraA: unsafe a.span.bytes, typeA: .f32, loraB: unsafe one.span.bytes, typeB: .f32, outputs: 1, inputs: 40, rank: 1,
                scale: largest / 64)
            var merged = [UInt8](repeating: 0, count: weights.count)
            var span = merged.mutableSpan
            var raw = unsafe span.mutableBytes
            let sums = MergeKernel.mergeRows(
                weights: unsafe weights.span.bytes, weightType: dtype, into: &raw, mergedType: dtype, rows: 0..<1, columns: 40,
                factors: [factors], path: path)
            #expect(sums.isNotFinite)
            #expect(!MergeReference.value(of: bits(merged, dtype, 37), in: dtype).isFinite)
            #expect(MergeReference.value(of: bits(merged, dtype, 36), in: dtype).isFinite)
        }
    }

    @Test func factorsThatAreNotFiniteAreNamed() {
        let good = [Float](repeating: 1, count: 6)
        for (bad, isInB) in [(Float.nan, true), (.infinity, false)] {
            var spoiled = good
            spoiled[4] = bad
            #expect(throws: MergeFactors.NotFinite(isInB: isInB, index: 4)) {
                try MergeFactors(
                    loraA: unsafe (isInB ? good : spoiled).span.bytes, typeA: .f32, loraB: unsafe (isInB ? spoiled : good).span.bytes,
                    typeB: .f32, outputs: 3, inputs: 3, rank: 2, scale: 1)
            }
        }
    }
}

/// The kernels for magnitudes against the plain reference, bit for bit.
struct MagnitudeKernelTests {
    @Test(arguments: MergeKernelTests.types, [(1, 1), (5, 8), (9, 37), (40, 16)])
    func rowsAndColumnsAreTheReference(dtype: DType, size: (rows: Int, columns: Int)) {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        let (rows, columns) = size
        let u = (0..<rows * columns).map { _ in generator.normal() }
        let weights = u.flatMap { encode($0 * 0.9, dtype) }
        let width = dtype.bitWidth / 8
        var merged = [UInt8](repeating: 0, count: rows * columns * width)

        let ofRows = (0..<rows).map { _ in generator.normal() }
        var span = merged.mutableSpan
        var target = unsafe span.mutableBytes
        let sums = MagnitudeKernel.scaleRows(
            u, to: ofRows.span, weights: unsafe weights.span.bytes, weightType: dtype, into: &target, mergedType: dtype, columns: columns)
        let byRows = (0..<rows).flatMap { MergeReference.scaled(Array(u[$0 * columns..<($0 + 1) * columns]), to: ofRows[$0]) }
        #expect((0..<u.count).map { bits(merged, dtype, $0) } == byRows.map { MergeReference.bits(of: $0, in: dtype) }, "seed \(seed)")
        var squared = 0.0
        for (index, y) in byRows.enumerated() {
            let d = y - MergeReference.value(of: bits(weights, dtype, index), in: dtype)
            squared += d * d
        }
        #expect(abs(sums.updateSquared - squared) <= 1e-12 * squared && !sums.isNotFinite)

        let ofColumns = (0..<columns).map { _ in generator.normal() }
        var lanes = [Double](repeating: 0, count: 8 * columns)
        let half = rows / 2
        MagnitudeKernel.addSquares(of: Array(u[..<(half * columns)]), rows: 0..<half, columns: columns, to: &lanes)
        MagnitudeKernel.addSquares(of: Array(u[(half * columns)...]), rows: half..<rows, columns: columns, to: &lanes)
        let ratios = MagnitudeKernel.columnRatios(lanes: lanes, magnitudes: ofColumns)
        var second = merged.mutableSpan
        target = unsafe second.mutableBytes
        _ = MagnitudeKernel.scaleColumns(
            u, by: ratios.span, weights: unsafe weights.span.bytes, weightType: dtype, into: &target, mergedType: dtype, rows: rows)
        let byColumns = (0..<columns).map { column in MergeReference.scaled((0..<rows).map { u[$0 * columns + column] }, to: ofColumns[column]) }
        #expect(
            (0..<u.count).map { bits(merged, dtype, $0) }
                == (0..<u.count).map { MergeReference.bits(of: byColumns[$0 % columns][$0 / columns], in: dtype) }, "seed \(seed)")
        // A row without a norm has no direction that could be scaled.
        var third = merged.mutableSpan
        target = unsafe third.mutableBytes
        let zeros = [Double](repeating: 0, count: columns)
        #expect(
            MagnitudeKernel.scaleRows(
                zeros, to: [1.0].span, weights: unsafe weights.span.bytes.extracting(0..<columns * width), weightType: dtype, into: &target,
                mergedType: dtype, columns: columns
            ).isNotFinite)
    }
}
