internal import Adapters
internal import Safetensors
internal import Tensors

/// One adapter's update of the rows of a weight, in binary64, all matrices row-major: left [rows, rank] times right [rank, columns].
struct Update: Sendable {
    let firstRow: Int
    let left: [Double]
    let right: [Double]
    let rank: Int
    let scale: Double
    let magnitude: Magnitude?

    /// What a magnitude does to the sum of weight and update.
    enum Magnitude: Sendable {
        /// The norm that each row gets.
        case ofRows([Double])
        /// What each column is multiplied by: the norm that it gets, divided by the one that it has.
        case ofColumns([Double])
    }

    init(firstRow: Int = 0, left: [Double], right: [Double], rank: Int, scale: Double, magnitude: Magnitude? = nil) {
        self.firstRow = firstRow
        self.left = left
        self.right = right
        self.rank = rank
        self.scale = scale
        self.magnitude = magnitude
    }

    /// - Parameter weights: the tensor before the update, which the norms of columns are computed from.
    init(_ update: TensorUpdate, weights: WeightFiles.Location) {
        let plain = Update(
            firstRow: update.rows.lowerBound, left: update.left.doubles(), right: update.right.doubles(), rank: update.rank, scale: update.scale)
        guard let magnitude = update.magnitude else {
            self = plain
            return
        }
        let values = magnitude.values.doubles()
        let scaled: Magnitude =
            switch magnitude {
            case .ofRows: .ofRows(values)
            case .ofColumns:
                .ofColumns(plain.columnRatios(to: values, weights: weights, rows: update.rows, columns: update.columns))
            }
        self.init(firstRow: plain.firstRow, left: plain.left, right: plain.right, rank: plain.rank, scale: plain.scale, magnitude: scaled)
    }

    /// What brings the norms of the columns of weight + update to those of `values`, which are each for one column or for as many
    /// as there are positions in a kernel. Lane j of eight takes the rows i ≡ j mod 8 in their order; the lanes of the columns
    /// with one norm are added in the columns' order.
    private func columnRatios(to values: [Double], weights: WeightFiles.Location, rows: Range<Int>, columns: Int) -> [Double] {
        var lanes = [[Double]](repeating: [Double](repeating: 0, count: columns), count: 8)
        var sum = [Double](repeating: 0, count: columns)
        weights.file.withBytes(of: weights.info) { bytes in
            for row in rows {
                var total = [Double](repeating: 0, count: columns)
                var result = (0..<columns).map { ElementCheck.value(bytes, weights.info.dtype, row * columns + $0) }
                add(row: row, columns: columns, sum: &sum, total: &total, result: &result)
                for column in 0..<columns { lanes[(row - rows.lowerBound) % 8][column] += result[column] * result[column] }
            }
        }
        let width = columns / values.count
        return values.indices.flatMap { input in
            let norm = Self.norm(
                lanes.map { lane in (1..<width).reduce(lane[input * width]) { $0 + lane[input * width + $1] } })
            return [Double](repeating: values[input] / norm, count: width)
        }
    }

    static func norm(_ lanes: [Double]) -> Double {
        (((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))).squareRoot()
    }

    /// Scales a row of the sums of weight and update; `total` becomes what it then is above the weight.
    func scale(row: Int, weights: (Int) -> Double, total: inout [Double], result: inout [Double]) {
        let columns = result.count
        switch magnitude {
        case nil: return
        case .ofRows(let magnitudes)?:
            let lanes = (0..<8).map { lane in stride(from: lane, to: columns, by: 8).reduce(0.0) { $0 + result[$1] * result[$1] } }
            let ratio = magnitudes[row - firstRow] / Self.norm(lanes)
            for column in 0..<columns { result[column] = ratio * result[column] }
        case .ofColumns(let ratios)?:
            for column in 0..<columns { result[column] = ratios[column] * result[column] }
        }
        for column in 0..<columns { total[column] = result[column] - weights(column) }
    }

