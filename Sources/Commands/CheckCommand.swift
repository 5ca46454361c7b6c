internal import ArgumentParser
internal import FileIO
internal import NativeCheckpoint
internal import Safetensors
internal import Weights

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check that files are what their formats call for.",
        discussion: """
            Example:
              oplora check model.safetensors run.opck --deep

            Takes safetensors files, folders of them with or without an index, and .opck files. Prints one line for each path: \
            `PATH: ok`, or `PATH: CODE: what is wrong`. Exit code 1 if any is bad, 74 if one cannot be read. In strict mode `PATH: ok (…)` names what the \
            format permits and is still worth knowing: data that is not aligned, an index with a wrong total_size.
            """)

    @Argument(help: ArgumentHelp("Files or folders.", valueName: "path"), completion: .file()) var paths: [String]
    @Option(choice: "The written format, or what the reference safetensors library accepts", valueName: "mode") var mode = SafetensorsMode.strict
    @Flag(help: "Read all data of .opck files, too, and check it against its checksums.") var deep = false
    @Flag(help: "Print only the paths that are bad.") var quiet = false

    func run() throws {
        var (isAnyBad, isAnyUnreadable) = (false, false)
        for path in paths {
            switch try finding(at: path) {
            case .fault(let fault):
                isAnyBad = true
                Terminal.line("\(path): \(fault)")
            case .unreadable(let fault):
                isAnyUnreadable = true
                Terminal.line("\(path): \(fault)")
            case .sound(let remarks):
                if !quiet { Terminal.line("\(path): ok" + (remarks.isEmpty ? "" : " (\(remarks.joined(separator: "; ")))")) }
            }
        }
        if isAnyBad { throw Verdict(status: .checkFailed) }
        if isAnyUnreadable { throw Verdict(status: .inputOutput) }
    }

    private enum Finding {
        /// With remarks on what is permitted.
        case sound([String])
        /// `CODE: message`.
        case fault(String)
        /// The same of what the system does not let read, whatever it holds.
        case unreadable(String)
    }

    private func finding(at path: String) throws -> Finding {
        var remarks: [String] = []
        do {
            if FileSystem.isFolder(path) {
                guard mode == .strict else {
                    throw UsageError("\(path): --mode reference is for single files, for the library reads no folders; name the files in it")
                }
                let weights = try ModelWeights(path: path)
                remarks = weights.remarks
                for shard in weights.shards {
                    let name = FileSystem.lastComponent(shard.path)
                    remarks += try SafetensorsFile.check(path: shard.path, mode: .strict).map { "\(name): \($0)" }
                }
            } else if CheckpointFile.claims(path) {
                let file = try CheckpointFile(path: path)
                if deep { try file.verifyAll() }
            } else {
                remarks = try SafetensorsFile.check(path: path, mode: mode)
            }
            return .sound(remarks)
        } catch let error as SafetensorsError {
            return .fault("\(error.code.rawValue): \(withoutPath(Remedy.sentence(on: error), path))")
        } catch let error as CheckpointError {
            return .fault("\(error.code.rawValue): \(withoutPath(Remedy.sentence(on: error), path))")
        } catch let error as FileError {
            let fault = "\(error.code): \(withoutPath(Remedy.sentence(on: error), path))"
            return if case .system = error { .unreadable(fault) } else { .fault(fault) }
        }
    }

    /// A message begins with the path, which the line has already.
    private func withoutPath(_ message: String, _ path: String) -> String {
        for ending in [": ", ", "] where message.hasPrefix(path + ending) { return String(message.dropFirst(path.count + ending.count)) }
        return message
    }
}

extension FileError {
    /// A short name for scripts.
    fileprivate var code: String {
        switch self {
        case .missing: "missing"
        case .wrongKind: "wrongKind"
        case .exists: "exists"
        case .irreplaceable: "irreplaceable"
        case .cannotCreate: "cannotCreate"
        case .system: "unreadable"
        case .tooLarge: "tooLarge"
        case .excessive: "excessive"
        case .truncated: "truncated"
        }
    }
}
