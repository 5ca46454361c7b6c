internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// The tensors of a PEFT adapter on their way into the neutral form: every one is claimed, or the error names it.
struct PEFTReading {
    private let file: SafetensorsFile
    /// The tensors, and their names from the module's path on.
    private let tensors: [(info: TensorInfo, name: String)]
    private let component: String?
    private let configuration: PEFTConfiguration
    /// The alphas of modules, where they stand beside the factors and not in a configuration: those not named have the rank.
    private let alphas: [String: Double]?
    private(set) var modules: [AdapterModule] = []
    /// What patterns may name: modules, and parameters that are adapted by their names.
    private var named: [ModulePath] = []
    private(set) var replacements: [Replacement] = []
    private(set) var remarks: [String] = []
    /// Modules with another rank than the configuration gives.
    private var otherRanks: [(path: ModulePath, configured: Int, rank: Int)] = []
    private var parts: OrderedDictionary<Owner, Parts> = [:]
    /// The tensors of a method of the table, by its names for them, and those that all modules share.
    private var updateParts: OrderedDictionary<ModulePath, [String: FactorMatrix]> = [:]
    private var sharedParts: [String: FactorMatrix] = [:]
    private var wholes: OrderedDictionary<ModulePath, [Copy: TensorInfo]> = [:]

    /// - Throws: `AdapterError.unexpectedTensor` for a tensor that no adapter of PEFT has.
    init(file: SafetensorsFile, configuration: PEFTConfiguration) throws(AdapterError) {
        var tensors: [(TensorInfo, String)] = []
        let shared = Set(configuration.method?.sharedParts.map { PEFT.sharedPrefix + $0 } ?? [])
        for tensor in file.tensors.values {
            if shared.contains(tensor.name) {
                tensors.append((tensor, String(tensor.name.dropFirst(PEFT.sharedPrefix.count))))
                continue
            }
            guard tensor.name.hasPrefix(PEFT.keyPrefix) else {
                throw AdapterError(
                    .unexpectedTensor, path: file.path, subject: tensor.name, "a tensor of a PEFT adapter begins with \(PEFT.keyPrefix)")
            }
            tensors.append((tensor, String(tensor.name.dropFirst(PEFT.keyPrefix.count))))
        }
        self.init(file: file, tensors: tensors, component: nil, configuration: configuration, alphas: nil)
    }

    init(
        file: SafetensorsFile, tensors: [(info: TensorInfo, name: String)], component: String?, configuration: PEFTConfiguration,
        alphas: [String: Double]?
    ) {
        self.file = file
        self.tensors = tensors
        self.component = component
        self.configuration = configuration
        self.alphas = alphas
    }

    /// As what PEFT saves the values of a tensor that are not factors. Of a grown vocabulary it saves several.
    private enum Copy: CaseIterable {
        /// Under the module's own name, and under that of the copy that was trained: the trained ones.
        case plain, trained
        /// Those of the layer inside a wrapper, which the adapter comes on top of.
        case wrapped
        /// Those before the training, which mean nothing beside the trained ones.
        case original

        init?(_ component: Substring) {
            switch component {
            case "modules_to_save": self = .trained
            case "base_layer": self = .wrapped
            case "original_module": self = .original
            default: return nil
            }
        }
    }

    /// A module, and how many other wrappers of the same module lie around the one meant: PEFT nests the wrappers of a second
    /// and third parameter of one module.
    private struct Owner: Hashable {
        let path: ModulePath
        let depth: Int
    }

    /// What the file holds for one wrapped module.
    private struct Parts {
        var a: FactorMatrix?
        var b: FactorMatrix?
        var embeddingA: FactorMatrix?
        var embeddingB: FactorMatrix?
        var magnitude: FactorMatrix?
        var bias: FactorMatrix?
        /// The kernel's dimensions of a convolution.
        var kernel: [Int] = []
    }

