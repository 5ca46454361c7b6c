internal import Families
internal import FileIO
internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Tensors
public import Weights

/// Where the modules and tensors of adapters lie in the model.
extension BaseModel {
    /// The name under which the merged model holds a tensor that an adapter names; `nil` if the base has no such tensor, or has several that may be
    /// meant.
    public func resolve(_ name: String) -> String? {
        let found = candidates(for: name)
        return found.count == 1 ? found[0] : nil
    }

    /// The tensors that an adapter may mean by a name: that of this name, or else those that have it without the model around, or have it in memory, or in mlx-lm.
    func candidates(for name: String) -> [String] {
        if files.tensors[name] != nil { return [name] }
        if let known = tiedName(name) { return [known] }
        let found = Self.candidates(for: name, outerNames: outerNames) { files.tensors[$0] != nil ? [$0] : [] }
        if !found.isEmpty { return found }
        let inMemory = memory.value.candidates(for: name)
        guard inMemory.isEmpty, let original = MLXFamilies(self).original(of: name) else { return inMemory }
        return files.tensors[original] != nil ? [original] : memory.value.candidates(for: original)
    }

    /// The tensors of a name without its first component: the files are those of the inner model; or else with another one in front: the adapter was
    /// trained on the inner model.
    static func candidates(for name: String, outerNames: Set<Substring>, in tensors: (String) -> [String]) -> [String] {
        if let dot = name.firstIndex(of: "."), !isTower(name[..<dot]) {
            let inner = tensors(String(name[name.index(after: dot)...]))
            if !inner.isEmpty { return inner }
        }
        return outerNames.filter { !isTower($0) }.flatMap { tensors("\($0).\(name)") }.sorted()
    }

    /// Whether a model of this name is one part beside others, whose layers may have the same names, and no model around the one that is meant.
    private static func isTower(_ name: Substring) -> Bool {
        CompositeNames.sides.contains(name) || CompositeNames.towers.contains(where: name.hasPrefix)
    }

    /// What the merged model's tensor `name` is made from; for a tied matrix of which the files have another name that one.
    ///
    /// - Precondition: `resolve` gave the name.
    func source(of name: String) -> StoredWeight? {
        files.tensors[name] ?? tie(of: name).flatMap { files.tensors[$0.source] }
    }

    /// The matrices that a module of an adapter updates: one, or those that make it, one below the other.
    func places(of module: AdapterModule) -> [ModuleIndex.Place] {
        let found = candidates(for: module.parameterName)
        if found.count == 1 { return [.init(tensor: found[0], component: nil, relation: .whole, module: module.path.text)] }
        guard found.isEmpty, module.parameter == "weight" else { return [] }
        return index.places(of: module.path.text, component: module.component)
    }

    /// Where a tensor goes that an adapter brings whole: into the place of the model's, or beside them.
    func place(ofWhole tensor: String, adapter: String) throws(MergeError) -> String {
        let found = candidates(for: tensor)
        guard found.count < 2 else { throw missing(tensor, adapter: adapter) }
        if found.isEmpty, let found = unread(tensor, isOfFile: false) { throw refusal(found, of: tensor) }
        return found.first ?? tensor
    }

    /// The tensor that an adapter names, in a type that can be merged.
    func tensor(
        _ wanted: String, adapter: String, replaced: [String: StoredWeight] = [:]
    ) throws(MergeError) -> (name: String, weight: StoredWeight) {
        guard let name = resolve(wanted), let weight = (replaced[name] ?? source(of: name)) else { throw missing(wanted, adapter: adapter) }
        if replaced[name] == nil, let found = unread(name, isOfFile: true) { throw refusal(found, of: name) }
        guard weight.dtype.isFloat else {
            throw MergeError(
                .unsupportedDType, path: path, tensor: name,
                "a weight in \(weight.dtype) cannot be merged; F32, BF16, F16 and F64 can, so convert the base first")
        }
        return (name, weight)
    }

    // MARK: Refusals

