internal import Adapters
internal import ArgumentParser
internal import JSON
internal import Tensors
internal import VisibleText

struct ExtractCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "extract",
        abstract: "Make an adapter of the difference between two models.",
        discussion: """
            Example:
              oplora extract --base SmolLM2 --tuned SmolLM2-mine --rank 16 --out adapter

            Each weight that differs becomes a module with the largest singular values of the difference. What no low-rank update can \
            stand for, such as norms, goes into the adapter whole. The energy is the share of ‖ΔW‖² that the written factors give back; \
            what a fine-tuning in BF16 has lost to rounding looks like noise and is in no factor.
            """)

    @Option(help: ArgumentHelp("Folder or file of the base model.", valueName: "dir"), completion: .file()) var base: String
    @Option(help: ArgumentHelp("Folder or file of the fine-tuned model.", valueName: "dir"), completion: .file()) var tuned: String
    @OptionGroup var ranks: RankOptions
    @Option(choice: "Element type of the factors", valueName: "type") var dtype = WrittenType.f32
    @OptionGroup var written: AdapterOutputOptions
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let choice = try ranks.required()
        try refuseExisting(written.out, as: written.layout.output, replacing: written.force, inputs: [.model(base), .weights(tuned)])
        let showsProgress = Terminal.errorIsTerminal && !output.quiet && !output.json
        var options = Extraction.Options(
            choice: choice, dtype: dtype.dtype, threads: threads.count)
        if showsProgress { options.progress = { done, total in Terminal.progress("\(done) of \(total) weights") } }
        let extraction = try Extraction(base: base, tuned: tuned, options: options)
        if showsProgress { Terminal.progress("") }
        let notes = try written.write(extraction.adapter, base: try BaseModel(path: base))
        let modules = extraction.modules
        if output.json {
            return Terminal.json([
                "schema": "oplora.extract/1",
                "modules": .array(
                    modules.map {
                        [
                            "module": .string($0.path.text), "rank": .integer($0.rank), "energy": .real($0.energy),
                            "relativeResidual": .real($0.relativeResidual), "norm": .real($0.norm),
                        ]
                    }),
                "whole": .array(extraction.adapter.replacements.map { .string($0.tensor) }), "unchanged": .integer(extraction.unchanged),
                "notes": .array(notes.map { .string($0) }),
            ])
        }
        output.say(
            "\(written.out): \(Format.count(modules.count, "module")), \(Format.count(extraction.adapter.replacements.count, "tensor")) whole, \(extraction.unchanged) unchanged"
        )
        if let worst = modules.min(by: { $0.energy < $1.energy }) {
            output.say(
                "at least \(Format.percent(worst.energy))% of each difference is in the factors (least: \(worst.path), ‖ΔW − BA‖ = \(Format.number(worst.relativeResidual))·‖ΔW‖)"
            )
        }
        for note in notes { output.say(note) }
    }
}

extension ExtractCommand: TakesModelsAndAdapters {
    var models: [NamedPath] { [NamedPath("--base", base), NamedPath("--tuned", tuned)] }
    var adapters: [NamedPath] { [] }
}
