internal import Adapters
internal import ArgumentParser

/// A number, `rank` or `file`.
struct AlphaArgument {
    let choice: AlphaChoice

    init(_ argument: String) throws {
        switch argument {
        case "rank": choice = .rank
        case "file": choice = .ofFile
        default:
            guard let value = Double(argument), value.isFinite else { throw ValidationError("it must be a finite number, rank or file") }
            choice = .number(value)
        }
    }
}

/// What files of adapters may leave open, and the user says.
struct AdapterReadingOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The alpha of an adapter whose file gives none: a number, \"rank\" for the scale 1, or \"file\". One for all adapters, or one for each.",
            valueName: "alpha"), completion: .list(["rank", "file"]), transform: AlphaArgument.init)
    var alpha: [AlphaArgument] = []
    @Option(
        help: ArgumentHelp(
            "The component of a pipeline: the one to take, or the one that the adapter is of. One for all adapters, or one for each.",
            valueName: "name"))
    var component: [String] = []

    private func validate(_ arguments: [AdapterArgument]) throws {
        let count = arguments.count
        for (name, given) in [("--alpha", alpha.count), ("--component", component.count)] where given > 1 && given != count {
            throw UsageError("\(name) is given \(given) times and there are \(count) adapters; give it once, or once for each", status: .usage)
        }
        let known = Words(Adapter.componentNames)
        if let unknown = component.first(where: { !known.all.contains($0) }) {
            throw UsageError("--component must be one of \(known.all.joined(separator: ", "))\(known.suggestion(for: unknown))")
        }
        for argument in arguments { try argument.checkWeight() }
    }

    /// The adapters as what a command reads, their options checked.
    func inputs(_ arguments: [AdapterArgument]) throws -> [Input] {
        try validate(arguments)
        return arguments.enumerated().map { number, argument in .adapter(argument.path, alpha: alpha(number)) }
    }

    /// Opens the adapters in their order.
    func read(_ arguments: [AdapterArgument]) throws -> [WeightedAdapter] {
        try validate(arguments)
        return try arguments.enumerated().map { number, argument in
            let read = try argument.read(alpha: alpha(number))
            guard let component = Self.choice(number, of: component) else { return read }
            if let module = read.adapter.moduleOfLanguageModel, Adapter.isDenoiser(component) {
                throw UsageError(
                    "\(argument.path): \(component) is a part of a diffusion model, and the adapter is a language model's (\(module)); leave --component out",
                    status: .malformedInput)
            }
            return WeightedAdapter(try read.adapter.taking(component: component), weight: read.weight)
        }
    }

    private func alpha(_ number: Int) -> AlphaChoice { Self.choice(number, of: alpha)?.choice ?? .ofFile }

    private static func choice<Value>(_ number: Int, of values: [Value]) -> Value? {
        values.count == 1 ? values[0] : values.indices.contains(number) ? values[number] : nil
    }
}
