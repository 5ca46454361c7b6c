internal import FileIO
public import JSON
public import OrderedCollections
public import Tensors

/// The weights of a model as they lie on disk: one safetensors file, or shards with an index, seen as one set of tensors; or
/// those of the components of a pipeline of diffusers, whose tensors have the component's name in front.
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
    /// The folder's own weights, or those of each component of a pipeline, in the order of the shards.
    public let parts: [Part]
    /// Components that a pipeline names and has no folder for, sorted.
    public let missingComponents: [String]

    /// Weights with an index of their own.
    public struct Part: Sendable {
        /// The component's folder in the pipeline's; empty for a model that is no pipeline.
        public let name: String
        /// Its files, by their place in `shards`.
        public let shards: Range<Int>
        /// The index as it was read, and its name; `nil` for a single file.
        public let index: (name: String, value: JSONValue)?

        /// What the names of its tensors begin with.
        public var prefix: String { name.isEmpty ? "" : name + "." }
        /// The path of one of its files from the model's folder.
        public func path(of file: String) -> String { name.isEmpty ? file : FileSystem.join(name, file) }
    }

    /// The index of a model that is no pipeline; `nil` for a single file.
    public var index: JSONValue? { isPipeline ? nil : parts.first?.index?.value }
    public var isPipeline: Bool { !components.isEmpty }
    /// The components of a pipeline, with whose names those of their tensors begin.
    public var components: [String] { parts.map(\.name).filter { !$0.isEmpty } }

    /// The part that has a shard.
    ///
    /// - Precondition: there is such a shard.
    public func part(ofShard number: Int) -> Part {
        guard let part = parts.first(where: { $0.shards.contains(number) }) else { preconditionFailure("there is no shard \(number)") }
        return part
    }

    /// The component that a tensor of a pipeline belongs to.
    public func component(of tensor: String) -> String? {
        parts.first { !$0.name.isEmpty && tensor.hasPrefix($0.prefix) }?.name
    }

    /// What the index says wrongly and nobody relies on, each as a part of a sentence.
    public var remarks: [String] {
        parts.compactMap { part in
            guard let stated = part.index?.value["metadata"]?["total_size"] else { return nil }
            let total = shards[part.shards].reduce(0) { $0 + $1.tensors.values.reduce(0) { $0 + $1.byteCount } }
            // Some programs write it as a float.
            guard stated.integerValue != total, stated.doubleValue != Double(total) else { return nil }
            return "its index gives a total_size of \(stated.serialized().prefix(40)) and the tensors take \(total) bytes"
        }
    }

    public static let indexName = "model.safetensors.index.json"
    public static let singleName = "model.safetensors"
    /// The largest index that is read, in bytes.
    static let maximumIndexBytes = 200_000_000

    /// The names under which a folder holds its weights; those of diffusers' models come second, and those that were saved as
    /// a variant, of which there are no others then, last.
    private static let names = [
        (singleName, indexName), ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"),
        ("model.fp16.safetensors", "model.safetensors.index.fp16.json"),
        ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json"),
    ]
    /// What the index is called that belongs to a shard, for readers that look for it; `nil` for a file that is called like no shard.
    public static func indexName(ofShard path: String) -> String? {
        let name = FileSystem.lastComponent(path)
        guard FolderWeights.isShard(name) else { return nil }
        return names.first { name.hasPrefix($0.0.dropLast(".safetensors".count) + "-") }?.1 ?? indexName
    }

    /// What says which folders are the components of a pipeline.
    private static let pipelineName = "model_index.json"

    /// Opens a `.safetensors` file; a folder with `model.safetensors` or `model.safetensors.index.json`, or the files that
    /// diffusers names otherwise; a folder with `model_index.json`, which is a pipeline; or a folder whose only safetensors are
    /// the shards of one model, without an index, or one file.
    ///
    /// - Throws: `SafetensorsError` or `FileError`.
    public init(path: String) throws {
        self.path = path
        guard try FileSystem.status(of: path).isFolder else {
            shards = [try SafetensorsFile(path: path)]
            parts = [Part(name: "", shards: 0..<1, index: nil)]
            missingComponents = []
            tensors = try Self.collect(shards, of: parts, path: path)
            return
        }
        var shards: [SafetensorsFile] = []
        var parts: [Part] = []
        var missing: [String] = []
        if let (files, index) = try Self.open(path) {
            shards = files
            parts = [Part(name: "", shards: files.indices, index: index)]
        } else {
            let components = try Self.components(of: path)
            missing = components.missing
            for name in components.present {
                guard let (files, index) = try Self.open(FileSystem.join(path, name)) else { continue }
                parts.append(Part(name: name, shards: shards.count..<shards.count + files.count, index: index))
                shards += files
            }
        }
        if parts.isEmpty {
            shards = try FolderWeights(folder: path).names.map { try SafetensorsFile(path: FileSystem.join(path, $0)) }
            parts = [Part(name: "", shards: shards.indices, index: nil)]
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

    /// The files of a folder under names that are known, and their index; `nil` where there are none.
    private static func open(_ folder: String) throws -> (files: [SafetensorsFile], index: (name: String, value: JSONValue)?)? {
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
                    return try SafetensorsFile(path: FileSystem.join(folder, name))
                }
                return (files, (indexName, index))
            }
            if present.contains(single) { return ([try SafetensorsFile(path: FileSystem.join(folder, single))], nil) }
        }
        return nil
    }

    /// The only safetensors file of a folder that has it under no name that is known, and is no pipeline.
    public static func soleFile(in folder: String) -> String? {
        guard let present = try? FileSystem.names(in: folder) else { return nil }
        let known = Set(names.flatMap { [$0, $1] } + [pipelineName])
        guard known.isDisjoint(with: present), let names = try? FolderWeights(folder: folder).names, names.count == 1 else { return nil }
        return FileSystem.join(folder, names[0])
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

    /// The place of a tensor.
    ///
    /// - Throws: `SafetensorsError.missingTensor`.
    public func location(of name: String) throws(SafetensorsError) -> Location {
        guard let location = tensors[name] else {
            throw SafetensorsError(.missingTensor, path: path, tensor: name, "the tensor is not among the \(tensors.count) that the weights hold")
        }
        return location
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
        _ shards: [SafetensorsFile], of parts: [Part], path: String
    ) throws(SafetensorsError) -> OrderedDictionary<String, Location> {
        // The names of one file are known to differ, and their table is taken over as it is.
        if shards.count == 1, parts[0].name.isEmpty { return shards[0].tensors.mapValues { Location(info: $0, file: shards[0]) } }
        var tensors: OrderedDictionary<String, Location> = [:]
        for part in parts {
            for shard in shards[part.shards] {
                for (name, info) in shard.tensors {
                    if let other = tensors.updateValue(Location(info: info, file: shard), forKey: part.prefix + name) {
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
        _ names: OrderedDictionary<String, String>, with tensors: OrderedDictionary<String, Location>, of part: Part, indexPath: String
    ) throws(SafetensorsError) {
        for (tensor, name) in names {
            guard let location = tensors[part.prefix + tensor], FileSystem.lastComponent(location.file.path) == name else {
                throw SafetensorsError(.indexMismatch, path: indexPath, tensor: tensor, "the index places it in \(name), which does not hold it")
            }
        }
        for (name, location) in tensors where name.hasPrefix(part.prefix) {
            let tensor = String(name.dropFirst(part.prefix.count))
            guard names[tensor] == nil else { continue }
            throw SafetensorsError(
                .indexMismatch, path: indexPath, tensor: tensor,
                "\(FileSystem.lastComponent(location.file.path)) holds it and the index does not name it")
        }
    }
}
