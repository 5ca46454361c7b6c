internal import Synchronization

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// Ctrl-C, or a scheduler's request to end, as a question that long work asks between two pieces. A second one ends the
/// program at once.
///
/// A thread of its own waits for the signals, and all others have them blocked. A handler would run on whatever stack the
/// interrupted code has, and the matrix kernels that oneDNN 2.6 makes for AVX-512 use the stack pointer for other things: the frame
/// of the signal then overwrites the heap.
enum Interruption {
    private static let requested = Atomic<Bool>(false)

    static var isRequested: Bool { requested.load(ordering: .relaxed) }

    private static var requests: sigset_t {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for request in [SIGINT, SIGTERM] { unsafe sigaddset(&set, request) }
        return set
    }

    /// Threads that are made later inherit what is blocked, so this comes before all others.
    static func install() {
        // A reader that goes away, such as `head`, ends the output and not the work.
        _ = signal(SIGPIPE, SIG_IGN)
        // A file that outgrows the user's limit is an error of the write, as a full disk is, and not the end.
        _ = signal(SIGXFSZ, SIG_IGN)
        for request in [SIGINT, SIGTERM] { _ = signal(request, SIG_DFL) }
        var set = requests
        unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
        var attributes = pthread_attr_t()
        unsafe pthread_attr_init(&attributes)
        unsafe pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        defer { unsafe pthread_attr_destroy(&attributes) }
        #if canImport(Darwin)
            var thread: pthread_t?
        #else
            var thread = pthread_t()
        #endif
        let failure = unsafe pthread_create(&thread, &attributes, { _ in unsafe Interruption.wait() }, nil)
        // Without it the signals end the program, as they do by themselves.
        if failure != 0 { unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil) }
    }

    private static func wait() -> UnsafeMutableRawPointer? {
        var set = requests
        var number: Int32 = 0
        guard unsafe sigwait(&set, &number) == 0 else { return nil }
        requested.store(true, ordering: .relaxed)
        // The next one has its usual meaning, and this thread is the one that takes it.
        unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
        while true { pause() }
    }
}
