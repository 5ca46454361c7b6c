/// The names that tell the modules of a language model from those of a denoiser.
public enum LanguageModelNames {
    /// The ends of the names of linear layers in transformers, with underscores for dots. No denoiser has such names
    /// alone.
    public static let endings = [
        "self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_o_proj", "mlp_gate_proj", "mlp_up_proj",
        "mlp_down_proj", "attn_c_attn", "attn_c_proj", "mlp_c_fc", "mlp_c_proj", "query_key_value", "dense_h_to_4h",
        "dense_4h_to_h", "embed_tokens", "lm_head",
    ]
}
