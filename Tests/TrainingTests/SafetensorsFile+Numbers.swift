import OrderedCollections
import Safetensors
import Tensors

struct MissingTensor: Error {
    let name: String
}

extension SafetensorsFile {
    func floats(_ name: String) throws -> [Float] { try numbers(name).map(Float.init(bitPattern:)) }

    func integers(_ name: String) throws -> [Int32] { try numbers(name).map(Int32.init(bitPattern:)) }

    /// The 32-bit patterns of a tensor.
    private func numbers(_ name: String) throws -> [UInt32] {
        guard let info = tensors[name], info.dtype.bitWidth == 32 else { throw MissingTensor(name: name) }
        return withBytes(of: info) { bytes in
            (0..<info.elementCount).map { unsafe bytes.unsafeLoadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self) }
        }
    }
}
