internal import FileIO
internal import Kernels
internal import Safetensors
internal import Tensors
internal import Weights

/// Why a piece has no result.
extension ShardRun {
    /// Why an element of the result is not finite: the base's own element, or the sum.
    func fault(_ job: TensorJob, start: Int, count: Int, _ buffer: [UInt8]) -> any Error {
        let source = job.source
        let path = source.file.path
        var stored: [UInt8] = []
        do { try readElements(start..<start + count, of: source, into: &stored) } catch { return error }
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let weights = unsafe stored.span.bytes
        func place(_ index: Int) -> String { "[\((start + index) / job.columns),\((start + index) % job.columns)]" }
        if let index = (0..<count).first(where: { !Self.value(weights, source.dtype, $0).isFinite }) {
            return MergeError(
                .baseNotFinite, path: path, tensor: job.tensor.name,
                "element \(place(index)) of the base is infinite or NaN, so the merge has no result")
        }
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let result = unsafe buffer.span.bytes
        let index = (0..<count).first { !Self.value(result, job.dtype, $0).isFinite } ?? 0
        let isScaled = job.updates.contains { $0.magnitude != nil }
        return MergeError(
            .overflow, path: path, tensor: job.tensor.name,
            isScaled
                ? "element \(place(index)) becomes infinite or NaN, because a magnitude is not finite, or the norm that it takes the place of is zero"
                : "element \(place(index)) becomes too large for \(job.dtype)\(job.dtype == .f32 ? "; choose a smaller weight" : "")",
            cause: isScaled || job.dtype == .f32 ? nil : .tooLargeForType)
    }

    /// A conversion may keep an infinity of the base, as masks hold them, but not make one, and no NaN passes.
    func checkConversion(_ source: StoredWeight, _ elements: Range<Int>, to dtype: DType, _ buffer: [UInt8]) throws {
        var stored: [UInt8] = []
        try readElements(elements, of: source, into: &stored)
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let weights = unsafe stored.span.bytes
        // Sound: every bit pattern of a byte may be read as a raw byte.
        let result = unsafe buffer.span.bytes
        for index in 0..<elements.count {
            let before = Self.value(weights, source.dtype, index)
            if before.isNaN {
                throw MergeError(
                    .baseNotFinite, path: source.file.path, tensor: source.name,
                    "element \(elements.lowerBound + index) is NaN and cannot be converted")
            }
            if !before.isFinite, source.encoded != nil {
                throw MergeError(
                    .baseNotFinite, path: source.file.path, tensor: source.name,
                    "element \(elements.lowerBound + index) is infinite, because its scale is or makes it so; no weight is")
            }
            if before.isFinite, !Self.value(result, dtype, index).isFinite {
                throw MergeError(
                    .overflow, path: source.file.path, tensor: source.name,
                    "element \(elements.lowerBound + index) is too large for \(dtype)", cause: .tooLargeToConvert)
            }
        }
    }

    private static func value(_ bytes: RawSpan, _ dtype: DType, _ index: Int) -> Double {
        // Sound: the element is there, and every bit pattern is a number.
        switch dtype {
        case .f64: Double(bitPattern: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 8 * index, as: UInt64.self))
        case .f32: Double(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 4 * index, as: Float.self))
        default: MergeReference.value(of: UInt64(unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)), in: dtype)
        }
    }
}
