internal import JSON
internal import OrderedCollections
internal import Tensors

/// What of a model is stored as codes with scales beside them.
public struct QuantizedWeights: Sendable {
    /// A weight in an encoding that is not read.
    public struct Found: Sendable {
        let encoding: WeightEncoding
        /// The tensor of codes.
        let codes: String
        /// The endings of the names of those beside it.
        let scales: [String]
        /// Why these tensors are not read, where others in the encoding are.
        var reason: String?

        /// One sentence.
        ///
        /// - Parameter statement: what else says that the model was quantized.
        public func sentence(statement: String?) -> String {
            let beside = scales.isEmpty ? "" : " with \(scales.joined(separator: ", "))"
            let statement = statement.map { "; \($0)" } ?? ""
            let why = reason ?? "which is not read as a base yet"
            return "the weight is quantized: \(encoding.name) (\(codes)\(beside)\(statement)), \(why); \(encoding.remedy)"
        }
    }

    /// Endings of the names of tensors that say how others are meant.
    private static let scaleEndings = [
        ".scales", ".biases", ".absmax", ".nested_absmax", ".quant_map", ".nested_quant_map", ".SCB", "_scale",
        "_scale_inv", "_scale_2", "_global_scale", "_zero_point", ".scale_weight", ".scale_input", "_amax",
        ".pre_quant_scale",
    ]
    /// Endings of the names of scales that belong to the serving of a quantized model and to none of its weights.
    private static let servingEndings = [".k_scale", ".v_scale", ".q_scale"]

    /// The model's tensors as they are stored, where anything may be quantized; nothing for any other model.
    private let stored: OrderedDictionary<String, StoredTensor>
    /// What `config.json` says, of the model or of each component of a pipeline, by what its names begin with.
    private let settings: [(prefix: String, settings: QuantizationSettings)]
    /// Tensors in floating point that keep their bits whatever the model's element type becomes: codes would mean
    /// something else.
    private let companions: Set<String>

    private var isAny: Bool { !stored.isEmpty }

    /// Whether the model holds codes of a weight.
    public var hasCodes: Bool { stored.contains { isCodesOfWeight($0.key, $0.value) } }

    /// - Parameter configuration: of a part of the model; read only where anything may be quantized.
    init(_ files: WeightFiles, configuration: (ModelWeights.Part) -> JSONValue?) {
        guard files.tensors.values.contains(where: { Self.codeTypes.contains($0.dtype) && !$0.shape.isEmpty }) else {
            (stored, settings, companions) = ([:], [], [])
            return
        }
        stored = files.stored
        settings = files.parts.map { ($0.prefix, QuantizationSettings(configuration($0))) }
        let codes = stored.filter { _, tensor in
            tensor.type.dtype.map { Self.codeTypes.contains($0) && !tensor.shape.isEmpty } ?? false
        }
        let modules = Set(codes.filter { $0.value.shape.count >= 2 && Self.isCodes($0.value) }.map { Self.module(of: $0.key) })
        companions =
            modules.isEmpty
            ? []
            : Set(
                files.tensors.keys.filter { name in
                    Self.scaleEndings.contains(where: name.hasSuffix) || modules.contains(Self.module(of: name))
                })
    }

    private static let codeTypes = WeightEncoding.codeTypes

    /// Whether a tensor holds the codes of a weight, and is no mask or table of numbers.
    private static func isCodes(_ tensor: StoredTensor) -> Bool {
        guard let dtype = tensor.type.dtype else { return false }
        return WeightEncoding.eightBits.contains(dtype) || dtype == .f4
            || [".weight", ".qweight", ".weight_packed", "._weight_qdata", "_blocks"].contains(where: tensor.name.hasSuffix)
    }

    /// The module of a tensor, or for a bare parameter of several tensors the parameter.
    private static func module(of name: String) -> Substring {
        if let range = name.firstRange(of: ".weight.") { return name[..<range.lowerBound] }
        for ending in ["_blocks", "_scales", "_scale_inv", "_scale", "_bias"]
        where name.hasSuffix(ending) && !name.hasSuffix(".weight" + ending) {
            return name.dropLast(ending.count)
        }
        guard let dot = name.lastIndex(of: ".") else { return name[...] }
        let isOfModule = ["weight", "qweight", "weight_packed", "_weight_qdata", "bias"].contains {
            name[name.index(after: dot)...] == $0
        }
        return isOfModule || Self.scaleEndings.contains(where: name.hasSuffix) ? name[..<dot] : name[...]
    }

    /// Whether a tensor says how codes are meant, and so may not be rounded to another element type.
    public func isCompanion(_ name: String) -> Bool { companions.contains(name) }

    /// What `config.json` calls the element type of the model's numbers, the model's own before that of its parts.
    public var elementTypes: [String] { settings.flatMap(\.settings.elementTypes) }

    /// What `config.json` says of the codes of a tensor.
    private func settings(of name: String) -> QuantizationSettings {
        settings.first { name.hasPrefix($0.prefix) }?.settings ?? QuantizationSettings(nil)
    }

    // MARK: Encodings

