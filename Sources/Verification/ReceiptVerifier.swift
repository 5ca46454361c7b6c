internal import Adapters
internal import FileIO
internal import Hashing
public import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Synchronization
internal import Tensors
internal import Weights

/// Checks the weights of a merged model against the hashes in its receipt, without base and adapter.
public enum ReceiptVerifier {
    /// What was found.
    public struct Verdict: Sendable {
        public let faults: [Fault]
        /// Tensors whose hashes the receipt holds, and the bytes of those that were read.
        public let tensorCount: Int
        public let byteCount: Int

        public var passes: Bool { faults.isEmpty }

        /// The report that `oplora verify --receipt --json` prints.
        public var json: JSONValue {
            [
                "schema": "oplora.verify-receipt/1", "verdict": passes ? "pass" : "fail", "tensors": .integer(tensorCount),
                "bytes": .integer(byteCount), "faults": .array(faults.map(\.json)),
            ]
        }
    }

    /// The largest receipt that is read, in bytes.
    private static let maximumReceiptBytes = 200_000_000
    private static let pieceBytes = 1 << 18

    /// - Parameters:
    ///   - receipt: `oplora-merge.json` of a merge with `--hash`.
    ///   - merged: the merged model; without it the folder that the receipt lies in.
    /// - Throws: `MergeError` for a receipt that is none or holds no hashes, `SafetensorsError` or `FileError` for files that
    ///   cannot be read, `MergeError.interrupted`.
    public static func verify(
        receipt path: String, merged: String? = nil, threads: Int = 1, isCancelled: @escaping @Sendable () -> Bool = { false }
    ) throws -> Verdict {
        let hashes = try hashes(in: path)
        let files = try ModelWeights(path: merged ?? FileSystem.parent(of: path), decodes: false)
        try files.requireComparable()
        var faults: [Fault] = []
        var works: [(name: String, weight: StoredWeight, hash: String)] = []
        for (name, hash) in hashes {
            if let weight = files.tensors[name] {
                works.append((name, weight, hash))
            } else {
                faults.append(Fault(.missingTensor, name, "the receipt has its hash and the model does not hold it"))
            }
        }
        for name in files.tensors.keys where hashes[name] == nil {
            faults.append(Fault(.extraTensor, name, "the receipt knows nothing of it"))
        }
        let list = works
        let found = Mutex([String?](repeating: nil, count: list.count))
        try ThreadPool.forEach(list.count, threads: threads) {
            ByteBuffer()
        } _: { number, buffer in
            let digest = try digest(of: list[number].weight, &buffer, isCancelled: isCancelled)
            found.withLock { $0[number] = digest }
        }
        for (work, digest) in zip(list, found.withLock { $0 }) where digest != work.hash {
            faults.append(
                Fault(.hashDiffers, work.name, "the SHA-256 of its bytes is \(digest ?? "") and was \(work.hash) when the model was made"))
        }
        return Verdict(faults: faults, tensorCount: hashes.count, byteCount: list.reduce(0) { $0 + $1.weight.byteCount })
    }

    private static func hashes(in path: String) throws -> OrderedDictionary<String, String> {
        func fault(_ message: String, cause: MergeError.Cause? = nil) -> MergeError { MergeError(.invalidReceipt, path: path, message, cause: cause) }
        let document: JSONValue
        do { document = try JSONValue(parsing: try FileSystem.contents(of: path, limit: maximumReceiptBytes)) } catch let error as JSONError {
            throw fault("it is no JSON: \(error)")
        }
        guard document["schema"]?.stringValue == "oplora.merge-receipt/1" else {
            throw fault("it is not the receipt of a merge (schema oplora.merge-receipt/1)")
        }
        guard let members = document["sha256"]?.objectValue else {
            throw fault("it holds no hashes", cause: .noHashes)
        }
        var hashes: OrderedDictionary<String, String> = [:]
        for (name, value) in members {
            guard let hash = value.stringValue, hash.utf8.count == 64, hash.allSatisfy(\.isHexDigit) else {
                throw fault("the hash of \(name) is no SHA-256")
            }
            hashes[name] = hash
        }
        return hashes
    }

    private static func digest(
        of weight: StoredWeight, _ buffer: inout ByteBuffer, isCancelled: () -> Bool
    ) throws -> String {
        var digest = SHA256Digest()
        let count = weight.byteCount
        for start in stride(from: 0, to: count, by: pieceBytes) {
            guard !isCancelled() else { throw MergeError(.interrupted, path: "verify", "the verification was interrupted") }
            try buffer.read(weight, start..<min(start + pieceBytes, count))
            digest.update(buffer.bytes)
        }
        return digest.finishHex()
    }
}
