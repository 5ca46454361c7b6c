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

    @Argument(help: ArgumentHelp("The adapter, of any dialect, or a run.", valueName: "adapter")) var adapter: AdapterArgument
    @OptionGroup var ranks: RankOptions
    @Option(help: ArgumentHelp("Element type of the new factors: keep, f32, bf16 or f16.", valueName: "type")) var dtype = "keep"
    @Option(help: ArgumentHelp("The model that the adapter is for, where the layout needs it.", valueName: "dir")) var base: String?
    @OptionGroup var written: AdapterOutputOptions
    @OptionGroup var output: OutputOptions

    func validate() throws { _ = try elementType(dtype, allowingKeep: true) }

    func run() throws {
        let choice = try ranks.required()
        guard adapter.weight == 1 else { throw UsageError("\(adapter.path): an adapter to be resized has no weight", status: .usage) }
        try refuseExisting(written.out, replacing: written.force, inputs: [adapter.path] + (base.map { [$0] } ?? []))
        let model = try base.map { try BaseModel(path: $0) }
        let given = try adapter.readUnweighted(naming: model)
        let (resized, modules) = try given.resized(to: choice, dtype: try elementType(dtype, allowingKeep: true))
        Terminal.show(
            modules, notes: given.remarks + (try written.write(resized, base: model)), schema: "oplora.resize/1", to: written.out, output: output)
    }
}