    private static let factors: [(suffix: String, part: any WritableKeyPath<Parts, FactorMatrix?> & Sendable)] = [
        (".lora_A.weight", \.a), (".lora_B.weight", \.b), (".lora_embedding_A", \.embeddingA), (".lora_embedding_B", \.embeddingB),
        (".lora_magnitude_vector", \.magnitude), (".lora_magnitude_vector.weight", \.magnitude), (".lora_B.bias", \.bias),
    ]

    /// - Throws: `AdapterError`.
    mutating func read() throws(AdapterError) {
        for (tensor, name) in tensors { try claim(tensor, name: name) }
        for (path, copies) in wholes { try addWhole(path, copies) }
        for (owner, parts) in parts { try addModule(owner, parts) }
        for (path, parts) in updateParts { try addUpdate(path, parts) }
        if let (path, configured, rank) = otherRanks.first {
            let others = otherRanks.count == 1 ? "" : ", and likewise for \(otherRanks.count - 1) more"
            remarks.append("\(path): the configuration says rank \(configured) but the factors have rank \(rank), which is used\(others)")
        }
        remarks += configuration.unmatched(by: named)
        guard !modules.isEmpty || !replacements.isEmpty else { throw AdapterError(.empty, path: file.path, "the file holds no tensor of an adapter") }
    }

    private func fault(_ code: AdapterError.Code, _ subject: String, _ message: String) -> AdapterError {
        AdapterError(code, path: file.path, subject: subject, message)
    }

    // MARK: Tensors

    private mutating func claim(_ tensor: TensorInfo, name: String) throws(AdapterError) {
        guard tensor.elementCount > 0 else {
            throw fault(
                .invalidShape, tensor.name,
                "the tensor \(describe(shape: tensor.shape)) is empty; training in parts (DeepSpeed ZeRO-3, FSDP) leaves such tensors where the parts were not gathered before saving"
            )
        }
        if let method = configuration.method {
            if try claimPart(tensor, name: name, of: method) { return }
        } else if let (suffix, part) = Self.factors.first(where: { name.hasSuffix($0.suffix) }) {
            return try claimFactor(tensor, part, owner: try owner(name.dropLast(suffix.count), tensor: tensor.name))
        }
        let tokens = ".token_adapter.trainable_tokens_delta"
        if name.hasSuffix(tokens), let path = ModulePath(name.dropLast(tokens.count)) {
            guard let tokens = configuration.trainedTokens(of: path) else {
                throw fault(.unexpectedTensor, tensor.name, "the configuration does not say which tokens these rows are (trainable_token_indices)")
            }
            return replacements.append(Replacement(tensor: placed(path.weightName), values: .init(tensor, in: file), rows: tokens))
        }
        guard !name.contains(".lora_"), !name.contains(".trainable_tokens_") else {
            throw fault(.unexpectedTensor, tensor.name, "the key is none of those of a LoRA adapter")
        }
        try claimWhole(tensor, name: name)
    }

    /// A tensor of a method of the table.
    ///
    /// - Returns: whether it is one.
    private mutating func claimPart(_ tensor: TensorInfo, name: String, of method: any UpdateMethod.Type) throws(AdapterError) -> Bool {
        let isShared = method.sharedParts.contains(name)
        let found = isShared ? (module: "", part: name) : method.parts.first { name.hasSuffix("." + $0) }.map { (name.dropLast($0.count + 1), $0) }
        guard let (module, part) = found else { return false }
        guard tensor.dtype.isFloat else {
            throw fault(.unsupportedDType, tensor.name, "a factor in \(tensor.dtype) is not supported; F32, BF16, F16 and F64 are")
        }
        let matrix = FactorMatrix(tensor, in: file)
        guard !isShared else {
            sharedParts[part] = matrix
            return true
        }
        guard let path = ModulePath(module), !path.hasComponent("base_layer") else {
            throw fault(.unsupportedFeature, tensor.name, "an adapter of the module \(module), which wraps another, is not supported")
        }
        updateParts[path, default: [:]][part] = matrix
        return true
    }

