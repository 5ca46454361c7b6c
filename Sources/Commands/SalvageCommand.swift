internal import ArgumentParser
internal import FileIO
internal import JSON
internal import NativeCheckpoint
internal import Packing
internal import VisibleText

struct SalvageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "salvage",
        abstract: "Save what is whole in a damaged .opck file.",
        discussion: """
            Examples:
              oplora salvage broken.opck --out saved
              oplora salvage broken-merged.opck --against SmolLM2 --out saved

            Writes a folder: files/ with the packed files that are whole, tensors.safetensors with whole tensors of other files or of none, \
            and salvage.json, which says what was found and what was lost. Exit code 0 if everything was saved, 1 if something was lost or \
            the file's end is, so that nobody knows what there was, 65 if nothing is there.
            """)

    @Argument(help: ArgumentHelp("The damaged file.", valueName: "file.opck"), completion: .file()) var input: String
    @Option(help: ArgumentHelp("Folder to write.", valueName: "out"), completion: .file()) var out: String
    @Option(help: ArgumentHelp("The base that it was packed against.", valueName: "base"), completion: .file()) var against: String?
    @Flag(name: .customLong("no-fsync"), help: "Do not wait until the disk holds the result.") var noFsync = false
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var output: OutputOptions

    func run() throws {
        try refuseExisting(
            out, as: .folder(Salvage.folderRule), replacing: force, inputs: [.file(input)] + [against].compactMap(\.self).map(Input.differences))
        let salvage = try Salvage(path: input, base: try against.map { try BaseFiles(path: $0) })
        let report = try salvage.run(to: out, replacing: force, durable: !noFsync)
        if output.json {
            Terminal.json([
                "schema": "oplora.salvage/1", "complete": .bool(report.isComplete), "files": .integer(report.files),
                "tensors": .integer(report.tensors), "lostTensors": .integer(report.lostTensors),
                "unplacedChunks": .integer(report.unplacedChunks),
            ])
        }
        let losses =
            "\(Format.count(report.lostTensors, "tensor")) and \(Format.count(report.unplacedChunks, "chunk")) could not be saved"
            + (salvage.checkpoint.fault == nil ? "" : ", and without the file's footer nobody can tell what else there was")
        output.say(
            "\(out): saved \(Format.count(report.files, "whole file")) and \(Format.count(report.tensors, "tensor")) beside them; "
                + (report.isComplete ? "nothing was lost" : "\(losses); see \(FileSystem.join(out, "salvage.json"))"))
        guard report.isComplete else { throw Verdict(status: .checkFailed) }
    }
}
