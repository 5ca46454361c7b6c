internal import FileIO
internal import OrderedCollections
internal import Safetensors

/// The safetensors of a folder that has them under no name that is known: the shards of one model, whose index is missing, or the only file.
struct FolderWeights {
    /// The files, in order.
    let names: [String]

    private static let ending = ".safetensors"

    /// The number of a shard and of all, as `PREFIX-00001-of-00002.safetensors` gives them.
    private struct Shard {
        let prefix: String
        let number: Int
        let count: Int

        init?(_ name: String) {
            guard name.hasSuffix(FolderWeights.ending) else { return nil }
            let words = name.dropLast(FolderWeights.ending.count).split(separator: "-", omittingEmptySubsequences: false)
            guard words.count >= 4, words[words.count - 2] == "of", let number = Self.number(words[words.count - 3]),
                let count = Self.number(words[words.count - 1]), (1...count).contains(number)
            else { return nil }
            (prefix, self.number, self.count) = (words.dropLast(3).joined(separator: "-"), number, count)
        }

        /// Five digits, not all of them zero.
        private static func number(_ text: Substring) -> Int? {
            guard text.utf8.count == 5, text.utf8.allSatisfy({ UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }), let number = Int(text), number > 0
            else {
                return nil
            }
            return number
        }

        static func name(_ prefix: String, _ number: Int, of count: Int) -> String {
            func five(_ number: Int) -> String { String(String(100_000 + number).dropFirst()) }
            return "\(prefix)-\(five(number))-of-\(five(count))\(FolderWeights.ending)"
        }
    }

    /// Whether a file is called like one of several shards.
    static func isShard(_ name: String) -> Bool { Shard(name) != nil }

    /// - Throws: `SafetensorsError` that says what the folder is, or which of its files are too many or missing; `FileError`.
    init(folder: String) throws {
        let names = try FileSystem.names(in: folder).filter { name in
            // Hidden files are of the system or of a version control.
            name.hasSuffix(Self.ending) && !name.hasPrefix(".") && !FileSystem.isFolder(FileSystem.join(folder, name))
        }
        guard let first = names.first else {
            if let nature = try FolderNature(of: folder) {
                throw SafetensorsError(nature.isMissing ? .noWeights : .otherFormat, path: folder, nature.explanation)
            }
            throw SafetensorsError(
                .noWeights, path: folder,
                "the folder holds neither \(ShardedWriter.singleName) nor \(ShardedWriter.indexName) nor other safetensors, but "
                    + "\(try FolderNature.contents(of: folder)); name the folder or the file of a model or an adapter")
        }
        let shards = names.compactMap(Shard.init)
        if let shard = shards.first, shards.count == names.count, shards.allSatisfy({ $0.prefix == shard.prefix && $0.count == shard.count }) {
            let numbers = Set(shards.map(\.number))
            let missing = (1...shard.count).filter { !numbers.contains($0) }.map { Shard.name(shard.prefix, $0, of: shard.count) }
            guard missing.isEmpty else {
                throw SafetensorsError(
                    .missingShard, path: folder,
                    "the folder holds \(numbers.count) of \(shard.count) shards and lacks \(FolderNature.list(missing)); fetch what is missing")
            }
            self.names = names
        } else {
            guard names.count == 1 else {
                throw SafetensorsError(
                    .noWeights, path: folder,
                    "the folder holds neither \(ShardedWriter.singleName) nor \(ShardedWriter.indexName) but \(FolderNature.list(names)); name one of "
                        + "these files, such as \(FileSystem.join(folder, first))")
            }
            self.names = names
        }
    }
}
