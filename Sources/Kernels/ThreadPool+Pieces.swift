internal import Synchronization

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

extension ThreadPool {
    /// Calls `body` for 0..<count, several at once and in any order.
    ///
    /// - Parameter state: what each worker keeps from piece to piece.
    /// - Throws: what `body` threw for the first number that failed; later ones may not have been called.
    public static func forEach<State>(
        _ count: Int, threads: Int, state: @Sendable () -> State, _ body: @Sendable (_ piece: Int, _ state: inout State) throws -> Void
    ) throws {
        let next = Atomic<Int>(0)
        let failure = Mutex<(piece: Int, error: any Error)?>(nil)
        runOnce(workers: max(1, min(threads, count))) { _ in
            var state = state()
            while true {
                // Numbers are taken in order, so all before the first that fails are called.
                let piece = next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard piece < failure.withLock({ $0?.piece ?? count }) else { return }
                do { try body(piece, &state) } catch {
                    failure.withLock { if $0.map({ piece < $0.piece }) ?? true { $0 = (piece, error) } }
                }
            }
        }
        if let (_, error) = failure.withLock({ $0 }) { throw error }
    }

    public static func forEach(_ count: Int, threads: Int, _ body: @Sendable (Int) throws -> Void) throws {
        try forEach(count, threads: threads, state: {}) { number, _ in try body(number) }
    }

    /// Makes pieces 0..<count side by side and hands them over one after the other, in the order of their numbers.
    ///
    /// - Parameters:
    ///   - state: what a piece is made in and kept in until it is handed over; then another one uses it. There are at most
    ///     twice as many as threads.
    ///   - make: runs at any time, on any worker.
    ///   - hand: runs after `make` of the same piece, when all pieces before have been handed over; on any worker, but never
    ///     two at once.
    /// - Throws: what `make` or `hand` threw for the first piece that failed; no later piece is handed over.
    public static func runInOrder<State>(
        _ count: Int, threads: Int, state: @Sendable () -> State, make: @Sendable (_ piece: Int, _ state: inout State) throws -> Void,
        hand: @Sendable (_ piece: Int, _ state: inout State) throws -> Void
    ) throws {
        let workers = max(1, min(threads, count))
        let line = PieceLine<State>(count: count, states: workers == 1 ? 1 : 2 * workers)
        runOnce(workers: workers) { _ in
            while let (piece, free) = line.takeNext() {
                let state = free ?? PieceLine.Box(state())
                let result = Result { try make(piece, &state.value) }
                line.add(PieceLine.Made(state: state, result: result), number: piece, hand: hand)
            }
        }
        if let error = line.failure { throw error }
    }
}

/// Pieces on their way from the workers that make them to whoever hands them over.
///
/// No worker waits for a piece before its own: it leaves what it made in the line and makes another, and the worker that brings
/// the piece whose turn it is hands over that one and all that follow it.
@safe private final class PieceLine<State>: @unchecked Sendable {
    // Sound: what changes is touched only under the mutex, but for the piece that is being handed over, which is then in nobody
    // else's hands, and for `failure` after all workers have ended.

    /// A state behind a reference, so that passing it on does not make a second owner of what it holds, whose first change would
    /// then copy it.
    final class Box {
        var value: State

        init(_ value: State) {
            self.value = value
        }
    }

    struct Made {
        let state: Box
        let result: Result<Void, any Error>
    }

    private nonisolated(unsafe) let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private nonisolated(unsafe) let changed: UnsafeMutablePointer<pthread_cond_t>
    private let count: Int
    private var nextToMake = 0
    private var nextToHand = 0
    private var isHanding = false
    private var made: [Int: Made] = [:]
    private var free: [Box] = []
    /// How many more may be made.
    private var statesLeft: Int
    private(set) var failure: (any Error)?

    init(count: Int, states: Int) {
        self.count = count
        statesLeft = states
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

    /// The next piece to make and a state for it, `nil` for a new one, as soon as there is one. Whoever has a piece has its state
    /// too, so the piece whose turn it is never waits for one.
    func takeNext() -> (piece: Int, state: Box?)? {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while free.isEmpty, statesLeft == 0, nextToMake < count, failure == nil { unsafe pthread_cond_wait(changed, mutex) }
        guard nextToMake < count, failure == nil else { return nil }
        let state = free.popLast()
        if state == nil { statesLeft -= 1 }
        defer { nextToMake += 1 }
        return (nextToMake, state)
    }

    /// Puts a piece into the line, and hands over those whose turn has come unless another worker does.
    func add(_ piece: Made, number: Int, hand: (Int, inout State) throws -> Void) {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        made[number] = piece
        guard !isHanding else { return }
        isHanding = true
        while failure == nil, let first = made.removeValue(forKey: nextToHand) {
            let number = nextToHand
            unsafe pthread_mutex_unlock(mutex)
            // A piece that could not be made has waited like the others, so that the first fault is the one reported.
            let result = Result {
                try first.result.get()
                try hand(number, &first.state.value)
            }
            unsafe pthread_mutex_lock(mutex)
            nextToHand += 1
            free.append(first.state)
            if case .failure(let error) = result { failure = error }
            unsafe pthread_cond_broadcast(changed)
        }
        isHanding = false
    }
}
