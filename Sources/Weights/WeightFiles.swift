internal import FileIO
internal import GGUF
internal import JSON
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// The files that hold the weights of a model, found under the names that libraries give them, and opened.
struct WeightFiles: Sendable {
    let path: String
    /// In the order of their names.
    let shards: [ModelShard]
    let parts: [ModelWeights.Part]
    let missingComponents: [String]
    /// The tensors whose elements stand for themselves, as they are stored.
    let tensors: OrderedDictionary<String, StoredWeight>

    /// All tensors, in the order of the files.
    var stored: OrderedDictionary<String, StoredTensor> {
        var stored: OrderedDictionary<String, StoredTensor> = [:]
        for part in parts {
            for shard in shards[part.shards] {
                for tensor in shard.stored { stored[part.prefix + tensor.name] = tensor.named(part.prefix + tensor.name) }
            }
        }
        return stored
    }

    /// The largest index that is read, in bytes.
    private static let maximumIndexBytes = 200_000_000

    /// The names under which a folder holds its weights; those of diffusers' models come second, and those that were saved as
    /// a variant, of which there are no others then, last.
    static let names = [
        (ShardedWriter.singleName, ShardedWriter.indexName),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
        ("model.fp16.safetensors", "model.safetensors.index.fp16.json"),
        ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json"),
    ]

    /// What says which folders are the components of a pipeline.
    private static let pipelineName = "model_index.json"

    /// - Throws: as `ModelWeights`.
    init(path: String) throws {
        self.path = path
        guard try FileSystem.status(of: path).isFolder else {
            shards = [try ModelShard(path: path)]
            parts = [.init(name: "", shards: 0..<1, index: nil)]
            missingComponents = []
            tensors = try Self.collect(shards, of: parts, path: path)
            return
        }
        var shards: [ModelShard] = []
        var parts: [ModelWeights.Part] = []
        var missing: [String] = []
        if let (files, index) = try Self.open(path) {
            shards = files
            parts = [.init(name: "", shards: files.indices, index: index)]
        } else {
            let components = try Self.components(of: path)
            missing = components.missing
            for name in components.present {
                guard let (files, index) = try Self.open(FileSystem.join(path, name)) else { continue }
                parts.append(.init(name: name, shards: shards.count..<shards.count + files.count, index: index))
                shards += files
            }
        }
        if parts.isEmpty {
            shards = try FolderWeights(folder: path).names.map {
                ModelShard(try SafetensorsFile(path: FileSystem.join(path, $0)))
            }
            parts = [.init(name: "", shards: shards.indices, index: nil)]
        }
        (self.shards, self.parts, missingComponents) = (shards, parts, missing)
        tensors = try Self.collect(shards, of: parts, path: path)
        for part in parts {
            guard let (name, index) = part.index else { continue }
            try Self.compare(
                try Self.shardNames(in: index, path: FileSystem.join(path, part.path(of: name))), with: tensors, of: part,
                indexPath: FileSystem.join(path, part.path(of: name)))
        }
    }

    /// The only safetensors file of a folder that has it under no name that is known, and is no pipeline.
    static func soleFile(in folder: String) -> String? {
        guard let present = try? FileSystem.names(in: folder) else { return nil }
        let known = Set(names.flatMap { [$0, $1] } + [pipelineName])
        guard known.isDisjoint(with: present), let names = try? FolderWeights(folder: folder).names, names.count == 1 else { return nil }
        return FileSystem.join(folder, names[0])
    }

    /// The files of a folder under names that are known, and their index; `nil` where there are none.
    private static func open(_ folder: String) throws -> (files: [ModelShard], index: (name: String, value: JSONValue)?)? {
        let present = Set(try FileSystem.names(in: folder))
        for (single, indexName) in names {
            if present.contains(indexName) {
                let indexPath = FileSystem.join(folder, indexName)
                let index = try readIndex(indexPath)
                if index["weight_map"]?.objectValue?.isEmpty == true {
                    throw SafetensorsError(.invalidIndex, path: indexPath, "the index names no tensor")
                }
                let files = try Set(try shardNames(in: index, path: indexPath).values).sorted().map { name in
                    guard present.contains(name) else {
                        throw SafetensorsError(
                            .missingShard, path: indexPath, "the index names the shard \(name), which is not in the folder; fetch the missing file")
                    }
                    return ModelShard(try SafetensorsFile(path: FileSystem.join(folder, name)))
                }
                return (files, (indexName, index))
            }
            if present.contains(single) { return ([ModelShard(try SafetensorsFile(path: FileSystem.join(folder, single)))], nil) }
        }
        return nil
    }

