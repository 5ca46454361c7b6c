/// Models of images, of sound and of time series, and encoders of images and text.
///
/// Only renamings are here. Where transformers stacks, cuts or reorders matrices, a module under its name in memory is
/// refused. A name that means another module in memory than in files is renamed only together with a part of the name
/// that files and memory do not share.
///
/// Source: transformers 5.24, `conversion_mapping.py`. `Tests/interop/families.py` compares with the installed release.
enum VisionFamilies {
    static let rows: [ModelFamily] = [
        // In another model the name of the part may be the same word, so only models that stand alone are renamed.
        ModelFamily(
            "clip_vision_model", "metaclip_2_vision_model", "mlcd", "mlcd_vision_model", "siglip2_vision_model",
            "siglip_vision_model",
            memory: .init(alone: ["^vision_model"])),
        ModelFamily(
            "clip_text_model", "metaclip_2_text_model", "siglip2_text_model", "siglip_text_model",
            memory: .init(alone: ["^text_model"])),
        ModelFamily("audio-spectrogram-transformer", memory: .init(vit, innerModel: "audio_spectrogram_transformer")),
        ModelFamily("beit", memory: .init(vit, innerModel: "beit")),
        ModelFamily("deit", memory: .init(vit, innerModel: "deit")),
        ModelFamily("dinov2", "dinov2_with_registers", "rf_detr", memory: .init(vit, frame: .unknown)),
        ModelFamily("ijepa", memory: .init(vit, innerModel: "ijepa")),
        ModelFamily("lw_detr", memory: .init(vit)),
        ModelFamily("pixio", memory: .init(vit, innerModel: "pixio", knowsAllModules: false)),
        ModelFamily(
            "segformer",
            memory: .init(
                vit + [
                    "encoder.block.# stages.#.blocks", "encoder.patch_embeddings.# stages.#.patch_embeddings",
                    "attention.self.sr attention.sequence_reduction.sequence_reduction", "mlp.dense1 mlp.fc1",
                    "mlp.dense2 mlp.fc2", "decode_head.linear_c decode_head.linear_projections",
                ], innerModel: "segformer", knowsAllModules: false)),
        ModelFamily("swin", memory: .init(vit, innerModel: "swin")),
        ModelFamily("vit", "vit_msn", memory: .init(vit, innerModel: "vit")),
        // The class for pretraining has a decoder with other names.
        ModelFamily("vit_mae", memory: .init(vit, innerModel: "vit", hiddenClasses: ["ViTMAEForPreTraining"])),
        ModelFamily("vivit", memory: .init(vit, innerModel: "vivit")),
        ModelFamily("altclip", memory: .init(altclip, frame: .unknown)),
        ModelFamily("altclip_text_model", memory: .init(altclip)),
        ModelFamily(
            "conditional_detr",
            memory: .init(
                detr + [
                    "sa_qcontent_proj self_attn.q_content_proj", "sa_qpos_proj self_attn.q_pos_proj",
                    "sa_kcontent_proj self_attn.k_content_proj", "sa_kpos_proj self_attn.k_pos_proj",
                    "sa_v_proj self_attn.v_proj", "ca_qcontent_proj encoder_attn.q_content_proj",
                    "ca_qpos_proj encoder_attn.q_pos_proj", "ca_kcontent_proj encoder_attn.k_content_proj",
                    "ca_kpos_proj encoder_attn.k_pos_proj", "ca_v_proj encoder_attn.v_proj",
                    "ca_qpos_sine_proj encoder_attn.q_pos_sine_proj",
                ])),
        ModelFamily(
            "deformable_detr", "detr", "maskformer", "rt_detr", "rt_detr_v2", "table-transformer",
            memory: .init(detr)),
        ModelFamily("pp_doclayout_v2", "pp_doclayout_v3", memory: .init(detr, frame: .unknown)),
        ModelFamily(
            "sapiens2",
            memory: .init(
                [
                    "blocks.# layer.#", "attn.proj attention.o_proj", "attn.wq attention.q_proj",
                    "attn.wk attention.k_proj", "attn.wv attention.v_proj", "ffn.w3 mlp.down_proj",
                ], frame: .unknown)),
        ModelFamily("timesfm2_5", memory: .init(["ff0 fc1", "ff1 fc2"])),
        // Their modules can be merged, but not every name in memory is known.
        ModelFamily(
            "chmv2", "depth_anything", "depth_pro", "dinov3_convnext", "dinov3_vit", "grounding-dino", "mask2former",
            "mm-grounding-dino", "oneformer", "pp_doclayout_v4", "prompt_depth_anything", "radio", "sam3_tracker",
            "sam3_tracker_video", "sam3_video", "tipsv2", "tipsv2_dpt", "tipsv2_vision_model",
            "vision-text-dual-encoder", "zoedepth",
            memory: .unknown),
        ModelFamily("clip", "metaclip_2", "owlv2", "owlvit", "siglip", "siglip2", memory: .kept),
        ModelFamily("flava", memory: .init(frame: .kept, knowsAllModules: false)),
    ]

    static let vit = [
        "encoder.layer layers", "attention.attention.query attention.q_proj",
        "attention.attention.key attention.k_proj", "attention.attention.value attention.v_proj",
        "attention.self.query attention.q_proj", "attention.self.key attention.k_proj",
        "attention.self.value attention.v_proj", "attention.output.dense attention.o_proj",
        "intermediate.dense mlp.fc1", "output.dense mlp.fc2",
    ]

    static let altclip = ["encoder.layer encoder.layers"]

    static let detr = [
        "backbone.conv_encoder backbone", "out_proj o_proj", "layers.#.fc1 layers.#.mlp.fc1",
        "layers.#.fc2 layers.#.mlp.fc2",
    ]
}
