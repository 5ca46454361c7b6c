internal import FileIO
internal import Hashing
internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Tokenizer

/// A stream of token ids to train or measure on.
public struct TokenData: Sendable {
    public let path: String
    public let tokens: [Int32]

    /// The name of the tensor that holds ids in a safetensors file.
    public static let tensorName = "input_ids"

    /// Reads a text file through the model's tokenizer, or ids from a safetensors file.
    ///
    /// - Parameters:
    ///   - path: UTF-8 text, or a `.safetensors` file with an I32 or I64 tensor `input_ids`.
    ///   - modelFolder: where `tokenizer.json` is.
    ///   - vocabularySize: ids must be below it.
    /// - Throws: `TrainingError` for empty data or an id out of range; `FileError`, `TokenizerError`, `SafetensorsError`.
    public init(path: String, modelFolder: String, vocabularySize: Int) throws {
        self.path = path
        if path.hasSuffix(".safetensors") {
            tokens = try Self.readIDs(path)
        } else {
            let text = try MappedFile(path: path)
            let tokenizer = try Tokenizer(contentsOf: FileSystem.join(modelFolder, "tokenizer.json"))
            tokens = try tokenizer.encode(utf8: text.bytes, from: path)
        }
        guard !tokens.isEmpty else { throw TrainingError(.emptyData, "\(path): there is not one token in it; give a file with text") }
        if let index = tokens.firstIndex(where: { $0 < 0 || Int($0) >= vocabularySize }) {
            throw TrainingError(
                .tokenOutOfRange,
                "\(path): token \(tokens[index]) at place \(index) is beyond the model's vocabulary of \(vocabularySize); the tokenizer or the ids belong to another model"
            )
        }
    }

    public init(path: String, tokens: [Int32]) {
        self.path = path
        self.tokens = tokens
    }

    private static func readIDs(_ path: String) throws -> [Int32] {
        let file = try SafetensorsFile(path: path)
        guard let info = file.tensors[tensorName] else {
            throw TrainingError(.invalidData, "\(path): there is no tensor \"\(tensorName)\" with the token ids")
        }
        guard info.dtype == .i32 || info.dtype == .i64 else {
            throw TrainingError(.invalidData, "\(path): the tensor \"\(tensorName)\" is \(info.dtype) and must be I32 or I64")
        }
        let width = info.dtype.bitWidth / 8
        return try file.withBytes(of: info) { bytes in
            try (0..<info.elementCount).map { index in
                // Sound: the index is within the tensor, whose size was checked, and any bits are an integer.
                let value =
                    width == 4
                    ? Int64(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: index * 4, as: Int32.self))
                    : unsafe bytes.unsafeLoadUnaligned(fromByteOffset: index * 8, as: Int64.self)
                guard let id = Int32(exactly: value) else {
                    throw TrainingError(.tokenOutOfRange, "\(path): token \(value) at place \(index) is beyond any vocabulary")
                }
                return id
            }
        }
    }

    /// The number of windows of `length` inputs, each with its targets one place further.
    public func windowCount(length: Int) -> Int { (tokens.count - 1) / length }

    /// The inputs and targets of a window.
    func window(_ index: Int, length: Int) -> (inputs: ArraySlice<Int32>, targets: ArraySlice<Int32>) {
        let start = index * length
        return (tokens[start..<start + length], tokens[(start + 1)..<(start + length + 1)])
    }

    /// A digest of the ids: what was trained on, whatever the file was called.
    public var fingerprint: String {
        // Sound: any bits are bytes.
        unsafe SHA256Digest.hex(of: tokens.span.bytes)
    }
}

/// The tokens of a batch, one sequence after the other, in memory that serves every batch.
struct TokenBatch {
    private(set) var inputs: [Int32] = []
    private(set) var targets: [Int32] = []

    init(capacity: Int) {
        inputs.reserveCapacity(capacity)
        targets.reserveCapacity(capacity)
    }

    mutating func removeAll() {
        inputs.removeAll(keepingCapacity: true)
        targets.removeAll(keepingCapacity: true)
    }

    mutating func append(_ window: (inputs: ArraySlice<Int32>, targets: ArraySlice<Int32>)) {
        inputs.append(contentsOf: window.inputs)
        targets.append(contentsOf: window.targets)
    }
}

/// The order in which windows are shown: a new permutation each epoch, which depends on the seed and the epoch alone, so
/// that a count of samples is all that a run needs to find its place again.
struct SampleOrder {
    private let windows: Int
    private let seed: UInt64
    private var epoch = -1
    private var permutation: [Int] = []

    init(windows: Int, seed: UInt64) {
        self.windows = windows
        self.seed = seed
    }

    /// The window of a sample, counted from the start of the run.
    mutating func window(ofSample sample: Int) -> Int {
        if sample / windows != epoch {
            epoch = sample / windows
            var random = RandomSource(seed: seed, stream: 1 << 40 + UInt64(epoch))
            permutation = Array(0..<windows)
            for last in stride(from: windows - 1, to: 0, by: -1) { permutation.swapAt(last, random.index(below: last + 1)) }
        }
        return permutation[sample % windows]
    }
}
