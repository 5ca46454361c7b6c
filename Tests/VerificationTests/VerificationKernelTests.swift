import Kernels
import Tensors
import TestModels
import TestSupport
import Testing

/// The verifier's kernel against its plain reference.
struct VerificationKernelTests {
    struct Shape: Sendable, CustomStringConvertible {
        let rows: Int, columns: Int, rank: Int
        var description: String { "\(rows)×\(columns), rank \(rank)" }
    }

    static let shapes = [
        Shape(rows: 1, columns: 1, rank: 1), Shape(rows: 7, columns: 33, rank: 3), Shape(rows: 13, columns: 128, rank: 16),
        Shape(rows: 55, columns: 300, rank: 8), Shape(rows: 6, columns: 40, rank: 130),
    ]
    static let paths = MergePath.allCases.filter(\.isSupported)

    /// What may lie in a merged file: the right element, what a recipe gives, and what nobody should write.
    private func stored(_ y: Double, _ w: Double, _ d: Double, _ dtype: DType, _ kind: Int, _ generator: inout SeededGenerator) -> Double {
        func round(_ value: Double, _ dtype: DType) -> Double { MergeReference.value(of: MergeReference.bits(of: value, in: dtype), in: dtype) }
        let right = round(y, dtype)
        switch kind {
        case 0: return right
        case 1: return round(Double(Float(w + round(Double(Float(d)), .bf16))), dtype)
        case 2: return round(Double(Float(w + round(Double(Float(d)), .f16))), dtype)
        case 3: return round(right * (1 + Double.random(in: -0.02...0.02, using: &generator)), dtype)
        case 4: return round(w, dtype)
        default: return [0, -0.0, -right, right * 2, 0x1p-130][Int.random(in: 0..<5, using: &generator)]
        }
    }

