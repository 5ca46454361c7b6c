internal import FileIO
internal import GGUF
public import JSON
public import OrderedCollections
public import Safetensors
internal import Tensors

/// All weights of a model, over any format, opened once: one safetensors or GGUF file, or shards with an index, seen as
/// one set of tensors; or those of the components of a pipeline of diffusers, whose tensors have the component's name in
/// front.
public final class ModelWeights: Sendable {
    /// The file or folder that was opened.
    public let path: String
    /// The files, in the order of their names.
    public let shards: [ModelShard]
    /// The weights of all shards: shard by shard, in the order of their bytes. One that is stored as codes in an encoding
    /// that is read is here as what they stand for, and its scales are not.
    public let tensors: OrderedDictionary<String, StoredWeight>
    /// The folder's own weights, or those of each component of a pipeline, in the order of the shards.
    public let parts: [Part]
    /// Components that a pipeline names and has no folder for, sorted.
    public let missingComponents: [String]
    /// What is stored as codes with scales.
    public let quantization: QuantizedWeights
    /// Whether some of the weights are decoded from codes.
    public let isDecoded: Bool
    /// Scales of codes that belong to no weight, such as those of a cache of keys and values, and are not here.
    public let leftOutScales: [String]
    /// Tensors that are called as scales of codes are, and stand beside none.
    public let strayScales: [String]
    /// The encodings of the weights that are decoded, and the tensors of codes that are not.
    public let encodings: [WeightEncoding]
    public let unreadCodes: [String]

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
            let total = shards[part.shards].reduce(0) { $0 + $1.tensorBytes }
            // Some programs write it as a float.
            guard stated.integerValue != total, stated.doubleValue != Double(total) else { return nil }
            return "its index gives a total_size of \(stated.serialized().prefix(40)) and the tensors take \(total) bytes"
        }
    }

    /// What the index is called that belongs to a shard, for readers that look for it; `nil` for a file that is called like no shard.
    public static func indexName(ofShard path: String) -> String? {
        let name = FileSystem.lastComponent(path)
        guard FolderWeights.isShard(name) else { return nil }
        return WeightFiles.names.first { name.hasPrefix($0.0.dropLast(".safetensors".count) + "-") }?.1 ?? indexName
    }

    /// The only safetensors file of a folder that has it under no name that is known, and is no pipeline.
    public static func soleFile(in folder: String) -> String? { WeightFiles.soleFile(in: folder) }

    /// The name of the file of a model in one file, and of the index of one in several.
    public static let singleName = ShardedWriter.singleName
    public static let indexName = ShardedWriter.indexName

    /// Opens a `.safetensors` or a `.gguf` file; a folder with `model.safetensors` or `model.safetensors.index.json`, or the
    /// files that diffusers names otherwise; a folder with `model_index.json`, which is a pipeline; or a folder whose only
    /// safetensors are the shards of one model, without an index, or one file.
    ///
    /// - Parameter decodes: whether codes are read as what they stand for, where their encoding is read.
    /// - Throws: `SafetensorsError`, `GGUFError` or `FileError`.
    public convenience init(path: String, decodes: Bool = true) throws {
        self.init(try WeightFiles(path: path), decodes: decodes)
    }

    private init(_ files: WeightFiles, decodes: Bool) {
        (path, shards, parts, missingComponents) = (files.path, files.shards, files.parts, files.missingComponents)
        quantization = QuantizedWeights(files) { Self.statedConfiguration(of: $0, in: files) }
        let decoded = decodes ? quantization.decoded() : QuantizedWeights.Decoded()
        (isDecoded, leftOutScales, strayScales) = (!decoded.weights.isEmpty, decoded.leftOut, decoded.stray)
        (encodings, unreadCodes) = (decoded.encodings, decoded.unread)
        tensors = isDecoded ? Self.decoding(files.tensors, decoded) : files.tensors
        self.files = files
    }

    private let files: WeightFiles

    /// The same model with its codes and scales as they are stored.
    public var withCodes: ModelWeights {
        isDecoded ? ModelWeights(files, decodes: false) : self
    }

    /// The same model with its codes as what they stand for.
    public var decoded: ModelWeights { isDecoded ? self : ModelWeights(files, decodes: true) }

    private static func decoding(
        _ tensors: OrderedDictionary<String, StoredWeight>, _ decoded: QuantizedWeights.Decoded
    ) -> OrderedDictionary<String, StoredWeight> {
        let leftOut = decoded.companions.union(decoded.leftOut)
        var result: OrderedDictionary<String, StoredWeight> = [:]
        for (name, weight) in tensors where !leftOut.contains(name) {
            result[name] = decoded.weights[name] ?? weight
        }
        return result
    }

    /// The `config.json` of a part, beside its files; one that is not right is for others to complain about.
    private static func statedConfiguration(of part: Part, in files: WeightFiles) -> JSONValue? {
        let folder = FileSystem.isFolder(files.path) ? FileSystem.join(files.path, part.name) : FileSystem.parent(of: files.path)
        guard let text = try? FileSystem.contents(of: FileSystem.join(folder, "config.json"), limit: 16_000_000) else { return nil }
        return try? JSONValue(configuration: text)
    }

    /// The tensors as they are stored, whatever they stand for, in the order of the files.
    public var stored: OrderedDictionary<String, StoredTensor> { files.stored }

    /// A weight.
    ///
    /// - Throws: `SafetensorsError.missingTensor`.
    public func weight(named name: String) throws(SafetensorsError) -> StoredWeight {
        guard let weight = tensors[name] else {
            throw SafetensorsError(.missingTensor, path: path, tensor: name, "the tensor is not among the \(tensors.count) that the weights hold")
        }
        return weight
    }
}
