internal import ArgumentParser
internal import FileIO
internal import HTML
internal import Inspection
internal import JSON
internal import Kernels
internal import Tensors

struct InspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect",
        abstract: "Say what a model, adapter or checkpoint is and what it holds.",
        discussion: """
            Examples:
              oplora inspect SmolLM2 run.opck adapter
              oplora inspect --stats --filter 'layers\\.0\\.' SmolLM2
              oplora inspect --stats --html report.html SmolLM2

            Takes safetensors files, model folders with or without shards, adapters, .opck and GGUF files. Only headers are read, \
            except with --stats.
            """)

    enum Order: String, CaseIterable {
        case offset, name, size
    }

    @Argument(help: ArgumentHelp("Files or folders.", valueName: "path"), completion: .file()) var paths: [String]
    @Flag(help: "Tensors with repeated layers folded; the default.") var tree = false
    @Flag(help: "One line for each tensor.") var tensors = false
    @Flag(help: "The numbers of each tensor: extremes, mean, standard deviation, zeros, NaN, infinities, and a histogram of magnitudes.")
    var stats = false
    @Flag(help: "The metadata, in full.") var metadata = false
    @Option(help: ArgumentHelp("Only tensors whose name holds a match of this regular expression.", valueName: "regex")) var filter: String?
    @Option(choice: "Order of the tensors", valueName: "order") var sort = Order.offset
    @Flag(help: "Report as JSON, one object a path.") var json = false
    @Option(
        name: .customLong("html"), help: ArgumentHelp("Also write a page with a map of sizes, shares and tables.", valueName: "file"),
        completion: .file())
    var page: String?
    @Flag(help: "Replace the page if there is one.") var force = false
    @OptionGroup var threads: ThreadOptions

    func validate() throws {
        if page != nil, paths.count != 1 { throw ValidationError("--html is a page of one path; name one") }
        if let filter, (try? Regex(filter)) == nil { throw ValidationError("--filter \"\(filter)\" is not a regular expression") }
    }

    func run() throws {
        let pattern = try filter.map { try Regex($0) }
        if let page {
            try refuseUnwritableFile(page, replacing: force, inputs: paths.map { path in Input(path) { _ = try Self.inspection(of: path) } })
        }
        let pool = stats ? try threads.makePool() : nil
        for (index, path) in paths.enumerated() {
            let inspection = try Self.inspection(of: path)
            if index + 1 == paths.count {
                // The program ends after it, and to free a hundred thousand names first would take longer than to print them.
                _ = unsafe Unmanaged.passRetained(inspection)
            }
            let selection = selection(of: inspection, pattern)
            let statistics = try pool.map { try inspection.statistics(selection ?? inspection.source.tensors, pool: $0) }
            let report = InspectionReport(inspection: inspection, selection: selection, statistics: statistics)
            if let page { try writeReport(report.page.html, to: page, replacing: force) }
            if json {
                Terminal.json(report.json)
            } else {
                if index > 0 { Terminal.line("") }
                let detail: InspectionReport.Detail = tensors ? .tensors : tree || !metadata ? .tree : .none
                Terminal.lines(report.lines(detail: detail, metadata: metadata, wayToMetadata: "shown by --metadata"))
            }
        }
    }

    private static func inspection(of path: String) throws -> InspectedFile { try InspectedFile(path: path, describing: Remedy.sentence) }

    /// The tensors that were asked for, in the order that was asked for; `nil` for all in the order of the file.
    private func selection(of inspection: InspectedFile, _ pattern: Regex<AnyRegexOutput>?) -> [InspectedTensor]? {
        guard pattern != nil || sort != .offset else { return nil }
        var selection = inspection.source.tensors
        if let pattern { selection = selection.filter { $0.name.firstMatch(of: pattern) != nil } }
        switch sort {
        case .offset: break
        case .name: selection.sort { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
        case .size: selection.sort { ($1.byteCount, $0.name) < ($0.byteCount, $1.name) }
        }
        return selection
    }
}
