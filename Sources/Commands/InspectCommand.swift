internal import ArgumentParser
internal import JSON
internal import Kernels
internal import Tensors

struct InspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect",
        abstract: "Say what a model, adapter or checkpoint is and what it holds.",
        discussion: """
            Example:
              oplora inspect SmolLM2 run.opck adapter
              oplora inspect --stats --filter 'layers\\.0\\.' SmolLM2

            Takes safetensors files, model folders with or without shards, PEFT adapters and .opck files. Only headers are read, except \
            with --stats.
            """)

    enum Order: String, ExpressibleByArgument, CaseIterable {
        case offset, name, size
    }

    @Argument(help: ArgumentHelp("Files or folders.", valueName: "path")) var paths: [String]
    @Flag(help: "Tensors with repeated layers folded; the default.") var tree = false
    @Flag(help: "One line for each tensor.") var tensors = false
    @Flag(help: "The numbers of each tensor: extremes, mean, standard deviation, zeros, NaN, infinities, and a histogram of magnitudes.")
    var stats = false
    @Flag(help: "The metadata, in full.") var metadata = false
    @Option(help: ArgumentHelp("Only tensors whose name holds a match of this regular expression.", valueName: "regex")) var filter: String?
    @Option(help: ArgumentHelp("Order of the tensors: offset, name or size.", valueName: "order")) var sort: Order = .offset
    @Flag(help: "Report as JSON, one object a path.") var json = false
    @OptionGroup var threads: ThreadOptions

    func validate() throws {
        if let filter, (try? Regex(filter)) == nil { throw ValidationError("--filter \"\(filter)\" is not a regular expression") }
    }

    func run() throws {
        let pattern = try filter.map { try Regex($0) }
        let pool = stats ? try threads.makePool() : nil
        for (index, path) in paths.enumerated() {
            let inspection = try Inspection(path: path)
            var shown = inspection.tensors
            if let pattern { shown = shown.filter { $0.name.firstMatch(of: pattern) != nil } }
            switch sort {
            case .offset: break
            case .name: shown.sort { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
            case .size: shown.sort { ($1.byteCount, $0.name) < ($0.byteCount, $1.name) }
            }
            let statistics = try pool.map { try inspection.statistics(shown, pool: $0) }
            if json {
                Terminal.line(inspection.json(shown, statistics: statistics).serialized())
                continue
            }
            if index > 0 { Terminal.line("") }
            Terminal.line(lines(inspection, shown, statistics).joined(separator: "\n"))
        }
    }

    private func lines(_ inspection: Inspection, _ shown: [Inspection.Tensor], _ statistics: [TensorStatistics?]?) -> [String] {
        var lines = ["\(inspection.path)"] + inspection.facts.map { "  " + $0 }
        lines.append("  \(Format.count(inspection.parameters)) elements in \(inspection.tensors.count) tensors, \(Format.bytes(inspection.bytes))")
        if inspection.byType.count > 1 {
            lines += inspection.byType.map {
                "    \($0.dtype): \(Format.count($0.elements)) elements in \($0.tensors) tensors, \(Format.bytes($0.bytes))"
            }
        }
        if metadata {
            lines += inspection.metadata.map { "  \($0.key): \($0.value.stringValue ?? $0.value.serialized())" }
        }
        if let statistics {
            lines += zip(shown, statistics).map { "  \($0.name)  \($0.dtype) \(describe(shape: $0.shape))  \(Inspection.text($1))" }
        } else if tensors {
            lines += shown.map { "  \($0.name)  \($0.dtype) \(describe(shape: $0.shape))  \($0.byteCount) bytes  \($0.file)" }
        } else if tree || !metadata {
            lines += inspection.tree(shown).map { "  " + $0 }
        }
        return lines
    }
}
