internal import Adapters
internal import ArgumentParser
internal import JSON
internal import Tensors

struct CombineCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "combine",
        abstract: "Make one adapter of several.",
        discussion: """
            Examples:
              oplora combine --adapter style --adapter subject:0.7 --out both
              oplora combine --adapter a --adapter b --method svd --rank 16 --out both

            cat puts the factors one beside the other: the weighted sum of the updates but for the rounding of B, of the sum of the ranks. \
            svd keeps the largest singular values of that sum. linear adds the factors, as PEFT's method of this name does; that is not \
            the sum of the updates, and the energy says how far off it is.
            """)

    @Option(help: ArgumentHelp("An adapter, with a weight if not 1; to be repeated.", valueName: "adapter[:weight]")) var adapter: [AdapterArgument]
    @Option(choice: "How they are put together", valueName: "method") var method = Adapter.Combination.concatenation
    @OptionGroup var ranks: RankOptions
    @Option(choice: "Element type of the new factors", valueName: "type") var dtype = WrittenType.f32
    @Option(
        help: ArgumentHelp("The model that the adapters are for, where their names or the layout need it.", valueName: "dir"), completion: .file())
    var base: String?
    @OptionGroup var reading: AdapterReadingOptions
    @OptionGroup var written: AdapterOutputOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if adapter.isEmpty { throw ValidationError("--adapter is needed at least once") }
        if (method == .svd) != (ranks.choice != nil) {
            throw ValidationError(method == .svd ? "svd needs --rank or --energy" : "--rank and --energy are for svd alone")
        }
    }

    func run() throws {
        try refuseExisting(
            written.out, as: written.layout.output, replacing: written.force,
            inputs: try reading.inputs(adapter) + [base].compactMap(\.self).map(Input.model))
        let model = try base.map { try BaseModel(path: $0) }
        let adapters = try zip(reading.readUnweighted(adapter, naming: model), adapter).map { WeightedAdapter($0, weight: $1.weight) }
        let (combined, modules) = try Adapter.combined(
            adapters, method, choice: ranks.choice, dtype: dtype.dtype)
        let remarks = adapters.flatMap(\.adapter.remarks)
        Terminal.show(
            modules, notes: remarks + (try written.write(combined, base: model)), schema: "oplora.combine/1", to: written.out, output: output)
    }
}

extension CombineCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { base.map { [NamedPath("--base", $0)] } ?? [] }
    var adapters: [NamedPath] { adapter.map { NamedPath("--adapter", $0.path) } }
}
