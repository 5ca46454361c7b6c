internal import FileIO
public import JSON
public import OrderedCollections
public import Tensors

/// The weights of a model as they lie on disk: one safetensors file, or shards with an index, seen as one set of tensors.
public final class WeightFiles: Sendable {
    /// Where a tensor is.
    public struct Location: Sendable {
        public let info: TensorInfo
        public let file: SafetensorsFile

        public init(info: TensorInfo, file: SafetensorsFile) {
            self.info = info
            self.file = file
        }
    }

    /// The file or folder that was opened.
    public let path: String
    /// The shards, in the order of their names.
    public let shards: [SafetensorsFile]
    /// The tensors of all shards: shard by shard, in the order of their bytes.
    public let tensors: OrderedDictionary<String, Location>
    /// The index as it was read; `nil` for a single file.
    public let index: JSONValue?

    /// What the index says wrongly and nobody relies on, each as a part of a sentence.
    public var remarks: [String] {
        guard let stated = index?["metadata"]?["total_size"] else { return [] }
        let total = tensors.values.reduce(0) { $0 + $1.info.byteCount }
        // Some programs write it as a float.
        guard stated.integerValue != total, stated.doubleValue != Double(total) else { return [] }
        return ["its index gives a total_size of \(stated.serialized().prefix(40)) and the tensors take \(total) bytes"]
    }

    public static let indexName = "model.safetensors.index.json"
    public static let singleName = "model.safetensors"
    /// The largest index that is read, in bytes.
    static let maximumIndexBytes = 200_000_000

    /// Opens a `.safetensors` file, or a folder with `model.safetensors` or `model.safetensors.index.json`.
    ///
    /// - Throws: `SafetensorsError` or `FileError`.
    public init(path: String) throws {
        self.path = path
        guard try FileSystem.status(of: path).isFolder else {
            shards = [try SafetensorsFile(path: path)]
            index = nil
            tensors = try Self.collect(shards, path: path)
            return
        }
        let indexPath = FileSystem.join(path, Self.indexName)
        if FileSystem.exists(indexPath) {
            let (index, names) = try Self.readIndex(indexPath)
            self.index = index
            shards = try Set(names.values).sorted().map { name in
                let shard = FileSystem.join(path, name)
                guard FileSystem.exists(shard) else {
                    throw SafetensorsError(
                        .indexMismatch, path: indexPath, "the index names the shard \(name), which is not in the folder; fetch the missing file")
                }
                return try SafetensorsFile(path: shard)
            }
            tensors = try Self.collect(shards, path: path)
            try Self.compare(names, with: tensors, indexPath: indexPath)
        } else {
            let single = FileSystem.join(path, Self.singleName)
            guard FileSystem.exists(single) else {
                throw SafetensorsError(.noWeights, path: path, "the folder holds neither \(Self.singleName) nor \(Self.indexName)")
            }
            shards = [try SafetensorsFile(path: single)]
            index = nil
            tensors = try Self.collect(shards, path: path)
        }
    }

    /// The place of a tensor.
    ///
    /// - Throws: `SafetensorsError.missingTensor`.
    public func location(of name: String) throws(SafetensorsError) -> Location {
        guard let location = tensors[name] else {
            throw SafetensorsError(.missingTensor, path: path, tensor: name, "the tensor is not among the \(tensors.count) that the weights hold")
        }
        return location
    }

    private static func readIndex(_ path: String) throws -> (JSONValue, OrderedDictionary<String, String>) {
        let index: JSONValue
        do {
            index = try JSONValue(parsing: try FileSystem.contents(of: path, limit: maximumIndexBytes))
        } catch let error as JSONError {
            throw SafetensorsError(.invalidIndex, path: path, offset: error.offset, error.message)
        }
        guard let map = index["weight_map"]?.objectValue else {
            throw SafetensorsError(.invalidIndex, path: path, "the index has no weight_map object")
        }
        var names: OrderedDictionary<String, String> = [:]
        for (tensor, value) in map {
            guard let name = value.stringValue else {
                throw SafetensorsError(.invalidIndex, path: path, tensor: tensor, "its entry in weight_map is \(value.kind) and must be a file name")
            }
            guard !name.isEmpty, !name.utf8.contains(UInt8(ascii: "/")), !name.utf8.contains(UInt8(ascii: "\\")), name != ".", name != "..",
                !name.utf8.contains(0)
            else {
                throw SafetensorsError(
                    .unsafePath, path: path, tensor: tensor, "its file name \"\(name)\" leads out of the folder; a shard must lie beside its index")
            }
            names[tensor] = name
        }
        return (index, names)
    }

    private static func collect(_ shards: [SafetensorsFile], path: String) throws(SafetensorsError) -> OrderedDictionary<String, Location> {
        // The names of one file are known to differ, and their table is taken over as it is.
        if shards.count == 1 { return shards[0].tensors.mapValues { Location(info: $0, file: shards[0]) } }
        var tensors: OrderedDictionary<String, Location> = [:]
        for shard in shards {
            for (name, info) in shard.tensors {
                if let other = tensors.updateValue(Location(info: info, file: shard), forKey: name) {
                    throw SafetensorsError(
                        .duplicateTensor, path: shard.path, tensor: name,
                        "\(FileSystem.lastComponent(other.file.path)) holds a tensor of the same name")
                }
            }
        }
        return tensors
    }

    private static func compare(_ names: OrderedDictionary<String, String>, with tensors: OrderedDictionary<String, Location>, indexPath: String)
        throws(SafetensorsError)
    {
        for (tensor, name) in names {
            guard let location = tensors[tensor], FileSystem.lastComponent(location.file.path) == name else {
                throw SafetensorsError(.indexMismatch, path: indexPath, tensor: tensor, "the index places it in \(name), which does not hold it")
            }
        }
        for (tensor, location) in tensors where names[tensor] == nil {
            throw SafetensorsError(
                .indexMismatch, path: indexPath, tensor: tensor,
                "\(FileSystem.lastComponent(location.file.path)) holds it and the index does not name it")
        }
    }
}
