import FileIO
import OrderedCollections
public import Safetensors
import Tensors

/// A file of the given header and data: eight bytes of length, the header, the data.
public func fileBytes(_ header: [UInt8], _ data: [UInt8] = []) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: header.count >> (8 * $0)) } + header + data
}

public func fileBytes(_ header: String, _ data: [UInt8] = []) -> [UInt8] { fileBytes(Array(header.utf8), data) }

extension SafetensorsFile {
    /// The bytes of a tensor; empty when there is none of that name.
    public func bytes(_ name: String) -> [UInt8] {
        guard let info = tensors[name] else { return [] }
        return withBytes(of: info) { bytes in unsafe bytes.withUnsafeBytes { unsafe Array($0) } }
    }
}

/// The error of `body`; `nil` when it throws none or another.
public func fault(_ body: () throws -> Void) -> SafetensorsError? {
    do { try body() } catch { return error as? SafetensorsError }
    return nil
}

extension SafetensorsError.Code {
    /// Those of folders with several files, which whoever opens models finds.
    public static let ofModels: Set<SafetensorsError.Code> = [
        .invalidIndex, .indexMismatch, .unsafePath, .duplicateTensor, .noWeights, .missingShard, .otherFormat,
    ]
}
