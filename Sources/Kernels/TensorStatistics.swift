internal import CKernels
public import FileIO
public import Tensors

/// What the numbers of a tensor are like.
public struct TensorStatistics: Sendable, Equatable {
    /// An extreme, as exact as the element type.
    public enum Number: Sendable, Equatable {
        case integer(Int64)
        case unsigned(UInt64)
        case real(Double)
    }

    /// Of the finite elements; `nil` where there are none. A zero has no sign.
    public let minimum: Number?
    public let maximum: Number?
    /// Of the finite elements, in binary64; `nil` where there are none.
    public let mean: Double?
    /// The root of the mean squared distance from the mean.
    public let standardDeviation: Double?
    public let zeros: Int
    public let nan: Int
    public let infinite: Int
    /// Elements that are neither zero, NaN nor infinite, in 16 bins by their magnitude. Floating types: bin 0 below 2⁻²⁴,
    /// bin k from 2^(2k − 26) to below 2^(2k − 24), the last from 16 on. Integers of w bits, s = max(1, w/16): bin k from
    /// 2^(sk) to below 2^(s(k + 1)).
    public let histogram: [Int]

    init(_ result: oplora_statistics, element: oplora_element) {
        func number(_ bits: UInt64) -> Number? {
            guard result.finite > 0 else { return nil }
            switch element {
            case oplora_element_bf16, oplora_element_f16, oplora_element_f32, oplora_element_f64: return .real(Double(bitPattern: bits))
            case oplora_element_u64: return .unsigned(bits)
            default: return .integer(Int64(bitPattern: bits))
            }
        }
        minimum = number(result.minimum)
        maximum = number(result.maximum)
        mean = result.finite > 0 ? result.mean : nil
        standardDeviation = result.finite > 0 ? (result.squares / Double(result.finite)).squareRoot() : nil
        (zeros, nan, infinite) = (Int(result.zeros), Int(result.nan), Int(result.infinite))
        let b = result.bins
        histogram = [b.0, b.1, b.2, b.3, b.4, b.5, b.6, b.7, b.8, b.9, b.10, b.11, b.12, b.13, b.14, b.15].map { Int($0) }
    }

    /// Whether tensors of this type are measured: floating types of 16 bits and more, integers and BOOL.
    public static func measures(_ dtype: DType) -> Bool { dtype.element != nil }

    /// Measures tensors of mapped files, on all threads of `pool`.
    ///
    /// - Parameter tensors: each from a reader that has checked its range against the file; `nil` for one that is not to be measured.
    /// - Returns: one for each tensor; `nil` where its type is not measured. The same for every number of threads.
    public static func measure(_ tensors: [(file: MappedFile, info: TensorInfo)?], pool: ThreadPool) -> [TensorStatistics?] {
        let sources = tensors.map { tensor -> Source in
            guard let tensor, let element = tensor.info.dtype.element else { return Source() }
            // Sound: `tensors` keeps the mappings until the end.
            return unsafe Source(
                start: tensor.file.bytes.extracting(tensor.info.byteRange).withUnsafeBytes { $0.baseAddress }, element: element,
                count: tensor.info.elementCount, file: tensor.file, offset: tensor.info.byteRange.lowerBound)
        }
        return withExtendedLifetime(tensors) { measure(sources, pool: pool) }
    }

    /// Measures a tensor that lies in memory, on the calling thread; `nil` where its type is not measured.
    public static func measure(_ bytes: [UInt8], dtype: DType) -> TensorStatistics? {
        // Sound: every bit pattern of a byte may be read as a raw byte.
        measure(byteCount: bytes.count, dtype: dtype) { range, take in take(unsafe bytes.span.bytes.extracting(range)) }
    }

