internal import Families
internal import Kernels
internal import Methods
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// The dialect of kohya's trainers and of LyCORIS: one safetensors file in which a module's path is flattened, its dots turned
/// to underscores (`lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight`), so that it takes the base to read it back.
///
/// `lora_down` is A and `lora_up` is B, those of a convolution with its kernel on A; a LoCon's `lora_mid` stands between the
/// two. `alpha` absent means the rank, unless the header names one. A DoRA's `dora_scale` is one norm for each output, or for each input.
///
/// Source: sd-scripts, `networks/lora.py`; lycoris-lora 4.1, `modules/locon.py` and `functional/general.py`.
public enum Kohya {
    /// What the flattened names begin with, and the component that is meant.
    static let prefixes: [(prefix: String, component: String?)] = [
        ("lora_unet_", "unet"), ("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2"), ("lora_te3_", "text_encoder_3"),
        ("lora_te_", "text_encoder"), ("lora_transformer_", "transformer"), ("lycoris_", nil),
    ]
    private static let parts = [".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".alpha", ".dora_scale"]

    /// Whether a file may be of this dialect, by the names of its tensors.
    static func claims(_ file: SafetensorsFile) -> Bool {
        file.tensors.keys.prefix(Adapter.claimedNames).contains { name in prefixes.contains { name.hasPrefix($0.prefix) } }
    }

    private struct Parts {
        /// Those of a method of the table, by its names for them.
        var method: (any UpdateMethod.Type)?
        var own: [String: FactorMatrix] = [:]
        var down: TensorInfo?
        var up: TensorInfo?
        var mid: TensorInfo?
        var alpha: TensorInfo?
        var doraScale: TensorInfo?
    }

    /// Reads an adapter. Every tensor of the file is part of a module, or the error names it.
    ///
    /// - Throws: `AdapterError`.
    static func read(_ file: SafetensorsFile, path: String, alpha: AlphaChoice) throws(AdapterError) -> Adapter {
        var modules: OrderedDictionary<String, Parts> = [:]
        for tensor in file.tensors.values {
            let claim = UpdateMethods.claim(tensor.name)
            guard let part = claim?.part ?? parts.first(where: tensor.name.hasSuffix), prefixes.contains(where: { tensor.name.hasPrefix($0.prefix) })
            else { throw unexpected(tensor.name, path: file.path) }
            guard tensor.dtype.isFloat else {
                throw AdapterError(
                    .unsupportedDType, path: file.path, subject: tensor.name,
                    "a factor in \(tensor.dtype) is not supported; F32, BF16, F16 and F64 are")
            }
            if let (method, module, part) = claim {
                let name = String(module)
                guard modules[name]?.method.map({ $0 == method }) ?? true else {
                    throw AdapterError(
                        .unexpectedTensor, path: file.path, subject: tensor.name, "the module has tensors of another method than \(method.name), too")
                }
                modules[name, default: Parts()].method = method
                modules[name, default: Parts()].own[part] = FactorMatrix(tensor, in: file)
                continue
            }
            let name = String(tensor.name.dropLast(part.count))
            switch part {
            case ".lora_down.weight": modules[name, default: Parts()].down = tensor
            case ".lora_up.weight": modules[name, default: Parts()].up = tensor
            case ".lora_mid.weight": modules[name, default: Parts()].mid = tensor
            case ".alpha": modules[name, default: Parts()].alpha = tensor
            default: modules[name, default: Parts()].doraScale = tensor
            }
        }
        var read: [AdapterModule] = []
        var alphas = FileAlphas(file, choice: alpha)
        for (name, parts) in modules { read.append(try module(name, parts, in: file, alphas: &alphas)) }
        guard !read.isEmpty else { throw AdapterError(.empty, path: file.path, "the file holds no tensor of an adapter") }
        let model = file.metadata["ss_sd_model_name"] ?? file.metadata["ss_base_model_version"]
        return Adapter(
            path: path, dialect: .kohya, weightsPath: file.path, baseModel: model, targets: [], modules: read,
            remarks: alphas.remarks + splitRemark(read, file), namesAreFlattened: true, metadata: file.metadata)
    }

    /// sd-scripts trains the parts of a fused projection apart (`split_qkv`), and saves them as one module of three or four times the rank
    /// with the alpha of one: every reader takes alpha / rank, which is less than was trained.
    private static func splitRemark(_ modules: [AdapterModule], _ file: SafetensorsFile) -> [String] {
        guard let rank = file.metadata["ss_network_dim"].flatMap(Int.init), rank > 0, rank < 1 << 20 else { return [] }
        // Others that join projections multiply the alpha.
        let alpha = file.metadata["ss_network_alpha"].flatMap(Double.init)
        let count = modules.count { ($0.rank == 3 * rank || $0.rank == 4 * rank) && (alpha == nil || $0.alpha == alpha) }
        guard count > 0 else { return [] }
        return [
            "the factors of \(count) modules have three or four times the trainer's rank of \(rank), as sd-scripts saves split projections: "
                + "their scale is alpha / rank, as every program that reads the file takes it, and less than in the training"
        ]
    }

    private static func unexpected(_ name: String, path: String) -> AdapterError {
        OtherMethods.refusal(of: name, path: path)
            ?? AdapterError(
                .unexpectedTensor, path: path, subject: name, "the key is none of those of a LoRA or LoCon; nothing of an adapter may be left out")
    }

    private static func module(
        _ name: String, _ parts: Parts, in file: SafetensorsFile, alphas: inout FileAlphas
    ) throws(AdapterError) -> AdapterModule {
        func fault(_ code: AdapterError.Code, _ subject: String, _ message: String) -> AdapterError {
            AdapterError(code, path: file.path, subject: subject, message)
        }
        guard let (prefix, meant) = prefixes.first(where: { name.hasPrefix($0.prefix) }), let path = ModulePath(name.dropFirst(prefix.count))
        else {
            throw fault(.unexpectedTensor, name, "the key names no module")
        }
        // The trainers call every denoiser a U-Net.
        let component = meant == "unet" && !DiffusionFamily.isOfUNet(flattened: path.text) ? "diffusion_model" : meant
        if let method = parts.method {
            if let other = parts.down ?? parts.up ?? parts.mid {
                throw fault(.unexpectedTensor, other.name, "the module has tensors of another method, \(method.name), too")
            }
            let update: any UpdateMethod
            do throws(UpdateFault) {
                update = try method.init(UpdateParts(module: name, parts.own))
            } catch {
                throw AdapterError(error, path: file.path)
            }
            let own = try parts.alpha.map { alpha throws(AdapterError) in try scalar(alpha, in: file) }
            // Without a rank LyCORIS takes the scale one, whatever the alpha is.
            let (alpha, scale) =
                try update.rank.map { rank throws(AdapterError) in
                    try alphas.alpha(own: own, rank: rank, component: component, module: name)
                } ?? (1, 1)
            return AdapterModule(
                component: component, path: path, kind: .linear, updates: [update], alpha: alpha, scale: scale,
                magnitude: try parts.doraScale.map { scale throws(AdapterError) in
                    // The inputs of a convolution are not told from the positions of its kernel.
                    let inputs =
                        update.mayBeOfConvolution ? scale.shape.dropFirst().first.flatMap { $0 > 0 && update.inputs % $0 == 0 ? $0 : nil } : nil
                    return try magnitude(scale, outputs: update.outputs, inputs: inputs ?? update.inputs, in: file)
                })
        }
        guard let down = parts.down, let up = parts.up else {
            throw fault(.missingFactor, name, "the module has \(parts.down == nil ? "no lora_down" : "a lora_down and no lora_up")")
        }
        guard down.shape.count >= 2, up.shape.count >= 2, up.shape.dropFirst(2).allSatisfy({ $0 == 1 }), !(down.shape + up.shape).contains(0) else {
            throw fault(
                .invalidShape, up.name, "lora_up \(describe(shape: up.shape)) and lora_down \(describe(shape: down.shape)) are not those of a LoRA")
        }
        let b = FactorMatrix(up, in: file)
        var a = FactorMatrix(down, in: file)
        var kernel = Array(down.shape.dropFirst(2))
        if let mid = parts.mid {
            guard mid.shape.count >= 3, mid.shape.count == down.shape.count, mid.shape[1] == down.shape[0],
                down.shape.dropFirst(2).allSatisfy({ $0 == 1 }), !mid.shape.contains(0)
            else {
                throw fault(
                    .invalidShape, mid.name,
                    "lora_mid \(describe(shape: mid.shape)) does not stand between lora_up and lora_down \(describe(shape: down.shape))")
            }
            kernel = Array(mid.shape.dropFirst(2))
            do throws(UpdateFault) {
                a = try FactorMatrix.composed(core: FactorMatrix(mid, in: file), inner: a)
            } catch {
                throw AdapterError(error, path: file.path)
            }
        }
        guard a.rows == b.columns else {
            throw fault(
                .invalidShape, up.name, "lora_up \(describe(shape: up.shape)) and lora_down \(describe(shape: down.shape)) cannot be multiplied")
        }
        let own = try parts.alpha.map { alpha throws(AdapterError) in try scalar(alpha, in: file) }
        let (alpha, scale) = try alphas.alpha(own: own, rank: a.rows, component: component, module: name)
        return AdapterModule(
            component: component, path: path, kind: kernel.isEmpty ? .linear : .convolution, factors: [.init(a: a, b: b)], alpha: alpha,
            scale: scale,
            magnitude: try parts.doraScale.map { scale throws(AdapterError) in
                try magnitude(scale, outputs: b.rows, inputs: down.shape[1], in: file)
            }, kernel: kernel)
    }

    /// One number, which must be finite.
    static func scalar(_ tensor: TensorInfo, in file: SafetensorsFile) throws(AdapterError) -> Double {
        guard tensor.elementCount == 1, tensor.dtype.isFloat else {
            throw AdapterError(
                .invalidShape, path: file.path, subject: tensor.name,
                "an alpha is one number, and this is \(tensor.dtype) \(describe(shape: tensor.shape))")
        }
        let value = FactorMatrix(tensor, in: file).doubles()[0]
        guard value.isFinite else {
            throw AdapterError(
                .invalidScale, path: file.path, subject: tensor.name,
                "the alpha is \(value.isNaN ? "NaN" : "infinite"), and must be a finite number")
        }
        return value
    }

    /// `dora_scale` is [out], [out,1,…] or [1,in,…]; which of the two axes is never guessed.
    static func magnitude(
        _ tensor: TensorInfo, outputs: Int, inputs: Int, in file: SafetensorsFile
    ) throws(AdapterError) -> Magnitude {
        let values = FactorMatrix(tensor, in: file)
        let isFlat = tensor.shape.count >= 2 && tensor.shape.dropFirst(2).allSatisfy { $0 == 1 }
        if tensor.shape == [outputs] || isFlat && tensor.shape[0] == outputs && tensor.shape[1] == 1 {
            return .ofRows(values.reshaped(rows: 1, columns: outputs))
        }
        guard isFlat, tensor.shape[0] == 1, tensor.shape[1] == inputs else {
            throw AdapterError(
                .invalidShape, path: file.path, subject: tensor.name,
                "its shape \(describe(shape: tensor.shape)) is neither one norm for each of \(outputs) outputs nor one for each of \(inputs) inputs")
        }
        return .ofColumns(values)
    }
}
