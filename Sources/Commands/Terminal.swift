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

/// Numbers as people read them.
enum Format {
    /// A share from 0 to 1 as percent, rounded down, so that what is not all does not read as all.
    static func percent(_ share: Double) -> String { fixed((share * 10_000).rounded(.down) / 100, 2) }

    /// A number with a fixed count of decimals.
    static func fixed(_ value: Double, _ decimals: Int) -> String {
        guard value.isFinite else { return "\(value)" }
        guard abs(value) < 1e15 else { return "\(value)" }
        var factor = 1.0
        for _ in 0..<decimals { factor *= 10 }
        let scaled = (value * factor).rounded()
        let digits = String(Int(abs(scaled)))
        let padded = String(repeating: "0", count: max(0, decimals + 1 - digits.count)) + digits
        let sign = scaled < 0 ? "-" : ""
        return decimals == 0 ? sign + padded : sign + padded.dropLast(decimals) + "." + padded.suffix(decimals)
    }

    /// A whole number as it is, any other with four decimals: `2`, `0.7071`.
    static func number(_ value: Double) -> String { fixed(value, value == value.rounded() ? 0 : 4) }

    /// A large count in few digits: `134.5 M`.
    static func short(_ value: Int) -> String {
        let units = [(1e12, "T"), (1e9, "G"), (1e6, "M")]
        for (size, unit) in units where Double(value) >= size { return fixed(Double(value) / size, 1) + " " + unit }
        return count(value)
    }

    /// A small or large number with three significant digits.
    static func scientific(_ value: Double) -> String {
        guard value.isFinite, value != 0 else { return "\(value)" }
        var (mantissa, exponent) = (abs(value), 0)
        while mantissa >= 9.995 { (mantissa, exponent) = (mantissa / 10, exponent + 1) }
        while mantissa < 0.9995 { (mantissa, exponent) = (mantissa * 10, exponent - 1) }
        return (value < 0 ? "-" : "") + fixed(mantissa, 2) + "e\(exponent)"
    }

    /// Bytes in decimal units.
    static func bytes(_ count: Int) -> String {
        let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
        for (size, unit) in units where Double(count) >= size { return fixed(Double(count) / size, 2) + " " + unit }
        return "\(count) bytes"
    }

    /// A share in per cent: `66.6%`; one that is small is not nothing.
    static func percent(_ part: Int, of whole: Int) -> String {
        let percent = whole == 0 ? 0 : 100 * Double(part) / Double(whole)
        return part > 0 && percent < 0.05 ? "<0.1%" : fixed(percent, 1) + "%"
    }

    /// A count with thousands separated.
    static func count(_ value: Int) -> String {
        var digits = Array(String(abs(value)))
        var position = digits.count - 3
        while position > 0 {
            digits.insert(",", at: position)
            position -= 3
        }
        return (value < 0 ? "-" : "") + String(digits)
    }

    /// How many things: `1 tensor`, `1,200 tensors`.
    static func count(_ value: Int, _ thing: String) -> String { "\(count(value)) \(thing)\(value == 1 ? "" : "s")" }

    /// A span of time: `4m 05s`.
    static func duration(_ seconds: Double) -> String {
        let total = Int(max(0, seconds).rounded())
        if total < 60 { return "\(total)s" }
        func two(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
        return total < 3600 ? "\(total / 60)m \(two(total % 60))s" : "\(total / 3600)h \(two(total / 60 % 60))m"
    }
}
