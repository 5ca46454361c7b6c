internal import FileIO
internal import JSON
internal import Tensors

/// FP8 with a scale for each block of a matrix: v = q·scale[⌊o/h⌋,⌊i/w⌋], both widened to binary32 and the product rounded
/// once. The last blocks of a row or column are short where a size is no multiple of the block's.
///
/// Tensors: `X.weight` F8_E4M3 [out, in] and `X.weight_scale_inv` [⌈out/h⌉, ⌈in/w⌉], by which codes are multiplied in spite
/// of its name; or for a stack of experts `P` [experts, out, in] and `P_scale_inv`. The scales are F32, BF16, or powers of
/// two in a byte (E8M0). Blocks are those of `weight_block_size`; 128 by 128 where
/// `quantization_config` leaves it out; the whole for a single scale. Where nothing says it, no size is guessed that the
/// shapes leave open.
///
/// Source: `finegrained_fp8` of transformers 5.24; files of DeepSeek-V3 and Qwen3.
struct BlockFP8: WeightDecoder {
    static let encoding = make(codes: ".weight", scales: ".weight_scale_inv", others: [".input_scale", ".activation_scale"])
    static let stackEncoding = make(codes: "", scales: "_scale_inv")

    private static func make(codes: String, scales: String, others: [String] = []) -> WeightEncoding {
        WeightEncoding(
            "FP8 in blocks", codes: codes, types: [.f8E4M3], scales: [scales], others: others, remedy: WeightEncoding.transformers
        ) { tensors, settings throws(EncodingError) in
            try BlockFP8(tensors.codes, tensors.scales[scales], settings)
        }
    }

    let codes: StoredTensor
    let scales: StoredTensor
    let scaleType: DType
    /// Rows and columns of a block.
    let block: (rows: Int, columns: Int)
    /// Whether one scale is for all, even of a stack.
    var isSingle: Bool { scales.elementCount == 1 }

    var shape: [Int] { codes.shape }
    var file: MappedFile { codes.file }
    var parameters: String { "blocks of \(block.rows) by \(block.columns)" }

    private init(_ codes: StoredTensor, _ scales: StoredTensor?, _ settings: QuantizationSettings) throws(EncodingError) {
        guard let scales, let type = scales.type.dtype, Self.scaleTypes.contains(type) else {
            throw EncodingError("whose scales are \(scales?.type.name ?? "missing") and can be F32, BF16 or powers of two in a byte")
        }
        guard codes.shape.count >= 2, !codes.shape.contains(0) else {
            throw EncodingError("whose codes are \(describe(shape: codes.shape)) and can only be matrices")
        }
        (self.codes, self.scales, scaleType) = (codes, scales, type)
        let size = (rows: codes.shape[codes.shape.count - 2], columns: codes.shape[codes.shape.count - 1])
        guard scales.elementCount != 1 else {
            block = size
            return
        }
        let stated = try Self.statedBlock(settings)
        guard Self.fit(scales.shape, codes.shape) else {
            throw EncodingError(
                "whose scales are \(describe(shape: scales.shape)), and no blocks of \(describe(shape: codes.shape)) have so many")
        }
        guard let block = stated ?? Self.onlyBlock(of: size, scales: scales.shape) else {
            throw EncodingError(
                "whose scales \(describe(shape: scales.shape)) may be of blocks of several sizes; have the config.json whose quantization_config says weight_block_size beside it"
            )
        }
        let grid = codes.shape.dropLast(2) + [(size.rows - 1) / block.rows + 1, (size.columns - 1) / block.columns + 1]
        guard scales.shape == Array(grid) else {
            throw EncodingError(
                "whose scales are \(describe(shape: scales.shape)) and blocks of \(block.rows) by \(block.columns) in \(describe(shape: codes.shape)) want \(describe(shape: Array(grid)))"
            )
        }
        self.block = block
    }

    private static let scaleTypes: Set<DType> = [.f32, .bf16, .u8, .f8E8M0]

    /// What `config.json` says, or what transformers takes where its own `quantization_config` says nothing of blocks; `nil`
    /// where nothing tells.
    private static func statedBlock(_ settings: QuantizationSettings) throws(EncodingError) -> (rows: Int, columns: Int)? {
        let stated = settings.values(of: "weight_block_size")
        guard let sizes = stated.first else { return settings.leavesOut("weight_block_size", method: "fp8") ? (128, 128) : nil }
        guard stated.count == 1 else {
            throw EncodingError(
                "and config.json gives the weight_block_size \(stated[0].inWords) and \(stated[1].inWords); leave the one in that is right")
        }
        let elements = sizes.arrayValue ?? []
        let numbers = elements.compactMap(\.integerValue)
        guard elements.count == 2, numbers.count == 2, numbers.allSatisfy({ (1...(1 << 20)).contains($0) }) else {
            throw EncodingError("and weight_block_size of config.json is \(sizes.inWords) and should be two sizes")
        }
        return (numbers[0], numbers[1])
    }

