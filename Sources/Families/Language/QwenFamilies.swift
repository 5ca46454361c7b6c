/// The models of Qwen: text, mixtures, text and images.
enum QwenFamilies {
    static let rows: [ModelFamily] = [
        ModelFamily("qwen2", ggml: .init("qwen2")),
        ModelFamily("qwen3", ggml: .init("qwen3"), block: .llama(headNorms: true)),
        ModelFamily("qwen2_vl", "qwen2_5_vl", ggml: .init("qwen2vl"), mlx: .wrapped),
        ModelFamily("qwen3_vl", ggml: .init("qwen3vl"), mlx: .wrapped),
        ModelFamily("qwen2_5_omni", "qwen2_5_omni_thinker", memory: .init(thinker)),
        ModelFamily("qwen3_omni_moe", "qwen3_omni_moe_thinker", memory: .init(thinker), experts: .gated),
        ModelFamily("qwen3_5", "qwen3_5_moe", mlx: .wrapped),
        ModelFamily("qwen3_moe", "qwen3_next", "qwen3_omni_moe_text", experts: .gated),
        ModelFamily("qwen3_vl_moe", experts: .init(.loadedTransposed), mlx: .wrapped),
        ModelFamily("qwen3_vl_moe_text", experts: .init(.loadedTransposed)),
    ]

    static let thinker = ["^thinker"]
}
