internal import Adapters
internal import ArgumentParser
internal import JSON

struct ResizeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resize",
        abstract: "Give an adapter another rank.",
        discussion: """
            Example:
              oplora resize adapter --energy 0.99 --out adapter-small

            Each module keeps the largest singular values of its update, found from the factors alone (thin QR and a small \
            decomposition). Scales, magnitudes and tensors that were trained whole stay as they are.
            """)

    @Argument(help: ArgumentHelp("The adapter: a PEFT or mlx-lm folder, a safetensors or GGUF file, or a run.", valueName: "adapter")) var adapter:
        AdapterArgument
    @OptionGroup var ranks: RankOptions
    @Option(choice: "Element type of the new factors", valueName: "type") var dtype = KeptType.keep
    @Option(help: ArgumentHelp("The model that the adapter is for, where the layout needs it.", valueName: "dir"), completion: .file()) var base:
        String?
    @OptionGroup var reading: AdapterReadingOptions
    @OptionGroup var written: AdapterOutputOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let choice = try ranks.required()
        guard adapter.weight == 1 else { throw UsageError("\(adapter.path): an adapter to be resized has no weight", status: .usage) }
        try refuseExisting(
            written.out, as: written.layout.output, replacing: written.force,
            inputs: try reading.inputs([adapter]) + [base].compactMap(\.self).map(Input.model))
        let model = try base.map { try BaseModel(path: $0) }
        let given = try reading.readUnweighted([adapter], naming: model)[0]
        let (resized, modules) = try given.resized(to: choice, dtype: dtype.dtype)
        // Of another method than LoRA a LoRA was made, of whatever rank.
        let isSame = given.modules.allSatisfy(\.isLowRank) && modules.allSatisfy { $0.rank == $0.rankBefore }
        Terminal.show(
            modules, notes: given.remarks + (isSame ? ["no module has a lower rank than before"] : []) + (try written.write(resized, base: model)),
            schema: "oplora.resize/1", to: written.out, output: output)
    }
}

extension ResizeCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { base.map { [NamedPath("--base", $0)] } ?? [] }
    var adapters: [NamedPath] { [NamedPath("", adapter.path)] }
}
