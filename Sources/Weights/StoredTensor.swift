public import FileIO
public import GGUF
public import Safetensors
public import Tensors

/// A tensor as it lies in a file of any format: its name, its type and its bytes, whatever they stand for.
public struct StoredTensor: Sendable {
    public let name: String
    public let type: ElementType
    /// Dimensions, outermost first.
    public let shape: [Int]
    public let file: MappedFile
    /// Where its bytes lie in the file.
    public let range: Range<Int>

    public init(_ info: TensorInfo, in file: SafetensorsFile) {
        (name, type, shape) = (info.name, .plain(info.dtype), info.shape)
        (self.file, range) = (file.file, info.byteRange)
    }

    public init(_ tensor: GGUFTensor, in file: GGUFFile) {
        (name, type, shape) = (tensor.name, ElementType(tensor.type), tensor.shape)
        (self.file, range) = (file.file, tensor.byteRange)
    }

    private init(_ other: StoredTensor, named name: String) {
        self.name = name
        (type, shape, file, range) = (other.type, other.shape, other.file, other.range)
    }

    /// The same tensor under the name that it has in its model.
    func named(_ name: String) -> StoredTensor { StoredTensor(self, named: name) }

    public var byteCount: Int { range.count }
    public var elementCount: Int { shape.reduce(1, &*) }
}
