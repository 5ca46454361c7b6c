internal import FileIO
internal import Kernels
internal import Tensors
internal import Weights

/// A weight that is decoded from codes, as a library holds it that loads the model in an element type of 16 bits: what a
/// fine-tuned model of that type began with.
struct LoadedWeight: ElementSource {
    let weight: StoredWeight
    let dtype: DType

    var file: MappedFile { weight.file }

    func read(_ elements: Range<Int>, into target: inout MutableRawSpan) throws(FileError) {
        var exact: [UInt8] = []
        try weight.read(bytes: weight.bytes(of: elements), into: &exact)
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let numbers = unsafe exact.span.bytes.extracting(0..<elements.count * weight.dtype.bitWidth / 8)
        _ = MergeKernel.mergeRows(
            weights: numbers, weightType: weight.dtype, into: &target, mergedType: dtype, rows: 0..<1, columns: elements.count, factors: [])
    }
}

extension StoredWeight {
    /// The weight as a library holds it that has loaded the model in this element type, where it is decoded from codes.
    func loaded(as dtype: DType) -> StoredWeight {
        guard encoded != nil, dtype == .bf16 || dtype == .f16 else { return self }
        return StoredWeight(name: name, dtype: dtype, shape: shape, source: LoadedWeight(weight: self, dtype: dtype))
    }
}
