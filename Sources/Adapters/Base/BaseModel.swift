internal import FileIO
public import JSON
internal import Kernels
internal import OrderedCollections
public import Safetensors
internal import Synchronization
internal import Tensors

/// The model that adapters are merged into: its tensors, its configuration, and where in it the modules of an adapter lie.
///
/// Adapters name the modules of a model as it is in memory. The files may name them otherwise: without the name of the inner
/// model (`h.0.attn` for `transformer.h.0.attn`) or with it, and with a tensor for each expert where there is one for all in
/// memory.
public struct BaseModel: Sendable {
    public let files: WeightFiles
    /// `config.json` beside the weights of a model folder.
    public let configuration: JSONValue?
    /// The embedding and the head that share one matrix; `nil` where each has its own, or there is no head.
    public let tie: Tie?
    /// The first components of the names of tensors.
    private let outerNames: Set<Substring>
    private let modules: LazyModuleIndex

    /// The index of modules, made when a name is first looked up that is not one of the files'.
    private final class LazyModuleIndex: Sendable {
        private let made = Mutex<ModuleIndex?>(nil)

        func value(_ files: WeightFiles) -> ModuleIndex {
            made.withLock { made in
                let index = made ?? ModuleIndex(files)
                made = index
                return index
            }
        }
    }

    /// One matrix for the embedding and the head.
    public struct Tie: Sendable, Equatable {
        /// The tensor that the files hold.
        public let embedding: String
        /// The name that the head's own matrix has in models that are not tied.
        public let head: String
    }

