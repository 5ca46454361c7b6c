internal import FileIO
internal import JSON
internal import Methods
internal import OrderedCollections

/// What an `adapter_config.json` says of the arithmetic. Reading one refuses everything that would change the result and
/// that is not supported.
struct PEFTConfiguration {
    static let fileName = "adapter_config.json"
    /// The largest configuration that is read, in bytes.
    private static let maximumBytes = 16_000_000

    /// The method, where it is one of the table of methods; `nil` for LoRA, whose factors have names of PEFT's own.
    let method: (any UpdateMethod.Type)?
    let rank: Int
    /// `nil` for a method whose scale is one.
    private let alpha: Double?
    let isRankStabilized: Bool
    /// In the order of the file, which decides between keys that match the same module.
    let rankPattern: [(pattern: PEFTPattern, rank: Int)]
    let alphaPattern: [(pattern: PEFTPattern, alpha: Double)]
    let baseModel: String?
    let targets: [String]
    /// Whether the targets are one regular expression.
    private let targetsAreExpression: Bool
    let taskType: String?
    /// Whether weights are stored as [in, out].
    let isFanInFanOut: Bool
    /// Whether the modules have magnitudes.
    let usesMagnitudes: Bool
    /// Whether B has a bias.
    let hasFactorBias: Bool
    /// Whether biases of the model were trained.
    let trainsBiases: Bool
    /// The names of modules that were trained whole.
    let modulesToSave: [String]
    /// The names of parameters that are adapted though they are no module's weight.
    let targetParameters: [String]
    /// The tokens whose embeddings were trained: for the modules of a name, or for the input embedding (`nil`).
    let trainedTokens: [(module: String?, tokens: [Int])]

    /// The fields of a file.
    ///
    /// - Throws: `AdapterError` or `FileError`.
    static func fields(path: String) throws -> JSONValue {
        do {
            return try JSONValue(configuration: try FileSystem.contents(of: path, limit: maximumBytes))
        } catch let error as JSONError {
            throw AdapterError(.invalidConfiguration, path: path, "\(error)")
        }
    }

    /// - Throws: `AdapterError`.
    init(_ root: JSONValue, path: String) throws(AdapterError) {
        guard let fields = root.objectValue else {
            throw AdapterError(.invalidConfiguration, path: path, "the configuration is \(root.kind) and must be an object")
        }
        func wrong(_ name: String, _ wanted: String) -> AdapterError {
            AdapterError(
                .invalidConfiguration, path: path, subject: name,
                "the field must be \(wanted) and is \(fields[name].map { $0.doubleValue?.plain ?? $0.kind } ?? "missing")")
        }
        func pattern(_ key: String, of name: String) throws(AdapterError) -> PEFTPattern {
            guard let pattern = PEFTPattern(key) else {
                throw AdapterError(
                    .invalidPattern, path: path, subject: name,
                    "the key \"\(key.prefix(100))\" is no regular expression, or too long or too involved to be tried; name the modules instead")
            }
            return pattern
        }
        guard let kind = fields["peft_type"]?.stringValue else { throw wrong("peft_type", "a string") }
        method = UpdateMethods.all.first { $0.peft?.type == kind }
        guard method != nil || kind == Self.lora else { throw Self.unsupported(kind, path: path) }
        let known = method?.peft
        let rules = known.map { Self.rules($0) } ?? Self.commonRules.merging(Self.loraRules) { $1 }
        for (name, value) in fields { try Self.check(name, value, rules[name], path: path) }
        guard let rank = fields["r"]?.integerValue, rank > 0 else { throw wrong("r", "a positive integer") }
        self.rank = rank
        if let name = known == nil ? "lora_alpha" : known?.alpha {
            guard let alpha = fields[name]?.doubleValue else { throw wrong(name, "a number") }
            self.alpha = alpha
        } else {
            alpha = nil
        }
        isRankStabilized = fields["use_rslora"]?.boolValue ?? false
        var rankPattern: [(PEFTPattern, Int)] = []
        for (key, value) in fields["rank_pattern"]?.objectValue ?? [:] {
            guard let number = value.integerValue, number > 0 else { throw wrong("rank_pattern", "a map to positive integers") }
            rankPattern.append((try pattern(key, of: "rank_pattern"), number))
        }
        self.rankPattern = rankPattern
        var alphaPattern: [(PEFTPattern, Double)] = []
        for (key, value) in fields["alpha_pattern"]?.objectValue ?? [:] {
            guard let number = value.doubleValue else { throw wrong("alpha_pattern", "a map to numbers") }
            alphaPattern.append((try pattern(key, of: "alpha_pattern"), number))
        }
        self.alphaPattern = alphaPattern
        baseModel = fields["base_model_name_or_path"]?.stringValue
        if let expression = fields["target_modules"]?.stringValue {
            targets = [expression]
            targetsAreExpression = true
        } else {
            targets = fields["target_modules"]?.arrayValue?.compactMap(\.stringValue) ?? []
            targetsAreExpression = false
        }
        taskType = fields["task_type"]?.stringValue
        isFanInFanOut = fields["fan_in_fan_out"]?.boolValue ?? false
        usesMagnitudes = fields["use_dora"]?.boolValue ?? false
        hasFactorBias = fields["lora_bias"]?.boolValue ?? false
        trainsBiases = ["all", "lora_only"].contains(fields["bias"]?.stringValue)
        modulesToSave = fields["modules_to_save"]?.arrayValue?.compactMap(\.stringValue) ?? []
        targetParameters = fields["target_parameters"]?.arrayValue?.compactMap(\.stringValue) ?? []
        func tokens(_ value: JSONValue) throws(AdapterError) -> [Int] {
            guard let list = value.arrayValue else { throw wrong("trainable_token_indices", "a list of numbers, or a map to such lists") }
            let numbers = list.compactMap(\.integerValue)
            guard numbers.count == list.count, numbers.allSatisfy({ $0 >= 0 }) else {
                throw AdapterError(
                    .invalidConfiguration, path: path, subject: "trainable_token_indices", "a token's number must be a whole number from 0 on")
            }
            return numbers
        }
        var trained: [(String?, [Int])] = []
        if let map = fields["trainable_token_indices"]?.objectValue {
            for (module, value) in map { trained.append((module, try tokens(value))) }
        } else if let value = fields["trainable_token_indices"], !value.isNull {
            trained.append((nil, try tokens(value)))
        }
        trainedTokens = trained
    }

