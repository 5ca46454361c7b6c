internal import Adapters
internal import FileIO
internal import HyperLoRA
internal import JSON
internal import Kernels
internal import NativeCheckpoint
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Training
internal import Transformer

/// What a file or folder holds, read from headers alone.
struct Inspection {
    struct Tensor {
        let name: String
        let dtype: DType
        let shape: [Int]
        let byteCount: Int
        /// The file that holds it, by its last name.
        let file: String

        var elementCount: Int { shape.reduce(1, &*) }
    }

    enum Kind: String {
        case model, adapter, run, tensors, checkpoint
    }

    let path: String
    let kind: Kind
    /// What it is, in lines of a few words each: architecture, method, last losses.
    let facts: [String]
    let tensors: [Tensor]
    let metadata: OrderedDictionary<String, JSONValue>
    let adapter: Adapter?
    /// Where the tensors' bytes are.
    private let source: Source

    private enum Source {
        case safetensors([SafetensorsFile])
        case checkpoint(CheckpointFile)
    }

    var parameters: Int { byType.reduce(0) { $0 + $1.elements } }
    var bytes: Int { byType.reduce(0) { $0 + $1.bytes } }

    /// Finds out what is at `path`.
    ///
    /// - Throws: the errors of the format that it turns out to be; `UsageError` for something unknown.
    init(path: String) throws {
        self.path = path
        let isFolder = try FileSystem.status(of: path).isFolder
        if isFolder, FileSystem.exists(FileSystem.join(path, PEFT.configurationName)) {
            let adapter = try Adapter.read(path: path)
            self.adapter = adapter
            kind = .adapter
            facts = Self.facts(of: adapter)
            let files = try SafetensorsFile(path: adapter.weightsPath ?? path)
            (tensors, metadata) = (Self.tensors(of: [files]), Self.json(files.metadata))
            source = .safetensors([files])
        } else if CheckpointFile.claims(path) {
            let file = try CheckpointFile(path: path)
            adapter = nil
            tensors = file.tensors.values.map {
                Tensor(name: $0.name, dtype: $0.dtype, shape: $0.shape, byteCount: $0.byteCount, file: FileSystem.lastComponent(path))
            }
            metadata = file.metadata
            source = .checkpoint(file)
            kind = file.kind == TrainingCheckpoint.kind ? .run : .checkpoint
            facts = kind == .run ? Self.facts(of: try TrainingCheckpoint(path: path)) : ["checkpoint of kind \(file.kind)"]
        } else {
            let shards = isFolder ? try WeightFiles(path: path).shards : [try SafetensorsFile(path: path)]
            adapter = nil
            kind = isFolder ? .model : .tensors
            facts = isFolder ? Self.modelFacts(path, shards: shards.count) : []
            tensors = Self.tensors(of: shards)
            metadata = shards.first.map { Self.json($0.metadata) } ?? [:]
            source = .safetensors(shards)
        }
        byType = Self.totals(tensors)
    }

    private static func tensors(of files: [SafetensorsFile]) -> [Tensor] {
        var tensors: [Tensor] = []
        tensors.reserveCapacity(files.reduce(0) { $0 + $1.tensors.count })
        for file in files {
            let name = FileSystem.lastComponent(file.path)
            for info in file.tensors.values {
                tensors.append(Tensor(name: info.name, dtype: info.dtype, shape: info.shape, byteCount: info.byteCount, file: name))
            }
        }
        return tensors
    }

    private static func json(_ metadata: OrderedDictionary<String, String>) -> OrderedDictionary<String, JSONValue> {
        metadata.mapValues { .string($0) }
    }

    // MARK: Facts

    private static func modelFacts(_ path: String, shards: Int) -> [String] {
        var facts = ["base model in \(shards == 1 ? "one file" : "\(shards) shards")"]
        do {
            let c = try TransformerConfiguration(folder: path)
            facts.append(
                "\(c.modelType): \(c.layers) layers, hidden \(c.hiddenSize), intermediate \(c.intermediateSize), \(c.heads) heads of \(c.headDimension) with \(c.keyValueHeads) key-value heads"
            )
            facts.append(
                "vocabulary \(Format.count(c.vocabularySize)), \(Format.count(c.maximumPositions)) positions, \(c.tiedEmbeddings ? "tied" : "untied") head"
            )
        } catch {
            facts.append("not trainable here: \(error)")
        }
        return facts
    }

