internal import Tensors

/// A tensor's name with the numbers between its dots left out, its element type and its shape: what repeated layers share.
struct TensorPattern: Hashable {
    /// The name's UTF-8 with each number replaced by `gap`, eight bytes a word: there may be a great many names.
    private let words: [UInt64]
    private let byteCount: Int
    /// How many numbers were left out.
    let gaps: Int
    let dtype: DType
    let shape: [Int]

    /// Stands for a number; never part of UTF-8.
    private static let gap: UInt8 = 0xFF

    /// The name with `text(n)` in the place of the n-th number.
    func name(_ text: (Int) -> String) -> String {
        var name: [UInt8] = []
        var position = 0
        for index in 0..<byteCount {
            let byte = UInt8(truncatingIfNeeded: words[index / 8] >> (8 * UInt64(index % 8)))
            if byte == Self.gap {
                name += Array(text(position).utf8)
                position += 1
            } else {
                name.append(byte)
            }
        }
        return String(decoding: name, as: UTF8.self)
    }

    /// Memory for one pattern after another, so that only patterns that are kept take memory of their own.
    struct Scratch {
        /// The numbers that the last pattern leaves out, in order.
        private(set) var numbers: [Int] = []
        private var words: [UInt64] = []

        mutating func pattern(of tensor: Inspection.Tensor) -> TensorPattern {
            words.removeAll(keepingCapacity: true)
            numbers.removeAll(keepingCapacity: true)
            var word: UInt64 = 0
            var byteCount = 0
            let name = tensor.name.utf8Span.span
            var start = 0
            while true {
                // A part that is a number begins at `start` and ends before a dot. Eighteen digits fit; a longer one, or
                // one with a leading zero, is a name like any other.
                var end = start
                var number = 0
                while end < name.count, end - start < 18, case let digit = name[end] &- UInt8(ascii: "0"), digit < 10 {
                    number = number * 10 + Int(digit)
                    end += 1
                }
                let hasLeadingZero = end - start > 1 && name[start] == UInt8(ascii: "0")
                if end > start, !hasLeadingZero, end == name.count || name[end] == UInt8(ascii: ".") {
                    numbers.append(number)
                    word |= UInt64(TensorPattern.gap) << (8 * UInt64(byteCount % 8))
                    byteCount += 1
                    if byteCount % 8 == 0 {
                        words.append(word)
                        word = 0
                    }
                    start = end
                }
                // The rest of the part and the dot after it.
                var isLast = true
                while start < name.count, isLast {
                    isLast = name[start] != UInt8(ascii: ".")
                    word |= UInt64(name[start]) << (8 * UInt64(byteCount % 8))
                    byteCount += 1
                    start += 1
                    if byteCount % 8 == 0 {
                        words.append(word)
                        word = 0
                    }
                }
                if isLast { break }
            }
            words.append(word)
            return TensorPattern(words: words, byteCount: byteCount, gaps: numbers.count, dtype: tensor.dtype, shape: tensor.shape)
        }
    }
}
