public import Adapters
internal import Kernels
public import Methods
internal import NativeCheckpoint
public import Training

/// A training run whose hypernetworks have been evaluated for the last time.
public struct CollapsedRun {
    public let checkpoint: TrainingCheckpoint
    public let parameters: any AdapterParameters

    /// - Throws: the errors of a checkpoint.
    public init(path: String) throws {
        checkpoint = try TrainingCheckpoint(path: path)
        // One thread is enough for what is a matrix-vector product for each module.
        guard let pool = ThreadPool(threads: 1) else { throw TrainingError(.system, "the system gives no thread") }
        parameters = try checkpoint.parameters(compute: Compute(pool: pool))
    }

    private var configuration: TrainingConfiguration { checkpoint.subject.configuration }

    /// The factors as an adapter in memory.
    public var adapter: Adapter {
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

    /// A module's place in its model.
    public func modulePath(_ module: AdaptedModule) throws -> ModulePath {
        guard let path = ModulePath(module.name) else {
            throw TrainingError(.invalidCheckpoint, "\(checkpoint.file.path): \"\(module.name)\" is not a module's name")
        }
        return path
    }
}
