import OrderedCollections
import Tensors

@testable import Safetensors

/// A file: the short way and the long way through the header agree, tensors tile the data, and whatever is right by the
/// written format is right for the reference library.
func fuzzSafetensors(_ bytes: [UInt8]) {
    // Sound: every bit pattern of a byte may be read as a raw byte.
    let file = unsafe bytes.span.bytes
    let isReferenceRight = (try? ReferenceHeader(path: "input").check(file)) != nil
    guard let dataStart = try? SafetensorsHeader.dataStart(file, path: "input") else {
        require(!isReferenceRight, "reference mode takes a header that cannot be found")
        return
    }
    let scanned = HeaderScanner.read(file.extracting(8..<dataStart), dataStart: dataStart, end: file.byteCount)
    let parsed = try? SafetensorsHeader.parseThroughJSON(file, dataStart: dataStart, path: "input")
    if let scanned {
        guard let parsed else { fail("the scanner accepts what the JSON reader refuses") }
        // Empty tensors may begin and end at the same place as others and have no order of their own.
        require(scanned.metadata == parsed.metadata, "the two ways read different metadata: \(scanned.metadata) and \(parsed.metadata)")
        require(Set(scanned.tensors.values) == Set(parsed.tensors.values), "the two ways read different tensors")
        require(scanned.tensors.values.map(\.byteRange) == parsed.tensors.values.map(\.byteRange), "the two ways order tensors differently")
    }
    guard let content = parsed else { return }
    require(isReferenceRight, "strict mode accepts what the reference library refuses")
    checkTiling(content.tensors, from: dataStart, to: file.byteCount)
    for (name, tensor) in content.tensors { require(name == tensor.name, "\(tensor.name) is called \(name)") }
}

/// No gap, no overlap, nothing left, and every size that of shape and dtype.
private func checkTiling(_ tensors: OrderedDictionary<String, TensorInfo>, from start: Int, to end: Int) {
    var position = start
    for tensor in tensors.values {
        require(tensor.byteRange.lowerBound == position, "\(tensor) does not begin at \(position)")
        require(CheckedSize.byteCount(of: tensor.shape, dtype: tensor.dtype) == tensor.byteCount, "\(tensor) has another size")
        position = tensor.byteRange.upperBound
    }
    require(position == end, "the tensors end at \(position) and the file at \(end)")
}
