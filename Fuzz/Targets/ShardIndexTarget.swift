import FileIO
import JSON
import OrderedCollections
import Safetensors
import Tensors
import Weights

/// The shards that every index is about: two tensors in one, one in the other.
private let shards: Void = {
    for (name, tensors) in [("a.safetensors", ["x", "y"]), ("b.safetensors", ["z"])] {
        do {
            let writer = try SafetensorsWriter(
                path: FileSystem.join(InputFile.folder, name), entries: tensors.map { .init(name: $0, dtype: .u8, shape: [0]) }, metadata: [:],
                replacing: true)
            try writer.publish(durable: false)
        } catch {
            fail("\(error)")
        }
    }
}()

private let index = InputFile(ModelWeights.indexName)

/// An index beside two shards: what is accepted names their tensors, all of them and each in its shard.
func fuzzShardIndex(_ bytes: [UInt8]) {
    _ = shards
    index.write(bytes)
    guard let weights = try? ModelWeights(path: InputFile.folder) else { return }
    guard let map = weights.index?["weight_map"]?.objectValue else { fail("an index without a weight_map was accepted") }
    require(Set(map.keys) == Set(weights.tensors.keys), "the index and the weights name different tensors")
    for (name, location) in weights.tensors {
        guard let shard = map[name]?.stringValue else { fail("\(name) is in no shard") }
        require(location.file.path == FileSystem.join(InputFile.folder, shard), "\(name) was read from \(location.file.path)")
        require(!shard.contains("/"), "\(shard) leads out of the folder")
    }
}
