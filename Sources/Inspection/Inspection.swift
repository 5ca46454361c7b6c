package import Adapters
internal import FileIO
package import GGUF
package import JSON
internal import NativeCheckpoint
package import OrderedCollections
internal import Safetensors
internal import Training
internal import VisibleText
internal import Weights

/// What a file or folder is and holds, read from headers alone.
package final class InspectedFile {
    package enum Kind: String {
        case model, adapter, run, tensors, checkpoint, pack
    }

    package let path: String
    package let kind: Kind
    package let source: TensorSource
    package let metadata: OrderedDictionary<String, JSONValue>
    private(set) var model: ModelDescription?
    private(set) var adapter: AdapterDescription?
    private(set) var run: RunDescription?
    /// What an adapter does to a model: `LoRA`.
    private(set) var method: String?
    private(set) var merge: MergeDescription?
    /// What else there is to say, in sentences or a few words.
    private(set) var remarks: [String] = []
    package let groups: [FoldedNames<TensorForm>.Group]
    package let totals: TensorTotals

    /// Finds out what is at `path`.
    ///
    /// - Parameter describe: the words for an error that does not keep the rest from being said.
    /// - Throws: the errors of the format that it turns out to be.
    package init(path: String, describing describe: (any Error) -> String) throws {
        self.path = path
        let status = try FileSystem.status(of: path)
        let isTensors = !status.isFolder && !CheckpointFile.claims(path)
        let single = isTensors && !GGUFFile.claims(path) ? try SafetensorsFile(path: path) : nil
        var gguf: ModelShard? { get throws { isTensors && single == nil ? try ModelShard(path: path) : nil } }
        if let files = try Self.adapterFiles(path, isFolder: status.isFolder, single: single) {
            kind = .adapter
            source = .files([ModelShard(files)])
            metadata = Self.json(files.metadata)
            let configuration = Self.configuration(beside: files.path)
            method = AdapterMethod(tensors: files.tensors.keys, configuration: configuration)?.name
            if Adapter.holdsHypernetworks(files) {
                method = "OP-LoRA"
                // To say more of them, all would have to be evaluated.
                remarks.append("hypernetworks of OP-LoRA, which collapse, merge and verify take")
            } else {
                do {
                    let found = try Adapter.read(path: Adapter.weightsPath(at: path) == nil ? files.path : path)
                    adapter = AdapterDescription(found)
                    remarks += try StandIn.files(beside: found).map(Self.remark(on:))
                } catch let error as AdapterError where error.isOfWhatIsNotSupported {
                    remarks.append("cannot be merged here: " + describe(error))
                } catch let error as AdapterError where error.code == .missingFile || error.code == .unknownDialect {
                    // A file without the configuration of an adapter need not be one.
                    let isRead = AdapterMethod.isRead(method ?? "")
                    remarks.append("cannot be merged here: " + (isRead ? describe(error) : "the method is not one that is read"))
                }
            }
        } else if !status.isFolder, CheckpointFile.claims(path) {
            let file = try CheckpointFile(path: path)
            source = .checkpoint(file)
            metadata = file.metadata
            kind = file.packedFiles != nil ? .pack : file.kind == TrainingCheckpoint.kind ? .run : .checkpoint
            do {
                switch kind {
                case .run: run = RunDescription(try TrainingCheckpoint(path: path))
                case .pack: remarks += Self.packFacts(file)
                default: remarks.append("checkpoint of kind \(file.kind)")
                }
            } catch let error as TrainingError where error.code == .invalidCheckpoint {
                // The file is sound, and what it lacks of a run is a thing to know.
                remarks.append(describe(error))
            }
        } else if let shard = try gguf, let file = shard.gguf {
            source = .files([shard])
            metadata = file.metadata.mapValues(\.json)
            adapter = AdapterDescription(file)
            method = adapter.map { _ in "LoRA" }
            kind = adapter == nil ? .model : .adapter
            model = ModelDescription(file)
        } else if status.isFolder {
            let files = try ModelWeights(path: path, decodes: false)
            source = .files(files.shards)
            metadata = files.shards.first.map { Self.json($0.metadata) } ?? [:]
            kind = .model
            model = ModelDescription(files)
            merge = MergeDescription(folder: path)
            remarks += try StandIn.files(of: files).map(Self.remark(on:))
        } else {
            let file = try single ?? SafetensorsFile(path: path)
            source = .files([ModelShard(file)])
            metadata = Self.json(file.metadata)
            kind = .tensors
        }
        groups = source.folded().groups
        totals = TensorTotals(groups)
    }

    /// The weights of an adapter, where `path` is its folder or they themselves.
    private static func adapterFiles(_ path: String, isFolder: Bool, single: SafetensorsFile?) throws -> SafetensorsFile? {
        let weights = isFolder ? Adapter.weightsPath(at: path) : path
        if let weights, let file = try isFolder ? SafetensorsFile(path: weights) : single {
            let hasConfiguration = FileSystem.exists(FileSystem.join(FileSystem.parent(of: weights), PEFT.configurationName))
            let isNamed = isFolder || [PEFT.weightsName, MLX.weightsName].contains(FileSystem.lastComponent(weights))
            let isAdapter = isNamed && hasConfiguration || Adapter.isWhole(file) || AdapterMethod(tensors: file.tensors.keys) != nil
            return isAdapter ? file : nil
        }
        if isFolder, let sole = ModelWeights.soleFile(in: path) {
            let file = try SafetensorsFile(path: sole)
            return AdapterMethod(tensors: file.tensors.keys) == nil ? nil : file
        }
        // It finds the words for what is missing.
        if isFolder, FileSystem.exists(FileSystem.join(path, PEFT.configurationName)) { _ = try Adapter.read(path: path) }
        return nil
    }

    private static func remark(on file: StandIn) -> String { "\(file.name): \(file.nature.explanation)" }

    /// `adapter_config.json` beside an adapter's weights, where it can be read.
    private static func configuration(beside weights: String) -> JSONValue? {
        let path = FileSystem.join(FileSystem.parent(of: weights), PEFT.configurationName)
        guard let text = try? FileSystem.contents(of: path, limit: 16_000_000) else { return nil }
        return try? JSONValue(configuration: text)
    }

    private static func json(_ metadata: OrderedDictionary<String, String>) -> OrderedDictionary<String, JSONValue> {
        metadata.mapValues { .string($0) }
    }

    private static func packFacts(_ file: CheckpointFile) -> [String] {
        let bytes = file.tensors.values.reduce(0) { $0 + $1.byteCount }
        let share = bytes == 0 ? 100 : 100 * Double(file.byteCount) / Double(bytes)
        let differences = file.tensors.values.count { $0.base != nil }
        let what = file.isSingleFile ? "the file \(file.packedFiles?.first ?? "")" : Format.count(file.packedFiles?.count ?? 0, "file")
        return ["pack of \(what), \(Format.bytes(bytes)) in \(Format.fixed(share, 2))% of that"]
            + (differences == 0 ? [] : ["\(Format.count(differences, "tensor")) stored as differences to a base, which unpacking needs"])
    }

    /// The last component of the path.
    package var name: String { FileSystem.lastComponent(path) }

    /// What it is, in lines of a few words each.
    package var facts: [String] {
        (model?.facts ?? []) + [merge?.fact, method.map { "method: \($0)" }].compactMap(\.self) + (adapter?.facts ?? []) + (run?.facts ?? [])
            + remarks
    }
}

extension AdapterError {
    /// Whether the adapter may be sound and is only of a kind that is not merged here.
    package var isOfWhatIsNotSupported: Bool {
        switch code {
        case .unsupportedFeature, .unsupportedDType, .unexpectedTensor: true
        default: false
        }
    }
}

extension GGUFValue {
    /// The value as a report gives it; lists that are long are cut.
    package var json: JSONValue {
        switch self {
        case .unsigned(let value): Int(exactly: value).map { .integer($0) } ?? .real(Double(value))
        case .signed(let value): .integer(Int(value))
        case .real(let value): .real(value)
        case .bool(let value): .bool(value)
        case .string(let value): .string(value)
        case .array(let array):
            array.count == array.first.count
                ? .array(array.first.map(\.json)) : ["count": .integer(array.count), "first": .array(array.first.map(\.json))]
        }
    }
}
