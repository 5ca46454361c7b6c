/// The names of embeddings that are no vocabulary: tables of positions, of distances in attention, of codes and of
/// learned tokens.
public enum EmbeddingNames {
    /// Matrices that are called after embeddings, GPT-NeoX's head among them.
    public static let multiplied: Set<String> = ["embed_out", "embed_proj"]

    /// Tables other than those called `embed_…` or `…_embedding`.
    ///
    /// Source: transformers 5.24, the names of `nn.Embedding` in models of all families. No linear layer without a
    /// bias has these names.
    public static let tables: Set<String> = [
        "wpe", "pos_emb", "pos_embed", "positions_embed", "position_embeds_layer", "position_embedding_table",
        "input_embeds_layer", "input_embeds_layers", "embed", "embedding", "relative_attention_bias",
        "global_relative_attention_bias", "rel_attn_embed", "pe_k", "bias_values", "row_embedder", "column_embedder",
        "HashBucketCodepointEmbedder", "pronunciation_embed", "shape_embed", "segment_emb", "freq_emb",
        "visual_embeddings_table", "audio_bos_eos_token", "iou_token", "hq_token", "mask_tokens", "obj_score_token",
        "presence_token", "no_mask_embed", "not_a_point_embed", "point_embed", "cls_embed", "label_embed",
        "level_embed",
        "query_embed", "query_feat", "queries_embedder", "queries_features", "reference_point_embed",
        "reference_points",
        "denoising_class_embed",
    ]
}
