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
    private nonisolated(unsafe) let scratch: UnsafeMutablePointer<FloatBuffer>
    /// The partial sums of a reduction, two numbers for each piece.
    let partialSums = FloatBuffer(count: 2 * Compute.reductionPieces).view
    static let reductionPieces = 64

    public init(pool: ThreadPool) {
        self.pool = pool
        // Sound: the table is a constant of the C code.
        unsafe kernels = oplora_training_kernels_best().pointee
        instructionSet = unsafe String(cString: kernels.name)
        unsafe scratch = .allocate(capacity: pool.threads)
        for worker in 0..<pool.threads { unsafe (scratch + worker).initialize(to: FloatBuffer(count: 1 << 16)) }
    }

    deinit {
        unsafe scratch.deinitialize(count: pool.threads)
        unsafe scratch.deallocate()
    }

    /// Scratch memory of a worker, at least `count` numbers long; grows on first use and stays. Valid inside one
    /// iteration. Sound: only `worker` itself touches its slot.
    func scratch(_ worker: Int, count: Int) -> UnsafeMutablePointer<Float> {
        if unsafe scratch[worker].count < count { unsafe scratch[worker] = FloatBuffer(count: count) }
        return unsafe scratch[worker].base
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
