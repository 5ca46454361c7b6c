internal import FileIO
internal import Hashing
internal import JSON
internal import OrderedCollections
internal import Safetensors

/// What the receipts of a model say: which adapters are in it.
public struct MergeReceipt: Sendable {
    /// An adapter as a receipt names it.
    public struct Entry: Sendable, Equatable {
        public let name: String
        /// Of the file of its factors; `nil` where the receipt does not say.
        public let sha256: String?
        public let weight: Double

        /// Whether it is the same adapter as another one, as far as the two tell.
        func isSame(as other: Entry) -> Bool { sha256 == nil || other.sha256 == nil ? name == other.name : sha256 == other.sha256 }

        /// As reports name it.
        public var text: String { weight == 1 ? name : "\(name):\(weight)" }
    }

    /// What was done to the model, the oldest first: receipts without the history that each had.
    let steps: [JSONValue]
    /// The adapters that are in the model.
    public let adapters: [Entry]
    /// The element type that the last step was told to write; `nil` where it kept those of the base.
    public let dtype: String?

    static let taking = "unmerge"
    /// The largest receipt that is read, in bytes.
    private static let maximumBytes = 200_000_000
    private static let pieceBytes = 1 << 18

    /// The receipt beside the weights of a model; `nil` where there is none.
    ///
    /// - Parameter path: the model's folder, or its file.
    /// - Throws: `MergeError.invalidReceipt` for a file of this name that is no receipt.
    public init?(ofModel path: String) throws(MergeError) {
        let folder = FileSystem.isFolder(path) ? path : FileSystem.parent(of: path)
        let file = FileSystem.join(folder, ModelFolder.receiptName)
        guard FileSystem.exists(file) else { return nil }
        guard let text = try? FileSystem.contents(of: file, limit: Self.maximumBytes), let document = try? JSONValue(parsing: text),
            document["schema"]?.stringValue == ModelFolder.receiptSchema, var last = document.objectValue
        else {
            throw MergeError(
                .invalidReceipt, path: file,
                "this should say which adapters were merged into the model but is not a receipt that is read here (\(ModelFolder.receiptSchema)); move it away to go on without what it says"
            )
        }
        let earlier = last.removeValue(forKey: "history")?.arrayValue ?? []
        steps = earlier + [.object(last)]
        dtype = last["dtype"]?.stringValue.flatMap { $0 == "keep" ? nil : $0.lowercased() }
        adapters = Self.adapters(after: steps)
    }

    private static func adapters(after steps: [JSONValue]) -> [Entry] {
        var entries: [Entry] = []
        for step in steps {
            for adapter in step["adapters"]?.arrayValue ?? [] {
                let entry = Entry(
                    name: adapter["name"]?.stringValue ?? "", sha256: adapter["sha256"]?.stringValue, weight: adapter["weight"]?.doubleValue ?? 1)
                guard step["operation"]?.stringValue == taking else {
                    entries.append(entry)
                    continue
                }
                if let number = entries.lastIndex(where: { $0.isSame(as: entry) && $0.weight == -entry.weight }) { entries.remove(at: number) }
            }
        }
        return entries
    }

    /// An adapter as receipts name it.
    static func entry(of item: WeightedAdapter) -> Entry { entry(of: item, hash: hash(of: item.adapter)) }

    private static func entry(of item: WeightedAdapter, hash: String?) -> Entry {
        Entry(name: FileSystem.lastComponent(item.adapter.path), sha256: hash, weight: item.weight)
    }

    /// The SHA-256 of the file of the factors, or of the run that they come from.
    private static func hash(of adapter: Adapter) -> String? {
        guard let path = adapter.weightsPath ?? (adapter.dialect == .opck ? adapter.path : nil), let file = try? MappedFile(path: path) else {
            return nil
        }
        var digest = SHA256Digest()
        for start in stride(from: 0, to: file.count, by: pieceBytes) {
            let range = start..<min(start + pieceBytes, file.count)
            digest.update(file.bytes(in: range))
            file.release(range)
        }
        return digest.finishHex()
    }

