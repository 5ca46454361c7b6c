internal import Adapters
internal import Kernels
internal import NativeCheckpoint
internal import Synchronization
internal import Tensors
internal import Weights

/// A tensor of one name in both files.
package struct TensorPair: Sendable {
    package let name: String
    package let a: ComparedTensor
    package let b: ComparedTensor

    /// The types of the elements, where they are numbers that are compared one by one.
    private var numbers: (a: DType, b: DType)? {
        guard case .plain(let first) = a.type, case .plain(let second) = b.type, ElementComparison.measures(first), ElementComparison.measures(second)
        else { return nil }
        return (first, second)
    }

    /// Whether the values can be held against each other.
    private var isComparable: Bool { a.elementCount == b.elementCount && (a.type == b.type || numbers != nil) }

    /// Units that a piece has: elements, or bytes where they are not taken apart.
    private static let pieceUnits = 1 << 19

    private var unitCount: Int { numbers == nil ? a.bytes.byteCount : a.elementCount }

    /// Units, as bytes of the two.
    private func bytes(_ units: Range<Int>) -> (a: Range<Int>, b: Range<Int>) {
        guard let numbers else { return (units, units) }
        func range(_ type: DType) -> Range<Int> { units.lowerBound * (type.bitWidth / 8)..<units.upperBound * (type.bitWidth / 8) }
        return (range(numbers.a), range(numbers.b))
    }

    private func withBytes(_ units: Range<Int>, _ body: (RawSpan, RawSpan) -> Void) throws {
        let (first, second) = bytes(units)
        try a.bytes.withBytes(in: first) { before in try b.bytes.withBytes(in: second) { after in body(before, after) } }
        a.bytes.release(first)
        b.bytes.release(second)
    }

    private enum Part {
        case elements(ElementComparison)
        case bytes(differing: Int)
    }

    private func compare(_ units: Range<Int>, _ tolerance: ElementComparison.Tolerance) throws -> Part {
        var part = Part.bytes(differing: 0)
        try withBytes(units) { before, after in
            if let numbers {
                part = .elements(
                    ElementComparison(
                        before: before, numbers.a, after: after, numbers.b, index: units.lowerBound, tolerance: tolerance))
            } else {
                part = .bytes(differing: ElementComparison.differingBytes(before, after))
            }
        }
        return part
    }

    /// By how much the values of each pair differ.
    ///
    /// Most tensors of two versions of a model are the same, so all bytes are compared first, and only of those pairs that differ the
    /// elements are looked at.
    package static func extents(_ pairs: [TensorPair], options: Difference.Options) throws -> [Difference.Extent] {
        func forEachPiece(of numbers: [Int], _ body: @Sendable (_ pair: Int, _ piece: Int, _ units: Range<Int>) throws -> Void) throws {
            let pieces = numbers.flatMap { number in
                stride(from: 0, to: pairs[number].unitCount, by: pieceUnits).enumerated().map { piece, start in
                    (pair: number, piece: piece, units: start..<min(start + pieceUnits, pairs[number].unitCount))
                }
            }
            try ThreadPool.forEach(pieces.count, threads: options.threads) { index in
                try body(pieces[index].pair, pieces[index].piece, pieces[index].units)
            }
        }
        let differing = Mutex<Set<Int>>([])
        let sameTypes = pairs.indices.filter { pairs[$0].isComparable && pairs[$0].a.type == pairs[$0].b.type }
        try forEachPiece(of: sameTypes) { number, _, units in
            guard !differing.withLock({ $0.contains(number) }) else { return }
            try pairs[number].withBytes(units) { before, after in
                if !ElementComparison.areEqual(before, after) { _ = differing.withLock { $0.insert(number) } }
            }
        }
        let others = pairs.indices.filter { number in
            let pair = pairs[number]
            return pair.isComparable && (pair.a.type != pair.b.type || differing.withLock { $0.contains(number) })
        }
        let found = Mutex<[Int: [Int: Part]]>([:])
        try forEachPiece(of: others) { number, piece, units in
            let part = try pairs[number].compare(units, options.tolerance)
            found.withLock { $0[number, default: [:]][piece] = part }
        }
        let parts = found.withLock { $0 }
        return pairs.enumerated().map { number, pair in
            guard pair.isComparable else { return .unknown }
            // In the order of the pieces, so that the sums do not depend on who was first.
            let ordered = (parts[number] ?? [:]).sorted { $0.key < $1.key }.map(\.value)
            return extent(ordered, of: pair, options)
        }
    }

    private static func extent(_ parts: [Part], of pair: TensorPair, _ options: Difference.Options) -> Difference.Extent {
        var sum = ElementComparison()
        var bytes = 0
        for part in parts {
            switch part {
            case .elements(let comparison): sum.add(comparison)
            case .bytes(let differing): bytes += differing
            }
        }
        if bytes > 0 { return .bytes(differing: bytes, of: pair.a.bytes.byteCount) }
        // Zeros of two signs are one value, and another pattern.
        let hasTolerance = options.tolerance != ElementComparison.Tolerance()
        return (hasTolerance ? sum.beyond : sum.differing) > 0 ? .elements(sum) : .none
    }
}
