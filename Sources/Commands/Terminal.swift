internal import JSON
internal import Synchronization
internal import VisibleText

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// Standard output and standard error.
enum Terminal {
    /// Whether something could not be written to standard output, though somebody reads it.
    static var hasLostOutput: Bool { outputFailed.load(ordering: .relaxed) }
    private static let outputFailed = Atomic<Bool>(false)

    static var errorIsTerminal: Bool { isatty(STDERR_FILENO) == 1 }

    // Whatever is printed may name what is in files from strangers, so it goes through one of these. A line ends only where the program
    // ends it, nothing in it is invisible or moves the cursor, and none begins like a command of a workflow.

    /// A line on standard output, at once, also into a pipe.
    static func line(_ text: String) { write(text.asLogLine + "\n", to: STDOUT_FILENO) }

    /// Lines on standard output, all at once.
    static func lines(_ texts: [String]) {
        var all = ""
        for text in texts { all += text.asLogLine + "\n" }
        write(all, to: STDOUT_FILENO)
    }

    /// A line of JSON on standard output, which reads back to the same value.
    static func json(_ value: JSONValue) { write(value.reported() + "\n", to: STDOUT_FILENO) }

    /// A command of a workflow that the program gives itself, its texts encoded for it already.
    static func command(_ text: String) { write(text.visibleWithoutMarks + "\n", to: STDOUT_FILENO) }

    /// A line on standard error.
    static func error(_ text: String) { write(text.asLogLine + "\n", to: STDERR_FILENO) }

    /// Text of the program alone, such as its help or a completion script.
    static func ownText(_ text: String) { write(text + "\n", to: STDOUT_FILENO) }

    /// Replaces the current line on standard error; for progress on a terminal.
    static func progress(_ text: String) { write("\r\u{1B}[2K" + text.visible, to: STDERR_FILENO) }

    private static func write(_ text: String, to descriptor: Int32) {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            // Sound: the pointer is used only during the call. A closed pipe ends the output, not the work.
            let written = unsafe rest.withUnsafeBytes { unsafe systemWrite(descriptor, $0.baseAddress, $0.count) }
            guard written > 0 else {
                if written < 0, errno == EINTR { continue }
                if written < 0, errno != EPIPE, descriptor == STDOUT_FILENO { outputFailed.store(true, ordering: .relaxed) }
                return
            }
            rest = rest.dropFirst(written)
        }
    }

    private static func systemWrite(_ descriptor: Int32, _ start: UnsafeRawPointer?, _ count: Int) -> Int {
        #if canImport(Darwin)
            unsafe Darwin.write(descriptor, start, count)
        #else
            unsafe Glibc.write(descriptor, start, count)
        #endif
    }
}
