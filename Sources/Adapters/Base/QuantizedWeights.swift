internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// The weights of a model that are stored as codes of few bits, with scales beside them.
struct QuantizedWeights: Sendable {
    /// The tensors of one module `X` in one format: `X` + codes, and all of `X` + scales.
    struct Format: Sendable {
        let name: String
        let codes: String
        let types: Set<DType>
        /// The element type of the first of the scales, where it tells formats apart.
        var scaleTypes: Set<DType>?
        let scales: [String]
        /// What else may be beside them.
        var others: [String] = []
        /// The `quant_method` of `config.json`, where only that tells formats apart.
        var method: String?
        /// How to come by a model that can be merged into.
        var remedy = Self.original

        static let original = "name the model that was quantized"
        static let transformers = original + ", or what transformers makes of this one with dequantize=True"
        static let mlx = original + ", or what `mlx_lm.convert --dequantize` makes of this one"
    }

    /// A module in a format.
    struct Found: Sendable {
        let format: Format
        /// The tensor of codes.
        let codes: String
        /// The endings of the names of those beside it.
        let scales: [String]

        /// One sentence.
        func sentence(statement: String?) -> String {
            let beside = scales.isEmpty ? "" : " with \(scales.joined(separator: ", "))"
            let statement = statement.map { "; \($0)" } ?? ""
            return
                "the weight is quantized: \(format.name) (\(codes)\(beside)\(statement)), which is not read as a base yet; \(format.remedy)"
        }
    }

    private static let nested = [".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map"]
    private static let bitsandbytes = ", or what dequantize() of transformers makes of this one"
    private static let bytes: Set<DType> = [.u8, .i8]
    private static let eight: Set<DType> = [.f8E4M3, .f8E5M2, .f8E4M3FNUZ, .f8E5M2FNUZ]
    private static let words: Set<DType> = [.i32, .u32]
    private static let exponents: Set<DType> = [.u8, .f8E8M0]
    /// Types of codes; a model without them is not quantized.
    private static let codeTypes = bytes.union(eight).union(words).union([.f4, .f6E2M3, .f6E3M2, .i16, .u16])
    private static let anyType = codeTypes.union([.f32, .bf16, .f16])

    /// The first that fits is meant.
    ///
    /// Sources: bitsandbytes 0.50, transformers 5.24, compressed-tensors 0.20, gptqmodel 7.7, AutoAWQ 0.2.9, mlx 0.32, nvidia-modelopt 0.47, torchao 0.18,
    /// ComfyUI of October 2025.
    private static let formats: [Format] = [
        // With another storage type the codes are BF16, F16 or F32 of one column.
        Format(
            name: "bitsandbytes NF4", codes: ".weight", types: anyType, scales: [".weight.quant_state.bitsandbytes__nf4"],
            others: nested, remedy: Format.original + bitsandbytes),
        Format(
            name: "bitsandbytes FP4", codes: ".weight", types: anyType, scales: [".weight.quant_state.bitsandbytes__fp4"],
            others: nested, remedy: Format.original + bitsandbytes),
        Format(
            name: "bitsandbytes int8", codes: ".weight", types: bytes, scales: [".SCB"], others: [".weight_format"],
            remedy: Format.original + bitsandbytes),
        Format(name: "GPTQ", codes: ".qweight", types: words, scales: [".scales", ".g_idx"], others: [".qzeros"]),
        Format(name: "GPTQ", codes: ".qweight", types: words, scales: [".scales"], others: [".qzeros"], method: "gptq"),
        Format(name: "AWQ", codes: ".qweight", types: words, scales: [".scales", ".qzeros"]),
        Format(
            name: "compressed-tensors NVFP4", codes: ".weight_packed", types: bytes, scales: [".weight_scale", ".weight_global_scale"],
            others: [".input_global_scale"]),
        Format(name: "compressed-tensors MXFP4", codes: ".weight_packed", types: bytes, scales: [".weight_scale"]),
        Format(
            name: "compressed-tensors integers", codes: ".weight_packed", types: words, scales: [".weight_scale"],
            others: [".weight_shape", ".weight_zero_point", ".weight_g_idx"]),
        Format(name: "compressed-tensors int8", codes: ".weight", types: [.i8], scales: [".weight_scale"], others: [".weight_zero_point"]),
        Format(name: "FP8 in blocks", codes: ".weight", types: eight.union(bytes), scales: [".weight_scale_inv"], remedy: Format.transformers),
        Format(name: "FP8 in blocks", codes: "", types: eight, scales: ["_scale_inv"], remedy: Format.transformers),
        Format(
            name: "ModelOpt NVFP4", codes: ".weight", types: bytes, scales: [".weight_scale", ".weight_scale_2"], others: [".input_scale"]),
        Format(
            name: "ComfyUI FP8 with scales", codes: ".weight", types: eight, scales: [".weight_scale", ".comfy_quant"], others: [".input_scale"],
            remedy: "name the model's file in BF16 or F16"),
        Format(
            name: "ComfyUI FP8 with scales", codes: ".weight", types: eight, scales: [".scale_weight"], others: [".scale_input"],
            remedy: "name the model's file in BF16 or F16"),
        Format(
            name: "MXFP8", codes: ".weight", types: eight, scaleTypes: exponents, scales: [".weight_scale"], others: [".input_scale"]),
        Format(name: "FP8 with scales", codes: ".weight", types: eight, scales: [".weight_scale"], others: [".input_scale"]),
        Format(name: "FP8 with scales", codes: ".weight", types: eight.union(bytes), scales: [".scale"]),
        Format(name: "FP8 with scales", codes: ".weight", types: eight, scales: [".qscale_weight"], others: [".qscale_act"]),
        Format(
            name: "MLX MXFP4 or MXFP8", codes: ".weight", types: words, scaleTypes: bytes, scales: [".scales"],
            remedy: Format.mlx),
        Format(
            name: "MLX affine", codes: ".weight", types: words, scales: [".scales", ".biases"],
            remedy: Format.mlx),
        Format(name: "torchao", codes: "._weight_qdata", types: codeTypes, scales: ["._weight_scale"], others: ["._weight_zero_point"]),
        Format(name: "MXFP4", codes: "_blocks", types: bytes, scales: ["_scales"], remedy: Format.transformers),
        Format(
            name: "a plain cast to FP8, without scales", codes: ".weight", types: eight, scales: [], remedy: "name the model in BF16 or F16"),
    ]
    private static let unknown = Format(name: "a format that this program does not know", codes: ".weight", types: codeTypes, scales: [])

