public import FileIO
internal import JSON
internal import OrderedCollections
public import Tensors

/// Writes the weights of a model into a folder, in shards of bounded size with an index, tensor by tensor.
///
/// The tensors fill one shard after the other in the order in which they are given; one that is larger than a shard has a
/// shard of its own. Weights that fit into one shard become `model.safetensors` without an index. The same tensors give the
/// same files. One shard is open at a time and none of it is held in memory; the index, by which readers find the shards,
/// is written last.
public final class ShardedWriter {
    /// What a model in one file is called, and the index of one in several.
    public static let singleName = "model.safetensors"
    public static let indexName = "model.safetensors.index.json"

    /// A tensor to be written next, and the name of the file that gets it.
    public struct Place: Sendable {
        public let info: TensorInfo
        public let shard: String
    }

    /// The tensors in the order in which their bytes must be written.
    public let order: [Place]
    /// The names of the files, in the order in which they are written; without the index.
    public let shards: [String]

    private let folder: String
    private let replacing: Bool
    private let durable: Bool
    private let layouts: [SafetensorsLayout]
    private var next = 0
    private var writer: SafetensorsWriter?
    /// Bytes that the open shard still wants.
    private var missing = 0

    /// Checks everything and plans the shards; nothing is written yet.
    ///
    /// - Parameters:
    ///   - folder: an existing folder.
    ///   - shardSize: the most bytes of tensors in one shard, headers not counted.
    ///   - metadata: what each shard has under `__metadata__`.
    ///   - replacing: whether files that are there may be replaced.
    ///   - durable: whether each file waits until the disk holds it.
    /// - Throws: `SafetensorsError` as `SafetensorsWriter` does; a name may not stand in two shards either.
    /// - Precondition: `shardSize` is positive.
    public init(
        folder: String, entries: [SafetensorsWriter.Entry], metadata: [String: String], shardSize: Int, replacing: Bool, durable: Bool = true
    ) throws(SafetensorsError) {
        precondition(shardSize > 0)
        let parts = try Self.cut(entries, shardSize: shardSize, path: folder)
        let shards = parts.count == 1 ? [Self.singleName] : parts.indices.map { Self.name($0 + 1, of: parts.count) }
        var layouts: [SafetensorsLayout] = []
        var order: [Place] = []
        for (part, shard) in zip(parts, shards) {
            let layout = try SafetensorsLayout(path: FileSystem.join(folder, shard), entries: part, metadata: metadata)
            layouts.append(layout)
            order += layout.order.map { Place(info: $0, shard: shard) }
        }
        (self.layouts, self.order, self.shards) = (layouts, order, shards)
        (self.folder, self.replacing, self.durable) = (folder, replacing, durable)
    }

    /// Appends bytes of the tensors, in `order`; a tensor may come in several pieces.
    ///
    /// - Precondition: no piece has bytes of tensors of two shards.
    public func write(_ bytes: RawSpan) throws(FileError) {
        guard bytes.byteCount > 0 else { return }
        while missing == 0 { try beginShard() }
        precondition(bytes.byteCount <= missing, "the bytes go over the end of a shard")
        try writer?.write(bytes)
        missing -= bytes.byteCount
    }

    /// Finishes the last shard and writes the index. All bytes of the tensors in `order` must have been written.
    public func publish() throws(FileError) {
        // Shards at the end may have tensors without bytes.
        while next < layouts.count, missing == 0 { try beginShard() }
        precondition(missing == 0, "a tensor was left unwritten")
        try endShard()
        guard shards.count > 1 else { return }
        let map = OrderedDictionary(uniqueKeysWithValues: order.map { ($0.info.name, JSONValue.string($0.shard)) })
        let index: JSONValue = [
            "metadata": ["total_size": .integer(order.reduce(0) { $0 + $1.info.byteCount })], "weight_map": .object(map),
        ]
        let file = try AtomicFile(path: FileSystem.join(folder, Self.indexName), replacing: replacing)
        try file.write(Array(index.serialized(pretty: true, sortedKeys: true).utf8))
        try file.publish(durable: durable)
    }

    private func beginShard() throws(FileError) {
        try endShard()
        precondition(next < layouts.count, "more bytes than the tensors have")
        writer = try SafetensorsWriter(path: FileSystem.join(folder, shards[next]), layout: layouts[next], replacing: replacing)
        missing = layouts[next].order.reduce(0) { $0 + $1.byteCount }
        next += 1
    }

    private func endShard() throws(FileError) {
        try writer?.publish(durable: durable)
        writer = nil
    }

    /// The name of a shard, counted from 1.
    private static func name(_ number: Int, of count: Int) -> String {
        func digits(_ number: Int) -> String { String(repeating: "0", count: max(0, 5 - String(number).count)) + String(number) }
        return "model-\(digits(number))-of-\(digits(count)).safetensors"
    }

    private static func cut(_ entries: [SafetensorsWriter.Entry], shardSize: Int, path: String) throws(SafetensorsError)
        -> [[SafetensorsWriter.Entry]]
    {
        // A name that stands in two shards is a fault of neither.
        var names: Set<String> = []
        var parts: [[SafetensorsWriter.Entry]] = [[]]
        var filled = 0
        for entry in entries {
            guard names.insert(entry.name).inserted else {
                throw SafetensorsError(.duplicateTensor, path: path, tensor: entry.name, "the tensor is to be written twice")
            }
            // A size that does not exist is the layout's to refuse.
            let size = CheckedSize.byteCount(of: entry.shape, dtype: entry.dtype) ?? 0
            if filled > 0, size > 0, size > shardSize - filled {
                parts.append([])
                filled = 0
            }
            parts[parts.count - 1].append(entry)
            filled += size
        }
        return parts
    }
}
