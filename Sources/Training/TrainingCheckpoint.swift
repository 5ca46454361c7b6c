internal import JSON
public import Kernels
public import Methods
public import NativeCheckpoint
internal import OrderedCollections
internal import Tensors

/// A held-out loss, measured after some number of steps.
public struct Evaluation: Sendable, Equatable {
    public let step: Int
    /// Mean cross-entropy in nats a token.
    public let loss: Double
}

/// How far a run has come.
public struct TrainingProgress: Sendable, Equatable {
    /// Steps that are done.
    public var step = 0
    /// One entry for each step that is done.
    public var losses: [Float] = []
    public var learningRates: [Float] = []
    public var gradientNorms: [Float] = []
    public var evaluations: [Evaluation] = []

    public init() {}
}

/// What a run is about: its configuration and what it was started on.
public struct TrainingSubject: Sendable, Equatable {
    public var configuration: TrainingConfiguration
    /// The last component of the base model's path.
    public var baseName: String
    /// SHA-256 over the base model's weight files.
    public var baseFingerprint: String
    /// SHA-256 over the token ids.
    public var dataFingerprint: String
    public var evaluationFingerprint: String?
}

/// A training run as it lies in a `.opck` file.
public struct TrainingCheckpoint: Sendable {
    public static let kind = "training"
    static let schema = "oplora.training/1"
    public let file: CheckpointFile
    public let subject: TrainingSubject
    public let progress: TrainingProgress
    public let modules: [AdaptedModule]

    // MARK: Reading

    /// Opens a run and checks that it is one.
    ///
    /// - Throws: `CheckpointError` for a damaged file, `TrainingError.invalidCheckpoint` for one of another kind.
    public init(path: String) throws {
        let file = try CheckpointFile(path: path)
        func invalid(_ message: String) -> TrainingError { TrainingError(.invalidCheckpoint, "\(path): \(message)") }
        guard file.kind == Self.kind, file.metadata["schema"]?.stringValue == Self.schema else {
            throw invalid("this is a checkpoint of kind \"\(file.kind)\" and not a training run that this version reads")
        }
        guard let configuration = file.metadata["configuration"], let base = file.metadata["base"], let data = file.metadata["data"],
            let step = file.metadata["step"]?.integerValue, step >= 0, let baseName = base["name"]?.stringValue,
            let baseFingerprint = base["sha256"]?.stringValue, let dataFingerprint = data["sha256"]?.stringValue,
            let moduleList = file.metadata["modules"]?.arrayValue, let evaluationList = file.metadata["evaluations"]?.arrayValue
        else { throw invalid("its metadata lacks a field of a training run") }
        self.file = file
        do {
            subject = TrainingSubject(
                configuration: try TrainingConfiguration(json: configuration), baseName: baseName, baseFingerprint: baseFingerprint,
                dataFingerprint: dataFingerprint, evaluationFingerprint: file.metadata["evaluationData"]?["sha256"]?.stringValue)
        } catch {
            throw invalid(error.message)
        }
        modules = try moduleList.map { entry in
            guard let name = entry["name"]?.stringValue, let out = entry["out"]?.integerValue, let input = entry["in"]?.integerValue, out > 0,
                input > 0
            else { throw invalid("its list of modules has an entry without name, out and in") }
            return AdaptedModule(name: name, out: out, input: input)
        }
        var progress = TrainingProgress()
        progress.step = step
        progress.losses = try Self.floats("history.loss", count: step, in: file)
        progress.learningRates = try Self.floats("history.learningRate", count: step, in: file)
        progress.gradientNorms = try Self.floats("history.gradientNorm", count: step, in: file)
        progress.evaluations = try evaluationList.map { entry in
            guard let step = entry["step"]?.integerValue, let loss = entry["loss"]?.doubleValue else {
                throw invalid("its list of evaluations is damaged")
            }
            return Evaluation(step: step, loss: loss)
        }
        self.progress = progress
    }

