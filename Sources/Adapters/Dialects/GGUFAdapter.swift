internal import Families
internal import GGUF
internal import JSON
internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Tensors
internal import Weights

/// The dialect of llama.cpp: one GGUF file with `general.type` adapter, its tensors named after ggml's for the base's.
///
/// `lora_a` is A [rank, in] and `lora_b` is B [out, rank]; the A of the token embedding is [vocabulary, rank]. One alpha
/// is for all modules, and zero means a scale of one. In some families the rows of the query and key projections are
/// interleaved, and those of their `lora_b` with them.
///
/// Source: llama.cpp, `convert_lora_to_gguf.py`, `src/llama-adapter.cpp` and `gguf-py/gguf/tensor_mapping.py`.
public enum GGUFAdapter {
    private static let endings = (a: ".weight.lora_a", b: ".weight.lora_b")

    // MARK: Names

    private static func modulePath(_ name: Substring, in family: GGMLNaming) -> ModulePath? {
        for module in [GGMLNaming.embedding, GGMLNaming.head] where name == module.ggml { return ModulePath(module.memory) }
        let parts = name.split(separator: ".")
        guard parts.count == 3, parts[0] == "blk", Int(parts[1]) != nil else { return nil }
        return family.modules.first { $0.ggml == parts[2] }.flatMap { ModulePath("model.layers.\(parts[1]).\($0.memory)") }
    }

    private static func tensorName(of path: ModulePath, in family: GGMLNaming) -> String? {
        // A model of text and pictures keeps the text's part apart.
        let text = path.text.split(separator: ".").filter { $0 != "language_model" }.joined(separator: ".")
        for module in [GGMLNaming.embedding, GGMLNaming.head] where text == module.memory { return module.ggml }
        let parts = text.split(separator: ".")
        guard parts.count == 5, parts[0] == "model", parts[1] == "layers", let layer = Int(parts[2]) else { return nil }
        let name = "\(parts[3]).\(parts[4])"
        return family.modules.first { $0.memory == name }.map { "blk.\(layer).\($0.ggml)" }
    }

    private static var knownArchitectures: String { ModelFamilies.atGGML.map(\.architecture).joined(separator: ", ") }

    // MARK: Reading

    /// Reads an adapter. Every tensor of the file is part of a module, or the error names it.
    ///
    /// - Throws: `AdapterError` or `GGUFError`.
    static func read(_ name: String, path: String) throws -> Adapter {
        let file = try GGUFFile(path: name)
        func fault(_ code: AdapterError.Code, _ subject: String, _ message: String) -> AdapterError {
            AdapterError(code, path: path, subject: subject, message)
        }
        func text(_ key: String) -> String { file.metadata[key]?.stringValue ?? "" }
        guard text("general.type") == "adapter" else {
            throw fault(
                .unknownDialect, "general.type", "the file holds a \(text("general.type").isEmpty ? "model" : text("general.type")), not an adapter")
        }
        guard text("adapter.type") == "lora" else {
            throw fault(.unsupportedFeature, "adapter.type", "adapters of type \"\(text("adapter.type"))\" are not supported, only lora")
        }
        for key in file.metadata.keys where key.hasPrefix("adapter.alora.") {
            throw fault(.unsupportedFeature, key, "activated LoRA, which applies to a part of the text only, is not supported")
        }
        guard let family = ModelFamilies.atGGML.first(where: { $0.architecture == text("general.architecture") }) else {
            throw fault(
                .unsupportedFeature, "general.architecture",
                "the names of the family \"\(text("general.architecture"))\" are not known; those of \(knownArchitectures) are"
            )
        }
        // llama.cpp takes one that is missing for zero, and zero for a scale of one.
        let stated = file.metadata["adapter.lora.alpha"]
        guard let alpha = stated == nil ? 0 : stated?.doubleValue, alpha.isFinite else {
            throw fault(.invalidConfiguration, "adapter.lora.alpha", "the field must be a finite number")
        }
        var parts: OrderedDictionary<Substring, (a: FactorMatrix?, b: FactorMatrix?)> = [:]
        for tensor in file.tensors.values {
            guard let ending = [endings.a, endings.b].first(where: tensor.name.hasSuffix), tensor.shape.count == 2 else {
                throw fault(
                    .unexpectedTensor, tensor.name, "it is no factor of a matrix; nothing of an adapter may be left out")
            }
            guard let weight = StoredWeight(StoredTensor(tensor, in: file)), weight.dtype.isFloat else {
                throw fault(.unsupportedDType, tensor.name, "a factor in \(tensor.type) is not supported; F32, BF16, F16 and F64 are")
            }
            let matrix = FactorMatrix(weight)
            let name = tensor.name.dropLast(ending.count)
            if ending == endings.a { parts[name, default: (nil, nil)].a = matrix } else { parts[name, default: (nil, nil)].b = matrix }
        }
        let modules = try parts.map { name, factors in
            guard let modulePath = modulePath(name, in: family) else {
                throw fault(.unexpectedTensor, String(name), "no module of the family \(family.architecture) is known by this name")
            }
            guard let stored = factors.a, let b = factors.b else {
                throw fault(.missingFactor, String(name), "the module has \(factors.a == nil ? "no lora_a" : "a lora_a and no lora_b")")
            }
            let isEmbedding = name == GGMLNaming.embedding.ggml
            let a = isEmbedding ? stored.transposed : stored
            guard a.rows == b.columns, a.rows > 0, a.columns > 0, b.rows > 0 else {
                throw fault(
                    .invalidShape, b.name, "lora_b \(describe(shape: b.shape)) and lora_a \(describe(shape: stored.shape)) cannot be multiplied")
            }
            let isInterleaved = family.interleaved.contains(where: { name.hasSuffix("." + $0) })
            let rank = Double(a.rows)
            return AdapterModule(
                path: modulePath, kind: isEmbedding ? .embedding : .linear, factors: [.init(a: a, b: b)], alpha: alpha == 0 ? rank : alpha,
                scale: alpha == 0 ? 1 : alpha / rank, isInterleaved: isInterleaved)
        }
        guard !modules.isEmpty else { throw AdapterError(.empty, path: path, "the file holds no tensor of an adapter") }
        return Adapter(
            path: path, dialect: .gguf, weightsPath: name, baseModel: file.metadata["general.base_model.0.name"]?.stringValue, targets: [],
            taskType: "CAUSAL_LM", modules: modules,
            remarks: alpha == 0 ? ["the file gives \(stated == nil ? "no alpha" : "an alpha of 0"), which is a scale of 1, as in llama.cpp"] : [])
    }

