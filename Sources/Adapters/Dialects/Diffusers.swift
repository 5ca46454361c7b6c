internal import FileIO
internal import JSON
internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// The dialect of diffusers: one safetensors file for the components of a pipeline.
///
/// Today's files have PEFT's names behind the component's (`unet.….to_q.lora_A.weight`) and the configurations as JSON in the
/// header. Older ones name the factors `….processor.to_q_lora.down.weight`, `….to_q.lora.down.weight` or
/// `….q_proj.lora_linear_layer.down.weight`, with `….alpha` beside them or, where there is none, alpha = rank.
///
/// Source: diffusers 0.42, `loaders/lora_base.py`, `utils/state_dict_utils.py` and `utils/peft_utils.py`.
public enum Diffusers {
    public static let weightsName = "pytorch_lora_weights.safetensors"
    /// What the header calls the configurations.
    static let metadataKey = "lora_adapter_metadata"
    /// What the names of tensors may begin with. The authors of Flux, and ComfyUI, say `diffusion_model`.
    static let components = [
        "unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "prior", "diffusion_model",
    ]

    private static let endings: [(old: String, new: String)] = [
        (".to_out_lora.up.weight", ".to_out.0.lora_B.weight"), (".to_out_lora.down.weight", ".to_out.0.lora_A.weight"),
        ("_lora.up.weight", ".lora_B.weight"), ("_lora.down.weight", ".lora_A.weight"), (".lora.up.weight", ".lora_B.weight"),
        (".lora.down.weight", ".lora_A.weight"), (".lora_linear_layer.up.weight", ".lora_B.weight"),
        (".lora_linear_layer.down.weight", ".lora_A.weight"), (".to_out.lora_magnitude_vector", ".to_out.0.lora_magnitude_vector"),
        (".lora_up.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_A.weight"),
    ]
    /// What the oldest files call the projections of a text encoder.
    private static let textProjections: [(old: String, new: String)] = [
        (".to_q.lora_", ".q_proj.lora_"), (".to_k.lora_", ".k_proj.lora_"), (".to_v.lora_", ".v_proj.lora_"), (".to_out.0.lora_", ".out_proj.lora_"),
    ]
    private static let factorEndings = [".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B"]
    private static let alphaEnding = ".alpha"

    /// Whether a file may be of this dialect, by the names of its tensors.
    static func claims(_ file: SafetensorsFile) -> Bool {
        file.tensors.keys.prefix(Adapter.claimedNames).contains { name in
            factorEndings.contains(where: name.hasSuffix) || endings.contains { name.hasSuffix($0.old) }
        }
    }

    /// A tensor's name as PEFT has it.
    private static func renamed(_ name: String, isOfText: Bool) -> String {
        let peft = renamed(name)
        guard isOfText, let old = textProjections.first(where: { peft.contains($0.old) }) else { return peft }
        return peft.replacing(old.old, with: old.new)
    }

    private static func renamed(_ name: String) -> String {
        let plain = name.split(separator: ".", omittingEmptySubsequences: false).filter { $0 != "processor" }.joined(separator: ".")
        guard let ending = endings.first(where: { plain.hasSuffix($0.old) }) else { return plain }
        return plain.dropLast(ending.old.count) + ending.new
    }

    /// Reads an adapter. Every tensor of the file is part of a module, or the error names it.
    ///
    /// - Throws: `AdapterError`.
    static func read(_ file: SafetensorsFile, path: String, alpha: AlphaChoice) throws(AdapterError) -> Adapter {
        let stated = try configurations(of: file)
        // A model that is no pipeline has its configuration without a name in front, and its modules may begin like a component.
        return try read(file, path: path, stated: stated, isOneModel: stated["peft_type"] != nil, alphas: FileAlphas(file, choice: alpha))
    }

    /// Reads a file with the names that PEFT gives the tensors of one model, and no configuration.
    ///
    /// - Throws: `AdapterError`, also where neither the file nor the user gives an alpha.
    static func readOneModel(_ file: SafetensorsFile, path: String, alpha: AlphaChoice) throws(AdapterError) -> Adapter {
        let bare = file.renaming { $0.hasPrefix(PEFT.keyPrefix) ? String($0.dropFirst(PEFT.keyPrefix.count)) : $0 }
        guard bare.tensors.count == file.tensors.count else {
            throw AdapterError(.unexpectedTensor, path: path, "the file names some tensors with \(PEFT.keyPrefix) and others alike without it")
        }
        return try read(
            bare, path: path, stated: try configurations(of: file), isOneModel: true, alphas: FileAlphas(file, choice: alpha, mustBeGiven: true))
    }

    private static func read(
        _ file: SafetensorsFile, path: String, stated: OrderedDictionary<String, JSONValue>, isOneModel: Bool, alphas: FileAlphas
    ) throws(AdapterError) -> Adapter {
        var groups: OrderedDictionary<String?, [(info: TensorInfo, name: String)]> = [:]
        for tensor in file.tensors.values {
            let component = isOneModel ? nil : components.first { tensor.name.hasPrefix("\($0).") }
            let rest = String(tensor.name.dropFirst(component.map { $0.count + 1 } ?? 0))
            groups[component, default: []].append((tensor, renamed(rest, isOfText: component?.hasPrefix("text_encoder") == true)))
        }
        var alphas = alphas
        var (modules, replacements, remarks): ([AdapterModule], [Replacement], [String]) = ([], [], [])
        for (component, tensors) in groups {
            let configuration = component.map { members(of: stated, prefix: $0 + ".") } ?? stated
            guard !configuration.isEmpty else {
                modules += try SingleFileComponent(file, tensors, component: component).modules(&alphas)
                continue
            }
            var reading = PEFTReading(
                file: file, tensors: tensors, component: component,
                configuration: try PEFTConfiguration(.object(configuration), path: file.path), alphas: nil)
            try reading.read()
            modules += reading.modules
            replacements += reading.replacements
            remarks += reading.remarks
        }
        return Adapter(
            path: path, dialect: .diffusers, weightsPath: file.path, baseModel: stated["base_model_name_or_path"]?.stringValue, targets: [],
            taskType: stated["task_type"]?.stringValue, modules: modules, replacements: replacements, remarks: remarks + alphas.remarks,
            metadata: file.metadata)
    }

    /// The fields of the configurations in the header, with the component's name in front; none where there are none.
    private static func configurations(of file: SafetensorsFile) throws(AdapterError) -> OrderedDictionary<String, JSONValue> {
        guard let text = file.metadata[metadataKey] else { return [:] }
        func fault(_ message: String) -> AdapterError { AdapterError(.invalidConfiguration, path: file.path, subject: metadataKey, message) }
        let value: JSONValue
        do throws(JSONError) {
            value = try JSONValue(parsing: Array(text.utf8))
        } catch {
            throw fault("\(error)")
        }
        guard let members = value.objectValue else { throw fault("the field must be an object and is \(value.kind)") }
        return members
    }

    private static func members(of all: OrderedDictionary<String, JSONValue>, prefix: String) -> OrderedDictionary<String, JSONValue> {
        OrderedDictionary(uniqueKeysWithValues: all.filter { $0.key.hasPrefix(prefix) }.map { (String($0.key.dropFirst(prefix.count)), $0.value) })
    }
}
