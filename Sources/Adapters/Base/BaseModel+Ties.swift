internal import Families
public import JSON
internal import OrderedCollections
internal import Safetensors
internal import Weights

extension BaseModel {
    /// Tensors that are one in memory: an embedding and a head, and in encoder–decoder models the embeddings of both sides; or the biases of
    /// a head of several layers.
    public struct Tie: Sendable, Equatable {
        /// The tensor that the files hold: the embedding, where it is no bias.
        public let source: String
        /// The name that the head's own tensor has in models that are not tied.
        public let head: String
        /// All names of the tensor, the source's first. Those of which the files hold other values are none, which only the values tell.
        public let members: [String]
        /// The part of `config.json` that describes the model with the embedding: empty, or the name of one member.
        let tower: String
        /// Whether the configuration says it.
        let isStated: Bool

        var isOfBiases: Bool { source.hasSuffix(".bias") }
    }

    /// Whether a tensor's name is that of a table of token embeddings.
    static func isEmbedding(_ name: String) -> Bool { isWeight(name, of: VocabularyNames.embeddings) }

    /// Whether the rows of a tensor of this name are the entries of the vocabulary: an embedding's or a head's.
    static func isVocabulary(_ name: String) -> Bool {
        isWeight(name, of: VocabularyNames.embeddings.union(VocabularyNames.heads))
            || VocabularyNames.heads.contains { name == "\($0).bias" || name.hasSuffix(".\($0).bias") }
    }

    /// Whether a name may be that of a tensor of an embedding or a head in some model.
    static func mayBeVocabulary(_ name: String) -> Bool {
        isVocabulary(name) || name.split(separator: ".").dropLast().last.map { VocabularyNames.otherHeads.contains(String($0)) } ?? false
    }

    /// Whether a tensor of this model has the entries of a vocabulary as its rows.
    func isVocabulary(_ name: String) -> Bool { Self.isVocabulary(name) || tie(of: name) != nil }

    private static func isWeight(_ name: String, of modules: Set<Substring>) -> Bool {
        guard name.hasSuffix(".weight") else { return false }
        let module = Substring(name.utf8.dropLast(".weight".utf8.count))
        return modules.contains(module.utf8.lastIndex(of: UInt8(ascii: ".")).map { module[module.utf8.index(after: $0)...] } ?? module)
    }

    /// The ties of a model. The files decide: a head that they hold is its own, unless its values are the embedding's; one that
    /// they do not hold is the embedding, unless the configuration denies it or the model has no head. No name of a class and
    /// no default of one is needed for that.
    static func ties(of files: ModelWeights, configuration: JSONValue?) -> [Tie] {
        guard !files.isPipeline else { return [] }
        if let ties = familyTies(of: files, configuration) { return ties }
        // The first of those that might have one head: the outermost, and of two sides the decoder's.
        let embeddings = files.tensors.keys.filter(isEmbedding).map { (name: $0, depth: $0.count { $0 == "." }, isInner: $0.contains("encoder.")) }
            .sorted { ($0.depth, $0.isInner ? 1 : 0, $0.name) < ($1.depth, $1.isInner ? 1 : 0, $1.name) }.map(\.name)
        func sharedModule(_ embedding: String) -> String? {
            VocabularyNames.sharedEmbeddings.first { embedding.hasSuffix("\($0).weight") }
        }
        let shared = embeddings.filter { sharedModule($0) != nil }
        var ties: [Tie] = []
        var sides: Set<String> = []
        for embedding in shared {
            guard let module = sharedModule(embedding) else { continue }
            let root = String(embedding.dropLast("\(module).weight".count))
            let present = VocabularyNames.sides.filter { side in files.tensors.keys.contains { $0.hasPrefix("\(root)\(side).") } }
            let members = present.map { "\(root)\($0).\(module == "shared" ? "embed_tokens" : module).weight" }
            sides.formUnion(members)
            // An encoder alone continues no text.
            if !present.isEmpty, !present.contains(where: { $0.hasSuffix("decoder") }) { continue }
            ties += Self.ties(embedding, sides: members, of: files, configuration)
        }
        for embedding in embeddings where !shared.contains(embedding) && !sides.contains(embedding) {
            ties += Self.ties(embedding, sides: [], of: files, configuration)
        }
        var heads: Set<String> = []
        return ties.filter { heads.insert($0.head).inserted }
    }

