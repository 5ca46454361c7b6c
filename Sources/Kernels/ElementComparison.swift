internal import CKernels
public import Tensors

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// How the elements of two tensors of one size differ: a before and b after.
public struct ElementComparison: Sendable, Equatable {
    /// What is no difference: |b − a| ≤ absolute + relative·|a|. Two NaN are alike, as are two infinities of one sign.
    public struct Tolerance: Sendable, Equatable {
        public var relative: Double
        public var absolute: Double

        public init(relative: Double = 0, absolute: Double = 0) {
            self.relative = relative
            self.absolute = absolute
        }
    }

    public internal(set) var elements = 0
    /// Elements whose bits differ; whose values differ, where the types do.
    public internal(set) var differing = 0
    public internal(set) var firstDiffering: Int?
    /// Elements that differ by more than the tolerance.
    public internal(set) var beyond = 0
    /// Elements of which one is infinite or NaN and the other is not the same; they are in no sum.
    public internal(set) var notFinite = 0
    /// The largest |b − a|, and where it is.
    public internal(set) var largest = 0.0
    public internal(set) var largestIndex: Int?
    /// Σ (b − a)² and Σ a².
    public internal(set) var differenceSquared = 0.0
    public internal(set) var beforeSquared = 0.0
    /// The largest distance in steps of the type; 0 where it has none or there are two types.
    public internal(set) var largestSteps = 0

    public init() {}

    /// ‖b − a‖ / ‖a‖; infinite for what was zero.
    public var relative: Double { differenceSquared == 0 ? 0 : (differenceSquared / beforeSquared).squareRoot() }

    /// Adds what was found of later elements.
    public mutating func add(_ other: ElementComparison) {
        elements += other.elements
        differing += other.differing
        firstDiffering = firstDiffering ?? other.firstDiffering
        beyond += other.beyond
        notFinite += other.notFinite
        if other.largest > largest { (largest, largestIndex) = (other.largest, other.largestIndex) }
        differenceSquared += other.differenceSquared
        beforeSquared += other.beforeSquared
        largestSteps = max(largestSteps, other.largestSteps)
    }

    /// Whether elements of this type are numbers that can be subtracted here: integers, BOOL, and floating types of 16 bits and more.
    public static func measures(_ dtype: DType) -> Bool { TensorStatistics.measures(dtype) }

    /// Compares elements.
    ///
    /// - Parameters:
    ///   - before: a; `after` b, as many, of types that are measured.
    ///   - index: the number of the first of them in its tensor.
    public init(
        before: RawSpan, _ beforeType: DType, after: RawSpan, _ afterType: DType, index: Int, tolerance: Tolerance
    ) {
        let (fromWidth, toWidth) = (beforeType.bitWidth / 8, afterType.bitWidth / 8)
        let count = before.byteCount / fromWidth
        precondition(count * fromWidth == before.byteCount && count * toWidth == after.byteCount)
        elements = count
        let step = min(count, 2048)
        let isOneType = beforeType == afterType
        var (a, b) = ([Double](repeating: 0, count: step), [Double](repeating: 0, count: step))
        var differs = [Bool](repeating: false, count: step)
        for start in stride(from: 0, to: count, by: max(step, 1)) {
            let length = min(step, count - start)
            let from = before.extracting(start * fromWidth..<(start + length) * fromWidth)
            let to = after.extracting(start * toWidth..<(start + length) * toWidth)
            Self.widen(from, beforeType, length, into: &a)
            if isOneType, Self.areEqual(from, to) {
                for i in 0..<length where a[i].isFinite { beforeSquared += a[i] * a[i] }
                continue
            }
            Self.widen(to, afterType, length, into: &b)
            if isOneType {
                Self.findDifferences(from, to, width: fromWidth, length, into: &differs)
            } else {
                for i in 0..<length { differs[i] = !(a[i] == b[i] || a[i].isNaN && b[i].isNaN) }
                // Beyond 2⁵³ two integers may be one number of binary64.
                if beforeType.isLongInteger || afterType.isLongInteger {
                    for i in 0..<length where !differs[i] && a[i].magnitude >= 0x1p53 {
                        differs[i] = Self.integer(from, beforeType, i) != Self.integer(to, afterType, i)
                    }
                }
            }
            compare(
                a.span.extracting(0..<length), b.span.extracting(0..<length), differs.span, index + start, tolerance,
                leastChange: beforeType.isLongInteger || afterType.isLongInteger ? 1 : 0)
            if isOneType { largestSteps = max(largestSteps, Self.steps(from, to, beforeType, length)) }
        }
    }

    /// - Parameter leastChange: what elements that differ differ by at least, where their numbers in binary64 may be one.
    private mutating func compare(
        _ a: Span<Double>, _ b: Span<Double>, _ differs: Span<Bool>, _ index: Int, _ tolerance: Tolerance, leastChange: Double
    ) {
        for i in a.indices {
            let (before, after) = (a[i], b[i])
            if before.isFinite { beforeSquared += before * before }
            guard differs[i] else { continue }
            differing += 1
            if firstDiffering == nil { firstDiffering = index + i }
            guard before.isFinite, after.isFinite else {
                if !(before == after || before.isNaN && after.isNaN) {
                    notFinite += 1
                    beyond += 1
                }
                continue
            }
            let change = after == before ? leastChange : after - before
            differenceSquared += change * change
            if change.magnitude > largest { (largest, largestIndex) = (change.magnitude, index + i) }
            if change.magnitude > tolerance.absolute + tolerance.relative * before.magnitude { beyond += 1 }
        }
    }

