public import FileIO
public import Safetensors
public import Tensors

/// What gives the elements of a weight that are no bytes of a file.
public protocol ElementSource: Sendable {
    /// The file that holds what they are made from.
    var file: MappedFile { get }

    /// Makes elements, row-major and little-endian, in the type of the weight.
    ///
    /// - Parameters:
    ///   - elements: counted from the first of the weight; it has them.
    ///   - target: has room for them.
    func read(_ elements: Range<Int>, into target: inout MutableRawSpan) throws(FileError)
}

/// A weight of a model: numbers in rows, wherever and however they are stored.
///
/// The elements of a plain weight are bytes of its file. Those of an encoded one, such as codes with scales, are decoded
/// when they are read, a few rows at a time.
public struct StoredWeight: Sendable {
    public let name: String
    /// The type in which elements are read: that of the file, or F32 for elements that are decoded.
    public let dtype: DType
    /// Dimensions, outermost first; empty for a scalar.
    public let shape: [Int]
    private let storage: Storage

    private enum Storage: Sendable {
        case plain(MappedFile, Range<Int>)
        case computed(any ElementSource)
    }

    private init(name: String, dtype: DType, shape: [Int], storage: Storage) {
        (self.name, self.dtype, self.shape, self.storage) = (name, dtype, shape, storage)
    }

    /// A tensor of a safetensors file.
    public init(_ info: TensorInfo, in file: SafetensorsFile) {
        self.init(name: info.name, dtype: info.dtype, shape: info.shape, storage: .plain(file.file, info.byteRange))
    }

    /// A tensor whose elements each stand for themselves; `nil` for one in blocks.
    public init?(_ tensor: StoredTensor) {
        guard let dtype = tensor.type.dtype else { return nil }
        self.init(name: tensor.name, dtype: dtype, shape: tensor.shape, storage: .plain(tensor.file, tensor.range))
    }

    /// Elements that are made when they are read.
    public init(name: String, dtype: DType, shape: [Int], source: any ElementSource) {
        self.init(name: name, dtype: dtype, shape: shape, storage: .computed(source))
    }

    /// The number of elements. The reader of the file has checked that the product does not overflow.
    public var elementCount: Int { shape.reduce(1, &*) }
    /// The bytes that the elements take in `dtype`.
    public var byteCount: Int {
        switch storage {
        case .plain(_, let range): range.count
        case .computed: elementCount * dtype.bitWidth / 8
        }
    }

    /// The file that holds the weight, or the codes that it is made from.
    public var file: MappedFile {
        switch storage {
        case .plain(let file, _): file
        case .computed(let source): source.file
        }
    }

    /// Where the elements lie, if they are bytes of the file: the way for passes that copy nothing.
    public var plainRange: Range<Int>? {
        if case .plain(_, let range) = storage { range } else { nil }
    }

    public var isPlain: Bool { plainRange != nil }

    /// Whether the elements are decoded from codes.
    public var encoded: EncodedWeight? {
        if case .computed(let source) = storage { source as? EncodedWeight } else { nil }
    }

    /// The same values under another name.
    public func named(_ name: String) -> StoredWeight { StoredWeight(name: name, dtype: dtype, shape: shape, storage: storage) }

    /// The weight by the definition of its encoding, in code that decoding does not use: what verification reads.
    public var defined: StoredWeight {
        guard let encoded else { return self }
        return StoredWeight(name: name, dtype: dtype, shape: shape, storage: .computed(encoded.defined))
    }

    /// Some of the elements as a weight of their own; `nil` where they do not begin and end with a byte of the file.
    public func part(_ elements: Range<Int>, shape: [Int]) -> StoredWeight? {
        guard case .plain(let file, let range) = storage, dtype.bitWidth % 8 == 0 else { return nil }
        let width = dtype.bitWidth / 8
        let part = range.lowerBound + elements.lowerBound * width..<range.lowerBound + elements.upperBound * width
        return StoredWeight(name: name, dtype: dtype, shape: shape, storage: .plain(file, part))
    }

    // MARK: Reading

    /// Reads bytes of the elements, counted from the first: a single pass, without touching the file's mapping.
    ///
    /// - Parameters:
    ///   - bytes: whole elements, where they are computed.
    ///   - target: has room for them.
    /// - Throws: `FileError` when the file has become shorter or cannot be read.
    public func read(bytes: Range<Int>, into target: inout MutableRawSpan) throws(FileError) {
        switch storage {
        case .plain(let file, let range):
            try file.copyBytes(in: range.lowerBound + bytes.lowerBound..<range.lowerBound + bytes.upperBound, to: &target)
        case .computed(let source):
            let width = dtype.bitWidth / 8
            try source.read(bytes.lowerBound / width..<bytes.upperBound / width, into: &target)
        }
    }

    /// Likewise, at the start of `buffer`, which grows where it must.
    public func read(bytes: Range<Int>, into buffer: inout [UInt8]) throws(FileError) {
        if buffer.count < bytes.count { buffer = [UInt8](repeating: 0, count: bytes.count) }
        var span = buffer.mutableSpan
        // Sound: every bit pattern of a byte may be written.
        var target = unsafe span.mutableBytes
        try read(bytes: bytes, into: &target)
    }

    /// The bytes that some elements take, counted from the first element.
    public func bytes(of elements: Range<Int>) -> Range<Int> {
        elements.lowerBound * dtype.bitWidth / 8..<(elements.upperBound * dtype.bitWidth + 7) / 8
    }
}
