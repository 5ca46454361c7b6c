internal import ArgumentParser
internal import FileIO
internal import VisibleText

#if canImport(Darwin)
    internal import Darwin
#else
    internal import Glibc
#endif

/// The program: parses the arguments, runs one command, and turns its outcome into an exit code.
public enum Program {
    static let version = "0.1.0"

    public static func main() -> Never {
        Interruption.install()
        let arguments = Arguments(CommandLine.arguments.dropFirst())
        var inputs: (any TakesModelsAndAdapters)?
        MappedFile.watch()
        do {
            try arguments.refuseUnknownCommand()
            try arguments.refuseRepeatedOptions()
            var command = try RootCommand.parseAsRoot(arguments.words)
            inputs = command as? any TakesModelsAndAdapters
            try command.run()
            try MappedFile.requireWhole()
            try checkOutput()
            exit(ExitStatus.done.rawValue)
        } catch {
            let error = cause(of: error)
            guard let status = ExitStatus(of: Terminal.hasLostOutput ? lostOutput : error) else { exitParsing(arguments, error) }
            if Terminal.hasLostOutput, error is Verdict { Terminal.error("oplora: \(lostOutput)") }
            let swapped = inputs?.swappedArguments(error)
            // A command that threw a verdict has said why.
            if let message = swapped ?? (error is Verdict ? nil : Remedy.sentence(on: error)) { Terminal.error("oplora: \(message)") }
            exit((swapped == nil || error is Verdict ? status : .malformedInput).rawValue)
        }
    }
}

extension Program {
    /// Ends with what the argument parser says: help that was asked for, or why the arguments make no sense. They may hold anything.
    private static func exitParsing(_ arguments: Arguments, _ error: any Error) -> Never {
        let code = RootCommand.exitCode(for: error)
        let (message, whole) = (RootCommand.message(for: error), RootCommand.fullMessage(for: error))
        if code.isSuccess {
            Terminal.ownText(wrapped(whole).joined(separator: "\n"))
            if Terminal.hasLostOutput {
                Terminal.error("oplora: \(lostOutput)")
                exit(ExitStatus.inputOutput.rawValue)
            }
        } else if let unknown = arguments.unknownOption() {
            for line in wrapped(unknown) { Terminal.error(line) }
        } else {
            let start = "Error: " + message
            Terminal.error(whole.hasPrefix(start) ? start : whole)
            // What follows is how the command is used.
            if whole.hasPrefix(start) {
                for line in wrapped(String(whole.dropFirst(start.count))) where !line.isEmpty { Terminal.error(line) }
            }
        }
        exit(code.rawValue)
    }

    /// The lines of a text of the argument parser, which breaks all but the usage.
    private static func wrapped(_ text: String) -> [String] {
        text.split(separator: "\n", omittingEmptySubsequences: false).flatMap { WrappedText.usage(String($0)) }
    }

    private static var lostOutput: UsageError {
        UsageError("standard output could not be written whole; the disk that it goes to may be full", status: .inputOutput)
    }

    /// A file that was cut while it was read is behind whatever else was found.
    private static func cause(of error: any Error) -> any Error {
        do { try MappedFile.requireWhole() } catch { return error }
        return error
    }

    private static func checkOutput() throws {
        if Terminal.hasLostOutput { throw lostOutput }
    }
}

struct RootCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "oplora",
        abstract: "Train, collapse, merge, convert, verify and inspect low-rank adapters.",
        discussion: """
            Exit codes: 0 done, and every check held; 1 a check said no; 3 the files cannot decide; 64 wrong usage; 65 malformed or \
            inconsistent input; 66 input missing; 70 a defect in oplora; 73 output exists or cannot be made; 74 input or output failed; \
            130 interrupted.
            """,
        version: "oplora \(Program.version)",
        subcommands: [
            InspectCommand.self, TrainCommand.self, CollapseCommand.self, MergeCommand.self, UnmergeCommand.self, ConvertCommand.self,
            ExtractCommand.self, ResizeCommand.self, CombineCommand.self, LintCommand.self, VerifyCommand.self, DiffCommand.self,
            CheckCommand.self, PackCommand.self, UnpackCommand.self, SalvageCommand.self, TokenizeCommand.self, LogitsCommand.self,
        ])
}
