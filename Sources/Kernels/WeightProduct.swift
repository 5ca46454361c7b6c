internal import CKernels
internal import Tensors

/// A matrix in the type in which products take it.
@safe struct ProductInput: Sendable {
    /// Sound while the matrix or the shared memory that it was made from is in use for nothing else.
    nonisolated(unsafe) let pointer: UnsafeRawPointer
    /// The distance between rows, in elements.
    let stride: Int
    let type: MatmulShape.Input

    init(_ pointer: UnsafePointer<Float>, stride: Int) {
        unsafe self.pointer = UnsafeRawPointer(pointer)
        self.stride = stride
        type = .f32
    }

    init(_ pointer: UnsafeRawPointer, stride: Int, type: MatmulShape.Input) {
        unsafe self.pointer = pointer
        self.stride = stride
        self.type = type
    }

    func address(row: Int, column: Int) -> UnsafeRawPointer {
        unsafe pointer + (row * stride + column) * (type == .bf16 ? 2 : 4)
    }
}

extension Compute {
    /// Activations x [_, columns] for use in `multiply`, until others are prepared: themselves, or rounded to BF16 in
    /// memory that all share.
    func prepared(_ x: FloatView, columns: Int) -> ProductInput {
        guard productInput == .bf16 else { return unsafe ProductInput(x.pointer, stride: columns) }
        let buffer = narrowed(count: x.count)
        forRows(x.count) { [self] range in
            unsafe kernels.narrow_bf16(buffer.bf16 + range.lowerBound, x.pointer + range.lowerBound, range.count)
        }
        return unsafe ProductInput(buffer.bf16, stride: columns, type: .bf16)
    }

    /// c[m,n] (+)= a[m,k] · P, where P is the part rows × columns of a weight, or its transpose.
    ///
    /// The weight is read where it lies when its type is that of the products. Otherwise the worker converts the part
    /// into its scratch memory, a few megabytes at most, so no second copy of the model ever exists.
    ///
    /// - Parameters:
    ///   - a: m rows that begin at `row` and `column` of the input
    ///   - isTransposed: whether n counts the part's rows and k its columns, or the other way round
    func multiply(
        _ worker: Int, _ a: ProductInput, row: Int, column: Int = 0, m: Int, weight: WeightMatrix, rows: Range<Int>, columns: Range<Int>,
        isTransposed: Bool, into c: UnsafeMutablePointer<Float>, stride ldc: Int, accumulates: Bool = false
    ) {
        let (k, n) = isTransposed ? (columns.count, rows.count) : (rows.count, columns.count)
        guard m > 0, n > 0, k > 0 else { return }
        let source = unsafe a.address(row: row, column: column)
        let part = converted(worker, weight, rows, columns)
        guard let input = productInput else {
            return unsafe sgemm(
                false, isTransposed, m, n, k, 1, source.assumingMemoryBound(to: Float.self), a.stride,
                part.pointer.assumingMemoryBound(to: Float.self),
                part.stride, accumulates ? 1 : 0, c, ldc)
        }
        let shape = MatmulShape(
            m: m, n: n, k: k, lda: a.stride, ldb: part.stride, ldc: ldc, isBTransposed: isTransposed, accumulates: accumulates, input: input)
        unsafe primitive(worker, shape).run(a: source, b: part.pointer, c: c)
    }

    /// A part of a weight in the type of the products.
    private func converted(_ worker: Int, _ weight: WeightMatrix, _ rows: Range<Int>, _ columns: Range<Int>) -> ProductInput {
        let start = unsafe weight.address(row: rows.lowerBound, column: columns.lowerBound)
        let isBF16 = productInput == .bf16
        if weight.dtype == (isBF16 ? .bf16 : .f32) { return unsafe ProductInput(start, stride: weight.columns, type: isBF16 ? .bf16 : .f32) }
        let count = rows.count * columns.count
        let panel = unsafe scratch(worker, count: isBF16 ? 2 * count : count)
        unsafe kernels.widen(panel, start, weight.element, rows.count, columns.count, weight.columns)
        guard isBF16 else { return unsafe ProductInput(panel, stride: columns.count) }
        // The second half of the panel's memory holds the rounded numbers; nothing else reads it as F32.
        let rounded = unsafe UnsafeMutableRawPointer(panel + count).assumingMemoryBound(to: UInt16.self)
        unsafe kernels.narrow_bf16(rounded, panel, count)
        return unsafe ProductInput(rounded, stride: columns.count, type: .bf16)
    }
}