    /// The tie of the two matrices that the family's row names. `nil` where the weights are those of another model of the
    /// family, such as one for another task, and where the row names none.
    private static func familyTies(of files: ModelWeights, _ configuration: JSONValue?) -> [Tie]? {
        guard let pair = family(of: configuration)?.ties.pair,
            files.tensors["\(pair.embedding).weight"] != nil, !hasTaskHead([], in: files),
            !(["lm_head"] + VocabularyNames.otherHeads).contains(where: { $0 != pair.head && files.tensors["\($0).weight"] != nil })
        else { return nil }
        let statements = statements(configuration)
        guard statements.isEmpty || statements.contains(true) else { return [] }
        func tie(_ source: String, _ head: String) -> Tie {
            Tie(source: source, head: head, members: [source, head], tower: "", isStated: statements.contains(true))
        }
        let bias = (pair.head.split(separator: ".").dropLast() + ["bias"]).joined(separator: ".")
        let weights = tie("\(pair.embedding).weight", "\(pair.head).weight")
        return pair.head.hasSuffix(".decoder") && files.tensors[bias] != nil ? [weights, tie(bias, "\(pair.head).bias")] : [weights]
    }

    private static func family(of configuration: JSONValue?) -> ModelFamily? {
        ModelFamilies.family(of: configuration?["model_type"]?.stringValue ?? "")
    }

    private static func ties(_ embedding: String, sides: [String], of files: ModelWeights, _ configuration: JSONValue?) -> [Tie] {
        let components = embedding.split(separator: ".").dropLast()
        let tower = components.first.map { ["\($0)_config", String($0)] }?.first { name in
            components.count > 2 && !textParts.contains(name) && configuration?[name]?.objectValue != nil
        }
        let root = tower.flatMap { configuration?[$0] } ?? configuration
        let statements = statements(root)
        guard statements.isEmpty || statements.contains(true), let head = head(of: Array(components), in: files, configuration: root)
        else { return [] }
        func made(_ source: String, _ sides: [String], _ head: String) -> Tie {
            Tie(source: source, head: head, members: [source] + sides + [head], tower: tower ?? "", isStated: statements.contains(true))
        }
        let weights = made(embedding, sides, head)
        let layer = head.dropLast(".weight".count)
        let bias = (layer.split(separator: ".").dropLast() + ["bias"]).joined(separator: ".")
        // The last of several layers has the bias that the files name after the whole head.
        guard layer.hasSuffix(".decoder"), files.tensors[bias] != nil else { return [weights] }
        return [weights, made(bias, [], "\(layer).bias")]
    }

    /// The tensor of the head that belongs to an embedding.
    private static func head(of embedding: [Substring], in files: ModelWeights, configuration: JSONValue?) -> String? {
        func has(_ module: String) -> Bool { files.tensors[module + ".weight"] != nil }
        func path(_ outer: ArraySlice<Substring>, _ module: String) -> String { (outer.map(String.init) + [module]).joined(separator: ".") }
        /// The nearest first.
        let places = embedding.indices.reversed().map { embedding[..<$0] }
        for outer in places {
            if let stored = (["lm_head"] + VocabularyNames.otherHeads).first(where: { has(path(outer, $0)) }) {
                return path(outer, stored) + ".weight"
            }
        }
        let inner = embedding.dropLast().firstIndex(where: VocabularyNames.innerModels.contains)
        let outer = embedding[..<(inner ?? max(0, embedding.count - 2))]
        let ties = family(of: configuration)?.ties ?? .init()
        guard !ties.hasNoHead, !hasTaskHead(outer, in: files), !isOfInnerModel(embedding, configuration) else { return nil }
        for outer in places {
            if let layered = VocabularyNames.layeredHeads.first(where: { has(path(outer, $0.layer)) }) {
                return path(outer, layered.matrix) + ".weight"
            }
        }
        // An encoder has a head only where some layer of it is stored.
        guard embedding.dropLast().last != "embeddings" else { return nil }
        let name = ties.head ?? (embedding.last == "embed_in" ? "embed_out" : "lm_head")
        return path(outer, name) + ".weight"
    }

