extension MemoryNames {
    /// What mixtures of experts are called.
    static let mixtures = ["block_sparse_moe mlp"]

    /// Renamings of all families.
    static let general = [
        "embed_out lm_head", "LayerNorm.gamma LayerNorm.weight", "LayerNorm.beta LayerNorm.bias",
        "vision_tower.vision_model vision_tower", "image_tower.vision_model image_tower", "video_tower.vision_model video_tower",
        "vision_model.vision_model vision_model", "text_model.text_model text_model",
    ]

    /// Renamings of models that are parts of others, by their `model_type`, where they are no part: in another model their names begin with its own
    /// for the part, which may be the same word.
    static let towers: [(models: String, renamings: [String])] = [
        ("clip_vision_model siglip_vision_model siglip2_vision_model metaclip_2_vision_model mlcd mlcd_vision_model", ["^vision_model"]),
        ("clip_text_model siglip_text_model siglip2_text_model metaclip_2_text_model", ["^text_model"]),
    ]

    /// Renamings of some families, by the `model_type` of the model or of a part of it. They are made in order, from what files hold to what is in
    /// memory.
    ///
    /// Only what is a renaming is here: where transformers stacks, cuts or reorders matrices, a module under its name in memory is refused. Names
    /// that hold another module in memory than in files may be renamed only together with a part that files and memory do not share.
    ///
    /// Source: transformers 5.24, `conversion_mapping.py`. `Tests/interop/families.py` compares with the installed release.
    static let families: [(models: String, renamings: [String])] = [
        ("nemotron_h", ["^backbone"]),
        ("dory", ["^backbone", "embeddings embed_tokens", "self_attn.g_proj self_attn.gate_proj"]),
        ("lfm3_vl lfm3_vl_vision", ["patchifier patch_embed"]),
        ("lfm3", ["self_attn.gate_proj self_attn.g_proj"]),
        (
            "exaone",
            [
                "^transformer.wte embed_tokens", "^transformer.h layers", "^transformer.ln_f norm", "attn.attention self_attn",
                "self_attn.out_proj self_attn.o_proj", "ln_1 input_layernorm", "ln_2 post_attention_layernorm", "mlp.c_fc_0 mlp.gate_proj",
                "mlp.c_fc_1 mlp.up_proj", "mlp.c_proj mlp.down_proj",
            ]
        ),
        // Mixtures of experts.
        (
            "granitemoe granitemoeshared granitemoehybrid granitemoe_swa",
            [
                "block_sparse_moe.input_linear.weight block_sparse_moe.experts.gate_up_proj",
                "block_sparse_moe.output_linear.weight block_sparse_moe.experts.down_proj",
                "block_sparse_moe.router.layer block_sparse_moe.router",
            ]
        ),
        ("aria_text aria", ["mlp.experts.fc1.weight mlp.experts.gate_up_proj", "mlp.experts.fc2.weight mlp.experts.down_proj"]),
        ("phimoe", ["block_sparse_moe.gate mlp.router"]),
        ("hy_v3", ["mlp.router.gate mlp.gate", "mlp.shared_mlp mlp.shared_experts"]),
        ("laguna", ["mlp.shared_expert mlp.shared_experts"]),
        ("axk2", ["W_down mlp.fc1", "W_up mlp.fc2", "self_attn.q_b_proj self_attn.q_gate_proj"]),
        ("hy_v4 hy_v4_vl hy_v4_vl_text", ["linear_gate gate_proj"]),
        (
            "bailing_hybrid sarvam_moe",
            [
                "word_embeddings embed_tokens", "attention self_attn", "self_attn.dense self_attn.o_proj",
                "self_attn.f_proj self_attn.forget_gate.f_proj", "self_attn.query_layernorm self_attn.q_norm",
                "self_attn.key_layernorm self_attn.k_norm",
            ]
        ),
        (
            "kimi_linear glm5_next glm5_next_text",
            ["self_attn.f_a_proj self_attn.forget_gate.f_a_proj", "self_attn.f_b_proj self_attn.forget_gate.f_b_proj"]
        ),
        (
            "deepseek_v4",
            [
                "^embed embed_tokens", "^head lm_head", "attn self_attn", "ffn mlp", "attn_norm input_layernorm", "ffn_norm post_attention_layernorm",
                "indexer.compressor compressor.indexer", "self_attn.indexer.weights_proj self_attn.compressor.indexer.scorer.weights_proj",
                "self_attn.indexer.wq_b self_attn.compressor.indexer.q_b_proj", "wq_a q_a_proj", "self_attn.wq_b self_attn.q_b_proj",
                "wkv kv_proj", "wgate gate_proj", "wo_a o_a_proj", "wo_b o_b_proj", "shared_experts.w1 shared_experts.gate_proj",
                "shared_experts.w2 shared_experts.down_proj", "shared_experts.w3 shared_experts.up_proj",
            ]
        ),
        (
            "inkling_mm_model inkling_text",
            [
                "^llm.unembed lm_head", "^llm.embed embed_tokens", "^llm", "^audio audio_tower", "^visual vision_tower", "attn self_attn",
                "self_attn.wq_du self_attn.q_proj", "self_attn.wk_dv self_attn.k_proj", "self_attn.wv_dv self_attn.v_proj",
                "self_attn.wr_du self_attn.r_proj", "self_attn.wo_ud self_attn.o_proj", "mlp.w2_md mlp.down_proj",
            ]
        ),
        (
            "inkling2 inkling2_loop",
            [
                "^visual.backbone vision_tower", "^visual vision_tower", "vision_tower.proj_in vision_tower.merger.linear_1",
                "vision_tower.proj_out vision_tower.merger.linear_2", "vision_tower.layers.#.mlp.c_fc vision_tower.layers.#.mlp.fc1",
                "vision_tower.layers.#.mlp.c_proj vision_tower.layers.#.mlp.fc2",
            ]
        ),
        // The head has rows in the files that the model in memory has not.
        (
            "inkling2_text inkling2_loop_text",
            [
                "^llm.embed embed_tokens", "^llm", "attn self_attn", "self_attn.wq_du self_attn.q_proj.linear",
                "self_attn.wk_dv self_attn.k_proj.linear", "self_attn.wv_dv self_attn.v_proj.linear",
                "self_attn.wr_du self_attn.relative_position_bias.linear", "self_attn.wo_ud self_attn.o_proj.linear",
                "self_attn.gate_attn self_attn.o_proj.gate_proj", "self_attn.attn_sink_proj self_attn.sink_proj",
            ]
        ),
        ("minimax_m3_vl minimax_m3_vl_text", ["self_attn.index_q_proj self_attn.indexer.q_proj", "self_attn.index_k_proj self_attn.indexer.k_proj"]),
        // Models of text and images or sound, as far as the general rules leave something to do.
        ("qwen2_5_omni_thinker qwen3_omni_moe_thinker qwen2_5_omni qwen3_omni_moe", ["^thinker"]),
        ("emu3", ["^text_model.model text_model", "^text_model.lm_head lm_head"]),
        ("paddleocr_vl", ["^mlp_AR projector"]),
        ("hyperclovax_vision_v2", ["^vision_projector projector"]),
        (
            "hunyuan_vl hy_v4_vl",
            [
                "mlp.dense_h_to_4h mlp.fc1", "mlp.dense_4h_to_h mlp.fc2", "perceive.proj.0 patch_merger.proj_conv",
                "perceive.proj.2 patch_merger.proj_out", "perceive patch_merger", "^vit vision_tower",
            ]
        ),
        (
            "minimax_m3_vl",
            [
                "^vision_tower.vision_model.encoder.layers vision_tower.layers", "^patch_merge_mlp.linear_1 multi_modal_projector.merge_linear_1",
                "^patch_merge_mlp.linear_2 multi_modal_projector.merge_linear_2",
            ]
        ),
        (
            "gemma4_unified",
            [
                "^vision_embedder.patch_dense embed_vision.patch_dense",
                "embed_vision.embedding_projection embed_vision.multimodal_embedder.embedding_projection",
            ]
        ),
        (
            "cosmos3_edge cosmos3_omni",
            [
                "self_attn.to_q self_attn.q_proj", "self_attn.to_k self_attn.k_proj", "self_attn.to_v self_attn.v_proj",
                "self_attn.to_out self_attn.o_proj",
            ]
        ),
        (
            "cosmos3_omni",
            [
                "^blocks visual.blocks", "^merger visual.merger", "^patch_embed visual.patch_embed",
                "^deepstack_merger_list visual.deepstack_merger_list", "^pos_embed visual.pos_embed",
            ]
        ),
        ("cosmos3_edge", ["mlp.up_proj mlp.fc1", "mlp.down_proj mlp.fc2"]),
        (
            "molmo2",
            [
                "^transformer.blocks layers", "^transformer", "^vision_backbone.image_vit.transformer.resblocks vision_tower.layers",
                "^vision_backbone.image_vit vision_tower", "^vision_backbone.image_pooling_2d multi_modal_projector.image_pooling_2d",
                "^vision_backbone.image_projector multi_modal_projector.image_projector", "attention.wq self_attn.q_proj",
                "attention.wk self_attn.k_proj", "attention.wv self_attn.v_proj", "attention.wo self_attn.o_proj", "feed_forward.w1 mlp.fc1",
                "feed_forward.w2 mlp.fc2", "image_pooling_2d.wq image_pooling_2d.q_proj", "image_pooling_2d.wk image_pooling_2d.k_proj",
                "image_pooling_2d.wv image_pooling_2d.v_proj", "image_pooling_2d.wo image_pooling_2d.o_proj",
                "image_projector.w1 image_projector.gate_proj", "image_projector.w2 image_projector.down_proj",
                "image_projector.w3 image_projector.up_proj", "self_attn.attn_out self_attn.o_proj", "mlp.ff_out mlp.down_proj",
            ]
        ),
        (
            "kimi_k25",
            [
                "^vision_tower.encoder.blocks.#.mlp.fc0 vision_tower.layers.#.mlp.fc1",
                "^vision_tower.encoder.blocks.#.mlp.fc1 vision_tower.layers.#.mlp.fc2",
                "^vision_tower.encoder.blocks.#.wo vision_tower.layers.#.attn.proj", "^mm_projector.proj.0 mm_projector.in_proj",
                "^mm_projector.proj.2 mm_projector.out_proj", "^blocks layers",
            ]
        ),
        (
            "deepseek_ocr2",
            [
                "^sam_model.blocks vision_tower.sam_encoder.layers", "^qwen2_model.model.model.layers vision_tower.vision_encoder.layers",
                "^projector.layers multi_modal_projector",
            ]
        ),
        (
            "step3p7 step3p5_vision",
            [
                "^vit_large_projector multi_modal_projector", "moe.gate mlp.gate", "share_expert mlp.shared_experts",
                "transformer.resblocks layers", "mlp.c_fc mlp.fc1", "mlp.c_proj mlp.fc2",
                "vision_model.layers.#.attn vision_model.layers.#.self_attn",
            ]
        ),
        (
            "qianfan_ocr",
            [
                "^encoder.layers layers", "^vision_model.encoder vision_tower", "^vision_model vision_tower", "attn.proj attention.projection_layer",
                "^mlp1.1 multi_modal_projector.linear_1", "^mlp1.3 multi_modal_projector.linear_2",
            ]
        ),
        (
            "unlimited_ocr",
            [
                "^sam_model.blocks vision_tower.sam_encoder.layers", "^sam_model vision_tower.sam_encoder",
                "^vision_model.transformer vision_tower.vision_encoder.encoder", "^vision_model vision_tower.vision_encoder",
                "^projector.layers multi_modal_projector",
            ]
        ),
        ("colqwen2", ["^vlm.model vlm"]),
        ("ultrabert", ["^ultrabert", "^cls head.decoder"]),
        ("ultravbert", ["^head.decoder lm_head", "^head projection_head"]),
        ("t5gemma2 t5gemma2_encoder", ["encoder.text_model encoder"]),
        // Vision and sound models.
        (
            "vit audio-spectrogram-transformer beit deit ijepa vit_mae vit_msn vivit pixio dinov2 dinov2_with_registers lw_detr rf_detr swin segformer",
            [
                "encoder.layer layers", "attention.attention.query attention.q_proj", "attention.attention.key attention.k_proj",
                "attention.attention.value attention.v_proj", "attention.self.query attention.q_proj", "attention.self.key attention.k_proj",
                "attention.self.value attention.v_proj", "attention.output.dense attention.o_proj", "intermediate.dense mlp.fc1",
                "output.dense mlp.fc2",
            ]
        ),
        (
            "segformer",
            [
                "encoder.block.# stages.#.blocks", "encoder.patch_embeddings.# stages.#.patch_embeddings",
                "attention.self.sr attention.sequence_reduction.sequence_reduction", "mlp.dense1 mlp.fc1", "mlp.dense2 mlp.fc2",
                "decode_head.linear_c decode_head.linear_projections",
            ]
        ),
        ("altclip altclip_text_model", ["encoder.layer encoder.layers"]),
        (
            "detr conditional_detr deformable_detr maskformer rt_detr rt_detr_v2 table-transformer pp_doclayout_v2 pp_doclayout_v3",
            ["backbone.conv_encoder backbone", "out_proj o_proj", "layers.#.fc1 layers.#.mlp.fc1", "layers.#.fc2 layers.#.mlp.fc2"]
        ),
        (
            "conditional_detr",
            [
                "sa_qcontent_proj self_attn.q_content_proj", "sa_qpos_proj self_attn.q_pos_proj", "sa_kcontent_proj self_attn.k_content_proj",
                "sa_kpos_proj self_attn.k_pos_proj", "sa_v_proj self_attn.v_proj", "ca_qcontent_proj encoder_attn.q_content_proj",
                "ca_qpos_proj encoder_attn.q_pos_proj", "ca_kcontent_proj encoder_attn.k_content_proj", "ca_kpos_proj encoder_attn.k_pos_proj",
                "ca_v_proj encoder_attn.v_proj", "ca_qpos_sine_proj encoder_attn.q_pos_sine_proj",
            ]
        ),
        (
            "sapiens2",
            [
                "blocks.# layer.#", "attn.proj attention.o_proj", "attn.wq attention.q_proj", "attn.wk attention.k_proj", "attn.wv attention.v_proj",
                "ffn.w3 mlp.down_proj",
            ]
        ),
        ("timesfm2_5", ["ff0 fc1", "ff1 fc2"]),
        ("nomic_bert jina_embeddings_v3", ["encoder.layers layers", "attn.out_proj self_attn.o_proj", "mixer.out_proj self_attn.o_proj"]),
        ("nomic_bert", ["fc11 up_proj", "fc12 gate_proj", "mlp.fc2 mlp.down_proj"]),
        ("gte", ["^new", "encoder.layer layers", "attention.o_proj self_attn.o_proj"]),
        ("pi0", ["^paligemma_with_expert.paligemma.model vlm", "^paligemma_with_expert.gemma_expert.model dit"]),
    ]
}
