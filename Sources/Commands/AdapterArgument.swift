internal import Adapters
internal import ArgumentParser
internal import Execution
internal import FileIO
internal import Kernels
internal import Methods
internal import NativeCheckpoint
internal import Training
internal import Verification

/// `A` or `A:WEIGHT` on the command line.
struct AdapterArgument: ExpressibleByArgument {
    let path: String
    let weight: Double
    private let argument: String

    static var defaultCompletionKind: CompletionKind { .file() }

    /// A colon with a number behind it is a weight; any other colon belongs to the path.
    init(argument: String) {
        self.argument = argument
        if let colon = argument.lastIndex(of: ":"), let weight = Double(argument[argument.index(after: colon)...]), colon != argument.startIndex {
            (path, self.weight) = (String(argument[..<colon]), weight)
        } else {
            (path, weight) = (argument, 1)
        }
    }

    /// Opens the adapter; a training run is collapsed on the fly.
    func read(alpha: AlphaChoice = .ofFile) throws -> WeightedAdapter {
        guard CheckpointFile.claims(path) else { return WeightedAdapter(try Adapter.read(path: path, alpha: alpha), weight: weight) }
        guard alpha == .ofFile else { throw UsageError("\(path): a training run has its own alpha; leave --alpha out", status: .usage) }
        return WeightedAdapter(try CollapsedRun(path: path).adapter, weight: weight)
    }

    /// - Throws: `UsageError` for a weight that is no finite number, where only that keeps the adapter from being found.
    func checkWeight() throws {
        guard weight.isFinite else {
            throw UsageError("\(path): the weight of an adapter is a finite number, as in \(path):0.5, and not \(weight.isNaN ? "NaN" : "infinite")")
        }
        if path != argument, !FileSystem.exists(path), FileSystem.exists(argument) {
            throw UsageError(
                "\(argument): what ends with a colon and a number is read as an adapter, \(path), and its weight; for the one of this name write \(argument):1"
            )
        }
        guard !FileSystem.exists(path), let colon = path.lastIndex(of: ":"), FileSystem.exists(String(path[..<colon])) else { return }
        throw UsageError(
            "\(path): an adapter with a weight is given as PATH:WEIGHT, such as \(path[..<colon]):0.5, and \"\(path[path.index(after: colon)...])\" is not a number"
        )
    }
}

extension CollapsedRun {
    func verify(adapter: Adapter) throws -> CollapseVerdict {
        if let module = adapter.modules.first(where: \.isInterleaved) {
            throw UsageError(
                "\(adapter.path): ggml has interleaved the rows of each head (\(module.label)), and only the base can undo that; verify what `oplora convert --to peft --base` makes of it",
                status: .malformedInput)
        }
        let configuration = checkpoint.subject.configuration
        return CollapseVerifier.verify(
            run: try verifierModules(), alpha: configuration.alpha, isRankStabilized: configuration.rankStabilized, adapter: adapter)
    }
}
