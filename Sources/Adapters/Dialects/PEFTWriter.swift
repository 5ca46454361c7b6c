internal import FileIO
internal import JSON
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

extension PEFT {
    /// The version of PEFT whose files the written ones equal.
    static let writtenVersion = "0.21.2"

    /// Writes a PEFT folder, which appears under its name only when it is whole.
    ///
    /// Where ranks or alphas differ, the most frequent ones become `r` and `lora_alpha` and the others patterns.
    ///
    /// - Throws: `AdapterError.empty` for no modules, `.notFinite` for a factor that is infinite or NaN or becomes
    ///   so in the element type, `.unsupportedDType`, `.unsupportedFeature` for what PEFT has no form for; `FileError` from
    ///   the folder.
    ///
    /// - Parameters:
    ///   - others: modules of the base, in memory, which targets must not mean; as far as they are known.
    ///   - expertTargets: what PEFT takes for the names of experts' layers wherever it stands in the targets.
    ///   - saved: what an earlier configuration calls the modules that were trained whole.
    ///   - header: what the header of the weights says beside the tensors.
    public static func write(
        _ modules: [AdapterModule], replacements: [Replacement] = [], to path: String, others: Set<String> = [], expertTargets: Set<String> = [],
        saved: [String] = [], header: [String: String] = [:], options: AdapterOptions
    ) throws {
        let content = try Content(modules, replacements: replacements, others: others, expertTargets: expertTargets, saved: saved, path: path)
        let folder = try AtomicFolder(path: path, replacing: options.isReplacing)
        try folder.fill {
            let text = try AtomicFile(path: folder.path(of: configurationName), replacing: false)
            // PEFT ends the file without a line feed.
            try text.write(Array(content.configuration(options).serialized(pretty: true, sortedKeys: true).utf8.dropLast()))
            try text.publish(durable: options.isDurable)
            let tensors = content.tensors.map { tensor in tensor.renamed(keyPrefix + tensor.name) }
            try OutputTensor.write(
                tensors, to: folder.path(of: weightsName), metadata: header.merging(["format": "pt"]) { $1 }, options: options, isInFolder: true)
        }
        try folder.publish(durable: options.isDurable)
    }

    /// Gate and up projections of experts in one parameter, as transformers has them in memory; those that cannot be joined
    /// stay apart.
    private static func joiningExperts(_ modules: [AdapterModule]) -> [AdapterModule] {
        var joined = modules
        for gate in modules where gate.kind == .experts && gate.parameter == AdapterModule.halves[0] {
            guard
                !modules.contains(where: { $0.path == gate.path && $0.component == gate.component && $0.parameter == AdapterModule.fused }),
                let up = modules.first(where: { $0.path == gate.path && $0.component == gate.component && $0.parameter == AdapterModule.halves[1] }),
                let both = AdapterModule.joined(gate: gate, up: up)
            else { continue }
            joined.removeAll { $0.path == gate.path && $0.component == gate.component && AdapterModule.halves.contains($0.parameter) }
            joined.append(both)
        }
        return joined
    }

    /// An adapter of one model as PEFT says it: its tensors, and what the configuration has to say of them.
    struct Content {
        /// With names from the module's path on.
        private(set) var tensors: [OutputTensor] = []
        private let modules: [AdapterModule]
        private let alphas: [Double]
        private let isRankStabilized: Bool
        private let usesMagnitudes: Bool
        private let hasFactorBias: Bool
        private let saved: [String]
        private let targets: [String]
        private let targetParameters: [String]
        /// The weights that are adapted as parameters and not as modules.
        private let parameterNames: Set<String>
        private var savedModules: Set<String> = []
        private var trainedTokens: OrderedDictionary<String, [Int]> = [:]
        private var trainsBiases = false

