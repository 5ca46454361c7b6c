internal import Adapters
internal import ArgumentParser
internal import Execution
internal import FileIO
internal import JSON
internal import Methods
internal import NativeCheckpoint
internal import Safetensors
internal import Tensors
internal import Training
internal import Verification
internal import VisibleText

struct CollapseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "collapse",
        abstract: "Turn a training run into an ordinary LoRA adapter.",
        discussion: """
            Example:
              oplora collapse run.opck --out adapter --verify

            Evaluates every hypernetwork once and keeps A and B. The result is a PEFT folder that PEFT and everything that reads its \
            adapters loads, or another layout (--layout). Hypernetworks that were trained in PyTorch come in the layout of \
            formats/op-lora.md, or as a state dictionary of the first author's prototype.
            """)

    @Argument(help: ArgumentHelp("The run, or hypernetworks in safetensors.", valueName: "run.opck|file.safetensors"), completion: .file())
    var runPath: String
    @Option(choice: "Element type of the factors", valueName: "type") var dtype = WrittenType.f32
    @Option(help: ArgumentHelp("The model that it is for; the layout gguf and the prototype's files need it.", valueName: "dir"), completion: .file())
    var base: String?
    @Option(help: ArgumentHelp("The alpha of an OP-DoRA of the prototype.", valueName: "alpha")) var alpha: Double?
    @Flag(help: "Verify the adapter against the training run (.opck).") var verify = false
    @OptionGroup var written: AdapterOutputOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if let alpha, !alpha.isFinite { throw ValidationError("--alpha must be a finite number") }
    }

    func run() throws {
        let isRun = CheckpointFile.claims(runPath) || runPath.hasSuffix(".opck")
        if isRun, alpha != nil { throw UsageError("\(runPath): a training run has its own alpha; leave --alpha out", status: .usage) }
        try refuseExisting(
            written.out, as: written.layout.output, replacing: written.force,
            inputs: [isRun ? .run(runPath) : Input(runPath, isRequirement: true) { try requireHypernetworks() }]
                + [base].compactMap(\.self).map(Input.model))
        let model = try base.map { try BaseModel(path: $0) }
        let collapsed = isRun ? try CollapsedRun(path: runPath) : nil
        let adapter = try collapsed?.adapter ?? trainedElsewhere(base: model)
        let configuration = collapsed?.checkpoint.subject.configuration
        let notes = try adapter.write(
            written.layout, to: written.out, base: model,
            options: AdapterOptions(
                baseModel: adapter.baseModel, dtype: dtype.dtype, dropout: configuration?.dropout ?? 0,
                taskType: adapter.taskType, isReplacing: written.force))
        let parameters = adapter.modules.reduce(0) { $0 + $1.parameterCount }
        let rank = adapter.modules.map(\.rank).max() ?? 0
        output.say(
            "\(written.out): \(adapter.modules.count) modules, rank \(rank), \(Format.count(parameters)) parameters"
                + (collapsed.map { " of \(Format.count($0.parameters.parameterCount)) that were trained" } ?? ""))
        for note in notes { output.say(note) }
        if output.json {
            Terminal.json([
                "schema": "oplora.collapse/1", "modules": .integer(adapter.modules.count), "rank": .integer(rank),
                "parameters": .integer(parameters),
            ])
        }
        if verify, let collapsed {
            let read = try Adapter.read(path: written.out)
            let verdict = try collapsed.verify(adapter: try model.map { try $0.naming(read) } ?? read)
            printFaults(verdict.faults)
            guard verdict.passes else { throw Verdict(status: .checkFailed) }
            output.say(verdict.summary)
        }
    }

    /// What is collapsed beside runs. Hypernetworks are not evaluated for this, and other adapters are only opened.
    private func requireHypernetworks() throws {
        guard FileSystem.isFolder(runPath) || Adapter.weightsPath(at: runPath) != nil else {
            // What is wrong with the file itself comes first.
            _ = try SafetensorsFile(path: runPath)
            throw UsageError("\(runPath): the file holds neither a training run nor hypernetworks", status: .malformedInput)
        }
        if !Input.holdsHypernetworks(runPath) {
            let adapter = try Adapter.read(path: runPath, alpha: alphaChoice)
            guard adapter.modules.contains(where: \.takesInputsOfWeight) else {
                throw UsageError(
                    "\(runPath): this is an adapter of \(adapter.dialect.rawValue) and needs no collapsing; use oplora convert", status: .usage)
            }
        }
        guard !verify else { throw UsageError("\(runPath): --verify is for training runs (.opck)", status: .usage) }
    }

    private var alphaChoice: AlphaChoice { alpha.map { .number($0) } ?? .ofFile }

    /// Hypernetworks that another program has trained.
    private func trainedElsewhere(base: BaseModel?) throws -> Adapter {
        let adapter = try Adapter.read(path: runPath, base: base, alpha: alphaChoice)
        return try base.map { try $0.naming(adapter) } ?? adapter
    }
}
