import FileIO
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Weights

/// Every single wrong bit and every cut, counted by what comes of it. The format has no checksum: what names, metadata and
/// data say cannot be checked, and everything else must be.
struct BitFlipTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    /// A tensor without its place in the file.
    private struct Content: Hashable {
        let dtype: DType
        let shape: [Int]
        let bytes: [UInt8]
    }

    private struct Reading: Equatable {
        var tensors: [String: Content] = [:]
        var metadata: [String: String] = [:]

        /// Adds the tensors of an open file.
        mutating func add(_ file: SafetensorsFile) {
            for info in file.tensors.values { tensors[info.name] = Content(dtype: info.dtype, shape: info.shape, bytes: file.bytes(info.name)) }
            for (key, value) in file.metadata { metadata[key] = value }
        }

        var contents: [Content: Int] { tensors.values.reduce(into: [:]) { $0[$1, default: 0] += 1 } }
        var shapes: [String: [Int]] { tensors.mapValues(\.shape) }
    }

    /// How many files led to what.
    private struct Counts: Equatable, CustomStringConvertible {
        var refused = 0
        /// Nothing that is read has changed.
        var harmless = 0
        /// A name or a text of the metadata.
        var names = 0
        /// One bit of one tensor, in its place.
        var data = 0
        var wrong: [String] = []

        var description: String { "refused \(refused), harmless \(harmless), another name \(names), data \(data), wrong \(wrong.count)" }

        mutating func count(_ reading: Reading?, beside original: Reading, _ what: String) {
            guard let reading else {
                refused += 1
                return
            }
            if reading == original {
                harmless += 1
            } else if reading.contents == original.contents {
                names += 1
            } else if reading.shapes == original.shapes, reading.metadata == original.metadata, flippedBits(reading, original) == 1 {
                data += 1
            } else {
                wrong.append(what)
            }
        }

        private func flippedBits(_ first: Reading, _ second: Reading) -> Int {
            first.tensors.reduce(0) { sum, tensor in
                zip(tensor.value.bytes, second.tensors[tensor.key]?.bytes ?? []).reduce(sum) { $0 + ($1.0 ^ $1.1).nonzeroBitCount }
            }
        }
    }

    private static func flipped(_ bytes: [UInt8], _ bit: Int) -> [UInt8] {
        var bytes = bytes
        bytes[bit / 8] ^= 1 << (bit % 8)
        return bytes
    }

    /// Two tensors in an order that is not that of the header, metadata, padding.
    private static let small = fileBytes(
        #"{"__metadata__":{"a":"b"},"y":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},"#
            + #""x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}     "#,
        [0, 0, 128, 63, 0, 0, 0, 64, 7, 8, 9])

    /// The file as it is read; `nil` when it is refused.
    private func read(_ bytes: [UInt8]) throws -> Reading? {
        let path = folder.path("small.safetensors")
        try write(bytes, path)
        guard let file = try? SafetensorsFile(path: path) else { return nil }
        var reading = Reading()
        reading.add(file)
        return reading
    }

    @Test func noFlippedBitOfAFileDoesHarm() throws {
        let original = try #require(try read(Self.small))
        var counts = Counts()
        for bit in 0..<8 * Self.small.count {
            counts.count(try read(Self.flipped(Self.small, bit)), beside: original, "bit \(bit % 8) of byte \(bit / 8)")
        }
        print("safetensors, \(8 * Self.small.count) bits: \(counts)")
        #expect(counts.wrong.isEmpty, "\(counts.wrong)")
        // All of the data, and no bit besides.
        #expect(counts.data == 8 * 11)
        #expect(counts.refused + counts.harmless + counts.names + counts.data == 8 * Self.small.count)
        #expect(counts == Counts(refused: 1135, harmless: 0, names: 25, data: 88), "\(counts)")
        for count in Self.small.indices { #expect(try read(Array(Self.small[..<count])) == nil, "the first \(count) bytes") }
    }

    /// An index and its two shards: each name stands in both, so that no name changes unseen.
    @Test func noFlippedBitOfAModelInShardsDoesHarm() throws {
        let shards = ["a": ["x"], "b": ["y", "z"]]
        var map: OrderedDictionary<String, JSONValue> = [:]
        for (shard, names) in shards.sorted(by: { $0.key < $1.key }) {
            let tensors = names.map { TestTensor($0, .u8, [2], bytes: Array($0.utf8) + [7]) }
            try writeSafetensors(tensors, to: folder.path(shard + ".safetensors"), metadata: [:])
            for name in names { map[name] = .string(shard + ".safetensors") }
        }
        let index: JSONValue = ["metadata": ["total_size": 6], "weight_map": .object(map)]
        try writeText(index.serialized(), folder.path(ModelWeights.indexName))
        func read() -> Reading? {
            guard let weights = try? ModelWeights(path: folder.path) else { return nil }
            var reading = Reading()
            for shard in weights.shards.compactMap(\.safetensors) { reading.add(shard) }
            return reading
        }
        let original = try #require(read())
        for (name, dataBits) in [(ModelWeights.indexName, 0), ("a.safetensors", 16), ("b.safetensors", 32)] {
            let path = folder.path(name)
            let whole = try readAll(path)
            var counts = Counts()
            for bit in 0..<8 * whole.count {
                try write(Self.flipped(whole, bit), path)
                counts.count(read(), beside: original, "bit \(bit % 8) of byte \(bit / 8)")
            }
            print("\(name), \(8 * whole.count) bits: \(counts)")
            #expect(counts.wrong.isEmpty && counts.names == 0 && counts.data == dataBits, "\(counts)")
            for count in whole.indices {
                try write(Array(whole[..<count]), path)
                #expect(read() == nil, "the first \(count) bytes of \(name)")
            }
            try write(whole, path)
        }
    }
}
