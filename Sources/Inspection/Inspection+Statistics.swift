internal import FileIO
package import JSON
package import Kernels
internal import NativeCheckpoint
internal import Tensors
internal import VisibleText
internal import Weights

extension InspectedFile {
    /// The statistics of tensors of this file or folder, in their order; `nil` for those whose type is not measured.
    ///
    /// - Throws: `CheckpointError` for damage in a checkpoint.
    package func statistics(_ tensors: [InspectedTensor], pool: ThreadPool) throws -> [TensorStatistics?] {
        if case .checkpoint(let file) = source { return try Self.statistics(tensors, in: file, pool: pool) }
        return TensorStatistics.measure(
            tensors.map { tensor in
                guard let place = tensor.place, case .plain(let dtype) = tensor.type else { return nil }
                return (place.file, TensorInfo(name: tensor.name, dtype: dtype, shape: tensor.shape, byteRange: place.range))
            }, pool: pool)
    }

    /// Each thread decodes and measures one tensor at a time, and a piece of it at a time.
    private static func statistics(_ tensors: [InspectedTensor], in file: CheckpointFile, pool: ThreadPool) throws -> [TensorStatistics?] {
        var outcomes = [Result<TensorStatistics?, any Error>](repeating: .success(nil), count: tensors.count)
        let names = tensors.map { $0.label ?? $0.name }
        let dtypes = tensors.map { tensor -> DType? in
            guard case .plain(let dtype) = tensor.type, TensorStatistics.measures(dtype) else { return nil }
            return dtype
        }
        unsafe outcomes.withUnsafeMutableBufferPointer { outcomes in
            // Sound: each turn writes its own result, and the loop ends before the buffer does.
            nonisolated(unsafe) let target = unsafe outcomes
            pool.run(names.count) { index, _ in
                guard let dtype = dtypes[index] else { return }
                do {
                    let tensor = try file.pieces(of: names[index])
                    unsafe target[index] = .success(
                        try TensorStatistics.measure(byteCount: tensor.byteCount, dtype: dtype) { try tensor.read($0, $1) })
                    try tensor.finish()
                } catch {
                    unsafe target[index] = .failure(error)
                }
            }
        }
        return try outcomes.map { try $0.get() }
    }
}

extension TensorStatistics {
    package var json: JSONValue {
        func number(_ number: Number?) -> JSONValue {
            switch number {
            case .integer(let value)?: .integer(Int(value))
            // A JSON integer beyond 64 bits with a sign is one that many readers refuse.
            case .unsigned(let value)?: Int(exactly: value).map { .integer($0) } ?? .real(Double(value))
            case .real(let value)?: .real(value)
            case nil: .null
            }
        }
        return [
            "min": number(minimum), "max": number(maximum), "mean": mean.map { .real($0) } ?? .null,
            "std": standardDeviation.map { .real($0) } ?? .null, "zeros": .integer(zeros), "nan": .integer(nan), "inf": .integer(infinite),
            "histogram": .array(histogram.map { .integer($0) }),
        ]
    }

    /// `-0.5`, `-1.20e-3`; what there is none of is `none`.
    package static func text(_ number: Number?) -> String {
        switch number {
        case .integer(let value)?: "\(value)"
        case .unsigned(let value)?: "\(value)"
        case .real(let value)?: Format.scientific(value)
        case nil: "none"
        }
    }

    package static func text(_ value: Double?) -> String { value.map(Format.scientific) ?? "none" }

    /// `min -5.00e-1  max 5.00e-1  mean 1.20e-3  std 1.00e-1  zeros 0  nan 0  inf 0  ▁▂▅█▃`.
    package var text: String {
        "min \(Self.text(minimum))  max \(Self.text(maximum))  mean \(Self.text(mean))  std \(Self.text(standardDeviation))"
            + "  zeros \(zeros)  nan \(nan)  inf \(infinite)  \(bars)"
    }

    /// The histogram as sixteen blocks, the tallest for the fullest bin; an empty bin is a dot.
    private var bars: String {
        let blocks = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"]
        let most = Double(histogram.max() ?? 0)
        return histogram.map { count in
            count == 0 ? "·" : blocks[min(blocks.count - 1, Int(Double(count) / most * Double(blocks.count)))]
        }.joined()
    }
}
