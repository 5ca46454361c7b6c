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

    /// The modules that embed tokens. Which of them are ties, the rest of the model tells.
    private static let embeddingModules: Set<Substring> = [
        "embed_tokens", "wte", "word_embeddings", "word_embedding", "tok_embeddings", "tokens_embed", "embed_in", "embeddings", "shared",
    ]
    private static let headModules: Set<Substring> = ["lm_head", "embed_out"]

    /// The heads that models call otherwise than `lm_head`.
    private static let familyHeads = [
        "whisper": "proj_out", "xlnet": "lm_loss", "rwkv": "head", "biogpt": "output_projection", "trocr": "output_projection",
    ]
    private static let otherHeads = ["embed_out", "output", "output_layer", "proj_out", "output_projection", "lm_loss", "head"]

    /// Heads of several layers. Their other layers are in the files even where the last one is the embedding's matrix.
    private static let layeredHeads: [(matrix: String, layer: String)] = [
        ("cls.predictions.decoder", "cls.predictions.transform.dense"), ("lm_head.decoder", "lm_head.dense"),
        ("predictions.decoder", "predictions.dense"), ("vocab_projector", "vocab_transform"),
        ("generator_lm_head", "generator_predictions.dense"), ("decoder", "head.dense"),
    ]

    /// Classes whose names say neither by their parts. Source: transformers 5.24, `_tied_weights_keys`.
    private static let knownTies: [String: (embedding: String, head: String)] = [
        "BertGenerationDecoder": ("bert.embeddings.word_embeddings", "lm_head.decoder"), "CTRLLMHeadModel": ("transformer.w", "lm_head"),
        "CanaryForConditionalGeneration": ("model.decoder.embed_tokens", "proj_out"),
        "CohereAsrForConditionalGeneration": ("model.decoder.embed_tokens", "proj_out"),
        "FlaubertWithLMHeadModel": ("transformer.embeddings", "pred_layer.proj"),
        "FunnelForMaskedLM": ("funnel.embeddings.word_embeddings", "lm_head"),
        "KyutaiSpeechToTextForConditionalGeneration": ("model.embed_tokens.embed_tokens", "lm_head"),
        "ModernBertDecoderForCausalLM": ("model.embeddings.tok_embeddings", "decoder"),
        "MoonshineForConditionalGeneration": ("model.decoder.embed_tokens", "proj_out"),
        "MoonshineStreamingForConditionalGeneration": ("model.decoder.embed_tokens", "proj_out"),
        "SpeechT5ForSpeechToText": ("speecht5.decoder.prenet.embed_tokens", "text_decoder_postnet.lm_head"),
        "T5GemmaForConditionalGeneration": ("model.decoder.embed_tokens", "lm_head.out_proj"),
        "UltrabertForMaskedLM": ("model.embed_tokens", "head.decoder"), "XLMWithLMHeadModel": ("transformer.embeddings", "pred_layer.proj"),
    ]

    /// The heads of models for other tasks than language.
    private static let taskHeads = ["score", "classifier", "qa_outputs"]

    /// The names of inner models, beside which the head lies.
    private static let innerModels: Set<Substring> = ["model", "transformer", "backbone", "gpt_neox", "rwkv"]

    /// Whether a tensor's name is that of a table of token embeddings.
    static func isEmbedding(_ name: String) -> Bool { isWeight(name, of: embeddingModules) }

    /// Whether the rows of a tensor of this name are the entries of the vocabulary: an embedding's or a head's.
    static func isVocabulary(_ name: String) -> Bool {
        isWeight(name, of: embeddingModules.union(headModules)) || headModules.contains { name == "\($0).bias" || name.hasSuffix(".\($0).bias") }
    }

    /// Whether a name may be that of a tensor of an embedding or a head in some model.
    static func mayBeVocabulary(_ name: String) -> Bool {
        isVocabulary(name) || name.split(separator: ".").dropLast().last.map { otherHeads.contains(String($0)) } ?? false
    }

    /// Whether a tensor of this model has the entries of a vocabulary as its rows.
    func isVocabulary(_ name: String) -> Bool { Self.isVocabulary(name) || tie(of: name) != nil }

    private static func isWeight(_ name: String, of modules: Set<Substring>) -> Bool {
        guard name.hasSuffix(".weight") else { return false }
        let module = Substring(name.utf8.dropLast(".weight".utf8.count))
        return modules.contains(module.utf8.lastIndex(of: UInt8(ascii: ".")).map { module[module.utf8.index(after: $0)...] } ?? module)
    }

    /// The ties of a model. The files decide: a head that they hold is its own, unless its values are the embedding's; one that
    /// they do not hold is the embedding, unless the configuration denies it or the model has no head. No default of a model's
    /// class is needed for that.
    static func ties(of files: ModelWeights, configuration: JSONValue?) -> [Tie] {
        guard !files.isPipeline else { return [] }
        if let tie = knownTie(of: files, configuration) { return tie }
        // The first of those that might have one head: the outermost, and of two sides the decoder's.
        let embeddings = files.tensors.keys.filter(isEmbedding).map { (name: $0, depth: $0.count { $0 == "." }, isInner: $0.contains("encoder.")) }
            .sorted { ($0.depth, $0.isInner ? 1 : 0, $0.name) < ($1.depth, $1.isInner ? 1 : 0, $1.name) }.map(\.name)
        let shared = embeddings.filter { $0.hasSuffix("shared.weight") || $0.hasSuffix("word_embeddings.weight") }
        var ties: [Tie] = []
        var sides: Set<String> = []
        for embedding in shared {
            let module = embedding.hasSuffix("shared.weight") ? "shared" : "word_embeddings"
            let root = String(embedding.dropLast("\(module).weight".count))
            let members = ["encoder", "decoder", "text_encoder", "text_decoder"].filter { side in
                files.tensors.keys.contains { $0.hasPrefix("\(root)\(side).") }
            }.map { "\(root)\($0).\(module == "shared" ? "embed_tokens" : module).weight" }
            sides.formUnion(members)
            ties += Self.ties(embedding, sides: members, of: files, configuration)
        }
        for embedding in embeddings where !shared.contains(embedding) && !sides.contains(embedding) {
            ties += Self.ties(embedding, sides: [], of: files, configuration)
        }
        var heads: Set<String> = []
        return ties.filter { heads.insert($0.head).inserted }
    }

    /// The ties of a class whose embedding or head the rules below would take for another; `nil` for every other class.
    private static func knownTie(of files: ModelWeights, _ configuration: JSONValue?) -> [Tie]? {
        let names = configuration?["architectures"]?.arrayValue?.compactMap(\.stringValue) ?? []
        guard names.count == 1, let known = knownTies[names[0]], files.tensors["\(known.embedding).weight"] != nil else { return nil }
        let statements = statements(configuration)
        guard statements.isEmpty || statements.contains(true) else { return [] }
        func tie(_ source: String, _ head: String) -> Tie {
            Tie(source: source, head: head, members: [source, head], tower: "", isStated: statements.contains(true))
        }
        let bias = (known.head.split(separator: ".").dropLast() + ["bias"]).joined(separator: ".")
        let weights = tie("\(known.embedding).weight", "\(known.head).weight")
        return known.head.hasSuffix(".decoder") && files.tensors[bias] != nil ? [weights, tie(bias, "\(known.head).bias")] : [weights]
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
            if let stored = (["lm_head"] + otherHeads).first(where: { has(path(outer, $0)) }) { return path(outer, stored) + ".weight" }
        }
        let inner = embedding.dropLast().firstIndex(where: innerModels.contains)
        let outer = embedding[..<(inner ?? max(0, embedding.count - 2))]
        guard !taskHeads.contains(where: { has(path(outer, $0)) }), !isHeadless(configuration, isInner: inner == nil) else { return nil }
        for outer in places {
            if let layered = layeredHeads.first(where: { has(path(outer, $0.layer)) }) { return path(outer, layered.matrix) + ".weight" }
        }
        // An encoder has a head only where some layer of it is stored.
        guard embedding.dropLast().last != "embeddings" else { return nil }
        let name = familyHeads[configuration?["model_type"]?.stringValue ?? ""] ?? (embedding.last == "embed_in" ? "embed_out" : "lm_head")
        return path(outer, name) + ".weight"
    }

    /// Whether the configuration names a class without a head of its vocabulary.
    ///
    /// - Parameter isInner: whether the names of the tensors may be those of an inner model alone.
    private static func isHeadless(_ configuration: JSONValue?, isInner: Bool) -> Bool {
        let names = configuration?["architectures"]?.arrayValue?.compactMap(\.stringValue) ?? []
        return !names.isEmpty
            && names.allSatisfy { name in
                ["Classification", "QuestionAnswering", "MultipleChoice", "NextSentencePrediction"].contains(where: name.hasSuffix)
                    || isInner && name.hasSuffix("Model") && !name.hasSuffix("HeadModel") && !name.hasSuffix("HeadsModel")
            }
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

    /// Families whose code multiplies what goes into the head by a constant where the configuration calls the head tied, and only there.
    private static let scalingFamilies: Set<String> = ["t5", "mt5", "umt5", "longt5", "switch_transformers", "udop", "pop2piano"]

    /// Whether the configuration cannot say that the head is a matrix of its own without changing what the model computes.
    var scalesTiedHead: Bool { Self.scalingFamilies.contains(configuration?["model_type"]?.stringValue ?? "") }

    /// Families that tie other layers by the same field, of which the files hold one copy.
    private static let familiesOfTiedLayers: Set<String> = ["zamba", "zamba2"]

    var tiesLayers: Bool { Self.familiesOfTiedLayers.contains(configuration?["model_type"]?.stringValue ?? "") }

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
        return Self.otherHeads.contains { head == "\($0).weight" } ? head : nil
    }

    /// The tie of which a tensor is a member.
    public func tie(of name: String) -> Tie? { ties.first { $0.members.contains(name) } }
}