    private mutating func addUpdate(_ path: ModulePath, _ parts: [String: FactorMatrix]) throws(AdapterError) {
        guard let method = configuration.method else { return }
        let update: any UpdateMethod
        do throws(UpdateFault) {
            update = try method.init(UpdateParts(module: path.text, parts, shared: sharedParts))
        } catch {
            throw AdapterError(error, path: file.path)
        }
        let rank = update.rank ?? configuration.rank(of: path)
        if configuration.rank(of: path) != rank { otherRanks.append((path, configuration.rank(of: path), rank)) }
        named.append(path)
        modules.append(
            AdapterModule(
                component: component, path: path, kind: configuration.isFanInFanOut ? .transposedLinear : .linear, updates: [update],
                alpha: configuration.alpha(of: path, rank: rank), scale: try scale(of: path, rank: rank)))
    }

    /// A tensor's name in the model of which the component is a part.
    private func placed(_ name: String) -> String { component.map { "\($0).\(name)" } ?? name }

    private func owner(_ stem: Substring, tensor: String) throws(AdapterError) -> Owner {
        var stem = stem
        var depth = 0
        while stem.hasSuffix(".base_layer") {
            stem = stem.dropLast(".base_layer".count)
            depth += 1
        }
        guard let path = ModulePath(stem), !path.hasComponent("base_layer") else {
            throw fault(.unsupportedFeature, tensor, "an adapter of the module \(stem), which wraps another, is not supported")
        }
        return Owner(path: path, depth: depth)
    }

    private mutating func claimFactor(_ tensor: TensorInfo, _ part: WritableKeyPath<Parts, FactorMatrix?>, owner: Owner) throws(AdapterError) {
        guard tensor.dtype.isFloat else {
            throw fault(.unsupportedDType, tensor.name, "a factor in \(tensor.dtype) is not supported; F32, BF16, F16 and F64 are")
        }
        let isVector = part == \.magnitude || part == \.bias
        guard isVector ? !tensor.shape.isEmpty && tensor.elementCount == tensor.shape.max() : tensor.shape.count >= 2 else {
            throw fault(.invalidShape, tensor.name, "its shape \(describe(shape: tensor.shape)) is not that of a \(isVector ? "vector" : "matrix")")
        }
        if part == \.b, tensor.shape.dropFirst(2).contains(where: { $0 != 1 }) {
            throw fault(
                .invalidShape, tensor.name, "its shape \(describe(shape: tensor.shape)) is not that of a convolution over single points, as a B has")
        }
        let matrix = isVector ? FactorMatrix(tensor, in: file).reshaped(rows: 1, columns: tensor.elementCount) : FactorMatrix(tensor, in: file)
        guard parts[owner, default: Parts()][keyPath: part] == nil else {
            throw fault(.unexpectedTensor, tensor.name, "another tensor of the file is the same part of the module \(owner.path)")
        }
        parts[owner, default: Parts()][keyPath: part] = matrix
        if part == \.a { parts[owner, default: Parts()].kernel = Array(tensor.shape.dropFirst(2)) }
    }

    /// A tensor that takes the place of the base's, or a copy of one.
    private mutating func claimWhole(_ tensor: TensorInfo, name: String) throws(AdapterError) {
        let components = name.split(separator: ".")
        let own = components.filter { Copy($0) == nil && $0 != "token_adapter" }
        guard let path = ModulePath(own.joined(separator: ".")), own.count >= 2 || configuration.isSaved(path) else {
            throw fault(.unexpectedTensor, tensor.name, "the key is none of those of a LoRA adapter")
        }
        let copy = components.compactMap { Copy($0) }.last ?? .plain
        let isTrainedBias = own.last == "bias" && configuration.trainsBiases
        let isVocabulary = copy == .wrapped ? BaseModel.mayBeVocabulary(path.text) : BaseModel.isVocabulary(path.text)
        guard configuration.isSaved(path) || isTrainedBias || isVocabulary else {
            throw fault(
                .unexpectedTensor, tensor.name,
                "it is no factor, and the configuration names no module with it as trained whole (modules_to_save); nothing of an adapter may be left out"
            )
        }
        guard wholes[path, default: [:]].updateValue(tensor, forKey: copy) == nil else {
            throw fault(.unexpectedTensor, tensor.name, "another tensor of the file is the same values of \(path)")
        }
    }