    /// The first encoding whose tensors are those of a stem.
    ///
    /// - Parameter codes: the name of the tensor of codes, from the one that the stem and an encoding's ending make.
    private func encoding(
        of stem: String, codes: (String) -> String?
    ) -> (encoding: WeightEncoding, tensors: EncodedTensors, scales: [String])? {
        let method = settings(of: stem).method
        for encoding in WeightEncoding.all {
            guard encoding.method == nil || encoding.method == method, let name = codes(stem + encoding.codes),
                name.hasSuffix(encoding.codes), let tensor = stored[name], let dtype = tensor.type.dtype,
                encoding.types.contains(dtype)
            else { continue }
            let own = name.dropLast(encoding.codes.count)
            var found: [String: StoredTensor] = [:]
            for ending in encoding.scales + encoding.others { found[ending] = stored[own + ending] }
            guard encoding.scales.allSatisfy({ found[$0] != nil }) else { continue }
            if let types = encoding.scaleTypes, let type = encoding.scales.first.flatMap({ found[$0]?.type.dtype }),
                !types.contains(type)
            {
                continue
            }
            let scales = encoding.scales + encoding.others.filter { found[$0] != nil }
            return (encoding, EncodedTensors(codes: tensor, scales: found), scales)
        }
        return nil
    }

    /// The encoding of a weight that an adapter names and that is not read, whether the model holds a tensor of this
    /// name or only its codes.
    ///
    /// - Parameters:
    ///   - isOfFile: whether the name is that of a tensor of the model's files.
    ///   - resolve: the name in the files of a tensor that an adapter names.
    public func unread(_ name: String, isOfFile: Bool, resolve: (String) -> String?) -> Found? {
        guard isAny else { return nil }
        let stem = name.hasSuffix(".weight") ? String(name.dropLast(".weight".count)) : name
        if let (encoding, tensors, scales) = encoding(of: stem, codes: isOfFile ? { $0 } : resolve) {
            return Found(encoding: encoding, codes: tensors.codes.name, scales: scales, reason: reason(encoding, tensors, settings(of: stem)))
        }
        let scales = Self.scaleEndings.map { $0.hasPrefix(".") ? $0 : ".weight" + $0 }.filter { stored[stem + $0] != nil }
        return scales.isEmpty ? nil : Found(encoding: .unknown, codes: name, scales: scales)
    }

    /// Why the tensors of a weight in an encoding that is read are not.
    private func reason(_ encoding: WeightEncoding, _ tensors: EncodedTensors, _ settings: QuantizationSettings) -> String? {
        guard let reader = encoding.reader else { return nil }
        do throws(EncodingError) {
            _ = try reader(tensors, settings)
            return nil
        } catch {
            return error.message
        }
    }

    /// The weights that are read as what their codes stand for, and the tensors that they take the place of.
    func decoded() -> Decoded {
        var decoded = Decoded()
        for (key, tensor) in stored where isCodesOfWeight(key, tensor) {
            for ending in Self.readEndings where key.hasSuffix(ending) {
                let stem = String(key.dropLast(ending.count))
                guard let (encoding, tensors, scales) = encoding(of: stem, codes: { $0 }), stem + encoding.codes == key,
                    let reader = encoding.reader
                else { continue }
                guard let decoder = try? reader(tensors, settings(of: key)) else { break }
                decoded.weights[key] = StoredWeight(
                    name: key, dtype: .f32, shape: decoder.shape, source: EncodedWeight(encoding, decoder))
                decoded.companions.formUnion(scales.map { stem + $0 })
                if !decoded.encodings.contains(where: { $0.name == encoding.name }) { decoded.encodings.append(encoding) }
                break
            }
            if decoded.weights[key] == nil { decoded.unread.append(key) }
        }
        guard !decoded.weights.isEmpty else { return decoded }
        // A parameter of the model may be called so, too, but is more than one number.
        decoded.leftOut = stored.keys.filter { name in
            Self.servingEndings.contains(where: name.hasSuffix) && stored[name]?.elementCount == 1
        }
        let used = decoded.companions.union(decoded.leftOut)
        decoded.stray = stored.keys.filter { name in Self.readScaleEndings.contains(where: name.hasSuffix) && !used.contains(name) }
        return decoded
    }

    private func isCodesOfWeight(_ key: String, _ tensor: StoredTensor) -> Bool {
        guard let dtype = tensor.type.dtype else { return false }
        return tensor.shape.count >= 2 && Self.codeTypes.contains(dtype) && Self.isCodes(tensor)
            && !Self.scaleEndings.contains(where: key.hasSuffix)
    }

    /// The endings of the names of codes that are read.
    private static let readEndings = Set(WeightEncoding.all.filter { $0.reader != nil }.map(\.codes)).sorted { $1.count < $0.count }

    /// The endings of the names of what stands beside them.
    private static let readScaleEndings = Set(WeightEncoding.all.filter { $0.reader != nil }.flatMap { $0.scales + $0.others } + [".weight_scale"])

    /// What becomes of tensors where codes are read.
    struct Decoded {
        /// By the names of their codes.
        var weights: [String: StoredWeight] = [:]
        /// Tensors that say how codes are meant, and mean nothing without them.
        var companions: Set<String> = []
        /// Scales that belong to no weight.
        var leftOut: [String] = []
        /// Tensors that are called as scales are and stand beside no codes.
        var stray: [String] = []
        /// Each once, in the order of the files.
        var encodings: [WeightEncoding] = []
        /// Codes in encodings that are not read.
        var unread: [String] = []
    }
}