    /// The components that a pipeline names and has a folder for, and the others, each sorted; none where the folder is no pipeline.
    private static func components(of folder: String) throws -> (present: [String], missing: [String]) {
        let path = FileSystem.join(folder, pipelineName)
        guard FileSystem.exists(path) else { return ([], []) }
        do {
            let members = try JSONValue(configuration: try FileSystem.contents(of: path, limit: maximumIndexBytes)).objectValue ?? [:]
            // What a pipeline does without has neither library nor class.
            let named = members.filter { $0.value.arrayValue != nil && isPlain($0.key) }.keys.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
            let present = named.filter { FileSystem.isFolder(FileSystem.join(folder, $0)) }
            return (present, named.filter { !present.contains($0) && members[$0]?.arrayValue?.contains { $0.stringValue != nil } == true })
        } catch let error as JSONError {
            throw SafetensorsError(.invalidIndex, path: path, offset: error.offset, error.message)
        }
    }

    /// Whether a name is that of an entry of a folder, and leads nowhere else.
    private static func isPlain(_ name: String) -> Bool {
        !name.isEmpty && !name.utf8.contains(UInt8(ascii: "/")) && !name.utf8.contains(UInt8(ascii: "\\")) && name != "." && name != ".."
            && !name.utf8.contains(0)
    }

    private static func readIndex(_ path: String) throws -> JSONValue {
        do {
            return try JSONValue(configuration: try FileSystem.contents(of: path, limit: maximumIndexBytes))
        } catch let error as JSONError {
            throw SafetensorsError(.invalidIndex, path: path, offset: error.offset, error.message)
        }
    }

    /// The file of each tensor, as an index gives it.
    private static func shardNames(in index: JSONValue, path: String) throws(SafetensorsError) -> OrderedDictionary<String, String> {
        guard let map = index["weight_map"]?.objectValue else {
            throw SafetensorsError(.invalidIndex, path: path, "the index has no weight_map object")
        }
        var names: OrderedDictionary<String, String> = [:]
        for (tensor, value) in map {
            guard let name = value.stringValue else {
                throw SafetensorsError(.invalidIndex, path: path, tensor: tensor, "its entry in weight_map is \(value.kind) and must be a file name")
            }
            guard isPlain(name) else {
                throw SafetensorsError(
                    .unsafePath, path: path, tensor: tensor, "its file name \"\(name)\" leads out of the folder; a shard must lie beside its index")
            }
            names[tensor] = name
        }
        return names
    }

    private static func collect(
        _ shards: [ModelShard], of parts: [ModelWeights.Part], path: String
    ) throws(SafetensorsError) -> OrderedDictionary<String, StoredWeight> {
        // The names of one file are known to differ, and their table is taken over as it is.
        if shards.count == 1, parts[0].name.isEmpty { return shards[0].weights }
        var tensors: OrderedDictionary<String, StoredWeight> = [:]
        for part in parts {
            for shard in shards[part.shards] {
                for (name, weight) in shard.weights {
                    if let other = tensors.updateValue(weight, forKey: part.prefix + name) {
                        throw SafetensorsError(
                            .duplicateTensor, path: shard.path, tensor: name,
                            "\(FileSystem.lastComponent(other.file.path)) holds a tensor of the same name")
                    }
                }
            }
        }
        return tensors
    }

    private static func compare(
        _ names: OrderedDictionary<String, String>, with tensors: OrderedDictionary<String, StoredWeight>, of part: ModelWeights.Part,
        indexPath: String
    ) throws(SafetensorsError) {
        for (tensor, name) in names {
            guard let weight = tensors[part.prefix + tensor], FileSystem.lastComponent(weight.file.path) == name else {
                throw SafetensorsError(.indexMismatch, path: indexPath, tensor: tensor, "the index places it in \(name), which does not hold it")
            }
        }
        for (name, weight) in tensors where name.hasPrefix(part.prefix) {
            let tensor = String(name.dropFirst(part.prefix.count))
            guard names[tensor] == nil else { continue }
            throw SafetensorsError(
                .indexMismatch, path: indexPath, tensor: tensor,
                "\(FileSystem.lastComponent(weight.file.path)) holds it and the index does not name it")
        }
    }
}