    /// Whether scales can be of blocks of any size: one for each block of each matrix.
    private static func fit(_ scales: [Int], _ codes: [Int]) -> Bool {
        scales.count == codes.count && scales.dropLast(2) == codes.dropLast(2)
            && zip(scales, codes).allSatisfy { (1...$1).contains($0) }
    }

    /// The size of blocks of which there can be only one: each side is the whole or one element.
    private static func onlyBlock(of size: (rows: Int, columns: Int), scales: [Int]) -> (rows: Int, columns: Int)? {
        func side(_ length: Int, _ count: Int) -> Int? { count == 1 ? length : count == length ? 1 : nil }
        guard let rows = side(size.rows, scales[scales.count - 2]), let columns = side(size.columns, scales[scales.count - 1])
        else { return nil }
        return (rows, columns)
    }

    // MARK: Decoding

    /// Where the scales of a row begin, and in steps of how many columns they go on.
    private func scales(ofRow row: Int) -> (first: Int, width: Int) {
        guard !isSingle else { return (0, shape[shape.count - 1]) }
        let rows = shape[shape.count - 2]
        let (matrix, line) = (row / rows, row % rows)
        let perMatrix = (rows - 1) / block.rows + 1
        return ((matrix * perMatrix + line / block.rows) * blocksPerRow, block.columns)
    }

    private var blocksPerRow: Int { (shape[shape.count - 1] - 1) / block.columns + 1 }

    func decode(_ rows: Range<Int>, into target: inout MutableSpan<Float>) throws(FileError) {
        let columns = shape[shape.count - 1]
        var bytes: [UInt8] = []
        try read(codes, rows.lowerBound * columns..<rows.upperBound * columns, into: &bytes)
        let first = scales(ofRow: rows.lowerBound).first
        let count = isSingle ? 1 : scales(ofRow: rows.upperBound - 1).first - first + blocksPerRow
        let factors = try factors(first..<first + count)
        var place = 0
        for row in rows {
            var (scale, width) = scales(ofRow: row)
            var column = 0
            while column < columns {
                let end = min(columns, column + width)
                let factor = factors[scale - first]
                for _ in column..<end {
                    target[place] = Self.values[Int(bytes[place])] * factor
                    place += 1
                }
                (column, scale) = (end, scale + 1)
            }
        }
    }

    /// Scales as numbers of binary32.
    private func factors(_ range: Range<Int>) throws(FileError) -> [Float] {
        let width = scaleType.bitWidth / 8
        var bytes: [UInt8] = []
        try read(scales, range.lowerBound * width..<range.upperBound * width, into: &bytes)
        return (0..<range.count).map { index in
            switch scaleType {
            case .f32:
                Float(bitPattern: (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[4 * index + $1]) << UInt32(8 * $1) })
            case .bf16: Float(bitPattern: UInt32(bytes[2 * index]) << 16 | UInt32(bytes[2 * index + 1]) << 24)
            default: Self.powers[Int(bytes[index])]
            }
        }
    }

    private func read(_ tensor: StoredTensor, _ bytes: Range<Int>, into buffer: inout [UInt8]) throws(FileError) {
        buffer = [UInt8](repeating: 0, count: bytes.count)
        var span = buffer.mutableSpan
        // Sound: every bit pattern of a byte may be written.
        var target = unsafe span.mutableBytes
        try tensor.file.copyBytes(in: tensor.range.lowerBound + bytes.lowerBound..<tensor.range.lowerBound + bytes.upperBound, to: &target)
    }

    /// E4M3 by its bits, moved to where binary32 has them: the bias of 7 becomes one of 127, and what is subnormal is scaled
    /// there.
    private static let values: [Float] = (0..<256).map { code in
        let bits = UInt32(code)
        let sign = (bits & 0x80) << 24
        guard bits & 0x7f != 0x7f else { return Float(bitPattern: sign | 0x7fc0_0000) }
        return Float(bitPattern: sign | (bits & 0x7f) << 20) * 0x1p120
    }

    /// E8M0: 2^(e − 127), and NaN for 255.
    private static let powers: [Float] = (0..<256).map { code in
        code == 255 ? .nan : code == 0 ? 0x1p-127 : Float(bitPattern: UInt32(code) << 23)
    }
}
