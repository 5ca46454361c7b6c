#!/usr/bin/env python3
"""Converts adapters of PEFT to GGUF, reads the files with the gguf package, and compares what llama.cpp would add with PEFT.

    python adapters_gguf.py --oplora PROGRAM

For each family whose names are known, a small random model and a LoRA of its linear layers, and for some of the embedding and the head.
Names must be those that the gguf package has for the base's tensors; alpha/rank · lora_b·lora_a, computed here as llama.cpp does,
must be the update of the base's tensor as llama.cpp's converter stores it (query and key rows of Llama's family interleaved). Merged by
`oplora merge`, the GGUF file must give the bytes that the PEFT folder gives. A GGUF file written by the gguf package in F16 is merged as
well. One line a case; exits 1 if any fails.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import gguf
import numpy as np
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

import adapters

SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64)
LINEAR = adapters.LINEAR
# Name, model, gguf's family, modules, whether query and key rows are interleaved.
CASES = [
    ("llama", lambda: adapters.llama(), gguf.MODEL_ARCH.LLAMA, LINEAR, True),
    ("llama, embedding and head", lambda: adapters.llama(), gguf.MODEL_ARCH.LLAMA, ["q_proj", "embed_tokens", "lm_head"], True),
    ("mistral", lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZES, head_dim=8)), gguf.MODEL_ARCH.LLAMA, LINEAR, True),
    ("qwen2", lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES)), gguf.MODEL_ARCH.QWEN2, LINEAR, False),
    ("qwen3", lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES, head_dim=8)), gguf.MODEL_ARCH.QWEN3, LINEAR, False),
    ("gemma", lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**SIZES, head_dim=8)), gguf.MODEL_ARCH.GEMMA, LINEAR, False),
    ("gemma2", lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SIZES, head_dim=8)), gguf.MODEL_ARCH.GEMMA2, LINEAR, False),
    ("gemma3", lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**SIZES, head_dim=8)), gguf.MODEL_ARCH.GEMMA3, LINEAR, False),
    ("olmo2", lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**SIZES)), gguf.MODEL_ARCH.OLMO2, LINEAR, False),
    ("phi3", lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**SIZES, pad_token_id=0)), gguf.MODEL_ARCH.PHI3,
     ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], False),
]


def run(oplora, *arguments):
    result = subprocess.run([oplora, *map(str, arguments), "--quiet"], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"oplora {arguments[0]}: {result.stderr.strip()}")


def interleaved(rows, heads):
    """What llama.cpp's converter does to query and key weights."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def heads_of(config, name):
    return config.num_key_value_heads if "k_proj" in name else config.num_attention_heads


def check(oplora, case, folder):
    title, build, architecture, targets, is_interleaved = case
    torch.manual_seed(3)
    build().save_pretrained(folder / "base")
    model = hf.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    config = model.config
    alphas = {"k_proj": 3, "down_proj": 14} if title in ("llama", "phi3") else {}
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=7, target_modules=targets, alpha_pattern=alphas))
    adapters.randomise(peft, torch.Generator().manual_seed(11))
    peft.save_pretrained(folder / "adapter")
    run(oplora, "convert", folder / "adapter", "--to", "gguf", "--base", folder / "base", "--out", folder / "adapter.gguf")
    reader = gguf.GGUFReader(folder / "adapter.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    wanted = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": gguf.MODEL_ARCH_NAMES[architecture]}
    if any(fields.get(key) != value for key, value in wanted.items()):
        return f"metadata {fields}", None
    found = {tensor.name: np.array(tensor.data).reshape(tuple(reversed(tensor.shape))) for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    alpha, error, updates = fields["adapter.lora.alpha"], 0.0, {}
    for name, module in peft.base_model.model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        key = names.get_name(name + ".weight", try_suffixes=(".weight",))
        a, b = found.pop(f"{key}.lora_a"), found.pop(f"{key}.lora_b")
        if "embed_tokens" in name:  # [vocabulary, rank], looked up by token
            update = alpha / a.shape[1] * a.astype(np.float64) @ b.T.astype(np.float64)
        else:
            update = alpha / len(a) * b.astype(np.float64) @ a.astype(np.float64)
        expected = module.get_delta_weight("default").detach().double().numpy()
        if is_interleaved and ("q_proj" in name or "k_proj" in name):
            expected = interleaved(expected, heads_of(config, name))
        if update.shape != expected.shape:
            return f"{key}: {update.shape} instead of {expected.shape}", None
        error = max(error, np.abs(update - expected).max() / np.abs(expected).max())
        updates[key] = (a, b)
    if found:
        return f"left over: {sorted(found)}", None
    # The same in F16 from the package's own writer.
    writer = gguf.GGUFWriter(folder / "written.gguf", gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for key, (a, b) in updates.items():
        writer.add_tensor(f"{key}.lora_a", a.astype(np.float16))
        writer.add_tensor(f"{key}.lora_b", b.astype(np.float16))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    merged = {}
    for name in ("adapter", "adapter.gguf", "written.gguf"):
        out = folder / ("merged-" + name.replace(".", "-"))
        run(oplora, "merge", "--base", folder / "base", "--adapter", folder / name, "--out", out, "--no-fsync")
        run(oplora, "verify", "--base", folder / "base", "--adapter", folder / name, "--merged", out)
        merged[name] = {key: value for path in out.glob("*.safetensors") for key, value in load_file(path).items()}
    same = all(torch.equal(value, merged["adapter.gguf"][key]) for key, value in merged["adapter"].items())
    off = max(((value - merged["written.gguf"][key]).abs().max() / value.abs().max()).item() for key, value in merged["adapter"].items())
    is_right = error < 1e-6 and off < 2e-3 and (same or alphas)
    text = f"{len(updates)} modules, {error:.1e} off; merged {'the same bytes' if same else 'with one alpha'}, from F16 {off:.0e} off"
    return "" if is_right else text, text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    options = parser.parse_args()
    failed = 0
    for case in CASES:
        folder = pathlib.Path(tempfile.mkdtemp())
        try:
            wrong, text = check(options.oplora, case, folder)
        except RuntimeError as error:
            wrong, text = str(error), None
        failed += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '}  GGUF, {case[0]}: {wrong or text}", flush=True)
        shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
