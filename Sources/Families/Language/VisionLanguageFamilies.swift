/// Models of text and images or sound, as far as the general rules leave something to do.
///
/// Only renamings are here. Where transformers stacks, cuts or reorders matrices, a module under its name in memory is
/// refused. A name that means another module in memory than in files is renamed only together with a part of the name
/// that files and memory do not share.
///
/// Source: transformers 5.24, `conversion_mapping.py`. `Tests/interop/families.py` compares with the installed release.
enum VisionLanguageFamilies {
    static let rows: [ModelFamily] = [
        ModelFamily("lfm3_vl", "lfm3_vl_vision", memory: .init(["patchifier patch_embed"], knowsAllModules: false)),
        ModelFamily(
            "aria", "aria_text",
            memory: .init([
                "mlp.experts.fc1.weight mlp.experts.gate_up_proj", "mlp.experts.fc2.weight mlp.experts.down_proj",
            ]),
            experts: .init(.marked)),
        ModelFamily("hy_v4_vl", memory: .init(MixtureFamilies.hyV4 + hunyuanVision, knowsAllModules: false)),
        ModelFamily("hy_v4_vl_text", memory: .init(MixtureFamilies.hyV4)),
        ModelFamily(
            "inkling_mm_model", "inkling_text",
            memory: .init([
                "^llm.unembed lm_head", "^llm.embed embed_tokens", "^llm", "^audio audio_tower",
                "^visual vision_tower", "attn self_attn", "self_attn.wq_du self_attn.q_proj",
                "self_attn.wk_dv self_attn.k_proj", "self_attn.wv_dv self_attn.v_proj",
                "self_attn.wr_du self_attn.r_proj", "self_attn.wo_ud self_attn.o_proj", "mlp.w2_md mlp.down_proj",
            ])),
        ModelFamily(
            "inkling2", "inkling2_loop",
            memory: .init(
                [
                    "^visual.backbone vision_tower", "^visual vision_tower",
                    "vision_tower.proj_in vision_tower.merger.linear_1",
                    "vision_tower.proj_out vision_tower.merger.linear_2",
                    "vision_tower.layers.#.mlp.c_fc vision_tower.layers.#.mlp.fc1",
                    "vision_tower.layers.#.mlp.c_proj vision_tower.layers.#.mlp.fc2",
                ], hidesInnerModel: true, knowsAllModules: false)),
        // The head has rows in the files that the model in memory has not.
        ModelFamily(
            "inkling2_loop_text", "inkling2_text",
            memory: .init(
                [
                    "^llm.embed embed_tokens", "^llm", "attn self_attn", "self_attn.wq_du self_attn.q_proj.linear",
                    "self_attn.wk_dv self_attn.k_proj.linear", "self_attn.wv_dv self_attn.v_proj.linear",
                    "self_attn.wr_du self_attn.relative_position_bias.linear",
                    "self_attn.wo_ud self_attn.o_proj.linear", "self_attn.gate_attn self_attn.o_proj.gate_proj",
                    "self_attn.attn_sink_proj self_attn.sink_proj",
                ], hidesInnerModel: true, knowsAllModules: false)),
        ModelFamily(
            "minimax_m3_vl",
            memory: .init(
                indexer + [
                    "^vision_tower.vision_model.encoder.layers vision_tower.layers",
                    "^patch_merge_mlp.linear_1 multi_modal_projector.merge_linear_1",
                    "^patch_merge_mlp.linear_2 multi_modal_projector.merge_linear_2",
                ], knowsAllModules: false),
            mlx: .wrapped),
        ModelFamily("minimax_m3_vl_text", memory: .init(indexer)),
        ModelFamily("emu3", memory: .init(["^text_model.model text_model", "^text_model.lm_head lm_head"])),
        ModelFamily("paddleocr_vl", memory: .init(["^mlp_AR projector"])),
        ModelFamily("hyperclovax_vision_v2", memory: .init(["^vision_projector projector"])),
        ModelFamily("hunyuan_vl", memory: .init(hunyuanVision, knowsAllModules: false)),
        ModelFamily("cosmos3_edge", memory: .init(cosmos + ["mlp.up_proj mlp.fc1", "mlp.down_proj mlp.fc2"])),
        ModelFamily(
            "cosmos3_omni",
            memory: .init(
                cosmos + [
                    "^blocks visual.blocks", "^merger visual.merger", "^patch_embed visual.patch_embed",
                    "^deepstack_merger_list visual.deepstack_merger_list", "^pos_embed visual.pos_embed",
                ], knowsAllModules: false)),
        ModelFamily(
            "molmo2",
            memory: .init(
                [
                    "^transformer.blocks layers", "^transformer",
                    "^vision_backbone.image_vit.transformer.resblocks vision_tower.layers",
                    "^vision_backbone.image_vit vision_tower",
                    "^vision_backbone.image_pooling_2d multi_modal_projector.image_pooling_2d",
                    "^vision_backbone.image_projector multi_modal_projector.image_projector",
                    "attention.wq self_attn.q_proj", "attention.wk self_attn.k_proj", "attention.wv self_attn.v_proj",
                    "attention.wo self_attn.o_proj", "feed_forward.w1 mlp.fc1", "feed_forward.w2 mlp.fc2",
                    "image_pooling_2d.wq image_pooling_2d.q_proj", "image_pooling_2d.wk image_pooling_2d.k_proj",
                    "image_pooling_2d.wv image_pooling_2d.v_proj", "image_pooling_2d.wo image_pooling_2d.o_proj",
                    "image_projector.w1 image_projector.gate_proj", "image_projector.w2 image_projector.down_proj",
                    "image_projector.w3 image_projector.up_proj", "self_attn.attn_out self_attn.o_proj",
                    "mlp.ff_out mlp.down_proj",
                ], hidesInnerModel: true, knowsAllModules: false)),
        ModelFamily(
            "kimi_k25",
            memory: .init(
                [
                    "^vision_tower.encoder.blocks.#.mlp.fc0 vision_tower.layers.#.mlp.fc1",
                    "^vision_tower.encoder.blocks.#.mlp.fc1 vision_tower.layers.#.mlp.fc2",
                    "^vision_tower.encoder.blocks.#.wo vision_tower.layers.#.attn.proj",
                    "^mm_projector.proj.0 mm_projector.in_proj", "^mm_projector.proj.2 mm_projector.out_proj",
                    "^blocks layers",
                ], hidesInnerModel: true, knowsAllModules: false),
            mlx: .init(MLXNaming.splitting + MLXNaming.routing, languageModel: .wrapped)),
        ModelFamily(
            "deepseek_ocr2",
            memory: .init([
                "^sam_model.blocks vision_tower.sam_encoder.layers",
                "^qwen2_model.model.model.layers vision_tower.vision_encoder.layers",
                "^projector.layers multi_modal_projector",
            ])),
        ModelFamily("step3p5_vision", memory: .init(step)),
        ModelFamily("step3p7", memory: .init(step, knowsAllModules: false)),
        ModelFamily(
            "qianfan_ocr",
            memory: .init(
                [
                    "^encoder.layers layers", "^vision_model.encoder vision_tower", "^vision_model vision_tower",
                    "attn.proj attention.projection_layer", "^mlp1.1 multi_modal_projector.linear_1",
                    "^mlp1.3 multi_modal_projector.linear_2",
                ], hidesInnerModel: true, knowsAllModules: false)),
        ModelFamily(
            "unlimited_ocr",
            memory: .init(
                [
                    "^sam_model.blocks vision_tower.sam_encoder.layers", "^sam_model vision_tower.sam_encoder",
                    "^vision_model.transformer vision_tower.vision_encoder.encoder",
                    "^vision_model vision_tower.vision_encoder", "^projector.layers multi_modal_projector",
                ], hidesInnerModel: true, knowsAllModules: false)),
        ModelFamily("colqwen2", memory: .init(["^vlm.model vlm"])),
        ModelFamily(
            "pi0",
            memory: .init(
                [
                    "^paligemma_with_expert.paligemma.model vlm", "^paligemma_with_expert.gemma_expert.model dit",
                ], frame: .unknown)),
        // Classes for text and more have no model around their parts.
        ModelFamily(
            "blip", "blip-2", "clvp", "deepseek_vl", "deepseek_vl_hybrid", "instructblip", "instructblipvideo",
            "kosmos-2", "kosmos-2.5",
            memory: .kept),
        ModelFamily("colpali", memory: .unknown),
        ModelFamily("glm4v_moe", experts: .gated),
        ModelFamily("kimi_vl", mlx: .init(MLXNaming.splitting + MLXNaming.routing, languageModel: .wrapped)),
        ModelFamily("lfm2-vl", "lfm2_vl", "llava", "mistral3", "pixtral", mlx: .wrapped),
        ModelFamily("molmo2_text", memory: .init(hidesInnerModel: true)),
        // The decoder holds embedding and head.
        ModelFamily("pix2struct", memory: .kept, ties: .init(omitsInnerModel: true)),
    ]

    static let hunyuanVision = [
        "mlp.dense_h_to_4h mlp.fc1", "mlp.dense_4h_to_h mlp.fc2", "perceive.proj.0 patch_merger.proj_conv",
        "perceive.proj.2 patch_merger.proj_out", "perceive patch_merger", "^vit vision_tower",
    ]

    static let indexer = [
        "self_attn.index_q_proj self_attn.indexer.q_proj", "self_attn.index_k_proj self_attn.indexer.k_proj",
    ]

    static let cosmos = [
        "self_attn.to_q self_attn.q_proj", "self_attn.to_k self_attn.k_proj", "self_attn.to_v self_attn.v_proj",
        "self_attn.to_out self_attn.o_proj",
    ]

    static let step = [
        "^vit_large_projector multi_modal_projector", "moe.gate mlp.gate", "share_expert mlp.shared_experts",
        "transformer.resblocks layers", "mlp.c_fc mlp.fc1", "mlp.c_proj mlp.fc2",
        "vision_model.layers.#.attn vision_model.layers.#.self_attn",
    ]
}
