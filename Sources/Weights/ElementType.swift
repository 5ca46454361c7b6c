public import GGUF
public import Tensors

/// The element type of a tensor in a file of any kind.
public enum ElementType: Hashable, Sendable {
    case plain(DType)
    /// Blocks of elements that share scales.
    case blocks(GGMLType)

    public init(_ type: GGMLType) { self = type.dtype.map { .plain($0) } ?? .blocks(type) }

    public var name: String {
        switch self {
        case .plain(let dtype): dtype.rawValue
        case .blocks(let type): type.name
        }
    }

    /// The type, where each element stands for itself.
    public var dtype: DType? {
        if case .plain(let dtype) = self { dtype } else { nil }
    }

    /// The bytes of a number of elements that a reader has found to be sound.
    public func byteCount(of elements: Int) -> Int {
        switch self {
        case .plain(let dtype):
            // The product of both may be beyond an integer where the quotient is not.
            dtype.bitWidth % 8 == 0
                ? elements * (dtype.bitWidth / 8) : Int((Int128(elements) * Int128(dtype.bitWidth)) / 8)
        case .blocks(let type): elements / type.blockElements * type.blockBytes
        }
    }
}

extension ElementType: CustomStringConvertible {
    public var description: String { name }
}
