internal import ArgumentParser
internal import JSON
internal import Kernels

/// What every command that computes takes.
struct ThreadOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("Threads to use; all processors without it. The result does not depend on it.", valueName: "n"))
    var threads: Int?

    var count: Int { threads ?? ThreadPool.processorCount }

    func validate() throws {
        if let threads, !(1...1024).contains(threads) { throw ValidationError("--threads must be from 1 to 1024") }
    }

    func makeCompute(precision: Precision = .f32) throws -> Compute {
        guard precision.isSupported else {
            throw UsageError(
                "this processor has no products of \(precision.rawValue); use --precision f32, which takes base weights of every type "
                    + "(a run keeps the precision that it began with)")
        }
        return Compute(pool: try makePool(), precision: precision)
    }

    func makePool() throws -> ThreadPool {
        guard let pool = ThreadPool(threads: count) else {
            throw UsageError("the system gives no \(count) threads; ask for fewer with --threads", status: .inputOutput)
        }
        return pool
    }
}

/// What every command that prints takes.
struct OutputOptions: ParsableArguments {
    @Flag(name: .long, help: "Print nothing but errors.")
    var quiet = false

    @Flag(name: .long, help: "Report as JSON on standard output.")
    var json = false

    func say(_ text: String) {
        if !quiet, !json { Terminal.line(text) }
    }
}

/// What every command takes whose report scripts keep: JSON on standard output, or in a file beside the text.
struct ReportOptions: ParsableArguments {
    /// What stands for standard output where a file is named.
    static let standardOutput = "-"

    @Flag(name: .long, help: "Print nothing but errors.")
    var quiet = false

    @Option(
        name: .long, defaultAsFlag: ReportOptions.standardOutput, parsing: .next,
        help: ArgumentHelp("Report as JSON, in a file or, where none is named, on standard output.", valueName: "file"), completion: .file())
    var json: String?

    /// The file that the report goes to.
    var jsonFile: String? { json == Self.standardOutput ? nil : json }
    var isJSONOnStandardOutput: Bool { json == Self.standardOutput }
    /// Whether standard output is for people.
    var isText: Bool { !quiet && !isJSONOnStandardOutput }

    func say(_ text: String) {
        if isText { Terminal.line(text) }
    }

    func say(_ lines: [String]) {
        if isText { Terminal.lines(lines) }
    }

    /// What cannot be read or written is said before the work is done.
    ///
    /// - Parameter others: reports that are written beside it.
    func refuseUnwritable(_ others: [String] = [], replacing: Bool, inputs: [Input]) throws {
        try refuseUnwritableFiles(others + [jsonFile].compactMap(\.self), replacing: replacing, inputs: inputs)
    }

    func write(_ report: JSONValue, replacing: Bool) throws {
        if let jsonFile { try writeReport(report.reported() + "\n", to: jsonFile, replacing: replacing) }
        if isJSONOnStandardOutput { Terminal.json(report) }
    }
}
