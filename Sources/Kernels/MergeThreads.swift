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

/// A few threads for one job.
public enum WorkerThreads {
    /// Calls `body` with 0, 1, …, `count` − 1, each on a thread of its own (the first on the caller's), and returns when
    /// all have returned. Where the system gives no thread the caller runs the call itself, after its own, so the calls
    /// may not wait for one another's start.
    public static func run(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
        var threads: [pthread_t] = []
        var refused: [Int] = []
        for number in 1..<max(count, 1) {
            let job = unsafe Unmanaged.passRetained(Job { body(number) })
            #if canImport(Darwin)
                var thread: pthread_t?
            #else
                var thread = pthread_t()
            #endif
            // Sound: the thread takes over the reference that was retained for it.
            let result = unsafe pthread_create(
                &thread, nil,
                { argument in
                    #if canImport(Darwin)
                        let argument: UnsafeMutableRawPointer? = argument
                    #endif
                    if let argument = unsafe argument { unsafe Unmanaged<Job>.fromOpaque(argument).takeRetainedValue().body() }
                    return nil
                }, job.toOpaque())
            if result == 0 {
                #if canImport(Darwin)
                    if let thread { threads.append(thread) }
                #else
                    threads.append(thread)
                #endif
            } else {
                unsafe job.release()
                refused.append(number)
            }
        }
        body(0)
        for number in refused { body(number) }
        for thread in threads { joinThread(thread) }
    }

    private static func joinThread(_ thread: pthread_t) {
        #if canImport(Darwin)
            unsafe pthread_join(thread, nil)
        #else
            pthread_join(thread, nil)
        #endif
    }

    private final class Job: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
}
