internal import Adapters
internal import ArgumentParser
internal import JSON
internal import VisibleText

struct ConvertCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "convert",
        abstract: "Write an adapter in the layout of another tool.",
        discussion: """
            Example:
              oplora convert adapter --to mlx --out adapter-mlx

            Every module is written, or the error names the one that the layout has no form for. Factors keep their bits, unless the \
            layout has one scale for all modules and the adapter has several: then B is multiplied, and the output says so. The \
            names of kohya's files, and the order of rows in GGUF files, can be read only beside the base (--base).
            """)

    @Argument(
        help: ArgumentHelp("The adapter: a PEFT or mlx-lm folder, a safetensors or GGUF file, or a run.", valueName: "adapter"), completion: .file())
    var input: String
    @Option(choice: "The layout to write", valueName: "layout") var to: Adapter.Layout
    @Option(help: ArgumentHelp("What to write: a folder for peft, diffusers and mlx, otherwise a file.", valueName: "path"), completion: .file())
    var out: String
    @Option(help: ArgumentHelp("Folder or file of the model that the adapter is for.", valueName: "dir"), completion: .file()) var base: String?
    @Option(choice: "Element type of the factors", valueName: "type") var dtype = KeptType.keep
    @Flag(help: "Give all modules one rank and one scale, for what reads no others (vLLM).") var uniform = false
    @Flag(help: "Replace an existing output.") var force = false
    @OptionGroup var reading: AdapterReadingOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let argument = AdapterArgument(argument: input)
        guard argument.weight == 1 else {
            throw UsageError("\(input): an adapter to be converted has no weight", status: .usage)
        }
        try refuseExisting(out, as: to.output, replacing: force, inputs: try reading.inputs([argument]) + [base].compactMap(\.self).map(Input.model))
        let model = try base.map { try BaseModel(path: $0) }
        var adapter = try reading.read([argument])[0].adapter
        let dialect = adapter.dialect
        if let model { adapter = try model.naming(adapter) }
        var notes = adapter.remarks
        if uniform {
            let (made, said) = try adapter.uniform()
            adapter = made
            notes += said
        }
        notes += try adapter.write(
            to, to: out, base: model,
            options: AdapterOptions(
                baseModel: adapter.baseModel, dtype: dtype.dtype, taskType: adapter.taskType, isReplacing: force))
        if output.json {
            return Terminal.json([
                "schema": "oplora.convert/1", "dialect": .string(dialect.rawValue), "layout": .string(to.rawValue),
                "modules": .integer(adapter.modules.count), "replaced": .integer(adapter.replacements.count),
                "notes": .array(notes.map { .string($0) }),
            ])
        }
        output.say("\(out): \(Format.count(adapter.modules.count, "module")) from \(dialect.rawValue) to \(to.rawValue)")
        for note in notes { output.say(note) }
    }
}

extension ConvertCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { base.map { [NamedPath("--base", $0)] } ?? [] }
    var adapters: [NamedPath] { [NamedPath("", input)] }
}