    /// Endings of the names of tensors that say how others are meant.
    private static let scaleEndings = [
        ".scales", ".biases", ".absmax", ".nested_absmax", ".quant_map", ".nested_quant_map", ".SCB", "_scale", "_scale_inv", "_scale_2",
        "_global_scale",
        "_zero_point", ".scale_weight", ".scale_input", "_amax", ".pre_quant_scale",
    ]

    /// Whether anything may be quantized at all.
    private let isAny: Bool
    /// Tensors in floating point that keep their bits whatever the model's element type becomes: codes would mean something else.
    private let companions: Set<String>

    init(_ files: WeightFiles) {
        let codes = files.tensors.filter { Self.codeTypes.contains($0.value.info.dtype) && !$0.value.info.shape.isEmpty }
        isAny = !codes.isEmpty
        guard isAny else {
            companions = []
            return
        }
        let modules = Set(codes.filter { $0.value.info.shape.count >= 2 && Self.isCodes($0.key, $0.value.info.dtype) }.keys.map(Self.module))
        guard !modules.isEmpty else {
            companions = []
            return
        }
        companions = Set(
            files.tensors.keys.filter { name in
                Self.scaleEndings.contains(where: name.hasSuffix) || modules.contains(Self.module(of: name))
            })
    }

    /// Whether a tensor holds the codes of a weight, and is no mask or table of numbers.
    private static func isCodes(_ name: String, _ dtype: DType) -> Bool {
        eight.contains(dtype) || dtype == .f4
            || [".weight", ".qweight", ".weight_packed", "._weight_qdata", "_blocks"].contains(where: name.hasSuffix)
    }

    /// The module of a tensor, or for a bare parameter of several tensors the parameter.
    private static func module(of name: String) -> Substring {
        if let range = name.firstRange(of: ".weight.") { return name[..<range.lowerBound] }
        for ending in ["_blocks", "_scales", "_scale_inv", "_scale", "_bias"] where name.hasSuffix(ending) && !name.hasSuffix(".weight" + ending) {
            return name.dropLast(ending.count)
        }
        guard let dot = name.lastIndex(of: ".") else { return name[...] }
        let isOfModule = ["weight", "qweight", "weight_packed", "_weight_qdata", "bias"].contains { name[name.index(after: dot)...] == $0 }
        return isOfModule || Self.scaleEndings.contains(where: name.hasSuffix) ? name[..<dot] : name[...]
    }

    /// Whether a tensor says how codes are meant, and so may not be rounded to another element type.
    func isCompanion(_ name: String) -> Bool { companions.contains(name) }

    /// The format of a weight that an adapter names, whether the model holds a tensor of this name or only its codes.
    ///
    /// - Parameter isOfFile: whether the name is that of a tensor of the model's files.
    func format(of name: String, isOfFile: Bool, in model: BaseModel) -> Found? {
        guard isAny else { return nil }
        let stem = name.hasSuffix(".weight") ? String(name.dropLast(".weight".count)) : name
        for format in Self.formats {
            let wanted = stem + format.codes
            guard format.method == nil || format.method == model.quantizationMethod, let codes = isOfFile ? wanted : model.resolve(wanted),
                codes.hasSuffix(format.codes), let info = model.files.tensors[codes]?.info, format.types.contains(info.dtype)
            else { continue }
            let own = codes.dropLast(format.codes.count)
            func isThere(_ ending: String) -> Bool { model.files.tensors[own + ending] != nil }
            guard format.scales.allSatisfy(isThere) else { continue }
            if let types = format.scaleTypes, let first = format.scales.first, let type = model.files.tensors[own + first]?.info.dtype,
                !types.contains(type)
            {
                continue
            }
            return Found(format: format, codes: codes, scales: format.scales + format.others.filter(isThere))
        }
        // A weight whose scales are not understood is no plain weight, whatever its type.
        let scales = Self.scaleEndings.map { $0.hasPrefix(".") ? $0 : ".weight" + $0 }.filter { model.files.tensors[stem + $0] != nil }
        return scales.isEmpty ? nil : Found(format: Self.unknown, codes: name, scales: scales)
    }
}
