internal import Adapters
internal import ArgumentParser
internal import JSON
internal import VisibleText

struct UnmergeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unmerge",
        abstract: "Take adapters out of a merged model.",
        discussion: """
            Example:
              oplora unmerge --merged merged --adapter adapter --out base-again

            Subtracts the updates in the arithmetic of the merge. A merge rounds, and where a weight has grown by it, the bits below its \
            new last place are lost: the output says of how many elements that is true and by how much they may be off. This is of a \
            base that had the element types of the merged model; one that was merged with --dtype cannot be given back.

            The receipt of the merge (oplora-merge.json) says which adapters are in the model and with which weights; others are refused. \
            The new receipt says what was taken out.
            """)

    @Option(help: ArgumentHelp("Folder or file of the merged model.", valueName: "dir"), completion: .file()) var merged: String
    @Option(help: ArgumentHelp("An adapter that was merged, with its weight if not 1; may be repeated.", valueName: "adapter[:weight]"))
    var adapter: [AdapterArgument]
    @Option(help: ArgumentHelp("Folder to write.", valueName: "dir"), completion: .directory) var out: String
    @Flag(help: "Take out an adapter that the model's receipt does not have.") var anyAdapter = false
    @Flag(name: .customLong("no-fsync"), help: "Do not wait until the disk holds the result.") var noFsync = false
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var reading: AdapterReadingOptions
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if adapter.isEmpty { throw ValidationError("--adapter is needed at least once") }
    }

    func run() throws {
        try refuseExisting(out, as: .folder(WrittenFolder.rule), replacing: force, inputs: try [.model(merged)] + reading.inputs(adapter))
        let result = try Unmerging(
            merged: merged, adapters: try reading.read(adapter), takesAnyAdapter: anyAdapter, to: out,
            options: MergePlan.RunOptions(
                threads: threads.count, isReplacing: force, isDurable: !noFsync))
        if output.json {
            return Terminal.json(
                [
                    "schema": "oplora.unmerge/1", "elements": .integer(result.elements), "uncertain": .integer(result.uncertain),
                    "maximumError": .real(result.maximumError), "remarks": .array(result.remarks.map { .string($0) }),
                    "tensors": .array(
                        result.modules.map {
                            [
                                "tensor": .string($0.tensor), "elements": .integer($0.elements), "uncertain": .integer($0.uncertain),
                                "maximumError": .real($0.maximumError),
                            ]
                        }),
                ])
        }
        output.say("\(out): \(Format.count(result.modules.count, "tensor")) changed back, \(result.report.tensorsCopied) copied")
        output.say(
            result.uncertain == 0
                ? "of a base in the same element types every element is the only one that the merge turns into what was there"
                : "\(Format.count(result.uncertain)) of \(Format.count(result.elements)) elements (\(Format.fixed(100 * Double(result.uncertain) / Double(max(1, result.elements)), 2))%) are uncertain: the merge rounded their last bits away; they may be off by half a unit in the last place of the merged element, \(Format.scientific(result.maximumError)) at most"
        )
        for remark in result.remarks { output.say(remark) }
    }
}

extension UnmergeCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { [NamedPath("--merged", merged)] }
    var adapters: [NamedPath] { adapter.map { NamedPath("--adapter", $0.path) } }
}
