import JSON
import Kernels
import Methods
import NativeCheckpoint
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing

@testable import Training

/// A run in the making that fits into a few kilobytes.
struct SmallRun {
    static let modules = [AdaptedModule(name: "model.layers.0.a", out: 5, input: 3), AdaptedModule(name: "model.layers.1.b", out: 4, input: 7)]

    var subject: TrainingSubject
    var progress = TrainingProgress()
    let parameters: any AdapterParameters

    init(_ method: TrainingMethod, modules: [AdaptedModule] = modules, seed: UInt64 = 1, compute: Compute) {
        var configuration = TrainingConfiguration()
        (configuration.method, configuration.rank, configuration.width, configuration.embedding) = (method, 2, 4, 6)
        (configuration.steps, configuration.schedule, configuration.warmupRatio) = (9, .constant, 0)
        subject = TrainingSubject(
            configuration: configuration, baseName: "a base", baseFingerprint: "b0", dataFingerprint: "d0", evaluationFingerprint: "e0")
        parameters = configuration.makeParameters(modules: modules, compute: compute)
        var random = SeededGenerator(seed: seed)
        for tensor in parameters.tensors {
            for view in [tensor.state.parameters] + tensor.state.moments { view.copy(from: random.values(view.count, spread: 1)) }
        }
        parameters.produceFactors()
        progress.step = 3
        progress.losses = [3, .leastNonzeroMagnitude, 0.1]
        progress.learningRates = (0..<3).map { Float(configuration.learningRate(atStep: $0)) }
        progress.gradientNorms = [1, 1e30, 0]
        progress.evaluations = [Evaluation(step: 0, loss: 1.0 / 3), Evaluation(step: 2, loss: 0.1 + 0.2)]
    }

    func write(to path: String) throws {
        try TrainingCheckpoint.write(to: path, replacing: true, subject: subject, progress: progress, parameters: parameters)
    }

    /// Writes the run and opens it.
    func opened(in folder: TemporaryFolder) throws -> TrainingCheckpoint {
        try write(to: folder.path("run.opck"))
        return try TrainingCheckpoint(path: folder.path("run.opck"))
    }
}

struct TrainingCheckpointTests {
    private let compute: Compute
    private let folder: TemporaryFolder

