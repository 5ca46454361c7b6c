internal import Adapters
internal import ArgumentParser
internal import Inspection
internal import Kernels
internal import OrderedCollections
internal import Packing

struct DiffCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff",
        abstract: "Say in which tensors two models, adapters or checkpoints differ, and by how much.",
        discussion: """
            Examples:
              oplora diff base merged
              oplora diff merged merged-by-peft --rtol 1e-3 --atol 1e-6
              oplora diff adapter adapter.safetensors --json

            Takes what inspect takes. Tensors are matched by name: those that only B has are added, those that only A has removed; of \
            the others types, shapes and values are compared, bit for bit unless a tolerance is given. Two adapters in different layouts \
            are compared module by module, by their updates scale·B·A, and so is a run with an adapter. Names that differ only \
            by the name of an inner model (model.) count as the same tensor, and so do the parts of what one model has fused, in another layout of its \
            family. Exit code 0: nothing differs; 1: something does.
            """)

    @Argument(help: ArgumentHelp("Two files or folders.", valueName: "path"), completion: .file()) var paths: [String]
    @Option(help: ArgumentHelp("Let elements differ by this share of A's.", valueName: "share")) var rtol = 0.0
    @Option(help: ArgumentHelp("Let elements differ by this much.", valueName: "number")) var atol = 0.0
    @Flag(name: .customLong("ignore-dtype"), help: "Let element types differ where values do not.") var ignoreDtype = false
    @Flag(help: "Compare adapters by their updates, also in one layout.") var updates = false
    @Option(help: ArgumentHelp("The base of packs that hold differences to one.", valueName: "path"), completion: .file()) var against: String?
    @Flag(help: "List every difference, and not only the largest.") var all = false
    @Flag(help: "Replace the report if there is one.") var force = false
    @OptionGroup var threads: ThreadOptions
    @OptionGroup var output: ReportOptions

    mutating func validate() throws {
        if paths.count == 1, let path = output.jsonFile {
            // In `--json A B` the path is one of the two and not the report's.
            let arguments = CommandLine.arguments
            let isFirst = (arguments.firstIndex(of: path) ?? 0) < (arguments.lastIndex(of: paths[0]) ?? 0)
            paths.insert(path, at: isFirst ? 0 : 1)
            output.json = ReportOptions.standardOutput
        }
        guard paths.count == 2 else { throw ValidationError("diff takes two files or folders, and got \(paths.count)") }
        for (name, value) in [("--rtol", rtol), ("--atol", atol)] where !(value >= 0 && value.isFinite) {
            throw ValidationError("\(name) is a number, 0 or more")
        }
    }

    func run() throws {
        let base = try against.map { try BaseFiles(path: $0) }
        let (a, b) = (try ComparedFile(path: paths[0], base: base), try ComparedFile(path: paths[1], base: base))
        try output.refuseUnwritable(replacing: force, inputs: (paths + [against].compactMap(\.self)).map(Input.file))
        let options = Difference.Options(
            tolerance: ElementComparison.Tolerance(relative: rtol, absolute: atol), ignoresType: ignoreDtype, threads: threads.count)
        let difference = try difference(a, b, options)
        try output.write(difference.json(paths[0], paths[1]), replacing: force)
        if output.isText {
            output.say(difference.lines(limit: all ? .max : 16, wayToRest: "--all lists them") + [difference.summary])
        }
        if !difference.isNone { throw Verdict(status: .checkFailed) }
    }

    private func difference(_ a: ComparedFile, _ b: ComparedFile, _ options: Difference.Options) throws -> Difference {
        if a.isAdapter != b.isAdapter, !a.tensors.isEmpty, !b.tensors.isEmpty, !Difference.haveCommonTensors(a, b) {
            let (adapter, other) = a.isAdapter ? (a, b) : (b, a)
            throw UsageError(
                "\(adapter.path) is \(adapter.isRun ? "a training run" : "an adapter") and \(other.path) is none, and they have no tensor in common; merge the adapter into its base and compare the models"
            )
        }
        // Two runs are compared as they are.
        let areUpdates = updates || a.isRun != b.isRun
        guard areUpdates || a.adapter != nil && b.adapter != nil, let first = try a.update, let second = try b.update,
            areUpdates || first.dialect != second.dialect
        else {
            if updates {
                throw UsageError("--updates compares two adapters, and \(a.isRun || a.adapter != nil ? b.path : a.path) is none that is read here")
            }
            return try Difference(a, b, options: options)
        }
        guard atol == 0 else { throw UsageError("updates are compared by their size, which --rtol is for; --atol is for tensors") }
        return try Difference(updatesOf: first, second, options: options)
    }
}
