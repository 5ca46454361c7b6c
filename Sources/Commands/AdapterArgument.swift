internal import Adapters
internal import ArgumentParser
internal import FileIO
internal import Methods
internal import Kernels
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

/// A training run whose hypernetworks have been evaluated for the last time.
struct CollapsedRun {
    let checkpoint: TrainingCheckpoint
    let parameters: any AdapterParameters

    init(path: String) throws {
        checkpoint = try TrainingCheckpoint(path: path)
        // One thread is enough for what is a matrix-vector product for each module.
        guard let pool = ThreadPool(threads: 1) else { throw UsageError("the system gives no thread", status: .inputOutput) }
        parameters = try checkpoint.parameters(compute: Compute(pool: pool))
    }

    private var configuration: TrainingConfiguration { checkpoint.subject.configuration }

    /// The factors as an adapter in memory.
    var adapter: Adapter {
        get throws {
            Adapter(
                path: checkpoint.file.path, dialect: .opck, weightsPath: nil, baseModel: checkpoint.subject.baseName, targets: configuration.targets,
                taskType: "CAUSAL_LM",
                modules: try zip(parameters.modules, parameters.updates).map { module, update in
                    AdapterModule(
                        path: try modulePath(module), rank: update.rank, alpha: configuration.alpha, scale: configuration.scale,
                        loraA: update.a.array, loraB: update.b.array, magnitudes: update.magnitude?.magnitudes.array)
                })
        }
    }

    /// The parameters as the verifier takes them, straight from the file: it evaluates them in its own way.
    func verifierModules() throws -> [RunModule] {
        var values: [String: [Float]] = [:]
        for tensor in parameters.tensors { values[tensor.name] = tensor.state.parameters.array }
        return try parameters.modules.map { module in
            func tensor(_ name: String) throws -> [Float] {
                guard let array = values["\(module.name).\(name)"] else {
                    throw UsageError("the run has no tensor \(module.name).\(name)", status: .malformedInput)
                }
                return array
            }
            let path = try modulePath(module)
            guard configuration.method.type.hasHypernetworks else {
                return .plain(
                    path: path, rank: configuration.rank, loraA: try tensor("lora_A"), loraB: try tensor("lora_B"),
                    magnitudes: values["\(module.name).magnitude"])
            }
            return .hypernetwork(
                HypernetworkParameters(
                    path: path, rank: configuration.rank, inputs: module.input, outputs: module.out, z: try tensor("hypernetwork.z"),
                    w1: try tensor("hypernetwork.W1"), c1: try tensor("hypernetwork.c1"), w2: try tensor("hypernetwork.W2"),
                    c2: try tensor("hypernetwork.c2")))
        }
    }

    func verify(adapter: Adapter) throws -> CollapseVerdict {
        if let module = adapter.modules.first(where: \.isInterleaved) {
            throw UsageError(
                "\(adapter.path): ggml has interleaved the rows of each head (\(module.label)), and only the base can undo that; verify what `oplora convert --to peft --base` makes of it",
                status: .malformedInput)
        }
        return CollapseVerifier.verify(
            run: try verifierModules(), alpha: configuration.alpha, isRankStabilised: configuration.rankStabilized, adapter: adapter)
    }

    private func modulePath(_ module: AdaptedModule) throws -> ModulePath {
        guard let path = ModulePath(module.name) else {
            throw UsageError("\(checkpoint.file.path): \"\(module.name)\" is not a module's name", status: .malformedInput)
        }
        return path
    }
}
