internal import Adapters
internal import ArgumentParser
internal import HyperLoRA
internal import JSON
internal import Tensors
internal import Training

struct CollapseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "collapse",
        abstract: "Turn a training run into an ordinary LoRA adapter.",
        discussion: """
            Example:
              oplora collapse run.opck --out adapter --verify

            Evaluates every hypernetwork once and keeps A and B. The result is a PEFT folder that PEFT and everything that reads its \
            adapters loads.
            """)

    @Argument(help: ArgumentHelp("The run.", valueName: "run.opck")) var runPath: String
    @Option(help: ArgumentHelp("Element type of the factors: f32, bf16 or f16.", valueName: "type")) var dtype = "f32"
    @Option(help: ArgumentHelp("The model that it is for, which gguf needs.", valueName: "dir")) var base: String?
    @Flag(help: "Verify the written adapter against the hypernetworks.") var verify = false
    @OptionGroup var written: AdapterOutputOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        _ = try elementType(dtype, allowingKeep: false)
    }

    func run() throws {
        try refuseExisting(written.out, replacing: written.force, inputs: [runPath])
        let collapsed = try CollapsedRun(path: runPath)
        let adapter = try collapsed.adapter
        let configuration = collapsed.checkpoint.subject.configuration
        let notes = try adapter.write(
            written.layout, to: written.out,
            base: try base.map { try BaseModel(path: $0) },
            options: AdapterOptions(
                baseModel: adapter.baseModel, dtype: try elementType(dtype, allowingKeep: false), dropout: configuration.dropout,
                taskType: adapter.taskType, isReplacing: written.force))
        let factors = adapter.modules.reduce(0) { $0 + $1.rank * ($1.inputs + $1.outputs) }
        output.say(
            "\(written.out): \(adapter.modules.count) modules, rank \(configuration.rank), \(Format.count(factors)) parameters of \(Format.count(collapsed.parameters.parameterCount)) that were trained"
        )
        for note in notes { output.say(note) }
        if output.json {
            Terminal.line(
                ([
                    "schema": "oplora.collapse/1", "modules": .integer(adapter.modules.count), "rank": .integer(configuration.rank),
                    "parameters": .integer(factors),
                ]
                    as JSONValue).serialized())
        }
        if verify { try report(try collapsed.verify(adapter: try Adapter.read(path: written.out)), output: output, quietJSON: true) }
    }
}

/// `keep`, `f32`, `bf16` or `f16`; `nil` for keep.
func elementType(_ text: String, allowingKeep: Bool) throws -> DType? {
    switch text {
    case "keep" where allowingKeep: return nil
    case "f32": return .f32
    case "bf16": return .bf16
    case "f16": return .f16
    default: throw ValidationError("--dtype is \"\(text)\" and must be one of \(allowingKeep ? "keep, " : "")f32, bf16, f16")
    }
}
