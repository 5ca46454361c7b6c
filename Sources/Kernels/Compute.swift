internal import CKernels
internal import COneDNN

/// What the numeric functions run on: threads, the kernels for this processor, and scratch memory for each worker.
///
/// One loop runs at a time; a `Compute` is not to be used from two threads at once.
@safe public final class Compute: Sendable {
    public let pool: ThreadPool
    /// The instruction set of the kernels: `portable`, `avx2` or `avx512`.
    public let instructionSet: String
    nonisolated(unsafe) let kernels: oplora_training_kernels
    /// The input type of products that go through oneDNN's primitives; `nil` for F32 products through its GEMM.
    let productInput: MatmulShape.Input?
    /// The partial sums of a reduction.
    nonisolated(unsafe) let partialSums = UnsafeMutablePointer<Double>.allocate(capacity: Compute.reductionPieces)
    static let reductionPieces = 64
    private let engine = CPUEngine()
    private let spaces: [WorkerSpace]
    /// Activations in BF16. Sound: it changes only between loops, on the one thread that uses this object.
    private nonisolated(unsafe) var narrowedBuffer = FloatBuffer(count: 0)

    /// - Parameter precision: must be supported by this processor.
    public convenience init(pool: ThreadPool, precision: Precision = .f32) {
        precondition(precision.isSupported, "this processor has no products of \(precision.rawValue)")
        self.init(pool: pool, productInput: precision == .bf16 ? .bf16 : nil)
    }

    init(pool: ThreadPool, productInput: MatmulShape.Input?) {
        self.pool = pool
        self.productInput = productInput
        // Sound: the table is a constant of the C code.
        unsafe kernels = oplora_training_kernels_best().pointee
        instructionSet = unsafe String(cString: kernels.name)
        spaces = (0..<pool.threads).map { _ in WorkerSpace() }
    }

    deinit { unsafe partialSums.deallocate() }

    /// What belongs to one worker. Sound: only the worker itself touches it, in one iteration at a time.
    private final class WorkerSpace: @unchecked Sendable {
        var scratch = FloatBuffer(count: 1 << 16)
        var primitives: [MatmulShape: MatmulPrimitive] = [:]
    }

    /// Scratch memory of a worker, at least `count` numbers long; grows on first use and stays. Valid inside one
    /// iteration, until more is asked for.
    func scratch(_ worker: Int, count: Int) -> UnsafeMutablePointer<Float> {
        let space = spaces[worker]
        if space.scratch.count < count { space.scratch = FloatBuffer(count: count) }
        return unsafe space.scratch.base
    }

    /// A worker's own primitive for a product; made on first use and kept.
    func primitive(_ worker: Int, _ shape: MatmulShape) -> MatmulPrimitive {
        let space = spaces[worker]
        if let known = space.primitives[shape] { return known }
        guard let made = MatmulPrimitive(shape, engine: engine) else { preconditionFailure("oneDNN has no product for \(shape)") }
        space.primitives[shape] = made
        return made
    }

    /// Memory for activations in BF16; valid until more is asked for.
    func narrowed(count: Int) -> FloatBuffer {
        if unsafe narrowedBuffer.count * 2 < count { unsafe narrowedBuffer = FloatBuffer(count: (count + 1) / 2) }
        return unsafe narrowedBuffer
    }

    /// Cuts `count` rows or columns into pieces of a size that depends on `count` alone.
    struct Tiles {
        let count: Int
        let width: Int
        let total: Int

        /// - Parameters:
        ///   - pieces: how many pieces to aim for.
        ///   - multiple: widths are multiples of this, to suit the vector kernels.
        ///   - limit: no piece is wider, where given.
        init(_ total: Int, pieces: Int = 8, multiple: Int = 16, limit: Int = .max) {
            let aimed = (total + pieces - 1) / pieces
            var width = max(multiple, (aimed + multiple - 1) / multiple * multiple)
            if width > limit { width = max(multiple, limit / multiple * multiple) }
            self.width = width
            self.total = total
            count = (total + width - 1) / width
        }

        subscript(index: Int) -> Range<Int> { index * width..<min(total, (index + 1) * width) }
    }

    /// The tiles of a matrix [rows, columns].
    struct Grid {
        let rows: Tiles
        let columns: Tiles

        var count: Int { rows.count * columns.count }

        subscript(index: Int) -> (rows: Range<Int>, columns: Range<Int>) { (rows[index % rows.count], columns[index / rows.count]) }
    }

    /// Runs `body` over pieces of `rows` rows.
    func forRows(_ rows: Int, pieces: Int = 16, _ body: @Sendable (Range<Int>) -> Void) {
        let tiles = Tiles(rows, pieces: pieces, multiple: 8)
        pool.run(tiles.count) { index, _ in body(tiles[index]) }
    }
}

/// c[m,n] = alpha · op(a)[m,k] · op(b)[k,n] + beta · c, row-major, through oneDNN on the calling thread.
///
/// oneDNN 2.6 adds up the k products of an element in an order that depends on the shapes alone, and the shapes that the
/// callers choose depend on the model alone.
func sgemm(
    _ transposeA: Bool, _ transposeB: Bool, _ m: Int, _ n: Int, _ k: Int, _ alpha: Float, _ a: UnsafePointer<Float>, _ lda: Int,
    _ b: UnsafePointer<Float>, _ ldb: Int, _ beta: Float, _ c: UnsafeMutablePointer<Float>, _ ldc: Int
) {
    guard m > 0, n > 0, k > 0 else { return }
    let letters: (CChar, CChar) = (transposeA ? 84 : 78, transposeB ? 84 : 78)  // 'T' or 'N'
    let status = unsafe dnnl_sgemm(letters.0, letters.1, Int64(m), Int64(n), Int64(k), alpha, a, Int64(lda), b, Int64(ldb), beta, c, Int64(ldc))
    precondition(status == dnnl_success, "oneDNN refused a product of sizes \(m), \(n), \(k)")
}
