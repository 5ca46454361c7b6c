internal import ArgumentParser
internal import FileIO
internal import JSON
internal import Packing
internal import VisibleText

struct PackCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pack",
        abstract: "Pack a file or folder losslessly into an .opck file.",
        discussion: """
            Examples:
              oplora pack SmolLM2 --out SmolLM2.opck
              oplora pack merged --against SmolLM2 --out merged.opck

            The tensors of safetensors files are stored as byte planes, everything else as bytes; unpack gives back every byte. With \
            --against, tensors that a base has too are stored as differences to it, and unpacking needs the base again.
            """)

    @Argument(help: ArgumentHelp("File or folder to pack.", valueName: "in"), completion: .file()) var input: String
    @Option(help: ArgumentHelp("File to write.", valueName: "file.opck"), completion: .file()) var out: String
    @Option(help: ArgumentHelp("File or folder whose tensors are nearly the same.", valueName: "base"), completion: .file()) var against: String?
    @Flag(help: "Record the SHA-256 of each tensor, beside the checksums of each chunk.") var hash = false
    @Flag(name: .customLong("no-fsync"), help: "Do not wait until the disk holds the result.") var noFsync = false
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        try refuseUnwritableFile(
            out, as: .file(ending: ".opck"), replacing: force, inputs: [.file(input)] + [against].compactMap(\.self).map(Input.differences))
        try refuseInside(out, of: input)
        let plan = try PackPlan(
            input: input, base: try against.map { try BaseFiles(path: $0) }, hashesTensors: hash, threads: threads.count)
        let report = try plan.run(to: out, replacing: force, durable: !noFsync)
        if output.json {
            return Terminal.json([
                "schema": "oplora.pack/1", "files": .integer(report.files), "tensors": .integer(report.tensors),
                "differences": .integer(report.differences), "bytes": .integer(report.bytes), "packedBytes": .integer(report.packedBytes),
            ])
        }
        let share = report.bytes == 0 ? 100 : Double(report.packedBytes) / Double(report.bytes) * 100
        output.say(
            "\(out): \(Format.bytes(report.packedBytes)), \(Format.fixed(share, 2))% of \(Format.bytes(report.bytes)) in "
                + "\(Format.count(report.files, "file")) with \(Format.count(report.tensors, "tensor"))"
                + (against == nil ? "" : ", \(Format.count(report.differences)) of them stored as differences"))
    }
}

struct UnpackCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unpack",
        abstract: "Give back the file or folder that an .opck file packs.",
        discussion: """
            Examples:
              oplora unpack SmolLM2.opck --out SmolLM2
              oplora unpack merged.opck --against SmolLM2 --out merged

            Every byte is checked before it is written, and the output appears under its name only when it is whole.
            """)

    @Argument(help: ArgumentHelp("The pack.", valueName: "file.opck"), completion: .file()) var input: String
    @Option(help: ArgumentHelp("File or folder to write.", valueName: "out"), completion: .file()) var out: String
    @Option(help: ArgumentHelp("The base that it was packed against.", valueName: "base"), completion: .file()) var against: String?
    @Flag(name: .customLong("no-fsync"), help: "Do not wait until the disk holds the result.") var noFsync = false
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let unpacking = try Unpacking(path: input, base: try against.map { try BaseFiles(path: $0) }, threads: threads.count)
        try refuseExisting(
            out, as: unpacking.makesFolder ? .folder(unpacking.folderRule) : .file(ending: nil), replacing: force,
            inputs: ([input] + [against].compactMap(\.self)).map(Input.file))
        let report = try unpacking.run(to: out, replacing: force, durable: !noFsync)
        if output.json {
            return Terminal.json(["schema": "oplora.unpack/1", "files": .integer(report.files), "bytes": .integer(report.bytes)])
        }
        output.say("\(out): \(Format.bytes(report.bytes)) in \(Format.count(report.files, "file"))")
    }
}

/// Refuses an output inside the folder that is read, which would be read along.
private func refuseInside(_ path: String, of folder: String) throws {
    guard FileSystem.isFolder(folder) else { return }
    var parent = FileSystem.parent(of: path)
    for _ in 0..<64 {
        if FileSystem.areSame(parent, folder) {
            throw UsageError("\(path): the output would lie in the folder that is packed; choose a place outside of it", status: .cannotCreateOutput)
        }
        let next = FileSystem.join(parent, "..")
        if FileSystem.areSame(parent, next) { return }
        parent = next
    }
}
