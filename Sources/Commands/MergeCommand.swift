internal import Adapters
internal import ArgumentParser
internal import FileIO
internal import Inspection
internal import JSON
internal import NativeCheckpoint
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Training
internal import VisibleText
internal import Weights

struct MergeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "merge",
        abstract: "Merge adapters into the base weights.",
        discussion: """
            Examples:
              oplora merge --base SmolLM2 --adapter adapter --out merged
              oplora merge --base SmolLM2 --adapter style.safetensors:0.7 --out merged

            Takes LoRA adapters of every common tool: a folder of PEFT or mlx-lm, a safetensors file of kohya's trainers, LyCORIS, \
            diffusers or for ComfyUI, a GGUF file of llama.cpp, and a training run (.opck). A weight multiplies what an adapter adds; \
            a negative one (adapter:-0.5) takes that away. Several adapters are added in their order.

            Writes a whole model folder: weights sharded as the base's, configuration, tokenizer and templates, and a receipt \
            (oplora-merge.json). The merged weights have one defined value (docs/merge-arithmetic.md): the same bytes on every machine \
            and with every number of threads. An adapter's own tokenizer (tokenizer.json and what belongs to it, a chat template) takes \
            the place of the base's.
            """)

    @Option(help: ArgumentHelp("Folder or file of the base model.", valueName: "dir"), completion: .file()) var base: String
    @Option(help: ArgumentHelp("An adapter, with a weight if not 1; may be repeated.", valueName: "adapter[:weight]")) var adapter: [AdapterArgument]
    @Option(help: ArgumentHelp("Folder to write.", valueName: "dir"), completion: .directory) var out: String
    @Option(choice: "Element type of the merged weights", valueName: "type") var dtype = KeptType.keep
    @Option(help: ArgumentHelp("Write nothing if rounding leaves less than this share of an update, 0 to 1.", valueName: "share"))
    var minSurvival: Double?
    @Flag(help: "Say what would be done, from the headers alone.") var dryRun = false
    @Flag(help: "Put the SHA-256 of each tensor into the receipt.") var hash = false
    @Flag(help: "Take an adapter that was trained on another base by its name or hash.") var anyBase = false
    @Flag(help: "Merge an adapter that is in the model already, as its receipt has it, or that is given twice.") var again = false
    @Flag(help: "Keep the base's tokenizer and chat template, whatever an adapter brings.") var baseTokenizer = false
    @Flag(name: .customLong("no-fsync"), help: "Do not wait until the disk holds the result.") var noFsync = false
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var reading: AdapterReadingOptions
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let minSurvival, !(0...1).contains(minSurvival) { throw ValidationError("--min-survival is a share, from 0 to 1") }
        if adapter.isEmpty { throw ValidationError("--adapter is needed at least once") }
    }

    func run() throws {
        guard !out.isEmpty else { throw UsageError("--out is empty; name a folder") }
        let inputs = try [.model(base)] + reading.inputs(adapter)
        if !dryRun { try refuseExisting(out, as: .folder(WrittenFolder.rule), replacing: force, inputs: inputs) }
        if !anyBase { try refuseRunsOfOtherBases() }
        let adapters = try reading.read(adapter)
        let plan = try MergePlan(
            base: base, adapters: adapters, dtype: dtype.dtype, takesAnyBase: anyBase, mergesAgain: again, keepsTokenizer: baseTokenizer,
            readsFactors: !dryRun)
        if dryRun { return show(plan) }
        let showsProgress = Terminal.errorIsTerminal && !output.quiet && !output.json
        var options = MergePlan.RunOptions(
            threads: threads.count, isReplacing: force, isDurable: !noFsync, minimumSurvival: minSurvival, hashesTensors: hash)
        if showsProgress {
            options.progress = { done, total in Terminal.progress("\(Format.bytes(done)) of \(Format.bytes(total))") }
        }
        let report = try plan.run(to: out, options: options)
        if showsProgress { Terminal.progress("") }
        if output.json { return Terminal.json(report.json) }
        output.say(
            "\(out): \(report.modules.count) modules merged, \(report.tensorsChanged) tensors changed, \(report.tensorsCopied) copied, \(Format.bytes(report.bytes))"
        )
        if let worst = report.minimumSurvival {
            output.say(
                "at least \(Format.percent(worst.survival))% of each update survived rounding (least: \(worst.module.text))"
            )
        }
        if let adapter = report.tokenizer.adapter {
            output.say("from \(adapter): \(report.tokenizer.fromAdapter.joined(separator: ", "))")
        } else if !report.tokenizer.fromBase.isEmpty {
            output.say("tokenizer: the base's")
        }
        if !report.filesLeftOut.isEmpty { output.say("left out: \(report.filesLeftOut.joined(separator: ", "))") }
        for remark in report.remarks { output.say(remark) }
    }

    /// A run records the hash of the weights that it was trained on.
    private func refuseRunsOfOtherBases() throws {
        let runs = adapter.map(\.path).filter(CheckpointFile.claims)
        guard !runs.isEmpty else { return }
        let fingerprint = Trainer.fingerprint(of: try ModelWeights(path: base))
        for path in runs {
            let subject = try TrainingCheckpoint(path: path).subject
            guard subject.baseFingerprint != fingerprint else { continue }
            throw MergeError(
                .otherBase, path: path,
                "the run was trained on other weights (\(subject.baseName)) than those of \(base)", cause: .otherWeights)
        }
    }

    private func show(_ plan: MergePlan) {
        let free = FileSystem.freeBytes(at: out)
        if output.json { return Terminal.json(plan.json(threads: threads.count, freeBytes: free)) }
        var folded = FoldedNames<String>()
        for step in plan.steps {
            let action =
                step.module.map { _ in "rank \(step.rank) scale \(Format.number(step.scale))" + (step.hasMagnitude ? " with magnitudes" : "") }
                ?? "values of an adapter"
            folded.insert(step.tensor, "\(step.dtype) \(describe(shape: step.shape))  \(action)")
        }
        for group in folded.groups { output.say("\(group.name)  \(group.attributes)" + (group.count > 1 ? "  ×\(group.count)" : "")) }
        for remark in plan.model.remarks { output.say(remark) }
        output.say(
            "would merge \(plan.moduleCount) modules; \(plan.model.tensors.count) tensors, \(Format.bytes(plan.byteCount)) in \(out)"
                + (free.map { ", where \(Format.bytes($0)) are free" + (plan.fits(in: $0) ? "" : " and it will not fit") } ?? "")
                + "; about \(Format.bytes(plan.memoryEstimate(threads: threads.count))) of memory beside the program's own")
    }
}

extension MergeCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { [NamedPath("--base", base)] }
    var adapters: [NamedPath] { adapter.map { NamedPath("--adapter", $0.path) } }
}