    @Test(arguments: shapes, [DType.f32, .bf16, .f16])
    func tallyIsTheReference(shape: Shape, dtype: DType) {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        let (rows, columns, rank) = (shape.rows, shape.columns, shape.rank)
        func numbers(_ count: Int, _ spread: Double) -> [Double] { (0..<count).map { _ in Double(Float(generator.normal() * spread)) } }
        let left = numbers(rows * rank, 0.05), right = numbers(rank * columns, 0.05), scale = 1.7
        let update = VerificationUpdate(
            firstRow: 0, left: left, right: right, rank: rank, scale: scale, columns: columns, productsAreExact: true)
        let reference = MergeReference.Factors(loraA: right, loraB: left, rank: rank, scale: scale)
        var base: [UInt8] = [], merged: [UInt8] = []
        var elements: [VerificationReference] = []
        // One row in three is right throughout, as whole parts of a real file are.
        for index in 0..<rows * columns {
            let (row, column) = (index / columns, index % columns)
            let w = MergeReference.value(of: MergeReference.bits(of: generator.normal() * 0.02, in: dtype), in: dtype)
            let d = MergeReference.element(weight: 0, row: row, column: column, columns: columns, factors: [reference])
            let y = MergeReference.element(weight: w, row: row, column: column, columns: columns, factors: [reference])
            let kind = row % 3 == 0 ? 0 : Int.random(in: 0...5, using: &generator)
            let bits = MergeReference.bits(of: stored(y, w, d, dtype, kind, &generator), in: dtype)
            base += encode(w, dtype)
            merged += encode(MergeReference.value(of: bits, in: dtype), dtype)
            let normB = (0..<rank).reduce(0.0) { $0 + left[row * rank + $1] * left[row * rank + $1] }.squareRoot()
            let normA = (0..<rank).reduce(0.0) { $0 + right[$1 * columns + column] * right[$1 * columns + column] }.squareRoot()
            elements.append(
                VerificationReference(
                    weight: w, merged: MergeReference.value(of: bits, in: dtype), update: d, result: y, dtype: dtype,
                    error: Double(rank + 4) * 0x1p-24 * 1.01 * scale * normB * normA, scale: scale))
        }
        let wrong = elements.filter { !$0.isCorrectlyRounded }
        for path in Self.paths {
            var tally = VerificationTally()
            var workspace = VerificationKernel.Workspace()
            VerificationKernel.measure(
                base: unsafe base.span.bytes, baseType: dtype, merged: unsafe merged.span.bytes, mergedType: dtype, rows: 0..<rows,
                columns: columns, updates: [update], recipes: Set(MergeRecipe.allCases), isThorough: true, workspace: &workspace, tally: &tally,
                path: path)
            #expect(tally.differing == wrong.count, "seed \(seed), \(path)")
            #expect(tally.firstDiffering == elements.firstIndex { !$0.isCorrectlyRounded }, "seed \(seed), \(path)")
            #expect(tally.beyond == elements.count(where: \.isBeyond), "seed \(seed), \(path)")
            #expect(tally.largestSteps == elements.map(\.steps).max(), "seed \(seed), \(path)")
            for recipe in MergeRecipe.allCases {
                let unexplained = tally.unexplained(by: recipe)
                #expect(unexplained.count == elements.count { !$0.isExplained(by: recipe) }, "seed \(seed), \(path), \(recipe)")
            }
            // Looking only where something is wrong finds the same, but for the elements that a recipe would have made otherwise.
            var quick = VerificationTally()
            VerificationKernel.measure(
                base: unsafe base.span.bytes, baseType: dtype, merged: unsafe merged.span.bytes, mergedType: dtype, rows: 0..<rows,
                columns: columns, updates: [update], workspace: &workspace, tally: &quick, path: path)
            #expect(quick.differing == tally.differing && quick.histogram == tally.histogram && quick.beyond == tally.beyond, "seed \(seed)")
            #expect(abs(quick.changeSquared - tally.changeSquared) <= 2e-6 * tally.changeSquared, "seed \(seed)")
            var histogram = [Int](repeating: 0, count: tally.histogram.count)
            for element in elements {
                let slot = element.steps <= 2 ? element.steps : 65 - (element.steps - 1).leadingZeroBitCount
                histogram[min(slot, histogram.count - 1)] += 1
            }
            #expect(tally.histogram == histogram, "seed \(seed), \(path)")
            func close(_ value: Double, _ terms: [Double]) -> Bool { abs(value - terms.reduce(0, +)) <= 1e-9 * terms.reduce(0) { $0 + $1.magnitude } }
            #expect(close(tally.updateSquared, elements.map { $0.update * $0.update }), "seed \(seed), \(path)")
            #expect(close(tally.updateTimesChange, elements.map { $0.update * ($0.merged - $0.weight) }), "seed \(seed), \(path)")
            #expect(close(tally.updateTimesExpected, elements.map { $0.update * ($0.nearest - $0.weight) }), "seed \(seed), \(path)")
            #expect(
                close(
                    tally.residualSquared,
                    elements.map {
                        let rest = $0.merged - $0.weight - $0.update
                        return rest * rest
                    }), "seed \(seed), \(path)")
        }
    }

    /// Sums that cancel, so that binary32 is far off, and elements that are the wrong one of two between which y lies almost in the
    /// middle: a first look in binary32 must neither let one pass nor take a right one for wrong.
    @Test(arguments: [DType.bf16, .f16], [0.0, 1e-4, 0.1, 1])
    func aFirstLookLetsNothingPass(dtype: DType, cancellation: Double) {
        let seed = UInt64.random(in: 0 ... .max)
        var generator = SeededGenerator(seed: seed)
        let (rows, columns, rank) = (dtype == .bf16 ? 126 : 30, 1024, 48)
        func numbers(_ count: Int, _ spread: Double) -> [Double] { (0..<count).map { _ in Double(Float(generator.normal() * spread)) } }
        let left = numbers(rows * rank / 2, 1), right = numbers(rank / 2 * columns, 0.05)
        // The second half of the components takes the first away, but for a little.
        let bothLeft = (0..<rows).flatMap { row in
            let half = Array(left[row * rank / 2..<(row + 1) * rank / 2])
            return half + half.map { Double(Float(-$0 * (1 + generator.normal() * cancellation))) }
        }
        let bothRight = right + right
        let scale = 0.1 / max(cancellation, 1e-6)
        let update = VerificationUpdate(
            firstRow: 0, left: bothLeft, right: bothRight, rank: rank, scale: scale, columns: columns, productsAreExact: true)
        let factors = [MergeReference.Factors(loraA: bothRight, loraB: bothLeft, rank: rank, scale: scale)]
        var base: [UInt8] = [], rightBytes: [UInt8] = [], wrongBytes: [UInt8] = []
        var (wrong, updateSquared, residualSquared) = (0, 0.0, 0.0)
        for index in 0..<rows * columns {
            let (row, column) = (index / columns, index % columns)
            func rounded(_ value: Double) -> Double { MergeReference.value(of: MergeReference.bits(of: value, in: dtype), in: dtype) }
            let d = MergeReference.element(weight: 0, row: row, column: column, columns: columns, factors: factors)
            func step(_ value: Double) -> Double {
                Double(sign: .plus, exponent: max(-14, Int(value.magnitude.exponent)) + 1 - (dtype == .bf16 ? 8 : 11), significand: 1)
            }
            // A weight that takes d almost to the middle between two numbers of the type, one in each row of a tile; or any.
            let isHard = column % 128 == row && d != 0
            let below = (d / step(d)).rounded(.down) * step(d)
            let w = rounded(isHard ? below + step(d) / 2 - d : generator.normal() * 0.02)
            let y = w + d
            let nearest = rounded(y), step = step(nearest)
            // The next number on the other side of y, a step of the type away.
            let other = rounded(nearest + (y > nearest ? step : -step))
            let isClose = isHard && (abs(y - other) - abs(y - nearest)).magnitude < 0.002 * step
            if isClose, other != nearest { wrong += 1 }
            base += encode(w, dtype)
            rightBytes += encode(nearest, dtype)
            wrongBytes += encode(isClose ? other : nearest, dtype)
            updateSquared += d * d
            residualSquared += (nearest - w - d) * (nearest - w - d)
        }
        for path in Self.paths {
            func measure(_ merged: [UInt8]) -> VerificationTally {
                var tally = VerificationTally()
                var workspace = VerificationKernel.Workspace()
                VerificationKernel.measure(
                    base: unsafe base.span.bytes, baseType: dtype, merged: unsafe merged.span.bytes, mergedType: dtype, rows: 0..<rows,
                    columns: columns, updates: [update], workspace: &workspace, tally: &tally, path: path)
                return tally
            }
            let found = measure(rightBytes)
            #expect(found.differing == 0 && found.histogram[0] == rows * columns, "seed \(seed), \(path)")
            #expect(abs(found.updateSquared - updateSquared) <= 1e-5 * updateSquared, "seed \(seed), \(path)")
            #expect(abs(found.residualSquared - residualSquared) <= 1e-4 * residualSquared, "seed \(seed), \(path)")
            #expect(wrong > 0 || cancellation == 0)
            #expect(measure(wrongBytes).differing == wrong, "seed \(seed), \(path)")
        }
    }

    /// Products that leave the range of binary32 before a large scale brings them back, in columns beside others that do not.
    @Test(arguments: [1e8, 1e15, 1e19, 1e30], paths)
    func aFirstLookKnowsWhatUnderflows(scale: Double, path: MergePath) {
        let (rows, columns) = (6, 64)
        func bf16(_ value: Double) -> Double { MergeReference.value(of: MergeReference.bits(of: value, in: .bf16), in: .bf16) }
        let left = [Double](repeating: Double(Float(1e-20)), count: rows)
        let right = (0..<columns).map { Double(Float($0 < 16 ? 1e-4 : 1e-26)) }
        let update = VerificationUpdate(
            firstRow: 0, left: left, right: right, rank: 1, scale: scale, columns: columns, productsAreExact: true)
        var base: [UInt8] = [], merged: [UInt8] = []
        var wrong = 0
        for index in 0..<rows * columns {
            let d = scale * (left[0] * right[index % columns])
            let w = bf16(d)
            // In the small columns the update was left out.
            let stored = index % columns < 16 ? bf16(w + d) : w
            if stored != bf16(w + d) { wrong += 1 }
            base += encode(w, .bf16)
            merged += encode(stored, .bf16)
        }
        var tally = VerificationTally()
        var workspace = VerificationKernel.Workspace()
        VerificationKernel.measure(
            base: unsafe base.span.bytes, baseType: .bf16, merged: unsafe merged.span.bytes, mergedType: .bf16, rows: 0..<rows, columns: columns,
            updates: [update], workspace: &workspace, tally: &tally, path: path)
        #expect(tally.differing == wrong)
    }

    @Test(arguments: [DType.f32, .bf16, .f16, .f64], paths)
    func everyKindOfNumberIsWidened(dtype: DType, path: MergePath) {
        // A conversion of each special number to itself: nothing differs, and what is not finite may stay.
        let values = [0, -0.0, 1, -1.5, 0x1p-24, 0x1p-14, 6e-8, 65504, .infinity, -.infinity, .nan, 0x1p-126, 0x1p-149, 0x1.fp100]
        let bytes = values.flatMap { encode($0, dtype) }
        var tally = VerificationTally()
        var workspace = VerificationKernel.Workspace()
        VerificationKernel.measure(
            base: unsafe bytes.span.bytes, baseType: dtype, merged: unsafe bytes.span.bytes, mergedType: dtype, rows: 0..<1,
            columns: values.count, updates: [], workspace: &workspace, tally: &tally, path: path)
        #expect(tally.differing == 0 && tally.notFinite == 0, "\(path)")
    }
}