    private static func facts(of adapter: Adapter) -> [String] {
        let ranks = Set(adapter.modules.map(\.rank)).sorted()
        let scales = Set(adapter.modules.map(\.scale)).sorted()
        var facts = [
            "\(adapter.dialect.rawValue) adapter: \(adapter.modules.count) modules, rank \(ranks.map(String.init).joined(separator: ", ")), scale \(scales.map { Format.fixed($0, 4) }.joined(separator: ", "))"
        ]
        if let base = adapter.baseModel { facts.append("trained on \(base)") }
        if !adapter.targets.isEmpty { facts.append("targets \(adapter.targets.joined(separator: ", "))") }
        return facts + adapter.remarks
    }

    private static func facts(of run: TrainingCheckpoint) -> [String] {
        let c = run.subject.configuration
        var facts = [
            "\(c.method.rawValue) run on \(run.subject.baseName), step \(run.progress.step) of \(c.steps)",
            "rank \(c.rank), alpha \(Format.fixed(c.alpha, 2)), scale \(Format.fixed(c.scale, 4)), \(run.modules.count) modules, targets \(c.targets.joined(separator: ","))",
        ]
        if c.method == .opLoRA {
            facts.append("hypernetworks: width \(c.width), embedding \(c.embedding), z-std \(Format.scientific(c.initialization.zStandardDeviation))")
        }
        facts.append(
            "batch \(c.batchSize) × \(c.sequenceLength) tokens, learning rate \(Format.scientific(c.learningRate)) \(c.schedule.rawValue), seed \(c.seed)"
        )
        if let loss = run.progress.losses.last { facts.append("last training loss \(Format.fixed(Double(loss), 4)) nats a token") }
        if let first = run.progress.evaluations.first, let last = run.progress.evaluations.last {
            let measured = [first, last].prefix(first.step == last.step ? 1 : 2)
            facts.append("held-out loss " + measured.map { "\(Format.fixed($0.loss, 4)) at step \($0.step)" }.joined(separator: ", "))
        }
        return facts
    }

    // MARK: Numbers

    /// The statistics of tensors of this file or folder, in their order; `nil` for those whose type is not measured.
    ///
    /// - Throws: `CheckpointError` for damage in a checkpoint.
    func statistics(_ tensors: [Tensor], pool: ThreadPool) throws -> [TensorStatistics?] {
        switch source {
        case .safetensors(let files):
            var places: [(file: MappedFile, info: TensorInfo)] = []
            let named = Dictionary(files.map { (FileSystem.lastComponent($0.path), $0) }, uniquingKeysWith: { first, _ in first })
            for tensor in tensors {
                guard let file = named[tensor.file], let info = file.tensors[tensor.name] else {
                    preconditionFailure("a tensor of another inspection")
                }
                places.append((file.file, info))
            }
            return TensorStatistics.measure(places, pool: pool)
        case .checkpoint(let file):
            return try tensors.map {
                TensorStatistics.measures($0.dtype) ? TensorStatistics.measure(try file.read($0.name), dtype: $0.dtype, pool: pool) : nil
            }
        }
    }

    // MARK: Views

    /// The tensors with repeated layers folded: `model.layers.{0…29}.self_attn.q_proj.weight  BF16 [576,576] ×30`.
    func tree(_ tensors: [Tensor]) -> [String] {
        var groups: OrderedDictionary<TensorPattern, [Int]> = [:]
        var scratch = TensorPattern.Scratch()
        for tensor in tensors {
            let pattern = scratch.pattern(of: tensor)
            groups[pattern, default: []].append(contentsOf: scratch.numbers)
        }
        let lines = groups.map { pattern, numbers -> (String, String) in
            let (gaps, count) = (pattern.gaps, pattern.gaps == 0 ? 1 : numbers.count / pattern.gaps)
            let name = pattern.name { position in Self.range(stride(from: position, to: numbers.count, by: gaps).map { numbers[$0] }) }
            return (name, "\(pattern.dtype) \(describe(shape: pattern.shape))\(count > 1 ? " ×\(count)" : "")")
        }
        let width = lines.map(\.0.count).max() ?? 0
        return lines.map { $0.0 + String(repeating: " ", count: width - $0.0.count + 2) + $0.1 }
    }

