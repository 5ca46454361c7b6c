internal import FileIO
internal import Tensors

/// The same values from the words of the formats, one element at a time.
extension BlockFP8 {
    func define(_ rows: Range<Int>, into target: inout MutableSpan<Float>) throws(FileError) {
        let dimensions = codes.shape
        let (height, width) = (dimensions[dimensions.count - 2], dimensions[dimensions.count - 1])
        let size = scaleType.bitWidth / 8
        var line = [UInt8](repeating: 0, count: width)
        let (scaleRows, scaleColumns) = isSingle ? (1, 1) : (scales.shape[scales.shape.count - 2], scales.shape[scales.shape.count - 1])
        var scaleLine = [UInt8](repeating: 0, count: scaleColumns * size)
        var (index, known) = (0, -1)
        for row in rows {
            try Self.copy(codes, row * width, into: &line)
            // Which line of scales belongs to the row, all matrices of a stack counted.
            let scaleRow = isSingle ? 0 : row / height * scaleRows + row % height / block.rows
            if scaleRow != known {
                try Self.copy(scales, scaleRow * scaleColumns * size, into: &scaleLine)
                known = scaleRow
            }
            for number in 0..<scaleColumns {
                let scale = Self.scale(scaleLine[number * size..<(number + 1) * size], scaleType)
                let end = isSingle ? width : min(width, (number + 1) * block.columns)
                for column in (isSingle ? 0 : number * block.columns)..<end {
                    // Both have at most 24 significant digits, so that binary64 holds the product exactly before it is rounded.
                    target[index] = Float(Self.numbers[Int(line[column])] * scale)
                    index += 1
                }
            }
        }
    }

    /// What each code stands for.
    private static let numbers = (0..<256).map { e4m3(UInt8($0)) }

    /// (−1)^s · 2^(e − 7) · (1 + m/8); without the one, and with e = 1, where e is 0; NaN where all other bits are set.
    private static func e4m3(_ code: UInt8) -> Double {
        let (exponent, fraction) = (Int(code / 8 % 16), Double(code % 8))
        if exponent == 15, fraction == 7 { return .nan }
        let size = exponent == 0 ? fraction / 8 : 1 + fraction / 8
        let value = Double(sign: .plus, exponent: max(exponent, 1) - 7, significand: size)
        return code >= 128 ? -value : value
    }

    private static func scale(_ bytes: ArraySlice<UInt8>, _ dtype: DType) -> Double {
        let number = bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) }
        switch dtype {
        case .f32: return Double(Float(bitPattern: number))
        case .bf16: return Double(Float(bitPattern: number << 16))
        default: return number == 255 ? .nan : Double(sign: .plus, exponent: Int(number) - 127, significand: 1)
        }
    }

    private static func copy(_ tensor: StoredTensor, _ first: Int, into buffer: inout [UInt8]) throws(FileError) {
        let start = tensor.range.lowerBound + first
        let count = buffer.count
        var span = buffer.mutableSpan
        // Sound: every bit pattern of a byte may be written.
        var target = unsafe span.mutableBytes
        try tensor.file.copyBytes(in: start..<start + count, to: &target)
    }
}
