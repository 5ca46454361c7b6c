#!/usr/bin/env python3
"""Merges adapters that mlx-lm wrote, and compares the merged weights with those that mlx-lm fuses.

    python adapters_mlx.py --oplora PROGRAM

Small random models (Llama, and Qwen3-MoE with a tensor for each expert) are written as Hugging Face checkpoints, mlx-lm loads
them, puts its LoRA or DoRA layers on them, and saves the adapter as its trainer does. Its fused weights, in F32, must be those
of `oplora merge` within 1e-6 of the largest; `oplora verify` must pass the merge. Converted to PEFT and back to mlx-lm's
layout, the adapter is loaded by mlx-lm and must fuse to the same weights. One line a case; exits 1 if any fails. Needs the
packages of requirements-mlx.txt.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model
from safetensors.numpy import load_file, save_file

HIDDEN, INNER, VOCABULARY, LAYERS, EXPERTS = 32, 48, 96, 2, 4
COMMON = dict(hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCABULARY,
              rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=64, tie_word_embeddings=False, head_dim=8)
LLAMA = dict(COMMON, model_type="llama", architectures=["LlamaForCausalLM"])
TIED = dict(LLAMA, tie_word_embeddings=True)
MOE = dict(COMMON, model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"], num_experts=EXPERTS, num_experts_per_tok=2, decoder_sparse_step=1,
           mlp_only_layers=[], moe_intermediate_size=24, norm_topk_prob=True)
ATTENTION = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
SWITCH = ["mlp.switch_mlp.gate_proj", "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"]

# Name, configuration, whether DoRA, keys, layers counted from the end.
CASES = [
    ("LoRA", LLAMA, False, ATTENTION + MLP, LAYERS),
    ("LoRA on the last layer", LLAMA, False, ATTENTION, 1),
    ("LoRA of embedding and head", LLAMA, False, ATTENTION + ["model.embed_tokens", "lm_head"], LAYERS),
    ("LoRA of the embedding of a tied model", TIED, False, ATTENTION + ["model.embed_tokens"], LAYERS),
    ("DoRA", LLAMA, True, ATTENTION + MLP, LAYERS),
    ("LoRA of experts", MOE, False, ATTENTION + SWITCH, LAYERS),
]


def write_base(folder, configuration):
    generator = np.random.default_rng(1)
    tensors = {}

    def add(name, *shape):
        tensors[name] = (generator.standard_normal(shape) * 0.1).astype(np.float32)

    add("model.embed_tokens.weight", VOCABULARY, HIDDEN)
    if configuration is not TIED:
        add("lm_head.weight", VOCABULARY, HIDDEN)
    add("model.norm.weight", HIDDEN)
    for layer in range(LAYERS):
        path = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            add(path + norm + ".weight", HIDDEN)
        for name, rows, columns in (("q_proj", 32, HIDDEN), ("k_proj", 16, HIDDEN), ("v_proj", 16, HIDDEN), ("o_proj", HIDDEN, 32)):
            add(f"{path}self_attn.{name}.weight", rows, columns)
        if configuration is MOE:
            for name in ("q_norm", "k_norm"):
                add(f"{path}self_attn.{name}.weight", 8)
            add(path + "mlp.gate.weight", EXPERTS, HIDDEN)
        inner = configuration.get("moe_intermediate_size", INNER)
        for owner in [f"mlp.experts.{expert}" for expert in range(EXPERTS)] if configuration is MOE else ["mlp"]:
            add(f"{path}{owner}.gate_proj.weight", inner, HIDDEN)
            add(f"{path}{owner}.up_proj.weight", inner, HIDDEN)
            add(f"{path}{owner}.down_proj.weight", HIDDEN, inner)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(configuration))


def fused_weights(model):
    """The weights of the fused model under the names of the checkpoint."""
    fused = [(name, module.fuse()) for name, module in model.named_modules() if hasattr(module, "fuse")]
    model.update_modules(tree_unflatten(fused))
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        array = np.array(value.astype(mx.float32))
        if ".switch_mlp." in name:
            for expert, matrix in enumerate(array):
                weights[name.replace("switch_mlp", f"experts.{expert}")] = matrix
        else:
            weights[name] = array
    return weights, len(fused)


def check(oplora, case, folder):
    name, configuration, uses_dora, keys, layers = case
    write_base(folder / "base", configuration)
    model, _ = load_model(folder / "base")
    model.freeze()
    parameters = {"rank": 4, "scale": 2.5, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, layers, parameters, use_dora=uses_dora)
    generator = np.random.default_rng(2)
    trained = [(key, value) for key, value in tree_flatten(model.trainable_parameters())]
    model.update(tree_unflatten([
        (key, value * mx.array(1 + 0.1 * generator.standard_normal(value.shape).astype(np.float32)) if key.endswith(".m")
         else mx.array(0.1 * generator.standard_normal(value.shape).astype(np.float32))) for key, value in trained]))
    (folder / "adapter").mkdir()
    mx.save_safetensors(str(folder / "adapter" / "adapters.safetensors"), dict(tree_flatten(model.trainable_parameters())))
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(
        {"fine_tune_type": "dora" if uses_dora else "lora", "num_layers": layers, "lora_parameters": parameters, "model": "base"}))

    def run(*arguments):
        return subprocess.run([oplora, *map(str, arguments)], capture_output=True, text=True)

    paths = ["--base", folder / "base", "--adapter", folder / "adapter"]
    merge = run("merge", *paths, "--out", folder / "merged", "--no-fsync", "--quiet")
    if merge.returncode:
        return f"merge: {merge.stderr.strip()}", None
    verify = run("verify", *paths, "--merged", folder / "merged")
    if verify.returncode:
        return f"verify: {(verify.stdout + verify.stderr).strip()[:300]}", None
    merged, base = load_file(folder / "merged" / "model.safetensors"), load_file(folder / "base" / "model.safetensors")
    expected, count = fused_weights(model)
    if set(expected) != set(merged):
        return f"other tensors: {sorted(set(expected) ^ set(merged))[:5]}", None
    error = max(float(np.abs(merged[key] - expected[key]).max() / np.abs(expected[key]).max()) for key in merged)
    changed = sum(not np.array_equal(merged[key], base[key]) for key in merged)
    if error > 1e-6 or not changed or not count:
        return f"off by {error:.1e}, {changed} tensors changed", None
    for source, layout, target in (("adapter", "peft", "peft"), ("peft", "mlx", "back")):
        convert = run("convert", folder / source, "--to", layout, "--base", folder / "base", "--out", folder / target, "--quiet")
        if convert.returncode:
            return f"convert to {layout}: {convert.stderr.strip()}", None
    loaded, _ = load_model(folder / "base")
    returned, _ = fused_weights(load_adapters(loaded, str(folder / "back")))
    off = max(float(np.abs(returned[key] - expected[key]).max() / np.abs(expected[key]).max()) for key in expected)
    if off > 1e-6:
        return f"what was converted is off by {off:.1e}", None
    return "", f"{error:.1e}, {changed} tensors; converted to PEFT and back {off:.1e}"


def check_wrapped(oplora, folder):
    """PEFT's adapter of a model of text and pictures, whose language model mlx-lm has under another name."""
    text = dict(COMMON, model_type="qwen3_vl_text", head_dim=8, rope_scaling={"mrope_section": [1, 1, 2], "rope_type": "default"})
    write_base(folder / "base", LLAMA)
    path = folder / "base" / "model.safetensors"
    generator = np.random.default_rng(3)
    tensors = {name.replace("model.", "model.language_model.", 1): value for name, value in load_file(path).items()}
    tensors |= {f"model.language_model.layers.{layer}.self_attn.{name}.weight": np.ones(8, np.float32) for layer in range(LAYERS) for name in ("q_norm", "k_norm")}
    save_file(tensors, path, metadata={"format": "pt"})
    (folder / "base" / "config.json").write_text(json.dumps(
        {"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"], "tie_word_embeddings": False, "text_config": text}))
    modules = [f"model.language_model.layers.{layer}.self_attn.q_proj" for layer in range(LAYERS)]
    (folder / "adapter").mkdir()
    save_file({f"base_model.model.{module}.lora_{factor}.weight": (0.1 * generator.standard_normal(shape)).astype(np.float32)
               for module in modules for factor, shape in (("A", (4, HIDDEN)), ("B", (32, 4)))}, folder / "adapter" / "adapter_model.safetensors")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}))
    for command in (["merge", "--base", folder / "base", "--adapter", folder / "adapter", "--out", folder / "merged", "--no-fsync", "--quiet"],
                    ["convert", folder / "adapter", "--to", "mlx", "--base", folder / "base", "--out", folder / "mlx", "--quiet"]):
        run = subprocess.run([oplora, *map(str, command)], capture_output=True, text=True)
        if run.returncode:
            return run.stderr.strip(), None
    loaded, _ = load_model(folder / "base")
    fused, count = fused_weights(load_adapters(loaded, str(folder / "mlx")))
    merged = load_file(folder / "merged" / "model.safetensors")
    error = max(float(np.abs(merged[f"{module}.weight"] - fused[module.replace("model.language_model", "language_model.model") + ".weight"]).max())
                for module in modules)
    return ("" if error < 1e-6 and count == len(modules) else f"off by {error:.1e}, {count} modules"), f"{error:.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    options = parser.parse_args()
    failed = 0
    for case in CASES:
        folder = pathlib.Path(tempfile.mkdtemp())
        wrong, text = check(options.oplora, case, folder)
        failed += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '}  mlx-lm, {case[0]}: {wrong or text}", flush=True)
        shutil.rmtree(folder)
    folder = pathlib.Path(tempfile.mkdtemp())
    wrong, text = check_wrapped(options.oplora, folder)
    failed += bool(wrong)
    print(f"{'FAIL' if wrong else 'ok  '}  mlx-lm, a model of text and pictures: {wrong or text}", flush=True)
    shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
