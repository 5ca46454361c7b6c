/// Llama and the models with its blocks.
enum LlamaFamilies {
    static let rows: [ModelFamily] = [
        ModelFamily("llama", "mistral", ggml: .init("llama", interleaved: ["attn_q", "attn_k"]), block: .llama()),
        ModelFamily("smollm", block: .llama()),
        ModelFamily(
            "llama4",
            memory: .kept, experts: .init(.unmarked),
            mlx: .init(experts: ["feed_forward", "experts"], languageModel: .wrapped)),
        ModelFamily("llama4_text", experts: .init(.unmarked)),
    ]
}