    private mutating func addWhole(_ path: ModulePath, _ copies: [Copy: TensorInfo]) throws(AdapterError) {
        let trained = [Copy.plain, .trained, .wrapped].compactMap { copies[$0] }
        guard let first = trained.first else {
            throw fault(
                .unexpectedTensor, copies[.original]?.name ?? path.text,
                "the adapter holds the values from before the training and none from after it")
        }
        if let other = trained.first(where: { !FactorMatrix($0, in: file).hasSameBytes(as: FactorMatrix(first, in: file)) }) {
            throw fault(.unexpectedTensor, other.name, "its values are not those of \(first.name), and which of them \(path) has is not clear")
        }
        if copies.keys.contains(.wrapped), BaseModel.isVocabulary(path.text) {
            remarks.append("\(path): the adapter holds the values of the layer itself too, and they are used")
        }
        replacements.append(
            Replacement(
                tensor: placed(path.text), values: .init(first, in: file), isOfNewModule: configuration.savesModule(of: path),
                isOfAdaptedLayer: path.lastComponent == "weight" && trained.count == copies.count { $0.key == .wrapped }))
    }

    // MARK: Modules

    private mutating func addModule(_ owner: Owner, _ parts: Parts) throws(AdapterError) {
        let path = owner.path
        let isEmbedding = parts.embeddingA != nil || parts.embeddingB != nil
        guard !isEmbedding || (parts.a == nil && parts.b == nil) else {
            throw fault(.unexpectedTensor, path.text, "the module has the factors of an embedding and those of a linear layer")
        }
        let (first, second) = isEmbedding ? (parts.embeddingA, parts.embeddingB) : (parts.a, parts.b)
        guard let a = first, let b = second else {
            let found = first ?? second ?? parts.magnitude ?? parts.bias
            throw fault(
                .missingFactor, found?.name ?? path.text,
                "the module \(path) has \(first == nil ? "no A" : "an A and no B")" + (first == nil && second != nil ? " beside its B" : ""))
        }
        guard a.rows == b.columns, a.rows > 0, a.columns > 0, b.rows > 0 else {
            throw fault(
                .invalidShape, b.name, "B \(describe(shape: b.shape)) and A \(describe(shape: a.shape)) of \(path) cannot be multiplied to an update")
        }
        if let name = try parameter(of: owner, a.name) { return try addParameter(name, of: path, parts, a: a, b: b) }
        guard owner.depth == 0 else {
            throw fault(.unsupportedFeature, a.name, "an adapter of the module \(path), which wraps another, is not supported")
        }
        try addPlainModule(path, parts, a: a, b: b)
    }

    /// The parameter that a wrapper is for; `nil` where it is the weight of a module that is adapted as such.
    private func parameter(of owner: Owner, _ tensor: String) throws(AdapterError) -> String? {
        let candidates = configuration.parameters(of: owner.path)
        guard !candidates.isEmpty, owner.depth > 0 || !configuration.targetsModule(owner.path) else { return nil }
        let depths = parts.keys.filter { $0.path == owner.path }.map(\.depth)
        // A name without a dot is that of a parameter of any module, so that it counts where no other explains the wrappers.
        let certain = candidates.filter(\.isOfThisModule)
        let names = certain.count == depths.count ? certain : candidates
        guard let order = PEFTConfiguration.declarationOrder(Set(names.map(\.name))), order.count == depths.count, depths.max() == order.count - 1
        else {
            throw fault(
                .unsupportedFeature, tensor, "which of the parameters of \(owner.path) the factors belong to is not clear from target_parameters")
        }
        // The parameter that the model declares last is wrapped last and so is the outermost.
        return order[order.count - 1 - owner.depth]
    }