    func alpha(of module: ModulePath, rank: Int) -> Double {
        guard let alpha else { return Double(rank) }
        return alphaPattern.first { $0.pattern.matches(module) }?.alpha ?? alpha
    }

    func rank(of module: ModulePath) -> Int {
        rankPattern.first { $0.pattern.matches(module) }?.rank ?? rank
    }

    /// What the configuration says of modules that the adapter does not have, each one sentence: most likely a name that is
    /// wrong, and a scale that is not what its author thinks.
    func unmatched(by modules: [ModulePath]) -> [String] {
        let patterns = [("rank_pattern", rankPattern.map(\.pattern)), ("alpha_pattern", alphaPattern.map(\.pattern))]
        return patterns.flatMap { field, patterns in
            patterns.filter { pattern in !modules.contains(where: pattern.matches) }.map {
                "\(field): \"\($0.key)\" matches no module of the adapter"
            }
        }
    }

    /// What multiplies the update of a module of the rank.
    func scale(of module: ModulePath, rank: Int) -> Double {
        let alpha = alpha(of: module, rank: rank)
        return isRankStabilized ? alpha / Double(rank).squareRoot() : alpha / Double(rank)
    }

    /// The parameters of a module that `target_parameters` may mean, as PEFT reads it: a parameter whose path is one of the names, or ends
    /// with a dot and the name.
    func parameters(of module: ModulePath) -> [(name: String, isOfThisModule: Bool)] {
        targetParameters.compactMap { target in
            guard let dot = target.lastIndex(of: ".") else { return (target, false) }
            let owner = target[..<dot]
            let name = String(target[target.index(after: dot)...])
            return module.text == owner || module.text.hasSuffix("." + owner) ? (name, true) : nil
        }
    }

    /// Whether `target_modules` means a module: by its path or the end of it, or, if it is one expression, by the whole path.
    func targetsModule(_ module: ModulePath) -> Bool {
        guard !targetsAreExpression else {
            // One that is too involved to be tried leaves it to the names: experts are no module of a kind that PEFT adapts.
            return targets.first.flatMap { PEFTPattern("^(?:\($0))") }?.matches(module) ?? (module.lastComponent != "experts")
        }
        return targets.contains { module.text == $0 || module.text.hasSuffix("." + $0) }
    }

    /// Parameters of one module in the order in which models declare them; `nil` where that order is not known.
    static func declarationOrder(_ names: some Collection<String>) -> [String]? {
        guard names.count > 1 else { return Array(names) }
        let known = ["gate_up_proj", "gate_up_proj_bias", "gate_proj", "up_proj", "down_proj", "down_proj_bias"].filter { names.contains($0) }
        return known.count == names.count ? known : nil
    }

    /// Whether a tensor is of a module that was trained whole. PEFT takes every module whose path ends with one of the names, be it in
    /// the middle of a component: `norm` means `input_layernorm`, too. A name may also be that of a parameter of the whole model.
    func isSaved(_ tensor: ModulePath) -> Bool {
        modulesToSave.contains { name in tensor.text == name || tensor.text.contains(name + ".") }
    }

    /// Whether a tensor is of a module beside the inner model that was trained whole, such as the head of another task.
    func savesModule(of tensor: ModulePath) -> Bool { modulesToSave.contains { tensor.text.hasPrefix($0 + ".") } }

    /// The tokens whose rows a module's trained embeddings are.
    func trainedTokens(of module: ModulePath) -> [Int]? {
        trainedTokens.first { entry in entry.module.map { module.text == $0 || module.text.hasSuffix("." + $0) } ?? true }?.tokens
    }

    // MARK: What is allowed

