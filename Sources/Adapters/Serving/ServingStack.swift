internal import FileIO
internal import JSON
internal import OrderedCollections
internal import Safetensors
internal import Tensors
internal import Weights

/// Programs that serve models with adapters, and whether they take a file as it is.
///
/// Source: vLLM 0.33, `lora/peft_helper.py` and `lora/lora_model.py`; llama.cpp, `src/llama-adapter.cpp`; mlx-lm 0.32,
/// `tuner/utils.py`; diffusers 0.42, `loaders/lora_pipeline.py` and `loaders/lora_conversion_utils.py`.
public enum ServingStack: String, Sendable, CaseIterable {
    case vLLM = "vllm"
    case llamaCpp = "llama.cpp"
    case mlx
    case diffusers

    /// What a stack makes of an adapter.
    public struct Verdict: Sendable {
        public let stack: ServingStack
        /// Why it refuses the file, or would read it wrongly; empty where it takes it.
        public let reasons: [String]
        /// What makes an adapter of it that the stack takes, where something does.
        public let conversion: Conversion?
        /// What whoever takes it must know.
        public let notes: [String]
        /// The largest rank for which the stack must be started, where that is more than it is without being told.
        public let startRank: Int?

        public var isTaken: Bool { reasons.isEmpty }

        fileprivate init(
            stack: ServingStack, reasons: [String], conversion: Conversion? = nil, notes: [String] = [], startRank: Int? = nil
        ) {
            (self.stack, self.reasons, self.conversion, self.notes, self.startRank) = (stack, reasons, conversion, notes, startRank)
        }
    }

    /// A conversion of an adapter.
    public struct Conversion: Sendable, Equatable {
        public let layout: Adapter.Layout
        /// Whether it needs the model that the adapter is for.
        public let needsBase: Bool
        /// Whether it must be said of which component the adapter is, or which one is meant.
        public let needsComponent: Bool
    }

    /// Whether the stack takes the adapter's file, by what the file says; whether the model has all the modules only the model can tell.
    public func verdict(on adapter: Adapter) -> Verdict {
        switch self {
        case .vLLM: vLLM(adapter)
        case .llamaCpp: llamaCpp(adapter)
        case .mlx: mlx(adapter)
        case .diffusers: diffusers(adapter)
        }
    }

    /// The largest rank that vLLM can be started for.
    private static let vLLMRanks = [8, 16, 32, 64, 128, 256, 320, 512]
    private static let vLLMDefaultRank = 16

    private func vLLM(_ adapter: Adapter) -> Verdict {
        if let verdict = refusal(ofDiffusionModel: adapter) { return verdict }
        let isElsewhere = adapter.dialect != .peft
        var reasons = isElsewhere ? ["it reads folders of PEFT"] : []
        let configuration = FileSystem.join(FileSystem.parent(of: adapter.weightsPath ?? ""), PEFT.configurationName)
        if !isElsewhere, let fields = try? PEFTConfiguration.fields(path: configuration), fields["target_modules"] == nil {
            reasons.append("it wants target_modules, and the configuration has none")
        }
        // Of classifiers it takes the head, and the values that PEFT stores beside an adapted embedding or head it passes over.
        let others = adapter.replacements.filter { replacement in
            let module = replacement.tensor.split(separator: ".").dropLast().last ?? ""
            let isPassedOver = replacement.values.name.hasSuffix(".base_layer.weight")
            return replacement.rows != nil || !isPassedOver && !["score", "classifier"].contains(module)
        }
        reasons +=
            others.first.map { ["it takes no modules_to_save but a classifier's head, no trained tokens and no trained biases (\($0.tensor))"] } ?? []
        reasons += adapter.otherMethods
        reasons += adapter.modulesThat("it has no DoRA") { $0.magnitude != nil }
        reasons += adapter.modulesThat("it takes no bias on B (lora_bias)") { $0.bias != nil }
        reasons += adapter.modulesThat("it adapts no convolutions") { $0.kind == .convolution }
        // What no conversion can change.
        let isHopeless = reasons.count > (isElsewhere ? 1 : 0)
        let isVeRA = adapter.modules.contains(where: \.takesInputsOfWeight)
        if isVeRA { reasons.append("it has no VeRA") }
        let hasWrappers = !isElsewhere && adapter.hasWrappers
        if hasWrappers { reasons.append("the names have those of wrappers in them, which it does not take off") }
        let rank = adapter.modules.map(\.rank).max() ?? 0
        var startRank: Int?
        if let most = Self.vLLMRanks.first(where: { $0 >= rank }) {
            if rank > Self.vLLMDefaultRank { startRank = most }
        } else {
            reasons.append("its largest rank is \(Self.vLLMRanks.last ?? 0), and the adapter has \(rank): oplora resize makes it smaller")
        }
        return Verdict(
            stack: self, reasons: reasons,
            conversion: isHopeless || !isElsewhere && !isVeRA && !hasWrappers ? nil : Self.conversion(of: adapter, to: .peft),
            startRank: startRank)
    }