    private mutating func addPlainModule(_ path: ModulePath, _ parts: Parts, a: FactorMatrix, b: FactorMatrix) throws(AdapterError) {
        if alphas == nil { try checkConfiguration(of: path, parts, rank: a.rows) }
        for vector in [parts.magnitude, parts.bias].compactMap({ $0 }) where vector.columns != b.rows {
            throw fault(.invalidShape, vector.name, "it has \(vector.columns) elements and the module \(path) has \(b.rows) outputs")
        }
        named.append(path)
        let kind: AdapterModule.Kind =
            parts.embeddingA != nil
            ? .embedding : !parts.kernel.isEmpty ? .convolution : configuration.isFanInFanOut ? .transposedLinear : .linear
        let alpha = alphas.map { $0[path.text] ?? Double(a.rows) } ?? configuration.alpha(of: path, rank: a.rows)
        modules.append(
            AdapterModule(
                component: component, path: path, kind: kind, factors: [.init(a: a, b: b)], alpha: alpha,
                scale: alphas == nil ? try scale(of: path, rank: a.rows) : alpha / Double(a.rows),
                magnitude: parts.magnitude.map { .ofRows($0) }, bias: parts.bias, kernel: parts.kernel))
    }

    /// Compares what the file holds for a module with what the configuration says of it.
    private mutating func checkConfiguration(of path: ModulePath, _ parts: Parts, rank: Int) throws(AdapterError) {
        let configured = configuration.rank(of: path)
        if configured != rank {
            otherRanks.append((path, configured, rank))
        }
        guard (parts.magnitude != nil) == configuration.usesMagnitudes else {
            throw fault(
                parts.magnitude == nil ? .missingFactor : .unexpectedTensor, parts.magnitude?.name ?? path.text,
                parts.magnitude == nil
                    ? "the configuration asks for DoRA and the module has no magnitude"
                    : "the module has a magnitude and the configuration does not ask for DoRA")
        }
        guard (parts.bias != nil) == (configuration.hasFactorBias && parts.embeddingA == nil) else {
            throw fault(
                parts.bias == nil ? .missingFactor : .unexpectedTensor, parts.bias?.name ?? path.text,
                parts.bias == nil
                    ? "the configuration asks for a bias on B (lora_bias) and the module has none"
                    : "B has a bias and the configuration does not ask for one (lora_bias)")
        }
    }

    /// A parameter that is adapted by its name: a matrix, or the matrices of all experts, one after the other.
    private mutating func addParameter(_ name: String, of owner: ModulePath, _ parts: Parts, a: FactorMatrix, b: FactorMatrix) throws(AdapterError) {
        guard parts.magnitude == nil, parts.bias == nil else {
            throw fault(.unexpectedTensor, (parts.magnitude ?? parts.bias)?.name ?? "", "factors of a bare parameter have no magnitude and no bias")
        }
        let place = owner.appending(name)
        named.append(place)
        let rank = configuration.rank(of: place)
        guard a.rows % rank == 0 else {
            throw fault(
                .invalidShape, a.name, "its \(a.rows) rows are not a whole number of times the rank \(rank) that the configuration gives \(place)")
        }
        let experts = a.rows / rank
        let factors = (0..<experts).map { expert in
            LowRankFactors(
                a: a.rows(from: expert * rank, count: rank), b: b.columns(from: expert, step: experts, count: rank))
        }
        modules.append(
            AdapterModule(
                component: component, path: owner, parameter: name, kind: experts == 1 && name == "weight" ? .linear : .experts, factors: factors,
                alpha: configuration.alpha(of: place, rank: rank),
                scale: try scale(of: place, rank: rank)))
    }

    private func scale(of path: ModulePath, rank: Int) throws(AdapterError) -> Double {
        let scale = configuration.scale(of: path, rank: rank)
        guard scale.isFinite else {
            let alpha = configuration.alpha(of: path, rank: rank)
            throw fault(.invalidScale, path.text, "the alpha is \(alpha.isNaN ? "NaN" : "infinite"), and must be a finite number")
        }
        return scale
    }
}
