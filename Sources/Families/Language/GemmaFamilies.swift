/// The models of Gemma.
enum GemmaFamilies {
    static let rows: [ModelFamily] = [
        ModelFamily("gemma", ggml: .init("gemma")),
        ModelFamily("gemma2", ggml: .init("gemma2")),
        ModelFamily("gemma3_text", ggml: .init("gemma3")),
        ModelFamily("gemma3", ggml: .init("gemma3"), mlx: .wrapped),
        ModelFamily(
            "gemma4_unified",
            memory: .init(
                [
                    "^vision_embedder.patch_dense embed_vision.patch_dense",
                    "embed_vision.embedding_projection embed_vision.multimodal_embedder.embedding_projection",
                ], hidesInnerModel: true, knowsAllModules: false)),
        ModelFamily("gemma3n", mlx: .init(languageModel: .kept)),
        ModelFamily("gemma4", mlx: .init(experts: ["experts", "switch_glu"], languageModel: .wrapped)),
        ModelFamily("gemma4_assistant", "gemma4_unified_assistant", memory: .kept),
        ModelFamily("gemma4_text", mlx: .init(experts: ["experts", "switch_glu"])),
        ModelFamily("shieldgemma2", memory: .init(outerPrefix: "model.")),
    ]
}
