/// Other language models without experts.
enum DecoderFamilies {
    static let rows: [ModelFamily] = [
        // The files were published without the inner model.
        ModelFamily(
            "gpt2",
            memory: .init(frame: .ofInnerModel(parts: ["wte", "wpe", "h", "ln_f"]), innerModel: "transformer"),
            ties: .init(omitsInnerModel: true), transposedModules: inFirst, mlx: .gpt2),
        ModelFamily(
            "bloom",
            memory: .init(
                frame: .ofInnerModel(parts: ["word_embeddings", "word_embeddings_layernorm", "h", "ln_f"]),
                innerModel: "transformer"),
            ties: .init(omitsInnerModel: true)),
        ModelFamily("openai-gpt", ties: .init(omitsInnerModel: true), transposedModules: inFirst),
        ModelFamily("imagegpt", "decision_transformer", transposedModules: inFirst),
        ModelFamily("gptj", mlx: .gpt2),
        ModelFamily(
            "gpt_neox",
            mlx: .init([
                .init("gpt_neox.layers", "model.h"), .init("gpt_neox.embed_in", "model.embed_in"),
                .init("embed_out", "model.embed_out"),
            ])),
        ModelFamily("opt", ties: .init(omitsInnerModel: true)),
        ModelFamily("olmo2", ggml: .init("olmo2")),
        ModelFamily("phi3", ggml: .init("phi3", own: [GGMLNaming.fusedGateAndUp])),
        ModelFamily("nemotron_h", memory: .init(["^backbone"]), mlx: .init(MLXNaming.routing)),
        ModelFamily(
            "dory",
            memory: .init([
                "^backbone", "embeddings embed_tokens", "self_attn.g_proj self_attn.gate_proj",
            ])),
        ModelFamily("lfm3", memory: .init(["self_attn.gate_proj self_attn.g_proj"])),
        ModelFamily(
            "exaone",
            memory: .init([
                "^transformer.wte embed_tokens", "^transformer.h layers", "^transformer.ln_f norm",
                "attn.attention self_attn", "self_attn.out_proj self_attn.o_proj", "ln_1 input_layernorm",
                "ln_2 post_attention_layernorm", "mlp.c_fc_0 mlp.gate_proj", "mlp.c_fc_1 mlp.up_proj",
                "mlp.c_proj mlp.down_proj",
            ])),
        ModelFamily("biogpt", ties: .init(head: "output_projection")),
        ModelFamily(
            "bitnet",
            mlx: .init(
                refusal: "of this family mlx-lm has layers of a class of its own (BitLinear), which it does not adapt")),
        ModelFamily("ctrl", ties: .pair("transformer.w", "lm_head"), embeddingModules: ["w"]),
        // Norms and convolutions have names in memory that are not known here.
        ModelFamily("kolibri1", "lara_mini", "olmo_hybrid", memory: .init(knowsAllModules: false)),
        ModelFamily(
            "nanochat",
            mlx: .init(
                refusal:
                    "mlx-lm has the names of nanochat's own checkpoints for this family, and they are not known here")),
        ModelFamily("rwkv", ties: .init(head: "head")),
        ModelFamily("xlnet", ties: .init(head: "lm_loss")),
        ModelFamily("zamba", "zamba2", ties: .init(tiesLayers: true)),
    ]

    /// The layers that GPT-2 calls convolutions.
    private static let inFirst: Set<String> = ["c_attn", "q_attn", "c_proj", "c_fc"]
}