    /// Whether the files hold a head for another task beside the inner model.
    private static func hasTaskHead(_ outer: ArraySlice<Substring>, in files: ModelWeights) -> Bool {
        VocabularyNames.taskHeads.contains { files.tensors[(outer.map(String.init) + [$0, "weight"]).joined(separator: ".")] != nil }
    }

    /// Whether the names are those of an inner model alone, which has no head. Whole models have its name in front, in all
    /// families but a few. Without a `model_type` there is no family to ask.
    private static func isOfInnerModel(_ embedding: [Substring], _ configuration: JSONValue?) -> Bool {
        let types = MemoryNames.models(in: configuration)
        guard !types.isEmpty, embedding.dropLast().allSatisfy(VocabularyNames.innerParts.contains) else { return false }
        return !ModelFamilies.families(of: types).contains(where: \.ties.omitsInnerModel)
    }

    // MARK: Configuration

    public static let tieField = "tie_word_embeddings"
    /// The members of a configuration that describe the language model in a model of text and more.
    private static let textParts = ["text_config", "llm_config", "language_config"]

    /// What a configuration says of ties: for itself, and for its part for the text.
    private static func statements(_ configuration: JSONValue?) -> [Bool] {
        ([configuration] + textParts.map { configuration?[$0] }).compactMap { $0?[tieField]?.boolValue }
    }

    /// The configuration with a statement, wherever a library looks for it, that the embedding and the head are not tied.
    static func untying(_ configuration: JSONValue, tower: String) -> JSONValue {
        guard var members = configuration.objectValue else { return configuration }
        guard tower.isEmpty else {
            if let part = members[tower] { members[tower] = untying(part, tower: "") }
            return .object(members)
        }
        members[tieField] = false
        for name in textParts {
            guard var part = members[name]?.objectValue else { continue }
            part[tieField] = false
            members[name] = .object(part)
        }
        return .object(members)
    }

    /// The fields of a configuration, with the names of the members around them, that say whether embedding and head are tied.
    public static func tieFields(of configuration: JSONValue) -> [(name: String, value: JSONValue)] {
        var fields: [(String, JSONValue)] = []
        for (name, member) in configuration.objectValue ?? [:] {
            if name == tieField { fields.append((name, member)) }
            if member.objectValue != nil { fields += tieFields(of: member).map { ("\(name).\($0.name)", $0.value) } }
        }
        return fields
    }

    /// Whether the configuration cannot say that the head is a matrix of its own without changing what the model computes.
    var scalesTiedHead: Bool { family?.ties.scalesTiedHead ?? false }

    /// Whether the field that ties the head ties other layers as well.
    var tiesLayers: Bool { family?.ties.tiesLayers ?? false }

    // MARK: Names

    /// The names of tied matrices that the files do not hold under these names.
    static func absentNames(of ties: [Tie], in files: ModelWeights) -> [String] {
        ties.flatMap(\.members).filter { files.tensors[$0] == nil }
    }

    /// The name of a tied matrix that the files do not hold under this name.
    func tiedName(_ name: String) -> String? {
        let absent = Self.absentNames(of: ties, in: files)
        if absent.contains(name) { return name }
        // The files of the inner model, or of the whole one where the adapter was trained on the inner one.
        func inner(_ name: String) -> Substring { name.split(separator: ".", maxSplits: 1).last ?? "" }
        let meant = Set(absent.filter { inner($0) == name || inner(name) == $0 })
        if let member = meant.first, meant.count == 1 { return member }
        // What some families call otherwise in their files is `lm_head` in memory.
        guard name == "lm_head.weight", ties.count == 1, let head = ties.first?.head, absent.contains(head) else { return nil }
        return VocabularyNames.otherHeads.contains { head == "\($0).weight" } ? head : nil
    }

    /// The tie of which a tensor is a member.
    public func tie(of name: String) -> Tie? { ties.first { $0.members.contains(name) } }
}