    /// An F32 tensor of a checkpoint, its size and checksums checked.
    private static func floats(_ name: String, count: Int, in file: CheckpointFile) throws -> [Float] {
        guard let tensor = file.tensors[name], tensor.dtype == .f32, tensor.elementCount == count else {
            throw TrainingError(.invalidCheckpoint, "\(file.path): the tensor \"\(name)\" is missing, not F32, or not of \(count) elements")
        }
        let bytes = try file.read(name)
        return (0..<count).map { index in
            Float(bitPattern: (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[index * 4 + $1]) << (8 * UInt32($1)) })
        }
    }

    /// Reads parameters and moments into `parameters`, which must be of the same method and shapes; its factors follow.
    public func restore(into parameters: any AdapterParameters) throws {
        for tensor in parameters.tensors {
            let moments = zip(subject.configuration.optimizer.moments, tensor.state.moments).map { ("\($0).", $1) }
            for (prefix, view) in [("", tensor.state.parameters)] + moments {
                let name = prefix + tensor.name
                guard let stored = file.tensors[name], stored.dtype == .f32, stored.shape == tensor.shape else {
                    throw TrainingError(
                        .invalidCheckpoint, "\(file.path): the tensor \"\(name)\" is missing or not F32 of shape \(describe(shape: tensor.shape))")
                }
                let bytes = try file.read(name)
                // Sound: any bits are bytes.
                view.copy(fromBytes: unsafe bytes.span.bytes)
            }
        }
        parameters.produceFactors()
    }

    /// The adapter parameters of this run, ready to be collapsed or trained further.
    public func parameters(compute: Compute) throws -> any AdapterParameters {
        let parameters = subject.configuration.makeParameters(modules: modules, compute: compute)
        try restore(into: parameters)
        return parameters
    }

    // MARK: Writing

    /// Writes a run; the file appears under its name only when it is whole. The same run gives the same bytes.
    static func write(
        to path: String, replacing: Bool, subject: TrainingSubject, progress: TrainingProgress, parameters: any AdapterParameters
    ) throws {
        var metadata: OrderedDictionary<String, JSONValue> = [
            "schema": .string(schema), "configuration": subject.configuration.json, "step": .integer(progress.step),
            "samples": .integer(progress.step * subject.configuration.accumulation * subject.configuration.batchSize),
            // Every draw is a function of the seed and a counter that follows from the step, so this is the whole state.
            "random": ["algorithm": "splitmix64", "seed": .integer(subject.configuration.seed)],
            "base": ["name": .string(subject.baseName), "sha256": .string(subject.baseFingerprint)],
            "data": ["sha256": .string(subject.dataFingerprint)],
            "modules": .array(parameters.modules.map { ["name": .string($0.name), "out": .integer($0.out), "in": .integer($0.input)] }),
            "evaluations": .array(progress.evaluations.map { ["step": .integer($0.step), "loss": .real($0.loss)] }),
        ]
        if let fingerprint = subject.evaluationFingerprint { metadata["evaluationData"] = ["sha256": .string(fingerprint)] }
        var writer = try CheckpointWriter(
            path: path, replacing: replacing, options: CheckpointWriter.Options(kind: kind, metadata: .object(metadata)))
        for tensor in parameters.tensors {
            try append(tensor.name, tensor.shape, tensor.state.parameters, to: &writer)
        }
        for tensor in parameters.tensors {
            for (moment, view) in zip(subject.configuration.optimizer.moments, tensor.state.moments) {
                try append("\(moment).\(tensor.name)", tensor.shape, view, to: &writer)
            }
        }
        for (name, values) in [("loss", progress.losses), ("learningRate", progress.learningRates), ("gradientNorm", progress.gradientNorms)] {
            // Sound: any bits are bytes.
            try writer.append(name: "history." + name, dtype: .f32, shape: [values.count], bytes: unsafe values.span.bytes)
        }
        _ = try writer.finish()
    }

    private static func append(_ name: String, _ shape: [Int], _ view: FloatView, to writer: inout CheckpointWriter) throws {
        // A noncopyable writer cannot be captured by the closure that lends the bytes, so they are taken as an array.
        let values = view.array
        try writer.append(name: name, dtype: .f32, shape: shape, bytes: unsafe values.span.bytes)
    }
}

extension TrainingConfiguration {
    /// New parameters of this method, initialized from the seed.
    ///
    /// - Parameter weights: the base's, of the modules; without them the parameters can be read and not trained.
    func makeParameters(modules: [AdaptedModule], weights: [WeightMatrix]? = nil, compute: Compute) -> any AdapterParameters {
        method.type.init(
            MethodSettings(
                modules: modules, weights: weights, rank: rank, scale: Float(scale),
                hypernetwork: HypernetworkSettings(embedding: embedding, width: width, initialization: initialization), seed: UInt64(seed),
                moments: optimizer.moments.count, compute: compute))
    }
}
