#!/usr/bin/env bash
# The usual target_modules of a LoRA, gate_proj, up_proj and down_proj, mean other layers for each mixture of experts.
#
# Expected: PEFT adapts every module whose name ends with a target. What it does with mixtures that transformers 5 holds as stacks of
# experts: for DeepSeek-V3 the three names become parameters of the routed experts, and the modules that bear these very names, those of the
# dense layers and of the shared experts, are left without an adapter. For Qwen2-MoE it is the other way round: the shared expert is
# adapted and the routed experts, nearly all of the model, are not. Neither says a word. Whoever trains with one list of
# targets trains different parts of the two models.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.24.0 torch==2.13.0
cat >"$work/targets.py" <<'PYTHON'
import re
import warnings

import peft
import transformers as tf

TARGETS = ["gate_proj", "up_proj", "down_proj"]
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
             num_experts_per_tok=2, moe_intermediate_size=16)
MODELS = {
    "DeepSeek-V3": lambda: tf.DeepseekV3ForCausalLM(tf.DeepseekV3Config(
        **SMALL, n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8,
        qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8)),
    "Qwen2-MoE": lambda: tf.Qwen2MoeForCausalLM(tf.Qwen2MoeConfig(**SMALL, num_experts=4, shared_expert_intermediate_size=16)),
}
EXPECTED = {
    "DeepSeek-V3": {"routed experts": True, "shared experts": False, "dense layers": False},
    "Qwen2-MoE": {"routed experts": False, "shared experts": True},
}


def part(name):
    if "shared_expert" in name:
        return "shared experts"
    return "routed experts" if "experts" in name else "dense layers"


def main():
    print(f"peft {peft.__version__}, transformers {tf.__version__}")
    wrong = False
    for title, make in MODELS.items():
        model = make()
        parts = {part(name) for name, _ in model.named_parameters() if re.search(r"(gate|up|down)_proj|gate_up_proj", name)}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM"))
        trained = {part(name) for name, p in adapted.named_parameters() if p.requires_grad}
        found = {name: name in trained for name in sorted(parts)}
        for name, is_adapted in found.items():
            print(f"{title}, {name}: {'adapted' if is_adapted else 'no adapter'}")
        mentions = [str(w.message) for w in said if "shared" in str(w.message) or "dense" in str(w.message)]
        print(f"{title}: warnings that name a part left out: {len(mentions)}")
        wrong = wrong or found != EXPECTED[title] or bool(mentions)
    raise SystemExit("the behavior has changed" if wrong else 0)


main()
PYTHON
HF_HUB_OFFLINE=1 "$work/venv/bin/python" "$work/targets.py"
