#!/usr/bin/env python3
"""Merges adapters that the tools of the field wrote, and compares the merged models with the tools' own base + adapter.

    python adapters.py --oplora PROGRAM [--only WORD] [--markdown]

For each case a small random model is saved by transformers, adapters of one kind are put on it by PEFT, every trained
parameter gets random values, and the adapter is saved. torch computes the outputs of base + adapter in F32. Then `oplora
merge` merges, transformers loads the merged folder, and its outputs must be the same within 1e-5 of the largest; `oplora
verify` must pass it. Then base and adapter are rounded to BF16, and the merge must have no element that is off the definition by
merge_definition.py. One line a case; exits 1 if any fails.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is a local folder

import cases
import torch
import transformers as hf
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers.utils import logging

warnings.filterwarnings("ignore")
logging.set_verbosity_error()
logging.disable_progress_bar()
BOUND = 1e-5
HERE = pathlib.Path(__file__).resolve().parent
VOCABULARY = 96


def llama(**changes):
    fields = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**fields, **changes}))


def gpt2():
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def bert():
    return hf.BertForSequenceClassification(hf.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, num_labels=3))


def bert_model():
    return hf.BertModel(hf.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48))


def classifier():
    return hf.LlamaForSequenceClassification(hf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, num_labels=3))


def resnet():
    return hf.ResNetForImageClassification(hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3))


def vit():
    return hf.ViTForImageClassification(hf.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8, num_labels=3))


def wav2vec2():
    return hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, conv_dim=(16, 16), conv_stride=(4, 4),
        conv_kernel=(8, 8), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, mask_time_prob=0.0))


MOE = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)


def mixtral():
    return hf.MixtralForCausalLM(hf.MixtralConfig(**MOE, intermediate_size=40, num_local_experts=4, num_experts_per_tok=2))


def qwen3_moe():
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
        **MOE, intermediate_size=40, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, head_dim=8, decoder_sparse_step=1))


def gpt_oss():
    return hf.GptOssForCausalLM(hf.GptOssConfig(
        **MOE, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2, head_dim=8, rope_scaling=None, rope_theta=10000.0))


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2 = ["c_attn", "c_proj", "c_fc"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]



def loha(modules, **fields):
    return dict(kind=LoHaConfig, alpha=7, target_modules=modules, **fields)


def lokr(modules, **fields):
    return dict(kind=LoKrConfig, alpha=7, target_modules=modules, **fields)


# Name, model, fields of LoraConfig, or of another class.
CASES = [
    ("LoRA", llama, dict(target_modules=LINEAR)),
    ("rsLoRA", llama, dict(target_modules=LINEAR, use_rslora=True)),
    ("rank and alpha patterns", llama, dict(target_modules=LINEAR, rank_pattern={"q_proj": 3, "layers.1.mlp.up_proj": 6},
                                           alpha_pattern={"^model.layers.0.*": 5, "down_proj": 20})),
    ("DoRA", llama, dict(target_modules=LINEAR, use_dora=True)),
    ("DoRA, rsLoRA", llama, dict(target_modules=LINEAR, use_dora=True, use_rslora=True)),
    ("lora_bias", lambda: llama(attention_bias=True, mlp_bias=True), dict(target_modules=LINEAR, lora_bias=True)),
    ("biases: lora_only", lambda: llama(attention_bias=True), dict(target_modules=["q_proj", "v_proj"], bias="lora_only")),
    ("biases: all", lambda: llama(attention_bias=True, mlp_bias=True), dict(target_modules=["q_proj", "v_proj"], bias="all")),
    ("embedding", llama, dict(target_modules=["embed_tokens", "q_proj"])),
    ("embedding, DoRA", llama, dict(target_modules=["embed_tokens", "q_proj"], use_dora=True)),
    ("head", llama, dict(target_modules=["lm_head", "q_proj"])),
    ("embedding of a tied model", lambda: llama(tie_word_embeddings=True), dict(target_modules=["embed_tokens", "q_proj"])),
    ("head of a tied model", lambda: llama(tie_word_embeddings=True), dict(target_modules=["lm_head", "q_proj"])),
    ("both of a tied model", lambda: llama(tie_word_embeddings=True), dict(target_modules=["embed_tokens", "lm_head", "q_proj"])),
    ("Conv1D", gpt2, dict(target_modules=GPT2, fan_in_fan_out=True)),
    ("Conv1D, DoRA", gpt2, dict(target_modules=GPT2, fan_in_fan_out=True, use_dora=True)),
    ("Conv1D, embedding of a tied model", gpt2, dict(target_modules=["wte", "c_attn"])),
    ("Conv2d", resnet, dict(target_modules=["convolution"])),
    ("Conv2d, DoRA", resnet, dict(target_modules=["convolution"], use_dora=True)),
    ("Conv2d of patches", vit, dict(target_modules=["projection"], use_rslora=True)),
    ("Conv1d", wav2vec2, dict(target_modules=["conv_layers.1.conv", "q_proj"])),
    ("encoder", bert, dict(target_modules=["query", "value", "dense"], task_type="SEQ_CLS")),
    ("inner model", bert_model, dict(target_modules=["query", "value"])),
    ("modules_to_save: classifier", classifier, dict(target_modules=["q_proj"], task_type="SEQ_CLS")),
    ("modules_to_save: head", llama, dict(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    ("modules_to_save: embedding of a tied model", lambda: llama(tie_word_embeddings=True),
     dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    ("modules_to_save: norms", llama, dict(target_modules=["q_proj"], modules_to_save=["input_layernorm"])),
    ("trainable tokens", llama, dict(target_modules=["q_proj"], trainable_token_indices=[5, 2, 90])),
    ("trainable tokens, by module", llama, dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 2], "lm_head": [7]})),
    ("trainable tokens of a tied model", lambda: llama(tie_word_embeddings=True),
     dict(target_modules=["q_proj"], trainable_token_indices=[5, 2, 90])),
    ("target_parameters: Mixtral", mixtral, dict(target_modules=["q_proj"], target_parameters=EXPERTS)),
    ("target_parameters: Qwen3-MoE", qwen3_moe, dict(target_modules=["q_proj"], target_parameters=EXPERTS)),
    ("target_parameters: one of two", qwen3_moe, dict(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"])),
    ("target_parameters: patterns", qwen3_moe, dict(target_modules=[], target_parameters=EXPERTS, use_rslora=True,
                                                     rank_pattern={"experts.down_proj": 2}, alpha_pattern={"experts.gate_up_proj": 3})),
    ("target_parameters: GPT-OSS", gpt_oss, dict(target_modules=["q_proj"], target_parameters=EXPERTS)),
    ("LoHa", llama, loha(LINEAR)),
    ("LoHa, rank and alpha patterns", llama, loha(LINEAR, rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 20})),
    ("LoHa, Conv2d", resnet, loha(["convolution"])),
    ("LoHa, Conv2d with a core", resnet, loha(["convolution"], use_effective_conv2d=True)),
    ("LoHa, Conv1d", wav2vec2, loha(["conv_layers.1.conv", "q_proj"])),
    ("LoHa, modules_to_save", classifier, loha(["q_proj"], task_type="SEQ_CLS")),
    ("LoKr", llama, lokr(LINEAR)),
    ("LoKr, both decomposed", llama, lokr(LINEAR, r=2, decompose_both=True, decompose_factor=8)),
    ("LoKr, both whole", llama, lokr(LINEAR, r=64)),
    ("LoKr, rank and alpha patterns", llama, lokr(LINEAR, rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 20})),
    ("LoKr, Conv2d", resnet, lokr(["convolution"], r=1)),
    ("LoKr, Conv2d with a core", resnet, lokr(["convolution"], r=1, use_effective_conv2d=True)),
    ("another name than default", llama, dict(target_modules=LINEAR)),
    ("grown vocabulary", llama, dict(target_modules=["q_proj"])),
    ("grown vocabulary of a tied model", lambda: llama(tie_word_embeddings=True), dict(target_modules=["q_proj"])),
]


def inputs_of(model):
    generator = torch.Generator().manual_seed(7)
    if isinstance(model, (hf.ResNetForImageClassification, hf.ViTForImageClassification)):
        return dict(pixel_values=torch.randn(2, 3, 32, 32, generator=generator))
    if isinstance(model, hf.Wav2Vec2ForCTC):
        return dict(input_values=torch.randn(2, 800, generator=generator))
    ids = torch.randint(1, VOCABULARY, (2, 24), generator=generator)
    ids[:, :6] = torch.tensor([5, 2, 90, 7, 5, 2])
    return dict(input_ids=ids)


@torch.no_grad()
def outputs_of(model, inputs):
    result = model.eval()(**inputs)
    return (result.logits if hasattr(result, "logits") else result.last_hidden_state).float()


@torch.no_grad()
def randomise(model, generator):
    """Gives every trained parameter values of the size that training gives them."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if "magnitude" in name:
            parameter.mul_(1 + 0.1 * noise)
        elif "lora_" in name:
            parameter.copy_(0.1 * noise)
        elif "hada_" in name or "lokr_" in name:
            parameter.copy_(0.3 * noise)
        else:
            parameter.add_(0.05 * noise)


