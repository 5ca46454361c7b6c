internal import Families
internal import JSON
internal import Methods
internal import Safetensors
internal import Weights

extension BaseModel {
    /// The adapter with its modules named as the model has them, with dots, those that are several matrices here cut into
    /// them, and the rows of B in the model's order.
    ///
    /// - Throws: `MergeError` for a module that the model does not have, or has otherwise.
    public func naming(_ adapter: Adapter) throws(MergeError) -> Adapter {
        let adapter = spreadingTies(adapter)
        var named: [AdapterModule] = []
        var met: [String: [Range<Int>]] = [:]
        for module in adapter.modules {
            // What does not fit is said in the merge's words.
            let updates = try updates(of: module, weight: 1, adapter: adapter.path)
            // As the rows of a stored tensor they show whether two names mean one module.
            for update in updates {
                guard met[update.tensor]?.contains(where: { $0.overlaps(update.rows) }) != true else {
                    throw MergeError(
                        .unsupportedCombination, path: adapter.path, tensor: module.parameterName,
                        "another module of the adapter is the same tensor of the base, \(update.tensor)")
                }
                met[update.tensor, default: []].append(update.rows)
            }
            if module.kind == .experts {
                // A stack has the name that it has in memory, in transformers; PEFT's has it already.
                let name = adapter.dialect == .peft ? nil : memoryNames?.inMemory("\(module.path).\(module.parameter)")
                let path = name.flatMap { ModulePath($0.dropLast(module.parameter.count + 1)) }
                named.append(module.changing { $0.path = path ?? $0.path })
                continue
            }
            for place in places(of: module) {
                guard let path = ModulePath(place.module), let update = updates.first(where: { $0.tensor == place.tensor }) else { continue }
                let isDenoiser = place.component == DiffusionNames.denoiser
                let component = files.component(of: place.tensor) ?? (isDenoiser ? nil : place.component) ?? module.component
                // The name is the base's, and so is the order of the rows.
                let own = place.relation == .exchanged ? module.withHalvesExchanged ?? module : module
                guard let part = update.ofModule else {
                    throw MergeError(
                        .unsupportedCombination, path: adapter.path, tensor: module.parameterName,
                        "the module is several matrices of the base, and the update of a \(module.methodName) cannot be cut into theirs; merge the adapter instead"
                    )
                }
                named.append(
                    own.changing {
                        ($0.component, $0.path, $0.updates, $0.isInterleaved) = (component, path, [part.lowRank.map { LoRA($0) } ?? part], false)
                        // The tensors of some methods do not tell a convolution, and its weight does.
                        if !$0.isLowRank, let shape = source(of: place.tensor)?.shape, shape.count > 2 {
                            ($0.kind, $0.kernel) = (.convolution, Array(shape.dropFirst(2)))
                        }
                    })
            }
        }
        // PEFT stores what an adapted embedding has itself beside the update.
        let replacements = adapter.replacements.filter { replacement in
            guard replacement.rows == nil, let name = resolve(replacement.tensor), let own = source(of: name) else { return true }
            let (values, base) = (replacement.values, FactorMatrix(own))
            return !FactorMatrix(values).hasSameBytes(as: base)
        }
        let taskType = isNotCausal && adapter.taskType == "CAUSAL_LM" ? nil : adapter.taskType
        return adapter.with(modules: named, replacements: replacements, namesAreFlattened: false, taskType: taskType)
    }

    // MARK: Rows of ggml

    /// The update with its rows in the order of the model's files: in ggml's, the n-th row of the first half of a head and the n-th of
    /// the second one stand together.
    func straightened(_ module: AdapterModule, adapter: String) throws(MergeError) -> any UpdateMethod {
        guard module.isInterleaved, let factors = module.update.lowRank else { return module.update }
        let (heads, half) = try heads(of: module, adapter: adapter)
        return LoRA(
            LowRankFactors(
                a: factors.a,
                b: .stacked((0..<heads).flatMap { head in (0..<2).map { factors.b.rows(from: head * 2 * half + $0, step: 2, count: half) } })))
    }

    /// B with its rows in ggml's order.
    func interleaved(_ b: FactorMatrix, of module: AdapterModule, adapter: String) throws(MergeError) -> FactorMatrix {
        let (heads, half) = try heads(of: module, adapter: adapter)
        return .stacked(
            (0..<heads).flatMap { head in (0..<half).map { b.rows(from: head * 2 * half + $0, step: half, count: 2) } })
    }

    /// The heads whose rows a query or key projection has, and half the rows of one.
    private func heads(of module: AdapterModule, adapter: String) throws(MergeError) -> (count: Int, half: Int) {
        func number(_ key: String) -> Int? { (configuration?[key] ?? configuration?["text_config"]?[key])?.integerValue }
        let isKey = module.path.lastComponent == "k_proj"
        guard let heads = isKey ? number("num_key_value_heads") ?? number("num_attention_heads") : number("num_attention_heads"), heads > 0,
            heads <= module.outputs, module.outputs % (2 * heads) == 0
        else {
            throw MergeError(
                .invalidConfiguration, path: adapter, tensor: module.parameterName,
                "ggml interleaves the rows of each head, and the base's configuration gives no number of heads that fits \(module.outputs) rows")
        }
        return (heads, module.outputs / (2 * heads))
    }
}
