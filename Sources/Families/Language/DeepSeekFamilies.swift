/// Mixtures with the attention or the routers of DeepSeek.
enum DeepSeekFamilies {
    static let rows: [ModelFamily] = [
        ModelFamily(
            "deepseek", "bailing_moe", "bailing_moe_linear", "deepseek_v41", "deepseek_v41_text",
            mlx: .init(MLXNaming.routing)),
        ModelFamily("deepseek_v2", "glm4_moe", experts: .gated, mlx: .init(MLXNaming.routing)),
        ModelFamily(
            "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash",
            experts: .gated, mlx: .init(MLXNaming.splitting + MLXNaming.routing)),
        ModelFamily(
            "bailing_hybrid",
            memory: .init(bailing, knowsAllModules: false), mlx: .init(MLXNaming.splitting + MLXNaming.routing)),
        ModelFamily("sarvam_moe", memory: .init(bailing)),
        ModelFamily("glm5_next", "glm5_next_text", memory: .init(forgetGate, knowsAllModules: false)),
        ModelFamily(
            "kimi_linear",
            memory: .init(forgetGate, knowsAllModules: false), mlx: .init(MLXNaming.splitting)),
        ModelFamily(
            "deepseek_v4",
            memory: .init(
                [
                    "^embed embed_tokens", "^head lm_head", "attn self_attn", "ffn mlp", "attn_norm input_layernorm",
                    "ffn_norm post_attention_layernorm", "indexer.compressor compressor.indexer",
                    "self_attn.indexer.weights_proj self_attn.compressor.indexer.scorer.weights_proj",
                    "self_attn.indexer.wq_b self_attn.compressor.indexer.q_b_proj", "wq_a q_a_proj",
                    "self_attn.wq_b self_attn.q_b_proj", "wkv kv_proj", "wgate gate_proj", "wo_a o_a_proj",
                    "wo_b o_b_proj", "shared_experts.w1 shared_experts.gate_proj",
                    "shared_experts.w2 shared_experts.down_proj", "shared_experts.w3 shared_experts.up_proj",
                ], knowsAllModules: false)),
        ModelFamily(
            "bailing_moe_v3", "joyai_llm_flash", "kimi_k2",
            mlx: .init(MLXNaming.splitting + MLXNaming.routing)),
        ModelFamily("kimi_k3", "mistral4", mlx: .init(MLXNaming.splitting)),
        ModelFamily("mistral_large4", memory: .unknown),
        ModelFamily("mistral_large4_text", memory: .init(hidesInnerModel: true)),
        ModelFamily("sarvam_mla", experts: .gated),
    ]

    static let bailing = [
        "word_embeddings embed_tokens", "attention self_attn", "self_attn.dense self_attn.o_proj",
        "self_attn.f_proj self_attn.forget_gate.f_proj", "self_attn.query_layernorm self_attn.q_norm",
        "self_attn.key_layernorm self_attn.k_norm",
    ]

    static let forgetGate = [
        "self_attn.f_a_proj self_attn.forget_gate.f_a_proj", "self_attn.f_b_proj self_attn.forget_gate.f_b_proj",
    ]
}
