import CKernels
import Kernels
import Testing

/// One variant of the C training kernels, its functions taking and returning arrays.
///
/// Every array that a kernel sees lies off any vector's alignment and between edges, NaN where it is only read, huge where it
/// is written: a kernel that reads past an end spoils its result, and one that writes there, or into what it should only read,
/// is reported.
@safe struct TrainingKernels: Sendable, CustomTestStringConvertible {
    let name: String
    /// Sound: the tables are constants of the C code.
    private nonisolated(unsafe) let table: oplora_training_kernels

    /// The variants that this processor can run, the portable one first.
    static let available: [Self] = (0..<8).compactMap { index in
        guard let table = unsafe oplora_training_kernels_variant(Int32(index))?.pointee else { return nil }
        return unsafe Self(name: String(cString: table.name), table: table)
    }

    static let best = unsafe String(cString: oplora_training_kernels_best().pointee.name)

    var testDescription: String { name }

    typealias Pointers = [UnsafeMutablePointer<Float>]

    /// Runs `body` on copies of the arrays and returns those that it writes.
    private func run(writing written: [[Float]], reading read: [[Float]] = [], _ body: (_ written: Pointers, _ read: Pointers) -> Void) -> [[Float]] {
        let edge = 19
        let all = written + read
        var blocks: Pointers = unsafe []
        let huge: Float = 1e30
        for (number, values) in all.enumerated() {
            let block = UnsafeMutablePointer<Float>.allocate(capacity: values.count + 2 * edge)
            unsafe block.initialize(repeating: number < written.count ? huge : .nan, count: values.count + 2 * edge)
            for (index, value) in values.enumerated() { unsafe block[edge + index] = value }
            unsafe blocks.append(block)
        }
        let starts = unsafe blocks.map { unsafe $0 + edge }
        unsafe body(Array(starts[..<written.count]), Array(starts[written.count...]))
        var results: [[Float]] = []
        for (number, values) in all.enumerated() {
            let block = unsafe blocks[number]
            let edges = (0..<edge).flatMap { unsafe [block[$0], block[edge + values.count + $0]] }
            if !edges.allSatisfy({ number < written.count ? $0 == huge : $0.isNaN }) {
                Issue.record("\(name) writes outside of its array of \(values.count)")
            }
            results.append(unsafe Array(UnsafeBufferPointer(start: block + edge, count: values.count)))
            unsafe block.deallocate()
        }
        for (result, values) in zip(results[written.count...], read) where result.bits != values.bits {
            Issue.record("\(name) changes an array that it should only read")
        }
        return Array(results[..<written.count])
    }

    /// - Parameter source: rows that begin `stride` elements apart; may begin at an odd address.
    func widen(_ source: [UInt8], _ element: oplora_element, rows: Int, columns: Int, stride: Int) -> [Float] {
        let shifted = [0] + source
        return unsafe run(writing: [.init(repeating: -1, count: rows * columns)]) { written, _ in
            unsafe shifted.withUnsafeBytes { unsafe table.widen(written[0], $0.baseAddress! + 1, element, rows, columns, stride) }
        }[0]
    }

    func narrowToBF16(_ source: [Float]) -> [UInt16] {
        var target = [UInt16](repeating: 0xABCD, count: source.count + 1)
        _ = unsafe run(writing: [], reading: [source]) { _, read in unsafe table.narrow_bf16(&target, read[0], source.count) }
        #expect(target.removeLast() == 0xABCD, "\(name) writes past the end")
        return target
    }

    /// - Parameter source: `count` elements, and any bytes after them.
    func firstNonFinite(_ source: [UInt8], _ element: oplora_element, count: Int) -> Int {
        let shifted = [0] + source
        return unsafe shifted.withUnsafeBytes { unsafe table.first_non_finite($0.baseAddress! + 1, element, count) }
    }