    /// The update's element for each column of a row of ΔW [out, in], added to `total`, and to `weights` one adapter after
    /// another as the definition says.
    @inline(__always)
    func add(row: Int, columns: Int, sum: inout [Double], total: inout [Double], result: inout [Double]) {
        // Sound: the arrays hold `columns` elements and whole rows of the factors; the loops stay within them.
        unsafe sum.withUnsafeMutableBufferPointer { sum in
            unsafe right.withUnsafeBufferPointer { a in
                for column in 0..<columns { unsafe sum[unchecked: column] = 0 }
                let start = (row - firstRow) * rank
                var k = 0
                // Four terms a pass, each added by itself: the order of the sum is that of k.
                while k + 4 <= rank {
                    let (b0, b1, b2, b3) = (left[start + k], left[start + k + 1], left[start + k + 2], left[start + k + 3])
                    for column in 0..<columns {
                        var value = unsafe sum[unchecked: column]
                        unsafe value += b0 * a[unchecked: k * columns + column]
                        unsafe value += b1 * a[unchecked: (k + 1) * columns + column]
                        unsafe value += b2 * a[unchecked: (k + 2) * columns + column]
                        unsafe value += b3 * a[unchecked: (k + 3) * columns + column]
                        unsafe sum[unchecked: column] = value
                    }
                    k += 4
                }
                while k < rank {
                    let b = left[start + k]
                    for column in 0..<columns { unsafe sum[unchecked: column] += b * a[unchecked: k * columns + column] }
                    k += 1
                }
            }
        }
        for column in 0..<columns {
            let update = scale * sum[column]
            total[column] += update
            result[column] += update
        }
    }
}

extension UnsafeBufferPointer {
    fileprivate subscript(unchecked index: Int) -> Element {
        @inline(__always) @unsafe get { unsafe baseAddress.unsafelyUnwrapped[index] }
    }
}

extension UnsafeMutableBufferPointer {
    fileprivate subscript(unchecked index: Int) -> Element {
        @inline(__always) @unsafe get { unsafe baseAddress.unsafelyUnwrapped[index] }
        @inline(__always) @unsafe nonmutating set { unsafe baseAddress.unsafelyUnwrapped[index] = newValue }
    }
}

/// What the elements of a weight, or of some of its rows, are like. c = W′ − W is the change, d the update, e the change
/// that the correctly rounded weight would have.
struct Measure: Sendable {
    var elements = 0
    var updateSquared = 0.0
    var updateTimesChange = 0.0
    var updateTimesExpected = 0.0
    var changeSquared = 0.0
    /// Σ (c − d)².
    var residualSquared = 0.0
    /// Σ (e − d)²: what rounding alone does.
    var roundingSquared = 0.0
    /// Elements whose bits are not the correctly rounded ones.
    var differing = 0
    /// Those among them that another order or precision of summation may explain.
    var roundingLike = 0
    var maxUlp = 0
    var notFinite = 0
    /// Elements whose bits are not the base's, and those that should not be.
    var changed = 0
    var expectedChanged = 0
    /// The first element that differs: its place, stored and correct value, and steps between.
    var firstDiffering: (index: Int, stored: Double, expected: Double, steps: Int)?
    var firstNotFinite: Int?

    mutating func add(_ other: Measure) {
        elements += other.elements
        updateSquared += other.updateSquared
        updateTimesChange += other.updateTimesChange
        updateTimesExpected += other.updateTimesExpected
        changeSquared += other.changeSquared
        residualSquared += other.residualSquared
        roundingSquared += other.roundingSquared
        differing += other.differing
        roundingLike += other.roundingLike
        maxUlp = max(maxUlp, other.maxUlp)
        notFinite += other.notFinite
        changed += other.changed
        expectedChanged += other.expectedChanged
        firstDiffering = firstDiffering ?? other.firstDiffering
        firstNotFinite = firstNotFinite ?? other.firstNotFinite
    }
}