    /// `3`, `{0…29}`, or `{0,2,5}`.
    private static func range(_ numbers: [Int]) -> String {
        let isSorted = zip(numbers, numbers.dropFirst()).allSatisfy { $0 < $1 }
        let sorted = isSorted ? numbers : Set(numbers).sorted()
        guard let first = sorted.first, let last = sorted.last, sorted.count > 1 else { return numbers.first.map(String.init) ?? "" }
        if last - first == sorted.count - 1 { return "{\(first)…\(last)}" }
        return "{" + sorted.map(String.init).joined(separator: ",") + "}"
    }

    /// Elements and bytes of each element type, the largest first.
    let byType: [TypeTotal]

    struct TypeTotal {
        let dtype: DType
        var tensors = 0
        var elements = 0
        var bytes = 0
    }

    private static func totals(_ tensors: [Tensor]) -> [TypeTotal] {
        var totals: [TypeTotal] = []
        for tensor in tensors {
            let index = totals.firstIndex { $0.dtype == tensor.dtype } ?? totals.endIndex
            if index == totals.endIndex { totals.append(TypeTotal(dtype: tensor.dtype)) }
            totals[index].tensors += 1
            totals[index].elements += tensor.elementCount
            totals[index].bytes += tensor.byteCount
        }
        return totals.sorted { ($1.bytes, $0.dtype.rawValue) < ($0.bytes, $1.dtype.rawValue) }
    }

    /// - Parameter statistics: one for each tensor, or none at all.
    func json(_ shown: [Tensor], statistics: [TensorStatistics?]? = nil) -> JSONValue {
        let tensors = shown.enumerated().map { index, tensor -> JSONValue in
            var fields: OrderedDictionary<String, JSONValue> = [
                "name": .string(tensor.name), "dtype": .string(tensor.dtype.rawValue), "shape": .array(tensor.shape.map { .integer($0) }),
                "bytes": .integer(tensor.byteCount), "file": .string(tensor.file),
            ]
            if let statistics { fields["stats"] = statistics[index].map(Self.json) ?? .null }
            return .object(fields)
        }
        var object: OrderedDictionary<String, JSONValue> = [
            "schema": "oplora.inspect/1", "path": .string(path), "kind": .string(kind.rawValue), "parameters": .integer(parameters),
            "bytes": .integer(bytes), "facts": .array(facts.map { .string($0) }), "metadata": .object(metadata), "tensors": .array(tensors),
        ]
        if let adapter {
            object["adapter"] = [
                "dialect": .string(adapter.dialect.rawValue), "rank": adapter.modules.map(\.rank).max().map { .integer($0) } ?? .null,
                "alpha": adapter.modules.first.map { .real($0.alpha) } ?? .null,
                "modules": .array(
                    adapter.modules.map { ["module": .string($0.path.text), "rank": .integer($0.rank), "scale": .real($0.scale)] }),
            ]
        }
        return .object(object)
    }

    private static func json(_ statistics: TensorStatistics) -> JSONValue {
        func number(_ number: TensorStatistics.Number?) -> JSONValue {
            switch number {
            case .integer(let value)?: .integer(Int(value))
            // A JSON integer beyond 64 bits with a sign is one that many readers refuse.
            case .unsigned(let value)?: Int(exactly: value).map { .integer($0) } ?? .real(Double(value))
            case .real(let value)?: .real(value)
            case nil: .null
            }
        }
        return [
            "min": number(statistics.minimum), "max": number(statistics.maximum), "mean": statistics.mean.map { .real($0) } ?? .null,
            "std": statistics.standardDeviation.map { .real($0) } ?? .null, "zeros": .integer(statistics.zeros), "nan": .integer(statistics.nan),
            "inf": .integer(statistics.infinite), "histogram": .array(statistics.histogram.map { .integer($0) }),
        ]
    }

    /// `min −0.5  max 0.5  mean 1.20e-3  std 0.1  zeros 0  nan 0  inf 0  [0,…]`.
    static func text(_ statistics: TensorStatistics?) -> String {
        guard let statistics else { return "not measured" }
        func real(_ value: Double?) -> String { value.map(Format.scientific) ?? "none" }
        func number(_ number: TensorStatistics.Number?) -> String {
            switch number {
            case .integer(let value)?: "\(value)"
            case .unsigned(let value)?: "\(value)"
            case .real(let value)?: real(value)
            case nil: "none"
            }
        }
        return "min \(number(statistics.minimum))  max \(number(statistics.maximum))  mean \(real(statistics.mean))"
            + "  std \(real(statistics.standardDeviation))  zeros \(statistics.zeros)  nan \(statistics.nan)  inf \(statistics.infinite)"
            + "  \(describe(shape: statistics.histogram))"
    }
}
