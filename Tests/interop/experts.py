#!/usr/bin/env python3
"""Merges adapters of mixtures of experts as PEFT writes them for the lists of targets that people give.

    python experts.py --oplora PROGRAM [--only WORD] [--keep FOLDER]

PEFT turns the names of an expert's layers, which transformers 5 holds in stacks, into parameters: "gate_proj" and "up_proj"
become the parameter "gate_up_proj", with twice the rank for its two halves, and the router becomes "gate.weight". Which dimension of a stack
has the inputs depends on the family, and where the matrices are square, on nothing else (ORDERS). Each case is merged and compared with base + adapter as in adapters.py, and `oplora verify` must pass the model that PEFT merged, too.

Whoever trained all layers in full has updates that no list of names gives: `oplora extract` must write them so that PEFT loads every one, those
of dense layers and shared experts with the experts' names, too. Whole values of parameters that are no layer's (biases of experts, the router's
corrections), which PEFT has no form for, must come through the layout safetensors.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers as hf
from adapters import MOE, check, gpt_oss, mixtral, qwen3_moe, run
from peft import PeftModel

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = dict(intermediate_size=40, moe_intermediate_size=24, n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1, num_experts_per_tok=2)


def olmoe():
    return hf.OlmoeForCausalLM(hf.OlmoeConfig(**MOE, intermediate_size=40, num_experts=4, num_experts_per_tok=2))


def glm4_moe():
    """The first layer has no experts."""
    return hf.Glm4MoeForCausalLM(hf.Glm4MoeConfig(**MOE, **EXPERTS, head_dim=8, first_k_dense_replace=1))


def deepseek_v3():
    return hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(
        **dict(MOE, num_key_value_heads=4), **EXPERTS, first_k_dense_replace=0, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4,
        v_head_dim=8))


def ernie4_5_moe():
    """The first layer has no experts."""
    return hf.Ernie4_5_MoeForCausalLM(hf.Ernie4_5_MoeConfig(
        **MOE, intermediate_size=40, moe_intermediate_size=24, moe_num_experts=4, moe_num_shared_experts=1, moe_k=2, moe_layer_start_index=1))


def qwen2_moe():
    return hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(
        **MOE, intermediate_size=40, moe_intermediate_size=24, shared_expert_intermediate_size=40, num_experts=4, num_experts_per_tok=2))


def gpt_oss_of(width):
    return lambda: hf.GptOssForCausalLM(hf.GptOssConfig(
        **MOE, intermediate_size=width, num_local_experts=4, num_experts_per_tok=2, head_dim=8, rope_scaling=None, rope_theta=10000.0))


def llama4_of(width):
    return lambda: hf.Llama4ForCausalLM(hf.Llama4TextConfig(
        **MOE, intermediate_size=width, intermediate_size_mlp=width, num_local_experts=4, head_dim=8, attn_temperature_tuning=False, pad_token_id=0))


def aria_of(width):
    return lambda: hf.AriaTextForCausalLM(hf.AriaTextConfig(**MOE, intermediate_size=width, moe_num_experts=4, moe_topk=2, head_dim=8, pad_token_id=0))


def privacy_filter_of(width):
    return lambda: hf.OpenAIPrivacyFilterForTokenClassification(hf.OpenAIPrivacyFilterConfig(
        **MOE, intermediate_size=width, num_local_experts=4, num_experts_per_tok=2, head_dim=8, pad_token_id=0, eos_token_id=1))


def mixtral_of(width):
    return lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**MOE, intermediate_size=width, num_local_experts=4, num_experts_per_tok=2))


# Which of the dimensions are the inputs for PEFT, told by the shape and not: gate and up projections of half the width, and down projections of all of it.
ORDERS = [
    (f"{name}: {width} of 32", family(width), dict(target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"]))
    for name, family in [("GPT-OSS", gpt_oss_of), ("Llama 4", llama4_of), ("Aria", aria_of), ("OpenAI privacy filter", privacy_filter_of),
                         ("Mixtral", mixtral_of)]
    for width in (16, 24, 32)
]

CASES = ORDERS + [
    ("seven names: Qwen3-MoE", qwen3_moe, dict(target_modules=SEVEN)),
    ("seven names: DeepSeek-V3", deepseek_v3, dict(target_modules=SEVEN)),
    ("seven names: GLM-4-MoE", glm4_moe, dict(target_modules=SEVEN)),
    ("seven names: OLMoE", olmoe, dict(target_modules=SEVEN, use_rslora=True)),
    ("Mixtral's own names", mixtral, dict(target_modules=["q_proj", "gate", "w1", "w2", "w3"])),
    ("all-linear: Qwen3-MoE", qwen3_moe, dict(target_modules="all-linear")),
    ("all-linear: DeepSeek-V3", deepseek_v3, dict(target_modules="all-linear")),
    ("all-linear: Mixtral", mixtral, dict(target_modules="all-linear")),
    ("the router alone", mixtral, dict(target_modules=[], target_parameters=["mlp.gate.weight"])),
    ("an expression, and parameters by their bare names", qwen3_moe,
     dict(target_modules=r".*self_attn\.(q|v)_proj", target_parameters=["gate_up_proj", "down_proj", "gate.weight"])),
    ("one stack by its bare name", qwen3_moe, dict(target_modules=["q_proj"], target_parameters=["down_proj"], rank_pattern={r".*\.down_proj": 2})),
    ("bare names: GPT-OSS", gpt_oss, dict(target_modules=["q_proj"], target_parameters=["gate_up_proj", "down_proj", "router.weight"])),
]


def verify_peft(oplora, case, folder):
    """What PEFT merges of the base and adapter in the folder must pass."""
    kind = type(case[1]())
    peft = PeftModel.from_pretrained(kind.from_pretrained(folder / "base", dtype=torch.float32), folder / "adapter")
    peft.merge_and_unload().save_pretrained(folder / "merged-by-peft")
    result = run(oplora, "verify", "--base", folder / "base", "--adapter", folder / "adapter", "--merged", folder / "merged-by-peft")
    return f"verify of PEFT's merge: {(result.stdout + result.stderr).strip()[-400:]}" if result.returncode else ""


def change(name, tensor):
    """An update of rank 2 for every matrix of a layer, and of every expert."""
    if tensor.dim() < 2 or any(word in name for word in ("embed", "lm_head", "bias")):
        return tensor
    generator = torch.Generator().manual_seed(sum(name.encode()))
    *many, rows, columns = tensor.shape
    b, a = (torch.randn(*many, *shape, generator=generator) for shape in [(rows, 2), (2, columns)])
    return tensor + 0.02 * b @ a


def check_extraction(oplora, family, folder):
    """What PEFT makes of the adapter that is the difference of two models of a family."""
    base = family().float()
    base.save_pretrained(folder / "base")
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            parameter.copy_(change(name, parameter))
    base.save_pretrained(folder / "tuned")
    result = run(oplora, "extract", "--base", folder / "base", "--tuned", folder / "tuned", "--rank", "2", "--layout", "peft", "--out", folder / "adapter")
    if result.returncode:
        return f"extract: {result.stderr.strip()[-400:]}"
    peft = PeftModel.from_pretrained(type(base).from_pretrained(folder / "base", dtype=torch.float32), folder / "adapter")
    tuned, merged = base.state_dict(), peft.merge_and_unload().state_dict()
    original = type(base).from_pretrained(folder / "base", dtype=torch.float32).state_dict()
    for name, wanted in tuned.items():
        size, error = (wanted - original[name]).norm(), (merged[name] - wanted).norm()
        if error > 1e-3 * size:
            return f"{name}: PEFT's update is off by {error / max(size, 1e-30):.1e} of it"
    return ""


def check_whole_parameters(oplora, family, folder):
    """A model of which everything has changed, from the base and the file that is the difference of the two."""
    base = family().float()
    base.save_pretrained(folder / "base")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*base.named_parameters(), *((n, b) for n, b in base.named_buffers() if "correction_bias" in n)]:
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator))
    base.save_pretrained(folder / "tuned")
    file, back = folder / "adapter.safetensors", folder / "back.safetensors"
    models = ["--base", folder / "base", "--tuned", folder / "tuned"]
    for arguments in (
            ["extract", *models, "--rank", "64", "--layout", "safetensors", "--out", file],
            ["convert", file, "--to", "safetensors", "--out", back],
            ["merge", "--base", folder / "base", "--adapter", back, "--out", folder / "merged"],
            ["verify", "--base", folder / "base", "--adapter", file, "--merged", folder / "merged"]):
        result = run(oplora, *arguments)
        if result.returncode:
            return f"{arguments[0]}: {result.stderr.strip()[-400:]}"
    for arguments in (["extract", *models, "--rank", "64", "--layout", "peft"], ["convert", file, "--to", "peft", "--base", folder / "base"]):
        refused = run(oplora, *arguments, "--out", folder / "peft")
        if not refused.returncode or "PEFT has no form for whole values of a parameter" not in refused.stderr:
            return f"{arguments[0]} for PEFT ({refused.returncode}): {refused.stderr.strip()[-400:]}"
    merged = type(base).from_pretrained(folder / "merged", dtype=torch.float32).state_dict()
    for name, wanted in base.state_dict().items():
        if (merged[name] - wanted).abs().max() > 1e-5 * wanted.abs().max():
            return f"{name}: the merged model is off by {(merged[name] - wanted).abs().max():.1e}"
    return ""


WHOLE_PARAMETERS = [("GPT-OSS", gpt_oss), ("DeepSeek-V3", deepseek_v3), ("GLM-4-MoE", glm4_moe)]
EXTRACTIONS = [("GLM-4-MoE", glm4_moe), ("DeepSeek-V3", deepseek_v3), ("Ernie 4.5 MoE", ernie4_5_moe), ("Qwen2-MoE", qwen2_moe), ("Mixtral", mixtral)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=pathlib.Path)
    options = parser.parse_args()
    failed = 0
    for case in CASES:
        if options.only.lower() not in case[0].lower():
            continue
        folder = pathlib.Path(tempfile.mkdtemp(dir=options.keep))
        error, wrong = check(options.oplora, case, folder)
        wrong = wrong or verify_peft(options.oplora, case, folder)
        failed += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '}  {case[0]}: {wrong or f'{error:.1e}'}", flush=True)
        if not options.keep:
            shutil.rmtree(folder)
        elif wrong:
            print(f"      {folder}")
    extractions = [(f"extraction: {title}", family, check_extraction) for title, family in EXTRACTIONS]
    extractions += [(f"extraction of everything: {title}", family, check_whole_parameters) for title, family in WHOLE_PARAMETERS]
    for title, family, check_one in extractions:
        if options.only.lower() not in title.lower():
            continue
        folder = pathlib.Path(tempfile.mkdtemp(dir=options.keep))
        wrong = check_one(options.oplora, family, folder)
        failed += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '}  {title}: {wrong or 'every layer'}", flush=True)
        if not options.keep:
            shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
