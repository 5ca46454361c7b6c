public import FileIO
public import GGUF
public import OrderedCollections
public import Safetensors
internal import Tensors

/// One file of a model's weights.
public struct ModelShard: Sendable {
    private let container: Container

    private enum Container: Sendable {
        case safetensors(SafetensorsFile)
        case gguf(GGUFFile)
    }

    /// - Throws: `SafetensorsError`, `GGUFError` or `FileError`.
    public init(path: String) throws {
        container = GGUFFile.claims(path) ? .gguf(try GGUFFile(path: path)) : .safetensors(try SafetensorsFile(path: path))
    }

    public init(_ file: SafetensorsFile) { container = .safetensors(file) }

    /// The file, where it is one of safetensors.
    public var safetensors: SafetensorsFile? { if case .safetensors(let file) = container { file } else { nil } }

    /// The file, where it is one of GGUF.
    public var gguf: GGUFFile? { if case .gguf(let file) = container { file } else { nil } }

    public var file: MappedFile {
        switch container {
        case .safetensors(let file): file.file
        case .gguf(let file): file.file
        }
    }

    public var path: String { file.path }

    /// `__metadata__` of safetensors.
    public var metadata: OrderedDictionary<String, String> { safetensors?.metadata ?? [:] }

    /// The bytes that its tensors take.
    var tensorBytes: Int {
        switch container {
        case .safetensors(let file): file.tensors.values.reduce(0) { $0 + $1.byteCount }
        case .gguf(let file): file.tensors.values.reduce(0) { $0 + $1.byteRange.count }
        }
    }

    public var tensorCount: Int {
        switch container {
        case .safetensors(let file): file.tensors.count
        case .gguf(let file): file.tensors.count
        }
    }

    /// All tensors, in the order of the file.
    public var stored: [StoredTensor] {
        switch container {
        case .safetensors(let file): file.tensors.values.map { StoredTensor($0, in: file) }
        case .gguf(let file): file.tensors.values.map { StoredTensor($0, in: file) }
        }
    }

    /// Calls `body` with what the header says of each tensor, in the order of the file, and copies nothing.
    public func forEachForm(_ body: (_ name: String, _ type: ElementType, _ shape: [Int]) -> Void) {
        switch container {
        case .safetensors(let file): for tensor in file.tensors.values { body(tensor.name, .plain(tensor.dtype), tensor.shape) }
        case .gguf(let file): for tensor in file.tensors.values { body(tensor.name, ElementType(tensor.type), tensor.shape) }
        }
    }

    /// The tensors whose elements stand for themselves.
    var weights: OrderedDictionary<String, StoredWeight> {
        switch container {
        case .safetensors(let file): file.tensors.mapValues { StoredWeight($0, in: file) }
        case .gguf(let file): file.tensors.compactMapValues { StoredWeight(StoredTensor($0, in: file)) }
        }
    }
}
