/// One allocation of F32 numbers, aligned to a cache line, zero at the start; carved into views.
@safe public final class FloatBuffer: Sendable {
    public let count: Int
    nonisolated(unsafe) let base: UnsafeMutablePointer<Float>

    public init(count: Int) {
        precondition(count >= 0)
        self.count = count
        let raw = UnsafeMutableRawPointer.allocate(byteCount: max(64, count * MemoryLayout<Float>.stride), alignment: 64)
        unsafe base = raw.bindMemory(to: Float.self, capacity: count)
        unsafe base.initialize(repeating: 0, count: count)
    }

    deinit { unsafe base.deallocate() }

    /// The memory, for twice as many BF16 numbers. Sound where nothing reads it as F32 in the meantime.
    var bf16: UnsafeMutablePointer<UInt16> { unsafe UnsafeMutableRawPointer(base).assumingMemoryBound(to: UInt16.self) }

    /// The whole buffer.
    public var view: FloatView { FloatView(storage: self, offset: 0, count: count) }
}

/// A run of F32 numbers inside a buffer. Shapes are the business of the functions that take it.
///
/// Two views may overlap, and a view can be written through from several threads at once: the kernels of this module
/// divide what they write among their threads, and everyone else stays outside while they run.
@safe public struct FloatView: Sendable {
    let storage: FloatBuffer
    let offset: Int
    public let count: Int

    /// Sound while `storage` lives, which this value sees to; `offset + count` was checked when the view was made.
    var pointer: UnsafeMutablePointer<Float> { unsafe storage.base + offset }

    /// A part of this view.
    public subscript(range: Range<Int>) -> FloatView {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "a view ends inside its parent")
        return FloatView(storage: storage, offset: offset + range.lowerBound, count: range.count)
    }

    public subscript(index: Int) -> Float {
        get {
            precondition(index >= 0 && index < count)
            return unsafe pointer[index]
        }
        nonmutating set {
            precondition(index >= 0 && index < count)
            unsafe pointer[index] = newValue
        }
    }

    public func fill(_ value: Float) {
        unsafe pointer.update(repeating: value, count: count)
    }

    public func copy(from other: FloatView) {
        precondition(other.count == count)
        unsafe pointer.update(from: other.pointer, count: count)
    }

    public func copy(from values: [Float]) {
        precondition(values.count == count)
        for (index, value) in values.enumerated() { unsafe pointer[index] = value }
    }

    public var array: [Float] { unsafe Array(UnsafeBufferPointer(start: pointer, count: count)) }

    /// Calls `body` with the numbers as bytes in memory order.
    public func withBytes<Result>(_ body: (RawSpan) throws -> Result) rethrows -> Result {
        // Sound: the storage outlives the call.
        try body(unsafe UnsafeRawBufferPointer(start: pointer, count: count * MemoryLayout<Float>.stride).bytes)
    }

    /// Copies numbers out of their bytes in memory order.
    public func copy(fromBytes bytes: RawSpan) {
        precondition(bytes.byteCount == count * MemoryLayout<Float>.stride)
        unsafe bytes.withUnsafeBytes { source in
            guard let start = source.baseAddress else { return }
            unsafe UnsafeMutableRawPointer(pointer).copyMemory(from: start, byteCount: source.count)
        }
    }
}

/// Carves one allocation into views, one after another, each beginning at a cache line.
public struct FloatArena {
    private let counts: [Int]
    private let buffer: FloatBuffer

    /// - Parameter counts: sizes of the views to be taken, in order.
    public init(counts: [Int]) {
        self.counts = counts
        buffer = FloatBuffer(count: counts.reduce(0) { $0 + Self.rounded($1) })
    }

    private static func rounded(_ count: Int) -> Int { (count + 15) & ~15 }

    /// The views, in the order of the counts.
    public var views: [FloatView] {
        var offset = 0
        return counts.map { count in
            defer { offset += Self.rounded(count) }
            return buffer.view[offset..<offset + count]
        }
    }
}
