internal import CFileIO
internal import FileIO
internal import Synchronization

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// Ctrl-C, a scheduler's request to end, and a terminal that is closed. The program removes what it has not finished, says so, and ends
/// with exit code 130, unless a command has something to save and asks for the requests itself; then a second one ends it.
///
/// A thread of its own waits for the signals, and all others have them blocked. A handler would run on whatever stack the
/// interrupted code has, and the matrix kernels that oneDNN 2.6 makes for AVX-512 use the stack pointer for other things: the frame
/// of the signal then overwrites the heap. The same thread hears of faults of mapped files (`oplora_faults.h`).
enum Interruption {
    private static let requested = Atomic<Bool>(false)
    private static let awaited = Atomic<Bool>(false)

    /// Signals that are one request: a wrapper's SIGTERM follows the terminal's SIGINT, or SIGHUP a SIGTERM.
    private static let pause = Duration.seconds(1)

    static var isRequested: Bool { requested.load(ordering: .relaxed) }

    /// From here on the command asks `isRequested` and ends by itself.
    static func awaitRequests() { awaited.store(true, ordering: .relaxed) }

    private static func set(of signals: [Int32]) -> sigset_t {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for number in signals { unsafe sigaddset(&set, number) }
        return set
    }

    /// Threads that are made later inherit what is blocked, so this comes before all others.
    static func install() {
        // A reader that goes away, such as `head`, ends the output and not the work.
        _ = signal(SIGPIPE, SIG_IGN)
        // A file that outgrows the user's limit is an error of the write, as a full disk is, and not the end.
        _ = signal(SIGXFSZ, SIG_IGN)
        // Under nohup a run goes on when its terminal is closed.
        let requests = [SIGINT, SIGTERM] + (oplora_is_ignored(SIGHUP) ? [] : [SIGHUP])
        for request in requests { _ = signal(request, SIG_DFL) }
        var set = set(of: requests)
        unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
        oplora_take_faults()
        var attributes = pthread_attr_t()
        unsafe pthread_attr_init(&attributes)
        unsafe pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        defer { unsafe pthread_attr_destroy(&attributes) }
        #if canImport(Darwin)
            var thread: pthread_t?
        #else
            var thread = pthread_t()
        #endif
        // Blocked in that thread from its beginning, and in this one until it is there.
        var fault = Self.set(of: [SIGBUS])
        unsafe pthread_sigmask(SIG_BLOCK, &fault, nil)
        let failure = unsafe pthread_create(&thread, &attributes, { _ in unsafe Interruption.listen() }, nil)
        // Without it the signals end the program, as they do by themselves.
        if failure != 0 { unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil) } else { _ = oplora_watch_faults(thread) }
        unsafe pthread_sigmask(SIG_UNBLOCK, &fault, nil)
    }

    private static func listen() -> UnsafeMutableRawPointer? {
        var awaitedSignals = set(of: [SIGINT, SIGTERM, SIGHUP, SIGBUS])
        var first: ContinuousClock.Instant?
        while true {
            var number: Int32 = 0
            guard unsafe sigwait(&awaitedSignals, &number) == 0 else { return nil }
            if number == SIGBUS {
                endOfFault()
            } else if !awaited.load(ordering: .relaxed) || first.map({ ContinuousClock.now - $0 > pause }) ?? false {
                end(.interrupted)
            } else {
                requested.store(true, ordering: .relaxed)
                first = first ?? .now
            }
        }
    }

    /// A file was cut, or the disk cannot be read. What the thread that met it was about to do cannot be known, so it does nothing more.
    private static func endOfFault() {
        if let place = unsafe oplora_fault_place(), let error = unsafe MappedFile.fault(at: place) {
            end(ExitStatus.status(of: error), error)
        }
        oplora_let_fault()
    }

    private static func end(_ status: ExitStatus, _ error: FileError? = nil) -> Never {
        Unfinished.abandon { hadAny, published in
            if Terminal.errorIsTerminal { Terminal.progress("") }
            let reason = error.map { "\($0)" } ?? "interrupted"
            let rest =
                published.isEmpty ? (hadAny ? "; nothing was published" : "") : "; written before, and whole: \(published.joined(separator: ", "))"
            Terminal.error("oplora: \(reason)\(rest)")
            _exit(status.rawValue)
        }
    }
}