    // MARK: Checks

    /// - Parameter entries: the adapters that are to be merged, in their order.
    /// - Throws: `MergeError.alreadyMerged` for one that is in the model; `.givenTwice` for one that comes twice.
    static func refuseRepetition(_ entries: [(adapter: WeightedAdapter, entry: Entry)], into receipt: MergeReceipt?) throws(MergeError) {
        let known = receipt?.adapters ?? []
        var given: [(path: String, entry: Entry)] = []
        for (item, entry) in entries {
            func isSame(_ other: Entry) -> Bool { other.sha256 != nil && other.sha256 == entry.sha256 }
            if let other = given.first(where: { isSame($0.entry) }) {
                throw MergeError(
                    .givenTwice, path: item.adapter.path,
                    other.path == item.adapter.path ? "the adapter is given twice" : "the adapter is given twice, also as \(other.path)",
                    cause: .givenTwice)
            }
            if let other = known.first(where: isSame) {
                throw MergeError(
                    .alreadyMerged, path: item.adapter.path,
                    "the adapter is in the model already, as \(other.text)", cause: .alreadyMerged)
            }
            given.append((item.adapter.path, entry))
        }
    }

    /// - Throws: `MergeError.notInReceipt` for an adapter that the receipt does not say to be in the model with this weight.
    func requireMerged(_ entries: [(adapter: WeightedAdapter, entry: Entry)]) throws(MergeError) {
        var left = adapters
        for (item, entry) in entries {
            if let number = left.lastIndex(where: { $0.isSame(as: entry) && $0.weight == entry.weight }) {
                left.remove(at: number)
                continue
            }
            let others = left.filter { $0.isSame(as: entry) }
            let list = left.isEmpty ? "no adapter is left in the model" : "in the model are \(left.map(\.text).joined(separator: ", "))"
            throw MergeError(
                .notInReceipt, path: item.adapter.path,
                others.isEmpty
                    ? "the model's receipt does not have this adapter: \(list)"
                    : "the adapter was merged with weight \(others[0].weight) and not \(entry.weight), says the model's receipt",
                cause: others.isEmpty ? .notInReceipt : .otherWeight(others[0].weight))
        }
    }

    /// How what somebody says was merged differs from what the receipts say; `nil` where it does not.
    ///
    /// - Parameters:
    ///   - base: the receipt of the base, whose adapters are in it before.
    ///   - isProven: whether the model is known to hold these adapters, so that their files are compared only where names or weights differ.
    public func disagreement(with adapters: [WeightedAdapter], base: MergeReceipt?, isProven: Bool) -> String? {
        var expected = self.adapters
        for entry in base?.adapters ?? [] {
            if let number = expected.firstIndex(of: entry) { expected.remove(at: number) }
        }
        func isStated(_ entries: [Entry]) -> Bool {
            var left = expected
            for entry in entries {
                guard let number = left.firstIndex(where: { $0.isSame(as: entry) && $0.weight == entry.weight }) else { continue }
                left.remove(at: number)
            }
            return left.isEmpty && entries.count == expected.count
        }
        if isProven, isStated(adapters.map { Self.entry(of: $0, hash: nil) }) { return nil }
        let stated = adapters.map(Self.entry)
        guard !isStated(stated) else { return nil }
        let areWeighted = (expected + stated).contains { $0.weight != 1 }
        func list(_ entries: [Entry]) -> String {
            entries.isEmpty ? "no adapter" : entries.map { areWeighted ? "\($0.name):\($0.weight)" : $0.name }.joined(separator: ", ")
        }
        // The names may be the same where the files are not.
        let names = list(expected) == list(stated) ? "other files under the same names" : list(stated)
        return "the merged model's receipt says that \(list(expected)) was merged, and it is verified against \(names)"
    }
}