    /// What a field may hold.
    private enum Rule {
        /// It changes nothing in the result, or is read above.
        case free
        /// It is read above; this is what it must be.
        case boolean, object, names
        /// It changes the result in a way that is not supported, unless it is null, false or empty.
        case off(String)
        /// Likewise, unless it is one of these strings.
        case only(Set<String>, String)
        case initialization
    }

    static let lora = "LORA"

    static func unsupported(_ type: String, path: String) -> AdapterError {
        let types = [lora] + UpdateMethods.all.compactMap { $0.peft?.type }.sorted()
        return AdapterError(
            .unsupportedFeature, path: path, subject: "peft_type",
            "adapters of type \(type) are not supported, only \(types.dropLast().joined(separator: ", ")) and \(types.last ?? "")")
    }

    /// Fields of every method.
    private static let commonRules: [String: Rule] = [
        "peft_type": .free, "r": .free, "base_model_name_or_path": .free, "target_modules": .free, "rank_pattern": .object,
        "alpha_pattern": .object, "auto_mapping": .free, "peft_version": .free, "revision": .free, "task_type": .free, "inference_mode": .free,
        "exclude_modules": .free, "layers_to_transform": .free, "layers_pattern": .free, "runtime_config": .free,
        "bias": .only(["none", "all", "lora_only"], "a training of biases of this kind"), "fan_in_fan_out": .boolean, "modules_to_save": .names,
    ]

    private static func rules(_ method: PEFTFields) -> [String: Rule] {
        var rules = commonRules
        for name in method.free.union(method.alpha.map { [$0] } ?? []) { rules[name] = .free }
        return rules
    }

    private static let loraRules: [String: Rule] = [
        "lora_alpha": .free, "use_rslora": .boolean, "lora_dropout": .free, "megatron_config": .free, "megatron_core": .free,
        "qalora_group_size": .free,
        // These shape the training or the first values of the factors only.
        "eva_config": .free, "corda_config": .free, "lora_ga_config": .free, "loftq_config": .free,
        "init_lora_weights": .initialization,
        "use_dora": .boolean, "lora_bias": .boolean, "target_parameters": .names,
        "trainable_token_indices": .free,
        "layer_replication": .off("replicated layers"),
        // The factors and values of both modules are in the file, whatever it says.
        "ensure_weight_tying": .boolean,
        "use_qalora": .off("QA-LoRA"),
        "use_bdlora": .off("BD-LoRA (block-diagonal adapters)"),
        "alora_invocation_tokens": .off("activated LoRA, which applies to a part of the text only"),
        "arrow_config": .off("Arrow routing between adapters"),
        "kasa_config": .off("KaSA (knowledge-aware singular-value adapters)"),
        "velora_config": .off("VeLoRA"),
        "monteclora_config": .off("MonteCLoRA"),
    ]

    /// Initializations that leave the base weight as it was. The others subtract their first update from it, so that the
    /// adapter does not fit the base model's file.
    private static let harmlessInitializations: Set<String> = ["gaussian", "eva", "orthogonal"]

    private static func check(_ name: String, _ value: JSONValue, _ rule: Rule?, path: String) throws(AdapterError) {
        func refuse(_ what: String) -> AdapterError {
            AdapterError(
                .unsupportedFeature, path: path, subject: name,
                "\(what) would change the result and is not supported; the field is \(value.inWords)")
        }
        switch rule {
        case .free?:
            break
        case .boolean?:
            guard value.boolValue != nil || value.isNull else {
                throw AdapterError(.invalidConfiguration, path: path, subject: name, "the field must be true or false and is \(value.kind)")
            }
        case .object?:
            guard value.objectValue != nil || value.isNull else {
                throw AdapterError(.invalidConfiguration, path: path, subject: name, "the field must be an object and is \(value.kind)")
            }
        case .off(let what)?:
            guard isOff(value) else { throw refuse(what) }
        case .only(let allowed, let what)?:
            guard value.isNull || value.stringValue.map(allowed.contains) == true else { throw refuse(what) }
        case .names?:
            guard value.isNull || value.arrayValue?.allSatisfy({ $0.stringValue != nil }) == true else {
                throw AdapterError(.invalidConfiguration, path: path, subject: name, "the field must be a list of names and is \(value.kind)")
            }
            for item in value.arrayValue ?? [] where item.stringValue.flatMap({ ModulePath($0) }) == nil {
                throw AdapterError(.invalidConfiguration, path: path, subject: name, "\(item.serialized()) is no module's name")
            }
        case .initialization?:
            guard let scheme = value.stringValue else {
                guard value.boolValue != nil || value.isNull else { throw refuse("an initialisation of this kind") }
                return
            }
            guard harmlessInitializations.contains(scheme.lowercased()) else {
                throw refuse("the initialisation \(scheme), which changes the base weights before the training,")
            }
        case nil:
            guard isOff(value) else { throw refuse("a field that is unknown here") }
        }
    }

    private static func isOff(_ value: JSONValue) -> Bool {
        switch value {
        case .null, .bool(false): true
        case .array(let elements): elements.isEmpty
        case .object(let members): members.isEmpty
        default: false
        }
    }
}