/// Compares rows of a merged weight with their definition, in arithmetic of its own.
enum ElementCheck {
    /// - Parameters:
    ///   - base: the rows of W [rows, columns] in `baseType`; `merged` those of W′ in `mergedType`.
    ///   - updates: the adapters in order; none where the tensor is only converted.
    static func measure(
        base: RawSpan, baseType: DType, merged: RawSpan, mergedType: DType, rows: Range<Int>, columns: Int, updates: [Update]
    ) -> Measure {
        switch (baseType, mergedType) {
        case (.bf16, .bf16): measure(base, StoredBF16.self, merged, StoredBF16.self, rows, columns, updates)
        case (.f16, .f16): measure(base, StoredF16.self, merged, StoredF16.self, rows, columns, updates)
        case (.f32, .f32): measure(base, StoredF32.self, merged, StoredF32.self, rows, columns, updates)
        default: measureMixed(base, baseType, merged, mergedType, rows, columns, updates)
        }
    }

    private static func measureMixed(
        _ base: RawSpan, _ baseType: DType, _ merged: RawSpan, _ mergedType: DType, _ rows: Range<Int>, _ columns: Int, _ updates: [Update]
    ) -> Measure {
        func with<Base: StoredFormat>(_: Base.Type) -> Measure {
            switch mergedType {
            case .bf16: measure(base, Base.self, merged, StoredBF16.self, rows, columns, updates)
            case .f16: measure(base, Base.self, merged, StoredF16.self, rows, columns, updates)
            case .f32: measure(base, Base.self, merged, StoredF32.self, rows, columns, updates)
            default: measure(base, Base.self, merged, StoredF64.self, rows, columns, updates)
            }
        }
        return switch baseType {
        case .bf16: with(StoredBF16.self)
        case .f16: with(StoredF16.self)
        case .f32: with(StoredF32.self)
        default: with(StoredF64.self)
        }
    }