    func rmsNorm(_ x: [Float], weight: [Float], epsilon: Float) -> (y: [Float], scales: [Float]) {
        let rows = x.count / weight.count
        let results = unsafe run(writing: [x.map { _ in 7 }, .init(repeating: 7, count: rows)], reading: [x, weight]) { written, read in
            unsafe table.rms_norm(written[0], written[1], read[0], read[1], rows, weight.count, epsilon)
        }
        return (results[0], results[1])
    }

    func rmsNormAgain(_ x: [Float], scales: [Float], weight: [Float]) -> [Float] {
        unsafe run(writing: [x.map { _ in 7 }], reading: [scales, x, weight]) { written, read in
            unsafe table.rms_norm_again(written[0], read[0], read[1], read[2], scales.count, weight.count)
        }[0]
    }

    func rmsNormBackward(dx: [Float], dy: [Float], x: [Float], scales: [Float], weight: [Float]) -> [Float] {
        unsafe run(writing: [dx], reading: [dy, x, scales, weight]) { written, read in
            unsafe table.rms_norm_backward(written[0], read[0], read[1], read[2], read[3], scales.count, weight.count)
        }[0]
    }

    func rotate(
        _ x: [Float], rows: Int, heads: Int, headDimension: Int, cosines: [Float], sines: [Float], firstPosition: Int, direction: Float
    ) -> [Float] {
        unsafe run(writing: [x], reading: [cosines, sines]) { written, read in
            unsafe table.rotate(written[0], rows, heads, headDimension, read[0], read[1], firstPosition, direction)
        }[0]
    }

    func causalSoftmax(_ scores: [Float], rows: Int, columns: Int, firstRow: Int, scale: Float) -> (p: [Float], logSums: [Float]) {
        let results = unsafe run(writing: [scores, .init(repeating: 7, count: rows)]) { written, _ in
            unsafe table.causal_softmax(written[0], written[1], rows, columns, firstRow, scale)
        }
        return (results[0], results[1])
    }

    func causalSoftmaxAgain(_ scores: [Float], logSums: [Float], columns: Int, firstRow: Int, scale: Float) -> [Float] {
        unsafe run(writing: [scores], reading: [logSums]) { written, read in
            unsafe table.causal_softmax_again(written[0], read[0], logSums.count, columns, firstRow, scale)
        }[0]
    }

    func softmaxBackward(_ dp: [Float], p: [Float], means: [Float], columns: Int, scale: Float) -> [Float] {
        unsafe run(writing: [dp], reading: [p, means]) { written, read in
            unsafe table.softmax_backward(written[0], read[0], read[1], means.count, columns, scale)
        }[0]
    }

    func swiglu(gate: [Float], up: [Float]) -> [Float] {
        unsafe run(writing: [gate.map { _ in 7 }], reading: [gate, up]) { written, read in
            unsafe table.swiglu(written[0], read[0], read[1], gate.count)
        }[0]
    }

    func swigluBackward(da: [Float], gate: [Float], up: [Float]) -> (dgate: [Float], dup: [Float], a: [Float]) {
        let blank = gate.map { _ in Float(7) }
        let results = unsafe run(writing: [blank, blank, blank], reading: [da, gate, up]) { written, read in
            unsafe table.swiglu_backward(written[0], written[1], written[2], read[0], read[1], read[2], gate.count)
        }
        return (results[0], results[1], results[2])
    }

    func crossEntropy(_ logits: [Float], targets: [Int32], vocabulary: Int, scale: Float) -> (losses: [Float], logits: [Float]) {
        let results = unsafe run(writing: [logits, .init(repeating: 7, count: targets.count)]) { written, _ in
            unsafe table.cross_entropy(written[0], written[1], targets, targets.count, vocabulary, scale)
        }
        return (results[1], results[0])
    }

    func axpy(_ y: [Float], _ a: Float, _ x: [Float]) -> [Float] {
        unsafe run(writing: [y], reading: [x]) { written, read in unsafe table.axpy(written[0], a, read[0], y.count) }[0]
    }

