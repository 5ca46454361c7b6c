import FileIO
import JSON
import OrderedCollections
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

@testable import Safetensors

struct ShardedWriterTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    /// Bytes that tell tensors and places apart.
    private func bytes(_ info: TensorInfo) -> [UInt8] { (0..<info.byteCount).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ info.name.utf8.count) } }

    private func entries(_ sizes: [Int], dtype: DType = .u8) -> [SafetensorsWriter.Entry] {
        sizes.enumerated().map { .init(name: "t" + String(repeating: "x", count: $0.offset), dtype: dtype, shape: [$0.element]) }
    }

    /// Writes tensors in pieces of at most three bytes; the names of the shards.
    @discardableResult
    private func write(_ entries: [SafetensorsWriter.Entry], shardSize: Int) throws -> [String] {
        let writer = try ShardedWriter(
            folder: folder.path, entries: entries, metadata: ["format": "pt"], shardSize: shardSize, replacing: true, durable: false)
        for place in writer.order {
            let bytes = bytes(place.info)
            for start in stride(from: 0, to: bytes.count, by: 3) {
                try writer.write(unsafe bytes.span.bytes.extracting(start..<min(start + 3, bytes.count)))
            }
        }
        try writer.publish()
        return writer.shards
    }

    @Test(
        arguments: [
            ([5, 5, 5], 10, [2, 1]), ([5, 5, 1], 10, [2, 1]), ([20, 1, 20], 10, [1, 1, 1]), ([1, 20, 1], 10, [1, 1, 1]), ([10, 10], 10, [1, 1]),
            ([0, 0, 11, 0, 0], 10, [5]), ([9, 0, 9, 0], 10, [2, 2]), ([4, 4], 1, [1, 1]),
        ] as [([Int], Int, [Int])])
    func tensorsFillOneShardAfterTheOther(sizes: [Int], shardSize: Int, counts: [Int]) throws {
        let shards = try write(entries(sizes), shardSize: shardSize)
        #expect(shards.count == counts.count)
        let weights = try ModelWeights(path: folder.path)
        #expect(weights.shards.map(\.tensorCount) == counts)
        #expect(weights.tensors.count == sizes.count)
        for shard in weights.shards.compactMap(\.safetensors) {
            #expect(shard.metadata == ["format": "pt"])
            for info in shard.tensors.values { #expect(shard.bytes(info.name) == bytes(info)) }
        }
        #expect(weights.index?["metadata"]?["total_size"] == (counts.count == 1 ? nil : .integer(sizes.reduce(0, +))))
    }

    @Test func oneShardIsAnOrdinaryFile() throws {
        #expect(try write(entries([4, 4]), shardSize: 100) == ["model.safetensors"])
        #expect(try FileSystem.names(in: folder.path) == ["model.safetensors"])
        #expect(try write([], shardSize: 100) == ["model.safetensors"])
        #expect(try ModelWeights(path: folder.path).tensors.isEmpty)
    }

    @Test func namesAndIndexAreThoseOfTheReference() throws {
        try write([.init(name: "b", dtype: .f32, shape: [2]), .init(name: "a", dtype: .u8, shape: [3])], shardSize: 8)
        #expect(
            try FileSystem.names(in: folder.path) == [
                "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
            ])
        let index = """
            {
              "metadata": {
                "total_size": 11
              },
              "weight_map": {
                "a": "model-00002-of-00002.safetensors",
                "b": "model-00001-of-00002.safetensors"
              }
            }

            """
        #expect(try readAll(folder.path(ModelWeights.indexName)) == Array(index.utf8))
    }

    @Test func sameTensorsSameBytes() throws {
        func contents() throws -> [[UInt8]] { try FileSystem.names(in: folder.path).map { try readAll(folder.path($0)) } }
        try write(entries([30, 3, 7, 21, 8]), shardSize: 32)
        let first = try contents()
        try write(entries([30, 3, 7, 21, 8]), shardSize: 32)
        #expect(try contents() == first && first.count == 4)
    }

    @Test func aNameInTwoShardsIsRefused() {
        let twice = entries([8]) + entries([8])
        #expect(
            fault { _ = try ShardedWriter(folder: folder.path, entries: twice, metadata: [:], shardSize: 8, replacing: true) }?.code
                == .duplicateTensor)
        #expect(
            fault {
                _ = try ShardedWriter(
                    folder: folder.path, entries: [.init(name: "a", dtype: .u8, shape: [-1])], metadata: [:], shardSize: 8, replacing: true)
            }?.code == .sizeOverflow)
    }

    @Test func headersBeyondTheLimitAreRefused() throws {
        let entries = entries([1])
        let length = try SafetensorsLayout(path: "", entries: entries, metadata: [:]).header.count - 8
        #expect(throws: Never.self) { try SafetensorsLayout(path: "", entries: entries, metadata: [:], maximumHeaderBytes: length) }
        let error = fault { _ = try SafetensorsLayout(path: "", entries: entries, metadata: [:], maximumHeaderBytes: length - 1) }
        #expect(error?.code == .headerTooLarge)
    }
}
