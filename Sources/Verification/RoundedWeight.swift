internal import FileIO
internal import Tensors
internal import Weights

/// A weight that is decoded from codes, rounded to the element type in which libraries hold it before they add an update.
struct RoundedWeight: ElementSource {
    let weight: StoredWeight
    let dtype: DType

    var file: MappedFile { weight.file }

    func read(_ elements: Range<Int>, into target: inout MutableRawSpan) throws(FileError) {
        var exact: [UInt8] = []
        try weight.read(bytes: weight.bytes(of: elements), into: &exact)
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let numbers = unsafe exact.span.bytes
        for index in 0..<elements.count {
            // Sound: the elements are there, and every bit pattern is a number.
            let bits = unsafe numbers.unsafeLoadUnaligned(fromByteOffset: 4 * index, as: UInt32.self)
            target.storeBytes(of: rounded(bits), toByteOffset: 2 * index, as: UInt16.self)
        }
    }

    /// The nearest number of 16 bits, ties to even.
    private func rounded(_ bits: UInt32) -> UInt16 {
        guard dtype == .bf16 else { return StoredF16.nearest(to: Double(Float(bitPattern: bits))) }
        guard !Float(bitPattern: bits).isNaN else { return StoredBF16.infinity | 1 }
        // A carry out of the fraction runs into the exponent by itself.
        return UInt16(truncatingIfNeeded: (bits + 0x7fff + (bits >> 16 & 1)) >> 16)
    }
}

extension MergeWork {
    /// The work with its source rounded before the update, where it is decoded from codes.
    func roundingSource(to dtype: DType) -> MergeWork {
        guard source.encoded != nil, dtype == .bf16 || dtype == .f16 else { return self }
        let rounded = StoredWeight(
            name: source.name, dtype: dtype, shape: source.shape, source: RoundedWeight(weight: source, dtype: dtype))
        return MergeWork(
            name: name, source: rounded, merged: merged, updates: updates, module: module, rows: rows, columns: columns,
            replacement: replacement, isReplaced: isReplaced, shift: shift, isOfOtherLayout: isOfOtherLayout)
    }
}
