internal import Adapters
internal import ArgumentParser
internal import JSON
internal import OrderedCollections
internal import Safetensors

struct MergeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "merge",
        abstract: "Merge adapters into the base weights.",
        discussion: """
            Example:
              oplora merge --base SmolLM2 --adapter adapter --out merged

            Writes a whole model folder: weights sharded as the base's, configuration, tokenizer and templates. The merged weights have \
            one defined value (docs/merge-arithmetic.md): the same bytes on every machine and with every number of threads.
            """)

    @Option(help: ArgumentHelp("Folder or file of the base model.", valueName: "dir")) var base: String
    @Option(help: ArgumentHelp("An adapter, with a weight if not 1; may be repeated.", valueName: "adapter[:weight]")) var adapter: [AdapterArgument]
    @Option(help: ArgumentHelp("Folder to write.", valueName: "dir")) var out: String
    @Option(help: ArgumentHelp("Element type of the merged weights: keep, f32, bf16 or f16.", valueName: "type")) var dtype = "keep"
    @Flag(help: "Check everything and say what would be done, from the headers alone.") var dryRun = false
    @Flag(name: .customLong("no-fsync"), help: "Do not wait until the disk holds the result.") var noFsync = false
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        _ = try elementType(dtype, allowingKeep: true)
        if adapter.isEmpty { throw ValidationError("--adapter is needed at least once") }
    }

    func run() throws {
        if !dryRun { try refuseExisting(out, replacing: force, inputs: [base] + adapter.map(\.path)) }
        let plan = try MergePlan(base: base, adapters: try adapter.map { try $0.read() }, dtype: try elementType(dtype, allowingKeep: true))
        if dryRun {
            output.say("would merge \(plan.moduleCount) modules into \(plan.base.tensors.count) tensors, \(Format.bytes(plan.byteCount)) in \(out)")
            if output.json {
                Terminal.line(
                    (["schema": "oplora.merge/1", "modules": .integer(plan.moduleCount), "bytes": .integer(plan.byteCount)] as JSONValue).serialized()
                )
            }
            return
        }
        let showsProgress = Terminal.errorIsTerminal && !output.quiet && !output.json
        var options = MergePlan.RunOptions(
            threads: threads.count, isReplacing: force, isDurable: !noFsync, isCancelled: { Interruption.isRequested })
        if showsProgress {
            options.progress = { done, total in Terminal.progress("\(Format.bytes(done)) of \(Format.bytes(total))") }
        }
        let report = try plan.run(to: out, options: options)
        if showsProgress { Terminal.progress("") }
        if output.json { return Terminal.line(report.json.serialized()) }
        output.say(
            "\(out): \(report.modules.count) modules merged, \(report.tensorsChanged) tensors changed, \(report.tensorsCopied) copied, \(Format.bytes(report.bytes))"
        )
        if let worst = report.minimumSurvival {
            output.say("at least \(Format.fixed(worst.survival * 100, 2))% of each update survived rounding (least: \(worst.module.text))")
        }
        if !report.filesLeftOut.isEmpty { output.say("left out: \(report.filesLeftOut.joined(separator: ", "))") }
    }
}
