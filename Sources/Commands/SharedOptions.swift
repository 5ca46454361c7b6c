internal import ArgumentParser
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