        /// - Parameter holdsParameters: whether whole values of any parameter are written, which is for merging: PEFT passes over those of parameters
        ///   that are no module's, and of what is no weight and no bias of a module that it adapts.
        /// - Throws: `AdapterError.empty`, `.unsupportedFeature`.
        init(
            _ given: [AdapterModule], replacements: [Replacement], others: Set<String> = [], expertTargets: Set<String> = [], saved: [String] = [],
            holdsParameters: Bool = false, path: String
        ) throws(AdapterError) {
            let modules = joiningExperts(given)
            guard !modules.isEmpty else { throw AdapterError(.empty, path: path, "there is no module to write") }
            func refuse(_ module: AdapterModule, _ why: String) -> AdapterError {
                AdapterError(.unsupportedFeature, path: path, subject: module.label.text, why)
            }
            self.modules = modules
            self.saved = saved
            let parameters = modules.filter { Self.isParameter($0, expertTargets: expertTargets) }
            let asParameters = Set(parameters.map(\.parameterName))
            parameterNames = asParameters
            targets = Self.targets(of: modules.filter { !asParameters.contains($0.parameterName) }.map(\.path), others: others)
            targetParameters = Self.targetParameters(of: parameters, others: others)
            if let module = modules.first(where: { !asParameters.contains($0.parameterName) && expertTargets.contains($0.path.lastComponent) }) {
                throw refuse(
                    module,
                    "PEFT takes this name for the experts' in models of this family, and reaches the layer only as a parameter, which has no \(module.magnitude == nil ? "bias" : "magnitude (DoRA)"); write another layout"
                )
            }
            isRankStabilized =
                modules.allSatisfy { $0.scale == $0.alpha / Double($0.rank).squareRoot() }
                && modules.contains { $0.scale != $0.alpha / Double($0.rank) }
            alphas = isRankStabilized ? modules.map(\.alpha) : modules.map(\.plainAlpha)
            usesMagnitudes = modules.contains { $0.magnitude != nil }
            hasFactorBias = modules.contains { $0.bias != nil }
            if let (module, alpha) = zip(modules, alphas).first(where: { !$1.isFinite }) {
                throw AdapterError(.invalidScale, path: path, subject: module.label.text, "its scale \(module.scale) makes an alpha of \(alpha)")
            }
            for module in modules {
                if usesMagnitudes, module.magnitude == nil {
                    throw refuse(module, "other modules have magnitudes (DoRA) and this one has none; in an adapter of PEFT all have or none")
                }
                if case .ofColumns = module.magnitude {
                    throw refuse(module, "its magnitudes are the norms of inputs, and an adapter of PEFT has those of outputs")
                }
                if hasFactorBias, module.bias == nil, module.kind != .embedding {
                    throw refuse(module, "the B of other modules has a bias (lora_bias) and of this one none; in an adapter of PEFT all have or none")
                }
            }
            let stacks = Dictionary(grouping: modules.filter { $0.kind == .experts }, by: \.path)
            for module in modules {
                if module.kind == .experts {
                    let parameters = PEFTConfiguration.declarationOrder(stacks[module.path, default: []].map(\.parameter))
                    guard let parameters, let place = parameters.firstIndex(of: module.parameter) else {
                        throw refuse(module, "in which order the model declares the parameters of \(module.path) is not known")
                    }
                    add(module, depth: parameters.count - 1 - place)
                } else {
                    add(module)
                }
            }
            var names: Set<String> = []
            if let twice = tensors.first(where: { !names.insert($0.name).inserted }) {
                throw AdapterError(.unsupportedFeature, path: path, subject: twice.name, "two modules would have this name in a file of PEFT")
            }
            let wholeTensors = Set(replacements.map(\.tensor))
            for replacement in replacements {
                let owner = replacement.tensor.split(separator: ".").dropLast().joined(separator: ".")
                let isOfLayer = [".weight", ".bias"].contains(where: replacement.tensor.hasSuffix)
                guard
                    holdsParameters
                        || !owner.isEmpty && !modules.contains(where: { $0.path.text == owner && ($0.kind == .experts || !isOfLayer) })
                else {
                    throw AdapterError(
                        .unsupportedFeature, path: path, subject: replacement.tensor,
                        "PEFT has no form for whole values of a parameter that is no module's, or lies beside what is adapted of its module")
                }
                add(replacement, among: wholeTensors, isOfNewModule: replacement.isOfNewModule && !others.isEmpty && !others.contains(owner))
            }
        }

        /// The ends of paths that PEFT is to look for, or whole paths where an end is that of another module, too: it adapts that as well, or
        /// refuses it where it is none that can be adapted.
        private static func targets(of paths: [ModulePath], others: Set<String>) -> [String] {
            let ends = Dictionary(grouping: paths) { path in
                // A number alone is also the end of every block of this number.
                let parts = path.components
                return parts[(parts.lastIndex { Int($0) == nil } ?? 0)...].joined(separator: ".")
            }
            let adapted = Set(paths.map(\.text))
            let targets = ends.flatMap { end, paths in
                let isOfOthers = others.contains { ($0 == end || $0.hasSuffix("." + end)) && !adapted.contains($0) }
                return isOfOthers ? paths.map(\.text) : [end]
            }
            return Set(targets).sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        }