    // MARK: Elements

    /// The elements as numbers. Integers of 64 bits lose their last bits.
    private static func widen(_ bytes: RawSpan, _ dtype: DType, _ count: Int, into target: inout [Double]) {
        func values<Element: BinaryInteger & BitwiseCopyable>(_: Element.Type) {
            // Sound: the caller has counted the elements, and every bit pattern is an integer.
            for i in 0..<count {
                target[i] = Double(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: i * MemoryLayout<Element>.size, as: Element.self))
            }
        }
        func floating(_ type: oplora_element) {
            // Sound: the caller has counted the elements, and the target holds as many.
            unsafe bytes.withUnsafeBytes { from in
                unsafe target.withUnsafeMutableBufferPointer { to in
                    unsafe oplora_verify_widen(
                        MergePath.best.rawValue, from.baseAddress, type, 1, count, count, count, to.baseAddress)
                }
            }
        }
        switch dtype {
        case .bf16, .f16, .f32, .f64: floating(dtype.floatElement)
        case .i8: values(Int8.self)
        case .u8, .bool: values(UInt8.self)
        case .i16: values(Int16.self)
        case .u16: values(UInt16.self)
        case .i32: values(Int32.self)
        case .u32: values(UInt32.self)
        case .i64: values(Int64.self)
        case .u64: values(UInt64.self)
        default: preconditionFailure("\(dtype) is not a type that is measured")
        }
    }

    /// Which elements have other bits: widened, two NaN may look alike, and two long integers.
    private static func findDifferences(_ a: RawSpan, _ b: RawSpan, width: Int, _ count: Int, into differs: inout [Bool]) {
        func find<Bits: FixedWidthInteger & BitwiseCopyable>(_: Bits.Type) {
            for i in 0..<count {
                // Sound: as in `widen`.
                let (x, y) = unsafe (
                    a.unsafeLoadUnaligned(fromByteOffset: i * width, as: Bits.self), b.unsafeLoadUnaligned(fromByteOffset: i * width, as: Bits.self)
                )
                differs[i] = x != y
            }
        }
        switch width {
        case 1: find(UInt8.self)
        case 2: find(UInt16.self)
        case 4: find(UInt32.self)
        default: find(UInt64.self)
        }
    }

    /// An element of 64 bits as an integer; of any other type the number that it is, which is an integer where it is this large.
    private static func integer(_ bytes: RawSpan, _ dtype: DType, _ index: Int) -> Int128? {
        // Sound: as in `widen`.
        switch dtype {
        case .i64: return Int128(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 8 * index, as: Int64.self))
        case .u64: return Int128(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 8 * index, as: UInt64.self))
        default:
            var value = [0.0]
            let width = dtype.bitWidth / 8
            widen(bytes.extracting(index * width..<(index + 1) * width), dtype, 1, into: &value)
            return Int128(exactly: value[0])
        }
    }

    /// Whether elements of a type have steps that are counted here.
    public static func hasSteps(_ dtype: DType) -> Bool { [.bf16, .f16, .f32].contains(dtype) }

    /// The largest distance of two elements in steps of a floating type.
    private static func steps(_ a: RawSpan, _ b: RawSpan, _ dtype: DType, _ count: Int) -> Int {
        func largest<Bits: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(_: Bits.Type, infinity: Bits) -> Int {
            let size = MemoryLayout<Bits>.size
            let sign: Bits = 1 << (Bits.bitWidth - 1)
            var result = 0
            for i in 0..<count {
                // Sound: as in `widen`.
                let x = unsafe a.unsafeLoadUnaligned(fromByteOffset: i * size, as: Bits.self)
                let y = unsafe b.unsafeLoadUnaligned(fromByteOffset: i * size, as: Bits.self)
                let (p, q) = (x & ~sign, y & ~sign)
                guard p < infinity, q < infinity else { continue }
                let distance = x & sign == y & sign ? Int(p) - Int(q) : Int(p) + Int(q)
                result = max(result, distance.magnitude > Int.max ? Int.max : Int(distance.magnitude))
            }
            return result
        }
        switch dtype {
        case .bf16: return largest(UInt16.self, infinity: 0x7f80)
        case .f16: return largest(UInt16.self, infinity: 0x7c00)
        case .f32: return largest(UInt32.self, infinity: 0x7f80_0000)
        default: return 0
        }
    }

    /// How many bytes of two spans of one size differ.
    public static func differingBytes(_ a: RawSpan, _ b: RawSpan) -> Int {
        precondition(a.byteCount == b.byteCount)
        // Sound: both have the byte, and any bits are one.
        return (0..<a.byteCount).count {
            unsafe a.unsafeLoad(fromByteOffset: $0, as: UInt8.self) != b.unsafeLoad(fromByteOffset: $0, as: UInt8.self)
        }
    }

    /// Whether two spans of one size hold the same bytes.
    public static func areEqual(_ a: RawSpan, _ b: RawSpan) -> Bool {
        precondition(a.byteCount == b.byteCount)
        // Sound: the pointers are used only during the call, for the bytes that are there.
        guard a.byteCount > 0 else { return true }
        return unsafe a.withUnsafeBytes { a in
            unsafe b.withUnsafeBytes { b in unsafe memcmp(a.baseAddress.unsafelyUnwrapped, b.baseAddress.unsafelyUnwrapped, a.count) == 0 }
        }
    }
}

extension DType {
    fileprivate var isLongInteger: Bool { self == .i64 || self == .u64 }
}
