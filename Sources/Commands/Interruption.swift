internal import Synchronization

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// Ctrl-C, or a scheduler's request to end, as a question that long work asks between two pieces. A second one ends the
/// program at once.
enum Interruption {
    private static let requested = Atomic<Bool>(false)

    static var isRequested: Bool { requested.load(ordering: .relaxed) }

    static func install() {
        for request in [SIGINT, SIGTERM] {
            _ = signal(request) { number in
                // An atomic store is all that a signal handler does, besides giving the signal its usual meaning back.
                Interruption.requested.store(true, ordering: .relaxed)
                _ = signal(number, SIG_DFL)
            }
        }
        // A reader that goes away, such as `head`, ends the output and not the work.
        _ = signal(SIGPIPE, SIG_IGN)
        // A file that outgrows the user's limit is an error of the write, as a full disk is, and not the end.
        _ = signal(SIGXFSZ, SIG_IGN)
    }
}
