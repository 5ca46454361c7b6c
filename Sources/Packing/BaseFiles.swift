internal import FileIO
public import NativeCheckpoint
internal import OrderedCollections
internal import Safetensors
public import Tensors
internal import Weights

/// The tensors of a safetensors file, a model folder or an `.opck` file, as the base of differences.
public final class BaseFiles: BaseTensors {
    public let path: String
    private let weights: ModelWeights?
    private let checkpoint: CheckpointFile?
    /// The tensors of `checkpoint` by their own names; of two in different packed files the first.
    private let byName: [String: CheckpointTensor]

    public init(path: String) throws {
        self.path = path
        if CheckpointFile.claims(path) {
            let file = try CheckpointFile(path: path)
            byName = Dictionary(file.tensors.values.map { ($0.name, $0) }) { first, _ in first }
            checkpoint = file
            weights = nil
        } else {
            byName = [:]
            checkpoint = nil
            weights = try ModelWeights(path: path, decodes: false)
        }
    }

    public func source(name: String, dtype: DType, shape: [Int]) throws -> (any ByteSource)? {
        if let checkpoint {
            guard let tensor = byName[name], tensor.dtype == dtype, tensor.shape == shape else { return nil }
            return try checkpoint.source(of: tensor)
        }
        guard let weight = weights?.tensors[name], weight.dtype == dtype, weight.shape == shape, let range = weight.plainRange else { return nil }
        return MappedBytes(weight.file, range)
    }
}