    /// What a program for language models says of another's adapter.
    private func refusal(ofDiffusionModel adapter: Adapter) -> Verdict? {
        guard adapter.isOfDiffusionModel, let module = adapter.modules.first else { return nil }
        return Verdict(
            stack: self, reasons: ["it runs language models, and the adapter is a diffusion model's (\(module.label))"])
    }

    /// The conversion of an adapter, with what it needs to be told.
    private static func conversion(of adapter: Adapter, to layout: Adapter.Layout) -> Conversion {
        let needsBase =
            adapter.namesAreFlattened || adapter.modules.contains { $0.isInterleaved || $0.takesInputsOfWeight } || layout == .gguf
            || layout == .mlx && adapter.modules.contains { $0.kind == .experts || !MLXFamilies.rules(for: $0.path.text).isEmpty }
        return Conversion(layout: layout, needsBase: needsBase, needsComponent: adapter.components.count > 1)
    }

    private func llamaCpp(_ adapter: Adapter) -> Verdict {
        if let verdict = refusal(ofDiffusionModel: adapter) { return verdict }
        var reasons = adapter.dialect == .gguf ? [] : ["it reads GGUF files"]
        let inside =
            adapter.wholeTensors("a GGUF adapter has no tensors that were trained whole")
            + adapter.otherMethods + adapter.modulesThat("it has no DoRA") { $0.magnitude != nil }
            + adapter.modulesThat("it takes no bias on B (lora_bias)") { $0.bias != nil }
            + adapter.modulesThat("it adapts no convolutions") { $0.kind == .convolution }
        reasons += inside
        return Verdict(
            stack: self, reasons: reasons,
            conversion: adapter.dialect == .gguf || !inside.isEmpty ? nil : Self.conversion(of: adapter, to: .gguf))
    }

    private func mlx(_ adapter: Adapter) -> Verdict {
        if let verdict = refusal(ofDiffusionModel: adapter) { return verdict }
        var reasons = adapter.dialect == .mlx ? [] : ["it reads folders of mlx-lm"]
        let inside =
            adapter.wholeTensors("its loader refuses tensors that are no factors")
            + adapter.otherMethods
            + adapter.modulesThat("it takes no bias on B (lora_bias)") { $0.bias != nil }
            + adapter.modulesThat("it adapts no convolutions") { $0.kind == .convolution }
        reasons += inside
        if adapter.dialect == .mlx {
            if Set(adapter.modules.map(\.rank)).count > 1 { reasons.append("its loader wants the same rank in all modules") }
            if adapter.hasWrappers { reasons.append("the names have those of wrappers in them, which it does not take off") }
            reasons += MLX.loaderFaults(of: adapter)
        }
        return Verdict(
            stack: self, reasons: reasons, conversion: reasons.isEmpty || !inside.isEmpty ? nil : Self.conversion(of: adapter, to: .mlx),
            notes: adapter.dialect == .mlx && reasons.isEmpty ? MLX.loaderRemarks(on: adapter) : [])
    }

    private func diffusers(_ adapter: Adapter) -> Verdict {
        if adapter.isOfLanguageModel, let module = adapter.modules.first {
            return Verdict(stack: self, reasons: ["it runs diffusion models, and the adapter is a language model's (\(module.label))"])
        }
        guard adapter.dialect == .diffusers || adapter.dialect == .kohya else {
            return Verdict(
                stack: self, reasons: ["it reads files of diffusers and of kohya's trainers"],
                conversion: Conversion(layout: .diffusers, needsBase: false, needsComponent: adapter.components.isEmpty))
        }
        let reasons = DiffusersServing(adapter).reasons
        let isOfModel = adapter.components.isEmpty && adapter.metadata[Diffusers.metadataKey] != nil
        return Verdict(
            stack: self, reasons: reasons, conversion: reasons.isEmpty ? nil : Conversion(layout: .diffusers, needsBase: true, needsComponent: false),
            notes: isOfModel ? ["load it into the model itself, with use_safetensors=True, or its alphas are overlooked"] : [])
    }
}

extension Adapter {
    /// Whether names in the file have those of wrappers in them.
    fileprivate var hasWrappers: Bool {
        let names = weightsPath.flatMap { try? SafetensorsFile(path: $0) }?.tensors.keys
        return names?.contains { AdapterFile.unwrapped($0) != $0 } ?? false
    }

    fileprivate func wholeTensors(_ reason: String) -> [String] {
        replacements.first.map { ["\(reason) (\($0.tensor)\(replacements.count > 1 ? " and \(replacements.count - 1) more" : ""))"] } ?? []
    }

    /// Methods whose updates are no products of two factors.
    var otherMethods: [String] {
        Set(modules.filter { !$0.isLowRank }.map { $0.methodName }).sorted().flatMap { name in
            modulesThat("it reads no \(name); oplora resize makes a LoRA of it") { $0.methodName == name }
        }
    }

    fileprivate func modulesThat(_ reason: String, _ isOdd: (AdapterModule) -> Bool) -> [String] {
        let odd = modules.filter(isOdd)
        return odd.first.map { ["\(reason) (\($0.label)\(odd.count > 1 ? " and \(odd.count - 1) more" : ""))"] } ?? []
    }
}