    init() throws {
        compute = Compute(pool: try #require(ThreadPool(threads: 1)))
        folder = try TemporaryFolder()
    }

    /// Bit patterns of everything that is trained, and of what follows from it.
    private func patterns(_ parameters: any AdapterParameters) -> [[UInt32]] {
        let views = parameters.tensors.flatMap { [$0.state.parameters] + $0.state.moments } + parameters.updates.flatMap { [$0.a, $0.b] }
        return views.map { $0.array.map(\.bitPattern) }
    }

    @Test(arguments: TrainingMethod.allCases) func aRunComesBackAsItWasWritten(method: TrainingMethod) throws {
        let run = SmallRun(method, compute: compute)
        let read = try run.opened(in: folder)
        #expect(read.subject == run.subject && read.progress == run.progress && read.modules == SmallRun.modules)
        let parameters = try read.parameters(compute: compute)
        #expect(type(of: parameters) == method.type && parameters.tensors.map(\.name) == run.parameters.tensors.map(\.name))
        #expect(patterns(parameters) == patterns(run.parameters))
        #expect(patterns(parameters) != patterns(SmallRun(method, seed: 2, compute: compute).parameters), "the test tells runs apart")
    }

    @Test(arguments: TrainingMethod.allCases) func theSameRunHasTheSameBytes(method: TrainingMethod) throws {
        try SmallRun(method, compute: compute).write(to: folder.path("one.opck"))
        try SmallRun(method, compute: compute).write(to: folder.path("two.opck"))
        #expect(try readAll(folder.path("one.opck")) == readAll(folder.path("two.opck")))
    }

    @Test func aRunNeedsNoHeldOutDataAndNoSteps() throws {
        var run = SmallRun(.lora, compute: compute)
        (run.subject.evaluationFingerprint, run.progress) = (nil, TrainingProgress())
        let read = try run.opened(in: folder)
        #expect(read.subject == run.subject && read.progress == run.progress)
    }

    // MARK: What is refused

    private struct Content {
        var kind = TrainingCheckpoint.kind
        var metadata: OrderedDictionary<String, JSONValue>
        var tensors: [TestTensor]
    }

    private func content(_ method: TrainingMethod) throws -> Content {
        let file = try SmallRun(method, modules: [SmallRun.modules[0]], compute: compute).opened(in: folder).file
        return Content(
            metadata: file.metadata, tensors: try file.tensors.values.map { TestTensor($0.name, $0.dtype, $0.shape, bytes: try file.read($0.name)) })
    }

    private func fault(_ method: TrainingMethod = .lora, _ change: (inout Content) throws -> Void) throws -> TrainingError? {
        try fault(in: try content(method), change)
    }

    /// The error of a run in which something is changed; `nil` where it is read whole.
    private func fault(in original: Content, _ change: (inout Content) throws -> Void) throws -> TrainingError? {
        var content = original
        try change(&content)
        let path = folder.path("changed.opck")
        var writer = try CheckpointWriter(path: path, replacing: true, options: .init(kind: content.kind, metadata: .object(content.metadata)))
        for tensor in content.tensors {
            try writer.append(name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, bytes: unsafe tensor.bytes.span.bytes)
        }
        _ = try writer.finish(durable: false)
        do {
            _ = try TrainingCheckpoint(path: path).parameters(compute: compute)
            return nil
        } catch let error as TrainingError {
            #expect(error.code == .invalidCheckpoint && error.message.hasPrefix(path + ": "), "\(error)")
            return error
        }
    }

    @Test(arguments: TrainingMethod.allCases) func whatIsNotChangedIsRead(method: TrainingMethod) throws {
        #expect(try fault(method) { _ in } == nil)
    }

    @Test func checkpointsOfAnotherKindAreNoRuns() throws {
        let kind = try fault { $0.kind = "adapter" }
        #expect(kind?.message.contains("of kind \"adapter\"") == true)
        #expect(try fault { $0.metadata["schema"] = "oplora.training/2" } != nil)
    }

    @Test(arguments: ["schema", "configuration", "step", "base", "data", "modules", "evaluations"])
    func aRunWithoutAFieldIsRefused(key: String) throws {
        #expect(try fault { $0.metadata[key] = nil } != nil)
        #expect(try fault { $0.metadata[key] = .null } != nil)
    }

    @Test func partsOfAnotherTypeAreRefused() throws {
        let parts: [(String, JSONValue)] = [
            ("step", -1), ("step", 3.5), ("base", ["name": "a"]), ("base", ["sha256": "b"]), ("data", ["sha256": 1]), ("modules", [[:]]),
            ("modules", [["name": "a", "out": 0, "in": 3]]), ("modules", [["name": "a", "out": 5, "in": -3]]), ("evaluations", [["step": 1]]),
            ("evaluations", [["loss": 1.5]]),
        ]
        for (key, value) in parts { #expect(try fault { $0.metadata[key] = value } != nil, "\(key): \(value)") }
    }

    /// Also each moment: a run that goes on without those of its optimizer is another run.
    @Test(arguments: TrainingMethod.allCases) func aMissingTensorIsNamed(method: TrainingMethod) throws {
        let content = try content(method)
        #expect(content.tensors.count == 3 + 3 * SmallRun(method, modules: [SmallRun.modules[0]], compute: compute).parameters.tensors.count)
        for name in content.tensors.map(\.name) {
            let error = try fault(in: content) { $0.tensors.removeAll { $0.name == name } }
            #expect(error?.message.contains("the tensor \"\(name)\" is missing") == true, "\(String(describing: error))")
        }
    }

    @Test(arguments: TrainingMethod.allCases) func aTensorOfAnotherShapeOrTypeIsNamed(method: TrainingMethod) throws {
        let content = try content(method)
        for place in content.tensors.indices {
            let name = content.tensors[place].name
            let type = try fault(in: content) { $0.tensors[place].dtype = .i32 }
            #expect(type?.message.contains("\"\(name)\"") == true, "\(String(describing: type))")
            let shape = try fault(in: content) { changed in
                changed.tensors[place].shape = [1, 1, 1]
                changed.tensors[place].bytes = [0, 0, 0, 0]
            }
            #expect(shape?.message.contains("\"\(name)\"") == true, "\(String(describing: shape))")
        }
    }

    /// The history has an entry for each step that is done.
    @Test func aHistoryOfAnotherLengthIsNamed() throws {
        let error = try fault { $0.metadata["step"] = 4 }
        #expect(error?.message.contains("\"history.loss\"") == true && error?.message.contains("4 elements") == true)
    }
}