    // MARK: Writing

    static func write(_ adapter: Adapter, to path: String, base: BaseModel?, options: AdapterOptions) throws -> [String] {
        let layout = "a GGUF adapter"
        try adapter.requireOneModel(path: path, layout: layout)
        try adapter.replacements.requireNone(path: path, layout: layout)
        guard let base else {
            throw AdapterError(
                .unsupportedFeature, path: path, "\(layout) has the names of the base's family, which only the base tells", cause: .needsBase)
        }
        guard let family = base.family?.ggml else {
            let type = base.configuration?["model_type"]?.stringValue ?? ""
            throw AdapterError(
                .unsupportedFeature, path: path, subject: "model_type",
                "the names that ggml gives the family \"\(type)\" are not known; those of \(knownArchitectures) are")
        }
        // llama.cpp divides one alpha by the rank of each module.
        let alphas = adapter.modules.map(\.plainAlpha)
        let alpha = Double(Float(PEFT.mostFrequent(alphas.filter { $0 != 0 } + (alphas.allSatisfy { $0 == 0 } ? [0] : []))))
        guard alpha != 0, alpha.isFinite else {
            throw AdapterError(
                .invalidScale, path: path,
                "\(layout) has one alpha in F32, in which zero means a scale of one, and the adapter's is \(alphas.first ?? 0)")
        }
        var tensors: [OutputTensor] = []
        for (module, moduleAlpha) in zip(adapter.modules, alphas) {
            try module.require([.linear, .embedding], path: path, layout: layout)
            guard let name = tensorName(of: module.path, in: family) else {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: module.label.text,
                    "no name of ggml is known for the module in the family \(family.architecture)")
            }
            guard !tensors.contains(where: { $0.name == name + endings.a }) else {
                throw AdapterError(.unsupportedFeature, path: path, subject: module.label.text, "another module has the same name in ggml, \(name)")
            }
            let isInterleaved = family.interleaved.contains(where: { name.hasSuffix("." + $0) })
            let straight = try base.straightened(module, adapter: adapter.path)
            let own = straight.lowRank?.b ?? module.loraB
            let b = isInterleaved ? try base.interleaved(own, of: module, adapter: adapter.path) : own
            let a = module.kind == .embedding ? module.loraA.transposed : module.loraA
            tensors.append(OutputTensor(name + endings.a, a.shape, a))
            tensors.append(OutputTensor(name + endings.b, b.shape, b, factor: moduleAlpha / alpha))
        }
        let baked = tensors.filter { $0.factor != 1 }
        let metadata: OrderedDictionary<String, GGUFValue> = [
            "general.architecture": .string(family.architecture), "general.type": .string("adapter"), "adapter.type": .string("lora"),
            "adapter.lora.alpha": .real(alpha),
        ]
        let types = try tensors.map { tensor in
            guard let type = GGMLType.allCases.first(where: { $0.dtype == tensor.dtype(options.dtype) }) else {
                throw AdapterError(.unsupportedDType, path: path, subject: tensor.name, "GGUF has no element type for \(tensor.dtype(options.dtype))")
            }
            return type
        }
        let writer = try GGUFWriter(
            path: path, metadata: metadata, tensors: zip(tensors, types).map { .init(name: $0.name, type: $1, shape: $0.shape) },
            replacing: options.isReplacing)
        for tensor in tensors { try tensor.withBytes(as: options.dtype, path: path) { try writer.write($0) } }
        try writer.publish(durable: options.isDurable)
        return baked.isEmpty ? [] : [Adapter.bakedNote("one alpha", alpha, baked: baked.count, inexact: baked.count { $0.factor.significand != 1 })]
    }
}