    static let configurationName = "config.json"
    /// The largest `config.json` that is read, in bytes.
    private static let maximumConfigurationBytes = 16_000_000
    private static let headName = "lm_head.weight"
    private static let headModules: Set<Substring> = ["lm_head", "embed_out"]
    private static let embeddingModules: Set<Substring> = ["embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "shared"]

    /// - Parameter path: a model folder or one safetensors file.
    /// - Throws: `SafetensorsError`, `FileError`, or `MergeError.invalidConfiguration`.
    public init(path: String) throws {
        files = try WeightFiles(path: path)
        configuration = try Self.configuration(of: path)
        tie = Self.tie(of: files, configuration: configuration)
        modules = LazyModuleIndex()
        outerNames = Set(files.tensors.keys.lazy.compactMap { $0.split(separator: ".", maxSplits: 1).first })
    }

    /// The file or folder that was opened.
    public var path: String { files.path }

    private static func configuration(of base: String) throws -> JSONValue? {
        FileSystem.isFolder(base) ? try configuration(at: FileSystem.join(base, configurationName)) : nil
    }

    /// A `config.json`, if it is there.
    static func configuration(at path: String) throws -> JSONValue? {
        guard FileSystem.exists(path) else { return nil }
        do {
            return try JSONValue(parsing: try FileSystem.contents(of: path, limit: maximumConfigurationBytes))
        } catch let error as JSONError {
            throw MergeError(.invalidConfiguration, path: path, "\(error)")
        }
    }

    /// A causal language model is tied where its configuration says so, or says nothing and the files hold no head.
    private static func tie(of files: WeightFiles, configuration: JSONValue?) -> Tie? {
        guard !files.isPipeline else { return nil }
        let embeddings = files.tensors.keys.filter(isEmbedding)
        guard embeddings.count == 1, let embedding = embeddings.first else { return nil }
        let isStated = configuration?["tie_word_embeddings"]?.boolValue ?? configuration?["text_config"]?["tie_word_embeddings"]?.boolValue
        guard isCausal(configuration) ?? true, isStated ?? (files.tensors[headName] == nil) else { return nil }
        return Tie(embedding: embedding, head: headName)
    }

    /// Whether a model is a causal language model; `nil` where its configuration does not say.
    private static func isCausal(_ configuration: JSONValue?) -> Bool? {
        let names = configuration?["architectures"]?.arrayValue?.compactMap(\.stringValue) ?? []
        return names.isEmpty ? nil : names.contains { $0.hasSuffix("ForCausalLM") || $0.hasSuffix("LMHeadModel") }
    }

    /// Whether the model is known to be none that continues a text.
    var isNotCausal: Bool { Self.isCausal(configuration) == false }

    /// Whether a tensor's name is that of a table of token embeddings.
    static func isEmbedding(_ name: String) -> Bool { isWeight(name, of: embeddingModules) }

    /// Whether the rows of a tensor of this name are the entries of the vocabulary: an embedding's or a head's.
    static func isVocabulary(_ name: String) -> Bool { isWeight(name, of: embeddingModules.union(headModules)) }

    private static func isWeight(_ name: String, of modules: Set<Substring>) -> Bool {
        let components = name.split(separator: ".")
        return components.count >= 2 && components.last == "weight" && modules.contains(components[components.count - 2])
    }

    /// Whether an adapter that names the model that it was trained on may mean this one: by the end of the name, where
    /// both are known.
    func mayBe(_ name: String) -> Bool {
        guard let own = configuration?["_name_or_path"]?.stringValue, !own.isEmpty, !name.isEmpty else { return true }
        let wanted = FileSystem.lastComponent(name).lowercased()
        return [own, path].contains { FileSystem.lastComponent($0).lowercased() == wanted }
    }

    // MARK: Names

    /// The name under which the merged model holds a tensor that an adapter names; `nil` if the base has no such tensor.
    public func resolve(_ name: String) -> String? {
        if files.tensors[name] != nil { return name }
        if let tie, name == tie.head { return name }
        // The files of the inner model, or of the whole one where the adapter was trained on the inner one.
        if let dot = name.firstIndex(of: "."), case let inner = String(name[name.index(after: dot)...]),
            files.tensors[inner] != nil || inner == tie?.head
        {
            return inner
        }
        let outer = outerNames.map { "\($0).\(name)" }.filter { files.tensors[$0] != nil }
        // Of several none is the one that is meant.
        return outer.count == 1 ? outer[0] : nil
    }

    /// What the merged model's tensor `name` is made from; for a tied head the embedding.
    ///
    /// - Precondition: `resolve` gave the name.
    func source(of name: String) -> WeightFiles.Location? {
        if let tie, name == tie.head { return files.tensors[tie.embedding] }
        return files.tensors[name]
    }

    // MARK: Updates

    /// Where a module of an adapter meets the tensors of the model.
    ///
    /// - Parameters:
    ///   - weight: what the user multiplies the adapter by.
    ///   - replaced: values that take the place of the model's, by the tensor's name.
    /// - Throws: `MergeError`: `.moduleNotInBase`, `.shapeMismatch`, `.unsupportedDType`, `.invalidScale`.
    public func updates(
        of module: AdapterModule, weight: Double, adapter: String, replaced: [String: WeightFiles.Location] = [:]
    ) throws(MergeError) -> [TensorUpdate] {
        let scale = module.scale * weight
        guard scale.isFinite else {
            throw MergeError(
                .invalidScale, path: adapter, tensor: module.parameterName, "scale \(module.scale) times weight \(weight) is not finite")
        }
        if module.magnitude != nil, weight != 1 {
            throw MergeError(
                .unsupportedCombination, path: adapter, tensor: module.parameterName,
                "the module has a magnitude (DoRA), which cannot be weighted by \(weight); merge it with weight 1")
        }
        if module.kind == .experts { return try expertUpdates(of: module, scale: scale, adapter: adapter) }
        let placement = Placement(model: self, module: module, scale: scale, adapter: adapter, replaced: replaced)
        var updates = try placement.weightUpdates()
        if let bias = module.bias { updates.append(try placement.biasUpdate(bias)) }
        return updates
    }

    /// The matrices that a module of an adapter updates: one, or those that make it, one below the other.
    func places(of module: AdapterModule) -> [ModuleIndex.Place] {
        if let name = resolve(module.parameterName) { return [.init(tensor: name, component: nil, relation: .whole, module: module.path.text)] }
        return module.parameter == "weight" ? modules.value(files).places(of: module.path.text, component: module.component) : []
    }

    /// One module on its way to the tensors of the model.
    private struct Placement {
        let model: BaseModel
        let module: AdapterModule
        let scale: Double
        let adapter: String
        let replaced: [String: WeightFiles.Location]

        func weightUpdates() throws(MergeError) -> [TensorUpdate] {
            let places = model.places(of: module)
            let b = try model.straightened(module, adapter: adapter)
            guard places.count > 1 else {
                let (name, info) = try model.tensor(places.first?.tensor ?? module.parameterName, adapter: adapter, replaced: replaced)
                guard case .contains(let number)? = places.first?.relation else { return [try update(of: name, shape: info.shape, b: b)] }
                return [try update(ofPart: number, of: name, shape: info.shape, b: b)]
            }
            guard module.bias == nil else {
                throw MergeError(
                    .unsupportedCombination, path: adapter, tensor: module.parameterName,
                    "the B of a module that is several matrices of the base has a bias (lora_bias), which cannot be cut")
            }
            // The module is several matrices of the model, one below the other.
            var updates: [TensorUpdate] = []
            var row = 0
            for place in places {
                let (name, info) = try model.tensor(place.tensor, adapter: adapter, replaced: replaced)
                guard module.magnitude == nil, module.kind == .linear, info.shape.count == 2, info.shape[1] == module.inputs,
                    info.shape[0] <= b.rows - row
                else { throw misfit(name, info.shape) }
                updates.append(
                    TensorUpdate(
                        tensor: name, module: module.label, rows: 0..<info.shape[0], left: b.rows(from: row, count: info.shape[0]),
                        right: module.loraA, scale: scale, magnitude: nil, bIsRight: false, adapterPath: adapter))
                row += info.shape[0]
            }
            guard row == b.rows else { throw misfit(places[0].tensor, [row, module.inputs]) }
            return updates
        }

        private func misfit(_ name: String, _ shape: [Int]) -> MergeError {
            MergeError(
                .shapeMismatch, path: adapter, tensor: name,
                "B \(describe(shape: module.loraB.shape)) times A \(describe(shape: module.loraA.shape)) is an update of "
                    + "\(describe(shape: [module.outputs, module.inputs])) and the weight is \(describe(shape: shape)); the adapter belongs to another model"
            )
        }

        /// The update of rows of a matrix in which the module lies with others, each but the last with as many outputs as inputs.
        private func update(ofPart number: Int, of name: String, shape: [Int], b: FactorMatrix) throws(MergeError) -> TensorUpdate {
            let first = number * module.inputs
            guard module.magnitude == nil, module.kind == .linear, shape.count == 2, shape[1] == module.inputs, first + b.rows <= shape[0] else {
                throw misfit(name, shape)
            }
            return TensorUpdate(
                tensor: name, module: module.label, rows: first..<first + b.rows, left: b, right: module.loraA, scale: scale, magnitude: nil,
                bIsRight: false, adapterPath: adapter)
        }

        private func update(of name: String, shape: [Int], b: FactorMatrix) throws(MergeError) -> TensorUpdate {
            let isTransposed = model.storesTransposed(module, shape: shape)
            let inputs = shape.count < 2 ? 0 : isTransposed ? shape[0] : shape[1]
            let a = module.sharesInputs && inputs <= module.inputs ? module.loraA.columns(from: 0, count: inputs) : module.loraA
            let left = isTransposed ? a.transposed : b
            let right = isTransposed ? b.transposed : a
            // A convolution over single points is a linear layer, and either may be stored as the other.
            let isFitting =
                shape.count >= 2 && shape[0] == left.rows && shape.dropFirst().reduce(1, &*) == right.columns
                && (module.kind == .convolution || shape.dropFirst(2).allSatisfy { $0 == 1 })
            guard isFitting else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: name,
                    "B \(describe(shape: b.shape)) times A \(describe(shape: a.shape)) is an update of "
                        + "\(describe(shape: [left.rows, right.columns])) and the weight is \(describe(shape: shape)); the adapter belongs to another model"
                )
            }
            if let values = module.magnitude?.values, case .ofInputs = module.magnitude {
                guard values.columns == shape[isTransposed ? 0 : 1] else { throw misfit(name, shape) }
            }
            let magnitude: TensorUpdate.Magnitude? =
                switch module.magnitude {
                case .ofOutputs(let values)?: isTransposed ? .ofColumns(values) : .ofRows(values)
                case .ofInputs(let values)?: isTransposed ? .ofRows(values) : .ofColumns(values)
                case nil: nil
                }
            return TensorUpdate(
                tensor: name, module: module.label, rows: 0..<left.rows, left: left, right: right, scale: scale, magnitude: magnitude,
                bIsRight: isTransposed, adapterPath: adapter)
        }

