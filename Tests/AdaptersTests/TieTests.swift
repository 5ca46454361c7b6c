import Adapters
import FileIO
import JSON
import OrderedCollections
import Safetensors
import Tensors
import TestModels
import TestSupport
import Testing
import Verification
import Weights

/// Embeddings and heads that are one matrix: where they are found, and what becomes of them.
struct TieTests {
    private typealias Case = AdapterKindTests.Case

    /// A model by what its files hold, and the tie that it has.
    struct Model: CustomTestStringConvertible, Sendable {
        let names: [String]
        let configuration: JSONValue
        /// The members of its tie, the one first that the files hold.
        let tie: [String]?
        let bias: [String]?

        init(_ names: [String], _ configuration: JSONValue = ["tie_word_embeddings": true], tie: [String]?, bias: [String]? = nil) {
            self.names = names
            self.configuration = configuration
            self.tie = tie
            self.bias = bias
        }

        var testDescription: String { names[0] }
    }

    private static let embedding = "model.embed_tokens.weight"
    private static let head = "lm_head.weight"
    private static let isTied: JSONValue = ["tie_word_embeddings": true]
    private static let isNot: JSONValue = ["tie_word_embeddings": false]

    static let models: [Model] = [
        Model([embedding], tie: [embedding, head]),
        // Without a word of it the files decide, and against one.
        Model([embedding], [:], tie: [embedding, head]),
        Model([embedding], isNot, tie: nil),
        Model([embedding], ["text_config": isTied, "tie_word_embeddings": false], tie: [embedding, head]),
        Model([embedding], ["text_config": isNot], tie: nil),
        Model(["model.language_model.embed_tokens.weight"], tie: ["model.language_model.embed_tokens.weight", head]),
        Model(["language_model.model.embed_tokens.weight"], [:], tie: ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"]),
        Model(["model.text_model.embed_tokens.weight"], tie: ["model.text_model.embed_tokens.weight", head]),
        Model(
            ["thinker.model.embed_tokens.weight"], ["thinker_config": ["text_config": isTied]],
            tie: ["thinker.model.embed_tokens.weight", "thinker.lm_head.weight"]),
        Model(["transformer.wte.weight"], ["model_type": "gpt2"], tie: ["transformer.wte.weight", head]),
        Model(["wte.weight"], ["model_type": "gpt2"], tie: ["wte.weight", head]),
        Model(["word_embeddings.weight"], ["model_type": "bloom"], tie: ["word_embeddings.weight", head]),
        Model(["gpt_neox.embed_in.weight"], tie: ["gpt_neox.embed_in.weight", "embed_out.weight"]),
        Model(["backbone.embeddings.weight"], tie: ["backbone.embeddings.weight", head]),
        Model(["model.decoder.embed_tokens.weight"], ["model_type": "whisper"], tie: ["model.decoder.embed_tokens.weight", "proj_out.weight"]),
        Model(
            ["shared.weight", "encoder.block.0.weight", "decoder.block.0.weight"],
            tie: ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", head]),
        Model(
            ["model.shared.weight", "model.encoder.layers.0.weight", "model.decoder.layers.0.weight"], [:],
            tie: ["model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", head]),
        Model(
            ["bert.embeddings.word_embeddings.weight", "cls.predictions.transform.dense.weight", "cls.predictions.bias"], [:],
            tie: ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"],
            bias: ["cls.predictions.bias", "cls.predictions.decoder.bias"]),
        Model(
            ["roberta.embeddings.word_embeddings.weight", "lm_head.dense.weight"], [:],
            tie: ["roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"]),
        // Families that call them otherwise. Nothing depends on the name of a class.
        Model(
            ["model.decoder.embed_tokens.weight"], ["model_type": "moonshine"],
            tie: ["model.decoder.embed_tokens.weight", "proj_out.weight"]),
        Model(
            ["model.embeddings.tok_embeddings.weight", "head.dense.weight"], ["model_type": "modernbert-decoder"],
            tie: ["model.embeddings.tok_embeddings.weight", "decoder.weight"]),
        Model(["transformer.w.weight"], ["model_type": "ctrl"], tie: ["transformer.w.weight", head]),
        Model(["transformer.w.weight"], ["model_type": "ctrl", "tie_word_embeddings": false], tie: nil),
        Model(
            ["transformer.embeddings.weight"], ["model_type": "xlm", "architectures": ["XLMModel"]],
            tie: ["transformer.embeddings.weight", "pred_layer.proj.weight"]),
        Model(
            ["bert.embeddings.word_embeddings.weight", "lm_head.bias"], ["model_type": "bert-generation"],
            tie: ["bert.embeddings.word_embeddings.weight", "lm_head.decoder.weight"], bias: ["lm_head.bias", "lm_head.decoder.bias"]),
        Model(
            ["speecht5.decoder.prenet.embed_tokens.weight"], ["model_type": "speecht5"],
            tie: ["speecht5.decoder.prenet.embed_tokens.weight", "text_decoder_postnet.lm_head.weight"]),
        Model(["funnel.embeddings.word_embeddings.weight"], ["model_type": "funnel"], tie: ["funnel.embeddings.word_embeddings.weight", head]),
        // One head is of one embedding.
        Model(["model.layers.1.embed_tokens.weight", embedding], tie: [embedding, head]),
        Model(["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"], tie: ["model.decoder.embed_tokens.weight", head]),
        Model(
            ["decoder.model.decoder.embed_tokens.weight"],
            ["tie_word_embeddings": false, "decoder": ["model_type": "trocr", "tie_word_embeddings": true]],
            tie: ["decoder.model.decoder.embed_tokens.weight", "decoder.output_projection.weight"]),
        // Models without a head of their vocabulary.
        Model(["bert.embeddings.word_embeddings.weight", "classifier.weight"], [:], tie: nil),
        Model(["embeddings.word_embeddings.weight"], [:], tie: nil),
        Model(["model.embed_tokens.weight", "score.weight"], tie: nil),
        Model(["embed_tokens.weight"], ["model_type": "qwen2", "tie_word_embeddings": true], tie: nil),
        Model(["language_model.embed_tokens.weight"], ["model_type": "qwen3_vl", "tie_word_embeddings": true], tie: nil),
        Model(["decoder.embed_tokens.weight"], ["model_type": "moonshine", "architectures": ["MoonshineForConditionalGeneration"]], tie: nil),
        Model(["shared.weight", "encoder.block.0.weight"], ["model_type": "t5"], tie: nil),
        Model(["shared.weight", "encoder.layers.0.weight", "decoder.layers.0.weight"], ["model_type": "bart"], tie: nil),
        Model(["transformer.embeddings.weight", "sequence_summary.summary.weight"], ["model_type": "xlm"], tie: nil),
        Model(["transformer.embeddings.weight", "qa_outputs.start_logits.dense.weight"], ["model_type": "flaubert"], tie: nil),
        Model(["funnel.embeddings.word_embeddings.weight", "discriminator_predictions.dense.weight"], ["model_type": "funnel"], tie: nil),
        Model(["transformer.w.weight", "classifier.weight"], ["model_type": "ctrl"], tie: nil),
        Model(["perceiver.input_preprocessor.embeddings.weight"], ["model_type": "perceiver"], tie: nil),
        Model(
            ["model.decoder.embed_tokens.weight", "score.out_proj.weight"], ["model_type": "t5gemma", "tie_word_embeddings": true], tie: nil),
    ]

    @Test(arguments: models)
    func tiesAreFoundByTheFilesAndTheConfiguration(model: Model) throws {
        let folder = try TemporaryFolder()
        try writeSafetensors(model.names.map { TestTensor($0, .f32, [2, 2], values: [1, 2, 3, 4]) }, to: folder.path("model.safetensors"))
        try writeText(model.configuration.serialized(), folder.path("config.json"))
        let base = try BaseModel(path: folder.path)
        #expect(base.ties.map(\.members) == [model.tie, model.bias].compactMap { $0 })
        #expect(base.ties.first?.head == model.tie?.last)
    }

    /// W + s·(BA)ᵀ of an embedding [8, 4], of which the adapter gets the factors.
    private func updated(_ item: Case, _ module: String, _ name: String) -> [Double] {
        let a = item.add("\(module).lora_embedding_A", [2, 8])
        let b = item.add("\(module).lora_embedding_B", [4, 2])
        return item.weights(name).enumerated().map { place, weight in
            weight + 1.5 * (0..<2).reduce(0) { $0 + b[place % 4 * 2 + $1] * a[$1 * 8 + place / 4] }
        }
    }

    private func configuration(_ item: Case) throws -> JSONValue { try JSONValue(parsing: try readAll(item.folder.path("merged/config.json"))) }

    private func verdict(_ item: Case) throws -> MergeVerdict {
        try MergeVerifier.verify(
            base: item.basePath, adapters: [.init(try Adapter.read(path: item.folder.path("adapter")))], merged: item.folder.path("merged"))
    }

    @Test func aModelOfTextAndImagesIsSeparatedInAllItsConfiguration() throws {
        let item = try Case()
        let name = "model.language_model.embed_tokens.weight"
        item.modelConfiguration = [
            "architectures": ["Qwen3VLForConditionalGeneration"], "tie_word_embeddings": true, "vision_config": ["tie_word_embeddings": true],
            "text_config": ["tie_word_embeddings": true, "vocab_size": 8],
        ]
        item.addBase(name, [8, 4])
        let head = item.weights(name)
        try item.expect([name: updated(item, "model.language_model.embed_tokens", name), "lm_head.weight": head])
        let merged = try configuration(item)
        #expect(merged["tie_word_embeddings"] == false && merged["text_config"]?["tie_word_embeddings"] == false)
        // Tied again by its configuration, some programs drop the head.
        for field in ["tie_word_embeddings", "text_config"] {
            var fields = try #require(merged.objectValue)
            fields[field] = item.modelConfiguration[field]
            try writeText(JSONValue.object(fields).serialized(), item.folder.path("merged/config.json"))
            #expect(try verdict(item).faults.map(\.code) == [.configurationDiffers])
            fields[field] = nil
            try writeText(JSONValue.object(fields).serialized(), item.folder.path("merged/config.json"))
            #expect(try verdict(item).faults.map(\.code) == [.configurationDiffers])
        }
        try FileSystem.remove(item.folder.path("merged/model.safetensors"))
        try writeSafetensors(item.base, to: item.folder.path("merged/model.safetensors"))
        #expect(try verdict(item).faults.contains { $0.code == .tiedHeadOverwritten })
    }

    @Test func aHeadThatTheFilesHoldDecides() throws {
        let item = try Case()
        let name = "model.embed_tokens.weight"
        item.modelConfiguration["tie_word_embeddings"] = true
        item.addBase(name, [8, 4])
        item.addBase("lm_head.weight", [8, 4])
        let embedding = updated(item, "model.embed_tokens", name)
        // The configuration is wrong, and the head its own.
        try item.expect([name: embedding])
        #expect(try configuration(item)["tie_word_embeddings"] == false)
        // The same matrix twice.
        item.base[1].bytes = item.base[0].bytes
        try item.expect([name: embedding])
        #expect(try configuration(item)["tie_word_embeddings"] == false)
        // Rows are trained for both then, and one of the two may be left out.
        item.adapter.removeAll()
        item.configuration["trainable_token_indices"] = [3]
        let row = item.add("model.embed_tokens.token_adapter.trainable_tokens_delta", [1, 4])
        var rows = item.weights(name)
        rows.replaceSubrange(12..<16, with: row)
        try item.expect([name: rows, "lm_head.weight": rows])
        #expect(try configuration(item)["tie_word_embeddings"] == true)
        let merged = try writtenTensor(name, item)
        try writeSafetensors([merged], to: item.folder.path("merged/model.safetensors"))
        #expect(try verdict(item).passes)
    }

    private func writtenTensor(_ name: String, _ item: Case) throws -> TestTensor {
        let files = try BaseModel(path: item.folder.path("merged")).files
        let weight = try files.weight(named: name)
        return TestTensor(name, weight.dtype, weight.shape, bytes: try read(name, from: files))
    }

    /// What ensure_weight_tying saves, and what is extracted from two tied models: the factors of the head are the embedding's, transposed.
    @Test(arguments: [true, nil]) func twoModulesWithOneUpdateStayOne(isSaid: Bool?) throws {
        let item = try Case()
        let name = "model.embed_tokens.weight"
        item.modelConfiguration["tie_word_embeddings"] = true
        item.configuration["ensure_weight_tying"] = isSaid.map { .bool($0) }
        item.addBase(name, [8, 4])
        let expected = updated(item, "model.embed_tokens", name)
        func transposed(_ tensor: TestTensor, _ name: String) -> TestTensor {
            let (rows, columns, width) = (tensor.shape[0], tensor.shape[1], tensor.dtype.bitWidth / 8)
            var bytes: [UInt8] = []
            for place in 0..<rows * columns {
                let start = (place % rows * columns + place / rows) * width
                bytes += tensor.bytes[start..<start + width]
            }
            return TestTensor("base_model.model.lm_head.\(name).weight", tensor.dtype, [columns, rows], bytes: bytes)
        }
        item.adapter += [transposed(item.adapter[1], "lora_A"), transposed(item.adapter[0], "lora_B")]
        try item.expect([name: expected])
        #expect(try configuration(item)["tie_word_embeddings"] == true)
        // Held twice it is the same model, unless the two differ.
        let merged = try writtenTensor(name, item)
        try writeSafetensors(
            [merged, TestTensor("lm_head.weight", .bf16, [8, 4], bytes: merged.bytes)], to: item.folder.path("merged/model.safetensors"))
        #expect(try verdict(item).passes)
        try writeSafetensors(
            [merged, TestTensor("lm_head.weight", .bf16, [8, 4], bytes: item.base[0].bytes)], to: item.folder.path("merged/model.safetensors"))
        #expect(try !verdict(item).passes)
    }

    /// What unties the head would untie layers of which there is one copy.
    @Test func sharedLayersKeepTheHead() throws {
        let item = try Case()
        item.modelConfiguration = ["model_type": "zamba2", "tie_word_embeddings": true, "architectures": ["Zamba2ForCausalLM"]]
        item.addBase("model.embed_tokens.weight", [8, 4])
        _ = updated(item, "model.embed_tokens", "model.embed_tokens.weight")
        let error = #expect(throws: MergeError.self) { try item.expect([:]) }
        #expect(error?.code == .tiedWeights && error?.message.contains("unties its shared layers") == true, "\(error as Any)")
    }

    @Test func aBiasIsSeparatedWithItsHead() throws {
        let item = try Case()
        let (name, head) = ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder")
        item.modelConfiguration = ["model_type": "bert", "architectures": ["BertForMaskedLM"]]
        item.addBase(name, [8, 4])
        item.addBase("cls.predictions.transform.dense.weight", [4, 4])
        item.addBase("cls.predictions.bias", [8])
        let weights = item.weights(name)
        try item.expect([
            name: updated(item, "bert.embeddings.word_embeddings", name), head + ".weight": weights,
            head + ".bias": item.weights("cls.predictions.bias"),
        ])
    }

    /// The bias of a masked-LM head is one parameter of two names, of which an adapter brings one.
    @Test(arguments: ["bias", "decoder.bias"])
    func whatIsBroughtForOneNameOfABiasIsForBoth(parameter: String) throws {
        let item = try Case()
        let (name, head) = ("bert.embeddings.word_embeddings.weight", "cls.predictions")
        item.modelConfiguration = ["model_type": "bert", "architectures": ["BertForMaskedLM"], "tie_word_embeddings": true]
        item.addBase(name, [8, 4])
        item.addBase("\(head).transform.dense.weight", [4, 4])
        item.addBase("\(head).bias", [8])
        item.addBase("bert.pooler.dense.weight", [4, 4])
        item.configuration["modules_to_save"] = ["cls.predictions", "cls.predictions.decoder"]
        let bias = item.add("\(head).\(parameter)", [8])
        // What is one parameter stays one.
        try item.expect(["\(head).bias": bias])
        #expect(try configuration(item)["tie_word_embeddings"] == true)
        // The embedding alone separates it from the head, and both names keep what was trained.
        let embedding = updated(item, "bert.embeddings.word_embeddings", name)
        let separated = ["\(head).bias": bias, "\(head).decoder.bias": bias, name: embedding, "\(head).decoder.weight": item.weights(name)]
        try item.expect(separated)
        #expect(try verdict(item).passes)
        // The base's bias under the name that the head computes with is a fault.
        var tensors = try separated.keys.map { try writtenTensor($0, item) } + item.base[1...].filter { $0.name != "\(head).bias" }
        let place = try #require(tensors.firstIndex { $0.name == "\(head).decoder.bias" })
        tensors[place].bytes = try #require(item.base.first { $0.name == "\(head).bias" }).bytes
        try writeSafetensors(tensors, to: item.folder.path("merged/model.safetensors"))
        #expect(try !verdict(item).passes)
    }

    @Test func encodersAndDecodersAreSeparated() throws {
        let item = try Case()
        item.modelConfiguration = ["model_type": "bart", "tie_word_embeddings": true]
        item.addBase("model.shared.weight", [8, 4])
        item.addBase("model.encoder.layers.0.fc1.weight", [4, 4])
        item.addBase("model.decoder.layers.0.fc1.weight", [4, 4])
        let weights = item.weights("model.shared.weight")
        try item.expect([
            "model.encoder.embed_tokens.weight": updated(item, "model.encoder.embed_tokens", "model.shared.weight"),
            "model.decoder.embed_tokens.weight": weights, "lm_head.weight": weights,
        ])
        // A head that is scaled because it is tied cannot be separated.
        item.modelConfiguration["model_type"] = "t5"
        try item.refused(.tiedWeights)
    }
}
