internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// PEFT's VeRA: ΔW = diag(b)·B·diag(d)·A, with one frozen random A and B for all modules, of which each takes the first columns of A and
/// the first rows of B, and two trained vectors for each. As a LoRA it has the factors diag(d)·A and diag(b)·B and the scale one.
///
/// Source: Kopiczko, Blankevoort & Asano 2023, section 3; PEFT 0.21, `tuners/vera`.
enum VeRA {
    static let kind = "VERA"
    private static let allowed: Set<String> = [
        "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "task_type", "inference_mode", "r", "target_modules",
        "exclude_modules", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "fan_in_fan_out", "bias", "modules_to_save",
        "init_weights", "layers_to_transform", "layers_pattern", "runtime_config",
    ]

    private static func isEmpty(_ value: JSONValue) -> Bool {
        value.isNull || value.boolValue == false || value.arrayValue?.isEmpty == true || value.objectValue?.isEmpty == true
    }

    private struct Parts {
        var d: FactorMatrix?
        var b: FactorMatrix?
    }

    /// - Throws: `AdapterError`.
    static func read(_ file: SafetensorsFile, configuration: JSONValue, configurationPath: String, path: String) throws(AdapterError) -> Adapter {
        func refuse(_ field: String, _ why: String) -> AdapterError {
            AdapterError(.unsupportedFeature, path: configurationPath, subject: field, why)
        }
        for (name, value) in configuration.objectValue ?? [:] where !allowed.contains(name) && !isEmpty(value) {
            throw refuse(name, "the field is not known and might change the result; it is \(value.serialized())")
        }
        if let bias = configuration["bias"]?.stringValue, bias != "none" { throw refuse("bias", "trained biases of VeRA are not supported") }
        if let saved = configuration["modules_to_save"], !isEmpty(saved) {
            throw refuse("modules_to_save", "modules trained whole beside VeRA are not supported")
        }
        var (sharedA, sharedB): (FactorMatrix?, FactorMatrix?)
        var modules: OrderedDictionary<ModulePath, Parts> = [:]
        for tensor in file.tensors.values {
            func fault(_ code: AdapterError.Code, _ message: String) -> AdapterError {
                AdapterError(code, path: file.path, subject: tensor.name, message)
            }
            guard tensor.dtype.isFloat else {
                throw fault(.unsupportedDType, "a factor in \(tensor.dtype) is not supported; F32, BF16, F16 and F64 are")
            }
            let matrix = FactorMatrix(tensor, in: file)
            if tensor.name == "base_model.vera_A" || tensor.name == "base_model.vera_B" {
                guard tensor.shape.count == 2 else { throw fault(.invalidShape, "it must be a matrix and is \(describe(shape: tensor.shape))") }
                if tensor.name.hasSuffix("A") { sharedA = matrix } else { sharedB = matrix }
                continue
            }
            let isD = tensor.name.hasSuffix(".vera_lambda_d")
            guard tensor.name.hasPrefix(PEFT.keyPrefix), isD || tensor.name.hasSuffix(".vera_lambda_b"), tensor.shape.count == 1,
                let module = ModulePath(tensor.name.dropFirst(PEFT.keyPrefix.count).dropLast(".vera_lambda_d".count))
            else { throw fault(.unexpectedTensor, "the key is none of those of a VeRA adapter; nothing of an adapter may be left out") }
            if isD { modules[module, default: Parts()].d = matrix } else { modules[module, default: Parts()].b = matrix }
        }
        guard let sharedA, let sharedB else {
            throw AdapterError(
                .missingFactor, path: file.path,
                "the file does not hold the frozen vera_A and vera_B, which only PEFT's random numbers could give back; save the adapter with save_projection"
            )
        }
        var made: [AdapterModule] = []
        for (path, parts) in modules {
            guard let d = parts.d, let b = parts.b else {
                throw AdapterError(
                    .missingFactor, path: file.path, subject: path.text, "the module has \(parts.d == nil ? "no vera_lambda_d" : "no vera_lambda_b")")
            }
            made.append(
                try module(
                    path, d: d.doubles(), b: b.doubles(), sharedA: sharedA, sharedB: sharedB,
                    isTransposed: configuration["fan_in_fan_out"]?.boolValue ?? false, path: file.path))
        }
        guard !made.isEmpty else { throw AdapterError(.empty, path: file.path, "the file holds no tensor of an adapter") }
        return Adapter(
            path: path, dialect: .peft, weightsPath: file.path, baseModel: configuration["base_model_name_or_path"]?.stringValue,
            targets: configuration["target_modules"]?.arrayValue?.compactMap(\.stringValue) ?? [], taskType: configuration["task_type"]?.stringValue,
            modules: made)
    }

    /// The module with its vectors in its factors. The number of its inputs is that of the frozen A, which PEFT makes as wide as the widest
    /// module; `BaseModel` cuts it to the weight.
    static func module(
        _ path: ModulePath, d: [Double], b: [Double], sharedA: FactorMatrix, sharedB: FactorMatrix, isTransposed: Bool = false, path file: String
    ) throws(AdapterError) -> AdapterModule {
        let (rank, outputs) = (sharedA.rows, b.count)
        guard d.count == rank, sharedB.columns == rank, outputs <= sharedB.rows, rank > 0, sharedA.columns > 0, outputs > 0 else {
            throw AdapterError(
                .invalidShape, path: file, subject: path.text,
                "vectors of \(d.count) and \(outputs) elements do not fit the shared A \(describe(shape: sharedA.shape)) and B \(describe(shape: sharedB.shape))"
            )
        }
        // Products of two binary32 numbers are exact in binary64.
        let factors = AdapterModule.Factors(a: sharedA.scaled(rows: d), b: sharedB.rows(from: 0, count: outputs).scaled(rows: b))
        return AdapterModule(
            path: path, kind: isTransposed ? .transposedLinear : .linear, factors: [factors], alpha: Double(rank), scale: 1, sharesInputs: true)
    }
}
