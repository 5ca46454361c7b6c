/// Mixtures of experts.
///
/// Only renamings are here. Where transformers stacks, cuts or reorders matrices, a module under its name in memory is
/// refused. A name that means another module in memory than in files is renamed only together with a part of the name
/// that files and memory do not share.
///
/// Source: transformers 5.24, `conversion_mapping.py`. `Tests/interop/families.py` compares with the installed release.
enum MixtureFamilies {
    static let rows: [ModelFamily] = [
        // mlx-lm keeps the names in checkpoints, which transformers has given up.
        ModelFamily("mixtral", "minimax", "minimax_m2", experts: .numbered, mlx: .mixtral),
        ModelFamily(
            "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared",
            memory: .init(
                [
                    "block_sparse_moe.input_linear.weight block_sparse_moe.experts.gate_up_proj",
                    "block_sparse_moe.output_linear.weight block_sparse_moe.experts.down_proj",
                    "block_sparse_moe.router.layer block_sparse_moe.router",
                ], keepsMixtures: true)),
        ModelFamily(
            "phimoe",
            memory: .init(["block_sparse_moe.gate mlp.router"]),
            mlx: .init([.init("mlp.router", "block_sparse_moe.gate")], experts: ["block_sparse_moe", "switch_mlp"])),
        ModelFamily("hy_v3", memory: .init(["mlp.router.gate mlp.gate", "mlp.shared_mlp mlp.shared_experts"])),
        ModelFamily(
            "laguna",
            memory: .init(["mlp.shared_expert mlp.shared_experts"]),
            mlx: .init([.init("mlp.gate", "mlp.gate.proj"), .init("mlp.shared_experts", "mlp.shared_expert")])),
        ModelFamily(
            "axk2",
            memory: .init([
                "W_down mlp.fc1", "W_up mlp.fc2", "self_attn.q_b_proj self_attn.q_gate_proj",
            ])),
        ModelFamily("hy_v4", memory: .init(hyV4)),
        ModelFamily("Klear", mlx: .init(experts: ["mlp", "experts"])),
        ModelFamily("afmoe", experts: .gated, mlx: .init(experts: ["mlp", "experts"])),
        ModelFamily("axk1", memory: .init(knowsAllModules: false)),
        ModelFamily("cohere2_moe", "ernie4_5_moe", "flex_olmo", "hunyuan_v1_moe", "mellum", "olmoe", experts: .gated),
        ModelFamily("dots1", experts: .gated, mlx: .init(MLXNaming.routing, experts: ["mlp", "experts"])),
        ModelFamily("exaone_moe", "solar_open", experts: .gated, mlx: .init(MLXNaming.routing)),
        ModelFamily(
            "gpt_oss",
            experts: .init(.marked, interleavesGate: true), mlx: .init(experts: ["mlp", "experts"])),
        ModelFamily("hunyuan", "mimo_v2_flash", "muse_spark", "step3p5", mlx: .init(MLXNaming.routing)),
        ModelFamily(
            "lfm2_moe",
            mlx: .init([
                .init("feed_forward.w1", "feed_forward.gate_proj"), .init("feed_forward.w2", "feed_forward.down_proj"),
                .init("feed_forward.w3", "feed_forward.up_proj"),
            ])),
    ]

    static let hyV4 = ["linear_gate gate_proj"]
}