    /// Why a tensor that an adapter names is not among the model's.
    func missing(_ name: String, adapter: String) -> MergeError {
        let several = candidates(for: name)
        if several.isEmpty, let found = unread(name, isOfFile: false) { return refusal(found, of: name) }
        guard several.isEmpty else {
            return MergeError(
                .moduleNotInBase, path: adapter, tensor: name,
                "the base holds several tensors that may be meant, \(several.prefix(3).joined(separator: " and ")); give the adapter's module the name of one of them"
            )
        }
        if let component = Self.components.first(where: { name.hasPrefix($0 + ".") }), files.isPipeline, files.component(of: name) == nil {
            let own = files.parts.map(\.name).joined(separator: ", ")
            return MergeError(.moduleNotInBase, path: adapter, tensor: name, "the base has no component \(component); it has \(own)")
        }
        guard let nearest = nearest(to: name) else {
            return MergeError(
                .moduleNotInBase, path: adapter, tensor: name, "the base holds no tensor of this name, and none that ends like it; \(whyMissing)")
        }
        let why = isBeyond(name, nearest) ? "the adapter was made for a model with more layers or experts" : whyMissing
        return MergeError(
            .moduleNotInBase, path: adapter, tensor: name, "the base holds no tensor of this name, and the nearest is \(nearest); \(why)")
    }

    /// Whether two names differ in the numbers of layers or experts alone, and the base has none of that number.
    private func isBeyond(_ name: String, _ nearest: String) -> Bool {
        let (wanted, there) = (name.split(separator: "."), nearest.split(separator: "."))
        guard wanted.count == there.count, zip(wanted, there).allSatisfy({ $0 == $1 || Int($0) != nil && Int($1) != nil }),
            let differing = zip(wanted, there).enumerated().first(where: { $0.element.0 != $0.element.1 })?.offset
        else { return false }
        let beginning = wanted[...differing].joined(separator: ".") + "."
        return !files.tensors.keys.contains { $0.hasPrefix(beginning) }
    }

    /// Components of pipelines that adapters are for.
    private static let components = ["unet", "transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3"]

    /// What may be the reason where a name is not found.
    private var whyMissing: String {
        guard configuration != nil else {
            return
                "either the adapter was made for another architecture, or its names are of another layout; more names are known where config.json, which names the family, lies beside the weights"
        }
        let family = configuration?["model_type"]?.stringValue.map { "the family \"\($0)\"" } ?? "this family"
        return
            "either the adapter was made for another architecture, or \(family) has other names in memory than in its files, which this program does not know"
    }

    /// The tensor whose name has the longest end in common with a name, and then the longest beginning.
    private func nearest(to name: String) -> String? {
        guard let dot = name.lastIndex(of: ".") else { return nil }
        func common(_ a: some Sequence<UInt8>, _ b: some Sequence<UInt8>) -> Int { zip(a, b).prefix { $0 == $1 }.count }
        let least = name[dot...].utf8.count
        var best: (name: String, end: Int, beginning: Int)?
        for other in files.tensors.keys {
            let end = common(other.utf8.reversed(), name.utf8.reversed())
            guard end >= max(least, best?.end ?? 0) else { continue }
            let beginning = common(other.utf8, name.utf8)
            guard end > least || beginning > 0, best.map({ ($0.end, $0.beginning) < (end, beginning) }) ?? true else { continue }
            best = (other, end, beginning)
        }
        return best?.name
    }

    private func refusal(_ found: QuantizedWeights.Found, of name: String) -> MergeError {
        MergeError(.quantizedBase, path: path, tensor: name, found.sentence(statement: quantizationStatement))
    }

    /// The encoding of a weight that is stored as codes and not read.
    private func unread(_ name: String, isOfFile: Bool) -> QuantizedWeights.Found? {
        if isOfFile, files.tensors[name]?.encoded != nil { return nil }
        return quantization.unread(name, isOfFile: isOfFile, resolve: resolve)
    }

    /// What else says that the model was quantized.
    private var quantizationStatement: String? {
        if let method = QuantizationSettings(configuration).method { return "quant_method \(method)" }
        return files.shards.contains { $0.metadata["_quantization_metadata"] != nil } ? "ComfyUI's _quantization_metadata" : nil
    }
}

extension ModelWeights {
    /// Refuses a GGUF file, which has other names, and the rows of some weights in another order.
    ///
    /// - Throws: `MergeError.quantizedBase`.
    public func requireSafetensors(_ sentence: String) throws(MergeError) {
        guard shards.contains(where: { $0.gguf != nil }) else { return }
        throw MergeError(.quantizedBase, path: path, sentence)
    }

    /// Likewise, of a model that is held against a base.
    public func requireComparable() throws(MergeError) {
        try requireSafetensors("this is a GGUF file, which is not compared with a base yet; name the model that it was made from, in safetensors")
    }
}
