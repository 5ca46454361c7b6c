/// Encoders of text.
enum EncoderFamilies {
    static let rows: [ModelFamily] = [
        ModelFamily(
            "ultrabert",
            memory: .init(["^ultrabert", "^cls head.decoder"]), ties: .pair("model.embed_tokens", "head.decoder")),
        ModelFamily("ultravbert", memory: .init(["^head.decoder lm_head", "^head projection_head"])),
        ModelFamily("jina_embeddings_v3", memory: .init(nomic, innerModel: "roberta", knowsAllModules: false)),
        ModelFamily(
            "nomic_bert",
            memory: .init(
                nomic + ["fc11 up_proj", "fc12 gate_proj", "mlp.fc2 mlp.down_proj"], innerModel: "nomic_bert",
                knowsAllModules: false)),
        ModelFamily(
            "gte",
            memory: .init(
                ["^new", "encoder.layer layers", "attention.o_proj self_attn.o_proj"], innerModel: "gte",
                knowsAllModules: false)),
        ModelFamily("bert-generation", ties: .pair("bert.embeddings.word_embeddings", "lm_head.decoder")),
        // The head is a layer inside `pred_layer`.
        ModelFamily("flaubert", "xlm", ties: .pair("transformer.embeddings", "pred_layer.proj")),
        ModelFamily("funnel", ties: .pair("funnel.embeddings.word_embeddings", "lm_head")),
        // Their modules can be merged, but not every name in memory is known.
        ModelFamily("hrm_text", "jev", "tipsv2_text_model", memory: .unknown),
        ModelFamily("openai_privacy_filter", experts: .init(.marked)),
        ModelFamily("perceiver", ties: .init(hasNoHead: true)),
    ]

    static let nomic = [
        "encoder.layers layers", "attn.out_proj self_attn.o_proj", "mixer.out_proj self_attn.o_proj",
    ]
}