    private static func measure<Base: StoredFormat, Merged: StoredFormat>(
        _ base: RawSpan, _: Base.Type, _ merged: RawSpan, _: Merged.Type, _ rows: Range<Int>, _ columns: Int, _ updates: [Update]
    ) -> Measure {
        var measure = Measure()
        var sum = [Double](repeating: 0, count: columns)
        var total = sum
        var result = sum
        let sizeBase = MemoryLayout<Base.Bits>.size
        let sizeMerged = MemoryLayout<Merged.Bits>.size
        precondition(base.byteCount == rows.count * columns * sizeBase && merged.byteCount == rows.count * columns * sizeMerged)
        for row in rows {
            let start = (row - rows.lowerBound) * columns
            for column in 0..<columns {
                total[column] = 0
                // Sound here and below: the spans hold these elements, and every bit pattern is a number.
                result[column] = Base.value(
                    of: unsafe base.unsafeLoadUnaligned(fromByteOffset: (start + column) * sizeBase, as: Base.Bits.self))
            }
            for update in updates {
                update.add(row: row, columns: columns, sum: &sum, total: &total, result: &result)
                update.scale(
                    row: row,
                    weights: {
                        Base.value(of: unsafe base.unsafeLoadUnaligned(fromByteOffset: (start + $0) * sizeBase, as: Base.Bits.self))
                    }, total: &total, result: &result)
            }
            unsafe total.withUnsafeBufferPointer { total in
                unsafe result.withUnsafeBufferPointer { result in
                    for column in 0..<columns {
                        let baseBits = unsafe base.unsafeLoadUnaligned(fromByteOffset: (start + column) * sizeBase, as: Base.Bits.self)
                        let bits = unsafe merged.unsafeLoadUnaligned(fromByteOffset: (start + column) * sizeMerged, as: Merged.Bits.self)
                        let weight = Base.value(of: baseBits)
                        let stored = Merged.value(of: bits)
                        let y = unsafe result[unchecked: column]
                        let d = unsafe total[unchecked: column]
                        var c = stored - weight
                        var e = c
                        // Half the distance to the next number of the format, or less: where the stored number is a power of
                        // two (the factor before takes it below), or nearly one, half of that. An element nearer than this to
                        // y is the only number nearest to it. All others are looked at one by one.
                        let power = Double(bitPattern: (stored.magnitude * (1 - 0x1p-20)).bitPattern & 0x7ff0_0000_0000_0000)
                        let half = power * halfStep(Merged.precision)
                        if !((y - stored).magnitude < half) {
                            let expectedBits = Merged.nearest(to: y)
                            let expected = Merged.value(of: expectedBits)
                            e = expected - weight
                            if !stored.isFinite {
                                if measure.notFinite == 0 { measure.firstNotFinite = row * columns + column }
                                // It cannot be measured; the other elements can.
                                c = e
                            }
                            if !stored.isFinite, bits == expectedBits, updates.isEmpty {
                                // An infinity that was there before.
                            } else if !stored.isFinite {
                                measure.notFinite += 1
                                measure.differing += 1
                            } else if bits != expectedBits {
                                let steps = Merged.steps(bits, expectedBits)
                                if measure.differing == 0 {
                                    measure.firstDiffering = (row * columns + column, stored, expected, steps)
                                }
                                measure.differing += 1
                                measure.maxUlp = max(measure.maxUlp, steps)
                                let largest = max(weight.magnitude, max(d.magnitude, y.magnitude))
                                let place = Double(
                                    sign: .plus, exponent: largest > 0 ? Int(largest.exponent) + 1 - Merged.precision : -1074, significand: 1)
                                if (stored - y).magnitude <= 2 * place { measure.roundingLike += 1 }
                            }
                            if !e.isFinite { e = 0 }
                            if !c.isFinite { c = 0 }
                        }
                        if c != 0 { measure.changed += 1 }
                        if e != 0 { measure.expectedChanged += 1 }
                        measure.updateSquared += d * d
                        measure.updateTimesChange += d * c
                        measure.updateTimesExpected += d * e
                        measure.changeSquared += c * c
                        measure.residualSquared += (c - d) * (c - d)
                        measure.roundingSquared += (e - d) * (e - d)
                    }
                }
            }
        }
        measure.elements = rows.count * columns
        return measure
    }

    @inline(__always)
    private static func halfStep(_ precision: Int) -> Double {
        // Two to the power of −precision.
        Double(bitPattern: UInt64(1023 - precision) << 52)
    }

    /// Whether the change of a square weight is the transpose of the update rather than the update:
    /// ⟨ΔWᵀ, W′ − W⟩ / ‖ΔW‖², computed over the whole weight.
    static func transposedProjection(
        base: RawSpan, baseType: DType, merged: RawSpan, mergedType: DType, size: Int, updates: [Update]
    ) -> Double {
        var numerator = 0.0
        var denominator = 0.0
        for row in 0..<size {
            for column in 0..<size {
                var d = 0.0
                for update in updates {
                    var sum = 0.0
                    for k in 0..<update.rank { sum += update.left[column * update.rank + k] * update.right[k * size + row] }
                    d += update.scale * sum
                }
                let index = row * size + column
                let change = value(merged, mergedType, index) - value(base, baseType, index)
                if change.isFinite { numerator += d * change }
                denominator += d * d
            }
        }
        return denominator > 0 ? numerator / denominator : 0
    }

    /// An element of one of the types that are merged.
    static func value(_ bytes: RawSpan, _ dtype: DType, _ index: Int) -> Double {
        switch dtype {
        case .bf16: StoredBF16.value(of: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 2 * index, as: UInt16.self))
        case .f16: StoredF16.value(of: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 2 * index, as: UInt16.self))
        case .f32: StoredF32.value(of: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 4 * index, as: UInt32.self))
        default: StoredF64.value(of: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 8 * index, as: UInt64.self))
        }
    }
}
