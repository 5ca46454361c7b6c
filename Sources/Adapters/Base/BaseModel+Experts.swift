internal import Families
internal import JSON
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

extension BaseModel {
    /// Whether a bare parameter of this name holds the matrices of all experts.
    static func isStackOfExperts(_ parameter: String) -> Bool { ExpertNames.matrices[parameter] != nil }

    /// The name by which PEFT adapts a tensor of three dimensions that is a stack of experts; `nil` for any other, such as a convolution.
    func stackOfExperts(_ tensor: String) -> String? {
        func parts(_ name: String) -> [Substring] { name.split(separator: ".") }
        func isStack(_ name: String) -> Bool { parts(name).last.map { Self.isStackOfExperts(String($0)) } ?? false }
        if isStack(tensor) { return tensor }
        let name = memoryNames?.inMemory(tensor) ?? tensor
        return isStack(name) || parts(name).last == "weight" && parts(name).dropLast().last.map(ExpertNames.modules.contains) == true ? name : nil
    }

    /// The parameter that holds a matrix of all experts in memory, by the name that files give the matrix of one of them.
    static func parameter(ofExperts matrix: String) -> String? {
        ExpertNames.matrices.first { parameter, names in parameter != AdapterModule.fused && names.contains([matrix]) }?.key
    }

    /// The updates of a stack of experts: of one tensor that holds the stack, or of the tensors of each expert.
    func expertUpdates(of module: AdapterModule, scale: Double, adapter: String) throws(MergeError) -> [TensorUpdate] {
        let count = module.updates.count
        if let name = resolve(module.parameterName) {
            let (_, weight) = try tensor(name, adapter: adapter)
            if count == 1, weight.shape == [module.outputs, module.inputs] {
                return [
                    TensorUpdate(
                        tensor: name, module: module.label, rows: 0..<module.outputs, update: module.update, scale: scale,
                        adapterPath: adapter)
                ]
            }
            let straight = [count, module.outputs, module.inputs]
            let transposed = [count, module.inputs, module.outputs]
            guard weight.shape == straight || weight.shape == transposed else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: name,
                    "its factors of rank \(module.rank) make \(describe(shape: straight)) and the weight is \(describe(shape: weight.shape)); "
                        + Self.otherRankOrModel(count, weight.shape)
                )
            }
            let isTransposed = weight.shape != straight || (straight == transposed && marksExpertsTransposed)
            return module.updates.enumerated().map { number, update in
                let stored: any UpdateMethod = isTransposed ? update.transposed : update
                return TensorUpdate(
                    tensor: name, module: module.label, rows: number * stored.outputs..<(number + 1) * stored.outputs, update: stored, scale: scale,
                    isTransposed: isTransposed, adapterPath: adapter)
            }
        }
        let path = module.path.text
        for matrices in ExpertNames.matrices[module.parameter] ?? [] {
            guard resolve("\(path).0.\(matrices[0]).weight") != nil else { continue }
            func has(_ number: Int) -> Bool { resolve("\(path).\(number).\(matrices[0]).weight") != nil }
            guard has(count - 1), !has(count) else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: "\(path).\(count).\(matrices[0]).weight",
                    "the adapter has factors of rank \(module.rank) for \(count) experts and the base has \(has(count) ? "more" : "fewer"); \(Self.rankOrModel)"
                )
            }
            return try separateUpdates(of: module, in: path, matrices: matrices, scale: scale, adapter: adapter)
        }
        throw missing(module.parameterName, adapter: adapter)
    }

    private static let rankOrModel = "the adapter was made for a model of other sizes, or its configuration gives another rank than its factors have"

    private static func otherRankOrModel(_ count: Int, _ shape: [Int]) -> String {
        shape.first == count ? "the adapter was made for a model of other sizes" : rankOrModel
    }

    private func separateUpdates(
        of module: AdapterModule, in path: String, matrices: [String], scale: Double, adapter: String
    ) throws(MergeError) -> [TensorUpdate] {
        var updates: [TensorUpdate] = []
        for (number, update) in module.updates.enumerated() {
            var row = 0
            for matrix in matrices {
                let (name, weight) = try tensor("\(path).\(number).\(matrix).weight", adapter: adapter)
                guard weight.shape.count == 2, weight.shape[1] == module.inputs, weight.shape[0] <= module.outputs - row else {
                    throw MergeError(
                        .shapeMismatch, path: adapter, tensor: name,
                        "the factors of an expert make \(describe(shape: [module.outputs, module.inputs])) and the weight, \(describe(shape: weight.shape)), is no part of it; the adapter was made for a model of other sizes"
                    )
                }
                updates.append(
                    TensorUpdate(
                        tensor: name, module: module.label, rows: 0..<weight.shape[0], update: update, from: row, scale: scale,
                        adapterPath: adapter))
                row += weight.shape[0]
            }
            guard row == module.outputs else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: "\(path).\(number)",
                    "its matrices \(matrices.joined(separator: ", ")) have \(row) rows together and the update of the adapter \(module.outputs); the adapter was made for a model of other sizes"
                )
            }
        }
        return updates
    }

    private func keepsExperts(_ order: ExpertFacts.Order) -> Bool { families.contains { $0.experts.order == order } }

    /// Whether PEFT's A of a stack of experts is beside the first of its two dimensions; asked only where the shape cannot tell.
    private var marksExpertsTransposed: Bool { keepsExperts(.marked) }

    /// Whether the inputs are, for PEFT, the outputs of the experts.
    var takesExpertsInputsForOutputs: Bool { keepsExperts(.unmarked) }

    /// Whether gate and up projections of experts are interleaved.
    var interleavesExperts: Bool { families.contains(where: \.experts.interleavesGate) }

    /// Whether PEFT's A of a stack of experts of the shape in the files is beside the first of its two dimensions.
    func storesExpertsTransposed(_ parameter: String, _ shape: [Int]) -> Bool {
        if marksExpertsTransposed { return true }
        guard keepsExperts(.loadedTransposed), shape.count == 3 else { return false }
        let text = configuration?["text_config"] ?? configuration
        guard let width = text?["hidden_size"]?.integerValue else { return false }
        return (parameter == "down_proj" ? shape[1] : shape[2]) != width
    }
}