def make(case, folder):
    """Saves base and adapter; returns inputs and the outputs of base + adapter."""
    name, build, fields = case
    torch.manual_seed(3)
    model = build().float().eval()
    base = folder / "base"
    model.save_pretrained(base)
    kind = type(model)
    model = kind.from_pretrained(base, dtype=torch.float32)
    inputs = inputs_of(model)
    if name.startswith("grown vocabulary"):
        model.resize_token_embeddings(VOCABULARY + 4)
        inputs["input_ids"][:, 8] = VOCABULARY + 1
    adapter_name = "other" if name.startswith("another name") else "default"
    model.name_or_path = str(base)  # where PEFT looks for the size of the base's vocabulary
    fields = {"r": 4, **({} if "kind" in fields else {"lora_alpha": 7}), **fields}
    peft = get_peft_model(model, fields.pop("kind", LoraConfig)(**fields), adapter_name=adapter_name)
    randomise(peft, torch.Generator().manual_seed(11))
    peft.save_pretrained(folder / "adapter")
    return kind, inputs, outputs_of(peft, inputs)


def run(oplora, *arguments):
    return subprocess.run([oplora, *map(str, arguments)], capture_output=True, text=True)


def check_definition(oplora, folder):
    """Merges the same adapter in BF16; returns what is off the definition."""
    for name in ("base", "adapter"):
        shutil.copytree(folder / name, folder / f"{name}-bf16")
        for path in (folder / f"{name}-bf16").rglob("*.safetensors"):
            save_file({key: value.to(torch.bfloat16) if value.is_floating_point() else value for key, value in load_file(path).items()}, path,
                      metadata={"format": "pt"})
    for name, base, adapter in (("F32", "base", "adapter"), ("BF16", "base-bf16", "adapter-bf16")):
        out = folder / f"merged-{name}"
        hashes = []
        for threads in (1, 2):
            shutil.rmtree(out, ignore_errors=True)
            merge = run(oplora, "merge", "--base", folder / base, "--adapter", folder / adapter, "--out", out, "--no-fsync", "--threads", threads)
            if merge.returncode:
                return f"merge of {name}: {merge.stderr.strip()}"
            hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*")) if path.is_file()])
        if hashes[0] != hashes[1]:
            return f"{name}: one thread and two give other bytes"
        result = subprocess.run([sys.executable, HERE / "merge_definition.py", folder / base, folder / adapter, out], capture_output=True, text=True)
        if result.returncode:
            return f"definition, {name}: {(result.stdout + result.stderr).strip()[-300:]}"
    return ""


