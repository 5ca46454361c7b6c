internal import Families
internal import JSON
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Weights

/// Names of other tools as PEFT has them: those of the model in memory, in transformers.
extension Adapter {
    /// - Parameter path: what is written.
    /// - Throws: `AdapterError.unsupportedFeature` where only the base tells the names.
    func namedAsInMemory(_ base: BaseModel?, path: String) throws(AdapterError) -> Adapter {
        switch dialect {
        // They have them already. A run or networks of OP-LoRA have those that their author gave them.
        case .peft, .opck, .opLoRA: return self
        case .kohya, .diffusers, .mlx, .gguf, .extraction: break
        }
        if dialect != .extraction, base?.takesExpertsInputsForOutputs == true, let module = modules.first(where: { $0.kind == .experts }) {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: module.label.text,
                "PEFT takes the inputs of this family's experts for outputs, and such an update is not converted; write another layout"
            )
        }
        guard let base, let names = base.memoryNames else {
            if dialect == .mlx, let module = modules.first(where: { $0.path.components.first == "language_model" }) {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text,
                    "what transformers calls the language model in a model of text and pictures depends on the family",
                    cause: .needsBase)
            }
            return self
        }
        guard names.knowsMemory else {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: modules.first?.label.text,
                "PEFT wants the names that modules have in memory, and what transformers calls those of the family \"\(base.configuration?["model_type"]?.stringValue ?? "")\" is not known here; write another layout"
            )
        }
        if !names.knowsAllModules,
            let other = replacements.first(where: { !base.isVocabulary($0.tensor) })?.tensor
                ?? modules.first(where: { $0.kind == .convolution })?.label.text
        {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: other,
                "PEFT wants the names that modules have in memory, and what transformers calls the norms and convolutions of the family \"\(base.configuration?["model_type"]?.stringValue ?? "")\" is not known here; write the layout safetensors, which `oplora merge` takes"
            )
        }
        if let other = replacements.first(where: { !$0.tensor.hasSuffix(".weight") && !$0.tensor.hasSuffix(".bias") }) {
            throw AdapterError(
                .unsupportedFeature, path: path, subject: other.tensor,
                "PEFT has no form for whole values of a parameter that is no weight or bias of a module; write the layout safetensors, which `oplora merge` takes"
            )
        }
        return with(
            modules: AdapterModule.stackingExperts(modules, of: base).map { module in
                // Tools have names of their own; what the files have tells those in memory.
                let name = "\(module.path).\(module.parameter)"
                let parts = names.inMemory(base.resolve(name) ?? name).split(separator: ".")
                guard let parameter = parts.last, let path = ModulePath(parts.dropLast().joined(separator: ".")) else { return module }
                return module.changing { ($0.path, $0.parameter) = (path, String(parameter)) }
            },
            replacements: completing(replacements, from: base).map {
                $0.named(names.inMemory($0.tensor))
            })
    }
}

extension Adapter {
    /// The whole tensors with the others of their modules: PEFT saves modules, and wants all that is in one.
    private func completing(_ replacements: [Replacement], from base: BaseModel) -> [Replacement] {
        let known = Set(replacements.map(\.tensor))
        let adapted = Set(modules.map(\.parameterName))
        return replacements
            + replacements.filter { $0.rows == nil && $0.tensor.hasSuffix(".weight") }.compactMap { replacement in
                let bias = String(replacement.tensor.dropLast("weight".count)) + "bias"
                guard !known.contains(bias), !adapted.contains(replacement.tensor), let values = base.files.tensors[bias] else { return nil }
                return Replacement(tensor: bias, values: values)
            }
    }
}

extension BaseModel {
    /// All modules in memory, those that hold others as well.
    var modulesInMemory: Set<String> {
        guard let names = memoryNames else { return [] }
        var found: Set<String> = []
        for name in files.tensors.keys {
            var path = Substring(names.inMemory(name))
            // Experts are one module there.
            if let range = path.firstRange(of: ".experts.") { path = path[..<range.upperBound] }
            while let dot = path.lastIndex(of: ".") {
                path = path[..<dot]
                if !found.insert(String(path)).inserted { break }
            }
        }
        return found
    }

    /// Names that PEFT, in the targets of an adapter for a model of this family, takes for layers of experts.
    var expertTargets: Set<String> { family?.experts.targets ?? [] }
}

extension AdapterModule {
    /// Modules of numbered experts as stacks, which they are in memory; those that no stack can hold stay as they are.
    ///
    /// Experts without an update get one of zeros, and lower ranks are filled up with zeros.
    fileprivate static func stackingExperts(_ modules: [AdapterModule], of base: BaseModel) -> [AdapterModule] {
        var stacks: OrderedDictionary<String, [Int: AdapterModule]> = [:]
        var others: [AdapterModule] = []
        for module in modules {
            if let (stack, number) = placeInStack(module) { stacks[stack, default: [:]][number] = module } else { others.append(module) }
        }
        for members in stacks.values {
            if let stack = stack(of: members, base: base) { others.append(stack) } else { others += members.sorted { $0.key < $1.key }.map(\.value) }
        }
        return others
    }

    /// The parameter of the experts that a module is a part of, and the number of its expert.
    private static func placeInStack(_ module: AdapterModule) -> (stack: String, number: Int)? {
        let parts = module.path.components
        guard module.kind == .linear, module.magnitude == nil, module.bias == nil, let last = parts.last, parts.count >= 3,
            parts[parts.count - 3] == "experts", let number = Int(parts[parts.count - 2]), number >= 0,
            let parameter = BaseModel.parameter(ofExperts: String(last))
        else { return nil }
        return ((parts.dropLast(2) + [Substring(parameter)]).joined(separator: "."), number)
    }

    private static func stack(of members: [Int: AdapterModule], base: BaseModel) -> AdapterModule? {
        guard let first = members.values.first, let last = members.keys.max(),
            members.values.allSatisfy({
                $0.scale == first.scale && $0.inputs == first.inputs && $0.outputs == first.outputs && $0.loraA.dtype == first.loraA.dtype
                    && $0.loraB.dtype == first.loraB.dtype
            })
        else { return nil }
        let parts = first.path.components
        let (path, name) = (parts.dropLast(2).joined(separator: "."), parts[parts.count - 1])
        func isThere(_ number: Int) -> Bool { base.resolve("\(path).\(number).\(name).weight") != nil }
        var count = last + 1
        while isThere(count) { count += 1 }
        guard (0..<count).allSatisfy(isThere), let owner = ModulePath(path), let parameter = BaseModel.parameter(ofExperts: String(name)) else {
            return nil
        }
        let rank = members.values.map(\.rank).max() ?? 0
        let factors = (0..<count).map { number in
            guard let module = members[number] else {
                return LowRankFactors(
                    a: .zeros(like: first.loraA, rows: rank, columns: first.inputs), b: .zeros(like: first.loraB, rows: first.outputs, columns: rank))
            }
            return LowRankFactors(a: module.loraA.padded(rows: rank), b: module.loraB.transposed.padded(rows: rank).transposed)
        }
        return first.changing {
            ($0.path, $0.parameter, $0.kind) = (owner, parameter, .experts)
            ($0.factors, $0.alpha) = (factors, first.scale * Double(rank))
        }
    }
}