        func biasUpdate(_ bias: FactorMatrix) throws(MergeError) -> TensorUpdate {
            let weight = model.places(of: module).first?.tensor
            let own = weight.map { String($0.dropLast("weight".count)) + "bias" } ?? "\(module.place).bias"
            let (name, info) = try model.tensor(own, adapter: adapter, replaced: replaced)
            guard info.shape == [bias.columns] else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: name,
                    "the adapter's bias has \(bias.columns) elements and the module's is \(describe(shape: info.shape)); the adapter belongs to another model"
                )
            }
            return TensorUpdate(
                tensor: name, module: module.label, rows: 0..<1, left: .one, right: bias, scale: scale, magnitude: nil, bIsRight: true,
                adapterPath: adapter)
        }
    }

    /// The tensor that an adapter names, in a type that can be merged.
    private func tensor(
        _ wanted: String, adapter: String, replaced: [String: WeightFiles.Location] = [:]
    ) throws(MergeError) -> (name: String, info: TensorInfo) {
        guard let name = resolve(wanted), let info = (replaced[name] ?? source(of: name))?.info else {
            throw MergeError(.moduleNotInBase, path: adapter, tensor: wanted, missing(wanted))
        }
        guard MergeKernel.supports(info.dtype) else {
            throw MergeError(
                .unsupportedDType, path: path, tensor: name,
                "a weight in \(info.dtype) cannot be merged; F32, BF16, F16 and F64 can, so convert the base first")
        }
        return (name, info)
    }

    private func missing(_ name: String) -> String {
        let similar = files.tensors.keys.first { $0.hasSuffix("." + name) || name.hasSuffix("." + $0) }
        let hint = similar.map { "the nearest is \($0)" } ?? "the adapter belongs to another model"
        return "the base holds no tensor of this name; \(hint)"
    }

    /// Families whose linear layers inside the blocks are stored as [in, out].
    private static let transposedFamilies: Set<String> = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"]
    private static let transposedModules: Set<String> = ["c_attn", "q_attn", "c_proj", "c_fc"]

    /// Whether the family stores the linear layer of this name as [in, out].
    func storesTransposed(_ module: ModulePath) -> Bool {
        Self.transposedFamilies.contains(configuration?["model_type"]?.stringValue ?? "")
            && Self.transposedModules.contains(module.lastComponent)
    }

    /// Whether the weight of a module takes (B·A)ᵀ.
    ///
    /// PEFT's `fan_in_fan_out` does not decide it: it is one flag for all modules, and PEFT overrules it where it does not fit.
    private func storesTransposed(_ module: AdapterModule, shape: [Int]) -> Bool {
        switch module.kind {
        case .embedding: return true
        case .convolution, .experts: return false
        case .linear, .transposedLinear:
            let isTransposed = storesTransposed(module.path) || module.kind == .transposedLinear
            // A shared A is as wide as the widest module's.
            return isTransposed && shape.count == 2 && shape[1] == module.outputs && (module.sharesInputs || shape[0] == module.inputs)
        }
    }

    // MARK: Experts

    /// The names that a family of models gives the matrices of one expert in its files, for a parameter that holds the
    /// matrices of all experts in memory: those that lie one below the other in it.
    private static let expertMatrices: [String: [[String]]] = [
        "gate_up_proj": [["gate_proj", "up_proj"], ["w1", "w3"], ["fc1", "fc3"]],
        "gate_proj": [["gate_proj"], ["w1"], ["fc1"]],
        "up_proj": [["up_proj"], ["w3"], ["fc3"]],
        "down_proj": [["down_proj"], ["w2"], ["fc2"]],
    ]

    /// Whether a bare parameter of this name holds the matrices of all experts.
    static func isStackOfExperts(_ parameter: String) -> Bool { expertMatrices[parameter] != nil }

    /// The updates of a stack of experts: of one tensor that holds the stack, or of the tensors of each expert.
    private func expertUpdates(of module: AdapterModule, scale: Double, adapter: String) throws(MergeError) -> [TensorUpdate] {
        let count = module.factors.count
        if let name = resolve(module.parameterName) {
            let (_, info) = try tensor(name, adapter: adapter)
            if count == 1, info.shape == [module.outputs, module.inputs] {
                return [
                    TensorUpdate(
                        tensor: name, module: module.label, rows: 0..<module.outputs, left: module.loraB, right: module.loraA, scale: scale,
                        magnitude: nil, bIsRight: false, adapterPath: adapter)
                ]
            }
            let straight = [count, module.outputs, module.inputs]
            let transposed = [count, module.inputs, module.outputs]
            guard info.shape == straight || info.shape == transposed else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: name,
                    "its factors make \(describe(shape: straight)) and the weight is \(describe(shape: info.shape)); the adapter belongs to another model"
                )
            }
            let isTransposed = info.shape != straight || (straight == transposed && storesExpertsTransposed)
            return module.factors.enumerated().map { number, factors in
                let left = isTransposed ? factors.a.transposed : factors.b
                let right = isTransposed ? factors.b.transposed : factors.a
                return TensorUpdate(
                    tensor: name, module: module.label, rows: number * left.rows..<(number + 1) * left.rows, left: left, right: right, scale: scale,
                    magnitude: nil, bIsRight: isTransposed, adapterPath: adapter)
            }
        }
        for path in expertPaths(of: module.path.text) {
            for matrices in Self.expertMatrices[module.parameter] ?? [] {
                guard resolve("\(path).0.\(matrices[0]).weight") != nil else { continue }
                guard resolve("\(path).\(count).\(matrices[0]).weight") == nil else {
                    throw MergeError(
                        .shapeMismatch, path: adapter, tensor: "\(path).\(count).\(matrices[0]).weight",
                        "the adapter has factors for \(count) experts and the base has more; the adapter belongs to another model")
                }
                return try separateUpdates(of: module, in: path, matrices: matrices, scale: scale, adapter: adapter)
            }
        }
        throw MergeError(.moduleNotInBase, path: adapter, tensor: module.parameterName, missing(module.parameterName))
    }

    private func separateUpdates(
        of module: AdapterModule, in path: String, matrices: [String], scale: Double, adapter: String
    ) throws(MergeError) -> [TensorUpdate] {
        var updates: [TensorUpdate] = []
        for (number, factors) in module.factors.enumerated() {
            var row = 0
            for matrix in matrices {
                let (name, info) = try tensor("\(path).\(number).\(matrix).weight", adapter: adapter)
                guard info.shape.count == 2, info.shape[1] == module.inputs, info.shape[0] <= module.outputs - row else {
                    throw MergeError(
                        .shapeMismatch, path: adapter, tensor: name,
                        "the factors of an expert make \(describe(shape: [module.outputs, module.inputs])) and the weight, \(describe(shape: info.shape)), is no part of it; the adapter belongs to another model"
                    )
                }
                updates.append(
                    TensorUpdate(
                        tensor: name, module: module.label, rows: 0..<info.shape[0], left: factors.b.rows(from: row, count: info.shape[0]),
                        right: factors.a, scale: scale, magnitude: nil, bIsRight: false, adapterPath: adapter))
                row += info.shape[0]
            }
            guard row == module.outputs else {
                throw MergeError(
                    .shapeMismatch, path: adapter, tensor: "\(path).\(number)",
                    "its matrices \(matrices.joined(separator: ", ")) have \(row) rows together and the update of the adapter \(module.outputs); the adapter belongs to another model"
                )
            }
        }
        return updates
    }

    /// The paths at which the experts of a module may lie in the files.
    private func expertPaths(of path: String) -> [String] {
        let renamed = path.split(separator: ".").map { $0 == "mlp" ? "block_sparse_moe" : $0 }.joined(separator: ".")
        return renamed == path ? [path] : [path, renamed]
    }

    /// Whether the family keeps the matrices of its experts as [in, out]; asked only where the shape cannot tell.
    var storesExpertsTransposed: Bool {
        ["gpt_oss", "llama4", "llama4_text"].contains(configuration?["model_type"]?.stringValue ?? "")
    }
}