def check(oplora, case, folder):
    """Returns the relative error and what is wrong."""
    kind, inputs, expected = make(case, folder)
    merge = run(oplora, "merge", "--base", folder / "base", "--adapter", folder / "adapter", "--out", folder / "merged", "--no-fsync", "--quiet")
    if merge.returncode:
        return None, f"merge: {merge.stderr.strip()}"
    if not list((folder / "merged").glob("*.safetensors")):
        return None, "no weights"
    merged, info = kind.from_pretrained(folder / "merged", dtype=torch.float32, output_loading_info=True)
    wrong = [f"{key}: {sorted(info[key])}" for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]]
    if wrong:
        return None, "; ".join(wrong)
    found = outputs_of(merged, inputs)
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    verify = run(oplora, "verify", "--base", folder / "base", "--adapter", folder / "adapter", "--merged", folder / "merged")
    if verify.returncode:
        return error, f"verify: {(verify.stdout + verify.stderr).strip()[:400]}"
    definition = check_definition(oplora, folder)
    if definition:
        return error, definition
    untouched = ((outputs_of(kind.from_pretrained(folder / "base", dtype=torch.float32, ignore_mismatched_sizes=True), inputs_of(merged))
                  - outputs_of(merged, inputs_of(merged))).abs().max()).item() if not case[0].startswith("grown") else 1
    return error, "" if error <= BOUND and untouched > 1e-3 else f"the adapter changes the outputs by {untouched:.3g} only" if error <= BOUND else "outputs differ"


def judge(oplora, folder, case):
    error, wrong = check(oplora, case, folder)
    return f"{error:.1e}", wrong


def main():
    heading = ("PEFT", "outputs of the merged model against base + adapter in torch")
    cases.run(__doc__, heading, [(case[0], (case,)) for case in CASES], judge)


if __name__ == "__main__":
    main()
