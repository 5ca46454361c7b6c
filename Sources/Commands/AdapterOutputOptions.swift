internal import Adapters
internal import ArgumentParser
internal import JSON
internal import VisibleText

/// Where and how a command writes an adapter.
struct AdapterOutputOptions: ParsableArguments {
    @Option(help: ArgumentHelp("What to write: a folder for peft, diffusers and mlx, otherwise a file.", valueName: "path"), completion: .file())
    var out: String
    @Option(choice: "The layout to write", valueName: "layout") var layout = Adapter.Layout.peft
    @Flag(help: "Replace an existing output.") var force = false

    /// Writes the adapter, its factors as they are.
    ///
    /// - Returns: what the layout could not say.
    func write(_ adapter: Adapter, base: BaseModel? = nil) throws -> [String] {
        try adapter.write(
            layout, to: out, base: base, options: AdapterOptions(baseModel: adapter.baseModel, taskType: adapter.taskType, isReplacing: force))
    }
}

/// How many singular values are kept.
struct RankOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Keep at most so many singular values of a module.", valueName: "rank")) var rank: Int?
    @Option(help: ArgumentHelp("Keep as few as have this share of ‖ΔW‖², above 0 to 1, such as 0.99.", valueName: "share")) var energy: Double?

    func validate() throws {
        if let rank, rank < 1 { throw ValidationError("--rank must be at least 1") }
        if let energy, !(energy > 0 && energy <= 1) { throw ValidationError("--energy must be above 0 and at most 1") }
    }

    /// `nil` where neither is given.
    var choice: RankChoice? { rank == nil && energy == nil ? nil : RankChoice(rank: rank, energy: energy) }

    func required() throws -> RankChoice {
        guard let choice else { throw UsageError("--rank or --energy is needed", status: .usage) }
        return choice
    }
}

extension AdapterReadingOptions {
    /// Opens the adapters without their weights, their modules named as the model has them where one is given.
    func readUnweighted(_ arguments: [AdapterArgument], naming model: BaseModel?) throws -> [Adapter] {
        try read(arguments).map { item in try model.map { try $0.naming(item.adapter) } ?? item.adapter }
    }
}

extension Terminal {
    /// What became of the modules of an adapter that was given another rank.
    static func show(_ modules: [Adapter.Resized], notes: [String], schema: String, to path: String, output: OutputOptions) {
        if output.json {
            return json([
                "schema": .string(schema),
                "modules": .array(
                    modules.map {
                        [
                            "module": .string($0.path.text), "rankBefore": .integer($0.rankBefore), "rank": .integer($0.rank),
                            "energy": .real($0.energy),
                        ]
                    }),
                "notes": .array(notes.map { .string($0) }),
            ])
        }
        let ranks = modules.map(\.rank)
        output.say(
            "\(path): \(Format.count(modules.count, "module")), rank \(ranks.min() ?? 0)"
                + (ranks.min() == ranks.max() ? "" : " to \(ranks.max() ?? 0)"))
        if let worst = modules.min(by: { $0.energy < $1.energy }), worst.energy < 1 {
            output.say(
                worst.energy >= 0
                    ? "at least \(Format.percent(worst.energy))% of each update was kept (least: \(worst.path))"
                    : "what was written for \(worst.path) is further from the update than zeros would be (energy \(Format.number(worst.energy)))")
        }
        for note in notes { output.say(note) }
    }
}
