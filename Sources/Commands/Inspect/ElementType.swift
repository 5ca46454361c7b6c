internal import GGUF
internal import Tensors

/// The element type of a tensor in a file of any kind.
enum ElementType: Hashable {
    case plain(DType)
    /// Blocks of elements that share scales.
    case quantized(GGMLType)

    init(_ type: GGMLType) { self = type.dtype.map { .plain($0) } ?? .quantized(type) }

    var name: String {
        switch self {
        case .plain(let dtype): dtype.rawValue
        case .quantized(let type): type.name
        }
    }

    /// The bytes of a number of elements that a reader has found to be sound.
    func byteCount(of elements: Int) -> Int {
        switch self {
        case .plain(let dtype):
            // The product of both may be beyond an integer where the quotient is not.
            dtype.bitWidth % 8 == 0 ? elements * (dtype.bitWidth / 8) : Int((Int128(elements) * Int128(dtype.bitWidth)) / 8)
        case .quantized(let type): elements / type.blockElements * type.blockBytes
        }
    }
}

extension ElementType: CustomStringConvertible {
    var description: String { name }
}