    /// Measures a tensor whose bytes come piece by piece, on the calling thread; `nil` where its type is not measured.
    ///
    /// - Parameter read: hands over a range of the bytes.
    public static func measure(
        byteCount: Int, dtype: DType, read: (_ range: Range<Int>, _ take: (RawSpan) -> Void) throws -> Void
    ) rethrows -> TensorStatistics? {
        precondition(byteCount * 8 % dtype.bitWidth == 0, "the bytes are whole elements")
        guard let element = dtype.element else { return nil }
        var total = oplora_statistics()
        let scratch = Scratch(threads: 1)
        for start in stride(from: 0, to: byteCount, by: pieceBytes) {
            try read(start..<min(byteCount, start + pieceBytes)) { piece in
                unsafe piece.withUnsafeBytes { raw in
                    let source = unsafe Source(start: raw.baseAddress, element: element, count: raw.count / byteWidth(element))
                    var part = source.measure(0..<source.count, scratch, worker: 0)
                    unsafe oplora_statistics_add(&total, &part, element)
                }
            }
        }
        return TensorStatistics(total, element: element)
    }

    /// Where elements lie.
    @safe private struct Source: Sendable {
        nonisolated(unsafe) var start: UnsafeRawPointer?
        var element: oplora_element?
        var count = 0
        /// The mapped file that they are part of.
        var file: MappedFile?
        var offset = 0

        /// The elements that one thread measures at a time.
        var pieces: [Range<Int>] {
            guard let element else { return [] }
            let size = pieceBytes / byteWidth(element)
            return stride(from: 0, to: count, by: size).map { $0..<min(count, $0 + size) }
        }

        func measure(_ piece: Range<Int>, _ scratch: Scratch, worker: Int) -> oplora_statistics {
            var result = oplora_statistics()
            guard let start = unsafe start, let element else { return result }
            let width = byteWidth(element)
            // Sound: the elements of the piece lie there.
            unsafe oplora_statistics_kernels_best().pointee.measure?(
                &result, start + piece.lowerBound * width, element, piece.count, scratch.memory(worker))
            // The threads give the pages back as they go; the end of the program would do it with one.
            file?.release(offset + piece.lowerBound * width..<offset + piece.upperBound * width)
            return result
        }
    }

    /// What each thread counts in.
    @safe private final class Scratch: Sendable {
        private nonisolated(unsafe) let counters: UnsafeMutablePointer<UInt32>
        private static let count = Int(oplora_statistics_scratch)

        init(threads: Int) {
            unsafe counters = .allocate(capacity: threads * Self.count)
            unsafe counters.initialize(repeating: 0, count: threads * Self.count)
        }

        deinit { unsafe counters.deallocate() }

        /// (oplora_statistics_scratch) numbers. Sound: each worker has its own.
        func memory(_ worker: Int) -> UnsafeMutablePointer<UInt32> { unsafe counters + worker * Self.count }
    }

    /// Bytes that one thread measures at a time; a part of the definition, for it decides the order of the sums.
    static let pieceBytes = 1 << 22

    private static func measure(_ sources: [Source], pool: ThreadPool) -> [TensorStatistics?] {
        var pieces: [(source: Source, range: Range<Int>)] = []
        for source in sources { pieces += source.pieces.map { (source, $0) } }
        var results = [oplora_statistics](repeating: oplora_statistics(), count: pieces.count)
        let scratch = Scratch(threads: pool.threads)
        unsafe results.withUnsafeMutableBufferPointer { results in
            // Sound: each turn writes its own result, and the loop ends before the buffer does.
            nonisolated(unsafe) let target = unsafe results
            pool.run(pieces.count) { [pieces] index, worker in
                unsafe target[index] = pieces[index].source.measure(pieces[index].range, scratch, worker: worker)
            }
        }
        var next = 0
        return sources.map { source in
            guard let element = source.element else { return nil }
            var total = oplora_statistics()
            for _ in source.pieces {
                unsafe oplora_statistics_add(&total, &results[next], element)
                next += 1
            }
            return TensorStatistics(total, element: element)
        }
    }

    private static func byteWidth(_ element: oplora_element) -> Int {
        switch element {
        case oplora_element_i8, oplora_element_u8: 1
        case oplora_element_bf16, oplora_element_f16, oplora_element_i16, oplora_element_u16: 2
        case oplora_element_f32, oplora_element_i32, oplora_element_u32: 4
        default: 8
        }
    }
}
