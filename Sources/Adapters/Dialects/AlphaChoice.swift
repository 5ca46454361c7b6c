internal import Families
internal import JSON
internal import OrderedCollections
internal import Safetensors

/// The alpha of an adapter, as the user says it.
public enum AlphaChoice: Sendable, Equatable {
    /// What the file says.
    case ofFile
    /// The rank of each module, which gives the scale 1.
    case rank
    case number(Double)

    var number: Double? { if case .number(let value) = self { value } else { nil } }

    /// - Throws: `AdapterError.invalidScale` where the file gives a module another alpha, or a module has no rank to divide one by.
    func check(_ own: Double, rank: Int?, module: String, path: String) throws(AdapterError) {
        guard let rank else {
            guard self != .ofFile else { return }
            throw AdapterError(
                .invalidScale, path: path, subject: module, "none of its tensors has a rank, and an alpha that is asked for would be divided by one",
                cause: .hasOwnAlpha)
        }
        guard let wanted = self == .rank ? Double(rank) : number, wanted != own else { return }
        throw AdapterError(
            .invalidScale, path: path, subject: module,
            "the file gives the module the alpha \(own.plain), and \(wanted.plain) is asked for", cause: .hasOwnAlpha)
    }
}

/// The alphas of a file that has no configuration: beside the factors, else in the file's header, else the ranks.
///
/// Of the header, SGLang takes `alpha`, `lora_alpha` and `network_alpha`, diffusers `alpha` (for MiniMax-H3), and SimpleTuner writes
/// `transformer.lora_alpha` beside `transformer.r`. ComfyUI reads none of them. No program takes `ss_network_alpha`: sd-scripts writes
/// it for people to read, and the alphas beside the factors.
struct FileAlphas {
    private let path: String
    private let choice: AlphaChoice
    private let metadata: OrderedDictionary<String, String>
    /// Whether a file that says nothing has no scale, instead of the scale 1.
    private let mustBeGiven: Bool
    private var zeros = 0
    private var taken: OrderedDictionary<String, (alpha: Double, count: Int)> = [:]
    /// The field of the header in the place of which the alpha counts that was asked for.
    private var overruled: String?

    init(_ file: SafetensorsFile, choice: AlphaChoice, mustBeGiven: Bool = false) {
        (path, metadata, self.choice, self.mustBeGiven) = (file.path, file.metadata, choice, mustBeGiven)
    }

    private struct Stated {
        let field: String
        let alpha: Double
        let isRankStabilized: Bool
    }

    private static let fields = ["lora_alpha", "network_alpha", "alpha"]

    /// The alpha of a module, and its scale.
    ///
    /// - Parameter own: what stands beside the factors.
    mutating func alpha(own: Double?, rank: Int, component: String?, module: String) throws(AdapterError) -> (alpha: Double, scale: Double) {
        if let own {
            try choice.check(own, rank: rank, module: module, path: path)
            if own == 0 { zeros += 1 }
            return (own, own / Double(rank))
        }
        if let given = choice == .rank ? Double(rank) : choice.number {
            // The header is read by some programs and not by others, so that somebody must be able to say what counts.
            if let stated = try? stated(component), stated.alpha != given || stated.isRankStabilized { overruled = stated.field }
            return (given, given / Double(rank))
        }
        if let stated = try stated(component) {
            taken[stated.field, default: (stated.alpha, 0)].count += 1
            return (stated.alpha, stated.alpha / (stated.isRankStabilized ? Double(rank).squareRoot() : Double(rank)))
        }
        try refuseUnsettled(rank: rank)
        guard !mustBeGiven else {
            throw AdapterError(
                .missingFile, path: path,
                "there is no \(PEFT.configurationName) beside the file and no alpha in it, and without one the scale is not known",
                cause: .needsAlpha)
        }
        return (Double(rank), 1)
    }

    /// What the header says of a component's alpha.
    private func stated(_ component: String?) throws(AdapterError) -> Stated? {
        var found: [Stated] = []
        for field in Self.fields.map({ ("", $0) }) + componentFields(component).map({ ($0, "lora_alpha") }) {
            let name = field.0 + field.1
            guard let text = metadata[name], let alpha = try number(text, field: name) else { continue }
            if let pattern = metadata[field.0 + "alpha_pattern"], !["", "{}", "None", "null"].contains(pattern) {
                throw AdapterError(
                    .unsupportedFeature, path: path, subject: field.0 + "alpha_pattern", "alphas by pattern in the header are not supported")
            }
            let isStabilised = ["true", "1"].contains(metadata[field.0 + "use_rslora"]?.lowercased() ?? "")
            found.append(Stated(field: name, alpha: alpha, isRankStabilized: isStabilised))
        }
        // finetrainers writes its configuration as one object.
        if let text = metadata["lora_config"], let object = try? JSONValue(parsing: Array(text.utf8)), let alpha = object["lora_alpha"]?.doubleValue {
            found.append(Stated(field: "lora_config", alpha: alpha, isRankStabilized: object["use_rslora"]?.boolValue == true))
        }
        guard let first = found.first else { return nil }
        if let other = found.first(where: { $0.alpha != first.alpha || $0.isRankStabilized != first.isRankStabilized }) {
            throw AdapterError(
                .invalidScale, path: path, subject: other.field,
                "the header says \(first.field) \(first.alpha.plain) and \(other.field) \(other.alpha.plain)", cause: .hasSeveralAlphas)
        }
        return first
    }

    /// The beginnings of the fields that are about a component: `transformer.`.
    private func componentFields(_ component: String?) -> [String] {
        let ending = "lora_alpha"
        let named = metadata.keys.filter { $0.hasSuffix("." + ending) }.map { String($0.dropLast(ending.count)) }
        guard let component else { return named.count == 1 ? named : [] }
        return named.filter { DiffusionNames.canonical(String($0.dropLast())) == DiffusionNames.canonical(component) }
    }

    private func number(_ text: String, field: String) throws(AdapterError) -> Double? {
        guard !["", "None", "null"].contains(text) else { return nil }
        guard let value = Double(text), value.isFinite else {
            throw AdapterError(
                .invalidScale, path: path, subject: field,
                "the header says \"\(text.prefix(40))\", which is not a finite number", cause: .needsAlpha)
        }
        return value
    }

    /// The alphas beside the factors may have been multiplied into them, or lost, where the trainer's note of them is still there.
    private func refuseUnsettled(rank: Int) throws(AdapterError) {
        guard let alpha = metadata["ss_network_alpha"].flatMap(Double.init), alpha.isFinite else { return }
        let dimension = metadata["ss_network_dim"].flatMap(Double.init) ?? Double(rank)
        guard alpha != dimension else { return }
        throw AdapterError(
            .unsupportedFeature, path: path, subject: "ss_network_alpha",
            "the trainer noted the alpha \(alpha.plain) and the file has none beside the factors, so that it may be multiplied into them or lost",
            cause: .hasUnsettledAlpha(noted: alpha.plain))
    }

    var remarks: [String] {
        let taken = taken.map {
            "\($0.key) \($0.value.alpha.plain) in the header is the alpha of \($0.value.count) modules; ComfyUI does not read it and takes the scale 1"
        }
        let overruled = overruled.map { ["the alpha that was asked for counts, and not \($0) in the header"] } ?? []
        return taken + overruled
            + (zeros == 0 ? [] : ["the alpha of \(zeros) modules is 0: their updates change nothing, as in diffusers and ComfyUI"])
    }
}

extension Double {
    /// Whole numbers without a fraction, as nearly everyone writes alphas.
    var plain: String { Int(exactly: self).map(String.init) ?? String(self) }
}
