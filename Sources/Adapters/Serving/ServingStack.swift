/// Programs that serve models with adapters, and whether they take a file as it is.
///
/// Source: vLLM, `lora/peft_helper.py` and `lora/models.py`; llama.cpp, `src/llama-adapter.cpp`; mlx-lm 0.32,
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
        /// What to do, where something can be done.
        public let remedy: String?
        /// What whoever takes it must know.
        public let notes: [String]

        public var isTaken: Bool { reasons.isEmpty }
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
        var reasons = adapter.dialect == .peft ? [] : ["it reads folders of PEFT"]
        let isElsewhere = adapter.dialect != .peft
        if adapter.dialect == .peft, adapter.targets.isEmpty { reasons.append("it wants target_modules, and the configuration has none") }
        reasons += adapter.wholeTensors("it takes no modules_to_save, trained tokens or trained biases")
        reasons += adapter.modulesThat("it has no DoRA") { $0.magnitude != nil }
        reasons += adapter.modulesThat("it takes no bias on B (lora_bias)") { $0.bias != nil }
        reasons += adapter.modulesThat("it adapts no convolutions") { $0.kind == .convolution }
        // What no conversion can change.
        let isHopeless = reasons.count > (isElsewhere ? 1 : 0)
        let isVeRA = adapter.modules.contains(where: \.sharesInputs)
        if isVeRA { reasons.append("it has no VeRA") }
        let isUniform = Set(adapter.modules.map(\.scale)).count <= 1 && Set(adapter.modules.map(\.rank)).count <= 1
        if !isUniform { reasons.append("it overlooks rank_pattern and alpha_pattern, and would scale some modules wrongly") }
        let rank = adapter.modules.map(\.rank).max() ?? 0
        var notes: [String] = []
        if let most = Self.vLLMRanks.first(where: { $0 >= rank }) {
            if rank > Self.vLLMDefaultRank { notes.append("start it with --max-lora-rank \(most)") }
        } else {
            reasons.append("its largest rank is \(Self.vLLMRanks.last ?? 0), and the adapter has \(rank): oplora resize makes it smaller")
        }
        let conversion = Self.conversion(of: adapter, to: "peft") + (isUniform ? "" : " --uniform")
        return Verdict(stack: self, reasons: reasons, remedy: isHopeless || isUniform && !isElsewhere && !isVeRA ? nil : conversion, notes: notes)
    }

    /// The command that converts an adapter, with what it needs to be told.
    private static func conversion(of adapter: Adapter, to layout: String) -> String {
        let needsBase = adapter.namesAreFlattened || adapter.modules.contains { $0.isInterleaved || $0.sharesInputs } || layout == "gguf"
        return "oplora convert --to \(layout)" + (needsBase ? " --base MODEL" : "") + (adapter.components.count > 1 ? " --component COMPONENT" : "")
    }

    private func llamaCpp(_ adapter: Adapter) -> Verdict {
        var reasons = adapter.dialect == .gguf ? [] : ["it reads GGUF files"]
        let inside =
            adapter.wholeTensors("a GGUF adapter has no tensors that were trained whole")
            + adapter.modulesThat("it has no DoRA") { $0.magnitude != nil }
            + adapter.modulesThat("it takes no bias on B (lora_bias)") { $0.bias != nil }
            + adapter.modulesThat("it adapts no convolutions") { $0.kind == .convolution }
        reasons += inside
        let remedy = adapter.dialect == .gguf || !inside.isEmpty ? nil : Self.conversion(of: adapter, to: "gguf")
        return Verdict(stack: self, reasons: reasons, remedy: remedy, notes: [])
    }

    private func mlx(_ adapter: Adapter) -> Verdict {
        var reasons = adapter.dialect == .mlx ? [] : ["it reads folders of mlx-lm"]
        let inside =
            adapter.wholeTensors("its loader refuses tensors that are no factors")
            + adapter.modulesThat("it takes no bias on B (lora_bias)") { $0.bias != nil }
            + adapter.modulesThat("it adapts no convolutions") { $0.kind == .convolution }
        reasons += inside
        if adapter.dialect == .mlx, Set(adapter.modules.map(\.rank)).count > 1 { reasons.append("its loader wants the same rank in all modules") }
        let remedy = reasons.isEmpty || !inside.isEmpty ? nil : Self.conversion(of: adapter, to: "mlx")
        return Verdict(stack: self, reasons: reasons, remedy: remedy, notes: [])
    }

    private func diffusers(_ adapter: Adapter) -> Verdict {
        switch adapter.dialect {
        case .diffusers:
            let text = adapter.modulesThat("it leaves out the magnitudes (DoRA) of text encoders") {
                $0.magnitude != nil && $0.component?.hasPrefix("text_encoder") == true
            }
            return Verdict(
                stack: self, reasons: text, remedy: nil,
                notes: adapter.components.isEmpty ? ["load it into the model itself, with use_safetensors=True, or its alphas are overlooked"] : [])
        case .kohya:
            var reasons = adapter.modulesThat("it leaves out dora_scale") { $0.magnitude != nil }
            if Set(adapter.modules.map(\.scale)).count > 1 {
                reasons.append("of alphas that are not the same it takes the most frequent one for many modules, and would scale the others wrongly")
            }
            return Verdict(
                stack: self, reasons: reasons, remedy: reasons.isEmpty ? nil : "oplora convert --to diffusers --base PIPELINE", notes: [])
        default:
            let isDiffusion = !adapter.components.isEmpty
            return Verdict(
                stack: self, reasons: ["it reads files of diffusers and of kohya's trainers"],
                remedy: isDiffusion
                    ? "oplora convert --to diffusers" : "oplora convert --to diffusers --component COMPONENT, if it is a diffusion model's",
                notes: [])
        }
    }
}

extension Adapter {
    fileprivate func wholeTensors(_ reason: String) -> [String] {
        replacements.first.map { ["\(reason) (\($0.tensor)\(replacements.count > 1 ? " and \(replacements.count - 1) more" : ""))"] } ?? []
    }

    fileprivate func modulesThat(_ reason: String, _ isOdd: (AdapterModule) -> Bool) -> [String] {
        let odd = modules.filter(isOdd)
        return odd.first.map { ["\(reason) (\($0.label)\(odd.count > 1 ? " and \(odd.count - 1) more" : ""))"] } ?? []
    }
}
