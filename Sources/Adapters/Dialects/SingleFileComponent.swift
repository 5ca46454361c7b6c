internal import JSON
internal import Safetensors
internal import Tensors

/// The tensors of a component in a file without a configuration: factors, and beside them alphas and magnitudes.
struct SingleFileComponent {
    private let file: SafetensorsFile
    private let component: String?
    private var factors: [(info: TensorInfo, name: String)] = []
    private var alphas: [(info: TensorInfo, module: Substring)] = []
    private var magnitudes: [(info: TensorInfo, module: Substring)] = []

    private static let alphaEnding = ".alpha"
    private static let factorEndings = [".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B"]
    /// OneTrainer's name of a magnitude, as LyCORIS has it, and ai-toolkit's.
    private static let magnitudeEndings = [".dora_scale", ".magnitude"]
    /// What old files have between a module and its alpha.
    private static let ownerEndings = [".lora_linear_layer", ".lora.down", ".lora", ".down"]

    /// - Throws: `AdapterError.unsupportedFeature` for a tensor of another method.
    init(_ file: SafetensorsFile, _ tensors: [(info: TensorInfo, name: String)], component: String?) throws(AdapterError) {
        self.file = file
        self.component = component
        for (info, name) in tensors {
            if name.hasSuffix(Self.alphaEnding) {
                alphas.append((info, name.dropLast(Self.alphaEnding.count)))
            } else if let ending = Self.magnitudeEndings.first(where: name.hasSuffix) {
                magnitudes.append((info, name.dropLast(ending.count)))
            } else if let refusal = OtherMethods.refusal(of: info.name, path: file.path) {
                throw refusal
            } else {
                factors.append((info, name))
            }
        }
    }

    /// - Throws: `AdapterError`.
    func modules(_ alphasOfFile: inout FileAlphas) throws(AdapterError) -> [AdapterModule] {
        var reading = PEFTReading(
            file: file, tensors: factors, component: component,
            configuration: try PEFTConfiguration(["peft_type": "LORA", "r": 1, "lora_alpha": 1], path: file.path), alphas: [:])
        let names = Set(
            factors.compactMap { _, name in
                Self.factorEndings.first(where: name.hasSuffix).map { String(name.dropLast($0.count)) }
            })
        var own: [String: Double] = [:]
        for (info, module) in alphas {
            own[try owner(of: info, module, among: names, what: "an alpha")] = try Kohya.scalar(info, in: file)
        }
        var norms: [String: TensorInfo] = [:]
        for (info, module) in magnitudes { norms[try owner(of: info, module, among: names, what: "a magnitude")] = info }
        if !factors.isEmpty { try reading.read() }
        var made: [AdapterModule] = []
        for module in reading.modules {
            let (alpha, scale) = try alphasOfFile.alpha(
                own: own[module.path.text], rank: module.rank, component: component, module: module.label.text)
            let inputs = module.inputs / module.kernel.reduce(1, &*)
            let magnitude = try norms[module.path.text].map { norm throws(AdapterError) in
                try Kohya.magnitude(norm, outputs: module.outputs, inputs: inputs, in: file)
            }
            made.append(module.changing { ($0.alpha, $0.scale, $0.magnitude) = (alpha, scale, magnitude ?? $0.magnitude) })
        }
        return made
    }

    /// The module that is meant. Old files say which factor the alpha is beside, and a module may itself be called `down`.
    private func owner(of info: TensorInfo, _ name: Substring, among modules: Set<String>, what: String) throws(AdapterError) -> String {
        if modules.contains(String(name)) { return String(name) }
        for ending in Self.ownerEndings where name.hasSuffix(ending) {
            let shorter = String(name.dropLast(ending.count))
            if modules.contains(shorter) { return shorter }
        }
        throw AdapterError(.unexpectedTensor, path: file.path, subject: info.name, "the file gives \(what) for the module \(name) and no factors")
    }
}