        /// The ends of parameters' paths, or whole paths where an end is that of a parameter without an update, too: PEFT adapts that as well and
        /// nests its wrappers otherwise.
        private static func targetParameters(of modules: [AdapterModule], others: Set<String>) -> [String] {
            let adapted = Set(modules.map { $0.path.appending($0.parameter).text })
            let owners = others.union(modules.map(\.path.text))
            return modules.map { module in
                let end = module.path.components.suffix(2).joined(separator: ".")
                let isOfOthers = owners.contains { ($0 == end || $0.hasSuffix("." + end)) && !adapted.contains("\($0).\(module.parameter)") }
                return "\(isOfOthers ? module.path.text : end).\(module.parameter)"
            }
        }

        /// Whether PEFT reaches a module only as a parameter, which any may be: it is a stack of experts; it chooses among them, for its class in
        /// transformers is none that PEFT adapts; or its name in the targets would mean the experts.
        private static func isParameter(_ module: AdapterModule, expertTargets: Set<String>) -> Bool {
            guard module.kind != .experts else { return true }
            let name = module.path.lastComponent
            return module.kind == .linear && module.magnitude == nil && module.bias == nil
                && (["gate", "router"].contains(name) || expertTargets.contains(name))
        }

        private mutating func add(_ module: AdapterModule) {
            let isEmbedding = module.kind == .embedding
            let (nameA, nameB) = isEmbedding ? ("lora_embedding_A", "lora_embedding_B") : ("lora_A.weight", "lora_B.weight")
            let inputs = module.kernel.isEmpty ? [module.inputs] : [module.inputs / module.kernel.reduce(1, &*)] + module.kernel
            let ones = module.kernel.map { _ in 1 }
            tensors.append(OutputTensor("\(module.path).\(nameA)", [module.rank] + inputs, module.loraA))
            tensors.append(OutputTensor("\(module.path).\(nameB)", [module.outputs, module.rank] + ones, module.loraB))
            if let magnitude = module.magnitude?.values {
                let shape = ones.isEmpty ? [module.outputs] : [1, module.outputs] + ones
                tensors.append(OutputTensor("\(module.path).lora_magnitude_vector", shape, magnitude))
            }
            if let bias = module.bias { tensors.append(OutputTensor("\(module.path).lora_B.bias", [module.outputs], bias)) }
        }

        /// A stack of experts: A [experts·rank, in], and B [out, rank·experts] with the expert as the faster index.
        private mutating func add(_ module: AdapterModule, depth: Int) {
            let owner = module.path.text + String(repeating: ".base_layer", count: depth)
            let a = FactorMatrix.stacked(module.factors.map(\.a))
            let columns = FactorMatrix.stacked(
                (0..<module.rank).flatMap { column in module.factors.map { $0.b.columns(from: column, count: 1).transposed } })
            tensors.append(OutputTensor("\(owner).lora_A.weight", a.shape, a))
            tensors.append(OutputTensor("\(owner).lora_B.weight", [module.outputs, columns.rows], columns.transposed))
        }

        private mutating func add(_ replacement: Replacement, among wholeTensors: Set<String>, isOfNewModule: Bool) {
            let values = FactorMatrix(replacement.values)
            let shape = replacement.values.shape
            var name = replacement.tensor
            if let rows = replacement.rows {
                let module = String(name.dropLast(name.hasSuffix(".weight") ? ".weight".count : 0))
                trainedTokens[module] = rows
                return tensors.append(OutputTensor("\(module).token_adapter.trainable_tokens_delta", shape, values))
            }
            let parts = name.split(separator: ".")
            let owner = parts.dropLast().joined(separator: ".")
            let isOfLayer = parts.last == "weight" || parts.last == "bias"
            if isOfLayer, modules.contains(where: { $0.path.text == owner && $0.kind != .experts }) {
                // Beside an update stands what the layer has itself.
                name = "\(owner).base_layer.\(parts.last ?? "")"
            }
            // A bias without its weight was trained as one of all biases, any other tensor with its module.
            let isBias = parts.last == "bias" && !wholeTensors.contains(owner + ".weight")
            if isBias { trainsBiases = true }
            if !isBias, name == replacement.tensor {
                // PEFT matches ends of names, so that a whole path means one module.
                let known = saved.filter { name.contains($0 + ".") }
                if known.isEmpty { savedModules.insert(isOfNewModule ? parts.first.map(String.init) ?? name : owner.isEmpty ? name : owner) }
                savedModules.formUnion(known)
            }
            tensors.append(OutputTensor(name, shape, values))
        }

