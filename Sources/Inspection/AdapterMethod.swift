package import JSON
internal import Methods

/// How an adapter changes a model, by its configuration and the names of its tensors; also for methods that are not merged here.
package struct AdapterMethod {
    /// `LoRA`, `LoHa and full differences`.
    package let name: String

    /// - Parameters:
    ///   - tensors: the names of the file's tensors.
    ///   - configuration: `adapter_config.json`, where there is one.
    /// - Returns: `nil` where neither says that this is an adapter.
    package init?(tensors: some Sequence<String>, configuration: JSONValue? = nil) {
        let found = Self.methods(tensors)
        if let type = configuration?["peft_type"]?.stringValue {
            let known = UpdateMethods.all.first { $0.peft?.type == type }?.name ?? Self.names[type]
            name = type == "LORA" ? Self.lora(found ?? ["LoRA"], configuration) : known ?? type
        } else if let found, !found.isEmpty {
            name = Self.lora(found, configuration)
        } else {
            return nil
        }
    }

    /// Whether adapters of a method, as `name` says it, are read here.
    static func isRead(_ name: String) -> Bool { name.contains("DoRA") || UpdateMethods.all.contains { name.contains($0.name) } }

    /// The methods of tensors, as their names tell; `nil` where one is of no adapter.
    private static func methods(_ tensors: some Sequence<String>) -> [String]? {
        var found: [String] = []
        for tensor in tensors {
            let words = tensor.split(separator: ".")
            if let method = method(of: words) {
                if !found.contains(method) { found.append(method) }
            } else if !neutralEndings.contains(words.last ?? ""), !prefixes.contains(where: tensor.hasPrefix) {
                return nil
            }
        }
        return found
    }

    /// The method of a tensor by the components of its name; `nil` where none is known.
    private static func method(of words: [Substring]) -> String? {
        if let last = words.last, let method = UpdateMethods.all.first(where: { ($0.parts + $0.sharedParts).contains(String(last)) }) {
            return method.name
        }
        if let marker = markers.first(where: { marker in words.contains { $0.hasPrefix(marker.prefix) } }) { return marker.method }
        guard let last = words.last else { return nil }
        if differenceEndings.contains(last) { return "full differences" }
        guard words.count >= 3 else { return nil }
        let (owner, factor) = (words[words.count - 3], words[words.count - 2])
        // As diffusers and the authors of Flux once named the factors.
        if owner.contains("lora"), factor == "up" || factor == "down" { return "LoRA" }
        return prefixes.contains(where: words[0].hasPrefix) && gloraFactors.contains(factor) ? "GLoRA" : nil
    }

    /// What a component of a tensor's name begins with. (An OP-LoRA's parameters may be of a run that holds more.)
    private static let markers: [(prefix: String, method: String)] = [
        ("lora_magnitude_vector", "DoRA"), ("dora_scale", "DoRA"), ("lora_A", "LoRA"), ("lora_B", "LoRA"), ("lora_a", "LoRA"), ("lora_b", "LoRA"),
        ("lora_down", "LoRA"), ("lora_up", "LoRA"), ("lora_mid", "LoRA"), ("lora_linear_layer", "LoRA"), ("lora_embedding_", "LoRA"),
        ("lora_E", "AdaLoRA"),
        ("boft_", "BOFT"), ("oft_", "OFT"), ("ia3_", "IA³"), ("on_input", "IA³"), ("randlora_", "RandLoRA"),
        ("hra_", "HRA"), ("fourierft_", "FourierFT"), ("vblora_", "VB-LoRA"), ("bone_", "Bone"), ("miss_", "MiSS"), ("road_", "RoAd"),
        ("shira_", "SHiRA"), ("c3a_", "C3A"), ("waveft_", "WaveFT"), ("delora_", "DeLoRA"), ("prompt_embeddings", "prompt tuning"),
    ]
    private static let differenceEndings: Set<Substring> = ["diff", "diff_b", "w_norm", "b_norm"]
    private static let gloraFactors: Set<Substring> = ["a1", "a2", "b1", "b2", "bm1", "bm2"]
    /// Parts that adapters of several methods have; `m` are mlx-lm's magnitudes.
    private static let neutralEndings: Set<Substring> = ["alpha", "reshape_weight", "m"]
    /// What only the names of an adapter's tensors begin with.
    private static let prefixes = [
        "base_model.model.", "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_", "lycoris_",
    ]

    /// PEFT's types under the names that their authors gave them.
    private static let names: [String: String] = [
        "ADALORA": "AdaLoRA", "OFT": "OFT", "BOFT": "BOFT", "IA3": "IA³", "FOURIERFT": "FourierFT",
        "VBLORA": "VB-LoRA", "RANDLORA": "RandLoRA", "XLORA": "X-LoRA", "BONE": "Bone", "MISS": "MiSS", "ROAD": "RoAd", "SHIRA": "SHiRA",
        "WAVEFT": "WaveFT", "DELORA": "DeLoRA", "GRALORA": "GraLoRA", "LN_TUNING": "tuning of layer norms", "PROMPT_TUNING": "prompt tuning",
        "MULTITASK_PROMPT_TUNING": "multitask prompt tuning", "P_TUNING": "p-tuning", "PREFIX_TUNING": "prefix tuning",
        "ADAPTION_PROMPT": "LLaMA-Adapter", "TRAINABLE_TOKENS": "trained tokens", "POLY": "Poly",
    ]

    /// The methods in words; what a configuration says of a LoRA comes into its name.
    private static func lora(_ methods: [String], _ configuration: JSONValue?) -> String {
        func says(_ key: String) -> Bool { configuration?[key]?.boolValue == true }
        var methods = methods
        if methods.contains("DoRA") || says("use_dora") || configuration?["fine_tune_type"]?.stringValue == "dora" {
            // Magnitudes stand beside the factors of a LoRA.
            methods = methods.filter { $0 != "LoRA" && $0 != "DoRA" }
            methods.insert("DoRA", at: 0)
        }
        if let index = methods.firstIndex(of: "LoRA") {
            methods[index] = says("use_qalora") ? "QA-LoRA" : says("use_rslora") ? "rsLoRA" : "LoRA"
        } else if let index = methods.firstIndex(of: "DoRA"), says("use_rslora") {
            methods[index] = "DoRA with the scaling of rsLoRA"
        }
        return methods.joined(separator: " and ")
    }
}
