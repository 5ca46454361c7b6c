internal import Synchronization

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// A line in which workers wait until their piece is the next one.
///
/// Pieces are computed side by side and handed over one after the other, in the order of their numbers.
@safe public final class OrderedTurn: @unchecked Sendable {
    // Sound: `next` and `isClosed` are touched only under the mutex.
    private nonisolated(unsafe) let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private nonisolated(unsafe) let changed: UnsafeMutablePointer<pthread_cond_t>
    private var next = 0
    private var isClosed = false

    public init() {
        unsafe mutex = .allocate(capacity: 1)
        unsafe changed = .allocate(capacity: 1)
        unsafe pthread_mutex_init(mutex, nil)
        unsafe pthread_cond_init(changed, nil)
    }

    deinit {
        unsafe pthread_cond_destroy(changed)
        unsafe pthread_mutex_destroy(mutex)
        unsafe changed.deallocate()
        unsafe mutex.deallocate()
    }

    /// Waits until every piece before `number` has been handed over.
    ///
    /// - Returns: false when the line was closed meanwhile and the piece must be dropped.
    public func wait(for number: Int) -> Bool {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while next != number, !isClosed { unsafe pthread_cond_wait(changed, mutex) }
        return !isClosed
    }

    /// Says that the piece whose turn it was has been handed over.
    public func advance() {
        unsafe pthread_mutex_lock(mutex)
        next += 1
        unsafe pthread_cond_broadcast(changed)
        unsafe pthread_mutex_unlock(mutex)
    }

    /// Sends everybody home.
    public func close() {
        unsafe pthread_mutex_lock(mutex)
        isClosed = true
        unsafe pthread_cond_broadcast(changed)
        unsafe pthread_mutex_unlock(mutex)
    }
}

extension ThreadPool {
    /// Calls `body` for 0..<count, several at once and in any order.
    ///
    /// - Throws: what `body` threw for the first number that failed; later ones may not have been called.
    public static func forEach(_ count: Int, threads: Int, _ body: @Sendable (Int) throws -> Void) throws {
        try runInOrder(count, threads: threads) {
        } make: { number, _ in
            try body(number)
        } hand: { _, _ in
        }
    }

    /// Makes pieces 0..<count side by side and hands them over one after the other, in the order of their numbers.
    ///
    /// - Parameters:
    ///   - state: what each worker keeps from piece to piece.
    ///   - make: runs at any time, on any worker.
    ///   - hand: runs after `make` of the same piece, on the same worker, when all pieces before have been handed over;
    ///     never two at once.
    /// - Throws: what `make` or `hand` threw for the first piece that failed; no later piece is handed over.
    public static func runInOrder<State>(
        _ count: Int, threads: Int, state: @Sendable () -> State, make: @Sendable (_ piece: Int, _ state: inout State) throws -> Void,
        hand: @Sendable (_ piece: Int, _ state: inout State) throws -> Void
    ) throws {
        let next = Atomic<Int>(0)
        let turn = OrderedTurn()
        let failure = Mutex<(any Error)?>(nil)
        runOnce(workers: max(1, min(threads, count))) { _ in
            var state = state()
            while true {
                let piece = next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard piece < count else { return }
                let made = Result { try make(piece, &state) }
                // A piece that failed waits for its turn like the others, so that the first fault is the one reported.
                guard turn.wait(for: piece) else { return }
                do {
                    try made.get()
                    try hand(piece, &state)
                } catch {
                    failure.withLock { $0 = error }
                    return turn.close()
                }
                turn.advance()
            }
        }
        if let error = failure.withLock({ $0 }) { throw error }
    }
}
