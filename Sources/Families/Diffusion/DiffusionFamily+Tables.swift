/// The table of diffusion models.
///
/// Source: diffusers 0.42, `loaders/lora_conversion_utils.py`, `loaders/single_file_utils.py` and the models themselves.
extension DiffusionFamily {
    public static let uNet = DiffusionFamily("a U-Net", component: "unet", classNames: ["UNet2DConditionModel"], kohyaNames: .any)

    /// What is told apart by names, the likeliest first.
    public static let known: [DiffusionFamily] = [flux1, chroma, flux2, qwenImage, zImage, wan, ltxVideo, hunyuanVideo, sd3]

    private static let fluxAttention = [
        Row("img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"), Row("img_attn.proj", "attn.to_out.0"),
        Row("txt_attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), Row("txt_attn.proj", "attn.to_add_out"),
    ]
    /// The norms of queries and keys.
    private static let fluxNorms = [
        Row("img_attn.norm.query_norm", "attn.norm_q"), Row("img_attn.norm.key_norm", "attn.norm_k"),
        Row("txt_attn.norm.query_norm", "attn.norm_added_q"), Row("txt_attn.norm.key_norm", "attn.norm_added_k"),
    ]
    private static let fluxSingleNorms = [Row("norm.query_norm", "attn.norm_q"), Row("norm.key_norm", "attn.norm_k")]
    private static let fluxMLP = [
        Row("img_mlp.0", "ff.net.0.proj", outputsPerInput: 4), Row("img_mlp.2", "ff.net.2", outputsPerInput: 0.25),
        Row("txt_mlp.0", "ff_context.net.0.proj", outputsPerInput: 4), Row("txt_mlp.2", "ff_context.net.2", outputsPerInput: 0.25),
    ]
    private static let fluxModulation = [Row("img_mod.lin", "norm1.linear"), Row("txt_mod.lin", "norm1_context.linear")]
    private static let fluxSingle = [
        Row("linear1", "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", lastTakesTheRest: true, outputsPerInput: 7),
        Row("linear2", "proj_out", outputsPerInput: 0.2),
    ]
    private static func fluxGroups(_ double: [Row], _ single: [Row]) -> [Group] {
        [
            Group(authors: "double_blocks", diffusers: "transformer_blocks", rows: double + fluxNorms),
            Group(authors: "single_blocks", diffusers: "single_transformer_blocks", rows: single + fluxSingleNorms),
        ]
    }
    private static let fluxOuter = [Row("img_in", "x_embedder"), Row("txt_in", "context_embedder"), Row("final_layer.linear", "proj_out")]
    private static let fluxFinalModulation = Row("final_layer.adaLN_modulation.1", "norm_out.linear", isExchanged: true)

    /// AuraFlow has single blocks, too, with some of the names, and other double ones.
    private static let fluxMarks = [
        ["transformer_blocks", "single_transformer_blocks"], ["single_transformer_blocks.proj_mlp"], ["single_transformer_blocks.proj_out"],
        ["single_transformer_blocks.norm.linear"],
    ]

    static let flux1 = DiffusionFamily(
        "Flux.1", classNames: ["FluxTransformer2DModel"], kohyaNames: .authors,
        groups: fluxGroups(fluxAttention + fluxMLP + fluxModulation, fluxSingle + [Row("modulation.lin", "norm.linear")]),
        outer: fluxOuter + [
            fluxFinalModulation, Row("time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"),
            Row("time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"),
            Row("vector_in.in_layer", "time_text_embed.text_embedder.linear_1"), Row("vector_in.out_layer", "time_text_embed.text_embedder.linear_2"),
            Row("guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"),
            Row("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
        ], marks: fluxMarks)

    private static let chroma = DiffusionFamily(
        "Chroma", classNames: ["ChromaTransformer2DModel"], kohyaNames: .authors, groups: fluxGroups(fluxAttention + fluxMLP, fluxSingle),
        outer: fluxOuter, marks: fluxMarks)

    private static let flux2 = DiffusionFamily(
        "Flux.2", classNames: ["Flux2Transformer2DModel"], kohyaNames: .authors,
        groups: fluxGroups(
            fluxAttention + [
                Row("img_mlp.0", "ff.linear_in", outputsPerInput: 6), Row("img_mlp.2", "ff.linear_out", outputsPerInput: 1.0 / 3),
                Row("txt_mlp.0", "ff_context.linear_in", outputsPerInput: 6), Row("txt_mlp.2", "ff_context.linear_out", outputsPerInput: 1.0 / 3),
            ],
            [Row("linear1", "attn.to_qkv_mlp_proj", outputsPerInput: 9), Row("linear2", "attn.to_out", outputsPerInput: 0.25)]),
        outer: fluxOuter + [
            fluxFinalModulation, Row("double_stream_modulation_img.lin", "double_stream_modulation_img.linear"),
            Row("double_stream_modulation_txt.lin", "double_stream_modulation_txt.linear"),
            Row("single_stream_modulation.lin", "single_stream_modulation.linear"),
            Row("time_in.in_layer", "time_guidance_embed.timestep_embedder.linear_1"),
            Row("time_in.out_layer", "time_guidance_embed.timestep_embedder.linear_2"),
            Row("guidance_in.in_layer", "time_guidance_embed.guidance_embedder.linear_1"),
            Row("guidance_in.out_layer", "time_guidance_embed.guidance_embedder.linear_2"),
        ],
        marks: [["single_transformer_blocks.attn.to_qkv_mlp_proj"]]
            + ["ff", "ff_context"].flatMap { [["transformer_blocks.\($0).linear_in"], ["transformer_blocks.\($0).linear_out"]] })

    /// ComfyUI's own base file has Flux's names in the blocks; the authors' have others, which are not known here.
    private static let hunyuanVideo = DiffusionFamily(
        "HunyuanVideo", classNames: ["HunyuanVideoTransformer3DModel"], kohyaNames: .authors,
        groups: fluxGroups(fluxAttention + fluxMLP + fluxModulation, fluxSingle + [Row("modulation.lin", "norm.linear")]), marks: fluxMarks)

    private static func same(_ names: String...) -> [Row] { names.map { Row($0, $0) } }

    private static let qwenImage = DiffusionFamily(
        "Qwen-Image", classNames: ["QwenImageTransformer2DModel"], kohyaNames: .any,
        groups: [
            Group(
                authors: "transformer_blocks", diffusers: "transformer_blocks",
                rows: same(
                    "attn.to_q", "attn.to_k", "attn.to_v", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_out.0",
                    "attn.to_add_out", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1"))
        ],
        outer: same(
            "img_in", "txt_in", "proj_out", "norm_out.linear", "time_text_embed.timestep_embedder.linear_1",
            "time_text_embed.timestep_embedder.linear_2"),
        marks: ["img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1"].map {
            ["transformer_blocks.\($0)"]
        })

    private static let zImageBlocks = ["layers", "noise_refiner", "context_refiner"].map {
        Group(
            authors: $0, diffusers: $0,
            rows: [
                Row("attention.qkv", "attention.to_q", "attention.to_k", "attention.to_v"), Row("attention.out", "attention.to_out.0"),
                Row("attention.q_norm", "attention.norm_q"), Row("attention.k_norm", "attention.norm_k"),
            ]
                + same(
                    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0", "attention_norm1", "attention_norm2", "ffn_norm1",
                    "ffn_norm2"))
    }
    private static let zImage = DiffusionFamily(
        "Z-Image", classNames: ["ZImageTransformer2DModel"], kohyaNames: .any, groups: zImageBlocks,
        outer: [
            Row("x_embedder", "all_x_embedder.2-1"), Row("final_layer.linear", "all_final_layer.2-1.linear"),
            Row("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
        ] + same("t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.1"),
        marks: zImageBlocks.flatMap { group in
            ["attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0", "adaLN_modulation.0"].map { ["\(group.diffusers).\($0)"] }
        })

    private static let wanAttention = [("self_attn", "attn1"), ("cross_attn", "attn2")].flatMap { theirs, ours in
        [
            Row("\(theirs).q", "\(ours).to_q"), Row("\(theirs).k", "\(ours).to_k"), Row("\(theirs).v", "\(ours).to_v"),
            Row("\(theirs).o", "\(ours).to_out.0"), Row("\(theirs).norm_q", "\(ours).norm_q"), Row("\(theirs).norm_k", "\(ours).norm_k"),
        ]
    }
    private static let wan = DiffusionFamily(
        "Wan", classNames: ["WanTransformer3DModel"], kohyaNames: .authors,
        groups: [
            Group(
                authors: "blocks", diffusers: "blocks",
                rows: wanAttention + [
                    Row("cross_attn.k_img", "attn2.add_k_proj"), Row("cross_attn.v_img", "attn2.add_v_proj"), Row("ffn.0", "ffn.net.0.proj"),
                    Row("ffn.2", "ffn.net.2"), Row("norm3", "norm2"), Row("cross_attn.norm_k_img", "attn2.norm_added_k"),
                    Row("modulation", "scale_shift_table"),
                ])
        ],
        outer: [
            Row("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
            Row("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
            Row("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
            Row("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
            Row("time_projection.1", "condition_embedder.time_proj"), Row("head.head", "proj_out"), Row("patch_embedding", "patch_embedding"),
            Row("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
            Row("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
            Row("img_emb.proj.0", "condition_embedder.image_embedder.norm1"), Row("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
            Row("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"), Row("head.modulation", "scale_shift_table"),
        ],
        // What is made from Wan has its names at the authors, too.
        marks: ["attn1", "attn2"].flatMap { attention in ["to_q", "to_k", "to_v", "to_out.0"].map { ["blocks.\(attention).\($0)"] } }
            + [["blocks.ffn.net.0.proj"], ["blocks.ffn.net.2"], ["blocks.attn2.add_k_proj"], ["blocks.attn2.add_v_proj"]])

    private static let ltxNorms = ["attn1", "attn2"].flatMap { [Row("\($0).q_norm", "\($0).norm_q"), Row("\($0).k_norm", "\($0).norm_k")] }
    private static let ltxTimes = ["emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2", "linear"].map {
        Row("adaln_single.\($0)", "time_embed.\($0)")
    }
    private static let ltxVideo = DiffusionFamily(
        "LTX-Video", classNames: ["LTXVideoTransformer3DModel"], kohyaNames: .any,
        groups: [
            Group(
                authors: "transformer_blocks", diffusers: "transformer_blocks",
                rows: same(
                    "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
                    "ff.net.0.proj", "ff.net.2") + ltxNorms)
        ], ofWholeModels: [Row("patchify_proj", "proj_in")] + ltxTimes)

    /// Of its table only the names in diffusers are known here, by which it cannot be taken for another family.
    private static let sd3 = DiffusionFamily(
        "Stable Diffusion 3", classNames: ["SD3Transformer2DModel"], kohyaNames: .unknown,
        groups: [
            Group(
                authors: "transformer_blocks", diffusers: "transformer_blocks",
                rows: same(
                    "attn.to_q", "attn.to_k", "attn.to_v", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_out.0",
                    "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "norm1.linear",
                    "norm1_context.linear", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"))
        ])
}
