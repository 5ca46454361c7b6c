internal import CKernels

/// One step of an optimizer: how parameters follow their gradients.
public protocol OptimizerStep: Sendable {
    /// What the moments of a parameter are called in checkpoints: `adamw.first`.
    static var moments: [String] { get }

    /// Moves parameters with a dense gradient of the same shape.
    func apply(to state: ParameterState, gradient: FloatView, _ compute: Compute)

    /// Moves a matrix [rows, columns] whose gradient is left · rightᵀ, which need not be stored, and computes the product of
    /// the new matrix with a vector.
    ///
    /// - Parameters:
    ///   - left: [rows]; right: [columns]
    ///   - product: [rows], becomes matrix · vector + bias
    ///   - vector: [columns]; bias: [rows]
    func apply(
        to state: ParameterState, left: FloatView, right: FloatView, product: FloatView, vector: FloatView, bias: FloatView, _ compute: Compute)
}

/// Parameters with the moments of their optimizer, all of one shape.
public struct ParameterState: Sendable {
    public let parameters: FloatView
    /// In the order of `OptimizerStep.moments`.
    public let moments: [FloatView]

    public init(parameters: FloatView, moments: [FloatView]) {
        precondition(moments.allSatisfy { $0.count == parameters.count })
        self.parameters = parameters
        self.moments = moments
    }

    /// Some of the parameters.
    public subscript(range: Range<Int>) -> ParameterState {
        ParameterState(parameters: parameters[range], moments: moments.map { $0[range] })
    }
}

/// One step of AdamW, decay decoupled from the gradient (Loshchilov & Hutter 2019), as torch.optim.AdamW computes it.
public struct AdamWStep: Sendable {
    public var learningRate: Float
    public var beta1: Float
    public var beta2: Float
    public var epsilon: Float
    public var weightDecay: Float
    /// 1, 2, 3 … : the number of this step.
    public var step: Int
    /// Multiplied into each gradient first: clipping, and the mean over accumulated batches.
    public var gradientScale: Float

    public init(learningRate: Float, beta1: Float, beta2: Float, epsilon: Float, weightDecay: Float, step: Int, gradientScale: Float) {
        self.learningRate = learningRate
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.weightDecay = weightDecay
        self.step = step
        self.gradientScale = gradientScale
    }

    var constants: oplora_adamw {
        oplora_adamw(
            learning_rate: learningRate, beta1: beta1, beta2: beta2, epsilon: epsilon, weight_decay: weightDecay,
            correction1: Float(1 - power(Double(beta1), step)), root_correction2: Float((1 - power(Double(beta2), step)).squareRoot()),
            gradient_scale: gradientScale)
    }

    /// base^exponent by squaring.
    private func power(_ base: Double, _ exponent: Int) -> Double {
        var (result, factor, rest) = (1.0, base, exponent)
        while rest > 0 {
            if rest & 1 == 1 { result *= factor }
            factor *= factor
            rest >>= 1
        }
        return result
    }
}

extension AdamWStep: OptimizerStep {
    public static let moments = ["adamw.first", "adamw.second"]

    public func apply(to state: ParameterState, gradient: FloatView, _ compute: Compute) {
        compute.adamW(state, gradient: gradient, step: self)
    }

    public func apply(
        to state: ParameterState, left: FloatView, right: FloatView, product: FloatView, vector: FloatView, bias: FloatView, _ compute: Compute
    ) {
        compute.adamWOuter(state, left: left, right: right, step: self, product: product, vector: vector, bias: bias)
    }
}

extension Compute {
    /// AdamW on parameters with a dense gradient of the same shape.
    public func adamW(_ state: ParameterState, gradient: FloatView, step: AdamWStep) {
        precondition(gradient.count == state.parameters.count)
        let constants = step.constants
        forRows(gradient.count) { [self] range in
            let i = range.lowerBound
            var constants = constants
            unsafe kernels.adamw(
                state.parameters.pointer + i, state.moments[0].pointer + i, state.moments[1].pointer + i, gradient.pointer + i, range.count,
                &constants)
        }
    }

    /// AdamW on a matrix [rows, columns] whose gradient is left · rightᵀ, and at once the product of the new matrix with
    /// a vector: one pass over the memory for both.
    ///
    /// - Parameters:
    ///   - left: [rows]; right: [columns]
    ///   - product: [rows], becomes matrix · vector + bias
    ///   - vector: [columns]; bias: [rows]
    public func adamWOuter(
        _ state: ParameterState, left: FloatView, right: FloatView, step: AdamWStep, product: FloatView, vector: FloatView, bias: FloatView
    ) {
        let (rows, columns) = (left.count, right.count)
        precondition(state.parameters.count == rows * columns && product.count == rows && vector.count == columns && bias.count == rows)
        let constants = step.constants
        forRows(rows) { [self] range in
            var constants = constants
            // Sub-blocks that stay in the cache between the update and the product.
            let stride = max(1, 4096 / columns)
            for row in Swift.stride(from: range.lowerBound, to: range.upperBound, by: stride) {
                let count = min(stride, range.upperBound - row)
                let i = row * columns
                unsafe kernels.adamw_outer(
                    state.parameters.pointer + i, state.moments[0].pointer + i, state.moments[1].pointer + i, left.pointer + row, right.pointer,
                    count,
                    columns, &constants)
                unsafe kernels.affine(product.pointer + row, state.parameters.pointer + i, vector.pointer, bias.pointer + row, count, columns)
            }
        }
    }

    /// y[rows] = matrix[rows, columns] · x + bias
    public func affine(_ y: FloatView, matrix: FloatView, x: FloatView, bias: FloatView) {
        let (rows, columns) = (y.count, x.count)
        precondition(matrix.count == rows * columns && bias.count == rows)
        forRows(rows) { [self] range in
            unsafe kernels.affine(
                y.pointer + range.lowerBound, matrix.pointer + range.lowerBound * columns, x.pointer, bias.pointer + range.lowerBound, range.count,
                columns)
        }
    }

    /// y[columns] = matrixᵀ · x for matrix [rows, columns]: partial sums over a fixed cut of the rows, added in order.
    ///
    /// - Parameter partials: at least 16 · columns numbers of scratch.
    public func transposedProduct(_ y: FloatView, matrix: FloatView, x: FloatView, partials: FloatView) {
        let (rows, columns) = (x.count, y.count)
        let tiles = Tiles(rows, pieces: 16, multiple: 8)
        precondition(matrix.count == rows * columns && partials.count >= tiles.count * columns)
        pool.run(tiles.count) { [self] index, _ in
            let range = tiles[index]
            let target = unsafe partials.pointer + index * columns
            unsafe target.update(repeating: 0, count: columns)
            unsafe kernels.add_transposed_product(
                target, matrix.pointer + range.lowerBound * columns, x.pointer + range.lowerBound, range.count, columns)
        }
        y.fill(0)
        for index in 0..<tiles.count { unsafe kernels.axpy(y.pointer, 1, partials.pointer + index * columns, columns) }
    }
}