        /// The configuration as PEFT's own `save_pretrained` gives it for the same `LoraConfig`; its set of targets has no order
        /// there and is sorted here.
        func configuration(_ options: AdapterOptions) -> JSONValue {
            let rank = mostFrequent(modules.map(\.rank))
            let alpha = mostFrequent(alphas)
            func path(_ module: AdapterModule) -> ModulePath {
                parameterNames.contains(module.parameterName) ? module.path.appending(module.parameter) : module.pathOfParameter
            }
            let names = modules.map(path)
            func patterns(_ values: [(ModulePath, JSONValue)]) -> JSONValue {
                .object(OrderedDictionary(values.map { (patternKey(of: $0.0, among: names), $0.1) }, uniquingKeysWith: { $1 }))
            }
            func list(_ values: some Sequence<String>) -> JSONValue {
                let items = Set(values).sorted().map { JSONValue.string($0) }
                return items.isEmpty ? .null : .array(items)
            }
            return [
                "alora_invocation_tokens": .null,
                "alpha_pattern": patterns(zip(modules, alphas).filter { $1 != alpha }.map { (path($0), number($1)) }),
                "arrow_config": .null,
                "auto_mapping": .null,
                "base_model_name_or_path": options.baseModel.map { .string($0) } ?? .null,
                "bias": trainsBiases ? "all" : "none",
                "corda_config": .null,
                "ensure_weight_tying": false,
                "eva_config": .null,
                "exclude_modules": .null,
                "fan_in_fan_out": .bool(modules.contains { $0.kind == .transposedLinear }),
                "inference_mode": true,
                "init_lora_weights": true,
                "kasa_config": .null,
                "layer_replication": .null,
                "layers_pattern": .null,
                "layers_to_transform": .null,
                "loftq_config": [:],
                "lora_alpha": number(alpha),
                "lora_bias": .bool(hasFactorBias),
                "lora_dropout": .real(options.dropout),
                "lora_ga_config": .null,
                "megatron_config": .null,
                "megatron_core": "megatron.core",
                "modules_to_save": list(savedModules),
                "monteclora_config": .null,
                "peft_type": "LORA",
                "peft_version": .string(writtenVersion),
                "qalora_group_size": 16,
                "r": .integer(rank),
                "rank_pattern": patterns(modules.filter { $0.rank != rank }.map { (path($0), .integer($0.rank)) }),
                "revision": .null,
                "target_modules": .array(targets.map { .string($0) }),
                "target_parameters": list(targetParameters),
                "task_type": options.taskType.map { .string($0) } ?? .null,
                "trainable_token_indices": trainedTokens.isEmpty
                    ? .null : .object(trainedTokens.mapValues { .array($0.map { .integer($0) }) }),
                "use_bdlora": .null,
                "use_dora": .bool(usesMagnitudes),
                "use_qalora": false,
                "use_rslora": .bool(isRankStabilized),
                "velora_config": .null,
            ]
        }
    }

    /// A key that PEFT matches with this module and none of the others: the path, or, where that is also the end of a
    /// longer path, the path as an anchored regular expression.
    private static func patternKey(of path: ModulePath, among all: [ModulePath]) -> String {
        if let pattern = PEFTPattern(path.text), all.allSatisfy({ $0 == path || !pattern.matches($0) }) { return path.text }
        return "^" + path.text.split(separator: ".", omittingEmptySubsequences: false).joined(separator: "\\.")
    }

    /// The larger of two that are equally frequent.
    static func mostFrequent<Value: Hashable & Comparable>(_ values: [Value]) -> Value {
        var counts: [Value: Int] = [:]
        for value in values { counts[value, default: 0] += 1 }
        guard let best = counts.max(by: { ($0.value, $0.key) < ($1.value, $1.key) }) else { preconditionFailure("no values") }
        return best.key
    }

    /// An alpha as Python writes it: whole numbers without a fraction, because nearly everyone gives them so.
    private static func number(_ value: Double) -> JSONValue {
        if let whole = Int(exactly: value) { return .integer(whole) }
        return .real(value)
    }
}
