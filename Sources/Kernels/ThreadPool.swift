internal import CKernels
internal import COneDNN

/// Threads that run counted loops.
///
/// Work is always cut into the same pieces, whatever the number of threads, and each piece is computed by one thread:
/// so results do not depend on how many threads there are or which of them was faster.
@safe public final class ThreadPool: Sendable {
    public let threads: Int
    private nonisolated(unsafe) let pool: OpaquePointer

    /// One turn of a loop. It may write only what belongs to its `index`, or scratch that belongs to its `worker`.
    public typealias Iteration = @Sendable (_ index: Int, _ worker: Int) -> Void

    /// - Parameter threads: at least 1; the calling thread is the first of them.
    /// - Returns: `nil` when the system gives no more threads.
    public init?(threads: Int) {
        precondition(threads >= 1)
        guard let pool = unsafe oplora_pool_create(Int32(threads), { omp_set_num_threads(1) }) else { return nil }
        unsafe self.pool = pool
        self.threads = threads
    }

    deinit { unsafe oplora_pool_destroy(pool) }

    /// Runs `body` for 0..<count and returns when all have ended. Not to be called from inside a loop of the same pool.
    public func run(_ count: Int, _ body: Iteration) {
        omp_set_num_threads(1)
        // Sound: the loop ends before `run` returns, so the closure does not outlive this call.
        withoutActuallyEscaping(body) { body in
            var body = body
            unsafe withUnsafeMutablePointer(to: &body) { context in
                unsafe oplora_pool_run(
                    pool, count,
                    { context, index, worker in
                        unsafe context?.assumingMemoryBound(to: Iteration.self).pointee(index, Int(worker))
                    }, context)
            }
        }
    }

    /// Runs `body` once for each of `workers` on a pool made for this job alone; on the calling thread where the system
    /// gives no more. A call may come only after another has ended, so calls may not wait for one another's start.
    public static func runOnce(workers: Int, _ body: @Sendable (_ worker: Int) -> Void) {
        withoutActuallyEscaping(body) { body in
            guard let pool = ThreadPool(threads: workers) ?? ThreadPool(threads: 1) else { return (0..<workers).forEach(body) }
            pool.run(workers) { index, _ in body(index) }
        }
    }

    /// The number of processors that the system shows.
    public static var processorCount: Int { ProcessorCount.online }
}
