import FileIO
import Foundation
import Synchronization

/// The program as a user has it: arguments in; exit code, standard output and standard error out.
struct Executable {
    struct Outcome {
        var status: Int32
        var output: String
        var errors: String

        var lines: [Substring] { output.split(separator: "\n") }
    }

    /// The program of this build lies beside the tests.
    static let path = FileSystem.join(FileSystem.parent(of: CommandLine.arguments[0]), "oplora")

    /// Runs the program to its end.
    static func run(
        _ arguments: [String], fileSizeLimit: Int? = nil, memoryLimit: Int? = nil, environment: [String: String] = [:]
    ) throws -> Outcome {
        try Executable(arguments, fileSizeLimit: fileSizeLimit, memoryLimit: memoryLimit, environment: environment).wait()
    }

    static func run(_ arguments: String...) throws -> Outcome { try run(arguments) }

    private let process = Process()
    private let folder: String

    /// Starts the program.
    ///
    /// - Parameters:
    ///   - fileSizeLimit: bytes that a file may have before writing to it fails, in units of 512.
    ///   - memoryLimit: bytes of address space before the program is given no more, in units of 1024.
    ///   - ignoresHangup: whether it starts as `nohup` would start it.
    init(
        _ arguments: [String], fileSizeLimit: Int? = nil, memoryLimit: Int? = nil, environment: [String: String] = [:], ignoresHangup: Bool = false
    ) throws {
        folder = "/tmp/oplora-test-\(UInt64.random(in: 0 ... .max))"
        try FileSystem.createFolder(folder)
        if fileSizeLimit != nil || memoryLimit != nil {
            process.executableURL = URL(fileURLWithPath: "/bin/sh")
            let limits = [fileSizeLimit.map { $0 / 512 }, memoryLimit.map { $0 / 1024 }].map { $0.map(String.init) ?? "unlimited" }
            process.arguments = ["-c", #"ulimit -f "$1"; ulimit -v "$2"; shift 2; exec "$@""#, "sh"] + limits + [Self.path] + arguments
        } else {
            process.executableURL = URL(fileURLWithPath: Self.path)
            process.arguments = arguments
        }
        // Files and not pipes: nobody has to drain them for the program to go on.
        for name in ["output", "errors"] { try Data().write(to: URL(fileURLWithPath: FileSystem.join(folder, name))) }
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = FileHandle(forWritingAtPath: FileSystem.join(folder, "output"))
        process.standardError = FileHandle(forWritingAtPath: FileSystem.join(folder, "errors"))
        // The thread of a test may have signals blocked, and a child inherits that.
        var all = sigset_t(), before = sigset_t()
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_UNBLOCK, &all, &before)
        defer { unsafe pthread_sigmask(SIG_SETMASK, &before, nil) }
        // So may this process have been started; a child inherits that, too.
        try Self.hangup.withLock { _ in
            let handler = signal(SIGHUP, ignoresHangup ? SIG_IGN : SIG_DFL)
            defer { signal(SIGHUP, handler) }
            try process.run()
        }
    }

    /// What this process does when its terminal closes, which one start at a time may change.
    private static let hangup = Mutex(())

    /// Standard output and standard error until now.
    var output: String { get throws { try text("output") } }
    var errors: String { get throws { try text("errors") } }

    /// Waits until the program ends, and says how many bytes of memory it has had at once; of what a child of a test has had, the
    /// system's own account counts the test, too.
    func waitForPeak() throws -> (outcome: Outcome, peak: Int) {
        var peak = 0
        while process.isRunning {
            let status = (try? String(contentsOfFile: "/proc/\(process.processIdentifier)/status", encoding: .utf8)) ?? ""
            let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
            peak = max(peak, (line?.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) * 1024)
            usleep(1000)
        }
        return (try wait(), peak)
    }

    /// Whether the program has come so far that it holds a signal back for its own thread, as the kernel says it.
    func waits(forSignal signal: Int32) -> Bool {
        guard let status = try? String(contentsOfFile: "/proc/\(process.processIdentifier)/status", encoding: .utf8),
            let line = status.split(separator: "\n").first(where: { $0.hasPrefix("SigBlk:") }),
            let mask = UInt64(line.dropFirst("SigBlk:".count).drop(while: \.isWhitespace), radix: 16)
        else { return false }
        return mask >> UInt64(signal - 1) & 1 == 1
    }

    var isRunning: Bool { process.isRunning }

    func send(signal number: Int32) { kill(process.processIdentifier, number) }

    /// Waits until `condition` holds of the output, or the program ends.
    func wait(until condition: (String) -> Bool) throws {
        while process.isRunning, try !condition(output) { usleep(2000) }
    }

    func wait() throws -> Outcome {
        process.waitUntilExit()
        let outcome = Outcome(
            status: process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus, output: try text("output"),
            errors: try text("errors"))
        try FileSystem.remove(folder)
        return outcome
    }

    private func text(_ name: String) throws -> String {
        String(decoding: try FileSystem.contents(of: FileSystem.join(folder, name), limit: 1 << 24), as: UTF8.self)
    }
}
