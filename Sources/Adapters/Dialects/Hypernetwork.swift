internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// The trunk of an OP-LoRA hypernetwork, evaluated: h = ReLU(W1·z + c1), and the heads that are products with it.
///
/// Everything is summed in binary64 from the first index to the last, the bias last; `formats/op-lora.md` defines it.
struct Hypernetwork {
    private let hidden: [Double]
    private let path: String

    /// - Parameters:
    ///   - z: e elements.
    ///   - weight: [k, e].
    ///   - bias: [k].
    ///   - path: the file, for errors.
    /// - Throws: `AdapterError.invalidShape`.
    init(z: FactorMatrix, weight: FactorMatrix, bias: FactorMatrix, path: String) throws(AdapterError) {
        self.path = path
        hidden = try Self.product(weight, z.doubles(), bias: bias, path: path).map { $0 < 0 ? 0 : $0 }
    }

    /// weight·h + bias, rounded to F32: as many elements as the bias has.
    ///
    /// - Parameter weight: the bias's shape, and k behind it.
    /// - Throws: `AdapterError.invalidShape`.
    func head(weight: FactorMatrix, bias: FactorMatrix) throws(AdapterError) -> [Float] {
        try Self.product(weight, hidden, bias: bias, path: path).map { Float($0) }
    }

    private static func product(_ weight: FactorMatrix, _ vector: [Double], bias: FactorMatrix, path: String) throws(AdapterError) -> [Double] {
        let width = vector.count
        guard weight.tensorShape == bias.tensorShape + [width] else {
            throw AdapterError(
                .invalidShape, path: path, subject: weight.name,
                "its shape is \(describe(shape: weight.tensorShape)) and must be \(describe(shape: bias.tensorShape + [width]))")
        }
        let (weights, biases) = (weight.doubles(), bias.doubles())
        return biases.indices.map { row in
            var sum = 0.0
            for column in 0..<width { sum += weights[row * width + column] * vector[column] }
            return sum + biases[row]
        }
    }
}

/// The tensors of a file by module and part.
struct ModuleTensors {
    private(set) var modules: OrderedDictionary<String, [String: TensorInfo]> = [:]
    let file: SafetensorsFile

    init(file: SafetensorsFile) {
        self.file = file
    }

    mutating func add(_ tensor: TensorInfo, module: String, part: String) throws(AdapterError) {
        guard tensor.dtype.isFloat else {
            throw AdapterError(
                .unsupportedDType, path: file.path, subject: tensor.name,
                "parameters in \(tensor.dtype) are not supported; F32, BF16, F16 and F64 are")
        }
        modules[module, default: [:]][part] = tensor
    }

    /// A tensor of the given number of dimensions, all of them positive.
    func tensor(_ module: String, _ part: String, dimensions: Int) throws(AdapterError) -> (matrix: FactorMatrix, shape: [Int]) {
        guard let tensor = modules[module]?[part] else {
            throw AdapterError(.missingFactor, path: file.path, subject: module, "the module has no \(part)")
        }
        guard tensor.shape.count == dimensions, !tensor.shape.contains(0) else {
            throw AdapterError(
                .invalidShape, path: file.path, subject: tensor.name,
                "its shape is \(describe(shape: tensor.shape)) and must have \(dimensions) dimensions, none of them zero")
        }
        return (FactorMatrix(tensor, in: file), tensor.shape)
    }

    /// - Throws: `AdapterError` where the parts of the module are not these.
    func require(_ parts: Set<String>, of module: String) throws(AdapterError) {
        let found = Set(modules[module]?.keys.map { $0 } ?? [])
        guard let odd = found.symmetricDifference(parts).min() else { return }
        throw AdapterError(
            parts.contains(odd) ? .missingFactor : .unexpectedTensor, path: file.path, subject: modules[module]?[odd]?.name ?? module,
            parts.contains(odd)
                ? "the module has no \(odd)" : "the module has \(found.sorted().joined(separator: ", ")), and \(odd) does not belong to them")
    }
}