    /// - Parameter y: rows that begin `stride` elements apart.
    func addBias(_ y: [Float], _ bias: [Float], rows: Int, stride: Int) -> [Float] {
        unsafe run(writing: [y], reading: [bias]) { written, read in unsafe table.add_bias(written[0], read[0], rows, bias.count, stride) }[0]
    }

    func scaleColumns(_ x: [Float], factors: [Float], bias: [Float]?) -> [Float] {
        let rows = x.count / max(factors.count, 1)
        return unsafe run(writing: [x.map { _ in 7 }], reading: [x, factors, bias ?? []]) { written, read in
            unsafe table.scale_columns(written[0], read[0], read[1], bias == nil ? nil : read[2], rows, factors.count)
        }[0]
    }

    /// - Parameter a: rows that begin `stride` elements apart, as those of `b` do.
    func addColumnProducts(_ sums: [Float], _ a: [Float], _ b: [Float], rows: Int, stride: Int) -> [Float] {
        unsafe run(writing: [sums], reading: [a, b]) { written, read in
            unsafe table.add_column_products(written[0], read[0], read[1], rows, sums.count, stride)
        }[0]
    }

    func dot(_ x: [Float], _ y: [Float]) -> Float {
        var result: Float = 0
        _ = unsafe run(writing: [], reading: [x, y]) { _, read in result = unsafe table.dot(read[0], read[1], x.count) }
        return result
    }

    func sumOfSquares(_ x: [Float]) -> Double {
        var result = 0.0
        _ = unsafe run(writing: [], reading: [x]) { _, read in result = unsafe table.sum_of_squares(read[0], x.count) }
        return result
    }

    func affine(_ matrix: [Float], _ x: [Float], _ bias: [Float]) -> [Float] {
        unsafe run(writing: [bias.map { _ in 7 }], reading: [matrix, x, bias]) { written, read in
            unsafe table.affine(written[0], read[0], read[1], read[2], bias.count, x.count)
        }[0]
    }

    func addTransposedProduct(_ y: [Float], _ matrix: [Float], _ x: [Float]) -> [Float] {
        unsafe run(writing: [y], reading: [matrix, x]) { written, read in
            unsafe table.add_transposed_product(written[0], read[0], read[1], x.count, y.count)
        }[0]
    }

    func adamW(_ p: [Float], _ m: [Float], _ v: [Float], _ gradient: [Float], _ step: AdamWStep) -> [[Float]] {
        var constants = Self.constants(step)
        return unsafe run(writing: [p, m, v], reading: [gradient]) { written, read in
            unsafe table.adamw(written[0], written[1], written[2], read[0], p.count, &constants)
        }
    }

    func adamWOuter(_ p: [Float], _ m: [Float], _ v: [Float], left: [Float], right: [Float], _ step: AdamWStep) -> [[Float]] {
        var constants = Self.constants(step)
        return unsafe run(writing: [p, m, v], reading: [left, right]) { written, read in
            unsafe table.adamw_outer(written[0], written[1], written[2], read[0], read[1], left.count, right.count, &constants)
        }
    }

    private static func constants(_ step: AdamWStep) -> oplora_adamw {
        func correction(_ beta: Float) -> Double { 1 - (0..<step.step).reduce(1.0) { product, _ in product * Double(beta) } }
        return oplora_adamw(
            learning_rate: step.learningRate, beta1: step.beta1, beta2: step.beta2, epsilon: step.epsilon, weight_decay: step.weightDecay,
            correction1: Float(correction(step.beta1)), root_correction2: Float(correction(step.beta2).squareRoot()),
            gradient_scale: step.gradientScale)
    }

    func dropout(_ x: [Float], seed: UInt64, firstIndex: UInt64, rate: Float) -> [Float] {
        unsafe run(writing: [x.map { _ in 7 }], reading: [x]) { written, read in
            unsafe table.dropout(written[0], read[0], x.count, seed, firstIndex, rate)
        }[0]
    }
}
